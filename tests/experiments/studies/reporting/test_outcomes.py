from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.studies.reporting.outcomes import read_study
from mobilemamba.errors import UserError
from tests.experiments.studies.reporting.conftest import record, write_run

ChangePlan = Callable[[Callable[[dict[str, Any]], None]], None]


def test_states_of_runs(study: Path) -> None:
    (study / "runs" / "no_scan" / "seed_1" / "record.json").unlink()
    write_run(study, "no_scan", 2, record(0.5, 0.5, finished=False))
    outcome = read_study(study)
    states = {arm.name: [(run.state, run.reason) for run in arm.runs] for arm in outcome.arms}
    assert states == {
        "base": [("finished", "")] * 3,
        "no_scan": [("finished", ""), ("unfinished", ""), ("unfinished", "2 epochs")],
        "no_ema": [("finished", ""), ("failed", "error: disk is full"), ("not started", "")],
    }


def test_a_run_that_finished_after_a_failure_has_finished(study: Path) -> None:
    write_run(study, "no_ema", 1, record(0.9, 0.9))
    assert [run.state for run in read_study(study).arms[2].runs] == ["finished", "finished", "not started"]


def test_deployed_are_averaged_weights_where_there_are(study: Path) -> None:
    base, _, no_ema = read_study(study).arms
    assert base.runs[1].deployed_top1 == pytest.approx(92.0)
    assert base.runs[1].top1("val/top1_raw") == pytest.approx(91.0)
    assert no_ema.runs[0].deployed_top1 == pytest.approx(93.0)
    assert no_ema.runs[2].deployed_top1 is None


def test_the_number_of_validation_images_is_known_where_all_runs_agree(study: Path) -> None:
    assert read_study(study).validation_images == 360
    write_run(study, "no_scan", 0, record(0.5, 0.5))
    assert read_study(study).validation_images is None


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no study's folder: it holds no plan.json"):
        read_study(tmp_path / "missing")


def test_arms_of_different_class_counts_are_refused(study: Path) -> None:
    write_run(study, "no_scan", 1, record(0.9, 0.9, num_classes=12))
    with pytest.raises(UserError, match=r"different numbers of classes \(.* 10, no_scan 12\)"):
        read_study(study)


def test_a_study_without_a_finished_run_is_refused(study: Path) -> None:
    shutil.rmtree(study / "runs" / "base")
    shutil.rmtree(study / "runs" / "no_scan")
    shutil.rmtree(study / "runs" / "no_ema" / "seed_0")
    with pytest.raises(UserError, match=r"No run in .* has finished \(.*no_ema seed 1: failed error: disk is full"):
        read_study(study)


def test_a_record_of_another_version_names_what_it_lacks(study: Path) -> None:
    content = record(0.9, 0.9)
    del content["seconds"], content["curves"]
    path = write_run(study, "base", 0, content)
    with pytest.raises(UserError, match=r"lacks seconds, curves. Delete the run's folder") as raised:
        read_study(study)
    assert str(path / "record.json") in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_damaged_record_is_refused(text: str, study: Path) -> None:
    (study / "runs" / "base" / "seed_0" / "record.json").write_text(text)
    with pytest.raises(UserError, match=r"record.json is (damaged|of another version)"):
        read_study(study)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda plan: plan.pop("seeds"), "plan.json is of another version: it lacks 'seeds'"),
        (lambda plan: plan["arms"][0].pop("network"), "lacks 'network'"),
        (lambda plan: plan["arms"][0]["network"].update(heads=3), "arm base: .*heads"),
        (lambda plan: plan["arms"][0]["network"].update(widths=[3]), "arm base: MobileMambaConfig.depths"),
        (lambda plan: plan.update(base="other"), "names 'other' as base, which is none of its arms"),
    ],
)
def test_a_plan_of_another_version_is_refused(
    edit: Callable[[dict[str, Any]], None], message: str, study: Path, change_plan: ChangePlan
) -> None:
    change_plan(edit)
    with pytest.raises(UserError, match=message):
        read_study(study)


def test_networks_have_the_classes_of_the_data(study: Path, change_plan: ChangePlan) -> None:
    change_plan(lambda plan: plan["arms"][1]["network"].update(num_classes=1000))
    assert [arm.network.num_classes for arm in read_study(study).arms] == [10, 10, 10]


def test_unknown_entries_are_no_fault(study: Path) -> None:
    write_run(study, "base", 0, record(0.9, 0.89, **json.loads('{"new": {"entry": 1}}')))
    assert read_study(study).arms[0].runs[0].deployed_top1 == pytest.approx(90.0)
