"""Schedule values, parameter groups and scaling of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm.scheduler
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from lightning_modules.classification import ImageClassification
from lightning_modules.optimization import (
    OptimizerConfig,
    ScheduleConfig,
    learning_rate_factor,
    make_optimizer,
    make_schedule,
    parameter_groups,
)
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.errors import UserError
from mobilemamba.semantic_fpn import SemanticFPN
from tests.lightning_modules.tiny_data import TinyData


def names_by_group(model: nn.Module, config: OptimizerConfig) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {names[id(p)] for p in group["params"]} for group in parameter_groups(model, config)}


class Rates(Callback):
    """Keeps the learning rate of every batch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.rates.append(float(trainer.callback_metrics["train/lr"]))


def test_schedule_at_its_corners() -> None:
    config = ScheduleConfig()

    def factor(step: int) -> float:
        return learning_rate_factor(step, total_steps=300, warmup_steps=20, config=config)

    assert factor(0) == pytest.approx(1e-3)
    assert factor(10) == pytest.approx((1 + 1e-3) / 2)
    assert factor(20) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * 20 / 300)) / 2)
    assert factor(150) == pytest.approx((1 + 0.01) / 2)
    assert factor(300) == pytest.approx(0.01)
    assert factor(1000) == pytest.approx(0.01)


def test_cosine_from_the_end_of_the_warmup_starts_at_the_peak() -> None:
    config = ScheduleConfig(cosine_from="warmup")
    assert learning_rate_factor(20, 300, 20, config) == 1.0
    assert learning_rate_factor(160, 300, 20, config) == pytest.approx((1 + 0.01) / 2)
    assert learning_rate_factor(300, 300, 20, config) == pytest.approx(0.01)


def test_dense_tasks_keep_the_peak_up_to_the_middle_and_end_at_zero() -> None:
    config = ScheduleConfig(warmup_steps=20, warmup_factor=1e-5, final_factor=0.0, cosine_from="middle")
    factors = [learning_rate_factor(step, 300, 20, config) for step in (0, 10, 20, 149, 150, 225, 300, 400)]
    assert factors == pytest.approx([1e-5, (1 + 1e-5) / 2, 1, 1, 1, 0.5, 0, 0])


def test_schedule_equals_timms() -> None:
    peak, total, warmup = 3e-3, 300, 20
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    reference = timm.scheduler.CosineLRScheduler(
        optimizer, t_initial=total, lr_min=peak / 100, warmup_t=warmup, warmup_lr_init=peak / 1000, t_in_epochs=False
    )
    factor = make_schedule(total, warmup, ScheduleConfig())
    for step in range(1, total):
        reference.step_update(step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(peak * factor(step), rel=1e-9)


def test_a_run_that_ends_within_its_warmup_or_has_none_is_defined() -> None:
    assert learning_rate_factor(1, total_steps=2, warmup_steps=100, config=ScheduleConfig()) < 0.02
    assert learning_rate_factor(0, total_steps=2, warmup_steps=0, config=ScheduleConfig()) == 1.0


def test_published_groups_decay_every_matrix_and_no_vector_or_bias(tiny: MobileMambaConfig) -> None:
    model = MobileMamba(tiny)
    groups = names_by_group(model, OptimizerConfig())
    assert groups["decay"] | groups["no_decay"] == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        decayed = parameter.ndim > 1 and not name.endswith(".bias")
        assert name in groups["decay" if decayed else "no_decay"]
    assert any(name.endswith("A_log") for name in groups["decay"])
    assert any(name.endswith("D") for name in groups["no_decay"])


def test_mambas_convention_leaves_the_scan_alone(tiny: MobileMambaConfig) -> None:
    published = names_by_group(MobileMamba(tiny), OptimizerConfig())
    groups = names_by_group(MobileMamba(tiny), OptimizerConfig(decay_scan_parameters=False))
    moved = published["decay"] - groups["decay"]
    assert {name.rpartition(".")[2] for name in moved} == {"A_log", "dt_proj_bias"}


def test_names_that_the_model_exempts_and_frozen_parameters_are_respected() -> None:
    class Exempting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = nn.Linear(2, 2)
            self.exempt = nn.Linear(2, 2)
            self.frozen = nn.Linear(2, 2).requires_grad_(False)

        def no_weight_decay(self) -> set[str]:
            return {"exempt.weight"}

    groups = names_by_group(Exempting(), OptimizerConfig())
    assert groups == {"decay": {"kept.weight"}, "no_decay": {"kept.bias", "exempt.weight", "exempt.bias"}}


def test_layers_have_falling_rates_towards_the_stem(tiny: MobileMambaConfig) -> None:
    network = MobileMamba(tiny)
    optimizer = make_optimizer(network, OptimizerConfig(layer_decay=0.5, reference_batch_size=None), 8)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    # Stem, three stages of one block each, classifier.
    expected = {"stem.": 0.5**4, "stages.0.": 0.5**3, "stages.1.": 0.5**2, "stages.2.": 0.5, "head.": 1.0}
    for name, rate in rates.items():
        share = next(share for part, share in expected.items() if name.startswith(part))
        assert rate == pytest.approx(1.5e-3 * share), name
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}


