"""``mobilemamba report``: writes a study's report into STUDY/report."""

from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse.typing import PositiveInt

from experiments.studies.report.arms import arm_table
from experiments.studies.report.figures import draw_accuracy_throughput, draw_curves, draw_effects
from experiments.studies.report.hparams import write_hparams
from experiments.studies.report.markdown import markdown
from experiments.studies.report.results import read_results
from experiments.studies.report.speed import SpeedSettings, measure_speeds, read_speeds
from lightning_modules.figures import write_figure
from mobilemamba.files import check_writable, write_text

DEFAULT_SPEED = SpeedSettings()
"""On the CPU, in batches of 16."""


def report(
    folder: Path,
    device: str = "cpu",
    batch_size: PositiveInt = 16,
    threads: PositiveInt | None = None,
    autocast: bool = False,
    rounds: PositiveInt = 20,
    speed: bool = True,
    anew: bool = False,
) -> None:
    """Compare the arms of a study: tables, intervals, pictures.

    Args:
        folder: A folder that `mobilemamba ablate` has written.
        device: PyTorch device to time the networks on.
        batch_size: Images per call for the throughput.
        threads: CPU threads. Null: PyTorch's choice.
        autocast: Time the networks in the device's mixed precision.
        rounds: Timed rounds.
        speed: Time the networks; earlier times are in the report in any case.
        anew: Time the networks again, even if there are earlier times.

    Raises:
        UserError: When the folder cannot be reported or the device does not exist here.
        OSError: When a file cannot be written.
    """
    if threads:
        torch.set_num_threads(threads)
    path = write_report(folder, SpeedSettings(device, batch_size, rounds, autocast, anew) if speed else None)
    text = path.read_text()
    print(text[: text.index("\n![")])
    print(f"\nWritten to {path.parent}")


def write_report(folder: Path, speed: SpeedSettings | None = DEFAULT_SPEED) -> Path:
    """Write tables, pictures and TensorBoard entries of a study, replacing older ones.

    Args:
        folder: The study's folder, as ``mobilemamba ablate`` writes it.
        speed: How to time networks that are not timed yet; None times nothing. Times of other devices are kept.

    Returns:
        The report, STUDY/report/report.md.

    Raises:
        UserError: When the folder is not a study, is from another version or has no finished run, when numbers of
            classes differ, or when the device does not exist here.
    """
    study = read_results(folder)
    report = folder / "report"
    check_writable(report)
    read_speeds(folder, study.arms)  # reports damaged files before anything is timed
    if speed is not None:
        measure_speeds(folder, study.arms, speed)
    speeds = read_speeds(folder, study.arms)
    arms, devices = arm_table(study, speeds), list(speeds)
    pictures = {
        "accuracy_throughput.png": draw_accuracy_throughput(arms, devices),
        "effects.png": draw_effects(study, arms),
        "curves.png": draw_curves(study),
    }
    for name, figure in pictures.items():
        write_figure(figure, report / name)
    write_hparams(report / "hparams", study, arms, devices)
    write_text(report / "report.csv", arms.drop(columns="is_distinguishable").to_csv())
    runs = ["arm", "seed", "top1_ema", "top1_raw", "minutes", "peak_memory_megabytes"]
    write_text(report / "runs.csv", study.finished[runs].to_csv(index=False))
    write_text(report / "report.md", markdown(study, arms, devices, list(pictures)))
    return report / "report.md"
