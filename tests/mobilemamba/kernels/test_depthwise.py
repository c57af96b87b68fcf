import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mobilemamba.kernels.depthwise import depthwise_silu

from .oracle import assert_equal_in_float64, assert_same_between_threads, values


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
    return F.silu(y).permute(0, 2, 3, 1)


def arguments(
    images: int = 2, channels: int = 37, size: tuple[int, int] = (5, 7), kernel_size: int = 3
) -> list[Tensor]:
    return values((images, *size, channels), (channels, 1, kernel_size, kernel_size), (channels,))


@pytest.mark.parametrize("images", [0, 1, 35])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 1), (5, 7)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_equals_plain_operators(images: int, size: tuple[int, int], kernel_size: int) -> None:
    assert_equal_in_float64(depthwise_silu, reference, arguments(images, 37, size, kernel_size))


@pytest.mark.parametrize("shift", [-70.0, -20.0, 20.0, 70.0])
def test_extreme_values(shift: float) -> None:
    x, weight, bias = arguments()
    assert_equal_in_float64(depthwise_silu, reference, [x, weight, bias + shift])


def test_results_do_not_vary_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_between_threads(depthwise_silu, arguments(5), monkeypatch)


def test_operations_are_counted_as_of_a_convolution() -> None:
    x, weight, bias = arguments()
    counts = []
    for form in (depthwise_silu, reference):
        with FlopCounterMode(display=False) as counter:
            form(x, weight, bias)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operator_is_registered_properly() -> None:
    torch.library.opcheck(depthwise_silu, [x.requires_grad_() for x in arguments()])
