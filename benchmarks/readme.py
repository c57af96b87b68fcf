"""Every figure of the README's sections on speed and formats, measured and written in one go.

::

    make benchmark                            # or
    python -m benchmarks readme --threads 2

Times a forward pass of S6 and of other light networks in every form, a training step, and every export format. Writes
the tables between the markers in README.md and benchmarks/README.md, the picture docs/images/latency.png, and the
numbers as JSON to benchmarks/results. Formats whose extra is not installed are left out of the times and listed as
such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from benchmarks import formats, latency, training_step
from benchmarks.accuracy import PEERS, published
from benchmarks.forms import CPU, Form, set_threads
from benchmarks.latency import Latency
from benchmarks.networks import build
from benchmarks.picture import draw
from benchmarks.publish import RESULTS, around_markers, replace_between, write_results
from benchmarks.training_step import TrainingStep
from lightning_modules.figures import write_figure
from mobilemamba.environment import device_name
from mobilemamba.errors import UserError
from mobilemamba.export import check_installed
from mobilemamba.tables import table

OURS, REFERENCE = "mobilemamba_s6", "shvit_s3"
NETWORKS = (OURS, *PEERS)
TRAINED = (OURS, "efficientvim_m3", REFERENCE)

FORMS: dict[Form, str] = {"eager": "eager", "fused": "fused", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
"""Forms of the README, by what it calls them."""

TRAINING_BATCH_SIZE = 16

README, FORMATS_README = Path("README.md"), Path("benchmarks/README.md")
PICTURE = Path("docs/images/latency.png")
PLACES = (*((README, name) for name in ("latency", "training", "support")), (FORMATS_README, formats.MARKERS))


def readme(
    threads: PositiveInt = 2, rounds: PositiveInt = 20, repeats: PositiveInt = 3, training_rounds: PositiveInt = 4
) -> None:
    """Measure every figure of the README's sections on speed and formats, and write it.

    Args:
        threads: CPU threads of every runtime.
        rounds: Timed rounds.
        repeats: Calls of each form in a round.
        training_rounds: Timed training steps.
    """
    for path, name in PLACES:
        around_markers(path, name)  # fails now rather than after the work
    set_threads(threads)
    machine = f"{device_name(CPU)}, threads: {threads}"
    _measure_latency(machine, rounds, repeats)
    _measure_training(machine, training_rounds)
    supports = formats.formats(threads=threads, rounds=rounds, repeats=repeats, document=FORMATS_README)
    replace_between(README, "support", formats.support_table([one for one in supports if one.network == OURS]))


def latency_table(latencies: Sequence[Latency]) -> str:
    """Return a table with one row for each network and one column of milliseconds for each form, then the ratio."""
    forms = list(dict.fromkeys(result.form for result in latencies))
    times = {(result.network, result.form): result for result in latencies}
    rows = []
    for name in dict.fromkeys(result.network for result in latencies):
        one = times[name, forms[0]]
        figures = published(name, one.image_size)
        both = (figures.top1, figures.top1_distilled) if figures else (None, None)
        accuracies = ("-" if figure is None else f"{figure:.1f}" for figure in both)
        costs = (f"{one.parameters / 1e6:.1f}", f"{one.macs / 1e9:.2f}")
        milliseconds = (f"{times[name, form].timing.minimum:.1f}" for form in forms)
        rows.append((name, str(one.image_size[0]), *accuracies, *costs, *milliseconds))
    ratios = (f"{times[OURS, form].ratio_of_minima:.2f}" for form in forms)
    rows.append((f"{OURS} / {REFERENCE}", *[""] * 5, *ratios))
    header = ("network", "pixels", "top-1", "distilled", "M parameters", "GMACs", *(FORMS[form] for form in forms))
    return table(header, rows)


def training_table(steps: Sequence[TrainingStep]) -> str:
    """Return a table with one row for each network, then the ratio of the first to the reference."""
    rows = [(step.network, f"{step.megabytes_per_image:.1f}", f"{step.timing.minimum:.0f}") for step in steps]
    ours = next(step for step in steps if step.network == OURS)
    rows.append((f"{OURS} / {REFERENCE}", f"{ours.memory_ratio:.2f}", f"{ours.ratio_of_minima:.2f}"))
    return table(("network", "activations, MB per image", "ms per step"), rows)


def _measure_latency(machine: str, rounds: int, repeats: int) -> None:
    forms = [form for form in FORMS if _is_installed(form)]
    candidates = [build(name, CPU) for name in NETWORKS]
    settings: dict[str, Any] = {"batch_sizes": [1], "rounds": rounds, "repeats": repeats, "warmup": 2}
    latencies = latency.measure(candidates, forms, REFERENCE, device=CPU, **settings)
    heading = f"{machine}, batch 1, float32"
    text = (
        f"{heading}; milliseconds, minimum of {rounds * repeats} calls, all in turn in one process. "
        f"Forms other than eager are fused.\n\n{latency_table(latencies)}"
    )
    _write("latency", settings, latencies)
    write_figure(draw([result for result in latencies if result.form != "fused"], heading), PICTURE)
    replace_between(README, "latency", text)


def _measure_training(machine: str, rounds: int) -> None:
    settings: dict[str, Any] = {"batch_sizes": [TRAINING_BATCH_SIZE], "rounds": rounds}
    candidates = [build(name, CPU) for name in TRAINED]
    steps = training_step.measure(candidates, REFERENCE, device=CPU, autocast=False, **settings)
    heading = f"{machine}, {TRAINING_BATCH_SIZE} images a step, float32; minimum of {rounds} steps."
    _write("training_step", settings, steps)
    replace_between(README, "training", f"{heading}\n\n{training_table(steps)}")


def _is_installed(form: Form) -> bool:
    try:
        if form == "openvino":  # the others need no extra
            check_installed(form)
    except UserError as error:
        print(f"Left out of the times: {error}")
        return False
    return True


def _write(name: str, settings: dict[str, Any], results: Sequence[Latency | TrainingStep]) -> None:
    content = [asdict(result) for result in results]
    write_results(RESULTS / f"{name}.json", CPU, settings=settings, reference=REFERENCE, results=content)
