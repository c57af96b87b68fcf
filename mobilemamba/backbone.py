"""MobileMamba: stem, stages and classifier behind timm's model interface.

"MobileMamba: Lightweight Multi-Receptive Visual Mamba Network" (CVPR 2025, arXiv:2411.15941, Figure 4). Behaviour
follows github.com/lewandofskee/MobileMamba/blob/0980f48, whose weights load exactly
(:mod:`mobilemamba.checkpoints`). What differs: no CUDA build, any number of stages, and every part is configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models._features import feature_take_indices  # no public path in timm
from torch import Tensor, nn

from mobilemamba import dispatch
from mobilemamba.config import MobileMambaConfig, check_pooling
from mobilemamba.conv_norm import NormLinear
from mobilemamba.errors import UserError
from mobilemamba.published import adapt_state
from mobilemamba.stages import Stage, Stem
from mobilemamba.wavelet_mamba import WaveletConv


class MobileMamba(nn.Module):
    """Image classifier and feature extractor.

    Args:
        config: The architecture.
    """

    global_pool: SelectAdaptivePool2d

    def __init__(self, config: MobileMambaConfig | None = None) -> None:
        super().__init__()
        self.config = config = MobileMambaConfig() if config is None else config
        self.num_classes = config.num_classes
        self.in_chans = config.in_chans
        self.num_features = config.widths[-1]
        self.stem = Stem(config)
        self.feature_info = [
            *(
                {
                    "num_chs": config.widths[0] * 2 ** (level + 1) // config.stem_stride,
                    "reduction": 2 ** (level + 1),
                    "module": f"stem.{2 * level + 1}",
                }
                for level in range(config.num_stem_levels)
            ),
            *(
                {"num_chs": width, "reduction": config.stem_stride * 2**stage, "module": f"stages.{stage}"}
                for stage, width in enumerate(config.widths)
            ),
        ]
        blocks = sum(config.depths)
        rates = (config.drop_path_rate * block / max(blocks - 1, 1) for block in range(blocks))  # linear, from 0
        self.stages = nn.Sequential(
            *(Stage(config, stage, [next(rates) for _ in range(depth)]) for stage, depth in enumerate(config.depths))
        )
        self.reset_classifier(config.num_classes, config.global_pool)
        # Every way of loading takes the authors' files and older checkpoints, inside a LightningModule too.
        self.register_load_state_dict_pre_hook(_adapt_loaded)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_fill_fixed_filters)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to the last stage's feature map.

        Raises:
            UserError: When the images are smaller than ``config.min_image_size``, have other channels than in_chans,
                or are in another dtype than the weights without autocast.
        """
        return self.stages(self.stem(self._prepared(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the last feature map to logits, or to pooled features (B, num_features) with pre_logits."""
        x = self.global_pool(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return chosen feature maps, as timm models do.

        Args:
            x: Images, (B, C, H, W).
            indices: The last n maps for a number, those of feature_info (the stem's before the stages') for a list,
                the stages' for None.
            norm: Accepted for timm's interface; stages end without a norm.
            stop_early: Skip the layers after the last wanted map.
            output_fmt: "NCHW", the only format.
            intermediates_only: Return the list alone.

        Returns:
            The feature maps, or (last map, feature maps).

        Raises:
            UserError: For another output_fmt.
        """
        if output_fmt != "NCHW":
            raise UserError(
                f"output_fmt = {output_fmt!r} must be 'NCHW', the only format of MobileMamba's feature maps."
            )
        x = self._prepared(x)
        wanted, last = feature_take_indices(len(self.feature_info), len(self.stages) if indices is None else indices)
        modules = [self.feature_info[index]["module"] for index in wanted]
        features = []
        for name, module in self._levels(last if stop_early else len(self.feature_info)):
            x = module(x)
            if name in modules:
                features.append(x)
        return features if intermediates_only else (x, features)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages that the given intermediates do not need, and with them the classifier (timm interface)."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        if last + 1 < len(self.feature_info):
            self.stages = self.stages[: max(last + 1 - self.config.num_stem_levels, 0)]
            self.feature_info = self.feature_info[: last + 1]
            # Without stages the whole stem is left.
            self.num_features = self.config.widths[max(len(self.stages) - 1, 0)]
            prune_head = True
        if prune_head:
            self.reset_classifier(0, "")
        return list(wanted)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, or an Identity where there is no classifier."""
        return self.head.linear if isinstance(self.head, NormLinear) else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network a new classifier, and another pooling if one is named.

        Args:
            num_classes: Outputs; 0 leaves the classifier out.
            global_pool: One of timm's poolings; "" keeps the feature map and needs num_classes = 0.

        Raises:
            UserError: When the pooling is unknown, or "" with a classifier.
        """
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        check_pooling(pool, num_classes)
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=pool, flatten=bool(pool)).train(self.training)
        self.head_hidden_size = self.num_features * (self.global_pool.feat_mult() if pool else 1)
        like = next(self.parameters())
        head = NormLinear(self.head_hidden_size, num_classes, self.config.drop_rate) if num_classes else nn.Identity()
        self.head = head.to(like.device, like.dtype).train(self.training)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Return no names: the published recipe exempts only 1-D tensors and biases."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's layer groups: stem, then blocks (stages with coarse)."""
        blocks = (
            r"^stages\.(\d+)"
            if coarse
            else [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        )
        return {"stem": r"^stem", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of storing their activations."""
        for stage in cast(Iterable[Stage], self.stages):
            stage.grad_checkpointing = enable

    def _levels(self, last: int) -> Iterator[tuple[str, nn.Module]]:
        """Yield the layers of the stem and the stages up to a feature map, with their names in feature_info."""
        for parent, modules in (("stem", self.stem), ("stages", self.stages)):
            for index, module in enumerate(modules):
                yield f"{parent}.{index}", module
                if f"{parent}.{index}" == self.feature_info[min(last, len(self.feature_info) - 1)]["module"]:
                    return

    def _prepared(self, x: Tensor) -> Tensor:
        """Check images, (B, C, H, W), and return them as the stem takes them."""
        self._check_input(x)
        # Over the stem's large maps BatchNorm's sums are less exact channels last.
        return x if self.training else dispatch.channels_last(x)

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise UserError(
                f"Input shape = {tuple(x.shape)} must be (B, {self.in_chans}, H, W): set MobileMambaConfig.in_chans "
                "for images with other channels."
            )
        dtype = next(self.parameters()).dtype
        if x.dtype != dtype and not (x.is_floating_point() and torch.is_autocast_enabled(x.device.type)):
            raise UserError(
                f"Input dtype = {x.dtype} must be {dtype}, that of the weights: normalise the images and convert them "
                f"with .to({dtype}), or run the network under torch.autocast."
            )
        # Sizes of a traced dynamic graph are symbols: a comparison would burn them in.
        height, width = x.shape[-2:]
        smallest = self.config.min_image_size
        if isinstance(height, int) and isinstance(width, int) and min(height, width) < smallest:
            raise UserError(
                f"Image size = {height}x{width} must be at least {smallest}x{smallest} pixels: the network has "
                f"{self.config.num_stages} stages after a stem of stride {self.config.stem_stride}."
            )


def _adapt_loaded(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename what is loaded, in place, from published or older names to ours."""
    own = {key.removeprefix(prefix): state.pop(key) for key in list(state) if key.startswith(prefix)}
    state.update({f"{prefix}{key}": value for key, value in adapt_state(own, network).items()})


def _fill_fixed_filters(network: nn.Module, _: Any) -> None:
    """Fill what no state dict holds, for a network that was built on the meta device."""
    for module in network.modules():
        if isinstance(module, WaveletConv):
            module.init_non_persistent_buffers()
