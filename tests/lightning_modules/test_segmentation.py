"""Segmentation: losses and metrics by hand, and a run by the command from fit to prediction."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from datamodules.scenes import DigitScenesDataModule
from experiments.cli import main as mobilemamba
from lightning_modules.callbacks import EMA
from lightning_modules.cli import main
from lightning_modules.metrics import SegmentationMetrics
from lightning_modules.segmentation import SemanticSegmentation
from lightning_modules.segmentation_loss import dice_loss, pixel_cross_entropy, segmentation_loss
from lightning_modules.sliding_window import sliding_logits
from lightning_modules.task_networks import load_task_network
from mobilemamba import MobileMamba, MobileMambaConfig, UserError, load_network
from mobilemamba.context_decoders import ContextDecoder
from mobilemamba.export import load
from mobilemamba.export.parity import random_images
from mobilemamba.semantic_fpn import SemanticFPN
from tests.lightning_modules.small_runs import quiet_trainer

TINY = MobileMambaConfig(num_classes=0, stem_stride=8, widths=(16, 32, 32), depths=(1, 1, 1))
SCENES: dict[str, Any] = {"image_size": 64, "batch_size": 4, "scenes": 8, "validation_scenes": 4}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:Found .* in eval mode:UserWarning",
    "ignore:The warm-up of .* is not over:UserWarning",
)


def module(**options: Any) -> SemanticSegmentation:
    return SemanticSegmentation(network=TINY, num_classes=11, channels=16, **options)


def test_losses_are_those_computed_by_hand() -> None:
    targets = torch.tensor([[[0, 1, 255, 255]]])
    logits = torch.zeros(1, 2, 1, 4)
    assert pixel_cross_entropy(logits, targets, 255).item() == pytest.approx(math.log(2))
    # Each class: one pixel, of probability 1/2, and 1/2 elsewhere: (2 * 0.5 + 1) / (1 + 1 + 1).
    assert dice_loss(logits, targets, 255).item() == pytest.approx(1 - 2 / 3)
    both = segmentation_loss(logits, targets, "both", 255)
    assert both.total.item() == pytest.approx(math.log(2) + 1 / 3)
    assert segmentation_loss(logits, targets, "dice", 255).cross_entropy is None
    certain = 100 * torch.tensor([[[[1.0, 0, 0, 0]], [[0, 1.0, 0, 0]]]])
    assert segmentation_loss(certain, targets, "both", 255).total.item() == pytest.approx(0, abs=1e-6)
    assert segmentation_loss(logits, torch.full_like(targets, 255), "both", 255).total.item() == 0


def test_metrics_are_those_computed_by_hand() -> None:
    metrics = SegmentationMetrics(4, 255)
    targets = torch.tensor([[[0, 0, 0, 1, 2, 255]]])
    chosen = torch.tensor([[[0, 0, 1, 1, 1, 1]]])
    metrics.update(100 * torch.nn.functional.one_hot(chosen, 4).permute(0, 3, 1, 2).float(), targets)
    figures = {name: value.item() for name, value in metrics.compute().items()}
    assert figures["miou"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
    assert figures["mean_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert figures["pixel_accuracy"] == pytest.approx(3 / 5)


def test_metrics_are_taken_in_the_size_of_the_masks() -> None:
    metrics, small = SegmentationMetrics(2, 255), torch.tensor([[[[9.0, -9], [9, -9]], [[-9, 9], [-9, 9]]]])
    metrics.update(small, torch.tensor([[[0] * 4 + [1] * 4] * 8]))
    assert metrics.compute()["pixel_accuracy"] == 1
    metrics.reset()
    metrics.update(small, torch.tensor([[[0] * 6 + [1] * 2] * 8]))
    assert metrics.compute()["pixel_accuracy"] == 6 / 8


def test_windows_overlap_and_cover_the_image() -> None:
    places: list[tuple[int, ...]] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        places.append(tuple(images.shape[-2:]))
        return images * 2 + len(places)

    images = torch.randn(2, 3, 10, 7)
    logits = sliding_logits(network, images, window=6, stride=4)
    assert places == [(6, 6)] * 4
    # Windows begin at rows 0 and 4, and at columns 0 and 1.
    numbers = torch.zeros(10, 7)
    counts = torch.zeros(10, 7)
    for number, (top, left) in enumerate([(0, 0), (0, 1), (4, 0), (4, 1)], start=1):
        numbers[top : top + 6, left : left + 6] += number
        counts[top : top + 6, left : left + 6] += 1
    torch.testing.assert_close(logits, images * 2 + numbers / counts)
    torch.testing.assert_close(sliding_logits(lambda x: x, images, window=20, stride=9), images)
    segmentation = module(window=64, window_stride=32).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        left, right = (segmentation.student(images[..., start : start + 64]) for start in (0, 32))
        logits = segmentation(images)
    torch.testing.assert_close(logits[..., :32], left[..., :32])
    torch.testing.assert_close(logits[..., 32:64], (left[..., 32:] + right[..., :32]) / 2)
    assert segmentation.train()(images.repeat(2, 1, 1, 1)).shape == (2, 11, 64, 96)
    for options, message in (
        ({"window": 16}, "window = 16 must be 32"),
        ({"window": 64, "window_stride": 65}, "65 must be"),
    ):
        with pytest.raises(UserError, match=message):
            module(**options)


@pytest.mark.parametrize(("kind", "head", "published"), [("deeplabv3", 0.905, 23.4), ("pspnet", 0.905, 20.5)])
def test_the_papers_other_decoders_have_two_heads(kind: Any, head: float, published: float) -> None:
    network = ContextDecoder(MobileMamba(MobileMambaConfig(widths=(200, 376, 448), depths=(2, 3, 2))), kind, 150)
    millions = {
        name: sum(parameter.numel() for parameter in part.parameters()) / 1e6
        for name, part in (("all", network), ("auxiliary", network.auxiliary))
    }
    assert millions["auxiliary"] == pytest.approx(head, abs=1e-3)
    assert millions["all"] - millions["auxiliary"] == pytest.approx(published, rel=0.02)
    segmentation = module(decoder=kind).train()
    images, targets = torch.randn(2, 3, 67, 96), torch.randint(0, 11, (2, 67, 96))
    logits, auxiliary = segmentation(images)
    assert logits.shape == auxiliary.shape == (2, 11, 67, 96)
    losses: dict[str, torch.Tensor] = {}
    segmentation.log = lambda name, value, **_: losses.update({name: value})  # type: ignore[method-assign, assignment]
    segmentation._trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 1.0}])])  # type: ignore[assignment]
    torch.manual_seed(0)
    total = segmentation.training_step((images, targets), 0)
    assert total.item() == pytest.approx(
        losses["train/loss_cross_entropy"].item() + 0.4 * losses["train/loss_auxiliary"].item()
    )
    total.backward()
    assert not [name for name, p in segmentation.student.named_parameters() if p.grad is None]
    assert segmentation.eval()(images).shape == (2, 11, 67, 96)
    with pytest.raises(UserError, match=r"data\.batch_size = 1 must be 2 or more: a BatchNorm"):
        segmentation.train().training_step((images[:1], targets[:1]), 0)
    with pytest.raises(UserError, match="Image size = 31x64 must be at least"):
        segmentation.eval()(torch.randn(1, 3, 31, 64))
    assert segmentation(torch.randn(1, 3, 32, 32)).shape == (1, 11, 32, 32)


def test_semantic_fpn_has_the_published_number_of_parameters() -> None:
    network = SemanticFPN(MobileMamba(MobileMambaConfig(widths=(200, 376, 448), depths=(2, 3, 2))), 150)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(19.8e6, rel=0.01)
    assert module()(torch.randn(2, 3, 67, 129)).shape == (2, 11, 67, 129)


@pytest.mark.parametrize("decoder", ["unet", "deeplabv3plus", "smp-pspnet", "segformer"])
def test_decoders_of_smp_are_taken_by_name(decoder: str) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="the extra `dense` is not installed")
    segmentation = module(decoder=decoder)
    logits = segmentation(torch.randn(2, 3, 67, 96))
    assert logits.shape == (2, 11, 67, 96)
    logits.square().mean().backward()
    assert not [name for name, p in segmentation.student.named_parameters() if p.grad is None]
    with pytest.raises(UserError, match="'unknown' cannot be built"):
        module(decoder="unknown")


def test_a_run_is_fitted_evaluated_and_used_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[[list[str]], tuple[int, str]]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning"])
    config = {
        "task": "segmentation",
        "model": {
            "network": {
                "stem_stride": 8,
                "widths": [16, 32, 32],
                "depths": [1, 1, 1],
                "mixer_stages": [False, False, True],
            },
            "channels": 16,
        },
        "data": {"class_path": "datamodules.scenes.DigitScenesDataModule", "init_args": SCENES},
        "run": {"folder": str(tmp_path), "name": "scenes"},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
        "export": {"options": {"format": "pt2"}, "which": ["best"]},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(tmp_path / "config.yaml")])
    run = tmp_path / "scenes" / "version_0"
    both = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
    for command in ("validate", "test", "predict"):
        main([command, *both])
    assert {path.name for path in (run / "export").iterdir()} == {"best.pt2", "best.pt2.parity.json"}
    assert json.loads((run / "export" / "best.pt2.parity.json").read_text())["verdict"] == "passed"
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    command_line = ["export", checkpoint, "--format", "pt2", "--output", str(tmp_path / "again.pt2")]
    assert mobilemamba([*command_line, "--no-dynamic-batch"]) == 0
    image = random_images((1, 3, 64, 64))
    network, metadata = load_task_network(checkpoint)
    assert metadata.class_names == ("ground", *map(str, range(10)))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "again.pt2")(image), network(image), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"best\.ckpt must be those of a classifier: they are for segmentation"):
        load_network(checkpoint)
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["mobilemamba"]["head"]["decoder"] == "semantic_fpn"
    assert "val/miou_ema" in (run / "record.json").read_text()
    assert (run / "predictions" / "masks" / "scene-003.png").is_file()
    assert "channels: checkpoint 16, model 8" in failure(["test", *both, "--model.channels", "8"])[1]


def test_a_backbone_begins_from_the_weights_of_a_classifier(tmp_path: Path) -> None:
    torch.manual_seed(1)
    classifier = MobileMamba(MobileMambaConfig(stem_stride=8, widths=(16, 32, 32), depths=(1, 1, 1), num_classes=7))
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    segmentation = module(weights=str(tmp_path / "classifier.pth"), freeze="backbone")
    before = {name: value.clone() for name, value in segmentation.student.state_dict().items()}
    assert torch.equal(before["pyramid.network.stem.0.conv.weight"], classifier.state_dict()["stem.0.conv.weight"])
    trainer = quiet_trainer(tmp_path, callbacks=[EMA(decay=0.5)], use_distributed_sampler=False)
    trainer.fit(segmentation, datamodule=DigitScenesDataModule(**SCENES))
    after = segmentation.student.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert not [name for name in changed if name.startswith("pyramid.network")]
    assert "classifier.weight" in changed


def test_an_unknown_task_is_named(failure: Callable[[list[str]], tuple[int, str]]) -> None:
    assert failure(["fit", "--task", "depth"]) == (
        1,
        "error: task = 'depth' must be one of classification, segmentation, detection.\n",
    )
