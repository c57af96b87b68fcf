"""Networks, data and checkpoints that do not belong together are refused before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule, Trainer

from lightning_modules.classification import ImageClassification
from lightning_modules.teacher import TeacherConfig
from mobilemamba import MobileMambaConfig
from mobilemamba.errors import UserError
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


def test_a_checkpoint_of_another_network_or_of_other_images_is_refused(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, tmp_path: Path
) -> None:
    class Unnamed(TinyData):
        def metadata(self) -> Any:
            return type(super().metadata())(image_size=(64, 64), mean=(0.5,) * 3)

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
    # Images that are prepared in another way are refused, or what the weights were trained on wins.
    data, module = Unnamed(), ImageClassification(tiny)
    message = r"data\.mean = \(0\.5.*, the weights expect \(0\.485.*override_preprocessing"
    with pytest.raises(UserError, match=message):
        make_trainer().predict(module, data, ckpt_path=path)
    data.override_preprocessing = True  # type: ignore[attr-defined]
    make_trainer().predict(module, data, ckpt_path=path)
    assert module.metadata == tiny_data.metadata()


def test_other_peoples_checkpoints_are_refused(tiny: MobileMambaConfig) -> None:
    with pytest.raises(UserError, match=r"not a training checkpoint of this project: it holds \['net'\]"):
        ImageClassification(tiny).on_load_checkpoint({"net": {}})
    with pytest.raises(UserError, match="does not know: \\['colour'\\]"):
        ImageClassification(tiny).on_load_checkpoint({"mobilemamba": {"config": {"colour": 1}, "metadata": {}}})


@pytest.mark.parametrize(
    ("config", "data", "options", "message"),
    [
        ({}, TinyData(num_classes=3), {}, r"model\.network\.num_classes = 4, but the data have 3 classes"),
        ({}, TinyData(image_size=32), {}, r"image size 32x32 is too small: .* at least 64 pixels"),
        ({"in_chans": 1}, TinyData(), {}, r"in_chans = 1, but the data's images have 3 channels"),
        ({}, TinyData(), {"teacher": TeacherConfig("test_resnet", pretrained=False)}, "teacher has 1000 classes"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_training(
    make_trainer: MakeTrainer, config: dict[str, Any], data: TinyData, options: dict[str, Any], message: str
) -> None:
    network = MobileMambaConfig(num_classes=4, widths=(16, 32, 32), depths=(1, 1, 1), **config)
    with pytest.raises(UserError, match=message):
        make_trainer().fit(ImageClassification(network, **options), datamodule=data)


def test_a_datamodule_that_says_nothing_about_classes_is_refused(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig
) -> None:
    with pytest.raises(TypeError, match=r"datamodule is LightningDataModule: .* such as datamodules\.ImageNet"):
        make_trainer().validate(ImageClassification(tiny), LightningDataModule())


def test_a_network_without_classifier_and_saving_without_data_are_refused(tiny: MobileMambaConfig) -> None:
    with pytest.raises(UserError, match=r"num_classes = 0"):
        ImageClassification(MobileMambaConfig(num_classes=0))
    with pytest.raises(RuntimeError, match="attach a datamodule"):
        ImageClassification(tiny).on_save_checkpoint({})
