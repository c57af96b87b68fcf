"""Starting from weights: frozen parts, and checks that images are prepared as the weights expect."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from lightning_modules.checks import ClassificationData
from lightning_modules.parser import options_of_class
from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import UserError, require
from mobilemamba.metadata import ModelMetadata, readable_name
from mobilemamba.published import WeightSource
from mobilemamba.weights import find_weights, start_from, variant_of


class Start:
    """Starting weights of a network.

    Args:
        network: The network to load them into.
        source: See :mod:`mobilemamba.weights`.
        kind: Averaged or raw ones, where there are both.
        image_size: Height and width of the data's images in pixels.

    Raises:
        UserError: When the weights cannot be used, or do not fit; lists both sides.
        FileNotFoundError: When there is no such file.
        ConnectionError: When the Hub cannot be reached.
    """

    def __init__(self, network: MobileMamba, source: str, kind: WeightSource, image_size: int | None) -> None:
        self.weights = find_weights(source, kind, variant_of(network.config, image_size))
        self.has_new_head = start_from(network, self.weights)

    def check(self, data: ClassificationData, is_evaluation: bool) -> None:
        """Check that the data fit the weights, and report a new classifier.

        Raises:
            UserError: When an evaluation would use a new classifier or prepare images in another way.
        """
        if self.has_new_head:
            text = f"weights = {self.weights.source!r} have no classifier of the data's {data.num_classes} classes"
            if is_evaluation:
                raise UserError(
                    f"model.{text}: evaluate them on data of their own classes, or fine-tune them with fit."
                )
            rank_zero_info(f"The {text}: the classifier is new, everything else starts from them.")
        if self.weights.metadata is not None:
            trained = replace(self.weights.metadata, class_names=None) if self.has_new_head else self.weights.metadata
            check_preprocessing(data, trained, is_evaluation)


def freeze_part(network: MobileMamba, part: str | None) -> list[nn.Module]:
    """Freeze a part of a network.

    Args:
        network: The network.
        part: "stem", "stages.N" for stem and stages up to that one, "backbone" for all but the classifier; None for
            nothing.

    Returns:
        The frozen modules, which must stay in eval mode.

    Raises:
        UserError: When the network has no such part.
    """
    if part is None:
        return []
    stages = [f"stages.{index}" for index in range(len(network.stages))]
    parts = ["stem", *stages, "backbone"]
    require(part in parts, "model.freeze", part, f"one of {', '.join(parts)}, or null")
    count = len(stages) if part == "backbone" else parts.index(part)
    frozen = [network.stem, *network.stages[:count]]
    for module in frozen:
        module.requires_grad_(False).eval()
    return frozen


def follow_weights(data: Any, trained: ModelMetadata, is_evaluation: bool) -> None:
    """Set the datamodule's preprocessing to that of the weights, for options that still have their defaults.

    Image sizes are free in training. Class names and options that the user gave are not changed; see
    :func:`check_preprocessing`.

    Args:
        data: Datamodule before its setup.
        trained: Preprocessing that the weights were trained with.
        is_evaluation: Whether this is an evaluation, not a fit.
    """
    if getattr(data, "override_preprocessing", False):
        return
    followed, defaults = [], options_of_class(type(data))
    for name, value in _preprocessing(trained).items():
        if name not in defaults:
            continue
        default = defaults[name]
        is_default = getattr(data, name) == (tuple(default) if isinstance(default, list) else default)
        if is_default and getattr(data, name) != value and (is_evaluation or name != "image_size"):
            setattr(data, name, value)
            followed.append(f"data.{name} = {value}")
    if followed:
        rank_zero_info(f"Images are prepared as the weights expect: {', '.join(followed)}.")


def check_preprocessing(data: ClassificationData, trained: ModelMetadata, is_evaluation: bool) -> None:
    """Check that images are prepared as the weights expect; in fit other options only give a warning.

    Raises:
        UserError: When an evaluation would use other preprocessing; names every option with both values.
    """
    given, expected = _preprocessing(data.metadata()), _preprocessing(trained)
    free = () if is_evaluation else ("image_size", "exif_orientation")
    different = [name for name in given if given[name] != expected[name] and name not in free]
    if different:
        text = "; ".join(f"data.{name} = {given[name]}, the weights expect {expected[name]}" for name in different)
        if not is_evaluation:
            rank_zero_warn(f"Images are not prepared as in the training of the weights: {text}.")
        elif not getattr(data, "override_preprocessing", False):
            raise UserError(f"{text}: use these values, or set data.override_preprocessing to true.")
    check_class_names(data.metadata().class_names, trained.class_names)


def check_class_names(of_data: tuple[str, ...] | None, of_weights: tuple[str, ...] | None) -> None:
    """Warn if data and weights have the same number of classes, but with different names."""
    if of_data is None or of_weights is None or len(of_data) != len(of_weights):
        return
    different = [
        f"{ours} / {theirs}"
        for ours, theirs in zip(map(readable_name, of_data), map(readable_name, of_weights), strict=True)
        if ours != theirs
    ]
    some = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
    if different:
        rank_zero_warn(
            f"The data and the weights have the same number of classes ({len(of_data)}), but with different names: "
            f"{some} (data / weights). The classifier is kept; this is right only if these are the same classes in the "
            "same order."
        )


def _preprocessing(metadata: ModelMetadata) -> dict[str, Any]:
    """Return the preprocessing as options of a datamodule."""
    values = {field.name: getattr(metadata, field.name) for field in fields(metadata) if field.name != "class_names"}
    height, width = metadata.image_size
    return values | {"image_size": height if height == width else metadata.image_size}
