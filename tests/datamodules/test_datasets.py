"""Images that cannot be read: named once, counted over all processes, left out up to a limit."""

import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

from datamodules.loader_processes import end_loader_processes
from datamodules.sampling import Draw
from mobilemamba.errors import UserError
from tests.datamodules.conftest import photographs, truncate


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_and_counted_once_over_processes_and_epochs(
    image_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    root = image_folder()
    truncate(root / "train" / "bee" / "1.jpg")
    truncate(root / "val" / "ant" / "0.jpg")
    data = photographs(root, num_workers=workers, max_corrupt=1, batch_size=1)
    for epoch in range(4):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert sum(len(batch.targets) for batch in loader) == 12
    evaluated = photographs(root, "validate", num_workers=workers)
    assert sum(len(targets) for _, targets in evaluated.val_dataloader()) == 11
    assert (data.corrupt_count, evaluated.corrupt_count) == (1, 1)
    evaluated.teardown("validate")
    assert "1 image(s) could not be read so far" in caplog.text
    if workers == 0:
        assert caplog.text.count("bee/1.jpg cannot be read") == 1
        assert "results are of the other images alone" in caplog.text


def test_unreadable_images_are_replaced_by_many_of_their_class(image_folder: Callable[..., Path]) -> None:
    root = image_folder(per_class=12)
    for number in range(6):
        (root / "train" / "bee" / f"{number}.jpg").write_text("no image at all")
    data = photographs(root).datasets["train"]
    draws = [Draw(12 + number, seed) for number in range(6) for seed in range(4)]
    replacements = [data[draw] for draw in draws]
    assert {sample.label for sample in replacements} == {1}
    assert all(torch.equal(sample.image, data[draw][0]) for draw, sample in zip(draws, replacements, strict=True))
    seen = {data.readable(draw)[0] for draw in draws}
    assert len(seen) >= 4  # of the six that can be read


def test_a_class_without_a_readable_image_is_an_error(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    for file in (root / "train" / "bee").iterdir():
        truncate(file)
    with pytest.raises(UserError, match=r"None of the 4 training images of a class can be read, .*/bee/"):
        photographs(root).datasets["train"][Draw(5, 0)]


def test_a_folder_that_vanishes_in_training_is_an_error(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    data = photographs(root)
    (root / "train" / "bee").rename(root / "gone")
    with pytest.raises(UserError, match=r"Folder .*train/bee is gone"):
        data.datasets["train"][Draw(5, 0)]


def test_companion_files_of_macos_are_no_images(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    for file in [*root.rglob("*.jpg")]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(60))
    data = photographs(root)
    assert (len(data.datasets["train"]), len(data.datasets["val"])) == (12, 12)


def test_unreadable_images_stop_by_option_or_limit(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    truncate(root / "val" / "ant" / "0.jpg")
    with pytest.raises(UserError, match=r"ant/0\.jpg.*data\.on_corrupt"):
        list(photographs(root, on_corrupt="raise", num_workers=1).val_dataloader())
    end_loader_processes()  # torch would wait long for them
    truncate(root / "val" / "ant" / "1.jpg")
    with pytest.raises(UserError, match=r"number 2, and 1 may be skipped.*data\.max_corrupt"):
        list(photographs(root, max_corrupt=1).val_dataloader())


def test_a_batch_without_a_readable_image_is_refused(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    truncate(root / "val" / "ant" / "0.jpg")
    with pytest.raises(UserError, match="No image of a whole batch can be read"):
        list(photographs(root, batch_size=1).val_dataloader())


def test_an_image_drawn_several_times_in_a_row_is_decoded_once(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photographs(image_folder()).datasets["train"]
    alone = [data[Draw(image, seed)].image for image, seed in ((3, 1), (2, 0), (3, 2))]
    opened = []
    original = data.open
    monkeypatch.setattr(data, "open", lambda source: opened.append(source) or original(source))
    one, other = data[Draw(3, 1)].image, data[Draw(3, 2)].image
    assert not opened  # the last draw above was of the same image
    assert torch.equal(one, alone[0])
    assert torch.equal(other, alone[2])
    assert not torch.equal(one, other)
    assert torch.equal(data[Draw(2, 0)].image, alone[1])
    assert len(opened) == 1


@pytest.mark.parametrize("form", ["folders", "chunks"])
def test_loader_processes_can_be_spawned(image_folder: Callable[..., Path], tmp_path: Path, form: str) -> None:
    root = image_folder()
    if form == "chunks":
        pytest.importorskip("litdata")
        pytest.importorskip("datamodules.chunks.prepare").prepare(root, tmp_path / "chunks")
        root = tmp_path / "chunks"
    dataset = photographs(root).datasets["train"]
    spawned = pickle.loads(ForkingPickler.dumps(dataset))
    for seed in range(20):
        assert torch.equal(dataset[Draw(3, seed)].image, spawned[Draw(3, seed)].image)
