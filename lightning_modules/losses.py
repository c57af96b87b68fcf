"""Losses of classification and distillation: tensors in, named parts out.

Soft and hard distillation follow DeiT (arXiv:2012.12877, section 3), with one important difference: DeiT's code
averages the divergence over samples *and* classes; here it is summed over classes, as in the MobileMamba recipe (a
thousand times larger on ImageNet at the same weight). The correlation loss is DIST (arXiv:2205.10536, equations 9-11).
Everything is computed in float32, in whatever precision the logits are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, assert_never

import torch
from torch import Tensor
from torch.nn import functional as F

from mobilemamba.errors import require

CORRELATION_EPSILON = 1e-8
"""Keeps the correlation of a constant row (all classes equally likely) finite, as in the authors' code."""


@dataclass(frozen=True)
class DistillationConfig:
    """How a teacher's logits enter the loss: ``task_weight * task + weight * distillation``.

    Args:
        kind: "soft" is the divergence of student from teacher (the paper's recipe), "hard" the cross entropy with the
            teacher's top class, "dist" the correlation between classes and between samples.
        weight: Weight of the distillation part; by default the published one of its kind: soft 5.0, hard 0.5, dist 1.0.
        task_weight: Weight of the loss on the labels; by default the published one: soft 1.0, hard 0.5, dist 1.0.
        temperature: Divides both logits before the softmax; soft and dist are multiplied by its square in return.
        dist_beta: Weight of DIST's relation between classes (within a sample).
        dist_gamma: Weight of DIST's relation between samples (within a class).

    Raises:
        UserError: When a value is out of range; the message names field, value and remedy.
    """

    kind: Literal["soft", "hard", "dist"] = "soft"
    weight: float | None = None
    task_weight: float | None = None
    temperature: float = 1.0
    dist_beta: float = 1.0
    dist_gamma: float = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        require(self.temperature > 0, "distillation.temperature", self.temperature, "a positive number")
        for name in ("weight", "task_weight", "dist_beta", "dist_gamma"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"distillation.{name}", value, "0 or more")

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of the task part and the distillation part."""
        match self.kind:
            case "soft":
                task, distillation = 1.0, 5.0
            case "hard":
                task, distillation = 0.5, 0.5
            case "dist":
                task, distillation = 1.0, 1.0
            case _:
                assert_never(self.kind)
        return (
            task if self.task_weight is None else self.task_weight,
            distillation if self.weight is None else self.weight,
        )


class LossParts(NamedTuple):
    """Scalars in nats per sample (the DIST part has no unit); the parts are before weighting."""

    total: Tensor
    task: Tensor
    distillation: Tensor | None = None


def classification_loss(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> LossParts:
    """Cross entropy alone, as one named part; for the arguments see :func:`cross_entropy`."""
    task = cross_entropy(logits, targets, class_weights)
    return LossParts(total=task, task=task)


def distillation_loss(
    logits: Tensor,
    targets: Tensor,
    teacher_logits: Tensor,
    config: DistillationConfig,
    class_weights: Tensor | None = None,
) -> LossParts:
    """Weighted sum of the cross entropy with the labels and the chosen distillation.

    Args:
        logits: The student's, (B, num_classes).
        targets: Class probabilities (B, num_classes), or class indices (B,) in int64.
        teacher_logits: (B, num_classes), without gradient.
        config: Kind, weights and temperature.
        class_weights: Of the labels' part; see :func:`cross_entropy`.
    """
    task = cross_entropy(logits, targets, class_weights)
    match config.kind:
        case "soft":
            distillation = soft_distillation(logits, teacher_logits, config.temperature)
        case "hard":
            distillation = cross_entropy(logits, teacher_logits.argmax(dim=1))
        case "dist":
            distillation = dist_distillation(
                logits, teacher_logits, config.temperature, config.dist_beta, config.dist_gamma
            )
        case _:
            assert_never(config.kind)
    task_weight, weight = config.weights
    return LossParts(total=task_weight * task + weight * distillation, task=task, distillation=distillation)


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy in float32, summed over classes, mean over samples.

    Args:
        logits: (B, num_classes).
        targets: Class probabilities (B, num_classes), or class indices (B,) in int64.
        class_weights: Factor of each class's share of a target, (num_classes,); the mean is over samples, not weights.
    """
    logits, targets = logits.float(), targets.float() if targets.is_floating_point() else targets
    if class_weights is None:
        return F.cross_entropy(logits, targets)
    return F.cross_entropy(logits, targets, class_weights, reduction="none").mean()


def balancing_weights(counts: Sequence[int], power: float) -> Tensor:
    """Return a weight for each class that falls with its number of images, 1 on average over all images.

    Args:
        counts: Training images of each class; none is 0.
        power: From 0, every image has the same weight, to 1, every class has the same weight.

    Returns:
        Weights (num_classes,) in float32.
    """
    images = torch.tensor(counts, dtype=torch.float64)
    weights = images**-power
    return (weights * images.sum() / (weights * images).sum()).float()


def soft_distillation(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(teacher || student)`` of the softmax at temperature T, summed over classes, mean over samples.

    The teacher is the target distribution, as in DeiT's code; papers also write it KL(student || teacher).

    Args:
        logits: The student's, (B, num_classes).
        teacher_logits: (B, num_classes).
        temperature: T.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def dist_distillation(
    logits: Tensor, teacher_logits: Tensor, temperature: float, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """DIST: one minus Pearson's correlation of the probabilities, within samples and within classes.

    Within a class the correlation is over the samples of this process's batch, so larger batches make it less noisy.

    Args:
        logits: The student's, (B, num_classes).
        teacher_logits: (B, num_classes).
        temperature: T of both softmaxes; the loss is multiplied by T^2.
        beta: Weight of the relation between the classes of a sample.
        gamma: Weight of the relation between the samples of a class.
    """
    student = (logits.float() / temperature).softmax(dim=1)
    teacher = (teacher_logits.float() / temperature).softmax(dim=1)
    between_classes = 1 - _correlation(student, teacher, dim=1).mean()
    between_samples = 1 - _correlation(student, teacher, dim=0).mean()
    return temperature**2 * (beta * between_classes + gamma * between_samples)


def _correlation(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Pearson's correlation along a dimension, which is reduced."""
    x = x - x.mean(dim=dim, keepdim=True)
    y = y - y.mean(dim=dim, keepdim=True)
    return torch.cosine_similarity(x, y, dim=dim, eps=CORRELATION_EPSILON)
