"""``python -m benchmarks loading``: how many training images a core loads in a second, in several ways.

Time is the CPU time of all processes until a batch is on the device: here the CPU, which normalises and erases.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from jsonargparse.typing import PositiveInt
from rich.progress import track
from torch import Tensor

from benchmarks.loaders import earlier_loader, timm_loader
from benchmarks.photographs import write_photographs
from benchmarks.publish import machine, replace_between, table_of, write_results
from benchmarks.stored_copy import stored_copy
from datamodules import ImageNetDataModule, MixingConfig
from datamodules.chunks.prepare import prepare
from datamodules.datasets import TrainingBatch
from mobilemamba import jpeg
from mobilemamba.errors import require

Way = Literal["earlier", "timm", "pillow", "folder", "chunks", "storage", "views 2", "views 4"]

WAYS: dict[Way, str] = {
    "earlier": "timm's transform for each image, in floats",
    "timm": "timm's `create_loader`, prefetching",
    "pillow": "this project, folders, Pillow decodes",
    "folder": "this project, folders",
    "chunks": "this project, chunks on disk",
    "storage": "this project, chunks in object storage, none on disk yet",
    "views 2": "this project, folders, 2 views of an image",
    "views 4": "this project, folders, 4 views of an image",
}
"""Every way of loading, and its name in the table."""

Loader = Callable[[], tuple[Any, Callable[[Any], tuple[Tensor, Tensor]]]]
"""Makes a loader, and the function that finishes its batches on the device."""


@dataclass(frozen=True)
class Cost:
    """Times of one way of loading, for one image.

    Args:
        way: Its name.
        milliseconds: CPU time.
        on_device: The part of it after the loader.
        wall: Elapsed time in milliseconds.
    """

    way: Way
    milliseconds: float
    on_device: float
    wall: float


def loading(
    data: Path | None = None,
    ways: list[Way] | None = None,
    images: PositiveInt = 512,
    rounds: PositiveInt = 3,
    batch_size: PositiveInt = 64,
    image_size: PositiveInt = 224,
    num_workers: PositiveInt = 1,
    output: Path = Path("runs/loading.json"),
    document: Path | None = None,
) -> None:
    """Measure ways to load training images with the recipe's augmentation, in turn.

    Args:
        data: Folder with train/ and val/. Null: photographs of noise are written, half of them 500 x 375.
        ways: Ways to measure. Null: all that the installed packages allow.
        images: Number of photographs to write.
        rounds: Epochs of each way; the fastest counts.
        batch_size: Images per batch.
        image_size: Height and width of the crops.
        num_workers: Loader processes.
        output: JSON file.
        document: Markdown file whose table is replaced; null only prints it.

    Raises:
        UserError: When there are too few images, or a package is missing.
    """
    require(images >= batch_size, "--images", images, f"{batch_size} or more, as --batch-size is")
    require(data is None or (data / "train").is_dir(), "--data", str(data), "a folder with train/ and val/")
    ways = _possible_ways() if ways is None else ways
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root = data or write_photographs(folder / "photographs", images)
        makers = dict(_makers(root, folder, ways, stack, batch_size, image_size, num_workers))
        rows: dict[Way, list[Cost]] = {way: [] for way in ways}
        for _ in track(range(rounds), "Loading"):
            for way in ways:
                rows[way].append(_measure(way, makers[way]))
    costs = [min(rows[way], key=lambda cost: cost.milliseconds) for way in ways]
    place = f"{machine(torch.device('cpu'))}, {num_workers} loader process(es), {image_size} pixels"
    text = f"{place}, fastest of {rounds} epochs\n\n{_table(costs)}"
    if document is None:
        print(f"\n{text}\n")
    else:
        replace_between(document, "loading", text)
    write_results(output, torch.device("cpu"), costs, data=str(data), rounds=rounds)


def _possible_ways() -> list[Way]:
    needed_by: dict[str, Sequence[Way]] = {"litdata": ("chunks", "storage"), "moto": ("storage",)}
    left_out = {way for package, needing in needed_by.items() if find_spec(package) is None for way in needing}
    if left_out:
        print(f"Left out, since LitData or moto is not installed: {', '.join(sorted(left_out))}")
    return [way for way in WAYS if way not in left_out]


def _makers(
    root: Path, folder: Path, ways: Sequence[Way], stack: ExitStack, batch_size: int, image_size: int, num_workers: int
) -> Iterator[tuple[Way, Loader]]:
    """Yield each way's loader maker; timm's comes first, before this project replaces some of timm's operations."""
    sizes = (batch_size, image_size, num_workers)
    if "earlier" in ways:
        yield "earlier", earlier_loader(root, *sizes)
    if "timm" in ways:
        yield "timm", timm_loader(root, *sizes)

    def ours(place: str | Path, **options: Any) -> Loader:
        def make() -> tuple[Any, Callable[[Any], tuple[Tensor, Tensor]]]:
            data = ImageNetDataModule(
                str(place),
                num_classes=None,
                batch_size=batch_size,
                image_size=image_size,
                num_workers=num_workers,
                mixing=MixingConfig(mixup=0, cutmix=0),
                **options,
            )
            data.setup("fit")
            return data.train_dataloader(), data.finish

        return make

    yield "folder", ours(root)
    yield "views 2", ours(root, repeats=2)
    yield "views 4", ours(root, repeats=4)

    def by_pillow() -> tuple[Any, Callable[[Any], tuple[Tensor, Tensor]]]:
        loader, finish = ours(root)()
        return _Patched(loader), finish

    yield "pillow", by_pillow
    if {"chunks", "storage"} & set(ways):
        prepare(root, folder / "chunks", chunk_megabytes=8)
        yield "chunks", ours(folder / "chunks")
    if "storage" in ways:
        url = stack.enter_context(stored_copy(folder / "chunks"))

        def stored() -> tuple[Any, Callable[[Any], tuple[Tensor, Tensor]]]:
            return ours(url, cache=tempfile.mkdtemp(dir=folder))()

        yield "storage", stored


class _Patched:
    """A loader whose processes are started without simplejpeg."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[TrainingBatch]:
        with patch.object(jpeg, "simplejpeg", lambda: None):
            return iter(self.loader)


def _measure(way: Way, make: Loader) -> Cost:
    loader, finish = make()
    began, before, on_device, images = time.perf_counter(), _processor_seconds(), 0.0, 0
    iterator = iter(loader)
    for batch in iterator:
        start = time.process_time()
        images += len(finish(batch)[0])
        on_device += time.process_time() - start
    wall = time.perf_counter() - began
    del batch, iterator, loader  # ends its processes, so that their time counts
    per_image = 1e3 / images
    return Cost(way, (_processor_seconds() - before) * per_image, on_device * per_image, wall * per_image)


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _table(costs: list[Cost]) -> str:
    by_way = {cost.way: cost.milliseconds for cost in costs}

    def ratio(cost: Cost, way: Way) -> str:
        return f"{by_way[way] / cost.milliseconds:.2f}" if way in by_way else "-"

    return table_of(
        "loader | CPU ms per image | of it after the loader | images/s per core | / earlier | / timm | images/s seen",
        (
            f"{WAYS[cost.way]} | {cost.milliseconds:.2f} | {cost.on_device:.2f} | {1e3 / cost.milliseconds:.0f}"
            f"| {ratio(cost, 'earlier')} | {ratio(cost, 'timm')} | {1e3 / cost.wall:.0f}"
            for cost in costs
        ),
    )
