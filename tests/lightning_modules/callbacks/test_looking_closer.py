"""Looking closer leaves no trace in training, repeats nothing over resumes, and works in every kind of run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from lightning_modules.callbacks import EMA, ClassResults, LastCheckpoint, ReceptiveField
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.callbacks.looking_closer import looking_closer
from tests.lightning_modules.small_runs import events, picture_steps, text
from tests.lightning_modules.tiny_data import TinyData
from tests.spawned import SpawnedProcesses

MakeTrainer = Callable[..., Trainer]


class Finally(Callback):
    """Keeps everything that training has changed, and what the next random numbers would be."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        networks = {"raw": pl_module.student, "ema": pl_module.ema_student or nn.Module()}
        self.state = {
            f"{kind}.{name}": value.clone()
            for kind, network in networks.items()
            for name, value in network.state_dict().items()
        }
        self.modes = {name: module.training for name, module in pl_module.named_modules()}
        self.hooks = sum(len(module._forward_hooks) for module in pl_module.modules())
        self.random = (torch.rand(1).item(), np.random.random(), random.random())
        self.metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("averaging", [True, False])
def test_training_is_the_same_with_and_without(logged: MakeTrainer, tiny: MobileMambaConfig, averaging: bool) -> None:
    def train(version: int, callbacks: list[Callback]) -> Finally:
        seed_everything(0, verbose=False)
        random_network = MobileMambaConfig(
            num_classes=4, widths=tiny.widths, depths=tiny.depths, drop_path_rate=0.3, drop_rate=0.2
        )
        final, averages = Finally(), [EMA(decay=0.5)] if averaging else []
        trainer = logged(version, callbacks=[*averages, *callbacks, final], max_epochs=2)
        trainer.fit(ImageClassification(random_network), datamodule=TinyData())  # which shuffles
        return final

    without, with_all = train(0, []), train(1, looking_closer())
    for name, value in without.state.items():
        assert torch.equal(value, with_all.state[name]), name
    assert (without.modes, without.hooks, without.random) == (with_all.modes, with_all.hooks, with_all.random)
    assert without.metrics == with_all.metrics


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_repeats_no_picture(logged: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path) -> None:
    def run(version: int, max_epochs: int, ckpt_path: Path | None) -> ReceptiveField:
        callbacks = [*looking_closer(every_n_validations=3), LastCheckpoint(dirpath=str(tmp_path / "checkpoints"))]
        trainer = logged(version, callbacks=callbacks, max_epochs=max_epochs, enable_checkpointing=True)
        trainer.fit(ImageClassification(tiny), datamodule=TinyData(), ckpt_path=ckpt_path, weights_only=True)
        return next(callback for callback in callbacks if isinstance(callback, ReceptiveField))

    first = run(0, 2, None)
    second = run(1, 4, tmp_path / "checkpoints" / "last.ckpt")
    assert picture_steps(events(tmp_path, 1)) == {
        "val/receptive_field": [12],
        "val/confusion": [9, 12],  # the third validation of both runs, and the last one
        "val/class_accuracy": [9, 12],
        "val_scan/decay_length": [9, 12],
    }
    assert list(second.maps) == ["before training", "after 12 steps"]
    assert torch.equal(second.maps["before training"], first.maps["before training"])
    assert "network/complexity/text_summary" in events(tmp_path, 1).Tags()["tensors"]


def test_nothing_is_done_without_a_log(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("work for nothing")

    for name in (
        *(
            f"{module}.{name}"
            for module in ("scan_decay", "receptive_field")
            for name in ("copied_network", "validation_images")
        ),
        "run_texts.network_table",
        "sample_images.draw_samples",
    ):
        monkeypatch.setattr(f"lightning_modules.callbacks.{name}", refuse)
    callbacks = [callback for callback in looking_closer() if not isinstance(callback, ClassResults)]
    make_trainer(callbacks=callbacks).fit(ImageClassification(tiny), datamodule=TinyData())


def test_the_table_of_classes_needs_no_log(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("lightning_modules.callbacks.class_results.draw_confusion")  # nobody would see it
    make_trainer(callbacks=[ClassResults(every_n_validations=1)]).fit(Mistaken(tiny), datamodule=TinyData())
    assert (tmp_path / "class_results.csv").read_text().splitlines() == [
        "name,images,recall,precision,f1",
        "class 0,6,1.0000,1.0000,1.0000",
        "class 1,6,1.0000,0.5000,0.6667",
        "class 2,6,1.0000,1.0000,1.0000",
        "class 3,6,0.0000,nan,0.0000",
    ]


def test_compiled_and_in_mixed_precision(
    logged: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = nn.Module.compile
    # Without generated code, which takes long to build.
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled(self, backend="eager"))
    trainer = logged(callbacks=[EMA(decay=0.5), *looking_closer()], precision="bf16-mixed", limit_train_batches=1)
    network = replace(tiny, mixer_stages=(False, True, False))
    trainer.fit(ImageClassification(network, compile=True), datamodule=TinyData())
    assert len(picture_steps(events(tmp_path))) == 5


class Mistaken(ImageClassification):
    """Takes class 3 for class 1 and recognises all others."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        super().validation_step(batch, batch_idx)
        targets = batch[1]
        return F.one_hot(torch.where(targets == 3, 1, targets), 4).float()


class SplitValidation(TinyData):
    """Each process validates images of its own: 15 and 9."""

    def val_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        own = range(15) if self.trainer.global_rank == 0 else range(15, 24)
        return DataLoader(Subset(self.dataset(1), own), batch_size=self.batch_size)


def test_two_processes_write_one_log_of_all_images(
    logged: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    trainer = logged(
        devices=2, strategy=SpawnedProcesses(), use_distributed_sampler=False, callbacks=[EMA(), *looking_closer()]
    )
    trainer.fit(Mistaken(tiny), datamodule=SplitValidation())
    assert len(list((tmp_path / "run" / "version_0").glob("events.*"))) == 1
    log = events(tmp_path)
    assert len(picture_steps(log)) == 5
    rows = [line.split("|")[1:-1] for line in text(log, "val/worst_classes").splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["class 3", "6", "0.0%", "class 1 (100%)"],
        *([f"class {index}", "6", "100.0%", ""] for index in range(3)),
    ]
