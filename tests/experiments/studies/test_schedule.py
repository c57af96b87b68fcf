"""Runs are run, skipped, continued, tried again or given up; none takes another with it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.studies import runs
from mobilemamba.errors import UserError
from tests.experiments.studies.conftest import Fake
from tests.experiments.studies.report.conftest import record

Ablate = Callable[..., int]


def test_every_arm_is_run_with_every_seed_once(
    ablate: Ablate, fake: Fake, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("--arms", "plain", "--seeds", "1") == 0
    assert fake.started == [("plain", "seed_1")]
    assert ablate() == 0
    assert sorted(fake.started) == [(arm, seed) for arm in ("no_scan", "plain") for seed in ("seed_0", "seed_1")]
    for call in fake.calls:
        arguments, seed = call["arguments"], call["seed"].removeprefix("seed_")
        assert arguments == [
            *["fit", "--config", str(folder / "configs" / f"{call['arm']}.yaml")],
            *["--seed_everything", seed, "--data.seed", seed],
            *["--run.folder", str(folder / "runs"), "--run.name", call["arm"], "--run.version", f"seed_{seed}"],
            *["--trainer.accelerator", "cpu"],
        ]
        assert call["gpus"] == ""
        command, output = (folder / "runs" / call["arm"] / call["seed"] / "fit.log").read_text().splitlines()
        assert command == f"$ {shlex.join([*fake.program, *arguments])}"
        assert output == "trains from epoch 0"
    shown = capsys.readouterr().out
    assert shown.count(": finished in 0:00:0") == 4
    assert "plain, seed 1: skipped, it is finished" in shown
    assert "[4/4] " in shown
    assert "top-1 50.00%" in shown


def test_a_failed_run_goes_on_once_from_its_checkpoint(
    ablate: Ablate, fake: Fake, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.faults(plain=["fail"])
    assert ablate("--seeds", "0") == 0
    assert sorted(fake.started) == [("no_scan", "seed_0"), ("plain", "seed_0"), ("plain", "seed_0")]
    run = folder / "runs" / "plain" / "seed_0"
    again = [call for call in fake.calls if call["arm"] == "plain"][1]
    assert again["arguments"][-4:-2] == ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert [line for line in (run / "fit.log").read_text().splitlines() if not line.startswith("$ ")] == [
        "trains from epoch 0",
        "error: a step went wrong",
        "trains from epoch 1",
    ]
    assert not (run / "failure.txt").exists()
    assert "will be tried again: a step went wrong" in capsys.readouterr().out


def test_a_run_that_fails_twice_is_reported_and_the_others_are_kept(
    ablate: Ablate, fake: Fake, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.faults(plain=["fail at once", "fail at once"])
    assert ablate("--seeds", "0") == 1
    failure = folder / "runs" / "plain" / "seed_0" / "failure.txt"
    assert failure.read_text().splitlines()[:2] == [
        "plain, seed 0 failed 2 times, the last time with status 1.",
        "the data are nowhere",
    ]
    captured = capsys.readouterr()
    assert "1 of 2 runs failed twice (plain, seed 0: the data are nowhere)" in captured.err
    assert "no_scan, seed 0: finished" in captured.out
    assert (folder / "report").is_dir()
    # It begins anew, since there is no checkpoint, and the failure is forgotten once it has not failed.
    assert ablate("--seeds", "0") == 0
    assert fake.started.count(("plain", "seed_0")) == 3
    assert fake.started.count(("no_scan", "seed_0")) == 1
    assert not failure.exists()


def test_failed_runs_are_listed_even_if_the_report_fails(
    ablate: Ablate, fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_report(folder: Path) -> None:
        raise UserError("it cannot be written")

    monkeypatch.setattr("experiments.studies.report.command.write_report", write_report)
    fake.faults(plain=["fail at once", "fail at once"])
    assert ablate("--seeds", "0") == 1
    message = capsys.readouterr().err
    assert "1 of 2 runs failed twice (plain, seed 0: the data are nowhere)" in message
    assert "ablate: error: it cannot be written" in message


@pytest.mark.parametrize(
    ("faults", "status", "expected"),
    [
        (["unfinished", "unfinished"], 1, "FAILED AGAIN"),  # fit has ended well without having finished
        (["fail to export"], 0, "top-1 50.00%, but then failed with status 1: not all files were exported"),
        (["full"], 0, "will be tried again: [Errno 28] No space left on device"),  # another disk is full
    ],
)
def test_how_a_run_has_ended(
    ablate: Ablate,
    fake: Fake,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    faults: list[str | None],
    status: int,
    expected: str,
) -> None:
    set_free_space(monkeypatch, 10**10)
    fake.faults(plain=faults)
    assert ablate("--seeds", "0", "--arms", "plain") == status
    assert expected in capsys.readouterr().out
    assert (folder / "runs" / "plain" / "seed_0" / "failure.txt").exists() == (status == 1)
    assert (folder / "report").exists() == (status == 0)
    assert len(fake.started) == (1 if expected.startswith("top-1") else 2)


def test_what_an_interrupted_run_left_is_cleared_where_it_cannot_go_on(
    ablate: Ablate, fake: Fake, folder: Path
) -> None:
    run = folder / "runs" / "plain" / "seed_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "record.json").write_text(json.dumps(record(None, None, finished=False, epochs=1)))
    (run / "events.out").write_text("half an epoch")
    assert ablate("--seeds", "0", "--arms", "plain") == 0
    assert "--ckpt_path" not in fake.calls[0]["arguments"]
    assert not (run / "events.out").exists()


def set_free_space(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    class Usage:
        free = size

    monkeypatch.setattr(runs.shutil, "disk_usage", lambda path: Usage)


def test_a_full_disk_stops_all_and_is_said_clearly(
    ablate: Ablate, fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free_space(monkeypatch, 10**8)
    fake.faults(plain=["full"], no_scan=["hang"])
    begun = time.monotonic()
    assert ablate() == 1
    assert time.monotonic() - begun < 20
    assert (fake.folder / "interrupted").exists()
    message = capsys.readouterr().err
    assert "seed_0 is full, and all runs were stopped: free some space" in message
    assert "resumes from its last checkpoint" in message
    # Once there is room, what the log says of that time is of no account.
    fake.faults(plain=["fail"], no_scan=[])
    assert ablate() == 0


def test_a_changed_arm_is_refused_with_what_changed(
    ablate: Ablate, fake: Fake, folder: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("--arms", "plain") == 0
    text = study.read_text()
    # An arm that was never run may change.
    study.write_text(text.replace("model.network.scan: false", "model.network.state_size: 4"))
    assert ablate("--arms", "plain") == 0
    study.write_text(text.replace("model: {teacher: null}", "model: {teacher: yes}"))
    assert ablate("--arms", "plain") == 1
    message = capsys.readouterr().err
    assert "arms.plain has changed since its runs in" in message
    assert "model.teacher was 'null' and is 'true'" in message
    assert "Choose another --output" in message
    assert len(fake.calls) == 2
    assert "model.teacher: 'null'" not in (folder / "plan.json").read_text()
    assert "teacher: 'null'" in (folder / "configs" / "plain.yaml").read_text()


def test_runs_share_the_cores_and_take_turns(ablate: Ablate, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.studies.devices.available_cores", lambda: 12)
    fake.faults(plain=["meet two others"] * 2, no_scan=["meet two others"])
    assert ablate("--devices", "cpu:3") == 0
    assert {call["threads"] for call in fake.calls} == {"4"}
    assert max(len(call["gpus_in_use"]) for call in fake.calls) == 3
    assert len(fake.calls) == 4


def test_a_gpu_is_used_by_one_run_at_a_time(ablate: Ablate, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert ablate("--devices", "0,1") == 0
    assert {call["gpus"] for call in fake.calls} == {"0", "1"}
    assert all(len(set(call["gpus_in_use"])) == len(call["gpus_in_use"]) for call in fake.calls)
