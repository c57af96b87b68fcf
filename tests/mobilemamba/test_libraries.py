"""The backbone inside the libraries for dense tasks themselves: forward, backward, evaluation, odd sizes.

docs/dense.md names these tests beside what works.
"""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import MultiScaleRoIAlign

import mobilemamba
from mobilemamba.pyramid import FeaturePyramid, SSDLiteLevels

TINY: dict[str, Any] = {"widths": (32, 40, 48), "depths": (1, 1, 1)}
NEEDED = "the extra `dense` is not installed"


def network(name: str = "mobilemamba_s6", **options: Any) -> mobilemamba.MobileMamba:
    model: mobilemamba.MobileMamba = timm.create_model(name, **(options or TINY))
    return model


def all_learn(model: nn.Module) -> bool:
    return not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("decoder", "odd"),
    [
        ("Unet", (97, 65)),
        ("UnetPlusPlus", (32, 96)),
        ("FPN", (96, 160)),
        ("DeepLabV3Plus", (80, 48)),
        ("PSPNet", (40, 72)),
        ("UPerNet", (96, 160)),
        ("Segformer", (96, 160)),
        ("Linknet", (96, 160)),
        ("MAnet", (96, 160)),
    ],
)
def test_segmentation_models_pytorch(decoder: str, odd: tuple[int, int]) -> None:
    """Sizes that a decoder's own check lets pass; where its encoder's output stride is 32, multiples of that."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason=NEEDED)
    model = getattr(smp, decoder)("tu-mobilemamba_s6", encoder_weights=None, classes=3, **TINY)
    logits = model(torch.randn(2, 3, 64, 96))
    logits.square().mean().backward()
    assert logits.shape == (2, 3, 64, 96)
    assert all_learn(model)
    assert model.eval()(torch.randn(1, 3, *odd)).shape == (1, 3, *odd)


def test_an_smp_encoder_keeps_resolution_with_the_weights_of_the_other() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch", reason=NEEDED)
    options = {"weights": None, **TINY}
    coarse, fine = (
        smp.encoders.get_encoder("tu-mobilemamba_s6", output_stride=stride, **options) for stride in (32, 16)
    )
    fine.load_state_dict(coarse.state_dict())
    assert [feature.shape[-1] for feature in fine(torch.randn(2, 3, 64, 64))] == [64, 32, 16, 8, 4, 4]


def detectors() -> dict[str, nn.Module]:
    sizes = {"min_size": 96, "max_size": 160}
    ratios = ((0.5, 1.0, 2.0),) * 5
    anchors = AnchorGenerator(tuple((size, size * 1.26, size * 1.59) for size in (8, 16, 32, 64, 128)), ratios)
    rpn_anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ratios)
    names = [str(level) for level in range(5)]
    mask_rcnn = MaskRCNN(
        FeaturePyramid(network(), 16, finer_levels=2, coarser_levels=0),
        4,
        **sizes,
        rpn_anchor_generator=rpn_anchors,
        box_roi_pool=MultiScaleRoIAlign(names, 7, 2),
        mask_roi_pool=MultiScaleRoIAlign(names, 14, 2),
    )
    levels, boxes = SSDLiteLevels(network(), (48, 32, 32, 32)), DefaultBoxGenerator([[2, 3]] * 6)
    head = SSDLiteHead(levels.out_channels, boxes.num_anchors_per_location(), 4, nn.BatchNorm2d)
    return {
        "RetinaNet": RetinaNet(FeaturePyramid(network(), 16), 4, **sizes, anchor_generator=anchors),
        "MaskRCNN": mask_rcnn,
        "SSDLite": SSD(levels, boxes, (256, 256), 4, head=head),
    }


@pytest.mark.parametrize("name", ["RetinaNet", "MaskRCNN", "SSDLite"])
def test_torchvision_detectors(name: str) -> None:
    """Trained on pictures of two sizes, one of them without objects; evaluated on one of an odd size."""
    torch.manual_seed(0)
    model = detectors()[name]
    images = [torch.rand(3, 96, 128), torch.rand(3, 101, 77)]

    def target(boxes: list[list[float]]) -> dict[str, Tensor]:
        masks = torch.zeros(len(boxes), 96, 128, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[int(top) : int(bottom), int(left) : int(right)] = 1
        labels = torch.ones(len(boxes), dtype=torch.int64)
        return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": labels, "masks": masks}

    losses = model(images, [target([[10, 20, 40, 60], [60, 10, 110, 80]]), target([])])
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all_learn(model)
    detections = model.eval()([torch.rand(3, 67, 141)])
    assert {"boxes", "scores", "labels"} <= set(detections[0])


def test_torchvision_detectors_have_the_published_numbers_of_parameters() -> None:
    """Table 6 and 7 of the paper: 38.0 M and 27.1 M; the rest is what MMDetection's heads and necks have beside."""
    b1 = FeaturePyramid(network("mobilemamba_b1", num_classes=1000))
    anchors = AnchorGenerator(((32, 40, 50),) * 5, ((0.5, 1.0, 2.0),) * 5)
    retina_net = RetinaNet(b1, 80, anchor_generator=anchors)
    assert sum(parameter.numel() for parameter in retina_net.parameters()) == pytest.approx(27.1e6, rel=0.005)


