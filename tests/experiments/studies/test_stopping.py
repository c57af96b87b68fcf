"""Runs of a study are stopped, by a signal or a failure, and what they leave is not run beside."""

from __future__ import annotations

import os
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

from experiments.studies import local
from experiments.studies.devices import make_workers
from experiments.studies.local import LocalLauncher
from experiments.studies.progress import StudyProgress
from experiments.studies.runs import Run
from experiments.studies.schedule import run_all
from lightning_modules.folder_lock import locked
from mobilemamba.errors import UserError
from tests.experiments.studies.conftest import Fake

Ablate = Callable[..., int]


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
    assert "To continue:\n  mobilemamba ablate ../small.yaml --set 'a=b c'" in captured.out
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
        expected = f"out is in use by process {killed.pid} or its children"
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
