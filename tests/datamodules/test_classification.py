from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageNetDataModule, MixingConfig
from mobilemamba.errors import UserError
from tests.datamodules.conftest import photographs


def epoch_of(data: ImageNetDataModule, epoch: int) -> torch.Tensor:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return torch.cat([data.finish(batch)[0] for batch in loader])


def test_batches_are_normalised_images_with_class_indices(image_folder: Callable[..., Path]) -> None:
    data = photographs(image_folder(), repeats=2)
    assert len({draw.image for draw in data.train_dataloader().sampler}) == 6
    batch = next(iter(data.train_dataloader()))
    assert (batch.images.shape, batch.images.dtype) == ((4, 64, 64, 3), torch.uint8)
    images, targets = data.finish(batch)
    assert (images.shape, images.dtype, targets.dtype) == ((4, 3, 64, 64), torch.float32, torch.int64)
    assert data.metadata().image_size == (64, 64)
    assert [len(targets) for _, targets in data.val_dataloader()] == [4, 4, 4]


def test_evaluation_is_resize_and_centre_crop(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    image, target = photographs(root).validation_dataset()[0] or (None, None)
    with Image.open(root / "val" / "ant" / "0.jpg") as file:
        scale = int(64 / 0.875) / min(file.size)
        size = (int(scale * file.size[0]), int(scale * file.size[1]))
        resized = file.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - 64) / 2) for length in resized.size)
    crop = np.asarray(resized.crop((left, top, left + 64, top + 64)), dtype=np.float32) / 255
    expected = (crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert target == 0
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_augmentation_depends_on_seed_and_epoch_alone(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    first = epoch_of(photographs(root), 3)
    torch.manual_seed(123)
    assert torch.equal(epoch_of(photographs(root, num_workers=2), 3), first)
    assert not torch.equal(epoch_of(photographs(root), 4), first)
    assert not torch.equal(epoch_of(photographs(root, seed=1), 3), first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3, "mixing": MixingConfig()}, "batch_size = 3 must be even"),
        ({"batch_size": 0}, "batch_size = 0 must be 1 or more"),
        ({"num_workers": -1}, "num_workers = -1 must be 0 or more"),
        ({"mean": (0.5,)}, r"data\.mean = \(0\.5,\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"data\.std = \(1\.0, 0\.0, 1\.0\)"),
        ({"crop_pct": 1.5}, r"crop_pct = 1\.5"),
        ({"balance": 2.0}, r"data\.balance = 2\.0 must be from 0"),
        ({"num_classes": 1}, r"data\.num_classes = 1 must be 2 or more"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        photographs(tmp_path, **options)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="batchsize"):
        ImageNetDataModule(batchsize=8)


def test_a_batch_larger_than_the_data_is_refused(image_folder: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="batch_size = 64 makes batches of 64 images, more than the 12 training images"):
        photographs(image_folder(), batch_size=64)
