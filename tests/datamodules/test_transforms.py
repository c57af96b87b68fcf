from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.posterize import posterize
from datamodules.seeding import seeded
from datamodules.transforms import AugmentationConfig, training_transform
from mobilemamba.errors import UserError
from mobilemamba.metadata import ModelMetadata

METADATA = ModelMetadata(image_size=(32, 32))


def photograph() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))


def test_posterize_takes_any_number_of_bits() -> None:
    image = photograph()
    assert not np.asarray(posterize(image, 0)).any()
    np.testing.assert_array_equal(np.asarray(posterize(image, 3)), np.asarray(image) & 0b11100000)
    assert posterize(image, 8) is image


@pytest.mark.parametrize("policy", ["rand-m10-n15-mstd2-inc1", "original", "v0r", "augmix-m5"])
def test_every_policy_runs_at_full_strength(policy: str) -> None:
    transform = training_transform(AugmentationConfig(auto_augment=policy, color_jitter=0), METADATA)
    for seed in range(150):
        with seeded(seed):
            assert transform(photograph()).isfinite().all()


def test_the_recipe_is_the_default() -> None:
    crop, flip, augment, _, _, erase = training_transform(AugmentationConfig(), METADATA).transforms
    assert (crop.scale, crop.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert {mode.value for mode in crop.interpolation} == {"bilinear", "bicubic"}
    assert flip.p == 0.5
    assert (len(augment.ops), augment.num_layers) == (15, 2)
    assert posterize in [op.aug_fn for op in augment.ops]
    assert {(op.magnitude, op.magnitude_std) for op in augment.ops} == {(9, 0.5)}
    assert (erase.probability, erase.per_pixel) == (0.25, True)


def test_a_seed_is_put_back_for_all_generators() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1):
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [("horizontal_flip", 2), ("crop_scale", (0.9, 0.1)), ("auto_augment", "None"), ("rotation", -1)],
)
def test_augmentation_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"augmentation\.{field} = "):
        AugmentationConfig(**{field: value})
