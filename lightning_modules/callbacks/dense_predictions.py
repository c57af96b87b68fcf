"""Predictions of dense tasks as files: pictures, JSON in COCO's result format, and masks of class indices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_pil_image

from datamodules.coco_masks import encode_mask
from datamodules.dense import Picture
from lightning_modules.distributed import gathered
from lightning_modules.inspection import metadata_of
from lightning_modules.pictures.found import SHOWN_SCORE, colour_of, draw_found
from lightning_modules.pictures.samples import denormalised
from lightning_modules.run_folder import run_of_checkpoint
from mobilemamba.errors import UserError, require
from mobilemamba.files import atomic_write, check_writable, write_text
from mobilemamba.images import open_image

RESULTS = "results.json"


class DensePredictions(Callback):
    """Write predictions: ``pictures/`` with boxes and masks, and ``results.json`` or ``masks/`` of class indices.

    The JSON is in COCO's result format, with the ids of categories and images in the data's own file; without such ids
    classes and images are counted from 0. Masks are PNG files. All have the sizes of the original images.

    Hooks: ``on_predict_start`` finds the folder, ``on_predict_batch_end`` draws, ``on_predict_end`` writes the JSON on
    the first process.

    Args:
        folder: Folder of the files; null: predictions/ in the folder of the checkpoint's run, or in runs/.
        least_score: Objects with lower scores are not drawn; the JSON has all of them.

    Raises:
        UserError: When least_score is out of range.
    """

    def __init__(self, folder: str | None = None, least_score: float = SHOWN_SCORE) -> None:
        require(0 <= least_score <= 1, "dense_predictions.least_score", least_score, "from 0 to 1")
        self.folder, self.least_score = folder, least_score
        self.target = Path()
        self._results: dict[str, list[dict[str, Any]]] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the folder, and check that it can be written before anything is computed.

        Raises:
            UserError: When it cannot be written.
        """
        self._results = {}
        path = trainer.ckpt_path  # known once it is loaded
        run = None if path is None else run_of_checkpoint(Path(path))
        self.target = Path(self.folder or (Path("runs") if run is None else run.path()) / "predictions")
        try:
            check_writable(self.target)
        except UserError as error:
            raise UserError(f"dense_predictions.folder = {str(self.target)!r} cannot be written: {error}") from error

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the predictions of a batch, and keep those for the JSON."""
        metadata = metadata_of(pl_module)
        ids = getattr(getattr(trainer, "datamodule", None), "category_ids", None)
        colours = (denormalised(batch[0], metadata) * 255).round().to(torch.uint8).cpu()
        for picture, found, shown in zip(outputs["pictures"], outputs["found"], colours, strict=True):
            if isinstance(found, Tensor):
                found = found.cpu()
                write_image(self.target / "masks" / file_name(picture.name, ".png"), index_image(found.numpy()))
            else:
                self._results[picture.path] = coco_results(picture, found, ids)
            drawn = draw_found(original(picture, shown), found, metadata.class_names, self.least_score)
            write_image(self.target / "pictures" / file_name(picture.name, ".jpg"), to_pil_image(drawn))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of all processes, once for each image."""
        results = {path: rows for part in gathered(self._results) for path, rows in part.items()}
        if results and trainer.is_global_zero:
            write_text(self.target / RESULTS, json.dumps([row for path in sorted(results) for row in results[path]]))
        rank_zero_info(f"Predictions: {self.target}")


def file_name(name: str, suffix: str) -> Path:
    """Return a file name with a new suffix; an old one is kept unless it is .jpg, so that a.png and a.jpg differ."""
    path = Path(name)
    return path.with_suffix(suffix) if path.suffix in ("", ".jpg") else path.with_name(path.name + suffix)


def coco_results(
    picture: Picture, found: dict[str, Tensor], category_ids: Sequence[int] | None
) -> list[dict[str, Any]]:
    """Return the detections of an image in COCO's result format.

    Args:
        picture: The image.
        found: "boxes" (N, 4) in pixels of the original image, "scores" and "labels" (N,) and maybe "masks" (N, H, W).
        category_ids: Ids of the classes; None: their indices.
    """
    rows = []
    for index, (box, label, score) in enumerate(
        zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ):
        left, top, right, bottom = box
        row = {
            "image_id": picture.image_id,
            "category_id": label if category_ids is None else category_ids[label],
            "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
            "score": round(score, 5),
        }
        if "masks" in found:
            row["segmentation"] = encode_mask(found["masks"][index].numpy())
        rows.append(row)
    return rows


def index_image(classes: np.ndarray) -> Image.Image:
    """Return class indices (H, W) as an image of one channel, with a palette if they are in uint8."""
    if classes.dtype != np.uint8:
        return Image.fromarray(classes.astype(np.uint16))
    image = Image.fromarray(classes)
    image.putpalette([level for index in range(256) for level in colour_of(index)])
    return image


def original(picture: Picture, shown: Tensor) -> Tensor:
    """Return the colours (3, H, W) in uint8 of an image's file or, without a file, of the batch."""
    path = Path(picture.path)
    if path.is_file():
        return pil_to_tensor(open_image(path))
    return resize(shown[:, : picture.scaled[0], : picture.scaled[1]], list(picture.size), antialias=True)


def write_image(path: Path, image: Image.Image) -> None:
    """Write an image file whole or not at all."""
    with atomic_write(path) as unfinished:
        image.save(unfinished)
