"""The ``mobilemamba`` command line: what users may write, and what they are told."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonargparse.typing import PositiveInt

from experiments import cli
from lightning_modules import function_options
from mobilemamba.errors import UserError

SEEN: list[dict[str, Any]] = []


def example(
    networks: list[str] | None = None,
    size: list[PositiveInt] | None = None,
    form: Literal["eager", "onnx"] = "eager",
    output: Path = Path("out"),
    names: tuple[str, ...] = (),
    training: bool = False,
    dynamic: bool = True,
    rate: float = 0.5,
) -> None:
    """Do something.

    Args:
        networks: Names of networks.
        size: Height and width.
        form: Form of the network.
        output: File to write.
        names: Names that look like numbers too.
        training: Whether to train.
        dynamic: Whether sizes are open.
        rate: A rate.
    """
    SEEN.append(dict(locals()))


def needs_one(study: Path, config: list[Path] | None = None) -> None:
    """Do something with one.

    Args:
        study: A file.
        config: Files of another command.
    """
    SEEN.append(dict(locals()))


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("", {"networks": None, "dynamic": True, "output": Path("out")}),
        ("a b --form onnx", {"networks": ["a", "b"], "form": "onnx"}),
        ("a --size 256 320", {"networks": ["a"], "size": [256, 320]}),
        ("--size=256 --training a", {"size": [256], "training": True, "networks": ["a"]}),
        ("--size [256,320] --rate 0.25", {"size": [256, 320], "rate": 0.25}),
        ("--names 1 --names b=2 --no-dynamic", {"names": ("1", "b=2"), "dynamic": False}),
        ("--rate -0.5 a --size 3", {"rate": -0.5, "networks": ["a"], "size": [3]}),
        ("--dynamic=false --output some/file", {"dynamic": False, "output": Path("some/file")}),
    ],
)
def test_options_may_be_written_in_every_usual_way(words: str, values: dict[str, Any]) -> None:
    function_options.run(example, words.split(), "example")
    seen = SEEN.pop()
    assert {name: seen[name] for name in values} == values


def test_options_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("rate: 0.75\nnetworks: [a, b]\n")
    function_options.run(example, ["--config", str(tmp_path / "options.yaml"), "--training"], "example")
    seen = SEEN.pop()
    assert (seen["rate"], seen["networks"], seen["training"]) == (0.75, ["a", "b"], True)


def test_a_parameter_named_config_is_the_functions_own() -> None:
    function_options.run(needs_one, ["study.yaml", "--config", "a.yaml", "--config", "b.yaml"], "example")
    assert SEEN.pop() == {"study": Path("study.yaml"), "config": [Path("a.yaml"), Path("b.yaml")]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rat 0.1", "rat"),
        ("--form fast", "form"),
        ("--size 0", "size"),
        ("--rate", "rate"),
        ("a -x", "-x"),
        ("--output -x", "output"),
        ("--no-dynamic=x", "no_dynamic"),
    ],
)
def test_what_does_not_fit_is_named(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        function_options.run(example, words.split(), "example")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not SEEN


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "study"),
        ("one.yaml two.yaml", "unrecognized arguments: two.yaml"),
        ("--study one.yaml two.yaml", "unrecognized arguments: two.yaml"),
        ("two.yaml --study=one.yaml", "unrecognized arguments: two.yaml"),
    ],
)
def test_a_required_argument_is_given_once(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        function_options.run(needs_one, words.split(), "example")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not SEEN


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_describes_every_option(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        function_options.run(example, [option], "example")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "Do something." in text
    assert "Height and width." in text
    assert "0.5" in text


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("rate = 2 must be\nless"), 1), (FileNotFoundError("x"), 1), (KeyboardInterrupt(), 130)],
)
def test_errors_for_users_are_one_line(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(function_options, "run", fail)
    assert cli.main(["match"]) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("mobilemamba match: ")


def test_a_fault_in_the_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(function_options, "run", fail)
    with pytest.raises(ValueError, match="a fault"):
        cli.main(["match"])


def test_the_overview_lists_every_command_without_importing_torch() -> None:
    code = "import sys; from experiments.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.rstrip().endswith("False")
    assert all(command in done.stdout for command in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: mobilemamba {command}" in capsys.readouterr().out
