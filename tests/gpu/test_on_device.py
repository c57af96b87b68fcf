"""What only a CUDA device shows: mixed precision, compilation, DDP and export of networks that live on it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_modules.callbacks import EMA, NonFiniteGuard
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMamba, ModelMetadata, fuse
from mobilemamba.export import ExportOptions, export_network
from tests.lightning_modules.small_runs import quiet_trainer
from tests.lightning_modules.tiny_data import TINY, TinyData

pytestmark = [
    pytest.mark.gpu,
    # Strides of dimensions of length 1 mean nothing.
    pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides:UserWarning"),
]


class Losses(Callback):
    """Keeps every training loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))


def network_and_images() -> tuple[MobileMamba, Tensor]:
    torch.manual_seed(0)
    network = MobileMamba(TINY)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return network.eval(), torch.randn(4, 3, 64, 64)


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((actual.double().cpu() - expected.double()).abs().max() / expected.abs().max())


@pytest.mark.parametrize("form", [lambda network: network, fuse])
def test_logits_equal_those_in_float64(form: Callable[[nn.Module], nn.Module]) -> None:
    network, images = network_and_images()
    with torch.no_grad():
        expected = copy.deepcopy(network).double()(images.double())
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        assert difference(form(network).cuda()(images.cuda()), expected) < 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_mixed_precision_stays_near(dtype: torch.dtype, tolerance: float) -> None:
    network, images = network_and_images()
    with torch.no_grad():
        expected = copy.deepcopy(network).double()(images.double())
        with torch.autocast("cuda", dtype=dtype):
            assert difference(network.cuda()(images.cuda()), expected) < tolerance


@pytest.mark.parametrize("training", [False, True])
def test_the_network_compiles_without_graph_break(training: bool) -> None:
    network, images = network_and_images()
    network, images = network.cuda().train(training), images.cuda()
    plain = copy.deepcopy(network)
    compiled = torch.compile(network, fullgraph=True)
    actual, expected = compiled(images), plain(images)
    assert difference(actual.detach(), expected.detach().cpu()) < 1e-2  # TF32 in both, added up in another order
    if training:
        actual.square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_training_learns_and_skips_nothing(precision: str, strategy: str, tmp_path: Path) -> None:
    losses, guard = Losses(), NonFiniteGuard()
    trainer = quiet_trainer(
        tmp_path,
        accelerator="gpu",
        devices=1,
        strategy=strategy,
        precision=precision,
        max_epochs=8,
        callbacks=[EMA(decay=0.5), guard, losses],
    )
    trainer.fit(ImageClassification(TINY), datamodule=TinyData())
    assert len(losses.losses) == 24
    assert sum(losses.losses[-3:]) < sum(losses.losses[:3])
    assert guard.skipped == 0


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_network_on_the_device_is_exported(format: str, tmp_path: Path) -> None:
    network, _ = network_and_images()
    file = tmp_path / f"network.{format}"
    report = export_network(network.cuda(), file, ExportOptions(format=format), ModelMetadata((64, 64)))  # type: ignore[arg-type]
    assert report.verdict == "passed"
    assert next(network.parameters()).is_cuda
