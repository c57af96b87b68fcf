"""Mixup, CutMix and label smoothing of whole batches, on the device they train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from torch import Tensor
from torch.nn import functional as F

from datamodules.seeding import seeded
from mobilemamba.errors import require


@dataclass(frozen=True)
class MixingConfig:
    """Mixing of pairs of images and their labels (timm's Mixup, batch mode); the defaults are the paper's recipe.

    Args:
        mixup: Alpha of mixup (Zhang et al., 2018); 0 turns it off.
        cutmix: Alpha of CutMix (Yun et al., 2019); 0 turns it off.
        probability: Probability that a batch is mixed.
        switch_probability: Probability of CutMix where both are on.
        label_smoothing: Probability mass spread evenly over all classes, with mixing or without.

    Raises:
        UserError: When a value is out of range; names field, value and remedy.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0
    switch_probability: float = 0.5
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("mixup", "cutmix"):
            require(getattr(self, name) >= 0, f"mixing.{name}", getattr(self, name), "0 (off) or more")
        for name in ("probability", "switch_probability", "label_smoothing"):
            require(0 <= getattr(self, name) <= 1, f"mixing.{name}", getattr(self, name), "a value in [0, 1]")

    @property
    def enabled(self) -> bool:
        """Whether any batch can be mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


class Mixer:
    """Mixes training batches; its draws depend only on seed and step, so that a resumed run repeats them.

    Args:
        config: How to mix.
        num_classes: Classes of the targets.
    """

    def __init__(self, config: MixingConfig, num_classes: int) -> None:
        self.config = config
        self.num_classes = num_classes
        self._mixup = Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            prob=config.probability,
            switch_prob=config.switch_probability,
            label_smoothing=config.label_smoothing,
            num_classes=num_classes,
        )

    def __call__(self, images: Tensor, targets: Tensor, seed: tuple[int, ...], *others: Tensor) -> tuple[Tensor, ...]:
        """Return mixed images (B, C, H, W), soft targets (B, num_classes) and the others.

        Args:
            images: Normalised images (B, C, H, W), changed in place.
            targets: Class indices (B,).
            seed: Non-negative numbers, different for each batch.
            others: Other targets (B, ...), which are mixed in the same proportion.
        """
        smoothing = self.config.label_smoothing
        if not self.config.enabled or len(images) % 2:  # timm mixes each image with its mirror in the batch
            return images, smooth_targets(targets, self.num_classes, smoothing), *others
        # timm's Mixup draws from NumPy's global generator.
        with seeded(int(np.random.SeedSequence(seed).generate_state(1)[0])):
            share = float(self._mixup._mix_batch(images))  # calling it would not return the share
        soft = mixup_target(targets, self.num_classes, share, smoothing).to(torch.float32)
        return images, soft, *(share * other + (1 - share) * other.flip(0) for other in others)


def smooth_targets(targets: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return class indices (B,) as probabilities (B, num_classes) with label smoothing (Szegedy et al., 2016)."""
    return F.one_hot(targets, num_classes).float() * (1 - smoothing) + smoothing / num_classes
