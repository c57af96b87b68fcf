import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.digits import MILD_AUGMENTATION, DigitsDataModule
from mobilemamba.errors import UserError


def test_digits_behave_like_photographs() -> None:
    data = DigitsDataModule(validation_share=0.75)
    data.setup("fit")
    images, targets = data.finish(next(iter(data.train_dataloader())))
    assert (images.shape, images.dtype, targets.dtype) == ((64, 3, 64, 64), torch.float32, torch.int64)
    assert data.metadata().class_names == tuple("0123456789")
    assert (len(data.datasets["train"]), len(data.validation_dataset())) == (449, 1348)


def test_the_split_is_the_same_for_every_seed_and_has_all_classes() -> None:
    labels = []
    for seed in (0, 1):
        data = DigitsDataModule(seed=seed)
        data.setup("validate")
        labels.append([target for _, target in data.validation_dataset()])
    assert labels[0] == labels[1]
    assert len(labels[0]) == 360
    assert min(torch.bincount(torch.tensor(labels[0]))) >= 34


def test_some_digits_and_few_of_each() -> None:
    data = DigitsDataModule(digits=(7, 2), train_per_class=3, batch_size=6)
    data.setup("fit")
    assert (data.num_classes, data.class_names) == (2, ("7", "2"))
    everything = DigitsDataModule()
    everything.setup("fit")
    images, targets = zip(*data.load("train"), strict=True)
    assert sorted(targets) == [0, 0, 0, 1, 1, 1]
    [first, *_] = (image for image, target in everything.load("train") if target == 7)
    assert next(image for image, target in zip(images, targets, strict=True) if target == 0) == first


@pytest.mark.parametrize(
    "options",
    [
        {"validation_share": 0.0},
        {"validation_share": 1.0},
        {"num_classes": 5},
        {"digits": (1, 1)},
        {"train_per_class": 0},
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=re.escape(f"data.{name} = {value} must be")):
        DigitsDataModule(**options)


def test_digits_in_files_are_predicted_like_those_of_the_set(tmp_path: Path) -> None:
    data = DigitsDataModule()
    data.setup("validate")
    data.validation_dataset().images[0][0].save(tmp_path / "digit.png")
    (tmp_path / "broken.png").write_text("no image")
    from_files = DigitsDataModule(predict_folder=str(tmp_path))
    from_files.setup("predict")
    images, paths = next(iter(from_files.predict_dataloader()))
    assert paths == ["digit.png"]
    torch.testing.assert_close(images, next(iter(data.val_dataloader()))[0][:1])


def test_small_turns_and_shifts_are_applied() -> None:
    still = replace(MILD_AUGMENTATION, crop_scale=(1, 1), crop_ratio=(1, 1), rotation=0, translation=0)
    moved = replace(still, rotation=20.0, translation=0.2)
    batches = []
    for augmentation in (still, moved):
        data = DigitsDataModule(augmentation=augmentation)
        data.setup("fit")
        batches.append(data.finish(next(iter(data.train_dataloader()))))
    assert torch.equal(batches[0][1], batches[1][1])
    assert not torch.equal(batches[0][0], batches[1][0])
    draw = next(iter(data.train_dataloader().sampler))
    source, _ = data.datasets["train"].images[draw.image]
    expected = (torch.from_numpy(np.array(source)).permute(2, 0, 1) / 255 - 0.5) / 0.5
    torch.testing.assert_close(batches[0][0][0], expected)  # nothing but normalisation is left
