"""Networks beside each other in several forms, measured in one process and in turn."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.forms import Form, call_of
from benchmarks.networks import Candidate, all_compiled
from benchmarks.publish import table_of
from benchmarks.training_step import TrainingStep
from mobilemamba.complexity import complexity
from mobilemamba.errors import UserError
from mobilemamba.export.timing import Timing, interleaved

Key = tuple[str, Form, int]
"""Network, form and batch size."""

DIFFERENCE_LIMIT = 1e-3
"""Largest difference from the eager network, relative to the largest logit: above it the wrong thing is timed."""

AUTOCAST_DIFFERENCE_LIMIT = 0.1
"""The same for mixed precision: random weights make small logits of large features."""


@dataclass(frozen=True)
class Measurement:
    """One network in one form; ratios are to the reference in the same form, at the same batch size.

    Args:
        network: timm's name.
        form: As in :mod:`.forms`.
        image_size: Height and width in pixels.
        batch_size: Images per call.
        parameters: Of the network as it was trained.
        macs: Multiply-accumulates for one image, the scan's among them.
        timing: Milliseconds per batch.
        ratio_of_minima: Of times.
        ratio_of_medians: Of times.
        max_difference: From the eager network, relative to the largest logit; None for a training step.
        megabytes_per_image: Memory of a training step (:mod:`.training_step`) in 1e6 bytes; None for other forms.
        memory_ratio: Of memory; None likewise.
        seconds_until_first: From the eager network to its first answer in this form: fusing, exporting, compiling.
    """

    network: str
    form: Form
    image_size: tuple[int, int]
    batch_size: int
    parameters: int
    macs: int
    timing: Timing
    ratio_of_minima: float
    ratio_of_medians: float
    max_difference: float | None = None
    megabytes_per_image: float | None = None
    memory_ratio: float | None = None
    seconds_until_first: float | None = None

    @property
    def pixels(self) -> str:
        """Height and width for tables."""
        return "x".join(map(str, self.image_size))

    @property
    def images_per_second(self) -> float:
        """From the shortest time."""
        return 1e3 * self.batch_size / self.timing.minimum


@all_compiled()
def measure(
    candidates: Sequence[Candidate],
    kinds: Sequence[tuple[Form, int]],
    reference: str,
    rounds: int,
    repeats: int,
    device: torch.device,
    warmup: int = 1,
    autocast: bool = False,
) -> list[Measurement]:
    """Time every candidate in several forms, in turn.

    Args:
        candidates: Networks on the device, the reference among them.
        kinds: Forms of each, and images per call.
        reference: Name of the network that ratios are to.
        rounds: Timed rounds.
        repeats: Calls of each form in a round.
        device: Where to run.
        warmup: Rounds before the timed ones.
        autocast: Whether PyTorch's forms run in the device's mixed precision.

    Raises:
        UserError: When a form does not take a network, or gives other answers than the eager network.
    """
    calls: dict[Key, Callable[[], object]] = {}
    differences: dict[Key, float] = {}
    megabytes: dict[Key, float] = {}
    until_first: dict[Key, float] = {}
    for candidate, (form, batch_size) in itertools.product(candidates, kinds):
        images, key = candidate.images(batch_size, device), (candidate.name, form, batch_size)
        # An image size that does not fit is a clear error here.
        expected = candidate.answer(images[:1] if form == "training" else images)
        start = time.perf_counter()
        call = call_of(candidate.network, images, form, autocast)
        calls[key] = partial(candidate.run, call)
        if isinstance(call, TrainingStep):
            megabytes[key] = candidate.run(call.megabytes_per_image)
            continue
        answer = candidate.run(call)
        until_first[key] = time.perf_counter() - start
        differences[key] = difference = ((answer - expected).abs().max() / expected.abs().max()).item()
        if not difference <= (AUTOCAST_DIFFERENCE_LIMIT if autocast or form == "onnx-float16" else DIFFERENCE_LIMIT):
            raise UserError(f"{candidate.name} as {form} differs from eager by {difference:.1e}: not timed.")
    timings = interleaved(calls, rounds, repeats, device, warmup)
    sizes = {candidate.name: candidate.image_shape[1:] for candidate in candidates}
    costs = {candidate.name: complexity(candidate.network, sizes[candidate.name]) for candidate in candidates}
    results = []
    for key, timing in timings.items():
        name, form, batch_size = key
        base = reference, form, batch_size
        results.append(
            Measurement(
                network=name,
                form=form,
                image_size=sizes[name],
                batch_size=batch_size,
                parameters=costs[name].parameters,
                macs=costs[name].total_macs,
                timing=timing,
                ratio_of_minima=timing.minimum / timings[base].minimum,
                ratio_of_medians=timing.median / timings[base].median,
                max_difference=differences.get(key),
                megabytes_per_image=megabytes.get(key),
                memory_ratio=megabytes[key] / megabytes[base] if key in megabytes else None,
                seconds_until_first=until_first.get(key),
            )
        )
    return results


def latency_table(measurements: Sequence[Measurement], reference: str) -> str:
    """Return a table of times in use."""
    return table_of(
        "network | form | pixels | M parameters | GMACs | batch | minimum | median | images/s"
        f"| minimum / {reference} | median / {reference}",
        (
            f"{one.network} | {one.form} | {one.pixels} | {one.parameters / 1e6:.1f} | {one.macs / 1e9:.3f}"
            f"| {one.batch_size} | {one.timing.minimum:.2f} | {one.timing.median:.2f}"
            f"| {one.images_per_second:.0f}"
            f"| {one.ratio_of_minima:.2f} | {one.ratio_of_medians:.2f}"
            for one in measurements
        ),
    )


def training_table(measurements: Sequence[Measurement], reference: str) -> str:
    """Return a table of memory and times of training steps."""
    return table_of(
        f"network | pixels | batch | MB per image | MB / {reference} | ms per step | time / {reference}",
        (
            f"{one.network} | {one.pixels} | {one.batch_size} | {one.megabytes_per_image:.1f} | {one.memory_ratio:.2f}"
            f"| {one.timing.minimum:.0f} | {one.ratio_of_minima:.2f}"
            for one in measurements
        ),
    )
