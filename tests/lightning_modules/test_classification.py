"""Whole runs of the module on a tiny network: what is logged, saved, loaded and refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.classification import ImageClassification
from lightning_modules.losses import DistillationConfig
from lightning_modules.metrics import recognised
from lightning_modules.optimization import OptimizerConfig, ScheduleConfig
from lightning_modules.teacher import TeacherConfig
from mobilemamba import MobileMambaConfig, load_network
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]
TEACHER = TeacherConfig(name="test_resnet", pretrained=False, class_indices=[3, 1, 4, 5])
ONE_BATCH = {"limit_train_batches": 1, "limit_val_batches": 0}


class Recorder(Callback):
    """Keeps logged values of every step, and the largest gradient and the norm of all that a step was taken with."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients:
            self.largest = max(float(gradient.abs().max()) for gradient in gradients)
            self.norm = float(torch.nn.utils.get_total_norm(gradients))


def test_fit_logs_the_parts_of_the_loss_under_grouped_names(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, tmp_path: Path
) -> None:
    recorder = Recorder()
    trainer = make_trainer(callbacks=[recorder], gradient_clip_val=5.0, logger=CSVLogger(tmp_path))
    trainer.fit(ImageClassification(tiny, teacher=TEACHER), datamodule=tiny_data)
    logged = recorder.steps[0]
    total = logged["train/loss_task"] + 5 * logged["train/loss_distillation"]
    assert logged["train/loss"] == pytest.approx(total, rel=1e-5)
    assert 0 <= logged["train/teacher_agreement"] <= 1
    header = Path(trainer.loggers[0].log_dir or "", "metrics.csv").read_text().splitlines()[0].split(",")
    train = {"loss", "loss_task", "loss_distillation", "teacher_agreement", "grad_norm", "lr", "top1"}
    names = (
        {f"train/{name}" for name in train}
        | {"val/top1_teacher", "val/teacher_agreement"}
        | {f"val/{n}_raw" for n in ("top1", "macro_accuracy", "f1", "loss")}
    )
    assert set(header) == names | {"epoch", "step"}


class AlwaysOne(nn.Module):
    """A teacher that names class 1, and counts how often it is asked in validation."""

    asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += not torch.is_grad_enabled()
        return F.one_hot(torch.ones(len(images), dtype=torch.int64, device=images.device), 4).float()


def test_the_teacher_is_asked_once_and_compared_after_every_epoch(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    teacher, agreements = AlwaysOne(), []

    class Compare(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, ImageClassification)
            pl_module.set_unregistered("teacher", teacher)

        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            predictions = pl_module(tiny_data.dataset(1).tensors[0]).argmax(1)
            agreements.append(float((predictions == 1).float().mean()))
            assert float(trainer.callback_metrics["val/teacher_agreement"]) == pytest.approx(agreements[-1])
            assert float(trainer.callback_metrics["val/top1_teacher"]) == 0.25

    trainer = make_trainer(max_epochs=3, num_sanity_val_steps=0, callbacks=[Compare()])
    trainer.fit(ImageClassification(tiny, teacher=TEACHER), datamodule=tiny_data)
    assert len(agreements) == 3
    assert teacher.asked == 3  # batches of the first validation


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.tensor([0, 1, 0]), 2 / 3),
        (torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.85, 0.15]]), 0.5),  # one is mixed
        (torch.full((3, 2), 0.5), None),
    ],
)
def test_training_accuracy_is_of_images_that_are_hardly_mixed(targets: Tensor, expected: float | None) -> None:
    right, counted = recognised(torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0]]), targets)
    share = (right * counted).sum() / counted.sum()
    assert share.isnan() if expected is None else share.item() == pytest.approx(expected)


def test_without_teacher_only_the_task_is_logged_and_classes_are_learnt(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    torch.manual_seed(0)
    recorder = Recorder()
    optimizer = OptimizerConfig(learning_rate=2e-2, reference_batch_size=None)
    module = ImageClassification(tiny, optimizer=optimizer, schedule=ScheduleConfig(warmup_epochs=1))
    trainer = make_trainer(max_epochs=16, callbacks=[recorder])
    trainer.fit(module, datamodule=tiny_data)
    assert "train/loss_distillation" not in recorder.steps[0]
    assert recorder.steps[0]["train/grad_norm"] > 0  # logged without clipping, too
    assert recorder.steps[-1]["train/loss"] < recorder.steps[0]["train/loss"] / 2
    assert trainer.callback_metrics["val/top1_raw"] > 0.9


@pytest.mark.parametrize("kind", ["hard", "dist"])
def test_other_kinds_of_distillation_train(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, kind: Any
) -> None:
    config = DistillationConfig(kind=kind, weight=0.25)
    trainer = make_trainer(**ONE_BATCH)
    trainer.fit(ImageClassification(tiny, TEACHER, config), datamodule=tiny_data)
    logged = trainer.callback_metrics
    assert torch.isfinite(logged["train/loss"])
    expected = config.weights[0] * logged["train/loss_task"] + 0.25 * logged["train/loss_distillation"]
    torch.testing.assert_close(logged["train/loss"], expected)


@pytest.mark.parametrize("options", [{}, {"channels_last": True}, {"grad_checkpointing": True}])
def test_the_loss_of_soft_targets_is_their_cross_entropy_whatever_saves_memory(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, options: dict[str, bool]
) -> None:
    torch.manual_seed(0)
    images, targets = torch.randn(8, 3, 64, 64), torch.randn(8, 4).softmax(1)

    class SoftData(TinyData):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(TensorDataset(images, targets), batch_size=8)

    module, trainer = ImageClassification(tiny, **options), make_trainer(**ONE_BATCH)  # type: ignore[arg-type]
    logits = copy.deepcopy(module.student).train()(images)
    trainer.fit(module, datamodule=SoftData())
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], expected.detach())


