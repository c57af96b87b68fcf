"""The command for GPU machines, as far as a machine without one can run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.__main__ import COMMANDS
from benchmarks.gpu import PARTS, Part, as_markdown, missing_requirements, run
from lightning_modules.function_options import run_command


def test_all_parts_together_take_less_than_nine_minutes() -> None:
    assert sum(part.limit for part in PARTS) < 540


def test_what_is_missing_is_listed_as_pip_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_requirements() == []
    monkeypatch.setattr(gpu, "TEST_TOOLS", ("nowhere-to-be-found[extra]>=8",))
    assert missing_requirements() == ["nowhere-to-be-found[extra]>=8"]


def test_it_says_so_where_nothing_is_installed() -> None:
    # -S: without site-packages. It has to run where the project does not.
    command = [sys.executable, "-S", "-m", "benchmarks.gpu", "--requirements"]
    listed = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "timm>=1.0.26" in listed


def test_a_part_that_fails_or_takes_too_long_leaves_the_others(tmp_path: Path) -> None:
    good = "import json, sys; print('| a |'); json.dump({'x': 1}, open(sys.argv[1], 'w'))"
    names = [part.name for part in PARTS]
    outcomes = [
        run(Part(names[0], "", ("-c", good, "{}"), 60), tmp_path),
        run(Part(names[1], "", ("-c", "raise ValueError('broken')"), 60), tmp_path),
        run(Part(names[2], "", ("-c", "import time; time.sleep(60)"), 1), tmp_path),
    ]
    assert [one.status for one in outcomes] == [0, 1, None]
    assert outcomes[0].results == {"x": 1}
    text = as_markdown({"device": "Some GPU", "torch": "2"}, outcomes)
    assert text.startswith("# Some GPU\n\ntorch 2\n")
    assert "| a |" in text
    assert "ValueError: broken" in text
    assert "stopped at its time limit" in text


def test_every_command_parses(capsys: pytest.CaptureFixture[str]) -> None:
    for part in PARTS[1:]:
        _, _, command, *words = part.command
        options = [word.strip("-").replace("-", "_") for word in words if word.startswith("--")]
        with pytest.raises(SystemExit, match="0"):
            run_command("python -m benchmarks", COMMANDS, [command, "--help"])
        shown = capsys.readouterr().out
        assert all(f"--{option}" in shown for option in options), (part.name, options)


def test_it_ends_with_an_error_without_a_device() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=gpu.ROOT, capture_output=True, text=True, check=False
    )
    if ended.returncode == 0:
        pytest.skip("there is a device")
    assert ended.stderr.startswith("error: no CUDA device")
