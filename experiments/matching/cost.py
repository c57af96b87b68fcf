"""Measures the cost of widths relative to the reference: multiply-accumulates, or time in one process.

Times are compared by their medians. On a busy machine minima depend on luck: the same network timed twice, on two cores
with eight busy processes, gave minima up to a factor of 2.3 apart, but medians within 2.4 percent (eight measurements
of 120 calls each).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import Candidate, all_compiled, fused, inference_call
from experiments.matching.widths import Widths, WidthSpace
from mobilemamba.backbone import MobileMamba
from mobilemamba.complexity import complexity
from mobilemamba.export.timing import interleaved_seconds

Metric = Literal["throughput", "latency", "macs"]

PARTS = 5
"""Number of consecutive parts of a measurement; the spread of their ratios gives the error."""


@dataclass(frozen=True)
class Comparison:
    """Cost of some widths and of the reference.

    Args:
        widths: Widths of the candidate.
        cost: Milliseconds per batch (median call), or multiply-accumulates.
        reference_cost: Cost of the reference in the same measurement.
        standard_error: Relative standard error of their ratio; 0 for multiply-accumulates.
        calls: Timed calls of each; 0 for multiply-accumulates.
    """

    widths: Widths
    cost: float
    reference_cost: float
    standard_error: float = 0.0
    calls: int = 0

    @property
    def relative_cost(self) -> float:
        """Cost relative to the reference."""
        return self.cost / self.reference_cost

    @property
    def distance(self) -> float:
        """Absolute logarithm of the relative cost: 0 if both are equal."""
        return abs(math.log(self.relative_cost))

    def within(self, tolerance: float) -> bool:
        """Return whether neither candidate / reference nor its inverse differs from 1 by more than the tolerance."""
        return abs(self.relative_cost - 1) <= tolerance and abs(1 / self.relative_cost - 1) <= tolerance

    def ratio(self, metric: Metric) -> float:
        """Return candidate / reference in a metric: faster networks have a higher throughput, a lower latency."""
        return 1 / self.relative_cost if metric == "throughput" else self.relative_cost


Measure = Callable[[Sequence[Widths], int], list[Comparison]]
"""Compares widths with the reference; the integer multiplies the usual number of rounds."""


@dataclass(frozen=True)
class Conditions:
    """How time is measured.

    Args:
        batch_size: Images per call.
        device: Where the networks run.
        rounds: Timed rounds of a measurement; at least as many as it has parts.
        repeats: Calls of each network in a round.
        autocast: Whether the networks run in the device's mixed precision.
        compile: Whether they are compiled by torch.compile.
    """

    batch_size: int
    device: torch.device
    rounds: int
    repeats: int
    autocast: bool = False
    compile: bool = False


def macs_measure(space: WidthSpace, reference_cost: int, image_size: tuple[int, int]) -> Measure:
    """Return a function that counts multiply-accumulates, including the scan's."""

    def measure(candidates: Sequence[Widths], factor: int) -> list[Comparison]:
        networks = {widths: MobileMamba(space.config(widths)) for widths in candidates}
        return [Comparison(w, complexity(n, image_size).total_macs, reference_cost) for w, n in networks.items()]

    return measure


def time_measure(space: WidthSpace, reference: Candidate, conditions: Conditions) -> Measure:
    """Return a function that times fused networks in inference, all candidates and the reference in turn.

    Args:
        space: Builds the candidates' networks.
        reference: The reference, on the device, and the images for all.
        conditions: How time is measured.
    """
    images = reference.images(conditions.batch_size, conditions.device)

    def call_of(network: nn.Module) -> Callable[[], Tensor]:
        folded = fused(network)
        return inference_call(torch.compile(folded) if conditions.compile else folded, images, conditions.autocast)

    def measure(candidates: Sequence[Widths], factor: int) -> list[Comparison]:
        calls = {"reference": call_of(reference.network)}
        for widths in candidates:
            calls[str(widths)] = call_of(MobileMamba(space.config(widths)).to(conditions.device).eval())
        with all_compiled():
            seconds = interleaved_seconds(calls, conditions.rounds * factor, conditions.repeats, conditions.device)
        times = seconds.pop("reference")
        base = statistics.median(times) * 1e3
        return [
            Comparison(widths, statistics.median(ours) * 1e3, base, standard_error(ours, times), len(times))
            for widths, ours in zip(candidates, seconds.values(), strict=True)
        ]

    return measure


def standard_error(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Return the standard error of the ratio of two times measured in turn, relative to it.

    Both are split into consecutive parts, and the medians of each part give a ratio: other load on the machine changes
    some of these ratios.

    Args:
        seconds: Times of one network's calls in their order; at least :data:`PARTS`.
        reference: Times of the other network's calls.
    """
    parts = zip(np.array_split(seconds, PARTS), np.array_split(reference, PARTS), strict=True)
    ratios = [math.log(np.median(ours) / np.median(theirs)) for ours, theirs in parts]
    return statistics.stdev(ratios) / math.sqrt(PARTS)
