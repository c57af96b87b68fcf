"""COCO's average precision of boxes and masks, computed in the original images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import clip_boxes_to_image

from datamodules.coco_masks import coco_backend
from lightning_modules.distributed import gathered
from lightning_modules.metrics import MetricSet

FIGURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")


class DetectionMetrics(MetricSet):
    """COCO's average precision in [0, 1]; -1 if there are no objects of a size.

    Args:
        with_masks: Whether masks are compared too.

    Raises:
        UserError: When no package that computes it is installed.
    """

    def __init__(self, with_masks: bool = False) -> None:
        super().__init__()
        self.with_masks = with_masks
        kinds: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm") if with_masks else ("bbox",)
        self.precision = MeanAveragePrecision(iou_type=kinds, backend=coco_backend(), sync_on_compute=False)
        self.precision.warn_on_many_detections = False

    def update(self, detections: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> None:
        """Add a batch.

        Args:
            detections: For each image "boxes" (N, 4), "scores" and "labels" (N,), in pixels of the batch; with masks
                also "masks" (N, 1, h, w) relative to the boxes.
            targets: For each image "boxes" (N, 4) and "labels" (N,), maybe "masks" (N, H, W), "area" and "iscrowd"
                (N,), in pixels of the original image; its height and width, "size" (2,), and those in the batch,
                "scaled" (2,).
        """
        found = [
            at_original_size(one, target["scaled"].tolist(), target["size"].tolist())
            for one, target in zip(detections, targets, strict=True)
        ]
        self.precision.update(found, [{name: value.cpu() for name, value in target.items()} for target in targets])

    def compute(self) -> dict[str, Tensor]:
        """Return the average precision over IoU from 0.5 to 0.95, at 0.5 and 0.75, and by COCO's sizes.

        Metrics of masks have the prefix "mask_". The states are gathered here, since torchmetrics would wait for ever
        for processes that had fewer images.
        """
        own = self.precision.metric_state
        parts = gathered(own)
        for name in own:
            setattr(self.precision, name, [values for part in parts for values in part[name]])
        figures = self.precision.compute()
        for name, values in own.items():
            setattr(self.precision, name, values)
        if not self.with_masks:
            return {name: figures[name] for name in FIGURES}
        prefixes = {"": "bbox", "mask_": "segm"}
        return {prefix + name: figures[f"{kind}_{name}"] for prefix, kind in prefixes.items() for name in FIGURES}


def at_original_size(found: dict[str, Tensor], scaled: Sequence[int], size: Sequence[int]) -> dict[str, Tensor]:
    """Return the detections of an image in pixels of the original image, on the CPU.

    Args:
        found: "boxes" (N, 4), "scores" and "labels" (N,), and maybe "masks" (N, 1, h, w) relative to the boxes.
        scaled: Height and width of the image in the batch, without padding.
        size: Height and width of the original.

    Returns:
        The same without boxes in the padding; masks are (N, H, W), bool.
    """
    found = {name: value.detach().float().cpu() for name, value in found.items()}
    ratios = [original / now for original, now in zip(size, scaled, strict=True)]
    boxes = clip_boxes_to_image(found["boxes"] * torch.tensor([ratios[1], ratios[0]] * 2), (size[0], size[1]))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    result = {"boxes": boxes[kept], "scores": found["scores"][kept], "labels": found["labels"][kept].long()}
    if "masks" in found:
        masks = torch.zeros(len(result["boxes"]), *size, dtype=torch.bool)
        # One by one, since a hundred in float32 would fill the memory.
        for mask, box, part in zip(masks, result["boxes"], found["masks"][kept], strict=True):
            mask[:] = paste_masks_in_image(part[None], box[None], (size[0], size[1]))[0, 0] > 0.5
        result["masks"] = masks
    return result
