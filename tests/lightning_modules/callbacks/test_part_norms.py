"""Norms are those of each part, before clipping, and cost nothing at other steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lightning_modules.callbacks import PartNorms
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData


class Norms(Callback):
    """Measures norms of weights and gradients of each step, before clipping."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, ImageClassification)
        student = pl_module.student
        norms: dict[str, float] = {}
        for name, part in {"head": student.head, "stages.1": student.stages[1], "stem": student.stem}.items():
            weights = list(part.parameters())
            norms[f"weight_norm/{name}"] = float(get_total_norm(weights).detach())
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            if gradients:
                norms[f"weight_gradient_norm/{name}"] = float(get_total_norm(gradients))
        self.steps.append(norms)


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")  # the frozen ones
def test_norms_of_parts_are_logged_at_the_steps_that_are(
    logged: Callable[..., Trainer], tiny: MobileMambaConfig
) -> None:
    norms = Norms()
    options: dict[str, Any] = {"log_every_n_steps": 2, "limit_train_batches": 3, "limit_val_batches": 0}
    trainer = logged(callbacks=[norms, PartNorms()], gradient_clip_val=1e-3, **options)
    trainer.fit(ImageClassification(tiny, freeze="stem"), datamodule=TinyData())
    logged_norms = {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("weight_")
    }
    assert len(norms.steps) == 3
    for name, value in norms.steps[1].items():  # the second, and no other
        assert logged_norms[name] == pytest.approx(value, rel=1e-5)
    parts = {"stages.0", "stages.1", "stages.2", "head"}
    expected = {f"weight_norm/{part}" for part in parts | {"stem"}} | {f"weight_gradient_norm/{p}" for p in parts}
    assert logged_norms.keys() == expected
