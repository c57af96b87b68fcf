"""Networks that segment or detect: fused whole, exported and compared by the gate of classifiers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from lightning_modules.smp_decoders import SmpDecoder
from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata, UserError, fuse
from mobilemamba.context_decoders import ContextDecoder
from mobilemamba.export import ExportOptions, export_network, report_path
from mobilemamba.export.detections import compare_detections
from mobilemamba.export.formats import FORMATS, FormatName
from mobilemamba.export.parity import random_images
from mobilemamba.pyramid import FeaturePyramid, SSDLiteLevels
from mobilemamba.semantic_fpn import SemanticFPN
from tests.mobilemamba.conftest import randomise

CLASSES = 5
SIZE = 64
METADATA = ModelMetadata((SIZE, SIZE))
SMP = ("unet", "unetplusplus", "fpn", "deeplabv3plus", "pspnet", "upernet", "segformer", "linknet", "manet")
IDENTITY = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}


class Detector(nn.Module):
    """One of torchvision's detectors on a batch of normalised images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = self.network(list(images))
        return found


def backbone() -> MobileMamba:
    stages = {"widths": (16, 32, 32), "depths": (1, 1, 1), "mixer_stages": (False, False, True)}
    return MobileMamba(MobileMambaConfig(num_classes=0, stem_stride=8, **stages))


def segmenter(name: str) -> nn.Module:
    match name:
        case "semantic_fpn":
            return SemanticFPN(backbone(), CLASSES, 16, 8)
        case "deeplabv3" | "pspnet":
            return ContextDecoder(backbone(), name, CLASSES, 16)
        case _:
            pytest.importorskip("segmentation_models_pytorch", reason="the extra `dense` is not installed")
            return SmpDecoder(backbone(), name.removeprefix("smp-"), CLASSES)


