import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mobilemamba.kernels.gated_norm import gated_norm

from .oracle import assert_equal_in_float64, assert_same_between_threads, values

EPS = 1e-5


def kernel(x: Tensor, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return gated_norm(x, z, weight, bias, EPS)


def reference(x: Tensor, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, EPS) * F.silu(z)


def arguments(images: int = 3, channels: int = 37) -> list[Tensor]:
    return values((images, 2, 3, channels), (images, 2, 3, channels), (channels,), (channels,))


@pytest.mark.parametrize("images", [0, 1, 3, 40])
@pytest.mark.parametrize("channels", [5, 37, 128])
def test_equals_plain_operators(images: int, channels: int) -> None:
    assert_equal_in_float64(kernel, reference, arguments(images, channels))


@pytest.mark.parametrize("shift", [-70.0, -20.0, 20.0, 70.0])
def test_extreme_gates(shift: float) -> None:
    x, z, *weights = arguments()
    assert_equal_in_float64(kernel, reference, [x, z + shift, *weights])


def test_a_mean_far_from_zero_leaves_the_deviation() -> None:
    x, *others = arguments()
    x = (16 * x).round() / 16  # no rounding when 64 is added
    assert torch.equal(kernel(x + 64, *others).isfinite(), torch.ones(x.shape, dtype=torch.bool))
    torch.testing.assert_close(kernel(x + 64, *others), kernel(x, *others), rtol=0, atol=1e-4)


def test_results_do_not_vary_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_between_threads(kernel, arguments(9), monkeypatch)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operator_is_registered_properly() -> None:
    torch.library.opcheck(gated_norm, [*(x.requires_grad_() for x in arguments()), EPS])
