"""What a network's file holds besides its weights: classes and how images are prepared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from timm.data import ImageNetInfo
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


@dataclass(frozen=True)
class ModelMetadata:
    """Class names and preprocessing that belong to trained weights.

    Args:
        image_size: Height and width in pixels.
        mean: Subtracted per channel, for images in [0, 1].
        std: Divided by per channel, after the mean.
        interpolation: Resampling filter of the evaluation resize.
        crop_pct: Side of the centre crop relative to the resized image.
        class_names: Names in the order of the outputs, if known.
        exif_orientation: Whether images are turned by their EXIF orientation before anything else.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    class_names: tuple[str, ...] | None = None
    exif_orientation: bool = False  # older checkpoints and files lack it

    def readable_class(self, index: int) -> str:
        """Return the name of an output for people, or its number where names are not known."""
        return f"class {index}" if self.class_names is None else readable_name(self.class_names[index])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: safe in any checkpoint and any exported file."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelMetadata:
        """Rebuild from :meth:`to_dict`."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


def readable_name(name: str) -> str:
    """Return a class's name for people: "tench, Tinca tinca" for ImageNet's "n01440764", other names as they are."""
    return _imagenet_names().get(name, name)


@cache
def _imagenet_names() -> dict[str, str]:
    info = ImageNetInfo("imagenet-1k")
    return dict(zip(info.label_names(), info.label_descriptions(), strict=True))
