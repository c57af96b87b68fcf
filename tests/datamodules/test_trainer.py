"""The datamodules in the hands of a real trainer, in one process and in two."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from datamodules import DigitsDataModule, ImageNetDataModule, MixingConfig
from lightning_modules.distributed import leave_process_group
from mobilemamba.errors import UserError
from tests.datamodules.conftest import photographs, save_image, truncate
from tests.spawned import SpawnedProcesses

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")


class Probe(LightningModule):
    """Keeps the targets it is trained on, and logs sums over all validation images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.targets: list[torch.Tensor] = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.targets.append(batch[1])
        return self.layer(batch[0].mean().view(1, 1)).sum()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        images, targets = batch
        assert targets.dtype == torch.int64
        sums = {
            "images": float(len(images)),
            "targets": targets.sum().float(),
            "brightness": images.mean((1, 2, 3)).sum(),
        }
        self.log_dict(sums, on_epoch=True, reduce_fx="sum", sync_dist=True)

    def predict_step(self, batch: tuple[torch.Tensor, list[str]], batch_idx: int) -> list[str]:
        return batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def trainer(**options: Any) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    defaults = {"max_epochs": 2, "accelerator": "cpu", "use_distributed_sampler": False, "num_sanity_val_steps": 0}
    return Trainer(**(quiet | defaults | options))


def mixed(root: Path, **options: Any) -> ImageNetDataModule:
    return photographs(root, **({"image_size": 32, "mixing": MixingConfig()} | options))


def fit(data: LightningDataModule, **options: Any) -> list[torch.Tensor]:
    probe = Probe()
    trainer(**options).fit(probe, datamodule=data)
    return probe.targets


