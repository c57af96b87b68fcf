"""What the kernels for CPUs give: a MobileMamba with them and in plain operators, beside another network, all in turn.

::

    python -m benchmarks kernels --threads 2

Times a single image, a batch and a training step, and counts what autograd keeps for the backward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from jsonargparse.typing import PositiveInt

from benchmarks.forms import CPU, set_threads
from benchmarks.networks import Candidate, build, fused, inference_call
from benchmarks.publish import RESULTS, around_markers, replace_between, write_results
from benchmarks.training_step import saved_bytes, step_call
from mobilemamba import dispatch
from mobilemamba.environment import device_name, threads_in_words
from mobilemamba.errors import UserError
from mobilemamba.export.timing import Timing, interleaved
from mobilemamba.tables import table

MARKERS = "cpu_kernels"

T = TypeVar("T")

REPEATS = 3
"""Calls of one form in a row: the first finds its weights elsewhere than in the cache."""

FORMS = ("plain", "kernels", "reference")
"""The network in plain operators, the network with kernels, and the other network."""


def kernels(
    network: str = "mobilemamba_s6",
    reference: str = "shvit_s3",
    threads: PositiveInt = 2,
    batch_size: PositiveInt = 16,
    rounds: PositiveInt = 10,
    output: Path = RESULTS / "cpu_kernels.json",
    document: Path = Path("docs/performance.md"),
) -> None:
    """Measure what the kernels for CPUs give.

    Args:
        network: timm name of a MobileMamba.
        reference: Network beside it.
        threads: PyTorch's threads.
        batch_size: Images of a batch and of a training step.
        rounds: Timed rounds of three calls.
        output: JSON file.
        document: Markdown file whose table between the markers cpu_kernels:begin and cpu_kernels:end is replaced.
    """
    set_threads(threads)
    around_markers(document, MARKERS)  # fails now rather than after the work
    timings, kept = measure(network, reference, batch_size, rounds)
    heading = (
        f"{device_name(CPU)}, {threads_in_words(threads)}, float32, {network}; milliseconds, minimum of "
        f"{REPEATS * rounds} calls."
    )
    settings = {"network": network, "reference": reference, "rounds": rounds}
    results = [{"call": call} | {form: asdict(timing) for form, timing in row.items()} for call, row in timings.items()]
    write_results(output, CPU, settings=settings, results=results, kept=kept)
    rows = {call: {form: timing.minimum for form, timing in row.items()} for call, row in timings.items()}
    rows["kept for the backward pass, MB per image"] = kept
    replace_between(document, MARKERS, f"{heading}\n\n{format_rows(rows, reference)}")


def measure(
    network: str, reference: str, batch_size: int, rounds: int
) -> tuple[dict[str, dict[str, Timing]], dict[str, float]]:
    """Time all kinds of call in all forms, in turn; options as of the command.

    Returns:
        Milliseconds by call and form, and what autograd keeps for the backward pass, in 1e6 bytes per image, by form.

    Raises:
        UserError: When Numba is not installed.
    """
    if dispatch._numba_kernels() is None:
        raise UserError("There is nothing to compare without Numba: `pip install numba`.")
    (ours, ours_kept), (other, other_kept) = (_calls(build(name, CPU), batch_size) for name in (network, reference))
    calls: dict[str, Callable[[], object]] = {f"{call} plain": partial(in_plain_operators, ours[call]) for call in ours}
    calls |= {f"{call} kernels": run for call, run in ours.items()}
    calls |= {f"{call} reference": run for call, run in other.items()}
    timings = interleaved(calls, rounds, REPEATS, device=CPU, warmup=2)
    kept = (in_plain_operators(ours_kept), ours_kept(), other_kept())
    return (
        {call: {form: timings[f"{call} {form}"] for form in FORMS} for call in ours},
        dict(zip(FORMS, kept, strict=True)),
    )


def in_plain_operators(call: Callable[[], T]) -> T:
    """Call something without kernels."""
    with dispatch.plain_operators():
        return call()


def _calls(candidate: Candidate, batch_size: int) -> tuple[dict[str, Callable[[], object]], Callable[[], float]]:
    """Return what is timed of a network, and what counts the bytes that a training step keeps."""
    image, images = candidate.images(1, CPU), candidate.images(batch_size, CPU)
    inference, training = fused(candidate.network), copy.deepcopy(candidate.network).train()
    step = step_call(training, images, autocast=False)
    calls: dict[str, Callable[[], object]] = {
        "single image, eager": inference_call(candidate.network, image),
        "single image, fused": inference_call(inference, image),
        f"{batch_size} images, fused": inference_call(inference, images),
        f"training step, {batch_size} images": step,
    }
    return calls, lambda: saved_bytes(training, step) / batch_size / 1e6


def format_rows(rows: Mapping[str, Mapping[str, float]], reference: str) -> str:
    """Return a table of each call's figures by form, and of their ratios."""
    header = ("", "plain operators", "kernels", reference, "kernels / plain", f"plain / {reference}")
    cells = []
    for name, row in rows.items():
        plain, kernels, other = (row[form] for form in FORMS)
        ratios = (kernels / plain, plain / other, kernels / other)
        cells.append((name, *(f"{v:.1f}" for v in (plain, kernels, other)), *(f"{ratio:.2f}" for ratio in ratios)))
    return table((*header, f"kernels / {reference}"), cells)