def test_the_pyramid_names_its_levels_from_fine_to_coarse() -> None:
    levels = FeaturePyramid(network(), 16, finer_levels=2, coarser_levels=2).eval()(torch.randn(1, 3, 129, 256))
    assert [tuple(level.shape) for level in levels.values()] == [
        (1, 16, *size) for size in ((36, 64), (18, 32), (9, 16), (5, 8), (3, 4), (2, 2), (1, 1))
    ]
    with pytest.raises(mobilemamba.UserError, match="finer_levels = 5 must be from 0 to 4"):
        FeaturePyramid(network(), finer_levels=5)


def backbone_config(**options: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason=NEEDED)
    return transformers.TimmBackboneConfig(backbone="mobilemamba_t2", **options)


def test_transformers_backbone() -> None:
    transformers = pytest.importorskip("transformers", reason=NEEDED)
    backbone = transformers.TimmBackbone(backbone_config(out_indices=[3, 4, 5])).eval()
    assert backbone.channels == [144, 272, 368]
    maps = backbone(torch.randn(1, 3, 97, 65)).feature_maps
    assert [tuple(feature.shape) for feature in maps] == [(1, 144, 7, 5), (1, 272, 4, 3), (1, 368, 2, 2)]
    sum(feature.square().mean() for feature in maps).backward()
    assert all_learn(backbone)
    last = transformers.TimmBackbone(backbone_config(output_stride=16)).eval()(torch.randn(1, 3, 64, 64))
    assert [tuple(feature.shape) for feature in last.feature_maps] == [(1, 368, 4, 4)]


def test_transformers_upernet() -> None:
    transformers = pytest.importorskip("transformers", reason=NEEDED)
    backbone = backbone_config(out_indices=[1, 2, 3, 4])
    model = transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(
            backbone_config=backbone, hidden_size=16, auxiliary_in_channels=144, auxiliary_channels=8, num_labels=5
        )
    )
    output = model(torch.randn(2, 3, 96, 64), labels=torch.randint(0, 5, (2, 96, 64)))
    output.loss.backward()
    assert output.logits.shape == (2, 5, 96, 64)
    assert model.eval()(torch.randn(1, 3, 97, 65)).logits.shape == (1, 5, 97, 65)


def test_transformers_rt_detr() -> None:
    transformers = pytest.importorskip("transformers", reason=NEEDED)
    sizes = dict.fromkeys(("encoder_hidden_dim", "d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_denoising": 0, "num_labels": 4}
    model = transformers.RTDetrForObjectDetection(
        transformers.RTDetrConfig(
            backbone_config=backbone_config(out_indices=[3, 4, 5]),
            encoder_in_channels=[144, 272, 368],
            decoder_in_channels=[16, 16, 16],
            feat_strides=[16, 32, 64],
            num_queries=10,
            decoder_layers=1,
            **sizes,
            **heads,
        )
    )
    label = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    output = model(torch.randn(2, 3, 128, 192), labels=[label, label])
    output.loss.backward()
    assert output.logits.shape == (2, 10, 4)
    # Its encoder takes multiples of the largest stride alone.
    assert model.eval()(torch.randn(1, 3, 64, 192)).pred_boxes.shape == (1, 10, 4)
