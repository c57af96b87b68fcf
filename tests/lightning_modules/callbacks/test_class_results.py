"""Confusion matrices hold every validation image once, as the weights that count see it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.callbacks import EMA, ClassResults, class_results
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.known_results import Last, Mistaken
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def matrices(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Confusion matrices in place of what is written of them."""
    written: list[Tensor] = []
    monkeypatch.setattr(class_results, "write_class_results", lambda _, matrix, *__: written.append(matrix))
    return written


def test_known_predictions_are_counted_once(
    logged: MakeTrainer, tiny: MobileMambaConfig, matrices: list[Tensor]
) -> None:
    trainer = logged(callbacks=[ClassResults(1)], max_epochs=2)  # a sanity check comes before
    trainer.fit(Mistaken(tiny), datamodule=TinyData(samples=22))
    expected = [[6, 0, 0, 0], [0, 6, 0, 0], [0, 0, 5, 0], [0, 5, 0, 0]]
    assert [matrix.tolist() for matrix in matrices] == [expected, expected]


def test_only_what_is_drawn_is_counted(
    logged: MakeTrainer, tiny: MobileMambaConfig, matrices: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    count = class_results.confusion_matrix

    def keep(predictions: Tensor, targets: Tensor, num_classes: int) -> Tensor:
        counted.append(len(predictions))
        return count(predictions, targets, num_classes)

    monkeypatch.setattr(class_results, "confusion_matrix", keep)
    logged(callbacks=[ClassResults(2)], max_epochs=3).fit(Mistaken(tiny), datamodule=TinyData(samples=22))
    assert counted == [22, 22]  # the second validation and the last
    assert len(matrices) == 2


def test_too_many_classes_are_left_out_with_a_warning(
    logged: MakeTrainer, tiny: MobileMambaConfig, matrices: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_results, "MOST_CLASSES", 3)
    trainer = logged(callbacks=[ClassResults(1)], max_epochs=1)
    with pytest.warns(UserWarning, match=r"Results of 4 classes are not drawn: at most 3 .*enable\.class_results"):
        trainer.fit(Mistaken(tiny), datamodule=TinyData())
    assert not matrices


class RawPrefersTwo(Callback):
    """Lets raw and averaged weights disagree."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        if not trainer.sanity_checking:  # which comes before the first average
            pl_module.student.get_classifier().bias.data[2] = 10


@pytest.mark.parametrize("averaging", [True, False])
def test_predictions_are_those_of_the_weights_that_count(
    logged: MakeTrainer, tiny: MobileMambaConfig, matrices: list[Tensor], averaging: bool
) -> None:
    torch.manual_seed(0)
    module = ImageClassification(tiny)
    callbacks = [RawPrefersTwo(), *([EMA(decay=0.95)] if averaging else []), ClassResults(1), Last()]
    trainer = logged(callbacks=callbacks, max_epochs=1)
    trainer.fit(module, datamodule=TinyData())
    last = callbacks[-1]
    assert isinstance(last, Last)
    images, targets = TinyData().dataset(1).tensors
    predictions = last.ema(images).argmax(1)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for target, prediction in zip(targets, predictions, strict=True):
        expected[target, prediction] += 1
    assert torch.equal(matrices[-1], expected)
    assert torch.equal(last.raw(images).argmax(1), predictions) == (not averaging)
    recognised = matrices[-1].diagonal().sum() / matrices[-1].sum()
    torch.testing.assert_close(recognised, trainer.callback_metrics[f"val/top1_{'ema' if averaging else 'raw'}"])
