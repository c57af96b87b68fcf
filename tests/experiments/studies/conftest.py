"""Studies that are resolved and run in no time: a stand-in for the resolver, and one for ``lightning``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main
from experiments.studies import ablate as execution
from experiments.studies import plan

FAKE_LIGHTNING = '''
"""As `lightning fit` would: a log, a checkpoint after each epoch, a record; and faults as told by faults_ARM.json."""
import atexit, json, os, signal, sys, time
from pathlib import Path

arguments = sys.argv[1:]
option = lambda name: arguments[arguments.index(name) + 1]
arm, version = option("--run.name"), option("--run.version")
folder = Path(option("--run.folder")) / arm / version
here = Path(__file__).parent
gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
mark = here / f"running_{gpus}_{os.getpid()}"
mark.touch()
atexit.register(mark.unlink)
with (here / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps({"arm": arm, "seed": version, "arguments": arguments,
        "threads": os.environ.get("OMP_NUM_THREADS"), "gpus": gpus,
        "gpus_in_use": [path.name.split("_")[1] for path in here.glob("running_*")]}) + "\\n")
faults = here / f"faults_{arm}.json"
left = json.loads(faults.read_text()) if faults.exists() else []
fault = left.pop(0) if left else None
if fault:
    (here / f"{os.getpid()}.json").write_text(json.dumps(left))
    os.replace(here / f"{os.getpid()}.json", faults)
(folder / "config.yaml").write_text("stands for the config")
start = 1 if "--ckpt_path" in arguments else 0
print(f"trains from epoch {start}", flush=True)
record = {"finished": False, "epochs": start, "steps": 2, "seconds": 1.0, "num_classes": 10, "parameters": 1000,
    "device": "A CPU", "peak_memory_bytes": 1, "peak_memory_of": "process", "validation_images": 8,
    "metrics": {"val/top1_raw": 0.5}, "curves": {"epoch": [0]}}
if fault == "meet two others":
    until = time.monotonic() + 60
    while len((here / "calls.jsonl").read_text().splitlines()) < 3:
        if time.monotonic() > until:
            sys.exit("error: it was alone")
        time.sleep(0.01)
if fault == "fail at once":
    sys.exit("error: the data are nowhere")
(folder / "checkpoints").mkdir(exist_ok=True)
(folder / "checkpoints" / "last.ckpt").write_text("weights")
(folder / "record.json").write_text(json.dumps(record | {"epochs": 1}))
if fault == "fail":
    sys.exit("error: a step went wrong")
if fault == "full":
    sys.exit("error: [Errno 28] No space left on device")
if fault == "time is nearly up":
    os.kill(os.getpid(), signal.SIGUSR2)
if fault == "ignore Ctrl-C":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if fault in ("hang", "ignore Ctrl-C"):
    (here / "hangs").write_text(f"{os.getpid()}\\n")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (here / "interrupted").touch()
        sys.exit(130)
if fault == "unfinished":
    sys.exit(0)
(folder / "record.json").write_text(json.dumps(record | {"finished": True, "epochs": 2}))
if fault == "fail to export":
    sys.exit("error: not all files were exported")
'''


class Fake:
    """The stand-in for ``lightning`` and what it was told.

    Args:
        folder: Where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "lightning.py"
        self.script.write_text(FAKE_LIGHTNING)

    @property
    def program(self) -> tuple[str, ...]:
        return sys.executable, "-S", str(self.script)

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def started(self) -> list[tuple[str, str]]:
        return [(call["arm"], call["seed"]) for call in self.calls]

    @property
    def hanging(self) -> str:
        """Number of the process that hangs, "" before."""
        path = self.folder / "hangs"
        return path.read_text().strip() if path.exists() else ""

    def faults(self, **faults: list[str | None]) -> None:
        """Say how the first calls for each arm end."""
        for arm, ends in faults.items():
            (self.folder / f"faults_{arm}.json").write_text(json.dumps(ends))


def fake_resolve(requests: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Stand for lightning_modules.resolve: options become a config; a file "classes_N.yaml" gives classes."""
    answers = []
    for arguments in requests:
        config: dict[str, Any] = {
            "run": {"name": "x"},
            "seed_everything": 0,
            "enable": {"ema": True, "best_checkpoint": True, "export": False},
            "data": {"class_path": "Digits", "init_args": {"seed": 0}},
            "trainer": {"max_epochs": 3},
        }
        classes = 10
        for argument in arguments:
            if argument.startswith("--") and "=" in argument:
                name, value = argument[2:].split("=", 1)
                section, _, rest = name.partition(".")
                config.setdefault(section, {})[rest] = value
            elif Path(argument).stem.startswith("classes_"):
                classes = int(Path(argument).stem.removeprefix("classes_"))
        answers.append(
            {
                "config": config,
                "options": ["model.network.scan", "model.teacher"],
                "network": {"widths": [8]},
                "image_size": [64, 48],
                "num_classes": classes,
                "parameters": 1000,
                "missing_data": "the data are nowhere" if "--data.root=nowhere" in arguments else "",
            }
        )
    return answers


def fake_report(folder: Path) -> Path:
    path = folder / "report" / "report.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("tables\n")
    return path


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Replace the resolver, ``lightning`` and the report, and go to an empty folder."""
    fake = Fake(tmp_path)
    monkeypatch.setattr(plan, "resolve", fake_resolve)
    monkeypatch.setattr(execution, "lightning_program", lambda: fake.program)
    monkeypatch.setattr("experiments.studies.report.command.write_report", fake_report)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return fake


TWO_ARMS = """
base:
  configs: [base.yaml]
  overrides: {model: {teacher: null}}
compare_with: plain
arms:
  plain: {description: as it is}
  no_scan: {description: no scan, group: global part, overrides: {model.network.scan: false}}
seeds: [0, 1]
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of two arms and two seeds."""
    (tmp_path / "base.yaml").write_text("")
    path = tmp_path / "small.yaml"
    path.write_text(TWO_ARMS)
    return path


@pytest.fixture
def ablate(study: Path) -> Callable[..., int]:
    """Run the command on the study, two runs at a time."""

    def run(*options: str) -> int:
        return main(["ablate", str(study), "--devices", "cpu:2", *options])

    return run


@pytest.fixture
def folder() -> Path:
    """The study's folder, seen from where the command runs."""
    return Path("runs") / "studies" / "small"
