"""Images in chunks: what is in them, the same draws as from folders, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.block_sampling import BlockSampler
from datamodules.chunks import writing
from datamodules.chunks.manifest import MANIFEST, TABLE
from datamodules.chunks.reading import NamedChunks
from experiments.cli import main
from mobilemamba.errors import UserError
from tests.datamodules.conftest import photographs, save_image

litdata = pytest.importorskip("litdata")
prepare = pytest.importorskip("datamodules.chunks.prepare")

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """About three images in a chunk."""

    class SmallWriter(writing.SplitWriter):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments[:-1], 20_000)

    monkeypatch.setattr(prepare, "SplitWriter", SmallWriter)


@pytest.fixture
def folders(image_folder: Make, tmp_path: Path) -> tuple[Path, Path]:
    root, output = image_folder(per_class=6), tmp_path / "chunks"
    prepare.prepare(root, output)
    return root, output


def batches(data: Any, epoch: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [data.finish(batch) for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folders(folders: tuple[Path, Path], workers: int) -> None:
    root, output = folders
    assert len(list((output / "train").glob("*.bin"))) > 3
    from_folder, from_chunks = photographs(root), photographs(output, num_workers=workers)
    assert from_chunks.class_names == from_folder.class_names
    assert from_chunks.class_counts == from_folder.class_counts
    for one, other in zip(batches(from_folder), batches(from_chunks), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    for one, other in zip(from_folder.val_dataloader(), from_chunks.val_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])


def test_litdata_reads_the_chunks(folders: tuple[Path, Path]) -> None:
    root, output = folders
    dataset = litdata.StreamingDataset(str(output / "train"))
    files = {path.read_bytes() for path in (root / "train").rglob("*.jpg")}
    items = [dataset[index] for index in range(len(dataset))]
    assert {content for content, _, _ in items} == files
    assert {path: label for _, label, path in items} == {
        f"train/{name}/{number}.jpg": label for label, name in enumerate(("ant", "bee", "cow")) for number in range(6)
    }


def test_a_stopped_run_goes_on_and_gives_the_same(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, output = folders
    written: list[str] = []
    original = writing.SplitWriter._write_chunk

    def stops(self: Any, file: Path, indices: list[int], contents: list[bytes]) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file.name)
        original(self, file, indices, contents)

    again = tmp_path / "again"
    monkeypatch.setattr(writing.SplitWriter, "_write_chunk", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(root, again)
    assert sorted(path.name for path in (again / "train").iterdir()) == ["chunk-0-0.bin", "chunk-0-1.bin"]
    (again / "train" / "chunk-0-0.bin").write_bytes(b"damaged")
    written = []
    monkeypatch.setattr(
        writing.SplitWriter,
        "_write_chunk",
        lambda self, file, *rest: (written.append(file.name), original(self, file, *rest)),
    )
    prepare.prepare(root, again)
    assert "chunk-0-0.bin" in written
    assert "chunk-0-1.bin" not in written[:2]
    for file in (output / "train").iterdir():
        assert (again / "train" / file.name).read_bytes() == file.read_bytes()


def test_a_second_run_writes_no_chunk_and_other_images_are_refused(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = folders
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*.bin")}
    assert main(["prepare", str(root), "--output", str(output)]) == 0
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*.bin")} == before
    assert "train: 18 images in" in capsys.readouterr().out
    save_image(root / "train" / "ant" / "new.jpg", 0)
    assert main(["prepare", str(root), "--output", str(output)]) == 1
    assert "holds other images than" in capsys.readouterr().err


def flip_a_bit(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)


def test_a_damaged_chunk_is_named_where_it_is_read(folders: tuple[Path, Path]) -> None:
    _, output = folders
    flip_a_bit(output / "train" / "chunk-0-1.bin", 5000)
    with pytest.raises(UserError, match=r"Chunk .*chunk-0-1\.bin is damaged: the checksum of train/.*jpg"):
        batches(photographs(output, batch_size=1))


@pytest.mark.parametrize("place", [0, 4, 9])
def test_damaged_offsets_are_damage_too(folders: tuple[Path, Path], place: int) -> None:
    _, output = folders
    file = output / "train" / "chunk-0-0.bin"
    file.write_bytes(file.read_bytes()[:place] + b"\xff\xff\xff\xff" + file.read_bytes()[place + 4 :])
    images = photographs(output).datasets["train"].images
    if place == 0:  # the number of images, which the manifest says too
        assert len(list(images)) == 18
        return
    with pytest.raises(UserError, match="is damaged"):
        list(images)


@pytest.mark.parametrize(
    ("name", "kept", "message"),
    [
        ("chunk-0-1.bin", 0, r"Chunk .*chunk-0-1\.bin has 0 bytes instead of \d+"),
        ("chunk-0-1.bin", None, r"Chunk .*chunk-0-1\.bin is missing"),
        (MANIFEST, -40, r"train holds no whole chunks .*run `mobilemamba prepare` again"),
        (TABLE, -40, r"train holds no whole chunks .*run `mobilemamba prepare` again"),
    ],
)
def test_damaged_folders_are_refused_before_training(
    folders: tuple[Path, Path], name: str, kept: int | None, message: str
) -> None:
    file = folders[1] / "train" / name
    content = file.read_bytes()
    file.unlink()
    if kept is not None:
        file.write_bytes(content[:kept])
    with pytest.raises(UserError, match=message):
        photographs(folders[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], r"--root = nowhere must have train/"),
        (["ROOT", "--chunk-megabytes", "0"], r"--chunk-megabytes = 0 must be 1 to 4000"),
        (["ROOT", "--seed", "-1"], r"--seed = -1 must be 0 or more"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    options: list[str], message: str, image_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(per_class=1)
    words = [str(root) if word == "ROOT" else word for word in options]
    assert main(["prepare", *words, "--output", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_empty_class_is_refused_before_anything_is_written(image_folder: Make, tmp_path: Path) -> None:
    root = image_folder(per_class=1)
    (root / "train" / "bee" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"train has no images of 1 class\(es\): bee"):
        prepare.prepare(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_vanishes_while_it_is_written_is_named(
    image_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(per_class=6)
    original = writing.SplitWriter._write_chunk

    def loses_one(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        for file in (root / "train" / "bee").iterdir():
            file.unlink()

    monkeypatch.setattr(writing.SplitWriter, "_write_chunk", loses_one)
    with pytest.raises(UserError, match=r"Image .*train/bee/\d\.jpg cannot be read \(No such file"):
        prepare.prepare(root, tmp_path / "out")
    assert not (tmp_path / "out" / "train" / MANIFEST).exists()


def test_without_litdata_prepare_names_the_extra(
    image_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install mobilemamba-lightning\[chunks\]"):
        prepare.prepare(image_folder(), tmp_path / "out")


def test_chunks_are_not_divided_again(folders: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"leave out data\.validation_share"):
        photographs(folders[1], validation_share=0.2)


def test_chunks_are_predicted_one_at_a_time_under_their_paths(folders: tuple[Path, Path]) -> None:
    data = photographs(folders[1], stage="predict")
    paths = [path for _, paths in data.predict_dataloader() for path in paths]
    assert paths == [f"val/{name}/{number}.jpg" for name in ("ant", "bee", "cow") for number in range(6)]
    assert isinstance(data.datasets["predict"].images, NamedChunks)


def block_samplers(world_size: int, repeats: int = 1, **options: Any) -> list[BlockSampler]:
    members = [np.arange(start, start + 10) for start in range(0, 200, 10)]
    return [BlockSampler(members, 2, 200, 5, rank, world_size, repeats, **options) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_read_disjoint_parts_once_in_an_epoch(world_size: int) -> None:
    drawn = [[draw.image for draw in sampler] for sampler in block_samplers(world_size)]
    every = [image for images in drawn for image in images]
    assert len(set(every)) == len(every) == 200 // world_size * world_size
    shared = sum(len({image // 10 for image in images}) for images in drawn) - 20
    assert shared <= world_size - 1  # chunks that two processes read: those where a part ends
    for images in drawn:
        at_once = [len({image // 10 for image in images[start : start + 20]}) for start in range(0, len(images), 20)]
        assert max(at_once) <= 5
        assert images != sorted(images)


def test_blocks_depend_on_seed_and_epoch_and_resume() -> None:
    (sampler,), (again,) = block_samplers(1), block_samplers(1, epoch=3, start=50)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(3)
    assert first != list(sampler)
    assert list(sampler)[50:] == list(again)


def test_repeats_of_blocks_are_in_a_row() -> None:
    drawn = [draw.image for draw in block_samplers(2, repeats=2)[0]]
    assert len(drawn) == 100
    assert drawn[::2] == drawn[1::2]
    assert len(set(drawn)) == 50
