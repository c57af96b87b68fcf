"""Every study under experiments/ is what its head says: its commands mean its arms, at both scales, and they train."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.studies import plan
from experiments.studies.ablate import ablate, extra_layer
from experiments.studies.definition import Arm, Layer, Study, read_study
from experiments.studies.plan import Plan, PlannedArm, make_plan
from lightning_modules.cli import main
from lightning_modules.function_options import run
from lightning_modules.resolve import FitParser
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.errors import UserError
from tests.experiments.test_configs import EXPERIMENTS, STUDIES, TWO_STEPS, words

pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
]


def arguments(name: str, entry: str) -> dict[str, Any]:
    """Return what a command of a study's head means."""
    command = words(name, entry)
    assert command[:3] == ["mobilemamba", "ablate", f"experiments/{name}"]
    seen: dict[str, Any] = {}

    @wraps(ablate)
    def spy(**given: Any) -> None:
        seen.update(given)

    run(spy, command[2:], "mobilemamba ablate")
    return seen


@cache
def parser() -> FitParser:
    return FitParser()


@cache
def planned(name: str, entry: str) -> Plan:
    given = arguments(name, entry)
    return resolved(read_study(given["study"]), extra_layer(given["config"] or [], given["set"] or []))


def resolved(study: Study, extra: Layer) -> Plan:
    """Resolve a study with one parser for all."""

    def resolve(requests: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        with redirect_stdout(io.StringIO()):
            return [parser().resolve(list(request)) for request in requests]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "resolve", resolve)
        return make_plan(study, extra)


def network(arm: PlannedArm) -> MobileMambaConfig:
    return MobileMambaConfig(**arm.network)


@pytest.mark.parametrize("name", STUDIES)
def test_the_scales_differ_in_the_base_alone(name: str) -> None:
    full, digits = planned(name, "Command"), planned(name, "On digits")
    assert full.study == digits.study
    assert {arm.config["data"]["class_path"] for arm in full.arms} == {"datamodules.ImageNetDataModule"}
    assert {arm.config["data"]["class_path"] for arm in digits.arms} == {"datamodules.DigitsDataModule"}
    epochs = {arm.name: arm.config["trainer"]["max_epochs"] for arm in full.arms}
    assert epochs == dict.fromkeys(epochs, 300) | ({"epochs_1000": 1000} if "epochs_1000" in epochs else {})
    assert len(full.study.seeds) == 3
    listed = arguments(name, "On digits")["arms"]
    assert listed is None or set(listed) <= set(epochs)


def test_stages_are_the_layouts_and_differ_in_nothing_else() -> None:
    for entry in ("Command", "On digits"):
        arms = {arm.name: arm for arm in planned("ablations/stages.yaml", entry).arms}
        assert {name: network(arm).mixer_stages for name, arm in arms.items()} == {
            "three_stage": (True, True, True),
            "four_stage_cnn": (False, False, True, True),
            "four_stage_mamba": (True, True, True, True),
        }
        rest = []
        for arm in arms.values():
            config = json.loads(json.dumps(arm.config))
            del config["model"]["network"]
            rest.append(config)
        assert all(config == rest[0] for config in rest)


@pytest.mark.parametrize("entry", ["Command", "On digits"])
def test_components_change_the_part_that_they_name(entry: str) -> None:
    arms = {arm.name: network(arm) for arm in planned("ablations/components.yaml", entry).arms}
    whole = arms.pop("whole")
    assert entry == "On digits" or whole == MobileMambaConfig()
    splits = {name: [config.channel_split(stage) for stage in range(3)] for name, config in arms.items()}
    ours = [whole.channel_split(stage) for stage in range(3)]
    assert all(split.local_channels == 0 for split in splits["without_local"])
    assert all(split.identity_channels == 0 for split in splits["without_identity"])
    assert [split.global_channels for split in splits["without_local"]] == [s.global_channels for s in ours]
    assert [split.global_channels for split in splits["without_identity"]] == [s.global_channels for s in ours]
    for name, share in (("identity_quarter", 0.25), ("identity_half", 0.5)):
        found = sum(split.identity_channels for split in splits[name]) / sum(whole.widths)
        assert found == pytest.approx(share, abs=0.03 if entry == "Command" else 0.13), name
    assert max(kernel for group in arms["kernel_groups"].local_kernels for kernel in group) == 7
    assert [max(group) for group in arms["kernel_groups"].local_kernels] == [k[0] for k in whole.local_kernels]
    networks = {name: MobileMamba(config) for name, config in arms.items()}
    assert not any("wavelet" in key for key, _ in networks["without_wavelet"].named_parameters())
    assert not any("A_log" in key for key, _ in networks["without_scan"].named_parameters())
    if entry == "Command":  # S6 takes a while, and is tested elsewhere
        return
    size = planned("ablations/components.yaml", entry).arms[0].image_size
    for name, net in networks.items():
        logits = net(torch.randn(2, 3, *size))
        logits.square().sum().backward()
        gradients = [parameter.grad for parameter in net.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients), name


