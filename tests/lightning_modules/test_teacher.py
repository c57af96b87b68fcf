"""The teacher: what it is given, what it gives, and what happens when it does not fit."""

from __future__ import annotations

import os
import pickle
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.teacher import RECIPE_TEACHER, Teacher, TeacherConfig, build_teacher
from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata
from mobilemamba.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = "test_resnet"  # timm's smallest networks are named test_*


class Recorder(nn.Module):
    """Remembers its input and answers with the first pixel's channels as logits."""

    num_classes = 3

    def forward(self, images: Tensor) -> Tensor:
        self.images = images
        return images[:, :, 0, 0]


def expecting(size: int) -> ModelMetadata:
    return ModelMetadata(image_size=(size, size), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def small_network(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(SMALL, num_classes=classes).eval()


def test_images_are_renormalised() -> None:
    network = Recorder()
    pixels = torch.rand(2, 3, 64, 64)
    normalised = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    Teacher(network, expecting(64), MEAN, STD)(normalised)
    torch.testing.assert_close(network.images, pixels)


@pytest.mark.parametrize("size", [48, 96])
def test_images_are_resized_like_bicubic_pixels(size: int) -> None:
    network = Recorder()
    pixels = torch.rand(2, 3, 64, 64)
    normalised = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    Teacher(network, expecting(size), MEAN, STD)(normalised)
    expected = F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True)
    torch.testing.assert_close(network.images, expected)


def test_class_indices_choose_and_order_the_outputs() -> None:
    images = torch.rand(2, 3, 8, 8)
    logits = Teacher(Recorder(), expecting(8), (0.0,) * 3, (1.0,) * 3, class_indices=[2, 0])(images)
    torch.testing.assert_close(logits, images[:, [2, 0], 0, 0])


def test_teacher_is_frozen_and_stays_in_eval_mode() -> None:
    teacher = Teacher(small_network(3), expecting(64), MEAN, STD)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    logits = teacher.train()(torch.rand(2, 3, 64, 64, requires_grad=True))
    assert not logits.requires_grad
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_logits_are_float32_under_autocast() -> None:
    teacher = Teacher(small_network(3), expecting(64), MEAN, STD)
    images = torch.rand(2, 3, 32, 32)
    exact = teacher(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = teacher(images)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, atol=0.05, rtol=0.05)


def test_image_channels_must_be_the_students() -> None:
    with pytest.raises(UserError, match=r"images of 3 channels .* student's have 1"):
        Teacher(Recorder(), expecting(8), (0.5,), (0.5,))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_weights_are_loaded_with_the_classes_of_the_file(tmp_path: Path, suffix: str) -> None:
    network, path = small_network(5), tmp_path / f"teacher{suffix}"
    if suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    else:
        save_file(network.state_dict(), path)
    config = timm.data.resolve_model_data_config(network)
    images = torch.rand(2, *config["input_size"])
    teacher = build_teacher(TeacherConfig(name=SMALL, checkpoint=str(path)), 5, config["mean"], config["std"])
    torch.testing.assert_close(teacher(images), network(images).detach())


def test_a_training_checkpoint_of_this_project_needs_no_name(tmp_path: Path, tiny: MobileMambaConfig) -> None:
    student, path = MobileMamba(tiny).eval(), tmp_path / "earlier.ckpt"
    metadata = ModelMetadata(image_size=(64, 96), mean=MEAN, std=STD)
    state = {f"student.{key}": value for key, value in student.state_dict().items()}
    torch.save({"mobilemamba": {"config": asdict(tiny), "metadata": metadata.to_dict()}, "state_dict": state}, path)
    teacher = build_teacher(TeacherConfig(checkpoint=str(path)), tiny.num_classes, MEAN, STD)
    images = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(teacher(images), student(images).detach())


def test_own_size_and_normalisation_can_be_set() -> None:
    config = TeacherConfig(name=SMALL, pretrained=False, image_size=40, mean=(0.5,) * 3, std=(0.25,) * 3)
    teacher = build_teacher(config, 1000, (0.5,) * 3, (0.5,) * 3)
    assert teacher.image_size == (40, 40)
    torch.testing.assert_close(teacher.scale.flatten(), torch.full((3,), 2.0))
    torch.testing.assert_close(teacher.shift.flatten(), torch.zeros(3))


def test_recipe_teacher_expects_plain_pixels_of_224() -> None:
    pretrained_cfg = timm.get_pretrained_cfg(RECIPE_TEACHER)
    assert pretrained_cfg.input_size == (3, 224, 224)
    assert pretrained_cfg.mean == (0.0, 0.0, 0.0)
    assert pretrained_cfg.std == (1.0, 1.0, 1.0)
    assert TeacherConfig().name == RECIPE_TEACHER


@pytest.mark.parametrize(
    ("options", "classes", "message"),
    [
        ({}, 10, r"teacher has 1000 classes, the student 10: .*class_indices"),
        ({"class_indices": [0, 1]}, 3, "has 2 entries, the student 3"),
        ({"class_indices": [0, 1, 1000]}, 3, r"class_indices = \[1000\] must be from 0 to 999"),
        ({"name": "tresnet_xxl"}, 10, r"'tresnet_xxl' must be a network .* similar: tresnet"),
        ({"name": "resnet18.no_such_tag", "pretrained": True}, 10, r"no published weights.*model\.teacher\.checkpoint"),
    ],
)
def test_a_teacher_that_does_not_suit_the_student_is_refused(
    options: dict[str, Any], classes: int, message: str
) -> None:
    config = TeacherConfig(**({"name": SMALL, "pretrained": False} | options))
    with pytest.raises(UserError, match=message):
        build_teacher(config, classes, MEAN, STD)


class HttpClientError(Exception):
    """As clients raise it that are not built on the standard library."""


@pytest.mark.parametrize("error", [FileNotFoundError("not in the local cache"), HttpClientError("no connection")])
def test_an_unreachable_hub_is_answered_with_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lightning_modules.teacher.timm.create_model", unreachable)
    message = rf"{re.escape(RECIPE_TEACHER)} could not be fetched.*model\.teacher\.checkpoint.*safetensors.*null"
    with pytest.raises(ConnectionError, match=message):
        build_teacher(TeacherConfig(), 1000, MEAN, STD)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(small_network(10).state_dict(), path)
    config = TeacherConfig(name="test_vit", checkpoint=str(path))
    with pytest.raises(UserError, match=r"other\.safetensors' does not fit teacher\.name = 'test_vit'"):
        build_teacher(config, 10, MEAN, STD)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        build_teacher(TeacherConfig(name=SMALL, checkpoint=str(tmp_path / "nowhere.pth")), 10, MEAN, STD)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("code_was_run",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "teacher.pth"
    torch.save({"state_dict": Payload()}, path, pickle_module=pickle)
    with pytest.raises(UserError, match=r"teacher\.pth is refused"):
        build_teacher(TeacherConfig(name=SMALL, checkpoint=str(path)), 10, MEAN, STD)
    assert not (tmp_path / "code_was_run").exists()


@pytest.mark.skipif("IMAGENETTE_DIR" not in os.environ, reason="IMAGENETTE_DIR, a folder of photographs, is not set")
@pytest.mark.parametrize(
    ("file", "class_indices"),
    [
        ("mobilenetv2_100_imagenette10.safetensors", None),
        ("mobilenetv2_100.safetensors", [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]),
    ],
)
def test_a_real_teacher_knows_real_photographs(file: str, class_indices: list[int] | None) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    photographs = Path(os.environ["IMAGENETTE_DIR"])
    steps = [v2.ToImage(), v2.CenterCrop(192), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    dataset = ImageFolder(photographs / "val", v2.Compose(steps))
    samples = [dataset[index] for index in range(0, len(dataset), 8)]
    checkpoint = photographs.parent / "teacher" / file
    config = TeacherConfig(name="mobilenetv2_100", checkpoint=str(checkpoint), class_indices=class_indices)
    teacher = build_teacher(config, 10, MEAN, STD)
    assert teacher.image_size == (224, 224)
    logits = teacher(torch.stack([image for image, _ in samples]))
    correct = logits.argmax(1) == torch.tensor([target for _, target in samples])
    assert correct.float().mean() > 0.9