def detector(name: str) -> nn.Module:
    ratios = (0.5, 1.0, 2.0)
    size = {"min_size": SIZE, "max_size": SIZE}
    match name:
        case "retinanet":
            anchors = AnchorGenerator(tuple((side,) for side in (16, 32, 64, 128)), (ratios,) * 4)
            pyramid = FeaturePyramid(backbone(), 16, 0, 1)
            return RetinaNet(pyramid, CLASSES, anchor_generator=anchors, detections_per_img=20, **size, **IDENTITY)
        case "mask_rcnn":
            anchors = AnchorGenerator(tuple((side,) for side in (8, 16, 32, 64)), (ratios,) * 4)
            pyramid = FeaturePyramid(backbone(), 16, 1, 0)
            few = {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
            return MaskRCNN(pyramid, CLASSES, rpn_anchor_generator=anchors, **few, **size, **IDENTITY)
        case _:
            levels = SSDLiteLevels(backbone(), (16, 16))
            boxes = DefaultBoxGenerator([[2, 3]] * 4, min_ratio=0.2, max_ratio=0.95)
            norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
            head = SSDLiteHead(levels.out_channels, boxes.num_anchors_per_location(), CLASSES, norm)
            return SSD(levels, boxes, (SIZE, SIZE), CLASSES, head=head, detections_per_img=20, **IDENTITY)


def trained_looking(network: nn.Module, of_images: nn.Module) -> nn.Module:
    """Give norms random weights and the statistics of images, and return the network in eval mode."""
    randomise(network)
    for norm in of_images.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # the average of all batches, here of one
    with torch.no_grad():
        of_images.train()(random_images((8, 3, 2 * SIZE, 2 * SIZE)))
    return network.eval()


def finding(name: str) -> nn.Module:
    """Return a detector that finds something."""
    torch.manual_seed(0)
    network = detector(name)
    assert isinstance(network.backbone, nn.Module)
    trained_looking(network, network.backbone)
    for layer, parameter in network.named_parameters():
        if "cls" in layer or "classification" in layer:
            nn.init.normal_(parameter, std=0.03 if name == "retinanet" else 0.3)
    return Detector(network).eval()


@pytest.mark.parametrize("name", ["semantic_fpn", "deeplabv3", "pspnet", *(f"smp-{name}" for name in SMP)])
def test_backbone_and_decoder_are_fused_exactly(name: str) -> None:
    torch.manual_seed(0)
    network = segmenter(name)
    trained_looking(network, network).double()
    images = random_images((2, 3, 96, 80)).double()
    with torch.no_grad():
        expected = network(images)
        fused = fuse(network)
        torch.testing.assert_close(fused(images), expected, rtol=0, atol=1e-12 * expected.abs().max().item())
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    assert not [module for module in fused.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    torch.testing.assert_close(fuse(fused)(images), fused(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["retinanet", "ssdlite", "mask_rcnn"])
def test_a_detector_is_fused_exactly(name: str) -> None:
    network = finding(name).double()
    images = random_images((1, 3, SIZE, SIZE)).double()
    with torch.no_grad():
        comparison = compare_detections(network(images), fuse(network)(images), (1, 3, SIZE, SIZE))
    assert comparison.max_abs_error < 1e-12
    assert comparison.top1_agreement == 1
    assert comparison.response > 0.05  # something was found


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("semantic_fpn", "onnx"),
        ("deeplabv3", "pt2"),
        ("pspnet", "pt2"),
        pytest.param("pspnet", "onnx", marks=pytest.mark.slow),
        pytest.param("semantic_fpn", "onnx-float16", marks=pytest.mark.slow),
        pytest.param("semantic_fpn", "openvino", marks=pytest.mark.slow),
    ],
)
def test_a_segmenter_is_exported_and_compared(name: str, form: FormatName, tmp_path: Path) -> None:
    for package in FORMATS[form].packages:
        pytest.importorskip(package, reason=f"extra {form!r} is not installed")
    torch.manual_seed(0)
    network = segmenter(name)
    trained_looking(network, network)
    path = tmp_path / f"model{FORMATS[form].suffix}"
    report = export_network(network, path, ExportOptions(form), METADATA)
    assert report.passed
    assert report.conclusive
    assert [part.shape[0] for part in report.comparisons] == [1, 3, 16]
    assert json.loads(report_path(path).read_text())["verdict"] == "passed"


def test_a_segmenter_of_any_size_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = segmenter("semantic_fpn")
    trained_looking(network, network)
    report = export_network(network, tmp_path / "model.pt2", ExportOptions("pt2", dynamic_size=True), METADATA)
    assert len({part.shape[2:] for part in report.comparisons}) > 2


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("retinanet", "onnx"),
        ("ssdlite", "pt2"),
        ("mask_rcnn", "onnx"),
        pytest.param("retinanet", "pt2", marks=pytest.mark.slow),
        pytest.param("ssdlite", "onnx", marks=pytest.mark.slow),
    ],
)
def test_a_detector_is_exported_and_compared_after_matching(name: str, form: FormatName, tmp_path: Path) -> None:
    path = tmp_path / f"model{FORMATS[form].suffix}"
    report = export_network(finding(name), path, ExportOptions(form), METADATA)
    assert report.passed
    assert report.conclusive
    assert {part.shape for part in report.comparisons} == {(1, 3, SIZE, SIZE)}


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'pt2' must be 'onnx' for this detector"):
        export_network(finding("mask_rcnn"), tmp_path / "model.pt2", ExportOptions("pt2"), METADATA)
    network = finding("ssdlite")
    with pytest.raises(UserError, match=r"dynamic_size = True must be 'onnx' or 'pt2' with dynamic_size = False"):
        export_network(network, tmp_path / "model.onnx", ExportOptions("onnx", dynamic_size=True), METADATA)
    assert list(tmp_path.iterdir()) == []


def test_detections_are_compared_with_their_partners() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20.0, 20, 40, 40]])
    ours = {"boxes": boxes, "scores": torch.tensor([0.9, 0.5]), "labels": torch.tensor([1, 2])}
    turned = {name: value.flip(0) for name, value in ours.items()}
    same = compare_detections([ours], [turned], (1, 3, 50, 100))
    assert (same.max_abs_error, same.top1_agreement, same.response) == (0, 1, pytest.approx(0.9))
    moved = compare_detections([ours], [turned | {"boxes": turned["boxes"] + 1}], (1, 3, 50, 100))
    assert moved.max_abs_error == pytest.approx(1 / 100)
    assert moved.top1_agreement == 1
    other = compare_detections([ours], [ours | {"labels": torch.tensor([1, 3])}], (1, 3, 50, 100))
    assert other.top1_agreement == 0.5
    nothing = {name: value[:0] for name, value in ours.items()}
    assert compare_detections([ours], [nothing], (1, 3, 50, 100)).top1_agreement == 0
    assert compare_detections([nothing], [nothing], (1, 3, 50, 100)).top1_agreement == 1
