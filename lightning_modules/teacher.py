"""The frozen teacher of distillation: any timm network, or a student of an earlier run.

A teacher sees the same view as the student (DeiT, "function matching"): images arrive normalised for the student, and
are renormalised and resized as in the teacher's training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from lightning.pytorch.utilities import rank_zero_info
from timm.data import resolve_model_data_config
from timm.models import clean_state_dict, is_model_pretrained
from torch import Tensor, nn
from torch.nn import functional as F

from mobilemamba.checkpoints import read_file
from mobilemamba.errors import UserError
from mobilemamba.metadata import ModelMetadata
from mobilemamba.published import split_checkpoint
from mobilemamba.weights import load_network

RECIPE_TEACHER = "tresnet_v2_l.miil_in21k_ft_in1k"
"""Teacher of the published distilled weights: TResNet-L v2, 83.9 % top-1 on ImageNet."""


@dataclass(frozen=True)
class TeacherConfig:
    """Which network teaches, and how its inputs and outputs relate to the student's.

    Args:
        name: timm name of the network; not used if checkpoint is a .ckpt of this project.
        checkpoint: Weights: a .safetensors or .pth file for that name, or a .ckpt of this project; see pretrained.
        pretrained: Without checkpoint, fetch timm's published weights; false leaves random weights, for dry runs only.
        weights: Averaged or raw weights of a training checkpoint of this project.
        class_indices: The teacher's outputs that are the student's classes, in the student's order. Null: all of them.
        image_size: Height and width in pixels that images are resized to. Null: the teacher's own.
        mean: Channel means that the teacher expects, for images in [0, 1]. Null: the teacher's own.
        std: Channel standard deviations that the teacher expects. Null: the teacher's own.
        stored: Folder that mobilemamba store-teacher has written: the teacher's answers are read from it, and no
            teacher is loaded. Options above that are given must agree with the store.
        mixing: Whether data.mixing's mixup and CutMix are used with a stored teacher, whose probabilities are then
            mixed in the same proportion; a live teacher's answer to the mixed image would be different.
    """

    name: str = RECIPE_TEACHER
    checkpoint: str | None = None
    pretrained: bool = True
    weights: Literal["ema", "raw"] = "ema"
    class_indices: list[int] | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    stored: str | None = None
    mixing: bool = False


class Teacher(nn.Module):
    """A frozen classifier in eval mode that takes the student's images.

    Args:
        network: Classifier, (B, C, H, W) to (B, classes).
        expects: Image size and normalisation that the network was trained with.
        student_mean: Channel means of the student's images.
        student_std: Channel standard deviations of the student's images.
        class_indices: Outputs to keep, in this order; None keeps all.

    Raises:
        UserError: When the channels of student and teacher differ.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        expects: ModelMetadata,
        student_mean: Sequence[float],
        student_std: Sequence[float],
        class_indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not len(student_mean) == len(student_std) == len(expects.mean) == len(expects.std):
            raise UserError(
                f"The teacher expects images of {len(expects.mean)} channels (mean {expects.mean}, std {expects.std}), "
                f"the student's have {len(student_mean)}: use a teacher for the same images."
            )
        self.network = network.requires_grad_(False)
        self.image_size, self.expects = expects.image_size, expects
        own_mean, own_std = _per_channel(expects.mean), _per_channel(expects.std)
        mean, std = _per_channel(student_mean), _per_channel(student_std)
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)
        self.class_indices = None if class_indices is None else list(class_indices)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode: a teacher's statistics and dropout are frozen too."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map the student's normalised images (B, C, H, W) to the teacher's logits (B, num_classes) in float32."""
        # Images are resized in float32, even under autocast.
        images = images.float() * self.scale + self.shift
        if images.shape[-2:] != self.image_size:
            images = F.interpolate(images, size=self.image_size, mode="bicubic", antialias=True)
        logits: Tensor = self.network(images).float()
        return logits if self.class_indices is None else logits[:, self.class_indices]


