"""The published variants: their architecture, figures and registration with timm.

Figures are those of the paper (arXiv:2411.15941, tables 1 and 5) and of the release's logs
(github.com/lewandofskee/MobileMamba/blob/0980f48): top-1 on ImageNet-1k of the averaged (EMA) weights.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from mobilemamba.backbone import MobileMamba
from mobilemamba.config import MobileMambaConfig
from mobilemamba.dilation import keep_resolution
from mobilemamba.errors import require
from mobilemamba.pretrained import PUBLISHED_REPOSITORY, download_published
from mobilemamba.published import adapt_state


@dataclass(frozen=True)
class Variant:
    """A published network.

    Args:
        config: Its architecture.
        image_size: Height and width in pixels.
        top1: Percent, 300 epochs without teacher.
        top1_distilled: Percent, 1000 epochs with teacher (dagger in the paper).
        gmacs: Multiply-accumulates in 1e9, as the paper counts them.
    """

    config: MobileMambaConfig
    image_size: int
    top1: float
    top1_distilled: float
    gmacs: float


_T2 = MobileMambaConfig(widths=(144, 272, 368))
_T4 = MobileMambaConfig(widths=(176, 368, 448))
_S6 = MobileMambaConfig(widths=(192, 384, 448))
_B = MobileMambaConfig(widths=(200, 376, 448), depths=(2, 3, 2), drop_path_rate=0.03)

VARIANTS: dict[str, Variant] = {
    "mobilemamba_t2": Variant(_T2, 192, 73.6, 76.9, 0.255),
    "mobilemamba_t4": Variant(_T4, 192, 76.1, 78.9, 0.413),
    "mobilemamba_s6": Variant(_S6, 224, 78.0, 80.7, 0.652),
    "mobilemamba_b1": Variant(_B, 256, 79.9, 82.2, 1.080),
    "mobilemamba_b2": Variant(_B, 384, 81.6, 83.3, 2.427),
    "mobilemamba_b4": Variant(_B, 512, 82.5, 83.6, 4.313),
}


def _pretrained_cfg(variant: Variant) -> dict[str, Any]:
    return {
        "hf_hub_id": PUBLISHED_REPOSITORY,
        "num_classes": 1000,
        "input_size": (3, variant.image_size, variant.image_size),
        "pool_size": tuple(-(-variant.image_size // (16 * 4)) for _ in range(2)),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "stem.0.conv",
        "classifier": "head.linear",
        "license": "see the repository",
        "paper_ids": "arXiv:2411.15941",
        "paper_name": "MobileMamba: Lightweight Multi-Receptive Visual Mamba Network",
        "origin_url": "https://github.com/lewandofskee/MobileMamba",
    }


# The first tag of a name is its default: the distilled weights, the paper's best.
default_cfgs = generate_default_cfgs(
    {f"{name}.{tag}": _pretrained_cfg(variant) for name, variant in VARIANTS.items() for tag in ("dist_in1k", "in1k")}
)


def _create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """Build a variant.

    Args:
        name: Its name.
        pretrained: Whether to load published weights.
        kwargs: Options of timm's builder, fields of MobileMambaConfig, output_stride (see :mod:`mobilemamba.dilation`)
            and img_size, which is checked and otherwise ignored.
    """
    overlay = dict(kwargs.pop("pretrained_cfg_overlay", None) or {})
    tag = kwargs.get("pretrained_cfg") or "dist_in1k"  # timm passes the tag of "name.tag" here
    has_other_source = not isinstance(tag, str) or overlay.keys() & {"file", "url", "state_dict"}
    if pretrained and not has_other_source:
        overlay["state_dict"] = download_published(name, distilled=tag.startswith("dist"))
    config = VARIANTS[name].config

    def build(output_stride: int | None = None, img_size: Any = None, **overrides: Any) -> MobileMamba:
        known = {field.name for field in fields(MobileMambaConfig)}
        unknown = sorted(overrides.keys() - known)
        if unknown:
            known |= {"output_stride", "img_size"}
            raise TypeError(f"{name} has no option {', '.join(unknown)}: it must be one of {', '.join(sorted(known))}.")
        network = MobileMamba(replace(config, **overrides))
        smallest, sides = network.config.min_image_size, img_size if isinstance(img_size, (tuple, list)) else [img_size]
        require(img_size is None or min(sides) >= smallest, "img_size", img_size, f"{smallest} pixels or more")
        if output_stride is not None:
            keep_resolution(network, output_stride)
        return network

    return build_model_with_cfg(
        build,
        name,
        pretrained,
        pretrained_cfg_overlay=overlay or None,
        pretrained_filter_fn=adapt_state,
        feature_cfg={"out_indices": _default_maps(kwargs, config), "flatten_sequential": True},
        **kwargs,
    )


def _default_maps(kwargs: dict[str, Any], config: MobileMambaConfig) -> tuple[int, ...]:
    """Return the default out_indices of features_only: the maps of the stages."""
    first = int(kwargs.get("stem_stride", config.stem_stride)).bit_length() - 2
    last = first + len(kwargs.get("widths", config.widths))
    # segmentation_models_pytorch builds a network on the meta device to ask for its maps, and takes only networks
    # whose first map has stride 1, 2 or 4.
    return tuple(range(0 if torch.empty(0).is_meta else first, last))


@register_model
def mobilemamba_t2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileMamba-T2 at 192 pixels."""
    return _create("mobilemamba_t2", pretrained, kwargs)


@register_model
def mobilemamba_t4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileMamba-T4 at 192 pixels."""
    return _create("mobilemamba_t4", pretrained, kwargs)


@register_model
def mobilemamba_s6(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileMamba-S6 at 224 pixels."""
    return _create("mobilemamba_s6", pretrained, kwargs)


@register_model
def mobilemamba_b1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileMamba-B1 at 256 pixels."""
    return _create("mobilemamba_b1", pretrained, kwargs)


@register_model
def mobilemamba_b2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileMamba-B2: B1 at 384 pixels."""
    return _create("mobilemamba_b2", pretrained, kwargs)


@register_model
def mobilemamba_b4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileMamba-B4: B1 at 512 pixels."""
    return _create("mobilemamba_b4", pretrained, kwargs)
