"""Throughput and latency of the arms' networks, measured in turn in one process and saved in the study's folder.

Networks are fused, with random weights, in inference. Each device has its own file, ``speed_DEVICE.json``, so that
reports from several machines can be combined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.networks import Candidate, fused, inference_call
from experiments.studies.report.arms import SPEEDS
from experiments.studies.report.results import ReportedArm
from mobilemamba.backbone import MobileMamba
from mobilemamba.environment import environment, find_device, threads_in_words
from mobilemamba.errors import UserError
from mobilemamba.export.timing import interleaved
from mobilemamba.files import write_json


@dataclass(frozen=True)
class SpeedSettings:
    """How speed is measured.

    Args:
        device: PyTorch device.
        batch_size: Images per call for the throughput.
        rounds: Timed rounds.
        autocast: Whether the networks run in the device's mixed precision instead of float32.
        anew: Whether to measure again what is measured already.
    """

    device: str = "cpu"
    batch_size: int = 16
    rounds: int = 20
    autocast: bool = False
    anew: bool = False


def measure_speeds(folder: Path, arms: Sequence[ReportedArm], settings: SpeedSettings) -> None:
    """Measure all arms on a device and save the speeds, unless those of the same networks are saved already.

    Args:
        folder: The study's folder.
        arms: The arms.
        settings: How to measure.

    Raises:
        UserError: When there is no such device.
    """
    device = find_device(settings.device)
    about = environment(device)
    used = {
        "device": about["device"],
        "threads": about["threads"] if device.type == "cpu" else None,
        "autocast": settings.autocast,
    }
    path = folder / f"speed_{_file_name(**used)}.json"
    content = {
        "settings": used | {"batch_size": settings.batch_size, "rounds": settings.rounds},
        "networks": {arm.name: _network_key(arm) for arm in arms},
    }
    if path.is_file() and not settings.anew:
        kept = _read(path)
        if all(kept.get(key) == value for key, value in content.items()):
            return
    speeds = _measure(arms, device, settings)
    speeds_by_arm = {arm.name: speeds[_network_key(arm)] for arm in arms}
    write_json(path, {"environment": about} | content | {"speeds": speeds_by_arm})


def read_speeds(folder: Path, arms: Sequence[ReportedArm]) -> dict[str, pd.DataFrame]:
    """Return the saved speeds of the arms.

    Args:
        folder: The study's folder.
        arms: The arms; speeds of changed networks are ignored.

    Returns:
        For each described device a row per arm, with images_per_second in batches and latency_milliseconds of a single
        image.
    """
    devices = {}
    for path in sorted(folder.glob("speed_*.json")):
        content = _read(path)
        try:
            name = _describe(content["settings"])
            speeds = {
                arm.name: (content["speeds"][arm.name]["throughput"], content["speeds"][arm.name]["latency"])
                for arm in arms
                if content["networks"].get(arm.name) == _network_key(arm)
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is of another version (it lacks {error}): delete it and report again.") from error
        if speeds:
            devices[name] = pd.DataFrame.from_dict(speeds, orient="index", columns=list(SPEEDS))
    return devices


def _measure(arms: Sequence[ReportedArm], device: torch.device, settings: SpeedSettings) -> dict[str, dict[str, float]]:
    """Time each different network once, by :func:`_network_key`."""
    candidates = {}
    for arm in arms:
        network = fused(MobileMamba(arm.network).to(device).eval())
        candidates[_network_key(arm)] = Candidate(arm.name, network, (arm.network.in_chans, *arm.image_size))

    def medians(images: int) -> dict[str, float]:
        calls = {
            key: inference_call(candidate.network, candidate.images(images, device), settings.autocast)
            for key, candidate in candidates.items()
        }
        return {key: timing.median for key, timing in interleaved(calls, settings.rounds, 2, device).items()}

    batches, single = medians(settings.batch_size), medians(1)
    return {key: {"throughput": settings.batch_size / batches[key] * 1e3, "latency": single[key]} for key in candidates}


def _network_key(arm: ReportedArm) -> str:
    """Return what the speed depends on, which is equal for arms that differ only in their training."""
    return json.dumps([asdict(arm.network), arm.image_size])


def _file_name(device: str, threads: int | None, autocast: bool) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")
    name += "" if threads is None else f"_{threads}_threads"
    return f"{name}_autocast" if autocast else name


def _describe(settings: Mapping[str, Any]) -> str:
    threads = settings["threads"]
    words = [
        settings["device"],
        *([] if threads is None else [threads_in_words(threads)]),
        "mixed precision" if settings["autocast"] else "float32",
        f"throughput in batches of {settings['batch_size']}",
    ]
    return ", ".join(words)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: delete it and report again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: delete it and report again.")
    return content
