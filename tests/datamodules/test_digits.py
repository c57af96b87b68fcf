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


def test_other_numbers_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes = 5"):
        DigitsDataModule(num_classes=5)


def test_augmentation_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"augmentation\.horizontal_flip = 2"):
        AugmentationConfig(horizontal_flip=2)
    with pytest.raises(ValueError, match=r"augmentation\.crop_scale"):
        AugmentationConfig(crop_scale=(0.9, 0.1))
