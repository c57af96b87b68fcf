"""The arms of a study as a table, for a look before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.studies.plan import Plan, PlannedArm, options
from experiments.studies.runs import Run
from mobilemamba.tables import table


def overview(plan: Plan, runs: Sequence[Run]) -> str:
    """Return a table of all arms, and how many runs there are.

    Args:
        plan: The study.
        runs: Those that were asked for.
    """
    header = ["arm", "group", "parameters", "image", "epochs", "differs from the base by"]
    rows = [_row(planned, plan.study.compare_with) for planned in plan.arms]
    finished = sum(run.is_finished() for run in runs)
    seeds = ", ".join(map(str, plan.study.seeds))
    return (
        f"{table(header, rows)}\n\n* is the arm that the others are compared with. Seeds {seeds}. "
        f"{len(runs)} runs, of which {finished} are finished."
    )


def _row(planned: PlannedArm, compare_with: str) -> list[str]:
    layer = planned.arm.layer
    changes = [path.name for path in layer.configs] + [option.removeprefix("--") for option in options(layer.overrides)]
    return [
        f"{planned.name}{' *' if planned.name == compare_with else ''}",
        planned.arm.group,
        f"{planned.parameters:,}",
        "x".join(map(str, planned.image_size)),
        str(planned.config["trainer"]["max_epochs"]),
        " ".join(changes),
    ]