def test_mixed_precision_keeps_the_loss_and_weights_in_float32(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    module = ImageClassification(tiny, teacher=TEACHER)
    trainer = make_trainer(precision="bf16-mixed", gradient_clip_val=5.0, **ONE_BATCH)
    trainer.fit(module, datamodule=tiny_data)
    assert trainer.callback_metrics["train/loss"].dtype == torch.float32
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


@pytest.mark.parametrize(("algorithm", "clipped"), [("norm", "norm"), (None, "norm"), ("value", "largest")])
def test_the_norm_is_logged_before_gradients_are_clipped(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, algorithm: str | None, clipped: str
) -> None:
    torch.manual_seed(0)
    recorder = Recorder()
    options = {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": algorithm}
    trainer = make_trainer(callbacks=[recorder], limit_train_batches=2, limit_val_batches=0, **options)
    trainer.fit(ImageClassification(tiny), datamodule=tiny_data)
    assert getattr(recorder, clipped) == pytest.approx(1e-4, rel=1e-2)
    assert trainer.callback_metrics["train/grad_norm"] > 1e-2


def test_the_teacher_is_built_for_fit_alone_and_never_saved(
    make_trainer: MakeTrainer,
    tiny: MobileMambaConfig,
    tiny_data: TinyData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Looks(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, ImageClassification)
            assert pl_module.teacher is not None
            assert not any("teacher" in name for name, _ in pl_module.named_modules())

    module = ImageClassification(tiny, teacher=TEACHER)
    trainer = make_trainer(callbacks=[Looks()], **ONE_BATCH)
    trainer.fit(module, datamodule=tiny_data)
    assert module.teacher is None
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert all(key.startswith("student.") for key in content["state_dict"])

    def refuse(*_: object) -> None:
        raise AssertionError("built for nothing")

    monkeypatch.setattr("lightning_modules.classification.build_teacher", refuse)
    for evaluate in (trainer.validate, trainer.test, trainer.predict):
        evaluate(module, datamodule=tiny_data)

    # The file describes its network and data.
    network, metadata = load_network(tmp_path / "run.ckpt")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(images), module.student.eval()(images))
    assert metadata == tiny_data.metadata()
    restored = ImageClassification.load_from_checkpoint(tmp_path / "run.ckpt", network=tiny, weights_only=True)
    assert restored.metadata == tiny_data.metadata()


def test_resuming_equals_not_having_stopped(make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path) -> None:
    class Ordered(TinyData):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.dataset(0), batch_size=self.batch_size)

    class SavingAfterFirstEpoch(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "first_epoch.ckpt")

    def run(*callbacks: Callback, ckpt_path: Path | None = None) -> tuple[list[Tensor], list[dict[str, float]]]:
        torch.manual_seed(0)
        module, recorder = ImageClassification(tiny, teacher=trained), Recorder()
        trainer = make_trainer(max_epochs=3, limit_val_batches=0, callbacks=[recorder, *callbacks])
        trainer.fit(module, datamodule=Ordered(), ckpt_path=ckpt_path, weights_only=True)
        for step in recorder.steps:
            step.pop("train/top1", None)  # of the epoch before, which is not resumed
        return list(module.student.state_dict().values()), recorder.steps

    trained = TeacherConfig(checkpoint=str(tmp_path / "teacher.ckpt"))
    teacher_trainer = make_trainer(**ONE_BATCH)
    teacher_trainer.fit(ImageClassification(tiny), datamodule=Ordered())
    teacher_trainer.save_checkpoint(tmp_path / "teacher.ckpt")

    uninterrupted, steps = run(SavingAfterFirstEpoch())
    resumed, later_steps = run(ckpt_path=tmp_path / "first_epoch.ckpt")
    assert later_steps == steps[3:]
    for ours, theirs in zip(resumed, uninterrupted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_predictions_are_ordered_probabilities(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    batches: Any = make_trainer().predict(ImageClassification(tiny), tiny_data)
    assert [path for batch in batches for path in batch["paths"]] == [f"{index}.png" for index in range(24)]
    for batch in batches:
        assert batch["probabilities"].shape == batch["indices"].shape == (8, 4)
        torch.testing.assert_close(batch["probabilities"].sum(1), torch.ones(8))
        assert (batch["probabilities"].diff(dim=1) <= 0).all()


@pytest.mark.slow
def test_a_compiled_network_trains(make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData) -> None:
    module = ImageClassification(tiny, compile=True)
    trainer = make_trainer(limit_train_batches=2)
    trainer.fit(module, datamodule=tiny_data)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert all("_orig_mod" not in key for key in module.state_dict())