def test_targets_are_mixed_and_repeat(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    targets = fit(mixed(root))
    assert targets[0].shape == (4, 3)
    assert targets[0].dtype == torch.float32
    torch.testing.assert_close(torch.cat(targets).sum(1), torch.ones(24))
    for one, other in zip(targets, fit(mixed(root, num_workers=2)), strict=True):
        assert torch.equal(one, other)


def test_without_mixing_targets_are_smoothed(image_folder: Callable[..., Path]) -> None:
    mixing = MixingConfig(mixup=0, cutmix=0, label_smoothing=0.3)
    targets = torch.cat(fit(mixed(image_folder(), mixing=mixing)))
    torch.testing.assert_close(targets.sort(dim=1).values, torch.tensor([[0.1, 0.1, 0.8]]).expand(24, 3))


def test_a_resumed_run_goes_on_as_if_uninterrupted(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = image_folder()
    whole = fit(mixed(root), max_epochs=3)
    first, probe = trainer(max_epochs=1), Probe()
    first.fit(Probe(), datamodule=mixed(root))
    first.save_checkpoint(tmp_path / "one.ckpt")
    trainer(max_epochs=3).fit(probe, datamodule=mixed(root), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert len(whole) == 9
    for one, other in zip(whole[3:], probe.targets, strict=True):
        assert torch.equal(one, other)


def test_a_resumed_run_keeps_its_split_and_writes_it_as_a_table(
    image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = image_folder() / "train"
    options: dict[str, Any] = {"validation_share": 0.25, "num_classes": None}
    first = trainer(max_epochs=1, default_root_dir=tmp_path / "first")
    first.fit(Probe(), datamodule=mixed(root, **options))
    first.save_checkpoint(tmp_path / "one.ckpt")
    save_image(root / "ant" / "new.jpg", 0)
    second = trainer(max_epochs=2, default_root_dir=tmp_path / "second")
    second.fit(Probe(), datamodule=mixed(root, **options), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    before, after = ((tmp_path / run / "split.csv").read_text().splitlines() for run in ("first", "second"))
    assert (before[0], len(before)) == ("path,label,split", 13)
    assert set(after) - set(before) == {"ant/new.jpg,ant,train"}
    again = photographs(root, num_classes=None, table=str(tmp_path / "second" / "split.csv"))
    assert [len(again.datasets[split]) for split in ("train", "val")] == [10, 3]


@pytest.mark.parametrize("overfit_batches", [2, 0.67])
def test_overfitting_sees_the_same_batches_of_all_classes_in_every_epoch(
    image_folder: Callable[..., Path], overfit_batches: float
) -> None:
    root = image_folder()
    data = mixed(root, mixing=MixingConfig(mixup=0, cutmix=0, label_smoothing=0))
    targets = fit(data, max_epochs=3, overfit_batches=overfit_batches)
    assert len(targets) == 6
    assert all(torch.equal(targets[step], targets[step % 2]) for step in range(6))
    assert set(torch.cat(targets).argmax(1).tolist()) == {0, 1, 2}  # the folders begin with four images of the first
    targets = fit(mixed(root), max_epochs=3, overfit_batches=overfit_batches)
    assert not any(torch.equal(targets[step], targets[step - 2]) for step in range(2, 6))  # mixing goes on


def test_the_end_of_an_epoch_tells_the_unreadable_images_of_all_loader_processes(
    image_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = image_folder()
    truncate(root / "train" / "ant" / "0.jpg")
    truncate(root / "train" / "cow" / "0.jpg")

    class Told(Callback):
        epochs: ClassVar[list[str]] = []

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.epochs.append(caplog.text)

    fit(mixed(root, num_workers=2), callbacks=[Told()])
    assert ["2 image(s) could not be read so far" in text for text in Told.epochs] == [True, True]
    assert caplog.text.count("could not be read so far") == 1  # no more were met in the second


def test_digits_train_validate_and_predict_alike() -> None:
    data = DigitsDataModule(batch_size=100)
    assert fit(data, max_epochs=1)[0].shape == (100, 10)
    metrics = trainer().validate(Probe(), datamodule=data, verbose=False)[0]
    assert metrics["images"] == 360
    paths = [path for batch in trainer().predict(Probe(), datamodule=data) or [] for path in batch]
    assert len(set(paths)) == 360


def test_two_processes_give_the_metrics_of_one(image_folder: Callable[..., Path]) -> None:
    root = image_folder(per_class=5)  # 15 validation images: padding to 16 would show
    one = trainer().validate(Probe(), datamodule=mixed(root), verbose=False)[0]
    spawning = trainer(strategy=SpawnedProcesses(), devices=2)
    two = spawning.validate(Probe(), datamodule=mixed(root), verbose=False)[0]
    assert one["images"] == two["images"] == 15
    assert one["targets"] == two["targets"]
    assert one["brightness"] == pytest.approx(two["brightness"], rel=1e-5)


def test_a_trainer_that_would_split_the_images_again_is_refused(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A group of one process.
    for name, value in (("LOCAL_RANK", "0"), ("NODE_RANK", "0"), ("MASTER_ADDR", "127.0.0.1"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)  # Lightning sets it otherwise, and does not undo that
    monkeypatch.setenv("MASTER_PORT", str(find_free_network_port()))
    strict = trainer(strategy=DDPStrategy(process_group_backend="gloo"), use_distributed_sampler=True)
    try:
        with pytest.raises(UserError, match=r"trainer\.use_distributed_sampler to false"):
            strict.validate(Probe(), datamodule=mixed(image_folder()), verbose=False)
    finally:
        leave_process_group()


@pytest.mark.parametrize(("accumulated", "size"), [(1, 96), (3, 32)])
def test_the_batch_of_a_step_is_divided(accumulated: int, size: int) -> None:
    data = DigitsDataModule(global_batch_size=96)
    assert len(fit(data, max_epochs=1, limit_train_batches=1, accumulate_grad_batches=accumulated)[0]) == size
    assert data.batch_size == size


def test_a_batch_given_beside_that_of_a_step_must_agree_with_it() -> None:
    agreeing = DigitsDataModule(batch_size=32, global_batch_size=96)
    assert len(fit(agreeing, max_epochs=1, limit_train_batches=1, accumulate_grad_batches=3)[0]) == 32
    with pytest.raises(
        UserError, match=r"data\.batch_size = 32 contradicts.* set trainer\.accumulate_grad_batches to 3"
    ):
        fit(DigitsDataModule(batch_size=32, global_batch_size=96), max_epochs=1)
    with pytest.raises(UserError, match=r"data\.batch_size = 36 contradicts .*step, leave data\.batch_size out"):
        fit(DigitsDataModule(batch_size=36, global_batch_size=96), max_epochs=1)


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    data = DigitsDataModule(global_batch_size=100)
    with pytest.raises(UserError, match=r"data\.global_batch_size = 100 must be a multiple of 1 processes x 3"):
        fit(data, accumulate_grad_batches=3)


def test_a_step_of_more_images_than_there_are_is_refused_by_its_own_name() -> None:
    with pytest.raises(
        UserError, match=r"data\.global_batch_size = 2048 makes batches of 2048 images, more than the 1437"
    ):
        fit(DigitsDataModule(global_batch_size=2048))
