"""Do two forms of a network give the same answers?

Differences are relative to the largest absolute logit of the reference over the batch, so that a figure means the same
for networks of any scale. Exported files are compared at every batch size and image size that they promise to take.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilemamba.errors import UserError
from mobilemamba.export.comparison import Answer, Comparison, Runner, Shape, compare_logits
from mobilemamba.export.detections import compare_detections

FUSE_TOLERANCE = 1e-12
"""Largest difference between a network and its fused form in float64, relative to the largest logit."""

CONCLUSIVE_RESPONSE = 10
"""A comparison proves something when logits of different images differ by this many tolerances."""


@dataclass(frozen=True)
class ParityReport:
    """How far an exported file is from the network it was made of.

    Args:
        format: Format of the file.
        fuse_max_abs_error: Difference between the network and its fused form in float64, relative.
        tolerance: Largest max_abs_error that passes.
        comparisons: Each shape of batches that was compared; none where this system cannot run the file.
        versions: Packages that wrote and ran the file, by name.
        size_bytes: Size of the file, of all its parts where the format has several.
        half: Of a file in float16, the network in float16 in PyTorch (:mod:`.half`); None of others.
    """

    format: str
    fuse_max_abs_error: float
    tolerance: float
    comparisons: tuple[Comparison, ...]
    versions: dict[str, str]
    size_bytes: int
    half: Comparison | None = None

    @property
    def judged(self) -> tuple[Comparison, ...]:
        """Comparisons whose errors count: of the file, and of the network in float16."""
        return (*self.comparisons, self.half) if self.half else self.comparisons

    @property
    def max_abs_error(self) -> float | None:
        """Largest difference between file and network over all comparisons, relative; None without any."""
        return max((comparison.max_abs_error for comparison in self.judged), default=None)

    @property
    def top1_agreement(self) -> float | None:
        """Share of all compared images with the same top class; None without any."""
        images = sum(comparison.images for comparison in self.comparisons)
        return sum(c.top1_agreement * c.images for c in self.comparisons) / images if images else None

    @property
    def verdict(self) -> Literal["passed", "refused", "converted, not run"]:
        """What the comparison says: passed is a file within the tolerance that puts every image in its class.

        Of a file in float16 the tolerance decides alone: rounding changes the class where two are that close.
        """
        if not self.comparisons or self.max_abs_error is None:
            return "converted, not run"
        # Written so that a difference that is not a number is refused.
        keeps_classes = self.half is not None or self.top1_agreement == 1.0
        return "passed" if self.max_abs_error <= self.tolerance and keeps_classes else "refused"

    @property
    def passed(self) -> bool:
        """Whether the file is known to be right."""
        return self.verdict == "passed"

    @property
    def conclusive(self) -> bool:
        """Whether a wrong file would have been noticed: the logits depend on the image by far more than the tolerance.

        Those of a network that was hardly trained do not.
        """
        response = max((comparison.response for comparison in self.comparisons), default=0)
        return response >= CONCLUSIVE_RESPONSE * self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        derived = ("verdict", "passed", "conclusive", "max_abs_error", "top1_agreement")
        content: dict[str, Any] = json.loads(json.dumps({name: getattr(self, name) for name in derived} | asdict(self)))
        return content

    def raise_if_refused(self) -> None:
        """Raise UserError with the worst batch when the file gives other answers than the network."""
        if self.verdict != "refused":
            return
        worst = max(self.judged, key=lambda comparison: (comparison.max_abs_error, -comparison.top1_agreement))
        where = ", with every result rounded, in PyTorch" if worst is self.half else ""
        raise UserError(
            f"The {self.format} file is refused: it differs from the network by {self.max_abs_error:.1e} of the "
            f"largest logit (tolerance {self.tolerance:g}) and agrees on the top class of {self.top1_agreement:.1%} "
            f"of the images; worst for a batch of shape {worst.shape}{where}. No file was written."
        )


def compare_answers(references: Sequence[Answer], candidates: Sequence[Answer], shape: Shape) -> Comparison:
    """Compare the answers to batches of one shape, whatever they are; for errors see :func:`compare_logits`."""
    if isinstance(references[0], Tensor):
        return compare_logits(torch.cat(cast(Any, references)), torch.cat(cast(Any, candidates)), shape)
    return compare_detections(cast(Any, references), cast(Any, candidates), shape)


@torch.no_grad()
def compare_fused(network: nn.Module, fused: nn.Module, shape: Shape) -> float:
    """Return the relative difference between a network and its fused form, both in float64 and eval mode.

    Raises:
        UserError: When it exceeds FUSE_TOLERANCE, or one of them finds what the other does not.
    """
    images = random_images(shape).double()
    comparison = compare_answers([network(images)], [fused(images)], shape)
    error = comparison.max_abs_error
    if not error <= FUSE_TOLERANCE or comparison.top1_agreement < 1:
        raise UserError(
            f"Fusion is refused: the fused network differs by {error:.1e} of the largest logit in float64 "
            f"(tolerance {FUSE_TOLERANCE:.0e}). No file was written."
        )
    return error


@torch.no_grad()
def compare_runner(network: Runner, runner: Runner, shapes: Iterable[Shape]) -> tuple[Comparison, ...]:
    """Compare a float32 network in eval mode, or another runner, with a reloaded file on random images of each shape.

    Where a shape occurs several times the file gets as many batches, and their answers are judged together: batches of
    one image cannot show that the logits depend on the image.
    """
    comparisons = []
    for seed, (shape, batches) in enumerate(Counter(shapes).items()):
        images = random_images((batches * shape[0], *shape[1:]), seed).split(shape[0])
        references, candidates = [network(batch) for batch in images], [runner(batch) for batch in images]
        comparisons.append(compare_answers(references, candidates, shape))
    return tuple(comparisons)


def random_images(shape: Shape, seed: int = 0) -> Tensor:
    """Return reproducible images like normalised photographs, without touching global seeds.

    Large patches of colour and fine noise: a network averages pure noise away and gives all images the same logits.
    """
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn((*shape[:2], 4, 4), generator=generator)
    return F.interpolate(patches, shape[2:], mode="nearest") + torch.randn(shape, generator=generator) / 2
