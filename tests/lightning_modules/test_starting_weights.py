"""Runs and evaluations that begin from weights, by the command and by the module."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from safetensors.torch import save_file

from datamodules import DigitsDataModule
from lightning_modules.classification import ImageClassification
from lightning_modules.cli import main
from lightning_modules.starting_weights import check_class_names, follow_weights
from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata, UserError
from tests.lightning_modules.conftest import Failure
from tests.lightning_modules.tiny_data import TinyData
from tests.mobilemamba.conftest import randomise

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def weights(tmp_path: Path, tiny: MobileMambaConfig) -> str:
    """A folder in timm's form with a small network of four classes."""
    network = MobileMamba(tiny)
    randomise(network)
    folder = tmp_path / "published"
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    metadata = ModelMetadata(image_size=(64, 64), class_names=TinyData().metadata().class_names)
    arguments = asdict(replace(tiny, num_classes=1000))
    del arguments["num_classes"]
    description = {"architecture": "mobilemamba_s6", "num_classes": 4, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps({**description, "mobilemamba": metadata.to_dict()}))
    return f"local-dir:{folder}"


def test_a_new_head_is_said_and_all_else_begins_from_the_weights(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    module = ImageClassification(replace(tiny, num_classes=3), weights=weights)
    source = ImageClassification(tiny, weights=weights)
    for name, value in source.student.state_dict().items():
        assert name.startswith("head.") or torch.equal(module.student.state_dict()[name], value), name
    data = TinyData(num_classes=3)
    with pytest.raises(UserError, match=r"model\.weights = .* no classifier of the data's 3 classes"):
        make_trainer().validate(module, data)
    make_trainer(max_epochs=0).fit(module, datamodule=data)
    assert caplog.text.count("the classifier is new") == 1


def test_weights_of_another_network_are_refused_with_both_sides(tiny: MobileMambaConfig, weights: str) -> None:
    with pytest.raises(UserError, match=r"(?s)local-dir.*other shapes \(.*stages\.2.*file \(32,.*model \(48,"):
        ImageClassification(replace(tiny, widths=(16, 32, 48)), weights=weights)
    with pytest.raises(UserError, match=r"(?s)other shapes \(1\): stem\.0\.conv\.weight"):
        ImageClassification(replace(tiny, in_chans=1), weights=weights)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
@pytest.mark.parametrize(("part", "trained"), [("stem", "stages.0"), ("stages.1", "stages.2"), ("backbone", "head")])
def test_a_frozen_part_stays_as_it_is_and_the_rest_learns(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, weights: str, part: str, trained: str
) -> None:
    module = ImageClassification(tiny, weights=weights, freeze=part)
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    make_trainer().fit(module, datamodule=TinyData())
    changed = {name for name, value in module.student.state_dict().items() if not torch.equal(value, before[name])}
    order = ["stem", "stages.0", "stages.1", "stages.2", "head"]
    parts = {next(p for p in order if name.startswith(p)) for name in changed}
    assert parts == set(order[order.index(trained) :])


def test_an_unknown_part_to_freeze_is_refused(tiny: MobileMambaConfig) -> None:
    with pytest.raises(UserError, match=r"model\.freeze = 'head' must be one of stem, stages\.0, .*, backbone"):
        ImageClassification(tiny, freeze="head")


def test_other_class_names_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"different names: cat / tench, Tinca tinca \(data / weights\)"):
        check_class_names(("cat", "dog"), ("n01440764", "dog"))
    check_class_names(("n01440764", "dog"), ("tench, Tinca tinca", "dog"))
    check_class_names(("cat",), ("a", "b"))


def test_defaults_follow_the_weights_and_given_options_do_not() -> None:
    trained = ModelMetadata(image_size=(96, 96), mean=(0.1, 0.2, 0.3), crop_pct=0.9)
    data = DigitsDataModule(crop_pct=0.8)
    follow_weights(data, trained, is_evaluation=False)
    assert (data.mean, data.crop_pct, data.image_size) == (trained.mean, 0.8, 64)
    follow_weights(data, trained, is_evaluation=True)
    assert data.image_size == 96
    data = DigitsDataModule(override_preprocessing=True)
    follow_weights(data, trained, is_evaluation=True)
    assert data.image_size == 64


def test_the_command_begins_from_a_run_goes_on_and_evaluates(small_run: list[str], failure: Failure) -> None:
    folder = Path(next(o for o in small_run if o.startswith("--run.folder=")).partition("=")[2])
    quick = ["--enable.export=false", "--trainer.limit_train_batches=1"]
    main(["fit", *small_run, *quick])
    first = folder / "small" / "version_0" / "checkpoints" / "last.ckpt"
    begun = ["--model.weights", str(first), "--model.freeze", "backbone"]
    main(["fit", *small_run, *quick, *begun])
    second = folder / "small" / "version_1"
    content = torch.load(second / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["mobilemamba"]["started_from"] == str(first)
    raw = {key: value for key, value in content["current_model_state"].items() if "stages" in key}
    source = torch.load(first, weights_only=True)["state_dict"]
    assert all(torch.equal(value, source[key]) for key, value in raw.items())

    # The run goes on with its own config, which names the weights, even where those are gone.
    first.unlink()
    config = ["--config", str(second / "config.yaml"), "--ckpt_path", str(second / "checkpoints" / "last.ckpt")]
    main(["fit", *config, "--trainer.max_epochs=2"])
    assert yaml.safe_load((second / "config.yaml").read_text())["model"]["weights"] == str(first)

    # Both ways to name weights evaluate the same ones.
    results = {}
    for name, options in (("checkpoint", config), ("weights", [*small_run, "--model.weights", config[-1]])):
        written = second / f"{name}.csv"
        main(["predict", *options, "--predictions.path", str(written)])
        results[name] = written.read_text()
    assert results["checkpoint"] == results["weights"]
    status, message = failure(["test", *small_run, *config[2:], "--model.weights", "published"])
    assert status == 1
    assert "model.weights = 'published' and --ckpt_path" in message


def test_evaluation_without_weights_and_unknown_sources_are_one_line(small_run: list[str], failure: Failure) -> None:
    status, message = failure(["validate", *small_run])
    assert (status, message.count("\n")) == (1, 1)
    assert "lightning validate needs weights: give --ckpt_path runs/.../best.ckpt, or --model.weights" in message
    status, message = failure(["fit", *small_run, "--model.weights", "raw"])
    assert (status, message.count("\n")) == (1, 1)
    assert "Weights raw must be 'published'" in message
