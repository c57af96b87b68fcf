"""AdamW and its learning rate as in the MobileMamba recipe.

The learning rate is given per 512 images and scaled to the global batch; it rises linearly over the first epochs, or
steps, and falls along a half cosine, set anew before every optimiser step. Both are pure functions of the step number,
so that a resumed run continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import UserError, require
from mobilemamba.pyramid import FeaturePyramid, SSDLiteLevels

SCAN_PARAMETERS = ("A_log", "D", "dt_proj_bias")
"""Attribute names of the parameters that Mamba's own training code exempts from weight decay."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; one-dimensional tensors (norms, scales) and biases are never decayed.

    Args:
        learning_rate: Peak learning rate per reference_batch_size images.
        reference_batch_size: Images per optimiser step, over all processes, that learning_rate is meant for; the rate
            is scaled in proportion to the actual number. Null: learning_rate is used as it is.
        weight_decay: Decoupled weight decay, relative to the learning rate.
        betas: Decay rates of the averages of the gradient and its square.
        eps: Added to the denominator of the update.
        decay_scan_parameters: Whether A_log and dt_proj_bias of the scan, two-dimensional, are decayed, as for the
            published weights; false is Mamba's convention.
        layer_decay: For fine-tuning, factor of the learning rate from each layer to the one before it, in timm's layer
            groups; the classifier has the full rate. Null: one rate for all.
        head_factor: Factor of the learning rate outside backbone and pyramid: in the classifier, or a decoder's head.

    Raises:
        UserError: When a value is out of range; the message names field, value and remedy.
    """

    learning_rate: float = 1.5e-3
    reference_batch_size: int | None = 512
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay_scan_parameters: bool = True
    layer_decay: float | None = None
    head_factor: float = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "a positive number")
        reference = self.reference_batch_size
        allowed = "a positive number of images, or null to leave the learning rate unscaled"
        require(reference is None or reference > 0, "optimizer.reference_batch_size", reference, allowed)
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        require(all(0 <= beta < 1 for beta in self.betas), "optimizer.betas", self.betas, "rates in [0, 1)")
        decay = self.layer_decay
        require(
            decay is None or 0 < decay <= 1, "optimizer.layer_decay", decay, "a factor above 0 and up to 1, or null"
        )
        for name in ("eps", "head_factor"):
            require(getattr(self, name) > 0, f"optimizer.{name}", getattr(self, name), "a positive number")

    def scaled_learning_rate(self, global_batch_size: int) -> float:
        """Peak learning rate for this many images per optimiser step, over all processes."""
        if self.reference_batch_size is None:
            return self.learning_rate
        return self.learning_rate * global_batch_size / self.reference_batch_size


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then a half cosine, as a factor of the peak learning rate.

    Args:
        warmup_epochs: Length of the warm-up in epochs; fractions are possible, 0 turns it off.
        warmup_steps: Length of the warm-up in optimiser steps, instead of warmup_epochs. Null: warmup_epochs.
        warmup_factor: Factor at the first optimiser step of the warm-up.
        final_factor: Factor that the cosine reaches after the last optimiser step.
        cosine_from: Where the cosine has its maximum: "start" is the first step of training, as in timm, so that the
            rate is a little below its peak after the warm-up; "warmup" is the end of the warm-up; "middle" is half of
            the run, up to which the rate stays at its peak.

    Raises:
        UserError: When a value is out of range; the message names field, value and remedy.
    """

    warmup_epochs: float = 20.0
    warmup_steps: int | None = None
    warmup_factor: float = 1e-3
    final_factor: float = 1e-2
    cosine_from: Literal["start", "warmup", "middle"] = "start"

    def __post_init__(self) -> None:
        """Check every field."""
        require(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, "0 (no warm-up) or more")
        steps = self.warmup_steps
        require(steps is None or steps >= 0, "schedule.warmup_steps", steps, "0 (no warm-up) or more, or null")
        for name in ("warmup_factor", "final_factor"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"schedule.{name}", value, "a factor in [0, 1]")


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int, config: ScheduleConfig) -> float:
    """Factor of the peak learning rate at an optimiser step.

    Args:
        step: Number of optimiser steps taken so far.
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Optimiser steps of the warm-up.
        config: The shape.
    """
    if step < warmup_steps:
        return config.warmup_factor + (1 - config.warmup_factor) * step / warmup_steps
    first = {"start": 0, "warmup": warmup_steps, "middle": total_steps // 2}[config.cosine_from]
    progress = min(max((step - first) / max(total_steps - first, 1), 0.0), 1.0)
    return config.final_factor + (1 - config.final_factor) * (1 + math.cos(math.pi * progress)) / 2


def make_schedule(total_steps: int, warmup_steps: int, config: ScheduleConfig) -> Callable[[int], float]:
    """Return :func:`learning_rate_factor` of a run as a function of the step alone."""

    # A plain function, since LambdaLR does not save it in checkpoints: the options of the resumed run decide.
    def factor(step: int) -> float:
        return learning_rate_factor(step, total_steps, warmup_steps, config)

    return factor


def schedule_of_run(trainer: Trainer, optimizer: Optimizer, config: ScheduleConfig) -> LambdaLR:
    """Return the schedule over all optimiser steps of a fit.

    Raises:
        UserError: When the run has no known end, which a cosine needs.
    """
    total = trainer.estimated_stepping_batches
    if math.isinf(trainer.num_training_batches):
        trainer.fit_loop.setup_data()  # Lightning skips it if max_steps is given
    steps_per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    if math.isinf(total) or math.isinf(steps_per_epoch):
        raise UserError(
            f"trainer.max_epochs = {trainer.max_epochs} with trainer.max_steps = {trainer.max_steps} and "
            f"{trainer.num_training_batches} batches per epoch has no known end, which the cosine schedule needs: "
            "set trainer.max_epochs or trainer.max_steps to a positive number and use data of known length."
        )
    warmup = config.warmup_steps
    if warmup is None:
        warmup = round(config.warmup_epochs * math.ceil(steps_per_epoch))
    if warmup >= total:
        name = "warmup_epochs" if config.warmup_steps is None else "warmup_steps"
        rank_zero_info(
            f"The warm-up of {warmup} steps (schedule.{name} = {getattr(config, name)}) is not over when "
            f"training ends after {total}: the learning rate never reaches its peak."
        )
    return LambdaLR(optimizer, make_schedule(int(total), warmup, config))


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Split trainable parameters into a decayed and an undecayed group, for each layer or part that has its own rate.

    Args:
        model: A network; names in its ``no_weight_decay()``, where it has one, are not decayed either.
        config: Weight decay, and learning rates of layers and head.

    Returns:
        Groups named "decay" and "no_decay"; layers or a head with other rates add "layer_3." or "head." and "lr_scale".
    """
    exempt: set[str] = set(getattr(model, "no_weight_decay", set)())
    layers = _layers(model) if config.layer_decay is not None else {}
    last, body = max(layers.values(), default=0), _body(model)
    groups: dict[str, dict[str, Any]] = {}
    if not layers:
        groups = {name: {"name": name, "params": [], "weight_decay": 0.0} for name in ("decay", "no_decay")}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        leaf = name.rpartition(".")[2]
        is_exempt_scan = leaf in SCAN_PARAMETERS and not config.decay_scan_parameters
        is_exempt = parameter.ndim <= 1 or leaf == "bias" or name in exempt or is_exempt_scan
        kind = "no_decay" if is_exempt else "decay"
        scale = config.layer_decay ** (last - layers[name]) if config.layer_decay is not None else 1.0
        key = f"layer_{layers[name]}.{kind}" if layers else kind
        if config.head_factor != 1 and not name.startswith(body):
            key, scale = f"head.{key}", scale * config.head_factor
        group = groups.setdefault(key, {"name": key, "params": []})
        group["params"].append(parameter)
        group["weight_decay"] = 0.0 if is_exempt else config.weight_decay
        if scale != 1:
            group["lr_scale"] = scale
    return list(groups.values())


def _body(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of parameters outside the head: those of backbones' stems and stages, and of pyramids."""
    names: list[str] = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, MobileMamba):
            names += [f"{prefix}stem.", f"{prefix}stages."]
        elif isinstance(module, (FeaturePyramid, SSDLiteLevels)):
            names.append(prefix)
    return tuple(names)


def _layers(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter, counted from the stem, in timm's groups."""
    matcher: Any = model.group_matcher
    layers: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
    return layers


def gradient_norm(optimizer: Optimizer) -> tuple[list[nn.Parameter], Tensor]:
    """Return the parameters that have gradients, and the norm of all these gradients."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return parameters, get_total_norm([p.grad for p in parameters if p.grad is not None])


def make_optimizer(model: nn.Module, config: OptimizerConfig, global_batch_size: int) -> torch.optim.AdamW:
    """Return AdamW over a network's parameter groups.

    Args:
        model: The network to train.
        config: AdamW's options.
        global_batch_size: Images per optimiser step: batch size times processes times accumulated batches.
    """
    rate = config.scaled_learning_rate(global_batch_size)
    groups = [{**group, "lr": rate * group.get("lr_scale", 1.0)} for group in parameter_groups(model, config)]
    return torch.optim.AdamW(groups, lr=rate, betas=config.betas, eps=config.eps)
