"""Accuracy and loss of one set of weights over a data set, however that is spread over batches and processes."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.losses import cross_entropy


class EvaluationMetrics(nn.Module):
    """Top-1 and top-5 accuracy in [0, 1] and the cross entropy in nats per sample.

    Sums are kept per process and added up across processes in :meth:`compute` alone, so processes may see different
    numbers of batches, and of samples per batch. Top-5 means all classes where there are fewer than five.

    Args:
        num_classes: Classes of the network.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.top1 = MulticlassAccuracy(num_classes, top_k=1, average="micro", validate_args=False)
        self.top5 = MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro", validate_args=False)
        self.loss = MeanMetric()

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, num_classes).
            targets: Class indices (B,).
        """
        logits = logits.float()
        self.top1.update(logits, targets)
        self.top5.update(logits, targets)
        self.loss.update(cross_entropy(logits, targets), weight=len(targets))

    def compute(self) -> dict[str, Tensor]:
        """Return "top1", "top5" and "loss" over all processes since the last reset."""
        return {"top1": self.top1.compute(), "top5": self.top5.compute(), "loss": self.loss.compute()}

    def reset(self) -> None:
        """Forget all batches; to be called before the first one too.

        Processes spawned on a CPU share the memory of what a metric held until then, and would count into one another.
        """
        for metric in (self.top1, self.top5, self.loss):
            metric.reset()
