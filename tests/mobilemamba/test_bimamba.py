"""The scan block: its inference form, low precision, extreme step sizes."""

import copy

import pytest
import torch
from torch import nn

from mobilemamba import fuse
from mobilemamba.bimamba import BiMamba, FusedBiMamba


def block(directions: int = 2, state_size: int = 1) -> BiMamba:
    torch.manual_seed(0)
    mamba = BiMamba(16, state_size=state_size, directions=directions).double()
    with torch.no_grad():
        for parameter in mamba.parameters():
            parameter.normal_(0, 0.5)
    return mamba.eval()


def fused(mamba: BiMamba) -> FusedBiMamba:
    network = fuse(nn.Sequential(mamba).eval())
    assert isinstance(network[0], FusedBiMamba)
    return network[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (5, 7)])
@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("state_size", [1, 2])
@torch.no_grad()
def test_inference_form_is_equal_at_any_size(size: tuple[int, int], directions: int, state_size: int) -> None:
    mamba = block(directions, state_size)
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    torch.testing.assert_close(fused(mamba)(x), mamba(x), rtol=0, atol=1e-10)


@torch.no_grad()
def test_inference_form_without_known_size_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    mamba, x = fused(block()), torch.randn(2, 16, 5, 6, dtype=torch.float64)
    by_rows = mamba(x)
    monkeypatch.setattr("mobilemamba.bimamba._suits_rows", lambda u: False)
    torch.testing.assert_close(mamba(x), by_rows, rtol=0, atol=1e-10)


@pytest.mark.parametrize("logit", [-200.0, -40.0, 20.0, 40.0, 200.0])
@torch.no_grad()
def test_extreme_step_sizes_are_right_in_float32(logit: float) -> None:
    mamba = block()
    mamba.dt_proj_bias.fill_(logit)
    x = torch.randn(1, 16, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fused(copy.deepcopy(mamba).float())(x.float()).double(), mamba(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_networks_of_low_precision_run_and_agree(dtype: torch.dtype) -> None:
    mamba = block().to(dtype)
    x = torch.randn(1, 16, 6, 6).to(dtype)
    reference = copy.deepcopy(mamba).double()(x.double())
    tolerance = 8 * torch.finfo(dtype).eps * float(reference.abs().max())
    for network in (mamba, fused(mamba)):
        y = network(x)
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), reference, rtol=0, atol=tolerance)


@torch.no_grad()
def test_state_of_the_inference_form_is_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(decay: torch.Tensor, drive: torch.Tensor, direction: int) -> torch.Tensor:
        seen.append((decay.dtype, drive.dtype))
        return drive

    monkeypatch.setattr("mobilemamba.kernels.NUMBA_IS_INSTALLED", False)
    monkeypatch.setattr("mobilemamba.bimamba.scan_map", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused(block().float())(torch.randn(1, 16, 4, 4))
    assert set(seen) == {(torch.float32, torch.float32)}