def build_teacher(
    config: TeacherConfig, num_classes: int, student_mean: Sequence[float], student_std: Sequence[float]
) -> Teacher:
    """Build a teacher, load its weights and check that it fits the student.

    Args:
        config: Which teacher.
        num_classes: Classes of the student.
        student_mean: Channel means of the student's images.
        student_std: Channel standard deviations of the student's images.

    Raises:
        UserError: When the name is unknown or has no weights, the checkpoint is damaged or holds code, or classes or
            channels do not fit the student's.
        FileNotFoundError: When there is no such checkpoint.
        ConnectionError: When published weights cannot be fetched.
    """
    network, expects = _build_network(config)
    expects = ModelMetadata(
        image_size=expects.image_size if config.image_size is None else (config.image_size, config.image_size),
        mean=expects.mean if config.mean is None else config.mean,
        std=expects.std if config.std is None else config.std,
    )
    _check_classes(config, int(network.num_classes), num_classes)
    return Teacher(network, expects, student_mean, student_std, config.class_indices)


def _build_network(config: TeacherConfig) -> tuple[Any, ModelMetadata]:
    if config.checkpoint is not None:
        path = Path(config.checkpoint)
        content = read_file(path)
        if "mobilemamba" in content:
            return load_network(path, config.weights)
        network = _load_timm_file(config.name, path, content)
    elif config.pretrained:
        network = _fetch_timm(config.name)
    else:
        rank_zero_info(f"teacher.pretrained is false: {config.name} has random weights and teaches nothing.")
        network = _create_timm(config.name)
    data = resolve_model_data_config(network)
    _, height, width = data["input_size"]
    return network, ModelMetadata(image_size=(height, width), mean=tuple(data["mean"]), std=tuple(data["std"]))


def _create_timm(name: str, **options: Any) -> nn.Module:
    if not timm.is_model(name):
        similar = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        raise UserError(
            f"teacher.name = {name!r} must be a network of timm {timm.__version__}"
            + (f"; similar: {', '.join(similar)}." if similar else "; timm.list_models() lists them.")
        )
    return timm.create_model(name, **options)


def _fetch_timm(name: str) -> nn.Module:
    remedy = (
        "set model.teacher.checkpoint to a file with its weights (for example model.safetensors of "
        f"https://huggingface.co/timm/{name}, downloaded where there is a connection), or model.teacher to null to "
        "train without a teacher"
    )
    if timm.is_model(name) and not is_model_pretrained(name):
        raise UserError(f"teacher.name = {name!r} has no published weights: {remedy}.")
    try:
        return _create_timm(name, pretrained=True)
    except UserError:
        raise
    # The Hub's client raises the errors of its HTTP library, which differs between releases.
    except Exception as error:
        raise ConnectionError(
            f"The weights of the teacher {name} could not be fetched ({type(error).__name__}): {remedy}."
        ) from error


def _load_timm_file(name: str, path: Path, content: Mapping[str, Any]) -> nn.Module:
    """Build a timm network with the number of classes of the file's classifier, and load the file into it."""
    raw, averaged = split_checkpoint(content)
    state = clean_state_dict(dict(raw if averaged is None else averaged))
    fresh = _create_timm(name)
    classes = _classes_of(state, fresh)
    overlay = {"state_dict": state, "num_classes": classes}
    try:
        return _create_timm(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes)
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"teacher.checkpoint = {str(path)!r} does not fit teacher.name = {name!r}: name the network these weights "
            f"belong to. {error}"
        ) from error


def _classes_of(state: Mapping[str, Any], network: Any) -> int:
    """Return the number of classes of a state dict, or that of the network if the classifier is not found."""
    classifiers = network.pretrained_cfg.get("classifier") or ()
    for classifier in (classifiers,) if isinstance(classifiers, str) else classifiers:
        weight = state.get(f"{classifier}.weight")
        if isinstance(weight, Tensor):
            return len(weight)
    return int(network.num_classes)


def _check_classes(config: TeacherConfig, teacher_classes: int, num_classes: int) -> None:
    chosen = config.class_indices
    if chosen is None:
        if teacher_classes != num_classes:
            raise UserError(
                f"The teacher has {teacher_classes} classes, the student {num_classes}: "
                f"set model.teacher.class_indices to the {num_classes} outputs that are the student's classes, "
                "in the student's order, or use a teacher of the same classes."
            )
        return
    if len(chosen) != num_classes:
        raise UserError(
            f"teacher.class_indices has {len(chosen)} entries, the student {num_classes} classes: give one teacher "
            "output for each class of the student."
        )
    outside = [index for index in chosen if not 0 <= index < teacher_classes]
    if outside:
        raise UserError(
            f"teacher.class_indices = {outside} must be from 0 to {teacher_classes - 1}, the teacher's outputs."
        )


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)  # (C, 1, 1)
