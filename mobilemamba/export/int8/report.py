"""How an int8 file is judged: by the classes it gives to images, since its logits always differ by percents."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from mobilemamba.errors import UserError
from mobilemamba.export.comparison import Comparison
from mobilemamba.export.parity import ParityReport


@dataclass(frozen=True)
class Int8Report:
    """What quantisation changed.

    Args:
        float_report: Of the file in float32 that the int8 file was made of; it passed.
        quantised_nodes: Nodes of the graph that work in int8.
        calibration_images: Images that ranges of activations were taken from.
        compared_images: Other images, which both files answered.
        top1_agreement: Share of these with the same top class.
        max_abs_error: Largest difference of a logit for these, relative to the largest absolute logit; not judged.
        accuracy_before: Share of these in their class by the float32 file; None without labels.
        accuracy_after: The same by the int8 file.
        comparisons: Answers to random images of every shape that the file promises to take; they must be finite.
        min_agreement: Least top1_agreement that passes.
        max_accuracy_drop: Largest drop of the accuracy that passes, in percentage points.
        milliseconds_before: Time of the float32 file for one image on this machine (minimum of several, in turn).
        milliseconds_after: The same of the int8 file.
        size_bytes: Size of the int8 file.
    """

    float_report: ParityReport
    quantised_nodes: int
    calibration_images: int
    compared_images: int
    top1_agreement: float
    max_abs_error: float
    accuracy_before: float | None
    accuracy_after: float | None
    comparisons: tuple[Comparison, ...]
    min_agreement: float
    max_accuracy_drop: float
    milliseconds_before: float
    milliseconds_after: float
    size_bytes: int

    @property
    def accuracy_drop(self) -> float | None:
        """Percentage points lost, negative where the int8 file is better; None without labels."""
        if self.accuracy_before is None or self.accuracy_after is None:
            return None
        # Rounded: one point of 1000 images is not 1.0000000000000009.
        return round(100 * (self.accuracy_before - self.accuracy_after), 9)

    @property
    def faults(self) -> list[str]:
        """What speaks against the file, in words."""
        faults = []
        if not all(math.isfinite(comparison.max_abs_error) for comparison in self.comparisons):
            faults.append("its logits are not finite for all shapes of images that it promises to take")
        if not self.top1_agreement >= self.min_agreement:
            faults.append(
                f"it agrees with the float32 file on the top class of {self.top1_agreement:.1%} of "
                f"{self.compared_images} images (at least {self.min_agreement:.1%})"
            )
        if self.accuracy_drop is not None and self.accuracy_drop > self.max_accuracy_drop:
            faults.append(
                f"accuracy drops by {self.accuracy_drop:.2f} points, from {self.accuracy_before:.2%} to "
                f"{self.accuracy_after:.2%} of {self.compared_images} images (at most {self.max_accuracy_drop:g})"
            )
        return faults

    @property
    def passed(self) -> bool:
        """Whether the file keeps the classes."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        judgement = {
            "weights": "int8",
            "verdict": "passed" if self.passed else "refused",
            "passed": self.passed,
            "accuracy_drop": self.accuracy_drop,
        }
        content: dict[str, Any] = json.loads(json.dumps(judgement | asdict(self)))
        return content | {"float_report": self.float_report.to_dict()}

    def raise_if_refused(self) -> None:
        """Raise UserError with the figures when the file does not keep the classes."""
        if self.faults:
            raise UserError(
                f"The int8 file is refused: {'; '.join(self.faults)}. No file was written. Calibrate with more "
                "images, or ones more like those to come, or export float32."
            )
