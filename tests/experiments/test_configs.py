"""Every config under experiments/ is what its head says: its command parses, means the paper's row, and trains."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.cli import main
from lightning_modules.teacher import RECIPE_TEACHER
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.variants import VARIANTS
from tests.datamodules.conftest import save_image
from tests.experiments.conftest import ROOT

EXPERIMENTS = ROOT / "experiments"
FILES = {str(path.relative_to(EXPERIMENTS)): path for path in sorted(EXPERIMENTS.rglob("*.yaml"))}
STUDIES = [name for name, path in FILES.items() if "arms" in yaml.safe_load(path.read_text())]
"""Files of another kind, which test_studies.py tests."""
CONFIGS = {name: path for name, path in FILES.items() if name not in STUDIES}
LAUNCHES = [name for name in CONFIGS if name.startswith("launch/")]
LAYOUTS = ["ablations/three_stage.yaml", "ablations/four_stage_cnn.yaml", "ablations/four_stage_mamba.yaml"]

TWO_STEPS = {
    "data": {"init_args": {"batch_size": 2, "image_size": 64}},
    "enable": {
        "best_checkpoint": False,
        "last_checkpoint": False,
        "export": False,
        # Pictures of large networks take longer than two steps.
        "complexity": False,
        "sample_images": False,
        "class_results": False,
        "scan_decay": False,
        "receptive_field": False,
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "precision": "32-true",
        "max_epochs": 1,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}
UNTRAINED_TEACHER = {"name": "test_resnet", "pretrained": False, "class_indices": [0, 1], "image_size": 32}

pytestmark = [
    # Lightning 2.6 calls a method of the parser that jsonargparse 4.53 renames.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
]


@pytest.fixture
def two_steps(tmp_path: Path) -> list[str]:
    """Options that shorten a fit to two steps of two small images, and have it write to the test's folder."""
    path = tmp_path / "two_steps.yaml"
    path.write_text(yaml.safe_dump(TWO_STEPS))
    return ["--config", str(path), "--run.folder", str(tmp_path)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in folders as ImageNet's, enough for two batches of two."""
    root = tmp_path_factory.mktemp("photographs")
    for index, name in enumerate(("ant/0", "ant/1", "bee/0", "bee/1")):
        for split in ("train", "val"):
            save_image(root / split / f"{name}.jpg", seed=index)
    return root


def head(name: str) -> dict[str, str]:
    """Return the entries of a config's head, each as one line."""
    lines = re.match(r"(#.*\n)*", FILES[name].read_text())
    assert lines is not None
    entries = re.findall(r"^# (Paper row|Command|On digits|Expected|Cost):(.*(?:\n#  .*)*)", lines[0], re.MULTILINE)
    return {key: re.sub(r"\s*\\?\n#\s+", " ", text).strip() for key, text in entries}


def command(name: str) -> list[str]:
    """Return the arguments of ``lightning`` in the command that a config's head gives."""
    words = shlex.split(head(name)["Command"])
    assert f"experiments/{name}" in words
    return words[words.index("lightning") + 1 :]


@cache
def printed(arguments: tuple[str, ...]) -> str:
    with redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit) as ended:
        main([*arguments, "--print_config"])
    assert ended.value.code == 0
    return output.getvalue()


def resolved(arguments: list[str]) -> dict[str, Any]:
    """Return the whole config that arguments of ``lightning`` mean."""
    config: dict[str, Any] = yaml.safe_load(printed(tuple(arguments)))
    return config


def network(config: dict[str, Any]) -> MobileMambaConfig:
    return MobileMambaConfig(**config["model"]["network"])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_head_says_what_it_is(name: str) -> None:
    entries = head(name)
    assert list(entries) == ["Paper row", "Command", "Expected", "Cost"]
    assert all(entries.values())
    assert f"`{name}`" in (EXPERIMENTS / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in LAUNCHES])
def test_the_command_takes_two_steps(name: str, two_steps: list[str], photographs: Path, tmp_path: Path) -> None:
    arguments = command(name)
    config = resolved(arguments)
    has_teacher = config["model"]["teacher"] is not None
    arguments += two_steps
    if config["data"]["class_path"] == "datamodules.ImageNetDataModule":
        arguments += ["--data.root", str(photographs), "--data.num_classes", "2", "--data.num_workers", "0"]
        arguments += ["--model.teacher", json.dumps(UNTRAINED_TEACHER)] if has_teacher else []
    main(arguments)
    log = EventAccumulator(str(tmp_path / config["run"]["name"] / "version_0"))
    log.Reload()
    losses = [event.value for event in log.Scalars("train/loss")]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    assert ("train/loss_distillation" in log.Tags()["scalars"]) == has_teacher


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_the_published_one(variant: str) -> None:
    published = VARIANTS[variant]
    name = f"{variant.removeprefix('mobilemamba_')}.yaml"
    config = resolved(command(name))
    assert network(config) == published.config
    data = config["data"]
    assert data["class_path"] == "datamodules.ImageNetDataModule"
    assert (data["init_args"]["image_size"], data["init_args"]["num_classes"]) == (published.image_size, 1000)
    assert config["model"]["teacher"]["name"] == RECIPE_TEACHER
    assert (config["trainer"]["max_epochs"], config["trainer"]["precision"]) == (1000, "16-mixed")
    row = re.search(r"(\d+)M FLOPs, ([\d.]+) top-1", head(name)["Paper row"])
    assert row is not None
    assert int(row[1]) == round(published.gmacs * 1000)
    assert round(float(row[2]), 1) == published.top1_distilled


