"""Arms become whole configs, in a fixed order of what wins, and studies that compare nothing are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.studies import plan
from experiments.studies.definition import Layer, read_study
from experiments.studies.plan import differences, fit_options, make_plan
from tests.experiments.studies.conftest import Fake, fake_resolve

Ablate = Callable[..., int]


def configs_and_options(arguments: Sequence[str]) -> list[str]:
    """Return the names of the configs and the options, in their order."""
    return [Path(word).name if word.endswith(".yaml") else word for word in arguments if word != "--config"]


def test_an_arms_overrides_win_over_another_scale_which_wins_over_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sequence[str]] = []

    def resolve(requests: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        seen.extend(requests)
        return fake_resolve(requests)

    monkeypatch.setattr(plan, "resolve", resolve)
    for name in ("base", "arm", "digits"):
        (tmp_path / f"{name}.yaml").write_text("")
    path = tmp_path / "study.yaml"
    path.write_text(
        "base: {configs: [base.yaml], overrides: {a.b: 1}}\nbudget: {epochs: 9}\n"
        "arms: {x: {description: x, configs: [arm.yaml], overrides: {c.d: text, e.f: [1, null]}}}"
    )
    make_plan(read_study(path), Layer((tmp_path / "digits.yaml",), {"g.h": "5"}))
    base, arm = (configs_and_options(arguments) for arguments in seen)
    settings = fit_options(plan.SETTINGS)
    assert base == ["base.yaml", "--a.b=1", "--trainer.max_epochs=9", "digits.yaml", "--g.h=5", *settings]
    assert arm == [*base[:3], "arm.yaml", "digits.yaml", "--g.h=5", "--c.d=text", "--e.f=[1, null]", *settings]


def test_the_plan_is_written_for_the_report(ablate: Ablate, fake: Fake, folder: Path, study: Path) -> None:
    assert ablate() == 0
    content = json.loads((folder / "plan.json").read_text())
    assert content == {
        "name": "small",
        "base": "plain",
        "seeds": [0, 1],
        "arms": [
            {
                "name": "plain",
                "description": "as it is",
                "group": "",
                "configs": [],
                "overrides": {},
                "network": {"widths": [8]},
                "image_size": [64, 48],
            },
            {
                "name": "no_scan",
                "description": "no scan",
                "group": "global part",
                "configs": [],
                "overrides": {"model.network.scan": "false"},
                "network": {"widths": [8]},
                "image_size": [64, 48],
            },
        ],
    }
    given = (folder / "study.yaml").read_text()
    assert yaml.safe_load(given) == yaml.safe_load(study.read_text()) | {"name": "small"}
    arm = yaml.safe_load((folder / "configs" / "no_scan.yaml").read_text())
    assert arm["model"]["network.scan"] == "false"
    # What differs between the runs of an arm is given to each.
    assert "run" not in arm
    assert "seed_everything" not in arm
    assert "seed" not in arm["data"]["init_args"]
    assert (folder / "report").is_dir()


def refusal(capsys: pytest.CaptureFixture[str], status: int) -> str:
    assert status == 1
    message = capsys.readouterr().err
    assert message.startswith("mobilemamba ablate: error: ")
    assert message.count("\n") == 1
    return message


def change(study: Path, old: str, new: str) -> None:
    text = study.read_text()
    assert old in text
    study.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[base.yaml]", "[base.yaml, nowhere.yaml]", "nowhere.yaml must be an existing file"),
        ("overrides: {model.network.scan: false}", "overrides: {}", "arms.plain and arms.no_scan must differ"),
        (
            "overrides: {model.network",
            "configs: [classes_7.yaml], overrides: {model.network",
            "arms.no_scan has data.num_classes = 7, but arms.plain has 10",
        ),
    ],
)
def test_studies_that_compare_nothing_are_refused_before_anything_runs(
    ablate: Ablate, fake: Fake, study: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, expected: str
) -> None:
    change(study, old, new)
    (study.parent / "classes_7.yaml").write_text("")
    assert expected in refusal(capsys, ablate())
    assert not fake.calls
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--arms", "other"], "--arms other is not in the study: use some of plain, no_scan"),
        (["--seeds", "2"], "--seeds 2 is not in the study: use some of 0, 1"),
        (["--set", "data.root"], "--set data.root must be NAME=VALUE"),
        (["--set", "a=1", "--set", "a=2"], "--set gives a twice"),
        (["--set", "run.name=x"], "--set sets run.name, which the study sets"),
        (["--config", "nowhere.yaml"], "--config = nowhere.yaml must be an existing file"),
        (["--devices", "cpu:0"], "--devices cpu:0 must be"),
        (["--devices", "0,0"], "--devices 0,0 must be"),
        (["--launcher", "slurm"], "--devices and --threads are for this machine"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    ablate: Ablate, fake: Fake, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert expected in refusal(capsys, ablate(*options))
    assert not Path("runs").exists()


def test_what_the_parser_refuses_is_told_with_the_nearest_name(
    ablate: Ablate, fake: Fake, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resolve(requests: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        wrong = [any("scann=" in word or word.endswith("=7") for word in arguments) for arguments in requests]
        answers = fake_resolve(requests)
        return [{"error": "what it says"} if bad else answer for bad, answer in zip(wrong, answers, strict=True)]

    monkeypatch.setattr(plan, "resolve", resolve)
    unknown = "unknown override model.network.scann: did you mean model.network.scan?"
    assert f"The base of small is not possible: {unknown}" in refusal(capsys, ablate("--set", "model.network.scann=1"))
    assert "The base of small is not possible: what it says" in refusal(capsys, ablate("--set", "model.network.scan=7"))
    change(study, "network.scan: false", "network.scan: 7")
    assert "arms.no_scan: what it says" in refusal(capsys, ablate())
    change(study, "network.scan:", "network.scann:")
    assert f"arms.no_scan: {unknown}" in refusal(capsys, ablate())


def test_the_plan_tells_apart_arms_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: dict[str, dict[str, Any]] = {
        "small.yaml": {"teacher": None, "network": {"widths": [8, 16], "scan": True}},
        "large.yaml": {"teacher": {"name": "x", "tau": 1.0}, "network": {"widths": [8, 32], "scan": True}},
    }

    def resolve(requests: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        answers = fake_resolve(requests)
        for arguments, answer in zip(requests, answers, strict=True):
            answer["config"]["model"] = next((configs[Path(a).name] for a in arguments if Path(a).name in configs), {})
        return answers

    monkeypatch.setattr(plan, "resolve", resolve)
    for name in configs:
        (tmp_path / name).write_text("")
    path = tmp_path / "study.yaml"
    path.write_text(
        "arms: {large: {description: x, configs: [large.yaml]}, small: {description: x, configs: [small.yaml]}}\n"
        "compare_with: small"
    )
    large, small = make_plan(read_study(path), Layer()).to_json()["arms"]
    assert small["overrides"] == {}
    assert large["overrides"] == {"model.teacher.name": "x", "model.teacher.tau": 1.0, "model.network.widths": [8, 32]}


def test_runs_that_would_share_a_folder_are_refused(
    ablate: Ablate, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in plan.RUN_FOLDERS:
        message = refusal(capsys, ablate("--set", f"{option}=there"))
        assert f"arms.plain: {option} = there must be left out" in message
    assert not fake.calls


def test_missing_data_are_found_before_anything_runs(
    ablate: Ablate, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the data are nowhere" in refusal(capsys, ablate("--set", "data.root=nowhere"))
    assert not fake.calls
    assert not Path("runs").exists()
    # The arms may be looked at without them.
    assert ablate("--set", "data.root=nowhere", "--dry-run") == 0
    assert "The study cannot be run: the data are nowhere" in capsys.readouterr().out


def test_a_dry_run_shows_the_arms_and_leaves_nothing(
    ablate: Ablate, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("--dry-run") == 0
    shown = capsys.readouterr().out
    assert "| plain *" in shown
    assert "model.network.scan=false" in shown
    assert "4 runs, of which 0 are finished" in shown
    assert not fake.calls
    assert not Path("runs").exists()


def test_differences_name_what_changed() -> None:
    before: Mapping[str, Any] = {"a": {"b": 1, "c": None}, "d": [1]}
    after = {"a": {"b": 2}, "d": [1], "e": False}
    assert differences(before, after) == {"a.b": (1, 2), "a.c": (None, None), "e": (None, False)}
    assert differences(before, before) == {}
