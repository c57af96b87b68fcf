"""Every config under experiments/ parses by the command in its head and means what it should; few are run."""

from __future__ import annotations

import io
import math
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.cli import main
from lightning_modules.command_line import TENSORBOARD_CALLBACKS
from lightning_modules.losses import DistillationConfig
from lightning_modules.optimization import OptimizerConfig, ScheduleConfig
from lightning_modules.teacher import RECIPE_TEACHER
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.variants import VARIANTS
from tests.datamodules.conftest import save_image
from tests.datamodules.test_segmentation import save_pair
from tests.experiments.conftest import ROOT
from tests.spawned import fit

EXPERIMENTS = ROOT / "experiments"
FILES = {str(path.relative_to(EXPERIMENTS)): path for path in sorted(EXPERIMENTS.rglob("*.yaml"))}
STUDIES = [name for name, path in FILES.items() if "arms" in yaml.safe_load(path.read_text())]
"""Files of another kind, which test_studies.py tests."""
CONFIGS = [name for name in FILES if name not in STUDIES]
LAUNCHES = [name for name in CONFIGS if name.startswith("launch/")]
LAYOUTS = {
    "three_stage": (True, True, True),
    "four_stage_cnn": (False, False, True, True),
    "four_stage_mamba": (True, True, True, True),
}
"""Which stages of each layout mix."""

NOT_NEEDED = ("best_checkpoint", "last_checkpoint", "export", *TENSORBOARD_CALLBACKS)
TWO_STEPS = {
    "data": {"init_args": {"batch_size": 2, "global_batch_size": None, "image_size": 64}},
    "enable": dict.fromkeys(NOT_NEEDED, False),
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
    },
}

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")


@pytest.fixture
def two_steps(tmp_path: Path) -> list[str]:
    """Options that shorten a fit to two steps of two small images, and have it write to the test's folder."""
    path = tmp_path / "two_steps.yaml"
    path.write_text(yaml.safe_dump(TWO_STEPS))
    return ["--config", str(path), "--run.folder", str(tmp_path)]


def words(name: str, entry: str) -> list[str]:
    """Return the words of a command in a config's head, which names that config."""
    found = re.search(rf"^# {entry}:((?:.*\\\n#)*.*)", FILES[name].read_text(), re.MULTILINE)
    assert found is not None
    split = shlex.split(re.sub(r"\\\n#", " ", found[1]))
    assert f"experiments/{name}" in split
    return split


def command(name: str) -> list[str]:
    """Return the arguments of ``lightning`` in the command that a config's head gives."""
    split = words(name, "Command")
    return split[split.index("lightning") + 1 :]


@cache
def printed(arguments: tuple[str, ...]) -> str:
    with redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit) as ended:
        main([*arguments, "--print_config"])
    assert ended.value.code == 0
    return output.getvalue()


def resolved(arguments: list[str]) -> dict[str, Any]:
    """Return the whole config that arguments of ``lightning`` mean."""
    return yaml.safe_load(printed(tuple(arguments)))


def network(config: dict[str, Any]) -> MobileMambaConfig:
    return MobileMambaConfig(**config["model"]["network"])


def test_every_command_parses_and_writes_to_a_folder_of_its_own() -> None:
    runs = {name: resolved(command(name))["run"] for name in CONFIGS}
    own = {(run["folder"], run["name"]) for name, run in runs.items() if name not in LAUNCHES}
    assert len(own) == len(CONFIGS) - len(LAUNCHES)
    listed = (EXPERIMENTS / "README.md").read_text()
    assert [name for name in FILES if f"`{name}`" not in listed] == []


def test_variants_are_the_published_ones_and_differ_in_nothing_else() -> None:
    rest = []
    for variant, published in VARIANTS.items():
        config = resolved(command(f"{variant.removeprefix('mobilemamba_')}.yaml"))
        assert network(config) == published.config
        assert config["data"]["init_args"].pop("image_size") == published.image_size
        del config["model"]["network"], config["run"]["name"]
        rest.append(config)
    assert all(config == rest[0] for config in rest)
    data, model, trainer = (rest[0][section] for section in ("data", "model", "trainer"))
    assert (data["class_path"], data["init_args"]["num_classes"]) == ("datamodules.ImageNetDataModule", 1000)
    assert model["teacher"]["name"] == RECIPE_TEACHER
    distillation = DistillationConfig(**model["distillation"])
    assert (distillation.kind, distillation.temperature, distillation.weights) == ("soft", 1.0, (1.0, 5.0))
    assert (trainer["max_epochs"], trainer["gradient_clip_val"], trainer["precision"]) == (1000, 5.0, "16-mixed")
    assert (rest[0]["ema"]["decay"], rest[0]["seed_everything"]) == (0.9998, 0)


@pytest.mark.parametrize(("name", "has_teacher"), [("baseline_300.yaml", False), ("distilled_300.yaml", True)])
def test_shorter_runs_change_length_and_teacher_alone(name: str, has_teacher: bool) -> None:
    base = ["fit", "--config", "experiments/b4.yaml"]
    expected, config = resolved(base), resolved([*base, "--config", f"experiments/{name}"])
    expected["trainer"]["max_epochs"] = 300
    expected["run"]["folder"] = f"runs/{name.removesuffix('.yaml')}"
    if not has_teacher:
        expected["model"]["teacher"] = None
    assert config == expected


