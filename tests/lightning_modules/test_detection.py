"""Detection: a run by the command from fit to prediction, and what the detector makes of its batches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_modules.cli import main
from lightning_modules.detection import DetectionMetrics, ObjectDetection
from mobilemamba import MobileMambaConfig

pytest.importorskip("faster_coco_eval", reason="the extra `dense` is not installed")

LAYOUT: dict[str, Any] = {"stem_stride": 8, "widths": (16, 32, 32), "depths": (1, 1, 1)}
NETWORK = MobileMambaConfig(num_classes=0, **LAYOUT)
SCENES: dict[str, Any] = {"image_size": 64, "batch_size": 4, "scenes": 8, "validation_scenes": 4}
SMALL: dict[str, Any] = {"channels": 16, "finer_levels": 0, "coarser_levels": 1}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:Found .* in eval mode:UserWarning",
    "ignore:The warm-up of .* is not over:UserWarning",
)


def test_precision_is_one_where_all_is_found_and_a_half_where_one_of_two_is() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 90]])
    target = {"boxes": boxes, "labels": torch.tensor([0, 1])}
    for found, expected in ((2, 1.0), (1, 0.5)):
        metrics = DetectionMetrics()
        detection = {"boxes": boxes[:found], "labels": torch.tensor([0, 1])[:found], "scores": torch.ones(found)}
        metrics.update([detection], [target])
        assert metrics.compute()["map"].item() == pytest.approx(expected)


def test_a_picture_without_objects_trains_and_frozen_norms_stay() -> None:
    module = ObjectDetection(network=NETWORK, num_classes=3, image_size=64, **SMALL).train()
    norms = [m for m in module.student.retina_net.backbone.network.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    one = {"boxes": torch.tensor([[5.0, 5, 30, 30]]), "labels": torch.tensor([2])}
    losses = module.student(torch.randn(2, 3, 64, 64), [nothing, one])
    sum(losses.values()).backward()
    assert not [name for name, p in module.student.named_parameters() if p.grad is None]


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
