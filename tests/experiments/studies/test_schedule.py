"""Runs are run, skipped, continued, tried again, given up or stopped; none takes another with it."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from experiments.studies import local, runs
from experiments.studies.devices import make_workers
from experiments.studies.local import LocalLauncher
from experiments.studies.progress import StudyProgress
from experiments.studies.runs import Run
from experiments.studies.schedule import run_all
from lightning_modules.folder_lock import locked
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
    assert "is tried once more: a step went wrong" in capsys.readouterr().out


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
        (["full"], 0, "is tried once more: [Errno 28] No space left on device"),  # another disk is full
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
    assert "seed_0 is full, all runs were stopped: make room" in message
    assert "goes on from its last whole checkpoint" in message
    # Once there is room, what the log says of that time is of no account.
    fake.faults(plain=["fail"], no_scan=[])
    assert ablate() == 0


def test_runs_are_stopped_where_a_later_start_fails(fake: Fake, tmp_path: Path) -> None:
    fake.faults(a=["hang"])
    first, second, third = (
        Run("a", seed, tmp_path / "runs" / "a" / f"seed_{seed}", tmp_path / "a.yaml") for seed in (0, 1, 2)
    )

    class Launcher(LocalLauncher):
        def submit(self, runs: Sequence[Run], started: Callable[[Run, str], None]) -> list[Future[int]]:
            jobs = super().submit([first], started)
            while not fake.hanging:
                time.sleep(0.02)
            # The log of the second cannot be written.
            second.folder.mkdir(parents=True)
            (second.folder / "checkpoints").mkdir()
            (second.folder / "checkpoints" / "last.ckpt").touch()
            (second.folder / "fit.log").mkdir()
            return jobs + super().submit([second, third], started)

    with pytest.raises(IsADirectoryError):
        run_all([first, second, third], Launcher(make_workers("cpu:2"), fake.program), StudyProgress(3, 2, Console()))
    assert (fake.folder / "interrupted").exists()


def test_a_run_that_does_not_stop_is_killed(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "STOP_SECONDS", 0.2)
    fake.faults(a=["ignore Ctrl-C"])
    launcher = LocalLauncher(make_workers("cpu"), fake.program)
    run = Run("a", 0, tmp_path / "runs" / "a" / "seed_0", tmp_path / "a.yaml")
    (job,) = launcher.submit([run], lambda run, place: None)
    while not fake.hanging:
        time.sleep(0.02)
    launcher.stop()
    assert job.result() == -signal.SIGKILL


def test_a_hangup_that_is_ignored_stays_so(ablate: Ablate, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = LocalLauncher.submit

    def hang_up(self: LocalLauncher, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        return submit(self, *arguments)

    monkeypatch.setattr(LocalLauncher, "submit", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ablate("--seeds", "0", "--arms", "plain") == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_stops_all_runs_and_says_how_to_go_on(
    ablate: Ablate,
    fake: Fake,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    number: signal.Signals,
) -> None:
    if number == signal.SIGHUP:  # ignored where these tests run under nohup; a study would ignore it, too
        previous = signal.signal(number, signal.SIG_DFL)
        request.addfinalizer(lambda: signal.signal(number, previous))
    fake.faults(plain=["hang"])
    command = ["mobilemamba", "ablate", "../small.yaml", "--set", "a=b c"]
    monkeypatch.setattr(sys, "argv", command)

    def press() -> None:
        while not fake.hanging:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = Thread(target=press)
    thread.start()
    assert ablate("--seeds", "0", "--arms", "plain") == 130
    thread.join()
    assert (fake.folder / "interrupted").exists()
    captured = capsys.readouterr()
    assert "To go on:\n  mobilemamba ablate ../small.yaml --set 'a=b c'" in captured.out
    assert ablate("--seeds", "0", "--arms", "plain") == 0
    assert fake.calls[-1]["arguments"][-4] == "--ckpt_path"


def test_a_killed_study_is_not_run_beside_the_runs_it_left(fake: Fake, tmp_path: Path, study: Path) -> None:
    fake.faults(plain=["hang"])
    script = (
        "import sys; from pathlib import Path; from experiments.studies import ablate as execution, plan\n"
        "from experiments.cli import main; from tests.experiments.studies.conftest import fake_resolve\n"
        "plan.resolve = fake_resolve\n"
        f"execution.lightning_program = lambda: {fake.program!r}\n"
        f"sys.exit(main(['ablate', {str(study)!r}, '--arms', 'plain', '--seeds', '0', '--output', 'out']))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])}
    killed = subprocess.Popen([sys.executable, "-c", script], env=environment)
    while not fake.hanging:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    try:
        expected = f"out is in use by process {killed.pid} or one that it started"
        with pytest.raises(UserError, match=expected), locked(Path("out"), "--output"):
            pass
    finally:
        os.kill(int(fake.hanging), signal.SIGINT)
    while True:
        try:
            with locked(Path("out"), "--output"):
                break
        except UserError:
            time.sleep(0.05)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    if number == errno.EIO:
        with pytest.raises(OSError, match="error"), locked(tmp_path, "--output"):
            pass
        return
    with locked(tmp_path, "--output"):
        pass
    assert "knows no locks" in capsys.readouterr().err


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
