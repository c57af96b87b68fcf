"""``mobilemamba prepare``: writes an image folder as chunks, to read from disk or from object storage."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.chunks.manifest import Manifest
from datamodules.chunks.reading import ImageChunks
from datamodules.chunks.source import LocalChunks
from datamodules.chunks.writing import SplitWriter
from datamodules.folders import SPLITS, ClassFolders
from mobilemamba.errors import UserError, require
from mobilemamba.files import check_writable

MOST_MEGABYTES = 4000
"""Largest chunk: its offsets have 32 bits."""


def prepare(root: Path, output: Path, chunk_megabytes: int = 64, all_formats: bool = False, seed: int = 0) -> None:
    """Write the files of class folders unchanged into LitData's chunks, or continue; then read all of them back.

    Training images are shuffled, so that each chunk has images of all classes. ``data.root`` takes the folder, or a
    copy of it in object storage, such as s3://BUCKET/FOLDER.

    Args:
        root: Folder with train/, val/ and test/, or some of them, each with one folder of images per class.
        output: Folder for the chunks, about as large as the images.
        chunk_megabytes: Largest size of a chunk in 1e6 bytes.
        all_formats: Whether to look for images of every format that Pillow decodes, not only for the usual ones.
        seed: Seed of the shuffling.

    Raises:
        UserError: When an argument cannot be used, an image cannot be read, or a chunk is damaged.
    """
    require(1 <= chunk_megabytes <= MOST_MEGABYTES, "--chunk-megabytes", chunk_megabytes, f"1 to {MOST_MEGABYTES}")
    require(seed >= 0, "--seed", seed, "0 or more")
    if find_spec("litdata") is None:
        raise UserError("mobilemamba prepare needs LitData: pip install mobilemamba-lightning[chunks].")
    source = ClassFolders(root, all_formats, undivided=False)
    splits = [split for split in SPLITS if source.has(split)]
    if not splits:
        raise UserError(f"--root = {root} must have train/<class>/ or val/<class>/: there are no folders of classes.")
    images = {split: source.load(split) for split in splits}
    check_writable(output)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for split in splits:
            count = len(images[split])
            generator = np.random.default_rng(seed)
            order = generator.permutation(count) if split == "train" else np.arange(count)
            writer = SplitWriter(images[split], source.classes, order, output / split, chunk_megabytes * 10**6)
            task = progress.add_task(f"Writing {split}", total=count)
            for done in writer.write():
                progress.update(task, completed=done)
            manifest = writer.finish()
            _verify(manifest, output / split, progress, split)
            print(f"{split}: {count:,} images in {len(manifest.chunks):,} chunks, read back and compared.")


def _verify(manifest: Manifest, folder: Path, progress: Progress, split: str) -> None:
    """Read all images back, in the order of the chunks, and compare their checksums."""
    images = ImageChunks(manifest, LocalChunks(folder))
    task = progress.add_task(f"Checking {split}", total=len(images))
    for members in images.members():
        for index in members.tolist():
            images[index]
        progress.advance(task, len(members))
