"""What a run survives: faults at random steps, after which the run is resumed and compared with one without faults.

Examples:
    python -m benchmarks faults                        # every fault once; about half an hour on two cores
    python -m benchmarks faults --times 5 --seed 1     # at other steps
    python -m benchmarks faults --only "a bit of the newest checkpoint"
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.fault_kinds import FAULTS, STEPS, FaultyRun
from benchmarks.faulty_runs import LAST, fit, steps_begun, write_config
from benchmarks.publish import around_markers, machine, replace_between
from mobilemamba.environment import environment
from mobilemamba.errors import UserError, require
from mobilemamba.files import write_json, write_text
from mobilemamba.tables import table


@dataclass(frozen=True)
class Outcome:
    """Result of one fault.

    Args:
        fault: Its name.
        place: Where it happened.
        status: Exit status of the run with the fault.
        problem: Why it was not survived: a wrong exit status or a different final checkpoint. "": it was survived.
        repeated: Optimiser steps done twice, since no checkpoint held them.
    """

    fault: str
    place: str
    status: int
    problem: str
    repeated: int


def faults(
    times: int = 1,
    seed: int = 0,
    only: str | None = None,
    output: Path = Path("runs/faults"),
    document: Path | None = None,
) -> list[Outcome]:
    """Cause faults in small runs of the real command, and see what is lost.

    Args:
        times: Trials of each fault, at different steps.
        seed: Seed of the steps. Times in seconds depend on the machine, too.
        only: Part of the names of the faults to try. Null: all.
        output: Folder for faults.md and faults.json.
        document: Markdown file with a place for the table, such as docs/reliability.md.

    Raises:
        UserError: When no fault has such a name, or the document lacks the markers.
    """
    require(times > 0, "--times", times, "1 or more")
    chosen = {name: fault for name, fault in FAULTS.items() if only is None or only in name}
    if not chosen:
        raise UserError(f"--only = {only!r} must be part of one of {', '.join(FAULTS)}.")
    if document is not None:
        around_markers(document, "faults")  # fails before the work
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        references = {count: _run_without_faults(Path(place) / f"whole_{count}", count) for count in (1, 2)}
        trials = [(name, fault, number) for name, fault in chosen.items() for number in range(times)]
        for name, fault, number in track(trials, "faults", console=Console(stderr=True), transient=True):
            folder = Path(place) / "run"
            folder.mkdir()
            reference = references[2 if name.startswith("two pro") else 1]
            try:
                where, status, problem = fault(FaultyRun(folder, random.Random(f"{seed} {name} {number}"), reference))
            except subprocess.TimeoutExpired:
                where, status, problem = "?", -9, "hung for five minutes"
            repeated = max(steps_begun(folder) - STEPS, 0)
            outcomes.append(Outcome(name, where, status, problem, repeated))
            shutil.rmtree(folder)
    write_json(
        output / "faults.json",
        {"environment": environment(torch.device("cpu")), "seed": seed, "outcomes": [asdict(one) for one in outcomes]},
    )
    text = as_table(outcomes)
    write_text(output / "faults.md", text + "\n")
    print(text)
    if document is not None:
        about = f"{machine(torch.device('cpu'))}, `python -m benchmarks faults --times {times} --seed {seed}`"
        replace_between(document, "faults", f"{about}\n\n{text}")
    for one in outcomes:
        if one.problem:
            print(f"NOT SURVIVED: {one.fault}, {one.place}: {one.problem}")
    return outcomes


def as_table(outcomes: list[Outcome]) -> str:
    """Return each fault with its exit statuses, how often it was survived, and the most steps done twice."""
    rows = []
    for name in dict.fromkeys(one.fault for one in outcomes):
        same = [one for one in outcomes if one.fault == name]
        statuses = ", ".join(str(status) for status in sorted({one.status for one in same}))
        survived = sum(not one.problem for one in same)
        rows.append([name, statuses, f"{survived} of {len(same)}", str(max(one.repeated for one in same))])
    return table(["fault", "exit status", "survived", "steps done twice, at most"], rows)


def _run_without_faults(folder: Path, processes: int) -> Path:
    """Return the last checkpoint of a run without faults."""
    folder.mkdir()
    split = ["--trainer.devices=2", "--data.batch_size=4"] if processes == 2 else []
    status, output = fit(folder, "--config", str(write_config(folder)), *split)
    if status != 0:
        raise UserError(f"The run without faults ended with {status}: {output[-500:]}")
    return folder / LAST
