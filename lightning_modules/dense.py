"""The common part of segmentation and detection: a backbone without a classifier, on which a network is built."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_modules.optimization import OptimizerConfig, ScheduleConfig
from lightning_modules.starting_weights import Start, freeze_part
from lightning_modules.student import StudentModule
from mobilemamba.backbone import MobileMamba
from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import UserError, require
from mobilemamba.published import WeightSource

BACKBONE = MobileMambaConfig(num_classes=0)
RECIPE_SCHEDULE = ScheduleConfig()


class DenseTask(StudentModule):
    """A network on a MobileMamba's feature maps; tasks build it on ``backbone`` and set it as ``student``.

    Args:
        num_classes: Number of classes; linked to the data's.
        optimizer: AdamW and its parameter groups.
        network: Architecture of the backbone; its num_classes is 0.
        schedule: Learning rate over the run.
        weights: Starting weights of the backbone in fit: published, published:in1k, a file of weights or a checkpoint
            of a classifier. Null: random weights.
        weights_kind: Averaged or raw weights, where there are both.
        weights_image_size: Image size in pixels of the published variant to start from, where several have the same
            architecture; null: the nearest to image_size.
        freeze: Part of the backbone that is not trained: stem, stages.N for all up to that stage, or backbone. Its
            BatchNorms stay in eval mode. Null: everything is trained.
        grad_checkpointing: Recompute the backbone's blocks in the backward pass: less memory, about a third more time.
        image_size: Height and width of the data's images in pixels, to which it is linked.

    Raises:
        UserError: When an option cannot be used; names field, value and remedy.
    """

    finds_objects: bool
    """Whether the task is detection, not segmentation."""
    found: str
    """Name of the predicted things, in the plural, for messages."""
    backbone: MobileMamba
    """Part of the student; not registered a second time."""

    def __init__(
        self,
        num_classes: int,
        optimizer: OptimizerConfig,
        network: MobileMambaConfig = BACKBONE,
        schedule: ScheduleConfig = RECIPE_SCHEDULE,
        weights: str | None = None,
        weights_kind: WeightSource = "ema",
        weights_image_size: int | None = None,
        freeze: str | None = None,
        grad_checkpointing: bool = False,
        image_size: int | None = None,
    ) -> None:
        super().__init__(network, optimizer, schedule)
        require(network.num_classes == 0, "model.network.num_classes", network.num_classes, "0: there is no classifier")
        require(optimizer.layer_decay is None, "optimizer.layer_decay", optimizer.layer_decay, "null in this task")
        self.found_classes = num_classes
        backbone = MobileMamba(network)
        self.set_unregistered("backbone", backbone)
        self.start = (
            None if weights is None else Start(backbone, weights, weights_kind, weights_image_size or image_size)
        )
        self.started_from = weights
        self._frozen = freeze_part(backbone, freeze)
        backbone.set_grad_checkpointing(grad_checkpointing)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.found_classes

    def setup(self, stage: str) -> None:
        """Check that network and data fit.

        Raises:
            TypeError: When the datamodule lacks what this module needs.
            UserError: When classes or image sizes contradict each other.
        """
        data = self.prepare(stage)
        if getattr(data, "finds_objects", self.finds_objects) != self.finds_objects:
            raise UserError(
                f"data = {type(data).__name__} is for another task than {type(self).__name__}: set task to "
                f"{'segmentation' if self.finds_objects else 'detection'}, or name other data."
            )
        if stage == "fit":
            count = sum(parameter.numel() for parameter in self.student.parameters())
            rank_zero_info(
                f"The network has {count:,} parameters and learns {data.num_classes} classes of {self.found}, "
                f"{data.batch_size} images per batch and process."
            )

    def forward(self, images: Tensor) -> Any:
        """Map normalised images (B, C, H, W) to the student's outputs."""
        return self.outputs(self.student, images)
