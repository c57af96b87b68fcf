"""Images listed in a table instead of in folders of classes."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.classes import SHOWN, check_class_names, check_every_class_has_images
from datamodules.folders import SPLITS
from datamodules.image_files import ImageFiles
from mobilemamba.errors import UserError
from mobilemamba.images import printable


class ImageTable:
    """A CSV or Parquet file with the columns path, label and split (train, val or test), such as a run's split.csv.

    Classes are sorted by name, or by value if all names are whole numbers.

    Args:
        file: The table.
        folder: Folder that its paths are relative to.
        undivided: Whether training and validation images are not split yet: no image is in "val", and without a column
            split all are in "train".
    """

    def __init__(self, file: Path, folder: Path, undivided: bool) -> None:
        self.file, self.folder, self.undivided = file, folder, undivided

    def has(self, split: str) -> bool:
        """Return whether there are images of a split."""
        return bool((self.rows["split"] == split).any())

    def missing(self) -> str:
        """Return an error message where the table is missing, otherwise ""."""
        return "" if self.file.is_file() else f"data.table = {self.file} must be a file: it does not exist."

    @cached_property
    def rows(self) -> Any:
        """All rows as a pandas.DataFrame of text; they are checked, but not whether the files exist.

        Raises:
            UserError: When the table cannot be read, lacks a column, or has duplicate or incomplete rows.
        """
        rows = _read(self.file)
        if self.undivided and "split" not in rows:
            rows["split"] = "train"
        missing = [name for name in ("path", "label", "split") if name not in rows]
        if missing:
            raise UserError(
                f"data.table = {self.file} lacks the column(s) {', '.join(missing)}: it has {', '.join(rows)}. "
                "Without a column split, set data.validation_share, such as 0.2."
            )
        place = rows["path"].map(lambda path: os.path.normpath(self.folder / path))
        unknown = rows["split"][~rows["split"].isin(SPLITS)].drop_duplicates()
        self._refuse(rows["path"][(rows["path"] == "") | (rows["label"] == "")], "row(s) without path or label")
        self._refuse(rows["path"][place.duplicated()], "path(s) more than once")
        self._refuse(unknown, f"split(s) other than {', '.join(SPLITS)}")
        return rows

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in any split."""
        names = set(self.rows["label"])
        numbers = all(name.isascii() and name.isdigit() for name in names)
        classes = tuple(sorted(names, key=(lambda name: (int(name), name)) if numbers else None))
        check_class_names(classes, str(self.file))
        return classes

    def counts(self) -> dict[str, int]:
        """Return every class with its number of images in all splits."""
        counts: dict[str, int] = self.rows["label"].value_counts().to_dict()
        return counts

    def load(self, split: str) -> ImageFiles:
        """Return the images of a split, "train" for all that are not split yet.

        Raises:
            UserError: When files are missing, or a class has no images in train or val; names them.
        """
        rows = self.rows[self.rows["split"] == split]
        missing = [path for path in rows["path"] if not os.path.isfile(self.folder / path)]
        self._refuse(missing, f"file(s) that are not in {self.folder}")
        index = {name: number for number, name in enumerate(self.classes)}
        images = ImageFiles(self.folder, list(rows["path"]), [index[label] for label in rows["label"]])
        if split != "test":
            remedy = "Add rows, or remove the class(es) from all splits."
            check_every_class_has_images(images.targets, self.classes, f'Split "{split}" of {self.file}', remedy)
        return images

    def _refuse(self, values: Any, what: str) -> None:
        """Raise an error that counts and names wrong values, if there are any."""
        if len(values):
            shown = ", ".join(repr(value) for value in list(values)[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
            raise UserError(
                printable(f"data.table = {self.file} has {len(values)} {what}: {shown}. Correct the table.")
            )


def _read(file: Path) -> Any:
    import pandas as pd  # slow to import

    try:
        if file.suffix.lower() == ".parquet":
            rows = pd.read_parquet(file).astype(object)
        else:  # a class may be called NA, and a file may have a name that is not UTF-8
            options: dict[str, Any] = {"encoding": "utf-8-sig", "encoding_errors": "surrogateescape"}
            rows = pd.read_csv(file, dtype=str, keep_default_na=False, index_col=False, **options)
        return rows.where(rows.notna(), "").astype(str)
    except ImportError as error:
        raise UserError(f"data.table = {file} needs pyarrow: pip install pyarrow, or give a CSV file.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"data.table = {file} cannot be read as a table: {error}") from error
