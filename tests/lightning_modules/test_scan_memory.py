"""Step sizes and decay lengths: against hand values, the recurrence itself and what a network really scans."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.scan_memory import scan_decay, scan_decays
from mobilemamba import MobileMamba, MobileMambaConfig, dispatch
from mobilemamba.dispatch import plain_operators, selective_scan
from mobilemamba.scan.projected import split
from mobilemamba.scan.reference import sequential_scan


def dt(steps: Tensor) -> Tensor:
    return torch.log(torch.expm1(steps))  # the inverse of softplus


def test_lengths_by_hand() -> None:
    steps = torch.tensor([0.5, 2.0]).view(1, 1, 2, 1, 1)  # two channels of one pixel
    A_log = torch.tensor([[1.0, 4.0], [0.1, 2.0]]).log()[None]  # two states each
    decay = scan_decay(dt(steps), A_log)
    torch.testing.assert_close(decay.step_sizes, steps)
    expected = torch.tensor([[1 / 0.5, 1 / 2.0], [1 / 0.2, 1 / 4.0]]).view(1, 1, 2, 2, 1, 1)
    torch.testing.assert_close(decay.decay_lengths, expected)
    assert decay.map_size == (1, 1)


def test_after_the_decay_length_1_of_e_of_a_state_is_left() -> None:
    shape = (1, 1, 1, 1, 8)
    impulse = torch.zeros(1, 1, 1, 8)
    impulse[..., 1] = 3.0
    logits, A_log = dt(torch.full(shape, 0.125)), torch.full((1, 1, 1), 2.0).log()
    (length,) = scan_decay(logits, A_log).decay_lengths.unique().tolist()
    assert length == pytest.approx(4.0)
    y = sequential_scan(impulse, logits, A_log, torch.ones(shape), torch.ones(shape), torch.zeros(1, 1))[0, 0, 0]
    assert y[1 + 4] / y[1] == pytest.approx(1 / math.e)


def test_half_precision_logits_are_measured_in_single() -> None:
    decay = scan_decay(torch.zeros(1, 1, 1, 1, 1, dtype=torch.bfloat16), torch.zeros(1, 1, 1, dtype=torch.bfloat16))
    assert decay.step_sizes.item() == pytest.approx(math.log(2), abs=1e-7)
    assert decay.decay_lengths.item() == pytest.approx(1 / math.log(2), abs=1e-6)


@pytest.fixture
def config() -> MobileMambaConfig:
    return MobileMambaConfig(
        num_classes=4, widths=(16, 32, 32), depths=(1, 2, 1), mixer_stages=(False, True, True), state_size=2
    )


def test_what_a_network_scans_is_what_is_measured(config: MobileMambaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    network = MobileMamba(config).eval()
    images = torch.randn(2, 3, 128, 96)
    scanned = []

    def scan(u: Tensor, *arguments: Any) -> Tensor:
        inputs = split(*arguments)
        scanned.append(scan_decay(*inputs[:2]))
        return selective_scan(u, *inputs)

    with monkeypatch.context() as patch, torch.no_grad(), plain_operators():
        patch.setattr(dispatch, "projected_scan", scan)
        network(images)
    decays = scan_decays(network, images)
    assert list(decays) == ["stages.1.blocks.0", "stages.1.blocks.1", "stages.2.blocks.0"]
    assert [decay.map_size for decay in decays.values()] == [(4, 3), (4, 3), (2, 2)]
    for decay, expected in zip(decays.values(), scanned, strict=True):
        assert decay.decay_lengths.shape[:2] == (2, 2)
        assert decay.decay_lengths.shape[3] == 2
        torch.testing.assert_close(decay.step_sizes, expected.step_sizes)
        torch.testing.assert_close(decay.decay_lengths, expected.decay_lengths)


def test_no_hook_is_left(config: MobileMambaConfig) -> None:
    network = MobileMamba(config).eval()
    with pytest.raises(ValueError, match="must be at least 64x64 pixels"):
        scan_decays(network, torch.zeros(1, 3, 8, 8))
    assert all(not module._forward_hooks for module in network.modules())


def test_a_network_without_scan_has_no_decays() -> None:
    network = MobileMamba(MobileMambaConfig(num_classes=4, widths=(16, 32, 32), depths=(1, 1, 1), scan=False)).eval()
    assert scan_decays(network, torch.zeros(1, 3, 64, 64)) == {}
