"""What an export in int8 can be asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mobilemamba.errors import require

FEWEST_IMAGES = 32
"""Images below which neither ranges of values nor shares of images mean anything."""


@dataclass(frozen=True)
class Int8Options:
    """How an int8 file is calibrated and judged.

    Args:
        calibration: Folder of images, in any depth, like those that the network will see.
        validation: Folder with one folder of images for each class, none of them in ``calibration``; None: other images
            of ``calibration`` are compared, without labels.
        calibration_images: Images that ranges of activations are taken from, at most.
        compared_images: Images that both files are asked for, at most.
        min_agreement: Least share of images with the same top class before and after, with labels and without.
        max_accuracy_drop: Largest drop of the accuracy, in percentage points; with labels this is asked for, too.

    Raises:
        UserError: When a number is out of range; names field, value and remedy.
    """

    calibration: Path
    validation: Path | None = None
    calibration_images: int = 256
    compared_images: int = 1000
    min_agreement: float = 0.9
    max_accuracy_drop: float = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        for field in ("calibration_images", "compared_images"):
            require(getattr(self, field) >= FEWEST_IMAGES, field, getattr(self, field), f"{FEWEST_IMAGES} or more")
        require(0 <= self.min_agreement <= 1, "min_agreement", self.min_agreement, "a share in [0, 1], such as 0.9")
        drop = self.max_accuracy_drop
        require(math.isfinite(drop) and drop >= 0, "max_accuracy_drop", drop, "percentage points, 0 or more")
