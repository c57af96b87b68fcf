"""Two processes on CPU: they train one network, and evaluate it as one process does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Subset

from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.conftest import Failure
from tests.lightning_modules.tiny_data import TinyData
from tests.spawned import SpawnedProcesses


class UnevenData(TinyData):
    """In two processes the first sees 17 of the 24 validation images in three batches, the second 7 in one."""

    def val_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        dataset, indices = self.dataset(1), list(range(self.samples))
        if self.trainer.world_size == 2:
            indices = indices[:17] if self.trainer.global_rank == 0 else indices[17:]
        return DataLoader(Subset(dataset, indices), batch_size=self.batch_size)

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        dataset = self.dataset(self.trainer.global_rank)
        return DataLoader(dataset, batch_size=self.batch_size)


class Averaging(Callback):
    """Stands in for weight averaging: every process copies its own network, statistics of its own images included."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ImageClassification)
        pl_module.set_unregistered("ema_student", copy.deepcopy(pl_module.student))


class Agreement(Callback):
    """Checks in every process that all evaluated the same networks."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        assert pl_module.ema_student is not None
        for network in (pl_module.student, pl_module.ema_student):
            for name, value in network.state_dict().items():
                gathered = pl_module.all_gather(value)
                assert isinstance(gathered, Tensor)
                assert torch.equal(gathered[0], gathered[1]), name


def test_two_processes_train_one_network_and_measure_it_like_one(
    make_trainer: Callable[..., Trainer], tiny: MobileMambaConfig
) -> None:
    torch.manual_seed(0)
    module = ImageClassification(tiny)
    with torch.no_grad():
        # An untrained classifier says nearly the same of all images: both halves would give the mean of all.
        module.student.get_parameter("head.linear.weight").mul_(100)
    before = module.student.get_parameter("stem.0.conv.weight").detach().clone()
    trainer = make_trainer(
        devices=2,
        strategy=SpawnedProcesses(),
        use_distributed_sampler=False,
        callbacks=[Averaging(), Agreement()],
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=UnevenData())
    in_two = {key: value.item() for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
    assert not torch.equal(module.student.get_parameter("stem.0.conv.weight"), before)
    # The processes did not count in memory that they share with this one, and thereby with each other.
    assert module.raw_metrics.loss.weight == 0
    [in_one] = make_trainer().validate(module, UnevenData(), verbose=False)
    assert in_one.keys() == {f"val/{name}_raw" for name in ("top1", "macro_accuracy", "f1", "loss")}
    for name, value in in_one.items():
        assert in_two[name] == pytest.approx(value, rel=1e-5)
        # The copy was taken after the last step.
        assert in_two[name.replace("raw", "ema")] == pytest.approx(value, rel=1e-5)


def test_the_command_leaves_the_group_even_after_an_error(failure: Failure) -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    status, _ = failure(["fit", "--config", "missing.yaml"])
    assert status == 2
    assert not distributed.is_initialized()
