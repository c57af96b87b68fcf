"""Detection: a run by the command from fit to prediction, and what the detector makes of its batches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.coco import CocoDataModule
from datamodules.scenes import DigitScenesDetectionDataModule
from lightning_modules.cli import main
from lightning_modules.detection import ObjectDetection
from lightning_modules.detection_metrics import DetectionMetrics, at_original_size
from lightning_modules.segmentation import SemanticSegmentation
from mobilemamba import MobileMamba, MobileMambaConfig, UserError
from mobilemamba.detectors import DetectorName
from tests.datamodules.coco_files import coco
from tests.lightning_modules.small_runs import quiet_trainer
from tests.spawned import SpawnedProcesses

pytest.importorskip("faster_coco_eval", reason="the extra `dense` is not installed")

LAYOUT: dict[str, Any] = {"stem_stride": 8, "widths": (16, 32, 32), "depths": (1, 1, 1)}
PER_STAGE = ("widths", "depths", "mixer_stages", "global_shares", "local_shares", "local_kernels", "wavelet_kernels")
NETWORK = MobileMambaConfig(num_classes=0, **LAYOUT)
SCENES: dict[str, Any] = {"image_size": 64, "batch_size": 4, "scenes": 8, "validation_scenes": 4}
SMALL: dict[str, Any] = {"channels": 16, "finer_levels": 0, "coarser_levels": 1}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:Found .* in eval mode:UserWarning",
    "ignore:The warm-up of .* is not over:UserWarning",
)


def objects(boxes: list[list[float]], labels: list[int], **more: Any) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        **more,
    }


def targets(*all_objects: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Say that images of 100 x 200 pixels were scaled to 50 x 100."""
    sizes = {"size": torch.tensor([100, 200]), "scaled": torch.tensor([50, 100])}
    return [{**one, **sizes} for one in all_objects]


