"""Accuracy and loss of one set of weights over a data set, over all batches and processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from lightning_modules.losses import cross_entropy
from lightning_modules.segmentation_loss import pixel_cross_entropy

CLEAR_SHARE = 0.8
"""A mixed image counts as one of a class if the class has at least this share of its label."""


def recognised(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return which images are recognised, and which are clear enough to count (hardly mixed), both (B,) floats.

    Args:
        logits: (B, num_classes).
        targets: Class probabilities (B, num_classes), or class indices (B,).
    """
    if targets.ndim == 1:
        return (logits.argmax(1) == targets).float(), torch.ones_like(targets, dtype=torch.float32)
    share, classes = targets.max(1)
    return (logits.argmax(1) == classes).float(), (share >= CLEAR_SHARE).float()


class WeightedMean(Metric):
    """Weighted mean of values over all processes; NaN if one of the values is NaN or there are none.

    torchmetrics' MeanMetric ignores NaN values or, with nan_strategy="disable", the weights.
    """

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "weight"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, values: Tensor, weights: Tensor | int = 1) -> None:
        """Add values of any shape, and their weights, of the same shape or one for all."""
        self.total += (values * weights).sum()
        self.weight += (torch.ones_like(values) * weights).sum()

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.weight


class MetricSet(nn.Module):
    """Metrics by name; a module without other children."""

    def compute(self) -> dict[str, Tensor]:
        """Return values by name, over all processes since the last reset."""
        return {name: metric.compute() for name, metric in self._named()}

    def reset(self) -> None:
        """Forget all batches; to be called before the first batch too.

        Processes spawned on a CPU share the memory of the metrics' initial states, and would add to each other's.
        """
        for _, metric in self._named():
            metric.reset()

    def _named(self) -> Iterator[tuple[str, Metric]]:
        """Go through all metrics."""
        return ((name, cast(Metric, metric)) for name, metric in self.named_children())


class EvaluationMetrics(MetricSet):
    """Top-1, top-5 and macro accuracy and macro F1 in [0, 1], and the cross entropy in nats per sample.

    Sums are kept per process and added up only in :meth:`compute`, so processes may have different numbers of batches
    and of samples per batch. With fewer than six classes there is no top-5 accuracy. The macro metrics are means over
    the classes that have samples or were predicted; rare classes count as much as frequent ones.

    Args:
        num_classes: Classes of the network.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.top1 = MulticlassAccuracy(num_classes, top_k=1, average="micro", validate_args=False)
        if num_classes > 5:
            self.top5 = MulticlassAccuracy(num_classes, top_k=5, average="micro", validate_args=False)
        self.macro_accuracy = MulticlassAccuracy(num_classes, average="macro", validate_args=False)
        self.f1 = MulticlassF1Score(num_classes, average="macro", validate_args=False)
        self.loss = WeightedMean()

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, num_classes).
            targets: Class indices (B,).
        """
        logits = logits.float()
        for name, metric in self._named():
            if name != "loss":
                metric.update(logits, targets)
        self.loss.update(cross_entropy(logits, targets), len(targets))


class SegmentationMetrics(MetricSet):
    """Mean IoU, mean accuracy and accuracy of pixels in [0, 1], and the cross entropy in nats per pixel.

    All are computed over the pixels of the whole data set; means are over classes that occur or were predicted.

    Args:
        num_classes: Classes of the network.
        ignore_index: Index of ignored pixels.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        options: dict[str, Any] = {"ignore_index": ignore_index, "validate_args": False}
        self.miou = MulticlassJaccardIndex(num_classes, average="macro", **options)
        self.mean_accuracy = MulticlassAccuracy(num_classes, average="macro", **options)
        self.pixel_accuracy = MulticlassAccuracy(num_classes, average="micro", **options)
        self.loss = WeightedMean()
        self.ignore_index = ignore_index

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, num_classes, H, W), of any height and width.
            targets: Class indices (B, H, W); logits are resized to their size.
        """
        if logits.shape[-2:] != targets.shape[-2:]:
            logits = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear", align_corners=False)
        classes = logits.argmax(dim=1)
        for name, metric in self._named():
            if name != "loss":
                metric.update(classes, targets)
        loss = pixel_cross_entropy(logits, targets, self.ignore_index)
        self.loss.update(loss, (targets != self.ignore_index).sum())
