from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.receptive_field.gradient import contribution_map, feature_map
from mobilemamba.errors import UserError
from tests.mobilemamba.no_float64 import without_float64


class Convolutions(nn.Sequential):
    """The smallest thing with timm's forward_features."""

    def forward_features(self, x: Tensor) -> Tensor:
        return self(x)


def convolution(weight: Tensor, **options: Any) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias=False, **options)
    layer.weight = nn.Parameter(weight)
    return layer


def test_one_convolution_gives_the_map_computed_by_hand() -> None:
    # Two output channels of two colours; the second is negative in the middle of a white image and counts nothing.
    first = torch.tensor([[[0.0, 1, 0], [2, -3, 4], [0, 5, 0]], [[1.0, 0, 0], [0, 1, 0], [0, 0, -2]]])
    second = torch.full((2, 3, 3), -1.0)
    network = Convolutions(convolution(torch.stack([first, second]), padding=1))
    expected = torch.zeros(6, 6)
    # Position 3 of 6; absolute values, summed over colours: 3 + 1 in its middle.
    expected[2:5, 2:5] = torch.tensor([[1.0, 1, 0], [2, 4, 4], [0, 5, 2]])
    assert torch.equal(contribution_map(network, [torch.ones(2, 6, 6)]), expected.double())


def test_images_are_averaged() -> None:
    class Square(nn.Conv2d):
        def forward_features(self, x: Tensor) -> Tensor:
            return self(x) ** 2

    network = Square(1, 1, 1, bias=False)
    nn.init.ones_(network.weight)
    images = [torch.full((1, 3, 3), value) for value in (1.0, -2.0, 6.0)]
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[1, 1] = (2 + 4 + 12) / 3  # the absolute values of 2x; with signs it would be 10 / 3
    torch.testing.assert_close(contribution_map(network, images), expected)


def test_float32_needs_no_float64_on_the_device() -> None:
    network, images = Convolutions(nn.Conv2d(3, 4, 3, padding=1)), [torch.randn(3, 6, 6)]
    expected = contribution_map(network, images)
    with without_float64():
        contributions = contribution_map(network, images)
    assert torch.equal(contributions, expected)


def test_a_convolutional_network_has_exact_zeros_outside_of_its_receptive_field() -> None:
    torch.manual_seed(0)
    # Strides 2, 2, 1 with kernels 3, 3, 5: 3 + 2 * 2 + 4 * 4 = 23 pixels.
    network = Convolutions(
        nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 8, 5, 1, 2)
    )
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, 64, 64, generator=generator) for _ in range(4)]
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[32 - 11 : 32 + 12, 32 - 11 : 32 + 12] = True
    contributions = contribution_map(network, images)
    assert (contributions[inside] > 0).all()
    assert (contributions[~inside] == 0).all()


def test_channels_last_is_understood_where_the_network_says_so() -> None:
    features = torch.rand(1, 4, 6, 5)
    last = features.permute(0, 2, 3, 1)
    says_so = SimpleNamespace(forward_features=lambda x: last, output_fmt="NHWC", num_features=4)
    assert torch.equal(feature_map(says_so, torch.zeros(1, 3, 8, 8)), features)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(1, 5, 5, 4), "seems to put channels last"),
        (torch.zeros(1, 25, 4), "tokens"),
        ((torch.zeros(1, 4, 5, 5),), "gives a tuple"),
    ],
)
def test_other_outputs_are_refused(features: Any, message: str) -> None:
    network = SimpleNamespace(forward_features=lambda x: features, num_features=4)
    with pytest.raises(UserError, match=message):
        feature_map(network, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_no_contribution_is_an_error(weight: float) -> None:
    network = Convolutions(convolution(torch.full((1, 1, 1, 1), weight)))
    with pytest.raises(UserError, match="zero everywhere or not finite"):
        contribution_map(network, [torch.ones(1, 3, 3)])
