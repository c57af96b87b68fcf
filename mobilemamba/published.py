"""Translate the authors' published state dicts into this project's names and layout.

Published names are those of github.com/lewandofskee/MobileMamba/blob/0980f48. Files may be in training form or fused;
fused ones are turned back into training form with BatchNorms that do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mobilemamba.conv_norm import ConvNorm, NormLinear
from mobilemamba.errors import UserError
from mobilemamba.wavelet import haar_filters

WeightSource = Literal["ema", "raw"]

STUDENT_PREFIX = "student."
"""Prefix of the network's keys in training checkpoints."""

_NESTED = (("net", "net_E"), ("state_dict", "state_dict_ema"), ("model", "model_ema"))
"""Keys of the raw and the averaged weights in files of the authors, timm and DeiT's scripts."""

# Names in this project's older checkpoints -> now.
_OLD_NAMES: tuple[tuple[str, str], ...] = (
    (r"\.step_weight$", ".dt_proj_weight"),
    (r"\.step_bias$", ".dt_proj_bias"),
    (r"\.scan_proj\.weight$", ".x_proj.weight"),
    (r"\.D_skip$", ".D"),
    (r"\.wavelet\.convs\.(\d+)\.weight$", r".wavelet.weights.\1"),
    (r"\.wavelet\.scales\.(\d+)\.weight$", r".wavelet.scales.\1"),
)

# Published name -> ours. ConvNorm and head leaves are renamed last, everywhere.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.", "stem."),
    (r"\.local_op\.", ".local_mixer.groups.0."),
    (r"\.dwconv3x3\.weight$", ".0.conv.weight"),
    (r"\.dwconv3x3\.bias$", ".0.conv.bias"),
    (r"\.bn1\.", ".0.norm."),
    (r"\.dwconv1x1\.", ".2.conv."),
    (r"\.bn2\.", ".2.norm."),
    (r"\.base_scale\.", ".mamba_scale."),
    (r"\.wavelet_convs\.(\d+)\.weight$", r".wavelet.weights.\1"),
    (r"\.wavelet_scale\.(\d+)\.weight$", r".wavelet.scales.\1"),
    (r"\.global_op\.", ".global_mixer."),
    (r"\.global_atten\.", ".mamba."),
    (r"\.conv2d\.", ".conv."),
    (r"\.x_proj_weight$", ".x_proj.weight"),
    (r"\.dt_projs_weight$", ".dt_proj_weight"),
    (r"\.dt_projs_bias$", ".dt_proj_bias"),
    (r"\.A_logs$", ".A_log"),
    (r"\.Ds$", ".D"),
    (r"\.mixer\.m\.attn\.", ".mixer.branch."),
    (r"\.proj\.1\.", ".proj."),
    (r"\.dw0\.m\.", ".conv_in.branch."),
    (r"\.dw0\.(?=weight|bias)", ".conv_in."),
    (r"\.dw1\.m\.", ".conv_out.branch."),
    (r"\.dw1\.(?=weight|bias)", ".conv_out."),
    (r"\.ffn0\.m\.", ".ffn_in.branch."),
    (r"\.ffn1\.m\.", ".ffn_out.branch."),
    (r"\.pw1\.", ".expand."),
    (r"\.pw2\.", ".reduce."),
    (r"\.se\.", ".squeeze_excite."),
    (r"^head\.l\.", "head.linear."),
    (r"^head\.bn\.", "head.norm."),
    (r"\.c\.", ".conv."),
    (r"\.bn\.", ".norm."),
)
_DOWNSAMPLE_PARTS: tuple[tuple[str, str], ...] = (
    (r"^0\.0\.m\.", "0.branch."),
    (r"^0\.0\.(?=weight|bias)", "0."),
    (r"^0\.1\.m\.", "1.branch."),
    (r"^1\.conv1\.", "2.expand."),
    (r"^1\.conv2\.", "2.conv."),
    (r"^1\.conv3\.", "2.reduce."),
    (r"^1\.se\.", "2.se."),
    (r"^2\.0\.m\.", "3.branch."),
    (r"^2\.0\.(?=weight|bias)", "3."),
    (r"^2\.1\.m\.", "4.branch."),
)
_BLOCKS_AFTER_DOWNSAMPLE = 3
"""In the release, the first three modules of a stage are its downsampling."""


def adapt_state(content: Mapping[str, Any], model: nn.Module, weights: WeightSource = "ema") -> dict[str, Tensor]:
    """Return the content of a file, published or our own, as a state dict for the model.

    Args:
        content: Flat state dict, or a published file's dict with ``net`` and ``net_E``; keys may start with
            ``module.`` (parallel training) or ``student.`` (training checkpoints of this project).
        model: The network it is for.
        weights: Which weights to take where the file holds both raw and averaged ones.
    """
    raw, averaged = split_checkpoint(content)
    content = averaged if averaged is not None and weights == "ema" else raw
    state = {
        key.removeprefix("module.").removeprefix(STUDENT_PREFIX): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }
    return convert_published(state, model) if is_published(state) else with_new_names(state)


