import numpy as np
import pytest
import pywt
import torch

from mobilemamba.wavelet import haar_analysis, haar_conv, haar_filters, haar_synthesis, merged_haar_conv
from mobilemamba.wavelet_mamba import WaveletConv

FILTERS = haar_filters().repeat(3, 1, 1, 1)


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (3, 3), (1, 1)])
def test_bands_equal_pywavelets(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    bands = haar_analysis(x, FILTERS).unflatten(1, (3, 4))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (0, size[0] % 2), (0, size[1] % 2)))
    low_low, (high_h, high_w, high_both) = pywt.dwt2(padded, "haar")
    for band, expected in enumerate((low_low, high_h, high_w, high_both)):
        torch.testing.assert_close(bands[:, :, band], torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_synthesis_inverts_analysis() -> None:
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(haar_synthesis(haar_analysis(x, FILTERS), FILTERS), x, rtol=0, atol=1e-12)


def test_second_level_adds_to_the_low_low_band() -> None:
    """Identity convolutions on both levels return x plus the second level's copy of its low-low band."""
    conv = WaveletConv(2, kernel_size=1, levels=2).double()
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.fill_(1.0)
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    low_low = x.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean((-1, -3))
    expected = x + low_low.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_odd_sizes_keep_their_shape(levels: int) -> None:
    conv = WaveletConv(2, kernel_size=3, levels=levels)
    assert conv(torch.randn(1, 2, 7, 5)).shape == (1, 2, 7, 5)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 8), (7, 4), (5, 7), (1, 1)])
def test_sums_equal_grouped_convolutions(size: tuple[int, int], levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = [
        torch.randn(12, 1, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(levels)
    ]
    expected, actual = haar_conv(x, weights, FILTERS, FILTERS), merged_haar_conv(x, weights, FILTERS)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(y.square().sum(), [x, *weights]) for y in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)