def test_layouts_are_those_that_were_measured_and_differ_in_nothing_else() -> None:
    rest = []
    for layout, mixes in LAYOUTS.items():
        name = f"ablations/{layout}.yaml"
        config = resolved(command(name))
        on_digits = resolved([*command(name)[:3], "--config", "experiments/ablations/digits.yaml"])
        assert on_digits["model"]["network"] == config["model"]["network"]
        assert on_digits["data"]["class_path"] == "datamodules.DigitsDataModule"
        # A ratio of throughputs belongs to one network: whoever changes the layout has to measure anew.
        counted = re.search(r"([\d,]+) parameters", FILES[name].read_text())
        assert counted is not None
        parameters = sum(parameter.numel() for parameter in MobileMamba(network(config)).parameters())
        assert int(counted[1].replace(",", "")) == parameters
        assert network(config).mixer_stages == mixes
        del config["model"]["network"], config["run"]["name"]
        rest.append(config)
    assert all(config == rest[0] for config in rest)
    assert rest[0]["model"]["teacher"] is None


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_launch_keeps_the_batch_of_the_recipe(name: str) -> None:
    config = resolved(command(name))
    trainer = config["trainer"]
    assert trainer["strategy"] == "ddp"
    data = config["data"]["init_args"]
    assert (data["global_batch_size"], data["batch_size"]) == (1024, None)
    assert 1024 % (trainer["num_nodes"] * trainer["devices"]) == 0
    lines = [line for line in FILES[name].read_text().splitlines() if "# Command:" in line or "#SBATCH" in line]
    asked = re.findall(r"--(nproc-per-node|ntasks-per-node|gpus-per-node|nodes)[= ](\d+)", "\n".join(lines))
    assert asked
    for option, number in asked:
        assert int(number) == trainer["num_nodes" if option == "nodes" else "devices"], option


@pytest.mark.parametrize(
    ("name", "steps", "warmup", "head_factor", "clip"),
    [
        ("semantic_fpn_b4", 160000, (1500, 1e-6), 10.0, None),
        ("deeplabv3_b4", 80000, (500, 1e-5), 1.0, 0.1),
        ("pspnet_b4", 80000, (500, 1e-5), 1.0, 0.1),
    ],
)
def test_a_row_of_segmentation_has_the_papers_recipe_and_takes_two_steps(
    name: str,
    steps: int,
    warmup: tuple[int, float],
    head_factor: float,
    clip: float | None,
    two_steps: list[str],
    tmp_path: Path,
) -> None:
    arguments = command(f"dense/{name}.yaml")
    config = resolved(arguments)
    model, trainer, data = config["model"], config["trainer"], config["data"]["init_args"]
    network = VARIANTS["mobilemamba_b4"].config
    assert MobileMambaConfig(**model["network"]) == replace(network, num_classes=0)
    assert (model["decoder"], model["weights"]) == (name.removesuffix("_b4"), "published:in1k")
    optimizer = OptimizerConfig(1.2e-4, None, betas=[0.9, 0.999], head_factor=head_factor)  # type: ignore[arg-type]
    assert OptimizerConfig(**model["optimizer"]) == optimizer
    schedule = ScheduleConfig(**model["schedule"])
    assert (schedule.warmup_steps, schedule.warmup_factor) == warmup
    assert (schedule.cosine_from, schedule.final_factor) == ("middle", 0)
    assert (trainer["max_steps"], trainer["gradient_clip_val"], trainer["sync_batchnorm"]) == (steps, clip, True)
    assert steps % trainer["val_check_interval"] == 0  # the last step is validated
    assert (data["global_batch_size"], data["batch_size"]) == (32, None)
    assert (data["image_size"], data["resize"], data["longest_side"], data["ignore_zero"]) == (
        512,
        "shorter",
        2048,
        True,
    )
    assert data["augmentation"]["scale"] == [0.5, 2.0]
    for split, index in ((split, index) for split in ("training", "validation") for index in "abcd"):
        save_pair(tmp_path / "ade", split, index, np.full((70, 90), 3, np.uint8))
    data = ["--data.root", str(tmp_path / "ade"), "--data.num_workers", "0", "--model.weights", "null"]
    main([*arguments, *two_steps, *data, "--trainer.strategy", "auto"])
    log = EventAccumulator(str(tmp_path / name / "version_0"))
    log.Reload()
    losses = [event.value for event in log.Scalars("train/loss")]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


def test_an_arm_takes_two_steps_on_photographs(two_steps: list[str], tmp_path: Path) -> None:
    for index, file in enumerate(("ant/0", "ant/1", "bee/0", "bee/1")):
        for split in ("train", "val"):
            save_image(tmp_path / "photographs" / split / f"{file}.jpg", seed=index)
    data = ["--data.root", str(tmp_path / "photographs"), "--data.num_classes", "2", "--data.num_workers", "0"]
    main([*command("ablations/four_stage_cnn.yaml"), *two_steps, *data])
    log = EventAccumulator(str(tmp_path / "four_stage_cnn" / "version_0"))
    log.Reload()
    losses = [event.value for event in log.Scalars("train/loss")]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


def test_two_processes_of_torchrun_train_one_network(two_steps: list[str], tmp_path: Path) -> None:
    configs = ["--config", f"{EXPERIMENTS}/quickstart.yaml", "--config", f"{EXPERIMENTS}/launch/torchrun.yaml"]
    status, output = fit(tmp_path, *configs, *two_steps, "--trainer.devices=2", processes=2, torchrun=True)
    assert status == 0, output
    assert "MEMBER: 1/2" in output
    assert [path.name for path in (tmp_path / "quickstart").iterdir()] == ["version_0"]


@pytest.mark.slow
def test_torchrun_trains_one_network_in_two_processes(two_steps: list[str], tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    configs = ["--config", "experiments/quickstart.yaml", "--config", "experiments/launch/torchrun.yaml"]
    fit = [str(Path(sys.executable).with_name("lightning")), "fit", *configs, *two_steps, "--trainer.devices", "2"]
    done = subprocess.run([*launcher, *fit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    assert [path.name for path in (tmp_path / "quickstart").iterdir()] == ["version_0"]
