"""Draws predictions or ground truth onto images: boxes and masks of objects, or the classes of pixels."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from datamodules.dense_transforms import IGNORED
from lightning_modules.pictures.class_results import class_name

Found = dict[str, Tensor] | Tensor
"""Objects: "boxes" (N, 4) in pixels, "labels" and maybe "scores" (N,), "masks" (N, H, W); or class indices (H, W)."""

SHOWN_SCORE = 0.4
"""By default objects with lower scores are not drawn."""

LEAST_SIDE = 256
"""Smaller images are enlarged, so that names can be read."""

LONGEST_NAME = 24
"""Characters of a name."""

OPACITY = 0.5
COLUMNS = 4
CELL = 2.4
"""Side of an image in inches."""


def colour_of(index: int) -> tuple[int, int, int]:
    """Return the colour of a class; neighbouring classes have very different hues."""
    levels = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.85 if index % 2 else 0.65, 1.0 if index % 3 else 0.8)
    red, green, blue = (round(255 * level) for level in levels)
    return red, green, blue


def draw_found(image: Tensor, found: Found, class_names: Sequence[str] | None, least_score: float = 0.0) -> Tensor:
    """Return an image with objects or classes of pixels drawn onto it.

    Args:
        image: Colours (3, H, W) in uint8.
        found: Objects, or classes of pixels; class 255 is not drawn.
        class_names: Names of the classes, if known.
        least_score: Objects with lower scores are not drawn.

    Returns:
        Colours in uint8, enlarged by a whole factor if the image is small.
    """
    factor = math.ceil(LEAST_SIDE / max(image.shape[-2:]))
    shown = _enlarged(image, factor)
    if isinstance(found, Tensor):
        return _with_classes(shown, _enlarged(found, factor), class_names)
    if "scores" in found:
        order = found["scores"].argsort()  # the highest score is drawn last, over the others
        kept = order[found["scores"][order] >= least_score]
        found = {name: values[kept] for name, values in found.items()}
    labels = found["labels"].tolist()
    if not labels:
        return shown
    colours = [colour_of(label) for label in labels]
    if "masks" in found:
        shown = draw_segmentation_masks(shown, _enlarged(found["masks"].bool(), factor), OPACITY, colours)
    texts = [class_name(label, class_names, LONGEST_NAME) for label in labels]
    if "scores" in found:
        texts = [f"{text} {score:.0%}" for text, score in zip(texts, found["scores"].tolist(), strict=True)]
    side = max(shown.shape[-2:])
    return draw_bounding_boxes(
        shown,
        found["boxes"] * factor,
        texts,
        colours,
        width=max(2, round(side / 400)),
        font=findfont("DejaVu Sans"),  # matplotlib brings it
        font_size=_text_size(side),
        label_colors=["black"] * len(texts),
        label_background_colors=colours,
        fill_labels=True,
    )


def draw_pairs(pairs: Sequence[tuple[Tensor, Tensor]], title: str) -> Figure:
    """Draw pairs of ground truth and prediction, (3, H, W) in uint8, two pairs per row."""
    rows = math.ceil(2 * len(pairs) / COLUMNS)
    figure = Figure(figsize=(COLUMNS * CELL, rows * (CELL + 0.2) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=9)
    cells = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for cell in cells:
        cell.axis("off")
    images = [(image, kind) for pair in pairs for image, kind in zip(pair, ("truth", "prediction"), strict=True)]
    for cell, (image, kind) in zip(cells, images, strict=False):
        cell.imshow(image.permute(1, 2, 0).numpy())
        cell.set_title(kind, fontsize=8)
    return figure


def _with_classes(image: Tensor, classes: Tensor, class_names: Sequence[str] | None) -> Tensor:
    present = [index for index in classes.unique().tolist() if index != IGNORED]
    if not present:
        return image
    masks = torch.stack([classes == index for index in present])
    picture = to_pil_image(draw_segmentation_masks(image, masks, OPACITY, [colour_of(index) for index in present]))
    pen, font = ImageDraw.Draw(picture), ImageFont.truetype(findfont("DejaVu Sans"), _text_size(max(picture.size)))
    for index, mask in zip(present, masks, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        middle = len(rows) // 2  # a pixel of the class in its middle row
        place = int(columns[middle]), int(rows[middle])
        text = class_name(index, class_names, LONGEST_NAME)
        pen.text(place, text, "white", font, anchor="mm", stroke_width=1, stroke_fill="black")
    return pil_to_tensor(picture)


def _text_size(side: int) -> int:
    """Return the text height in pixels for an image with this longer side."""
    return max(14, round(side / 50))


def _enlarged(values: Tensor, factor: int) -> Tensor:
    """Return an image or masks (..., H, W) enlarged by a whole factor."""
    return values.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