def test_a_head_has_a_rate_of_its_own_and_a_pyramid_has_not() -> None:
    backbone = MobileMamba(MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), num_classes=5))
    config = OptimizerConfig(reference_batch_size=None, head_factor=10.0)
    for network, own in ((SemanticFPN(backbone, 5, 16, 8), ("scales.", "classifier.")), (backbone, ("head.",))):
        backbone.reset_classifier(5)
        optimizer = make_optimizer(network, config, 8)
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert {name for name, rate in rates.items() if rate == 1.5e-2} == {
            n for n in names.values() if n.startswith(own)
        }
        assert set(rates.values()) == {1.5e-3, 1.5e-2}
        assert {(group["name"], group["weight_decay"]) for group in optimizer.param_groups} == {
            ("decay", 0.05),
            ("no_decay", 0.0),
            ("head.decay", 0.05),
            ("head.no_decay", 0.0),
        }


def test_learning_rate_is_scaled_to_the_global_batch(tiny: MobileMambaConfig) -> None:
    optimizer = make_optimizer(MobileMamba(tiny), OptimizerConfig(), global_batch_size=1024)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(3e-3)] * 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert optimizer.defaults["eps"] == 1e-8
    unscaled = OptimizerConfig(learning_rate=1e-4, reference_batch_size=None)
    assert unscaled.scaled_learning_rate(1024) == 1e-4


def test_the_learning_rate_follows_the_schedule_every_step(
    make_trainer: Callable[..., Trainer], tiny: MobileMambaConfig
) -> None:
    recorder = Rates()
    module = ImageClassification(tiny, schedule=ScheduleConfig(warmup_epochs=1, cosine_from="warmup"))
    trainer = make_trainer(max_epochs=2, callbacks=[recorder], accumulate_grad_batches=2, limit_val_batches=0)
    trainer.fit(module, datamodule=TinyData(samples=32, batch_size=4))  # 8 batches, 4 optimiser steps per epoch
    peak = 1.5e-3 * 4 * 2 / 512
    warmup = [peak * (1e-3 + (1 - 1e-3) * step / 4) for step in range(4)]
    cosine = [peak * (0.01 + 0.99 * (1 + math.cos(math.pi * k / 4)) / 2) for k in range(4)]
    assert recorder.rates == pytest.approx([rate for rate in warmup + cosine for _ in range(2)], rel=1e-6)


def test_a_run_may_be_measured_in_steps(make_trainer: Callable[..., Trainer], tiny: MobileMambaConfig) -> None:
    recorder = Rates()
    schedule = ScheduleConfig(warmup_steps=2, final_factor=0.0, cosine_from="middle")
    trainer = make_trainer(max_epochs=-1, max_steps=8, callbacks=[recorder], limit_val_batches=0)
    trainer.fit(ImageClassification(tiny, schedule=schedule), datamodule=TinyData(samples=12, batch_size=4))
    peak = 1.5e-3 * 4 / 512
    cosine = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert recorder.rates == pytest.approx(
        [peak * factor for factor in (1e-3, (1 + 1e-3) / 2, 1, 1, *cosine)], rel=1e-6
    )


def test_a_warmup_longer_than_the_run_is_told(
    make_trainer: Callable[..., Trainer], tiny: MobileMambaConfig, tiny_data: TinyData, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make_trainer(limit_val_batches=0).fit(ImageClassification(tiny), datamodule=tiny_data)
    assert "warm-up of 60 steps (schedule.warmup_epochs = 20.0) is not over when training ends after 3" in caplog.text


def test_a_run_without_end_is_refused(
    make_trainer: Callable[..., Trainer], tiny: MobileMambaConfig, tiny_data: TinyData
) -> None:
    with pytest.raises(UserError, match=r"max_epochs = -1 .* no known end"):
        make_trainer(max_epochs=-1).fit(ImageClassification(tiny), datamodule=tiny_data)


BAD_OPTIMIZER = {
    "learning_rate": 0.0,
    "reference_batch_size": 0,
    "weight_decay": -1.0,
    "betas": (0.9, 1.0),
    "eps": 0.0,
    "head_factor": 0.0,
}
BAD_SCHEDULE = {"warmup_epochs": -1.0, "warmup_steps": -1, "warmup_factor": 2.0, "final_factor": -0.1}


def test_bad_values_are_named() -> None:
    for section, kind, bad in (
        ("optimizer", OptimizerConfig, BAD_OPTIMIZER),
        ("schedule", ScheduleConfig, BAD_SCHEDULE),
    ):
        for field, value in bad.items():
            with pytest.raises(UserError, match=rf"{section}\.{field} = .* must be"):
                kind(**{field: value})  # type: ignore[operator]
