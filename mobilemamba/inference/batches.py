"""Image files in batches, prepared as a network expects them, in other processes and with a progress bar."""

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
"""Index of a file, its image (3, H, W), and what is wrong where there is none."""


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
        raise UserError("No images are named: give image files or folders.")
    return list(files)


def read_batches(
    files: Sequence[Path], metadata: ModelMetadata, batch_size: int, workers: int, problems: list[str]
) -> Iterator[tuple[list[int], Tensor]]:
    """Go through image files with a progress bar on the terminal.

    Args:
        files: What to read.
        metadata: How images are prepared.
        batch_size: Images per batch at most.
        workers: Processes that read; 0 reads in this one.
        problems: Gets what is wrong with each image that cannot be read and is left out.

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
    """Say at the end which images could not be read, so that the command does not end as a success.

    Args:
        problems: What is wrong with each.
        others: What has become of the other images.

    Raises:
        UserError: When there are any.
    """
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError(f"{len(problems)} image(s) could not be read; {others}. {' '.join(problems[:10])}{more}")