def precision(detections: list[dict[str, torch.Tensor]], truth: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    metrics = DetectionMetrics(with_masks="masks" in detections[0])
    metrics.update(detections, truth)
    return {name: value.item() for name, value in metrics.compute().items()}


def test_precision_is_one_where_all_is_found_and_a_half_where_one_of_two_is() -> None:
    boxes = torch.tensor([[0.0, 0, 80, 80], [100, 20, 180, 100]])
    truth = targets(objects(boxes.tolist(), [0, 1]))
    for found, expected in ((2, 1.0), (1, 0.5)):
        detection = objects((boxes / 2)[:found].tolist(), [0, 1][:found], scores=torch.ones(found))
        assert precision([detection], truth)["map"] == pytest.approx(expected)


def test_sizes_are_those_in_the_data_set_not_in_the_batch() -> None:
    """An object of 40 x 40 pixels is medium-sized, though it has 20 x 20 in the batch; the file's own area counts."""
    detection = objects([[0, 0, 20, 20]], [0], scores=torch.ones(1))
    figures = precision([detection], targets(objects([[0, 0, 40, 40]], [0])))
    assert (figures["map_small"], figures["map_medium"]) == (-1, 1)
    small = objects([[0, 0, 40, 40]], [0], area=torch.tensor([900.0]))
    assert precision([detection], targets(small))["map_small"] == 1


def test_a_crowd_is_neither_found_nor_missed() -> None:
    one, crowd = [0, 0, 40, 40], [100, 0, 200, 100]
    found = objects([[0, 0, 20, 20], [55, 5, 75, 25]], [0, 0], scores=torch.tensor([0.5, 0.9]))
    alone = targets(objects([one], [0]))
    marked = targets(objects([one, crowd], [0, 0], iscrowd=torch.tensor([0, 1])))
    assert precision([found], alone)["map"] == pytest.approx(0.5)
    assert precision([found], marked)["map"] == pytest.approx(1)


def test_masks_are_compared_at_the_size_of_the_image() -> None:
    box = [20.0, 20, 60, 60]
    mask = torch.zeros(1, 100, 200, dtype=torch.uint8)
    mask[:, 20:60, 20:60] = 1
    half = mask.clone()
    half[:, :, 40:] = 0
    found = objects([[value / 2 for value in box]], [0], scores=torch.ones(1), masks=torch.ones(1, 1, 28, 28))
    for truth, expected in ((mask, 1.0), (half, 0.0)):  # half of it: an IoU of about 0.5
        figures = precision([found], targets(objects([box], [0], masks=truth)))
        assert figures["map"] == 1
        assert figures["mask_map"] == pytest.approx(expected, abs=0.11)


def test_boxes_in_the_padding_are_left_out() -> None:
    found = objects([[10, 10, 30, 40], [10, 55, 30, 70]], [0, 0], scores=torch.ones(2), masks=torch.ones(2, 1, 28, 28))
    kept = at_original_size(found, (50, 100), (100, 200))
    assert kept["boxes"].tolist() == [[20, 20, 60, 80]]
    assert kept["masks"].shape == (1, 100, 200)
    assert kept["masks"][0, 22:78, 22:58].all()
    assert at_original_size(objects([], [], scores=torch.zeros(0)), (5, 5), (9, 9))["boxes"].shape == (0, 4)


@pytest.mark.parametrize("detector", ["retinanet", "mask_rcnn", "ssdlite"])
def test_every_detector_learns_from_all_its_weights_and_finds_in_odd_sizes(detector: DetectorName) -> None:
    torch.manual_seed(0)
    options = {"detector": detector, "channels": 16, "network": NETWORK, "num_classes": 3}
    module = ObjectDetection(**options).train()
    norms = [m for m in module.backbone.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
    masks = torch.zeros(1, 64, 96, dtype=torch.uint8)
    masks[:, 5:30, 5:40] = 1
    nothing = objects([], [], masks=masks[:0])
    losses = module.student(torch.randn(2, 3, 64, 96), [nothing, objects([[5, 5, 40, 30]], [2], masks=masks)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, p in module.student.named_parameters() if p.grad is None]
    found = module.eval()(torch.randn(1, 3, 67, 40))[0]
    assert set(found["labels"].tolist()) <= {0, 1, 2}
    assert ("masks" in found) == (detector == "mask_rcnn")


def test_detectors_have_the_published_numbers_of_parameters() -> None:
    """Published are 38.0 M and 27.1 M; 18.0 M of SSDLite count the last stage, which it does not use."""
    b1 = MobileMambaConfig(num_classes=0, widths=(200, 376, 448), depths=(2, 3, 2))
    expected = {"mask_rcnn": 38.0e6, "retinanet": 27.1e6, "ssdlite": 18.0e6}
    for detector, count in expected.items():
        module = ObjectDetection(detector=detector, network=b1)
        parameters = sum(parameter.numel() for parameter in module.student.parameters())
        if detector == "ssdlite":
            parameters += sum(parameter.numel() for parameter in MobileMamba(b1).stages[-1].parameters())
        assert parameters == pytest.approx(count, rel=0.01), detector


def test_what_does_not_suit_a_detector_is_named(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path)
    scenes = DigitScenesDetectionDataModule(**(SCENES | {"batch_size": 1}))
    small = CocoDataModule(root=str(coco(tmp_path)), num_classes=3, image_size=64, batch_size=1, num_workers=0)
    with pytest.raises(UserError, match=r"data\.batch_size = 1 must be 2 or more with model\.detector = ssdlite"):
        trainer.fit(ObjectDetection(detector="ssdlite", network=NETWORK, num_classes=10), datamodule=scenes)
    with pytest.raises(UserError, match=r"mask_rcnn' needs data with masks: set data\.masks to true"):
        trainer.fit(ObjectDetection(detector="mask_rcnn", network=NETWORK, num_classes=3), datamodule=small)
    with pytest.raises(
        UserError, match=r"CocoDataModule is for another task than SemanticSegmentation: set task to det"
    ):
        trainer.fit(SemanticSegmentation(network=NETWORK, num_classes=3), datamodule=small)
    per_stage = {name: getattr(NETWORK, name)[:1] * 4 for name in PER_STAGE}
    four = MobileMambaConfig(num_classes=0, stem_stride=4, **per_stage)
    with pytest.raises(UserError, match=r"number of stages = 4 must be 3 with ssdlite"):
        ObjectDetection(detector="ssdlite", network=four)


def test_a_run_is_fitted_evaluated_and_used_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning"])
    config = {
        "task": "detection",
        "model": {"network": {name: list(v) if isinstance(v, tuple) else v for name, v in LAYOUT.items()}, **SMALL},
        "data": {"class_path": "datamodules.scenes.DigitScenesDetectionDataModule", "init_args": SCENES},
        "run": {"folder": str(tmp_path), "name": "scenes"},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(tmp_path / "config.yaml")])
    run = tmp_path / "scenes" / "version_0"
    both = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
    for command in ("validate", "test", "predict"):
        main([command, *both])
    assert "val/map_50_ema" in (run / "record.json").read_text()
    assert (run / "predictions" / "pictures" / "scene-003.jpg").is_file()


class FindsAllButSome(ObjectDetection):
    """Finds the objects that are there, with scores of their own, but for the first of several."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        for target in batch[1]:
            kept = slice(1, None) if len(target["labels"]) > 1 else slice(None)
            boxes, labels = target["boxes"][kept], target["labels"][kept]
            scores = 1 / (1 + labels + boxes.sum(dim=1) / 64)
            found = {"boxes": boxes, "labels": labels, "scores": scores, "masks": torch.ones(len(boxes), 1, 28, 28)}
            self.raw_metrics.update([found], [target])


def test_two_processes_count_every_image_once_though_one_has_more(tmp_path: Path) -> None:
    figures = []
    for devices in (1, 2):
        scenes = DigitScenesDetectionDataModule(image_size=64, batch_size=4, validation_scenes=5)
        options: dict[str, Any] = {"devices": 2, "strategy": SpawnedProcesses()} if devices > 1 else {}
        trainer = quiet_trainer(tmp_path, use_distributed_sampler=False, **options)
        module = FindsAllButSome(detector="mask_rcnn", network=NETWORK, num_classes=10, channels=16)
        trainer.validate(module, datamodule=scenes, verbose=False)
        figures.append({name: value.item() for name, value in trainer.callback_metrics.items()})
    assert figures[0] == figures[1]
    assert 0 < figures[0]["val/mask_map_50_raw"] < 1
    assert 0 < figures[0]["val/map_raw"] < 1
