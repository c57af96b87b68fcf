"""What command lines mean is answered without running them, and mistakes are answers too."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union, get_args

import pytest
import yaml
from lightning.pytorch import Callback, Trainer

from datamodules.likeliest_classes import make_rows
from datamodules.stored_teacher import StoredTeacher
from lightning_modules.cli import main
from lightning_modules.parser import Parser
from lightning_modules.resolve import FitParser
from mobilemamba import MobileMamba, MobileMambaConfig

ROOT = Path(__file__).parents[2]
QUICKSTART = ["--config", str(ROOT / "experiments" / "quickstart.yaml")]

pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")


@pytest.fixture(autouse=True)
def no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning"])


@pytest.fixture(scope="module")
def parser() -> FitParser:
    return FitParser()


def test_an_answer_is_what_print_config_shows(
    parser: FitParser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*QUICKSTART, "--data.image_size", "96"]
    arguments += ["--model.optimizer.reference_batch_size", "null", "--model.network.scan=false"]
    answer = parser.resolve(arguments)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", *arguments, "--print_config"])
    assert answer["config"] == yaml.safe_load(capsys.readouterr().out)
    expected = MobileMambaConfig(num_classes=10, stem_stride=8, widths=(32, 48, 64), depths=(1, 1, 1), scan=False)
    assert MobileMambaConfig(**answer["network"]) == expected
    assert (answer["image_size"], answer["num_classes"]) == ([96, 96], 10)
    assert answer["parameters"] == sum(parameter.numel() for parameter in MobileMamba(expected).parameters())


def test_an_answer_is_a_config_that_means_the_same(parser: FitParser, tmp_path: Path) -> None:
    answer = parser.resolve([*QUICKSTART, "--model.teacher=null", "--model.network.drop_path_rate=0.1"])
    path = tmp_path / "whole.yaml"
    path.write_text(yaml.safe_dump(answer["config"]))
    assert parser.resolve(["--config", str(path)]) == answer


@pytest.mark.parametrize(
    "option", ["limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval"]
)
def test_one_batch_stays_one_whatever_was_imported_before(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As Python makes it where another module has named the types in this order.
    hint = Union[(float, int, *get_args(Trainer.__init__.__annotations__[option]))]
    monkeypatch.setitem(inspect.unwrap(Trainer.__init__).__annotations__, option, hint)
    parser = FitParser()
    answers = [parser.resolve([*QUICKSTART, f"--trainer.{option}", value]) for value in ("1", "1.0", "0.5")]
    assert [repr(answer["config"]["trainer"][option]) for answer in answers] == ["1", "1.0", "0.5"]


def test_types_other_than_unions_stay_as_they_are() -> None:
    class WithoutOptions(Callback):
        pass

    class WithOptions(Callback):
        def __init__(self, table: Any = None, pair: Any = None, function: Any = None) -> None:
            super().__init__()

    kinds = {"table": dict[int, float], "pair": tuple[float, int], "function": Callable[[int], float]}
    WithOptions.__init__.__annotations__.update(kinds)
    for callback in (WithoutOptions, WithOptions):
        Parser().add_lightning_class_args(callback, "callback")
    assert kinds.items() <= WithOptions.__init__.__annotations__.items()


def test_an_answer_names_all_options(parser: FitParser) -> None:
    options = parser.resolve([*QUICKSTART, "--model.teacher", "null"])["options"]
    for name in ("model.network.scan", "data.batch_size", "data.init_args.batch_size", "model.teacher.checkpoint"):
        assert name in options
        assert parser.resolve([*QUICKSTART, f"--{name}=1"]).get("error", "").count("unrecognized") == 0
    assert "model.network.scann" not in options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model.network.scann=false"], "unrecognized arguments: --model.network.scann=false"),
        (["--model.network.wid=[1]"], "model.network.wid"),  # no abbreviations
        (["--model.network.scan=maybe"], "model.network.scan"),
        (["--model.network.scan=false", "--model.network.wavelet_levels=0"], "MobileMambaConfig.scan = "),
        (["--data.image_size=16"], "image size 16x16 is too small"),
        (["--ema.decay=2"], "ema.decay = 2.0 must be"),
        (["--data.seed=-1"], "data.seed = -1 must be"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_mistakes_are_answers_too(parser: FitParser, options: list[str], expected: str) -> None:
    assert expected in parser.resolve([*QUICKSTART, *options])["error"]


def test_data_that_are_missing_are_named(parser: FitParser, tmp_path: Path) -> None:
    assert parser.resolve(QUICKSTART)["missing_data"] == ""
    arguments = ["--config", str(ROOT / "experiments" / "t2.yaml"), "--data.root", str(tmp_path)]
    for split in ("train", "val"):
        assert f"no class folders in {tmp_path / split}" in parser.resolve(arguments)["missing_data"]
        (tmp_path / split / "ant").mkdir(parents=True)
    assert parser.resolve(arguments)["missing_data"] == ""


def test_a_stored_teacher_that_is_missing_or_unfinished_is_named(parser: FitParser, tmp_path: Path) -> None:
    arguments = [*QUICKSTART, f"--model.teacher.stored={tmp_path}"]
    assert (
        f"{tmp_path} must be a folder that mobilemamba store-teacher has written"
        in parser.resolve(arguments)["missing_data"]
    )
    fingerprint: dict[str, dict[str, object]] = {"data": {}, "teacher": {}, "augmentation": {"seed": 0}}
    store = StoredTeacher.create(tmp_path, fingerprint, 2, 10, 3)
    store.want(1)
    assert "has 0 of 1 views" in parser.resolve(arguments)["missing_data"]
    store.add(0, make_rows(store.row_type, 2))
    assert parser.resolve(arguments)["missing_data"] == ""


def test_classes_are_counted_before_the_network_is_built(parser: FitParser, tmp_path: Path) -> None:
    arguments = ["--data", "ImageNetDataModule", "--data.root", str(tmp_path), "--data.num_classes", "null"]
    arguments += ["--data.validation_share", "0.2", "--model.network.widths", "[16,32,32]"]
    assert "no folders of classes" in parser.resolve(arguments)["error"]
    for name in ("ant", "bee", "cow"):
        (tmp_path / name).mkdir()
    answer = parser.resolve(arguments)
    assert (answer["num_classes"], answer["network"]["num_classes"], answer["missing_data"]) == (3, 3, "")


def test_many_requests_are_answered_by_one_parser(parser: FitParser) -> None:
    assert parser.resolve([*QUICKSTART, "--trainer.max_epochs=3"])["config"]["trainer"]["max_epochs"] == 3
    assert "no data are named" in parser.resolve([])["error"]
