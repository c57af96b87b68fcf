"""The configs of the paper's detection rows take two steps on a small data set in COCO's form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.cli import main
from mobilemamba.variants import VARIANTS
from tests.datamodules.coco_files import coco
from tests.experiments.test_configs import command, network, resolved, two_steps  # noqa: F401  # a fixture

ROWS = {
    "mask_rcnn_b1": ("mask_rcnn", 800, "shorter", 32, 2e-4),
    "retinanet_b1": ("retinanet", 800, "shorter", 32, 2e-4),
    "ssdlite_b1_320": ("ssdlite", 320, "stretch", 192, 2.4e-3),
    "ssdlite_b1_512": ("ssdlite", 512, "stretch", 192, 2.4e-3),
}
"""Detector, image size, scaling, images of a step and learning rate of each published row."""

SLOW_ROWS = ("mask_rcnn_b1", "ssdlite_b1_512")

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning", "ignore:The warm-up of .* is"
)


@pytest.mark.parametrize("name", ROWS)
def test_rows_follow_the_recipe(name: str) -> None:
    config = resolved(command(f"dense/{name}.yaml"))
    data, model, trainer = config["data"]["init_args"], config["model"], config["trainer"]
    images = data["global_batch_size"]
    rate = model["optimizer"]["learning_rate"]
    assert (model["detector"], data["image_size"], data["resize"], images, rate) == ROWS[name]
    published = VARIANTS["mobilemamba_b1"]
    assert network(config).widths == published.config.widths
    assert network(config).depths == published.config.depths
    assert (model["weights"], model["weights_image_size"]) == ("published:in1k", published.image_size)
    assert (trainer["gradient_clip_val"], model["freeze_norms"]) == (0.1, True)
    assert data["masks"] == (model["detector"] == "mask_rcnn")


@pytest.mark.parametrize(
    "name", ["retinanet_b1", "ssdlite_b1_320", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_ROWS)]
)
def test_rows_take_two_steps(name: str, two_steps: list[str], tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("faster_coco_eval", reason="the extra `dense` is not installed")
    data = ["--data.root", str(coco(tmp_path)), "--data.num_classes", "3", "--data.num_workers", "0"]
    main([*command(f"dense/{name}.yaml"), *two_steps, *data, "--model.weights", "null"])
    log = EventAccumulator(str(tmp_path / name / "version_0")).Reload()
    losses = [event.value for event in log.Scalars("train/loss")]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
