"""Latency of networks in several forms, measured in one process and in turn.

Ratios are to a reference network in the same form and at the same batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.compilation import all_compiled
from benchmarks.forms import Form, call_of
from benchmarks.networks import Candidate
from mobilemamba.complexity import complexity
from mobilemamba.errors import UserError
from mobilemamba.export.timing import Timing, interleaved
from mobilemamba.tables import table

DIFFERENCE_LIMIT = 1e-3
"""Largest difference from the eager network, relative to the largest logit: above it the wrong thing is timed."""

AUTOCAST_DIFFERENCE_LIMIT = 0.1
"""The same for mixed precision: random weights make small logits of large features."""


@dataclass(frozen=True)
class Latency:
    """Latency of one network in one form.

    Args:
        network: timm's name.
        form: As in :mod:`.forms`.
        image_size: Height and width in pixels.
        batch_size: Images per call.
        parameters: Of the network as it was trained.
        macs: Multiply-accumulates for one image, the scan's among them.
        timing: Milliseconds per batch.
        ratio_of_minima: To the reference in the same form, at the same batch size.
        ratio_of_medians: The same of the medians.
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
        candidates: Networks, the reference among them.
        forms: Forms of each.
        reference: Name of the network that ratios are to.
        batch_sizes: Images per call.
        rounds: Timed rounds.
        repeats: Calls of each form in a round.
        device: Of the candidates.
        warmup: Rounds before the timed ones.
        autocast: Whether PyTorch's forms run in the device's mixed precision.

    Raises:
        UserError: When a form does not take a network, or gives other answers than the eager network.
    """
    calls: dict[tuple[str, Form, int], Callable[[], Tensor]] = {}
    differences: dict[tuple[str, Form, int], float] = {}
    for candidate in candidates:
        for batch_size in batch_sizes:
            images = candidate.images(batch_size, device)
            expected = candidate.answer(images)
            for form in forms:
                key = (candidate.name, form, batch_size)
                calls[key] = call_of(candidate.network, images, form, autocast)
                differences[key] = ((calls[key]() - expected).abs().max() / expected.abs().max()).item()
                if not differences[key] <= (AUTOCAST_DIFFERENCE_LIMIT if autocast else DIFFERENCE_LIMIT):
                    raise UserError(
                        f"{candidate.name} as {form} differs from eager by {differences[key]:.1e}: not timed."
                    )
    keys = {" ".join(map(str, key)): key for key in calls}
    timings = interleaved({name: calls[key] for name, key in keys.items()}, rounds, repeats, device, warmup)
    costs = {candidate.name: complexity(candidate.network, candidate.image_shape[1:]) for candidate in candidates}
    shapes = {candidate.name: candidate.image_shape for candidate in candidates}
    latencies = []
    for name, (network, form, batch_size) in keys.items():
        timing, base = timings[name], timings[f"{reference} {form} {batch_size}"]
        latencies.append(
            Latency(
                network=network,
                form=form,
                image_size=shapes[network][1:],
                batch_size=batch_size,
                parameters=costs[network].parameters,
                macs=costs[network].total_macs,
                timing=timing,
                ratio_of_minima=timing.minimum / base.minimum,
                ratio_of_medians=timing.median / base.median,
                max_difference=differences[network, form, batch_size],
            )
        )
    return latencies


def format_latencies(latencies: Sequence[Latency], reference: str) -> str:
    """Return latencies as a table."""
    header = (
        "network",
        "form",
        "pixels",
        "M parameters",
        "GMACs",
        "batch",
        "minimum",
        "median",
        "images/s",
        f"minimum / {reference}",
        f"median / {reference}",
    )
    rows = [
        (
            latency.network,
            latency.form,
            "x".join(map(str, latency.image_size)),
            f"{latency.parameters / 1e6:.1f}",
            f"{latency.macs / 1e9:.3f}",
            str(latency.batch_size),
            f"{latency.timing.minimum:.2f}",
            f"{latency.timing.median:.2f}",
            f"{latency.images_per_second:.0f}",
            f"{latency.ratio_of_minima:.2f}",
            f"{latency.ratio_of_medians:.2f}",
        )
        for latency in latencies
    ]
    return table(header, rows)
