from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.studies.report.results import read_results
from mobilemamba.errors import UserError
from tests.experiments.studies.report.conftest import record, write_run

ChangePlan = Callable[[Callable[[dict[str, Any]], None]], None]


def test_the_table_of_runs(study: Path) -> None:
    (study / "runs" / "no_scan" / "seed_1" / "record.json").unlink()
    write_run(study, "no_scan", 2, record(0.5, 0.5, finished=False))
    write_run(study, "base", 2, record(None, None, unknown={"entry": 1}))
    runs = read_results(study).runs.set_index(["arm", "seed"])
    assert {run: (row.state, row.remark) for run, row in runs.iterrows()} == {
        ("base", 0): ("finished", ""),
        ("base", 1): ("finished", ""),
        ("base", 2): ("finished", "seed 2 finished without a finite accuracy"),
        ("no_scan", 0): ("finished", ""),
        ("no_scan", 1): ("unfinished", "seed 1 unfinished"),
        ("no_scan", 2): ("unfinished", "seed 2 unfinished: 2 epochs"),
        ("no_ema", 0): ("finished", ""),
        ("no_ema", 1): ("failed", "seed 1 failed: error: disk is full"),
        ("no_ema", 2): ("not started", "seed 2 not started"),
    }
    # Deployed are averaged weights where there are any; runs that have not finished have no figures.
    assert runs.loc[("base", 1), ["top1_ema", "top1_raw", "top1"]].tolist() == pytest.approx([92.0, 91.0, 92.0])
    assert runs.loc[("no_ema", 0), "top1"] == pytest.approx(93.0)
    assert runs.loc[[("no_scan", 2), ("no_ema", 2)], ["top1", "minutes"]].isna().all(axis=None)


def test_a_run_that_finished_after_a_failure_has_finished(study: Path) -> None:
    write_run(study, "no_ema", 1, record(0.9, 0.9))
    assert read_results(study).runs["state"].tolist()[-3:] == ["finished", "finished", "not started"]


def test_the_number_of_validation_images_is_known_where_all_runs_agree(study: Path) -> None:
    assert read_results(study).validation_images == 360
    for images in (None, 361):
        write_run(study, "no_scan", 0, record(0.5, 0.5, validation_images=images))
        assert read_results(study).validation_images is None


def test_networks_have_the_classes_of_the_data(study: Path, change_plan: ChangePlan) -> None:
    change_plan(lambda plan: plan["arms"][1]["network"].update(num_classes=1000))
    assert [arm.network.num_classes for arm in read_results(study).arms] == [10, 10, 10]


def test_what_cannot_be_compared_is_refused(study: Path) -> None:
    with pytest.raises(UserError, match=r"must be a study's folder: it has no plan.json"):
        read_results(study / "missing")
    write_run(study, "no_scan", 1, record(0.9, 0.9, num_classes=12))
    with pytest.raises(UserError, match=r"different numbers of classes \(base 10, no_scan 12\)"):
        read_results(study)
    shutil.rmtree(study / "runs" / "base")
    shutil.rmtree(study / "runs" / "no_scan")
    shutil.rmtree(study / "runs" / "no_ema" / "seed_0")
    with pytest.raises(UserError, match=r"No run in .* has finished \(.*no_ema, seed 1 failed: error: disk is full"):
        read_results(study)


def test_a_record_of_another_version_or_a_damaged_one_is_refused(study: Path) -> None:
    content = record(0.9, 0.9)
    del content["seconds"], content["curves"]
    path = write_run(study, "base", 0, content) / "record.json"
    with pytest.raises(UserError, match=r"lacks seconds, curves. Delete the run's folder") as raised:
        read_results(study)
    assert str(path) in str(raised.value)
    for text in ("{", "[]"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"record.json is (damaged|of another version)"):
            read_results(study)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda plan: plan.pop("seeds"), "plan.json is of another version: it lacks 'seeds'"),
        (lambda plan: plan["arms"][0].pop("network"), "lacks 'network'"),
        (lambda plan: plan["arms"][0]["network"].update(heads=3), "arm base: .*heads"),
        (lambda plan: plan["arms"][0]["network"].update(widths=[3]), "arm base: MobileMambaConfig.depths"),
        (lambda plan: plan.update(base="other"), "base = 'other' must be one of its arms"),
    ],
)
def test_a_plan_of_another_version_is_refused(
    edit: Callable[[dict[str, Any]], None], message: str, study: Path, change_plan: ChangePlan
) -> None:
    change_plan(edit)
    with pytest.raises(UserError, match=message):
        read_results(study)
