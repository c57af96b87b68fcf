"""Whole runs of the module on a tiny network: what is logged, saved, loaded and refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.classification import ImageClassification
from lightning_modules.losses import DistillationConfig
from lightning_modules.optimization import OptimizerConfig, ScheduleConfig
from lightning_modules.teacher import TeacherConfig
from mobilemamba import MobileMambaConfig, load_training_checkpoint
from mobilemamba.errors import UserError
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]
TEACHER = TeacherConfig(name="test_resnet", pretrained=False, class_indices=[3, 1, 4, 5])
SHORT = ScheduleConfig(warmup_epochs=1)


class Recorder(Callback):
    """Keeps logged values of every step, and the learning rate that the step was taken with."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def parameters_of(module: ImageClassification) -> list[Tensor]:
    return [value.clone() for value in module.student.state_dict().values()]


def test_fit_logs_the_parts_of_the_loss(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    recorder = Recorder()
    module = ImageClassification(tiny, teacher=TEACHER, schedule=SHORT)
    trainer = make_trainer(callbacks=[recorder], gradient_clip_val=5.0)
    trainer.fit(module, datamodule=tiny_data)
    logged = recorder.steps[0]
    assert logged.keys() >= {
        "train/loss",
        "train/loss_task",
        "train/loss_distillation",
        "train/teacher_agreement",
        "train/grad_norm",
        "optim/lr",
    }
    assert logged["train/loss"] == pytest.approx(
        logged["train/loss_task"] + 5 * logged["train/loss_distillation"], rel=1e-5
    )
    assert 0 <= logged["train/teacher_agreement"] <= 1
    assert logged["train/grad_norm"] > 0
    assert trainer.callback_metrics.keys() >= {"val/top1_raw", "val/top5_raw", "val/loss_raw"}
    assert not any(key.endswith("_ema") for key in trainer.callback_metrics)


def test_without_teacher_only_the_task_is_logged_and_classes_are_learnt(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    torch.manual_seed(0)
    recorder = Recorder()
    optimizer = OptimizerConfig(learning_rate=2e-2, reference_batch_size=None)
    module = ImageClassification(tiny, optimizer=optimizer, schedule=SHORT)
    trainer = make_trainer(max_epochs=16, callbacks=[recorder])
    trainer.fit(module, datamodule=tiny_data)
    assert "train/loss_distillation" not in recorder.steps[0]
    assert recorder.steps[-1]["train/loss"] < recorder.steps[0]["train/loss"] / 2
    assert trainer.callback_metrics["val/top1_raw"] > 0.9


@pytest.mark.parametrize("kind", ["hard", "dist"])
def test_other_kinds_of_distillation_train(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, kind: Any
) -> None:
    config = DistillationConfig(kind=kind, weight=0.25)
    trainer = make_trainer(limit_train_batches=1, limit_val_batches=0)
    trainer.fit(ImageClassification(tiny, TEACHER, config), datamodule=tiny_data)
    logged = trainer.callback_metrics
    assert torch.isfinite(logged["train/loss"])
    expected = config.weights[0] * logged["train/loss_task"] + 0.25 * logged["train/loss_distillation"]
    torch.testing.assert_close(logged["train/loss"], expected)


def test_soft_targets_are_accepted(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    class SoftData(TinyData):
        def train_dataloader(self) -> DataLoader[Any]:
            images = torch.randn(8, 3, 64, 64)
            return DataLoader(TensorDataset(images, torch.full((8, 4), 0.25)), batch_size=self.batch_size)

    trainer = make_trainer()
    trainer.fit(ImageClassification(tiny), datamodule=SoftData())
    # Uniform targets: the loss of uniform predictions is ln 4, and it is the least.
    assert trainer.callback_metrics["train/loss"] >= torch.tensor(4.0).log() - 1e-6


def test_mixed_precision_keeps_the_loss_and_weights_in_float32(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    module = ImageClassification(tiny, teacher=TEACHER)
    trainer = make_trainer(precision="bf16-mixed", limit_train_batches=2, gradient_clip_val=5.0)
    trainer.fit(module, datamodule=tiny_data)
    assert trainer.callback_metrics["train/loss"].dtype == torch.float32
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("options", [{"channels_last": True}, {"grad_checkpointing": True}])
def test_memory_options_do_not_change_the_loss(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, options: dict[str, bool]
) -> None:
    losses = []
    for chosen in ({}, options):
        torch.manual_seed(0)
        module = ImageClassification(tiny, **chosen)  # type: ignore[arg-type]
        trainer = make_trainer(limit_train_batches=1, limit_val_batches=0)
        trainer.fit(module, datamodule=TinyData(samples=8))
        losses.append(trainer.callback_metrics["train/loss"])
    torch.testing.assert_close(losses[0], losses[1])


def test_the_learning_rate_follows_the_schedule_every_step(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    recorder = Recorder()
    module = ImageClassification(tiny, schedule=ScheduleConfig(warmup_epochs=1, cosine_from="warmup"))
    trainer = make_trainer(max_epochs=2, callbacks=[recorder], accumulate_grad_batches=2)
    trainer.fit(module, datamodule=TinyData(samples=32, batch_size=4))  # 8 batches, 4 optimiser steps per epoch
    peak = 1.5e-3 * 4 * 2 / 512
    warmup = [peak * (1e-3 + (1 - 1e-3) * step / 4) for step in range(4)]
    cosine = [peak * (0.01 + 0.99 * (1 + math.cos(math.pi * k / 4)) / 2) for k in range(4)]
    rates = [step["optim/lr"] for step in recorder.steps]
    assert rates == pytest.approx([rate for rate in warmup + cosine for _ in range(2)], rel=1e-6)


def test_a_warmup_longer_than_the_run_is_told(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make_trainer(limit_val_batches=0).fit(ImageClassification(tiny), datamodule=tiny_data)
    assert "warm-up of 60 steps (schedule.warmup_epochs = 20.0) is not over when training ends after 3" in caplog.text


def test_the_gradient_norm_is_logged_before_clipping(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    class Norms(Callback):
        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                self.after = torch.nn.utils.get_total_norm(grads)

    for limit in (None, 1e-3):
        torch.manual_seed(0)
        norms = Norms()
        trainer = make_trainer(gradient_clip_val=limit, callbacks=[norms], limit_train_batches=2, limit_val_batches=0)
        trainer.fit(ImageClassification(tiny), datamodule=tiny_data)
        logged = trainer.callback_metrics["train/grad_norm"]
        assert logged > 1e-2
        if limit is not None:
            assert norms.after == pytest.approx(limit, rel=1e-2)


def test_clipping_by_value_is_left_to_the_trainer(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    class Largest(Callback):
        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            grads = [p.grad.abs().max() for p in pl_module.parameters() if p.grad is not None]
            if grads:
                self.after = max(grads)

    largest = Largest()
    options: dict[str, Any] = {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"}
    trainer = make_trainer(callbacks=[largest], limit_train_batches=2, limit_val_batches=0, **options)
    trainer.fit(ImageClassification(tiny), datamodule=tiny_data)
    assert largest.after == pytest.approx(1e-4)
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
    trainer = make_trainer(callbacks=[Looks()])
    trainer.fit(module, datamodule=tiny_data)
    assert module.teacher is None
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert all(key.startswith("student.") for key in content["state_dict"])

    def refuse(*_: object) -> None:
        raise AssertionError("built for nothing")

    monkeypatch.setattr("lightning_modules.classification.build_teacher", refuse)
    trainer.validate(module, datamodule=tiny_data, verbose=False)
    trainer.test(module, datamodule=tiny_data, verbose=False)
    trainer.predict(module, datamodule=tiny_data)


def test_a_checkpoint_rebuilds_the_network_without_this_package(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, tmp_path: Path
) -> None:
    module = ImageClassification(tiny)
    trainer = make_trainer()
    trainer.fit(module, datamodule=tiny_data)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    network, metadata = load_training_checkpoint(tmp_path / "run.ckpt")
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
        return parameters_of(module), recorder.steps

    trained = TeacherConfig(checkpoint=str(tmp_path / "teacher.ckpt"))
    teacher_trainer = make_trainer(limit_train_batches=1)
    teacher_trainer.fit(ImageClassification(tiny), datamodule=Ordered())
    teacher_trainer.save_checkpoint(tmp_path / "teacher.ckpt")

    uninterrupted, steps = run(SavingAfterFirstEpoch())
    resumed, later_steps = run(ckpt_path=tmp_path / "first_epoch.ckpt")
    assert later_steps == steps[3:]
    for ours, theirs in zip(resumed, uninterrupted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class Averaging(Callback):
    """Stands in for weight averaging: an averaged network that is the raw one with other classifier weights."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        averaged = copy.deepcopy(pl_module.student)
        with torch.no_grad():
            averaged.get_submodule("head.linear").get_parameter("bias").copy_(torch.tensor([100.0, 0, 0, 0]))
        pl_module.set_unregistered("ema_student", averaged)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert isinstance(pl_module, ImageClassification)
        assert pl_module.ema_student is not None
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        state = pl_module.ema_student.state_dict()
        checkpoint["state_dict"] = {f"student.{key}": value for key, value in state.items()}


class Saving(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


def test_raw_and_averaged_weights_are_both_validated_in_fit_and_from_a_checkpoint(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, tmp_path: Path
) -> None:
    path = tmp_path / "averaged.ckpt"
    trainer = make_trainer(callbacks=[Averaging(), Saving(path)])
    module = ImageClassification(tiny)
    trainer.fit(module, datamodule=tiny_data)
    in_fit = {key: value for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
    # The averaged network always says class 0, which a quarter of the images are.
    assert in_fit["val/top1_ema"] == 0.25
    assert in_fit["val/top5_ema"] == 1.0
    assert in_fit["val/loss_ema"] > in_fit["val/loss_raw"]
    assert module.ema_student is None

    fresh = ImageClassification(tiny)
    [validated] = make_trainer().validate(fresh, tiny_data, ckpt_path=path, verbose=False)
    assert validated == pytest.approx({key: value.item() for key, value in in_fit.items()}, rel=1e-5)
    [tested] = make_trainer().test(fresh, tiny_data, ckpt_path=path, verbose=False)
    assert tested["test/top1"] == 0.25
    assert tested.keys() == {"test/top1", "test/top5", "test/loss"}


def test_validation_metrics_are_means_over_samples_not_batches(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig
) -> None:
    torch.manual_seed(0)
    module = ImageClassification(tiny)
    data = TinyData(samples=10, batch_size=7)  # a full batch and one of three
    [logged] = make_trainer().validate(module, data, verbose=False)
    images, targets = data.dataset(1).tensors
    with torch.no_grad():
        logits = module.student.eval()(images)
    assert logged["val/loss_raw"] == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)
    assert logged["val/top1_raw"] == pytest.approx((logits.argmax(1) == targets).float().mean().item())


def test_predictions_are_ordered_probabilities(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    module = ImageClassification(tiny)
    batches: Any = make_trainer().predict(module, tiny_data)
    assert [path for batch in batches for path in batch["paths"]] == [f"{index}.png" for index in range(24)]
    for batch in batches:
        assert batch["probabilities"].shape == batch["indices"].shape == (8, 4)
        torch.testing.assert_close(batch["probabilities"].sum(1), torch.ones(8))
        assert (batch["probabilities"].diff(dim=1) <= 0).all()


def test_metadata_of_the_weights_go_before_those_of_the_data(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, tmp_path: Path
) -> None:
    class Unnamed(TinyData):
        def metadata(self) -> Any:
            return type(super().metadata())(image_size=(64, 64), mean=(0.5,) * 3)

    trainer = make_trainer(limit_train_batches=1, limit_val_batches=0)
    trainer.fit(ImageClassification(tiny), datamodule=tiny_data)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    module = ImageClassification(tiny)
    with pytest.warns(UserWarning, match=r"normalised with mean \(0\.5"):
        make_trainer().predict(module, Unnamed(), ckpt_path=tmp_path / "run.ckpt")
    assert module.metadata == tiny_data.metadata()


def test_tensorboard_and_csv_get_grouped_names(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, tmp_path: Path
) -> None:
    trainer = make_trainer(logger=CSVLogger(tmp_path))
    trainer.fit(ImageClassification(tiny), datamodule=tiny_data)
    header = Path(trainer.loggers[0].log_dir or "", "metrics.csv").read_text().splitlines()[0].split(",")
    names = {
        "train/loss",
        "train/loss_task",
        "train/grad_norm",
        "optim/lr",
        "val/top1_raw",
        "val/top5_raw",
        "val/loss_raw",
    }
    assert set(header) == names | {"epoch", "step"}


@pytest.mark.slow
def test_a_compiled_network_trains(make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData) -> None:
    module = ImageClassification(tiny, compile=True)
    trainer = make_trainer(limit_train_batches=2)
    trainer.fit(module, datamodule=tiny_data)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert all("_orig_mod" not in key for key in module.state_dict())


def test_a_checkpoint_of_another_variant_is_refused_with_the_fields(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, tmp_path: Path
) -> None:
    trainer = make_trainer(limit_train_batches=1, limit_val_batches=0)
    trainer.fit(ImageClassification(tiny), datamodule=tiny_data)
    path = tmp_path / "run.ckpt"
    trainer.save_checkpoint(path)
    other = MobileMambaConfig(num_classes=4, widths=(16, 32, 48), depths=(1, 1, 2))
    message = r"widths: checkpoint \(16, 32, 32\), model \(16, 32, 48\); depths: checkpoint \(1, 1, 1\)"
    with pytest.raises(UserError, match=message):
        make_trainer().test(ImageClassification(other), tiny_data, ckpt_path=path)
    with pytest.raises(UserError, match=message):
        make_trainer(max_epochs=2).fit(ImageClassification(other), datamodule=tiny_data, ckpt_path=path)
    # Regularisation may change.
    regularised = MobileMambaConfig(num_classes=4, widths=(16, 32, 32), depths=(1, 1, 1), drop_path_rate=0.1)
    make_trainer().test(ImageClassification(regularised), tiny_data, ckpt_path=path, verbose=False)


def test_other_peoples_checkpoints_are_refused(tiny: MobileMambaConfig) -> None:
    with pytest.raises(UserError, match=r"no training checkpoint of this project: it holds \['net'\]"):
        ImageClassification(tiny).on_load_checkpoint({"net": {}})
    with pytest.raises(UserError, match="does not know: \\['colour'\\]"):
        ImageClassification(tiny).on_load_checkpoint({"mobilemamba": {"config": {"colour": 1}, "metadata": {}}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TinyData(num_classes=3), r"model\.network\.num_classes = 4, but the data have 3 classes"),
        (TinyData(image_size=32), r"image size 32x32 is too small: .* at least 64 pixels"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_training(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, data: TinyData, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer().fit(ImageClassification(tiny, teacher=TEACHER), datamodule=data)


def test_images_of_other_channels_are_refused(make_trainer: MakeTrainer, tiny_data: TinyData) -> None:
    grey = MobileMambaConfig(num_classes=4, widths=(16, 32, 32), depths=(1, 1, 1), in_chans=1)
    with pytest.raises(ValueError, match=r"in_chans = 1, but the data's images have 3 channels"):
        make_trainer().fit(ImageClassification(grey), datamodule=tiny_data)


def test_a_teacher_of_other_classes_is_refused_before_training(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    module = ImageClassification(tiny, teacher=TeacherConfig(name="test_resnet", pretrained=False))
    with pytest.raises(UserError, match="teacher has 1000 classes, the student 4"):
        make_trainer().fit(module, datamodule=tiny_data)


def test_a_datamodule_that_says_nothing_about_classes_is_refused(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig
) -> None:
    with pytest.raises(TypeError, match=r"datamodule is LightningDataModule: .* such as datamodules\.ImageNet"):
        make_trainer().validate(ImageClassification(tiny), LightningDataModule())


def test_a_run_without_end_is_refused(make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData) -> None:
    with pytest.raises(ValueError, match=r"max_epochs = -1 .* no known end"):
        make_trainer(max_epochs=-1).fit(ImageClassification(tiny), datamodule=tiny_data)


def test_a_network_without_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_classes = 0"):
        ImageClassification(MobileMambaConfig(num_classes=0))


def test_saving_without_data_is_refused(tiny: MobileMambaConfig) -> None:
    with pytest.raises(RuntimeError, match="attach a datamodule"):
        ImageClassification(tiny).on_save_checkpoint({})
