"""What widths cost beside the reference: multiply-accumulates, or time measured in turn in one process.

Times are compared by their medians. Where few calls or none go undisturbed, minima are a matter of luck: of one network
timed as two, on two cores with eight busy processes, they were up to a factor of 2.3 apart, medians 2.4 percent (eight
measurements of 120 calls each).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from benchmarks.compilation import all_compiled
from benchmarks.networks import Contender, fused, inference_call
from experiments.matching.widths import Widths, WidthSpace
from mobilemamba.backbone import MobileMamba
from mobilemamba.complexity import complexity
from mobilemamba.export.timing import interleaved_seconds

Metric = Literal["throughput", "latency", "macs"]

PARTS = 5
"""Consecutive parts of a measurement; how far their ratios lie apart tells the noise."""


@dataclass(frozen=True)
class Comparison:
    """Cost of some widths beside that of the reference.

    Args:
        widths: Of the candidate.
        cost: Milliseconds per batch (median call), or multiply-accumulates.
        reference_cost: The reference's, of the same measurement.
        noise: Standard error of their ratio, relative to it; 0 for what is counted.
        calls: Timed calls of each; 0 for what is counted.
    """

    widths: Widths
    cost: float
    reference_cost: float
    noise: float = 0.0
    calls: int = 0

    @property
    def excess(self) -> float:
        """Logarithm of the cost relative to the reference: 0 where both are alike, positive where it costs more."""
        return math.log(self.cost / self.reference_cost)

    def within(self, tolerance: float) -> bool:
        """Return whether neither candidate / reference nor its inverse differs from 1 by more than the tolerance."""
        ratio = self.cost / self.reference_cost
        return abs(ratio - 1) <= tolerance and abs(1 / ratio - 1) <= tolerance

    def ratio(self, metric: Metric) -> float:
        """Return candidate / reference in a metric: faster networks have a higher throughput, a lower latency."""
        ratio = self.cost / self.reference_cost
        return 1 / ratio if metric == "throughput" else ratio


class Measure(Protocol):
    """Compares widths with the reference; effort is a factor on the usual number of rounds."""

    def __call__(self, candidates: Sequence[Widths], effort: int = 1) -> list[Comparison]:
        """Return a comparison for each of the candidates, in their order."""


@dataclass(frozen=True)
class Conditions:
    """How time is measured.

    Args:
        image_size: Height and width in pixels.
        batch_size: Images per call.
        device: Where the networks run.
        rounds: Timed rounds of a measurement; at least as many as it has parts.
        repeats: Calls of each network in a round.
        autocast: Whether the networks run in the device's mixed precision.
        compile: Whether they are compiled by torch.compile.
    """

    image_size: tuple[int, int]
    batch_size: int
    device: torch.device
    rounds: int
    repeats: int
    autocast: bool = False
    compile: bool = False


class MacsMeasure:
    """Counts multiply-accumulates, the scan's included.

    Args:
        reference_cost: Multiply-accumulates of the reference.
        space: Gives the candidates' networks.
        image_size: Height and width in pixels.
    """

    def __init__(self, reference_cost: int, space: WidthSpace, image_size: tuple[int, int]) -> None:
        self._reference_cost, self._space, self._image_size = reference_cost, space, image_size

    def __call__(self, candidates: Sequence[Widths], effort: int = 1) -> list[Comparison]:
        """Count for each candidate."""
        return [Comparison(widths, self._macs(widths), self._reference_cost) for widths in candidates]

    def _macs(self, widths: Widths) -> int:
        return complexity(MobileMamba(self._space.config(widths)), self._image_size).total_macs


class TimeMeasure:
    """Times fused networks in inference, all candidates and the reference in turn.

    Args:
        reference: The reference, in eval mode on the device.
        space: Gives the candidates' networks.
        conditions: How time is measured.
    """

    def __init__(self, reference: nn.Module, space: WidthSpace, conditions: Conditions) -> None:
        self._space, self._conditions = space, conditions
        channels = space.network.in_chans
        contender = Contender("reference", reference, (channels, *conditions.image_size))
        self._images = contender.images(conditions.batch_size, conditions.device)
        self._reference_call = self._call(reference)

    @all_compiled()
    def __call__(self, candidates: Sequence[Widths], effort: int = 1) -> list[Comparison]:
        """Time every candidate beside the reference."""
        conditions = self._conditions
        if conditions.compile:
            # Candidates of earlier measurements would be looked through in every call.
            torch._dynamo.reset()
        names = {str(widths): widths for widths in candidates}
        calls = {"reference": self._reference_call} | {
            name: self._call(self._network(widths)) for name, widths in names.items()
        }
        seconds = interleaved_seconds(calls, conditions.rounds * effort, conditions.repeats, conditions.device)
        reference = seconds["reference"]
        return [
            Comparison(
                widths,
                statistics.median(seconds[name]) * 1e3,
                statistics.median(reference) * 1e3,
                noise(seconds[name], reference),
                len(reference),
            )
            for name, widths in names.items()
        ]

    def _network(self, widths: Widths) -> nn.Module:
        return MobileMamba(self._space.config(widths)).to(self._conditions.device).eval()

    def _call(self, network: nn.Module) -> Callable[[], Tensor]:
        folded = fused(network)
        run = torch.compile(folded) if self._conditions.compile else folded
        return inference_call(run, self._images, self._conditions.autocast)


def noise(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Return the standard error of the ratio of two times measured in turn, relative to it.

    Both are cut into consecutive parts, whose medians have a ratio each: what disturbs the machine for a while moves
    some of these ratios.

    Args:
        seconds: Times of one call, in the order they were made; at least :data:`PARTS`.
        reference: Times of the other.
    """
    ratios = [
        math.log(statistics.median(part) / statistics.median(other))
        for part, other in zip(_parts(seconds), _parts(reference), strict=True)
    ]
    return statistics.stdev(ratios) / math.sqrt(len(ratios))


def _parts(values: Sequence[float]) -> list[Sequence[float]]:
    bounds = [round(index * len(values) / PARTS) for index in range(PARTS + 1)]
    return [values[start:end] for start, end in itertools.pairwise(bounds)]
