from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import AugmentationConfig, DigitsDataModule


def test_digits_behave_like_photographs() -> None:
    data = DigitsDataModule()
    data.setup("fit")
    images, targets = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype, targets.dtype) == ((64, 3, 64, 64), torch.float32, torch.int64)
    assert data.metadata().class_names == tuple("0123456789")
    assert (len(data.training_images()), len(data.validation_images())) == (1437, 360)
    assert sum(len(targets) for _, targets in data.val_dataloader()) == 360


def test_the_split_is_the_same_for_every_seed_and_has_all_classes() -> None:
    labels = []
    for seed in (0, 1):
        data = DigitsDataModule(seed=seed)
        data.setup("validate")
        labels.append([target for _, target in data.validation_images()])
    assert labels[0] == labels[1]
    assert min(torch.bincount(torch.tensor(labels[0]))) >= 34


def test_more_digits_may_be_validated_on() -> None:
    data = DigitsDataModule(validation_share=0.75, batch_size=32)
    data.setup("fit")
    assert (len(data.training_images()), len(data.validation_images())) == (449, 1348)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_that_leave_nothing_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"data.validation_share = {share} must be"):
        DigitsDataModule(validation_share=share)


def test_digits_in_files_are_predicted_like_those_of_the_set(tmp_path: Path) -> None:
    data = DigitsDataModule()
    data.setup("validate")
    data.validation_images()[0][0].save(tmp_path / "digit.png")
    (tmp_path / "broken.png").write_text("no image")
    from_files = DigitsDataModule(predict_folder=str(tmp_path))
    from_files.setup("predict")
    images, paths = next(iter(from_files.predict_dataloader()))
    assert paths == ["digit.png"]
    torch.testing.assert_close(images, next(iter(data.val_dataloader()))[0][:1])


def test_other_numbers_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes = 5"):
        DigitsDataModule(num_classes=5)


def test_small_turns_and_shifts_are_applied() -> None:
    still = AugmentationConfig(
        auto_augment=None,
        color_jitter=0,
        crop_scale=(1, 1),
        crop_ratio=(1, 1),
        horizontal_flip=0,
        interpolation="bicubic",
        erasing_probability=0,
    )
    moved = replace(still, rotation=20.0, translation=0.2)
    batches = []
    for augmentation in (still, moved):
        data = DigitsDataModule(augmentation=augmentation)
        data.setup("fit")
        batches.append(next(iter(data.train_dataloader())))
    assert torch.equal(batches[0][1], batches[1][1])
    assert not torch.equal(batches[0][0], batches[1][0])
    draw = next(iter(data.train_dataloader().sampler))
    source, _ = data.training_images()[draw.image]
    expected = (torch.from_numpy(np.array(source)).permute(2, 0, 1) / 255 - 0.5) / 0.5
    torch.testing.assert_close(batches[0][0][0], expected)  # nothing but normalisation is left