def test_variants_differ_in_nothing_else() -> None:
    rest = []
    for variant in VARIANTS:
        config = resolved(command(f"{variant.removeprefix('mobilemamba_')}.yaml"))
        del config["model"]["network"], config["data"]["init_args"]["image_size"], config["run"]["name"]
        rest.append(config)
    assert all(config == rest[0] for config in rest)


@pytest.mark.parametrize(("name", "has_teacher"), [("baseline_300.yaml", False), ("distilled_300.yaml", True)])
def test_shorter_runs_change_length_and_teacher_alone(name: str, has_teacher: bool) -> None:
    base = ["fit", "--config", "experiments/b4.yaml"]
    expected, config = resolved(base), resolved([*base, "--config", f"experiments/{name}"])
    expected["trainer"]["max_epochs"] = 300
    expected["run"]["folder"] = f"runs/{name.removesuffix('.yaml')}"
    if not has_teacher:
        expected["model"]["teacher"] = None
    assert config == expected


def test_the_baseline_lists_the_published_accuracies() -> None:
    figures = re.findall(r"(\w\d) [\d.]+ / ([\d.]+)", head("baseline_300.yaml")["Expected"])
    assert {f"mobilemamba_{name.lower()}": round(float(top1), 1) for name, top1 in figures} == {
        name: variant.top1 for name, variant in VARIANTS.items()
    }


def test_layouts_differ_in_nothing_but_the_network() -> None:
    rest = []
    for name in LAYOUTS:
        config = resolved(command(name))
        del config["model"]["network"], config["run"]["name"]
        rest.append(config)
    assert all(config == rest[0] for config in rest)
    assert rest[0]["model"]["teacher"] is None


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_the_one_that_was_measured(name: str) -> None:
    config = resolved(command(name))
    on_digits = resolved([*command(name)[:3], "--config", "experiments/ablations/digits.yaml"])
    assert on_digits["model"]["network"] == config["model"]["network"]
    assert on_digits["data"]["class_path"] == "datamodules.DigitsDataModule"
    # A ratio of throughputs belongs to one network: whoever changes the layout has to measure anew.
    layout = re.search(r"([\d,]+) parameters", CONFIGS[name].read_text())
    assert layout is not None
    parameters = sum(parameter.numel() for parameter in MobileMamba(network(config)).parameters())
    assert int(layout[1].replace(",", "")) == parameters
    assert (
        network(config).mixer_stages
        == {
            "three_stage": (True, True, True),
            "four_stage_cnn": (False, False, True, True),
            "four_stage_mamba": (True, True, True, True),
        }[config["run"]["name"]]
    )


def test_experiments_write_to_folders_of_their_own() -> None:
    names = [name for name in CONFIGS if name not in LAUNCHES]
    runs = {(run["folder"], run["name"]) for run in (resolved(command(name))["run"] for name in names)}
    assert len(runs) == len(names)


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_launch_keeps_the_batch_of_the_recipe(name: str) -> None:
    config = resolved(command(name))
    trainer = config["trainer"]
    assert trainer["strategy"] == "ddp"
    assert trainer["num_nodes"] * trainer["devices"] * config["data"]["init_args"]["batch_size"] == 1024
    text = CONFIGS[name].read_text()
    for pattern, option in (
        (r"^# Command: .*--nproc-per-node (\d+)", "devices"),
        (r"#SBATCH --ntasks-per-node=(\d+)", "devices"),
        (r"#SBATCH --gpus-per-node=(\d+)", "devices"),
        (r"#SBATCH --nodes=(\d+)", "num_nodes"),
    ):
        for number in re.findall(pattern, text, re.MULTILINE):
            assert int(number) == trainer[option], pattern


def test_torchrun_trains_one_network_in_two_processes(two_steps: list[str], tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    configs = ["--config", "experiments/quickstart.yaml", "--config", "experiments/launch/torchrun.yaml"]
    fit = [str(Path(sys.executable).with_name("lightning")), "fit", *configs, *two_steps, "--trainer.devices", "2"]
    done = subprocess.run([*launcher, *fit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    assert [path.name for path in (tmp_path / "quickstart").iterdir()] == ["version_0"]
