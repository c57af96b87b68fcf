import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from datamodules.erasing import RandomErasing
from datamodules.normalising import normalise
from datamodules.posterize import posterize
from datamodules.seeding import seeded
from datamodules.transforms import AugmentationConfig, TrainingTransform
from mobilemamba.errors import UserError
from mobilemamba.metadata import ModelMetadata

METADATA = ModelMetadata(image_size=(32, 32))
UNALTERED = AugmentationConfig(auto_augment=None, color_jitter=0, erasing_probability=0)


def photograph() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))


def smooth_photograph() -> np.ndarray:
    return np.array(photograph().resize((500, 375), Image.Resampling.BICUBIC))


def test_posterize_takes_any_number_of_bits() -> None:
    image = photograph()
    assert not np.asarray(posterize(image, 0)).any()
    np.testing.assert_array_equal(np.asarray(posterize(image, 3)), np.asarray(image) & 0b11100000)
    assert posterize(image, 8) is image


@pytest.mark.parametrize("policy", ["rand-m10-n15-mstd2-inc1", "original", "v0r", "augmix-m5"])
def test_every_policy_runs_at_full_strength(policy: str) -> None:
    transform = TrainingTransform(AugmentationConfig(auto_augment=policy, color_jitter=0), METADATA)
    for seed in range(150):
        with seeded(seed):
            image = transform(np.array(photograph()))
        assert (image.shape, image.dtype) == ((32, 32, 3), torch.uint8)


def test_the_recipe_is_the_default() -> None:
    transform = TrainingTransform(AugmentationConfig(), METADATA)
    crop = transform.crop.crop
    (augment,) = transform.augment.transforms
    assert (crop.scale, crop.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert set(transform.crop.filters) == {"bilinear", "bicubic"}
    assert transform.crop.flip == 0.5
    assert (len(augment.ops), augment.num_layers) == (15, 2)
    assert posterize in [getattr(op.aug_fn, "function", None) for op in augment.ops]
    assert {(op.magnitude, op.magnitude_std) for op in augment.ops} == {(9, 0.5)}
    assert transform.erasing == RandomErasing(0.25, "pixel")


def timms(config: AugmentationConfig) -> Any:
    """timm's own transform on Pillow images, of the same draws."""
    return create_transform(
        METADATA.image_size,
        is_training=True,
        scale=config.crop_scale,
        ratio=config.crop_ratio,
        hflip=config.horizontal_flip,
        color_jitter=config.color_jitter or None,
        auto_augment=config.auto_augment,
        interpolation=config.interpolation,
        re_prob=config.erasing_probability,
        re_mode=config.erasing_mode,
    )


def test_boxes_filters_and_flips_are_timms_and_pixels_differ_by_rounding() -> None:
    transform, reference = TrainingTransform(UNALTERED, METADATA), timms(UNALTERED)
    pixels, differences = smooth_photograph(), []
    for seed in range(100):
        with seeded(seed):
            own = transform(pixels)
        with seeded(seed):
            theirs = reference(Image.fromarray(pixels))
        expected = theirs * torch.tensor(METADATA.std).view(3, 1, 1) + torch.tensor(METADATA.mean).view(3, 1, 1)
        differences.append((own.permute(2, 0, 1) - expected * 255).abs())
    different = torch.stack(differences)
    assert different.max() < 1.5  # levels of 255
    assert different.mean() < 0.1


def test_operations_and_their_strengths_are_timms() -> None:
    config = AugmentationConfig(erasing_probability=0)
    transform, reference = TrainingTransform(config, METADATA), timms(config)
    pixels = smooth_photograph()
    means = []
    for seed in range(200):
        with seeded(seed):
            own = normalise(transform(pixels)[None], METADATA.mean, METADATA.std)[0]
        with seeded(seed):
            theirs = reference(Image.fromarray(pixels))
        means.append((own - theirs).abs().mean())
    # Solarising and equalising make much of the rounding in a few images; another draw would change most of an image.
    assert torch.stack(means).median() < 0.01
    assert torch.stack(means).quantile(0.95) < 0.1


def test_bytes_are_normalised_to_the_last_bit_as_by_timm() -> None:
    whole = AugmentationConfig(None, 0, (1, 1), (1, 1), 0, erasing_probability=0)
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    own = normalise(torch.from_numpy(pixels)[None], METADATA.mean, METADATA.std)[0]
    assert torch.equal(own, timms(whole)(Image.fromarray(pixels)))
    assert own.is_contiguous()


def test_a_seed_is_put_back_for_all_generators() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1):
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)


def test_in_a_loader_process_a_seed_starts_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    def draws() -> list[float]:
        return [random.random(), np.random.random(), torch.rand(()).item()]

    with seeded(2**62 + 5):
        expected = draws()
    monkeypatch.setattr("datamodules.seeding.get_worker_info", lambda: "a loader process")
    with seeded(2**62 + 5):
        assert draws() == expected


@pytest.mark.parametrize(
    ("field", "value"), [("horizontal_flip", 2), ("crop_scale", (0.9, 0.1)), ("auto_augment", "None"), ("rotation", -1)]
)
def test_augmentation_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"augmentation\.{field} = "):
        AugmentationConfig(**{field: value})
