"""A teacher's accuracy on validation images, and its agreement with the student."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_modules.metrics import WeightedMean


class TeacherComparison(nn.Module):
    """A frozen teacher's top-1 accuracy, and the share of images for which the student predicts the same class.

    The teacher runs once on each validation batch of a fit; its answers are kept by the batch's number, as long as the
    batch has the same targets. So validation images must come in the same order each time, as from this project's
    datamodules; otherwise accuracy and agreement can be wrong.
    """

    def __init__(self) -> None:
        super().__init__()
        self.top1 = WeightedMean()
        self.agreement = WeightedMean()
        self._answers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, batch_idx: int, teacher: nn.Module, batch: tuple[Tensor, Tensor], logits: Tensor) -> None:
        """Add a batch.

        Args:
            batch_idx: Its number in the validation.
            teacher: Maps images to logits.
            batch: Images (B, C, H, W) and class indices (B,).
            logits: The student's, (B, num_classes).
        """
        images, targets = batch
        answer = self._answers.get(batch_idx)
        if answer is None or not targets.equal(answer[0]):
            answer = self._answers[batch_idx] = targets, teacher(images).argmax(1)
        self.top1.update((answer[1] == targets).float())
        self.agreement.update((answer[1] == logits.argmax(1)).float())

    def compute(self) -> dict[str, Tensor]:
        """Return "top1_teacher" and "teacher_agreement" over all processes since the last reset."""
        return {"top1_teacher": self.top1.compute(), "teacher_agreement": self.agreement.compute()}

    def reset(self) -> None:
        """Forget all batches, but not the teacher's answers."""
        self.top1.reset()
        self.agreement.reset()
