import numpy as np
import pytest
import torch

from datamodules.mixing import Mixer, MixingConfig, smooth_targets


def test_smoothed_targets_by_hand() -> None:
    expected = torch.tensor([[0.025, 0.925, 0.025, 0.025]])
    torch.testing.assert_close(smooth_targets(torch.tensor([1]), 4, 0.1), expected)


def test_mixup_mixes_images_and_targets_alike() -> None:
    mixer = Mixer(MixingConfig(cutmix=0, label_smoothing=0), num_classes=2)
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    mixed, targets = mixer(images, torch.tensor([0, 1]), seed=(0, 0, 5))
    share = mixed[0, 0, 0, 0]  # of the second image in the first
    assert 0 < share < 1
    torch.testing.assert_close(targets, torch.stack([torch.stack([1 - share, share]), torch.stack([share, 1 - share])]))


def test_cutmix_share_is_the_area() -> None:
    mixer = Mixer(MixingConfig(mixup=0, label_smoothing=0), num_classes=2)
    for step in range(5):
        images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
        mixed, targets = mixer(images, torch.tensor([0, 1]), seed=(0, 0, step))
        torch.testing.assert_close(mixed[0].mean(), targets[0, 1])


def test_draws_depend_on_the_seed_alone_and_leave_the_global_state() -> None:
    mixer = Mixer(MixingConfig(), num_classes=3)
    targets = torch.tensor([0, 1, 2, 0])
    state = np.random.get_state()[1].copy()
    results = [mixer(torch.ones(4, 3, 8, 8), targets, seed=(1, 0, step))[1] for step in (7, 7, 8)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("field", [{"mixup": -1.0}, {"probability": 2.0}, {"label_smoothing": -0.1}])
def test_values_out_of_range_are_named(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"mixing.{next(iter(field))} = "):
        MixingConfig(**field)