# Those whose parts differ, not their numbers alone.
@pytest.mark.parametrize("arm", ["hard", "without_ema", "without_mixup"])
def test_ways_of_training_take_two_steps(arm: str, tmp_path: Path) -> None:
    config = next(a.config for a in planned("ablations/training.yaml", "On digits").arms if a.name == arm)
    for name, content in (("arm.yaml", dict(config)), ("short.yaml", TWO_STEPS)):
        (tmp_path / name).write_text(yaml.safe_dump(content))
    options = ["--run.folder", str(tmp_path), "--run.name", "run", "--trainer.enable_progress_bar", "false"]
    main(["fit", "--config", str(tmp_path / "arm.yaml"), "--config", str(tmp_path / "short.yaml"), *options])
    log = EventAccumulator(str(tmp_path / "run" / "version_0"))
    log.Reload()
    losses = [event.value for event in log.Scalars("train/loss")]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    scalars = log.Tags()["scalars"]
    assert "train/loss_distillation" in scalars
    assert ("val/top1_ema" in scalars) == (arm != "without_ema")


def test_ways_of_training_change_what_they_name() -> None:
    arms = {arm.name: arm.config for arm in planned("ablations/training.yaml", "Command").arms}
    base = arms.pop("distilled")
    changed = {name: set(plan.differences(base, config)) for name, config in arms.items()}
    assert changed == {
        "without_teacher": {"model.teacher"},
        "weight_1": {"model.distillation.weight"},
        "weight_20": {"model.distillation.weight"},
        "temperature_2": {"model.distillation.temperature"},
        "temperature_4": {"model.distillation.temperature"},
        "hard": {"model.distillation.kind"},
        "dist": {"model.distillation.kind"},
        "epochs_1000": {"trainer.max_epochs"},
        "without_ema": {"enable.ema"},
        "without_mixup": {"data.init_args.mixing.mixup", "data.init_args.mixing.cutmix"},
    }


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"model.network.scann": False}, "unknown override model.network.scann: did you mean model.network.scan?"),
        ({"model.teacher.nam": "x"}, "unknown override model.teacher.nam: did you mean model.teacher.name?"),
        (
            {"model.network.scan": False, "model.network.wavelet_levels": 0},
            "MobileMambaConfig.scan = False must be true",
        ),
        ({"model.network.depths": [1, 2]}, "MobileMambaConfig.depths = (1, 2) must be 3 entries"),
        ({"model.network.num_classes": 3}, 'must be given via "data.num_classes"'),
        ({"trainer.max_epochs": "many"}, "trainer.max_epochs"),
    ],
)
def test_arms_that_cannot_be_are_refused(overrides: dict[str, Any], expected: str) -> None:
    base = Layer((EXPERIMENTS / "ablations" / "three_stage.yaml", EXPERIMENTS / "ablations" / "digits.yaml"))
    study = Study("x", base, (Arm("as_it_is", "x", Layer()), Arm("other", "x", Layer(overrides=overrides))), "as_it_is")
    with pytest.raises(UserError) as caught:
        resolved(study, Layer())
    assert str(caught.value).startswith("arms.other: ")
    assert expected in str(caught.value)
