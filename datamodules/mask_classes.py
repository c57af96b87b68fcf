"""Reads names and colours of the classes of masks from a text file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.dense_transforms import IGNORED
from mobilemamba.errors import UserError, require

NO_CLASS = "ignore"

LEVELS = np.array([256**2, 256, 1])
"""Weights that turn a colour into one number."""


class MaskClasses:
    """Names and colours of classes.

    Args:
        path: Text file with a line for each class, "name" or "name, red, green, blue" with levels from 0 to 255. The
            name "ignore" marks a colour of no class. All lines have colours, or none has.
        num_classes: Expected number of classes.

    Raises:
        UserError: When there is no such file, or it is not as described.
    """

    def __init__(self, path: Path, num_classes: int) -> None:
        if not path.is_file():
            raise UserError(f"data.class_names_file = {path} must be a text file of names, or null.")
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        entries = [_entry(line) for line in lines]
        self.path = path
        self.names = tuple(name for name, _ in entries if name != NO_CLASS)
        found = len(self.names)
        require(found == num_classes, "data.class_names_file", str(path), f"of {num_classes} names; it has {found}")
        self.colours = {colour for _, colour in entries if colour is not None}
        if self.colours and len(self.colours) != len(entries):
            raise UserError(f"data.class_names_file = {path} must give each class a colour of its own, or none to any.")
        numbers = iter(range(num_classes))
        indices = [IGNORED if name == NO_CLASS else next(numbers) for name, _ in entries]
        codes = [int(np.array(colour) @ LEVELS) for _, colour in entries if colour is not None]
        by_code = sorted(zip(codes, indices, strict=False))  # without colours there are no codes
        self._codes = np.array([code for code, _ in by_code])
        self._indices = np.array([index for _, index in by_code], dtype=np.uint8)

    def of_colours(self, mask: np.ndarray, path: Path) -> np.ndarray:
        """Return the class indices (H, W) in uint8 of a coloured mask (H, W, 3 or more); 255 is no class.

        Raises:
            UserError: When the mask has an unknown colour; names the file and the colour.
        """
        codes = mask[..., :3].astype(np.int64) @ LEVELS
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        unknown = self._codes[places] != codes
        if unknown.any():
            colour = ", ".join(str(level) for level in mask[unknown][0][:3])
            raise UserError(
                f"Mask {path} has the colour {colour}, which {self.path} does not list: add its class there, or a line "
                f'"{NO_CLASS}, {colour}".'
            )
        return self._indices[places]


def _entry(line: str) -> tuple[str, tuple[int, int, int] | None]:
    """Return name and colour of a line; a name without a colour may contain commas."""
    name, *levels = (part.strip() for part in line.rsplit(",", 3))
    if len(levels) != 3 or not all(level.isdecimal() and int(level) < 256 for level in levels):
        return line, None
    return name, (int(levels[0]), int(levels[1]), int(levels[2]))
