"""Feature maps of every layout, and finer ones by leaving out strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

import mobilemamba
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.dilation import keep_resolution
from mobilemamba.stages import Downsample
from tests.mobilemamba.conftest import FOUR_STAGES

TINY: dict[str, Any] = {"widths": (32, 40, 48), "depths": (1, 1, 1)}
FOUR = FOUR_STAGES | {"widths": (16, 32, 40, 48), "mixer_stages": (False, True, True, True)}


def features(**options: Any) -> nn.Module:
    model: nn.Module = timm.create_model("mobilemamba_s6", features_only=True, **options)
    return model.eval()


def check_info(model: nn.Module, reductions: list[int], size: tuple[int, int] = (128, 192)) -> None:
    """Compare what a model says of its maps with the maps."""
    maps = model(torch.randn(1, 3, *size))
    assert model.feature_info.reduction() == reductions
    expected = [
        (1, channels, -(-size[0] // reduction), -(-size[1] // reduction))
        for channels, reduction in zip(model.feature_info.channels(), reductions, strict=True)
    ]
    assert [tuple(feature_map.shape) for feature_map in maps] == expected


@pytest.mark.parametrize(
    ("layout", "stages"),
    [
        (TINY, [16, 32, 64]),
        (FOUR, [4, 8, 16, 32]),
        (TINY | {"stem_stride": 8}, [8, 16, 32]),
        (FOUR | {"stem_stride": 2}, [2, 4, 8, 16]),
    ],
)
def test_the_default_is_the_stages_and_every_map_can_be_chosen(layout: dict[str, Any], stages: list[int]) -> None:
    check_info(features(**layout), stages)
    every = [*(2**power for power in range(1, stages[0].bit_length() - 1)), *stages]
    check_info(features(**layout, out_indices=range(len(every))), every, (131, 77))
    check_info(features(**layout, out_indices=(0, len(every) - 1)), [every[0], every[-1]])
    check_info(features(**layout, out_indices=(-2, -1)), stages[-2:])
    check_info(features(**layout, out_indices=2), stages[-2:])


def test_every_way_of_timm_gives_the_same_maps() -> None:
    images = torch.randn(1, 3, 96, 64)
    chosen: dict[str, Any] = {"out_indices": (1, 3, 5), "features_only": True}
    plain = timm.create_model("mobilemamba_s6", **TINY, num_classes=0).eval()
    state = plain.state_dict()
    expected = plain.forward_intermediates(images, indices=[1, 3, 5], intermediates_only=True)
    for kind in ("list", "dict", "hook", "getter"):
        model = timm.create_model("mobilemamba_s6", **TINY, **chosen, feature_cls=kind).eval()
        own = model.state_dict()
        assert len(own) == len(state)
        model.load_state_dict(dict(zip(own, state.values(), strict=True)))
        maps = model(images)
        for ours, theirs in zip(maps.values() if isinstance(maps, dict) else maps, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_model_on_the_meta_device_tells_all_its_maps() -> None:
    with torch.device("meta"):
        model = timm.create_model("mobilemamba_s6", features_only=True)
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(("output_stride", "reductions"), [(16, [8, 16, 16, 16]), (32, [8, 16, 32, 32])])
def test_an_output_stride_keeps_resolution_and_weights(output_stride: int, reductions: list[int]) -> None:
    model = features(**TINY, output_stride=output_stride, out_indices=(2, 3, 4, 5))
    check_info(model, reductions)
    check_info(model, reductions, (67, 141))
    plain = features(**TINY, out_indices=(2, 3, 4, 5))
    model.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 128, 192)
    before = reductions.index(output_stride) + 1
    for dilated, strided in zip(model(images)[:before], plain(images)[:before], strict=True):
        torch.testing.assert_close(dilated, strided)


class _PlainScale(nn.Module):
    """In place of squeeze-excitation, whose mean is over another map where the resolution is kept."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.7 * x


@pytest.mark.parametrize("is_fused", [False, True])
def test_a_dilated_network_computes_at_every_nth_pixel_what_it_computed_before(
    randomised: Callable[[MobileMambaConfig], MobileMamba], is_fused: bool
) -> None:
    plain, dilated = (randomised(MobileMambaConfig(**TINY, num_classes=0)) for _ in range(2))
    keep_resolution(dilated, 16)
    for network in (plain, dilated):
        for module in network.modules():
            if isinstance(module, Downsample):
                module[2].squeeze_excite = _PlainScale().eval()
    assert plain.state_dict().keys() == dilated.state_dict().keys()
    if is_fused:
        plain, dilated = mobilemamba.fuse(plain), mobilemamba.fuse(dilated)
    images = torch.randn(1, 3, 256, 128, dtype=torch.float64)
    strided = plain.forward_intermediates(images, intermediates_only=True)
    for reduction, ours, theirs in zip(
        (1, 2, 4), dilated.forward_intermediates(images, intermediates_only=True), strided, strict=True
    ):
        assert ours.shape[2:] == (16, 8)
        torch.testing.assert_close(ours[..., ::reduction, ::reduction], theirs, rtol=0, atol=1e-12)


def test_options_of_libraries_are_taken_or_named() -> None:
    options: dict[str, Any] = {"in_chans": 1, "img_size": (96, 64), "drop_rate": 0.1, "drop_path_rate": 0.1}
    assert features(**TINY, **options, num_classes=3)(torch.randn(1, 1, 96, 64))[-1].shape == (1, 48, 2, 1)
    with pytest.raises(mobilemamba.UserError, match="output_stride = 8 must be one of 16, 32, 64"):
        features(**TINY, output_stride=8)
    with pytest.raises(mobilemamba.UserError, match=r"img_size = \(64, 32\) must be 64 pixels or more"):
        features(**TINY, img_size=(64, 32))
    with pytest.raises(TypeError, match=r"no option norm_layer: it must be one of .*output_stride"):
        features(**TINY, norm_layer="bn")
