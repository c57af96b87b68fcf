import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageNetDataModule, MixingConfig
from datamodules.datasets import CorruptImageError
from mobilemamba.errors import UserError
from tests.datamodules.conftest import save_image

UNMIXED = MixingConfig(mixup=0, cutmix=0)


def module(root: Path, stage: str = "fit", **options: Any) -> ImageNetDataModule:
    defaults = {"num_classes": 3, "image_size": 64, "batch_size": 4, "num_workers": 0, "mixing": UNMIXED}
    data = ImageNetDataModule(str(root), **(defaults | options))
    data.setup(stage)
    return data


def test_batches_and_metadata(image_folder: Callable[..., Path]) -> None:
    data = module(image_folder())
    images, targets = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype, targets.dtype) == ((4, 3, 64, 64), torch.float32, torch.int64)
    metadata = data.metadata()
    assert metadata.class_names == ("ant", "bee", "cow")
    assert metadata.image_size == (64, 64)
    assert [len(targets) for _, targets in data.val_dataloader()] == [4, 4, 4]


def test_evaluation_is_resize_and_centre_crop(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    image, _ = next(iter(module(root).val_dataloader()))
    with Image.open(root / "val" / "ant" / "0.jpg") as file:
        side = int(64 / 0.875)
        shorter = min(file.size)
        resized = file.convert("RGB").resize(
            (int(side * file.size[0] / shorter), int(side * file.size[1] / shorter)), Image.Resampling.BICUBIC
        )
    left, top = (round((length - 64) / 2) for length in resized.size)
    crop = np.asarray(resized.crop((left, top, left + 64, top + 64)), dtype=np.float32) / 255
    expected = (crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(image[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def epoch_of(data: ImageNetDataModule, epoch: int) -> torch.Tensor:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return torch.cat([images for images, _ in loader])


def test_augmentation_depends_on_seed_and_epoch_alone(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    first = epoch_of(module(root), 3)
    torch.manual_seed(123)
    assert torch.equal(epoch_of(module(root, num_workers=2), 3), first)
    assert not torch.equal(epoch_of(module(root), 4), first)
    assert not torch.equal(epoch_of(module(root, seed=1), 3), first)


def test_repeated_augmentation_gives_copies_that_differ(image_folder: Callable[..., Path]) -> None:
    data = module(image_folder(per_class=6), repeats=3, batch_size=6)
    loader = data.train_dataloader()
    draws = list(loader.sampler)
    assert len(draws) == 18
    assert len({draw.image for draw in draws}) == 6
    assert len({draw.seed for draw in draws}) == 18


def test_a_missing_root_names_the_folders_and_the_quickstart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere/train/<class>/.*nowhere/val/<class>/.*quickstart\.yaml"):
        module(tmp_path / "nowhere")


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is no ImageNet folder"):
        module(tmp_path / "file")


def test_a_class_folder_without_images_is_named(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    for file in (root / "train" / "bee").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"1 class folder\(s\) hold no images: .*train/bee"):
        module(root)


def test_train_and_val_classes_that_differ_are_named(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    (root / "val" / "cow").rename(root / "val" / "dog")
    with pytest.raises(UserError, match=r"only in val \['dog'\], missing in val \['cow'\]"):
        module(root)


def test_another_number_of_classes_names_the_option(image_folder: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"3 class folders.*--data.num_classes 3"):
        module(image_folder(), num_classes=1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3, "mixing": MixingConfig()}, "batch_size = 3 is odd"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"repeats": 0}, "repeats = 0"),
        ({"num_workers": -1}, "num_workers = -1"),
        ({"image_size": 0}, "image_size = 0"),
        ({"mean": (0.5,)}, r"data\.mean = \(0\.5,\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"data\.std = \(1\.0, 0\.0, 1\.0\)"),
        ({"crop_pct": 1.5}, r"crop_pct = 1\.5"),
        ({"max_corrupt": -1}, "max_corrupt = -1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        module(tmp_path, **options)


def test_a_batch_larger_than_the_data_is_refused(image_folder: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="batch_size = 64 is more than the 12 training images"):
        module(image_folder(), batch_size=64)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("workers", [0, 2])
def test_truncated_images_are_named_counted_and_left_out(
    image_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    root = image_folder()
    truncate(root / "train" / "bee" / "1.jpg")
    truncate(root / "val" / "ant" / "0.jpg")
    data = module(root, num_workers=workers)
    with caplog.at_level(logging.WARNING):
        assert sum(len(targets) for _, targets in data.train_dataloader()) == 12  # replaced by its neighbour
        assert sum(len(targets) for _, targets in data.val_dataloader()) == 11  # left out
    assert data.corrupt.count == 2
    if workers == 0:
        assert "bee/1.jpg cannot be read" in caplog.text


def test_truncated_images_stop_by_option_or_limit(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    truncate(root / "val" / "ant" / "0.jpg")
    with pytest.raises(CorruptImageError, match=r"ant/0\.jpg.*data\.on_corrupt"):
        list(module(root, on_corrupt="raise").val_dataloader())
    truncate(root / "val" / "ant" / "1.jpg")
    with pytest.raises(CorruptImageError, match=r"number 2.*data\.max_corrupt = 1"):
        list(module(root, max_corrupt=1).val_dataloader())


def test_an_unreadable_image_counts_once_over_workers_and_epochs(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    truncate(root / "train" / "bee" / "1.jpg")
    data = module(root, num_workers=2, max_corrupt=1, batch_size=1)
    for epoch in range(4):
        assert len(epoch_of(data, epoch)) == 12
    assert data.corrupt.count == 1


def test_an_unreadable_image_is_replaced_by_the_next(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    (root / "train" / "cow" / "3.jpg").write_text("no image at all")  # the last one: the first takes its place
    data = module(root)
    replaced = {draw.image: draw for draw in data.train_dataloader().sampler}[11]
    dataset = data.train_dataloader().dataset
    image, target = dataset[replaced]
    assert target == 0
    assert torch.equal(image, dataset[replaced._replace(image=0)][0])


def test_the_number_of_unreadable_images_is_said_at_the_end(
    image_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = image_folder()
    truncate(root / "val" / "ant" / "0.jpg")
    data = module(root, "validate")
    list(data.val_dataloader())
    data.teardown("validate")
    assert "results are of the other images alone" in caplog.text
    assert "1 image(s) could not be read" in caplog.text


def test_readable_class_names_come_from_a_file(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = image_folder()
    names = tmp_path / "names.txt"
    names.write_text("cow Cow, cattle\nant Ant\nbee Honey bee\nowl Owl\n", encoding="utf-8")
    assert module(root, class_names_file=str(names)).metadata().class_names == ("Ant", "Honey bee", "Cow, cattle")
    names.write_text("cow Cow\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"names 1 of 3 classes; missing are \['ant', 'bee'\]"):
        module(root, class_names_file=str(names))
    with pytest.raises(ValueError, match=r"class_names_file = .*nowhere is no file"):
        module(root, class_names_file=str(tmp_path / "nowhere"))


def test_prediction_reads_any_folder(tmp_path: Path) -> None:
    save_image(tmp_path / "deep" / "er" / "b.png", 0)
    save_image(tmp_path / "a.jpg", 1)
    (tmp_path / "notes.txt").touch()
    data = module(tmp_path / "no imagenet here", stage="predict", predict_folder=str(tmp_path))
    images, paths = next(iter(data.predict_dataloader()))
    assert images.shape == (2, 3, 64, 64)
    assert paths == ["a.jpg", "deep/er/b.png"]


def test_an_empty_prediction_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images"):
        module(tmp_path, stage="predict", predict_folder=str(tmp_path))
    with pytest.raises(UserError, match="nowhere is no folder"):
        module(tmp_path, stage="predict", predict_folder=str(tmp_path / "nowhere"))


@pytest.mark.skipif("IMAGENETTE_DIR" not in os.environ, reason="IMAGENETTE_DIR names no folder of photographs")
def test_real_photographs() -> None:
    data = module(Path(os.environ["IMAGENETTE_DIR"]), num_classes=10, image_size=128, num_workers=2, batch_size=32)
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (32, 3, 128, 128)
    assert targets.unique().numel() > 3
    assert data.corrupt.count == 0


def test_folders_are_scanned_once(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    data = module(root)
    shutil.move(root / "val", root / "gone")
    data.setup("validate")
    assert len(data.validation_images()) == 12
