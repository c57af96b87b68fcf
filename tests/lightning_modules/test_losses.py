"""Losses against values worked out by hand."""

from __future__ import annotations

import math
from typing import Literal, get_args

import pytest
import torch
from torch import Tensor

from lightning_modules.losses import (
    DistillationConfig,
    balancing_weights,
    classification_loss,
    cross_entropy,
    dist_distillation,
    distillation_loss,
    soft_distillation,
)

Kind = Literal["soft", "hard", "dist"]


def logits_of(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows).log()


# Logits that are log-probabilities: their softmax at temperature 1 is the row itself.
STUDENT = logits_of((0.5, 0.25, 0.25), (0.1, 0.8, 0.1))
TEACHER = logits_of((0.25, 0.5, 0.25), (0.2, 0.6, 0.2))
KL_FIRST = 0.25 * math.log(0.25 / 0.5) + 0.5 * math.log(0.5 / 0.25)
KL_SECOND = 0.2 * math.log(2) * 2 + 0.6 * math.log(0.6 / 0.8)


def test_cross_entropy_of_indices_and_probabilities_is_a_mean_over_samples() -> None:
    expected = -(math.log(0.5) + math.log(0.8)) / 2
    assert cross_entropy(STUDENT, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-6)
    soft = torch.tensor([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0]])
    expected = -(0.9 * math.log(0.5) + 0.1 * math.log(0.25) + math.log(0.8)) / 2
    assert cross_entropy(STUDENT, soft).item() == pytest.approx(expected, rel=1e-6)


def test_soft_distillation_is_the_divergence_from_the_teacher_summed_over_classes() -> None:
    loss = soft_distillation(STUDENT, TEACHER, temperature=1.0)
    assert loss.item() == pytest.approx((KL_FIRST + KL_SECOND) / 2, rel=1e-6)
    # Not the other direction.
    assert loss.item() != pytest.approx(soft_distillation(TEACHER, STUDENT, temperature=1.0).item(), rel=1e-3)


def test_soft_distillation_at_a_temperature_carries_its_square() -> None:
    # exp(log(p) / 2) is proportional to sqrt(p).
    student, teacher = torch.tensor([0.64, 0.36]), torch.tensor([0.36, 0.64])
    p, q = [0.8 / 1.4, 0.6 / 1.4], [0.6 / 1.4, 0.8 / 1.4]
    expected = 4 * sum(t * math.log(t / s) for s, t in zip(p, q, strict=True))
    loss = soft_distillation(student.log()[None], teacher.log()[None], temperature=2.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_soft_distillation_is_the_difference_of_probabilities() -> None:
    student = STUDENT.clone().requires_grad_()
    soft_distillation(student, TEACHER, temperature=1.0).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (STUDENT.softmax(1) - TEACHER.softmax(1)) / 2)


def test_dist_of_one_hand_computed_pair() -> None:
    student = logits_of((0.7, 0.2, 0.1), (0.1, 0.3, 0.6))
    teacher = logits_of((0.6, 0.3, 0.1), (0.2, 0.2, 0.6))

    def pearson(x: list[float], y: list[float]) -> float:
        mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
        dx, dy = [v - mean_x for v in x], [v - mean_y for v in y]
        return sum(a * b for a, b in zip(dx, dy, strict=True)) / math.sqrt(
            sum(a * a for a in dx) * sum(b * b for b in dy)
        )

    rows = (pearson([0.7, 0.2, 0.1], [0.6, 0.3, 0.1]) + pearson([0.1, 0.3, 0.6], [0.2, 0.2, 0.6])) / 2
    # Over two samples a correlation is the sign of both differences: classes 0 and 2 agree, class 1 does not.
    columns = (1 - 1 + 1) / 3
    loss = dist_distillation(student, teacher, temperature=1.0, beta=2.0, gamma=3.0)
    assert loss.item() == pytest.approx(2 * (1 - rows) + 3 * (1 - columns), rel=1e-4)


def test_dist_sees_relations_and_not_scale() -> None:
    assert dist_distillation(TEACHER, TEACHER, temperature=1.0).item() == pytest.approx(0, abs=1e-6)
    uniform = torch.zeros(2, 3)
    assert torch.isfinite(dist_distillation(uniform, TEACHER, temperature=4.0))


@pytest.mark.parametrize(
    ("kind", "task_weight", "weight"), [("soft", 1.0, 5.0), ("hard", 0.5, 0.5), ("dist", 1.0, 1.0)]
)
def test_parts_add_up_with_the_published_weights(kind: Kind, task_weight: float, weight: float) -> None:
    parts = distillation_loss(STUDENT, torch.tensor([0, 1]), TEACHER, DistillationConfig(kind=kind))
    assert parts.distillation is not None
    torch.testing.assert_close(parts.total, task_weight * parts.task + weight * parts.distillation)
    match kind:
        case "soft":
            expected = (KL_FIRST + KL_SECOND) / 2
        case "hard":  # the teacher's top class is 1 in both rows
            expected = -(math.log(0.25) + math.log(0.8)) / 2
        case _:
            expected = dist_distillation(STUDENT, TEACHER, 1.0).item()
    assert parts.distillation.item() == pytest.approx(expected, rel=1e-5)


def test_weights_can_be_set() -> None:
    assert DistillationConfig(kind="hard", weight=2.0, task_weight=0.0).weights == (0.0, 2.0)


def test_without_teacher_the_total_is_the_task() -> None:
    parts = classification_loss(STUDENT, torch.tensor([0, 1]))
    assert parts.distillation is None
    assert parts.total.item() == parts.task.item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_under_autocast(dtype: torch.dtype) -> None:
    soft = TEACHER.softmax(1)
    for kind in get_args(Kind):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            config = DistillationConfig(kind=kind)
            parts = distillation_loss(STUDENT.to(dtype), soft, TEACHER.to(dtype), config)
        exact = distillation_loss(STUDENT.to(dtype).float(), soft, TEACHER.to(dtype).float(), config)
        assert parts.total.dtype == torch.float32
        torch.testing.assert_close(parts.total, exact.total)


@pytest.mark.parametrize(("field", "value"), [("temperature", 0.0), ("weight", -1.0), ("dist_beta", -0.1)])
def test_bad_values_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"distillation\.{field} = {value}"):
        DistillationConfig(**{field: value})  # type: ignore[arg-type]


def test_class_weights_count_rare_classes_more_and_keep_the_mean() -> None:
    weights = balancing_weights([10, 10, 40], power=1.0)
    assert weights.tolist() == pytest.approx([2.0, 2.0, 0.5])  # 60 images in three classes: 20 / count
    assert balancing_weights([10, 10, 40], power=0.0).tolist() == [1.0, 1.0, 1.0]
    half = balancing_weights([10, 10, 40], power=0.5)
    assert half[0] / half[2] == pytest.approx(2.0)
    assert (10 * half[0] + 10 * half[1] + 40 * half[2]).item() == pytest.approx(60.0)
    targets = torch.tensor([0, 1])
    expected = -(2.0 * math.log(0.5) + 0.5 * math.log(0.8)) / 2
    assert cross_entropy(STUDENT, targets, torch.tensor([2.0, 0.5, 1.0])).item() == pytest.approx(expected, rel=1e-6)
    soft = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert cross_entropy(STUDENT, soft, torch.tensor([2.0, 0.5, 1.0])).item() == pytest.approx(expected, rel=1e-6)
