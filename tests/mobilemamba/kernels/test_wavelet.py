import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mobilemamba import kernels
from mobilemamba.kernels.wavelet import haar_conv
from mobilemamba.wavelet_mamba import WaveletConv

from .oracle import assert_equal_in_float64, assert_same_between_threads, values


def reference(x: Tensor, weight: Tensor) -> Tensor:
    conv = WaveletConv(x.shape[-1], weight.shape[-1]).eval().fused().to(x.dtype)
    with kernels.switched_off():
        return torch.func.functional_call(conv, {"convs.0.weight": weight}, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def arguments(
    images: int = 2, channels: int = 37, size: tuple[int, int] = (6, 8), kernel_size: int = 3
) -> list[Tensor]:
    return values((images, *size, channels), (4 * channels, 1, kernel_size, kernel_size))


@pytest.mark.parametrize("images", [0, 1, 35])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 6), (7, 4), (9, 9), (14, 14)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_equals_plain_operators(images: int, size: tuple[int, int], kernel_size: int) -> None:
    assert_equal_in_float64(haar_conv, reference, arguments(images, 5, size, kernel_size))


def test_results_do_not_vary_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_between_threads(haar_conv, arguments(5), monkeypatch)


@pytest.mark.parametrize("frozen", [0, 1])
def test_only_what_is_asked_for_is_computed(frozen: int) -> None:
    leaves = [x.requires_grad_(index != frozen) for index, x in enumerate(arguments())]
    expected = [x.detach().clone().requires_grad_() for x in leaves]
    haar_conv(*leaves).square().sum().backward()
    haar_conv(*expected).square().sum().backward()
    assert leaves[frozen].grad is None
    assert torch.equal(leaves[1 - frozen].grad, expected[1 - frozen].grad)


def test_second_derivatives_of_the_input() -> None:
    x, weight = arguments(kernel_size=3)
    (first,) = torch.autograd.grad((haar_conv(x.requires_grad_(), weight) ** 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    double = x.detach().double().requires_grad_()
    (first,) = torch.autograd.grad((reference(double, weight.double()) ** 3).sum(), double, create_graph=True)
    (expected,) = torch.autograd.grad(first.sum(), double)
    torch.testing.assert_close(second.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_operations_are_counted_as_of_convolutions() -> None:
    counts = []
    for form in (haar_conv, reference):
        with FlopCounterMode(display=False) as counter:
            form(*arguments())
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operator_is_registered_properly() -> None:
    torch.library.opcheck(haar_conv, [x.requires_grad_() for x in arguments()])
