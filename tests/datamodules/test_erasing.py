import random

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing as TimmsErasing

from datamodules.erasing import NONE, RandomErasing

SIZE = (48, 64)


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_rectangles_are_those_that_timm_draws(probability: float) -> None:
    own, timms = RandomErasing(probability, "const"), TimmsErasing(probability, device="cpu")
    erased = 0
    for seed in range(200):
        random.seed(seed)
        drawn = own.draw(SIZE, seed)
        random.seed(seed)
        expected = timms(torch.ones(3, *SIZE))
        images = torch.ones(1, 3, *SIZE)
        own.erase(images, np.array([drawn]))
        assert torch.equal(images[0], expected)
        erased += drawn != NONE
    assert abs(erased / 200 - probability) < 0.1


def test_noise_depends_on_its_seed_alone() -> None:
    images = torch.zeros(3, 3, *SIZE)
    RandomErasing(1, "pixel").erase(images, np.array([(1, 2, 20, 30, 7), NONE, (9, 8, 20, 30, 7)]))
    assert torch.equal(images[0, :, 1:21, 2:32], images[2, :, 9:29, 8:38])
    assert not images[1].any()
    assert images[0].count_nonzero() == 3 * 20 * 30


def test_noise_is_standard_normal_as_timms() -> None:
    rectangles = np.array([(0, 0, *SIZE, seed) for seed in range(40)])
    images = torch.zeros(40, 3, *SIZE)
    RandomErasing(1, "pixel").erase(images, rectangles)
    quantiles = torch.tensor([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    expected = torch.distributions.Normal(0.0, 1.0).icdf(quantiles)
    # 368,640 values: the greatest standard error of these quantiles is 0.006.
    torch.testing.assert_close(torch.from_numpy(np.quantile(images, quantiles)).float(), expected, atol=0.03, rtol=0)


def test_one_colour_fills_a_rectangle() -> None:
    images = torch.zeros(1, 3, *SIZE)
    RandomErasing(1, "rand").erase(images, np.array([(1, 2, 3, 4, 5)]))
    filled = images[0, :, 1:4, 2:6].flatten(1)
    assert (filled == filled[:, :1]).all()
    assert len(filled[:, 0].unique()) == 3
