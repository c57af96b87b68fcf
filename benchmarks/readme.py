"""Every figure of the README's sections on speed and formats, measured and written in one go.

Times a forward pass of S6 and of other light networks in every form, batches of all variants, a training step, and
every export format. Writes the tables between the markers in README.md, docs/performance.md and benchmarks/README.md,
the picture docs/images/throughput.png, and the numbers as JSON to benchmarks/results. Formats whose extra is not
installed are left out of the times and listed as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import PositiveInt

from benchmarks import formats
from benchmarks.accuracy import PEERS, PUBLISHED_RATES, published
from benchmarks.forms import CPU, Form, set_threads
from benchmarks.measurement import Measurement, measure
from benchmarks.networks import build
from benchmarks.picture import draw
from benchmarks.publish import RESULTS, around_markers, machine, replace_between, write_results
from lightning_modules.figures import write_figure
from mobilemamba.errors import UserError
from mobilemamba.export import check_installed
from mobilemamba.tables import table
from mobilemamba.variants import VARIANTS

OURS, REFERENCE = "mobilemamba_s6", "shvit_s3"
NETWORKS = (OURS, *PEERS)
TRAINED = (OURS, "efficientvim_m3", REFERENCE)

FORMS: dict[Form, str] = {"eager": "eager", "fused": "fused", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
"""Forms of the README, by what it calls them."""

TRAINING_BATCH_SIZE = 16

BATCHED = (*VARIANTS, *PEERS)
BATCH_SIZES = (1, 16, 64)

README, FORMATS_README, DOCUMENT = Path("README.md"), Path("benchmarks/README.md"), Path("docs/performance.md")
PICTURE = Path("docs/images/throughput.png")
PLACES = (
    *((README, name) for name in ("latency", "training", "support")),
    (FORMATS_README, formats.MARKERS),
    (DOCUMENT, "throughput"),
)


def readme(
    threads: PositiveInt = 2,
    rounds: PositiveInt = 20,
    repeats: PositiveInt = 3,
    batch_rounds: PositiveInt = 5,
    training_rounds: PositiveInt = 4,
) -> None:
    """Measure every figure of the README's sections on speed and formats, and write it.

    Args:
        threads: CPU threads of every runtime.
        rounds: Timed rounds.
        repeats: Calls of each form in a round.
        batch_rounds: Timed batches of each size.
        training_rounds: Timed training steps.
    """
    for path, name in PLACES:
        around_markers(path, name)  # fails now rather than after the work
    set_threads(threads)
    forms = [form for form in FORMS if _is_installed(form)]
    results = _measure("latency", NETWORKS, [(form, 1) for form in forms], rounds, repeats)
    heading = f"{machine(CPU)}, batch 1, float32"
    calls = f"minimum of {rounds * repeats} calls, all in turn in one process. Forms other than eager are fused."
    replace_between(README, "latency", f"{heading}; milliseconds, {calls}\n\n{latency_table(results)}")

    results = _measure("throughput", BATCHED, [("fused", size) for size in BATCH_SIZES], batch_rounds, 1)
    heading = f"{machine(CPU)}, PyTorch, fused, float32"
    sizes = {one.network: one.image_size for one in results}
    reported = {(name, sizes[name]): float(rate) for name, rate in PUBLISHED_RATES.items()}
    write_figure(draw(results, heading, {"papers' figures, on their authors' GPUs": reported}), PICTURE)
    about = f"{heading}; images/s from the shortest of {batch_rounds} calls, all in turn in one process."
    replace_between(DOCUMENT, "throughput", f"{about}\n\n{throughput_table(results)}")

    results = _measure("training_step", TRAINED, [("training", TRAINING_BATCH_SIZE)], training_rounds, 1)
    steps = f"{TRAINING_BATCH_SIZE} images a step, float32; minimum of {training_rounds} steps."
    replace_between(README, "training", f"{machine(CPU)}, {steps}\n\n{training_table(results)}")

    supports = formats.formats(threads=threads, rounds=rounds, repeats=repeats, document=FORMATS_README)
    ours = [one for one in supports if one.network == OURS]
    replace_between(README, "support", formats.support_table(ours))


def latency_table(results: Sequence[Measurement]) -> str:
    """Return a table with one row for each network and one column of milliseconds for each form, then the ratio."""
    forms = list(dict.fromkeys(result.form for result in results))
    by_name = {result.network: result for result in results}
    times = {(result.network, result.form): result for result in results}
    rows = []
    for name, one in by_name.items():
        accuracies = ("-" if top1 is None else f"{top1:.1f}" for top1 in published(name, one.image_size))
        costs = (f"{one.parameters / 1e6:.1f}", f"{one.macs / 1e9:.2f}")
        milliseconds = (f"{times[name, form].timing.minimum:.1f}" for form in forms)
        rows.append((name, str(one.image_size[0]), *accuracies, *costs, *milliseconds))
    ratios = (f"{times[OURS, form].ratio_of_minima:.2f}" for form in forms)
    rows.append((f"{OURS} / {REFERENCE}", *[""] * 5, *ratios))
    header = ("network", "pixels", "top-1", "distilled", "M parameters", "GMACs", *(FORMS[form] for form in forms))
    return table(header, rows)


def throughput_table(results: Sequence[Measurement]) -> str:
    """Return a table with one row for each network and one column of images/s for each batch size."""
    sizes = list(dict.fromkeys(result.batch_size for result in results))
    by_name = {result.network: result for result in results}
    rates = {(result.network, result.batch_size): result.images_per_second for result in results}
    rows = []
    for name, one in by_name.items():
        accuracies = ("-" if top1 is None else f"{top1:.1f}" for top1 in published(name, one.image_size))
        costs = (f"{one.parameters / 1e6:.1f}", f"{one.macs / 1e9:.2f}")
        measured = (f"{rates[name, size]:.1f}" for size in sizes)
        rows.append((name, str(one.image_size[0]), *accuracies, *costs, *measured, str(PUBLISHED_RATES.get(name, "-"))))
    header = ("network", "pixels", "top-1", "distilled", "M parameters", "GMACs", *(f"batch {size}" for size in sizes))
    header = (*header, "paper, its GPU")
    return table(header, rows)


def training_table(steps: Sequence[Measurement]) -> str:
    """Return a table with one row for each network, then the ratio of the first to the reference."""
    rows = [(step.network, f"{step.megabytes_per_image:.1f}", f"{step.timing.minimum:.0f}") for step in steps]
    ours = next(step for step in steps if step.network == OURS)
    rows.append((f"{OURS} / {REFERENCE}", f"{ours.memory_ratio:.2f}", f"{ours.ratio_of_minima:.2f}"))
    return table(("network", "activations, MB per image", "ms per step"), rows)


def _measure(
    name: str, networks: Sequence[str], kinds: Sequence[tuple[Form, int]], rounds: int, repeats: int
) -> list[Measurement]:
    """Measure networks and write the results' JSON file."""
    results = measure([build(network, CPU) for network in networks], kinds, REFERENCE, rounds, repeats, CPU, warmup=2)
    settings = {"rounds": rounds, "repeats": repeats}
    write_results(RESULTS / f"{name}.json", CPU, results, settings=settings, reference=REFERENCE)
    return results


def _is_installed(form: Form) -> bool:
    try:
        if form == "openvino":  # the others need no extra
            check_installed(form)
    except UserError as error:
        print(f"Left out of the times: {error}")
        return False
    return True
