"""Loads image files in batches, prepared for a network, in other processes and with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobilemamba.errors import UserError
from mobilemamba.images import find_images, open_image
from mobilemamba.metadata import ModelMetadata
from mobilemamba.preprocessing import evaluation_transform

Sample = tuple[int, Tensor | None, str]
"""Index of a file, its image (3, H, W), and the error message where it cannot be read."""


class ImageFolderFiles(Dataset[Sample]):
    """Images by index; an unreadable one is None with the reason.

    Args:
        files: Image files.
        metadata: How they are prepared.
    """

    def __init__(self, files: Sequence[Path], metadata: ModelMetadata) -> None:
        self.files = list(files)
        self.metadata = metadata
        self.transform = evaluation_transform(metadata)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """Return one image."""
        try:
            return index, self.transform(open_image(self.files[index], self.metadata)), ""
        except UserError as error:
            return index, None, str(error)


def find_all(images: Sequence[str]) -> list[Path]:
    """Return the files that are named, and those in the folders that are named, each once.

    Raises:
        UserError: When one does not exist, or a folder holds no images.
    """
    files: dict[Path, None] = {}
    for name in images:
        path = Path(name).expanduser()
        if path.is_file():
            files[path] = None
        else:
            files |= dict.fromkeys(find_images(path, "images"))
    if not files:
        raise UserError("No images are given: name image files or folders.")
    return list(files)


def read_batches(
    files: Sequence[Path], metadata: ModelMetadata, batch_size: int, workers: int, problems: list[str]
) -> Iterator[tuple[list[int], Tensor]]:
    """Read image files in batches, with a progress bar on the terminal.

    Args:
        files: Image files.
        metadata: How images are prepared.
        batch_size: Images per batch at most.
        workers: Processes that read; 0 reads in this one.
        problems: Collects an error message for each image that cannot be read; it is left out.

    Yields:
        Indices of files and their images (B, 3, H, W); no batch is empty.
    """
    loader: DataLoader[Sample] = DataLoader(
        ImageFolderFiles(files, metadata), batch_size, num_workers=workers, collate_fn=list
    )
    for samples in track(loader, "images", console=Console(stderr=True), transient=True):
        problems += [reason for _, image, reason in samples if image is None]
        readable = [(index, image) for index, image, _ in samples if image is not None]
        if readable:
            yield [index for index, _ in readable], torch.stack([image for _, image in readable])


def refuse_unreadable(problems: Sequence[str], others: str) -> None:
    """Fail at the end of a command if images could not be read, and name them.

    Args:
        problems: An error message for each.
        others: What was done with the other images.

    Raises:
        UserError: When there are any.
    """
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError(f"{len(problems)} image(s) could not be read; {others}. {' '.join(problems[:10])}{more}")
