from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from mobilemamba.backbone import MobileMamba
from mobilemamba.bimamba import BiMamba
from mobilemamba.complexity import complexity, complexity_of_modules
from mobilemamba.config import MobileMambaConfig
from mobilemamba.fusion import fuse
from mobilemamba.variants import VARIANTS
from mobilemamba.wavelet_mamba import WaveletConv


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        ("mobilemamba_t2", 8_806_682, 0.2537),
        ("mobilemamba_t4", 14_137_690, 0.4112),
        ("mobilemamba_s6", 14_996_696, 0.6503),
        ("mobilemamba_b1", 17_070_625, 1.0756),
    ],
)
def test_published_figures(name: str, parameters: int, gmacs: float) -> None:
    size = VARIANTS[name].image_size
    counted = complexity(timm.create_model(name), (size, size))
    assert counted.parameters == parameters
    # Less than 1 percent apart: see the module's description.
    assert gmacs * 0.99 < counted.macs / 1e9 < gmacs
    assert counted.total_macs / 1e9 == pytest.approx(VARIANTS[name].gmacs, rel=0.01)
    assert counted.total_macs == counted.macs + counted.scan_macs


def test_s6_scan_is_counted_by_the_papers_formula() -> None:
    # Nine for each pixel, two directions, twice the global channels: one block at 14 x 14, two at 7 x 7, two at 4 x 4.
    expected = 9 * 2 * (196 * 320 + 2 * 49 * 544 + 2 * 16 * 544)
    assert complexity(timm.create_model("mobilemamba_s6"), (224, 224)).scan_macs == expected


def test_layers_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 5, groups=8, padding=2),
        nn.Flatten(),
        nn.Linear(192, 7),
    )
    macs = 24 * 8 * 3 * 9 + 24 * 8 * 25 + 192 * 7  # 4 x 6 pixels after the first layer
    counted = complexity(network, (8, 12))
    assert (counted.macs, counted.scan_macs) == (macs, 0)
    assert counted.parameters == 8 * 3 * 9 + 8 + 8 * 25 + 8 + 192 * 7 + 7


def test_scan_block_by_hand() -> None:
    channels, inner, rank, states, directions, pixels = 32, 64, 2, 3, 4, 30
    block = BiMamba(channels, state_size=states, directions=directions)
    rows = directions * (rank + 2 * states)
    macs = pixels * (2 * channels * inner + 9 * inner + rows * inner + directions * rank * inner + inner * channels)
    counted = complexity(block, (5, 6))
    assert counted.macs == macs
    assert counted.scan_macs == 9 * pixels * directions * inner * states


def test_every_module_is_counted_by_its_name() -> None:
    network = MobileMamba(MobileMambaConfig(widths=(32, 48), depths=(2, 1), **_two_stages()))
    modules = complexity_of_modules(network, (64, 64))
    assert modules[""] == complexity(network, (64, 64))
    assert modules.keys() == dict(network.named_modules()).keys()
    for name, children in {
        "": ("stem", "stages", "global_pool", "head"),
        "stages": ("stages.0", "stages.1"),
        "stages.0.blocks": ("stages.0.blocks.0", "stages.0.blocks.1"),
    }.items():
        for field in ("parameters", "macs", "scan_macs"):
            assert getattr(modules[name], field) == sum(getattr(modules[child], field) for child in children)
    scan = modules["stages.0.blocks.1.mixer.branch.global_mixer.mamba"]
    assert scan.scan_macs == modules["stages.0.blocks.1"].scan_macs == 9 * 16 * 2 * 32
    assert modules["head"].macs == 48 * 1000


def test_wavelet_block_by_hand() -> None:
    channels, pixels = 16, 16  # 7 x 7 is padded to 8 x 8, whose sub-bands have 4 x 4
    macs = 4 * channels * pixels * (4 + 9 + 4)  # analysis, convolution, synthesis
    assert complexity(_Alone(WaveletConv(channels, 3), channels), (7, 7)).macs == macs + channels * channels * 49


class _Alone(nn.Sequential):
    """A layer behind a 1x1 convolution, which tells how many channels there are."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, channels, 1, bias=False), layer)


def test_a_fused_network_costs_the_same_but_for_folded_layers() -> None:
    network = MobileMamba(MobileMambaConfig(widths=(32, 48), depths=(1, 1), **_two_stages())).eval()
    before, after = complexity(network, (64, 64)), complexity(fuse(network), (64, 64))
    assert after.scan_macs == before.scan_macs > 0
    saved = 0
    for stage, pixels in enumerate((16, 4)):
        split, kernel = network.config.channel_split(stage), network.config.local_kernels[stage][0]
        # The weight per channel behind the local convolution is folded, which carries the identity part then.
        saved += pixels * (split.local_channels - kernel**2 * split.identity_channels)
    assert before.macs - after.macs == saved


def test_the_network_stays_as_it_is() -> None:
    network = MobileMamba(MobileMambaConfig(in_chans=1, widths=(32, 48), depths=(1, 1), **_two_stages())).double()
    state = copy.deepcopy(network.state_dict())
    complexity(network, (64, 96))
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def _two_stages() -> dict[str, tuple[object, ...]]:
    return {
        "mixer_stages": (True, True),
        "global_shares": (0.5, 0.5),
        "local_shares": (0.25, 0.25),
        "local_kernels": ((3,), (3,)),
        "wavelet_kernels": (3, 3),
    }
