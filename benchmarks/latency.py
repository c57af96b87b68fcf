"""Latency of networks in several forms, measured in one process and in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.forms import Form, call_of
from benchmarks.networks import Candidate, all_compiled
from benchmarks.publish import table_of
from mobilemamba.complexity import complexity
from mobilemamba.errors import UserError
from mobilemamba.export.timing import Timing, interleaved

DIFFERENCE_LIMIT = 1e-3
"""Largest difference from the eager network, relative to the largest logit: above it the wrong thing is timed."""

AUTOCAST_DIFFERENCE_LIMIT = 0.1
"""The same for mixed precision: random weights make small logits of large features."""


@dataclass(frozen=True)
class Latency:
    """Latency of one network in one form; ratios are to the reference in the same form, at the same batch size.

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
        max_difference: From the eager network, relative to the largest logit.
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
    max_difference: float

    @property
    def images_per_second(self) -> float:
        """Images per second at the minimum time."""
        return 1e3 * self.batch_size / self.timing.minimum


@all_compiled()
def measure(
    candidates: Sequence[Candidate],
    forms: Sequence[Form],
    reference: str,
    batch_sizes: Sequence[int],
    rounds: int,
    repeats: int,
    device: torch.device,
    warmup: int = 1,
    autocast: bool = False,
) -> list[Latency]:
    """Time every candidate in every form at every batch size, in turn.

    Args:
        candidates: Networks on the device, the reference among them.
        forms: Forms of each.
        reference: Name of the network that ratios are to.
        batch_sizes: Images per call.
        rounds: Timed rounds.
        repeats: Calls of each form in a round.
        device: Where to run.
        warmup: Rounds before the timed ones.
        autocast: Whether PyTorch's forms run in the device's mixed precision.

    Raises:
        UserError: When a form does not take a network, or gives other answers than the eager network.
    """
    calls: dict[str, Callable[[], Tensor]] = {}
    measured: dict[str, tuple[Candidate, Form, int, float]] = {}
    for candidate, batch_size in itertools.product(candidates, batch_sizes):
        images = candidate.images(batch_size, device)
        expected = candidate.answer(images)
        for form in forms:
            call = call_of(candidate.network, images, form, autocast)
            difference = ((call() - expected).abs().max() / expected.abs().max()).item()
            if not difference <= (AUTOCAST_DIFFERENCE_LIMIT if autocast else DIFFERENCE_LIMIT):
                raise UserError(f"{candidate.name} as {form} differs from eager by {difference:.1e}: not timed.")
            name = f"{candidate.name} {form} {batch_size}"
            calls[name], measured[name] = call, (candidate, form, batch_size, difference)
    timings = interleaved(calls, rounds, repeats, device, warmup)
    costs = {candidate.name: complexity(candidate.network, candidate.image_shape[1:]) for candidate in candidates}
    latencies = []
    for name, (candidate, form, batch_size, difference) in measured.items():
        timing, base = timings[name], timings[f"{reference} {form} {batch_size}"]
        latencies.append(
            Latency(
                network=candidate.name,
                form=form,
                image_size=candidate.image_shape[1:],
                batch_size=batch_size,
                parameters=costs[candidate.name].parameters,
                macs=costs[candidate.name].total_macs,
                timing=timing,
                ratio_of_minima=timing.minimum / base.minimum,
                ratio_of_medians=timing.median / base.median,
                max_difference=difference,
            )
        )
    return latencies


def format_latencies(latencies: Sequence[Latency], reference: str) -> str:
    """Return latencies as a table."""
    return table_of(
        latencies,
        {
            "network": lambda one: one.network,
            "form": lambda one: one.form,
            "pixels": lambda one: "x".join(map(str, one.image_size)),
            "M parameters": lambda one: f"{one.parameters / 1e6:.1f}",
            "GMACs": lambda one: f"{one.macs / 1e9:.3f}",
            "batch": lambda one: str(one.batch_size),
            "minimum": lambda one: f"{one.timing.minimum:.2f}",
            "median": lambda one: f"{one.timing.median:.2f}",
            "images/s": lambda one: f"{one.images_per_second:.0f}",
            f"minimum / {reference}": lambda one: f"{one.ratio_of_minima:.2f}",
            f"median / {reference}": lambda one: f"{one.ratio_of_medians:.2f}",
        },
    )
