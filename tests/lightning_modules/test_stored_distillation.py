"""Training from a stored teacher: the losses of a live one, without it, whatever stops the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from benchmarks.faulty_runs import OFF, different_parts, fault_option
from datamodules import DigitsDataModule, MixingConfig
from lightning_modules.classification import ImageClassification
from lightning_modules.losses import DistillationConfig, soft_distillation
from lightning_modules.stored_distillation import as_logits
from lightning_modules.teacher import TeacherConfig, build_teacher
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.small_runs import quiet_trainer
from tests.lightning_modules.stored import DATA, TEACHER, store, write_config
from tests.lightning_modules.tiny_data import TINY, TinyData
from tests.spawned import fit

SMALL = MobileMambaConfig(num_classes=10, stem_stride=4, widths=(16, 16, 32), depths=(1, 1, 1))

pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of three views with all classes."""
    folder = tmp_path_factory.mktemp("stored")
    assert store(folder, folder / "store", "--views=3") == 0
    return folder / "store"


class Batches(Callback):
    """Keeps the batches of a fit, after mixing, and the gradients and the loss of each."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, ...]] = []
        self.losses: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(tuple(part.clone() for part in batch))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses.append(trainer.callback_metrics["train/loss_distillation"].clone())
        self.gradients.append(torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]))


def train(folder: Path, stored: Path, epochs: int = 1, mixing: bool = False, **options: Any) -> Batches:
    torch.manual_seed(0)
    data = DigitsDataModule(**(DATA | {"mixing": MixingConfig(mixup=0.8, cutmix=1.0)} | options))
    module = ImageClassification(SMALL, TeacherConfig(stored=str(stored), mixing=mixing))
    seen = Batches()
    trainer = quiet_trainer(folder, max_epochs=epochs, callbacks=[seen], limit_val_batches=1, num_sanity_val_steps=0)
    trainer.fit(module, datamodule=data)
    assert module.teacher is None
    assert "val/top1_teacher" not in trainer.callback_metrics
    assert "train/teacher_agreement" in trainer.callback_metrics
    return seen


@pytest.mark.parametrize("kind", ["soft", "hard", "dist"])
def test_with_all_classes_losses_and_gradients_are_a_live_teachers(kind: Any, stored: Path, tmp_path: Path) -> None:
    seen = train(tmp_path, stored)
    teacher = build_teacher(TeacherConfig(**TEACHER), 10, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    assert len(seen.batches) == 7
    for images, targets, probabilities in seen.batches:
        live = teacher(images)
        torch.testing.assert_close(probabilities, live.softmax(1), rtol=2**-10, atol=2**-24)
        results = []
        for said in (live, as_logits(probabilities)):
            torch.manual_seed(1)
            module = ImageClassification(SMALL, distillation=DistillationConfig(kind))
            module.log = lambda *_, **__: None  # type: ignore[method-assign]
            loss = module._loss(module(images), images, targets, said).total
            loss.backward()
            results.append((loss, [p.grad for p in module.parameters() if p.grad is not None]))
        (one, gradients), (other, others) = results
        torch.testing.assert_close(one, other, rtol=2**-10, atol=0)
        scale = max(float(gradient.abs().max()) for gradient in gradients)
        for gradient, like in zip(gradients, others, strict=True):
            torch.testing.assert_close(gradient, like, rtol=2**-9, atol=2**-11 * scale)


def test_epochs_see_the_views_in_turn_and_unmixed(stored: Path, tmp_path: Path) -> None:
    seen = train(tmp_path, stored, epochs=4).batches

    def pictures(epoch: int) -> set[bytes]:
        return {image.numpy().tobytes() for images, *_ in seen[7 * epoch : 7 * epoch + 7] for image in images}

    # 56 of 60 images are in an epoch: the last partial batch is dropped.
    assert [len(pictures(0) & pictures(epoch)) >= 52 for epoch in range(4)] == [True, False, False, True]
    assert not pictures(0) & pictures(1)
    shares = torch.cat([targets for _, targets, _ in seen]).unique()  # smoothed, not mixed
    torch.testing.assert_close(shares, torch.tensor([0.01, 0.91]))


def test_with_mixing_what_is_stored_is_mixed_like_the_labels(stored: Path, tmp_path: Path) -> None:
    plain = train(tmp_path, stored).batches
    mixed = train(tmp_path, stored, mixing=True).batches
    for (_, labels, said), (_, soft, both) in zip(plain, mixed, strict=True):
        share = ((soft - labels.flip(0)) * (labels - labels.flip(0))).sum() / (labels - labels.flip(0)).square().sum()
        torch.testing.assert_close(both, share * said + (1 - share) * said.flip(0), atol=1e-6, rtol=1e-5)
    assert not torch.equal(plain[0][0], mixed[0][0])


def test_impossible_classes_leave_the_loss_finite() -> None:
    sure = as_logits(torch.tensor([[1.0, 0.0, 0.0]]))
    loss = soft_distillation(torch.zeros(1, 3), sure, 1.0)
    torch.testing.assert_close(loss, torch.tensor(3.0).log())


def test_data_that_cannot_repeat_views_are_refused(stored: Path, tmp_path: Path) -> None:
    module = ImageClassification(TINY, TeacherConfig(stored=str(stored)))
    with pytest.raises(ValueError, match=r"model\.teacher\.stored must be null: TinyData"):
        quiet_trainer(tmp_path).fit(module, datamodule=TinyData())


def test_two_processes_with_repeats_resume_within_an_epoch_bit_for_bit(stored: Path, tmp_path: Path) -> None:
    teacher = {"stored": str(stored)}
    model = {"network": {"stem_stride": 4, "widths": [16, 16, 32], "depths": [1, 1, 1]}, "teacher": teacher}
    data = {"class_path": "datamodules.DigitsDataModule", "init_args": DATA | {"repeats": 2, "batch_size": 6}}
    trainer = {"accelerator": "cpu", "devices": 2, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    trainer |= {"max_epochs": 2, "limit_val_batches": 1}
    path = write_config(tmp_path, model=model | {"schedule": {"warmup_epochs": 0}}, data=data, trainer=trainer)
    config = path.rename(tmp_path / "run.yaml")
    config.write_text(config.read_text() + yaml.safe_dump({"enable": dict.fromkeys(OFF, False)}))
    whole, cut = (tmp_path / f"runs/{name}/version_0/checkpoints/last.ckpt" for name in ("whole", "cut"))
    fault = fault_option(step=7, kind="SIGTERM", rank=1)  # which stops both
    status, output = fit(tmp_path, "--config=run.yaml", "--run.name=cut", fault, processes=2)
    assert status == 143, output
    assert torch.load(cut, weights_only=True)["DigitsDataModule"]["views"] == 3
    # Views that were added since do not change how the run goes on.
    longer = tmp_path / "longer"
    longer.mkdir()
    for file in stored.iterdir():
        (longer / file.name).write_bytes(file.read_bytes())
    assert store(tmp_path, longer, "--views=4") == 0
    same = ["--config=run.yaml", "--run.name=cut", "--run.resume=auto", f"--model.teacher.stored={longer}"]
    for options in (same, ["--config=run.yaml", "--run.name=whole"]):
        status, output = fit(tmp_path, *options, processes=2)
        assert status == 0, output
    assert torch.load(whole, weights_only=True)["global_step"] == 10
    assert not different_parts(whole, cut)
