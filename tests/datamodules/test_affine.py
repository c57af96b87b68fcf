"""The kernel's pixels are Pillow's."""

import random

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

pytest.importorskip("numba")

from datamodules.affine import MATRICES, use_kernel

TIMMS = {
    "ShearX": auto_augment.shear_x,
    "ShearY": auto_augment.shear_y,
    "TranslateX": auto_augment.translate_x_abs,
    "TranslateY": auto_augment.translate_y_abs,
    "TranslateXRel": auto_augment.translate_x_rel,
    "TranslateYRel": auto_augment.translate_y_rel,
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("filters", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, "either", "nearest"])
def test_pixels_are_pillows(name: str, filters: object) -> None:
    use_kernel()
    own = auto_augment.NAME_TO_OP[name]
    assert own is not TIMMS[name]
    known = {"either": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC), "nearest": Image.Resampling.NEAREST}
    options = {"resample": known.get(str(filters), filters), "fillcolor": (124, 116, 104)}
    generator = np.random.default_rng(0)
    for size in ((64, 48), (33, 57), (1, 5), (2, 2)):
        image = Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
        for strength in [*generator.uniform(-0.5, 0.5, 40), 0.0, 0.3, -0.3, 0.45, 12.25, -1e4]:
            seed = int(generator.integers(1000))
            random.seed(seed)
            moved = own(image, strength, **options)
            assert isinstance(moved, Image.Image)
            random.seed(seed)
            np.testing.assert_array_equal(np.asarray(own(np.asarray(image), strength, **options)), np.asarray(moved))
            random.seed(seed)
            np.testing.assert_array_equal(np.asarray(moved), np.asarray(TIMMS[name](image, strength, **options)))


def test_other_modes_are_left_to_timm() -> None:
    use_kernel()
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    options = {"resample": Image.Resampling.BICUBIC, "fillcolor": 9}
    moved = auto_augment.NAME_TO_OP["ShearX"](image, 0.2, **options)
    assert moved == auto_augment.shear_x(image, 0.2, **options)
