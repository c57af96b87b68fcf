"""What the kernels for CPUs give: a MobileMamba with them and in plain operators, beside another network, all in turn.

::

    python -m benchmarks kernels --threads 2

Times a single image, a batch and a training step, and counts what autograd keeps for the backward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from jsonargparse.typing import PositiveInt

from benchmarks.networks import Candidate, build, fused, inference_call
from benchmarks.publish import RESULTS, around_markers, replace_between, write_results
from benchmarks.threads import set_threads
from benchmarks.training_step import saved_bytes, step_call
from mobilemamba import dispatch
from mobilemamba.environment import device_name, threads_in_words
from mobilemamba.errors import UserError
from mobilemamba.export.timing import Timing, interleaved
from mobilemamba.tables import table

CPU = torch.device("cpu")

MARKERS = "cpu_kernels"

REPEATS = 3
"""Calls of one form in a row: the first finds its weights elsewhere than in the cache."""


@dataclass(frozen=True)
class Comparison:
    """One kind of call in three forms.

    Args:
        call: What was called.
        plain: The network in plain operators.
        kernels: The network with kernels.
        reference: The other network.
    """

    call: str
    plain: Timing
    kernels: Timing
    reference: Timing


@dataclass(frozen=True)
class Kept:
    """What autograd keeps for the backward pass, in 1e6 bytes per image.

    Args:
        plain: Of the network in plain operators.
        kernels: Of the network with kernels.
        reference: Of the other network.
    """

    plain: float
    kernels: float
    reference: float


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
    comparisons, kept = measure(network, reference, batch_size, rounds)
    heading = (
        f"{device_name(CPU)}, {threads_in_words(threads)}, float32, {network}; milliseconds, minimum of "
        f"{REPEATS * rounds} calls."
    )
    settings = {"network": network, "reference": reference, "rounds": rounds}
    results = [asdict(comparison) for comparison in comparisons]
    write_results(output, CPU, settings=settings, results=results, kept=asdict(kept))
    replace_between(document, MARKERS, f"{heading}\n\n{format_comparisons(comparisons, kept, reference)}")


def measure(network: str, reference: str, batch_size: int, rounds: int) -> tuple[list[Comparison], Kept]:
    """Time all kinds of call in all forms, in turn.

    Args:
        network: A MobileMamba's timm name.
        reference: timm's name of the other network.
        batch_size: Images of a batch and of a training step.
        rounds: Timed rounds.

    Raises:
        UserError: When Numba is not installed.
    """
    if dispatch._numba_kernels() is None:
        raise UserError("There is nothing to compare without Numba: `pip install numba`.")
    ours, other = (_Calls(build(name, CPU), batch_size) for name in (network, reference))
    forms = {"plain": _in_plain_operators(ours.calls), "kernels": ours.calls, "reference": other.calls}
    calls = {f"{kind} {form}": call for form, kinds in forms.items() for kind, call in kinds.items()}
    timings = interleaved(calls, rounds, REPEATS, device=CPU, warmup=2)
    comparisons = [Comparison(kind, **{form: timings[f"{kind} {form}"] for form in forms}) for kind in ours.calls]
    with dispatch.plain_operators():
        plain = ours.kept()
    return comparisons, Kept(plain, kernels=ours.kept(), reference=other.kept())


def format_comparisons(comparisons: Sequence[Comparison], kept: Kept, reference: str) -> str:
    """Return a table with one row for each kind of call, and one for memory."""
    header = ("", "plain operators", "kernels", reference, "kernels / plain", f"plain / {reference}")
    rows = [
        (comparison.call, comparison.plain.minimum, comparison.kernels.minimum, comparison.reference.minimum)
        for comparison in comparisons
    ]
    rows.append(("kept for the backward pass, MB per image", kept.plain, kept.kernels, kept.reference))
    return table(
        (*header, f"kernels / {reference}"),
        [
            (name, *(f"{value:.1f}" for value in values), *(f"{ratio:.2f}" for ratio in _ratios(*values)))
            for name, *values in rows
        ],
        left=1,
    )


def _ratios(plain: float, kernels: float, reference: float) -> tuple[float, float, float]:
    return kernels / plain, plain / reference, kernels / reference


class _Calls:
    """What is timed of one network.

    Args:
        candidate: The network.
        batch_size: Images of a batch and of a training step.
    """

    def __init__(self, candidate: Candidate, batch_size: int) -> None:
        image, images = candidate.images(1, CPU), candidate.images(batch_size, CPU)
        inference = fused(candidate.network)
        self._batch_size = batch_size
        self._training = copy.deepcopy(candidate.network).train()
        self._step = step_call(self._training, images, autocast=False)
        self.calls: dict[str, Callable[[], object]] = {
            "single image, eager": inference_call(candidate.network, image),
            "single image, fused": inference_call(inference, image),
            f"{batch_size} images, fused": inference_call(inference, images),
            f"training step, {batch_size} images": self._step,
        }

    def kept(self) -> float:
        """Return what a training step keeps for its backward pass, in 1e6 bytes per image."""
        return saved_bytes(self._training, self._step) / self._batch_size / 1e6


def _in_plain_operators(calls: dict[str, Callable[[], object]]) -> dict[str, Callable[[], object]]:
    def plain(call: Callable[[], object]) -> None:
        with dispatch.plain_operators():
            call()

    return {name: partial(plain, call) for name, call in calls.items()}