def split_checkpoint(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return the raw weights of a file and the averaged ones, or None where it has no averaged ones.

    A training checkpoint of this project has its averaged weights in ``state_dict`` and the raw ones in
    ``current_model_state``. Other files have one of the pairs of names in :data:`_NESTED`, or either of a pair.

    Args:
        content: Training checkpoint, published file, file of another training script, or flat state dict.

    Returns:
        State dicts with the keys of the file, such as "student.stem.0.conv.weight" in training checkpoints.
    """
    if "current_model_state" in content:
        return content["current_model_state"], content["state_dict"]
    for raw, averaged in _NESTED:
        found = [content.get(name) for name in (raw, averaged)]
        if isinstance(found[1], Mapping):
            return found[0] if isinstance(found[0], Mapping) else found[1], found[1]
        if isinstance(found[0], Mapping):
            return found[0], None
    return content, None


def with_new_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of this project's older checkpoints."""
    return {_rename(key, _OLD_NAMES): value for key, value in state.items()}


def _rename(key: str, renames: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def is_published(state: Mapping[str, object]) -> bool:
    """Whether a flat state dict has published names."""
    return "patch_embed.0.c.weight" in state or _is_fused(state)


def convert_published(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename published keys to ours, reorder tensors of another layout, and undo a fused export.

    Args:
        state: Flat state dict with published names.
        model: The network it is for.

    Raises:
        UserError: When the file's fixed wavelet filters are not Haar.
    """
    converted = {}
    for key, value in state.items():
        if key.endswith((".wt_filter", ".iwt_filter")):
            _check_haar(key, value)
        elif key.endswith(".x_proj_weight"):
            rank = state[f"{key.rpartition('.')[0]}.dt_projs_weight"].shape[-1]
            converted[rename_published(key)] = _reorder_scan_projection(value, rank)
        else:
            converted[rename_published(key)] = value
    return _unfuse(converted, model) if _is_fused(state) else converted


def rename_published(key: str) -> str:
    """Return our name for a published key."""
    stage = re.match(r"^blocks(\d+)\.(.*)$", key)
    if stage:
        index, rest = int(stage[1]) - 1, stage[2]
        key = f"stages.{index}.{_rename_in_stage(rest, has_downsample=index > 0)}"
    return _rename(key, _RENAMES)


def _rename_in_stage(rest: str, has_downsample: bool) -> str:
    index, tail = rest.split(".", 1)
    if not has_downsample:
        return f"blocks.{rest}"
    if int(index) >= _BLOCKS_AFTER_DOWNSAMPLE:
        return f"blocks.{int(index) - _BLOCKS_AFTER_DOWNSAMPLE}.{tail}"
    for pattern, replacement in _DOWNSAMPLE_PARTS:
        if re.match(pattern, rest):
            return "downsample." + re.sub(pattern, replacement, rest)
    return f"downsample.{rest}"


def _reorder_scan_projection(weight: Tensor, rank: int) -> Tensor:
    """Turn (K, R + 2N, D), direction by direction, into a 1x1 convolution: all step sizes, all B, all C."""
    states = (weight.shape[1] - rank) // 2
    parts = weight.split([rank, states, states], dim=1)
    return torch.cat([part.flatten(0, 1) for part in parts])[..., None, None]


def _check_haar(key: str, filters: Tensor) -> None:
    # The fixed filters are not loaded; with other filters the network would silently compute something else.
    expected = haar_filters().repeat(filters.shape[0] // 4, 1, 1, 1)
    if filters.shape != expected.shape or not torch.allclose(filters.double(), expected, atol=1e-6):
        raise UserError(f"{key} is not the Haar wavelet; only published (Haar) weights can be loaded.")


def _is_fused(state: Mapping[str, object]) -> bool:
    return "patch_embed.0.weight" in state  # the stem's convolution carries the weight itself


def _unfuse(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give every folded layer a BatchNorm that changes nothing, as the training form needs it."""
    state = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, ConvNorm):
            _unfuse_residual(state, name, module)
            _move(state, f"{name}.weight", f"{name}.conv.weight")
            # A convolution has a bias only where a norm was folded into it.
            bias = state.pop(f"{name}.bias", state.pop(f"{name}.conv.bias", None))
            if bias is not None:
                state |= _neutral_norm(f"{name}.norm", module.norm, bias)
        elif isinstance(module, NormLinear):
            _move(state, f"{name}.weight", f"{name}.linear.weight")
            _move(state, f"{name}.bias", f"{name}.linear.bias")
            if f"{name}.norm.weight" not in state:
                state |= _neutral_norm(f"{name}.norm", module.norm, torch.zeros(module.norm.num_features))
    return state


def _unfuse_residual(state: dict[str, Tensor], name: str, module: ConvNorm) -> None:
    """Take a merged skip out of a depthwise convolution, and move the convolution back into its residual."""
    residual, _, leaf = name.rpartition(".")
    if leaf != "branch" or f"{residual}.weight" not in state:
        return
    _move(state, f"{residual}.bias", f"{name}.bias")
    weight = state.pop(f"{residual}.weight").clone()
    rows, columns = weight.shape[-2:]
    weight[:, 0, rows // 2, columns // 2] -= 1
    state[f"{name}.weight"] = weight


def _move(state: dict[str, Tensor], old: str, new: str) -> None:
    if old in state:
        state[new] = state.pop(old)


def _neutral_norm(name: str, norm: nn.modules.batchnorm._BatchNorm, bias: Tensor) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.ones_like(bias),
        f"{name}.bias": bias,
        f"{name}.running_mean": torch.zeros_like(bias),
        f"{name}.running_var": torch.full_like(bias, 1 - norm.eps),
        f"{name}.num_batches_tracked": torch.tensor(0),
    }
