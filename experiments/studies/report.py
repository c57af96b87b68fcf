"""A study's report, from its folder to the files in STUDY/report."""

from __future__ import annotations

from pathlib import Path

from benchmarks.picture import write_picture
from experiments.studies.reporting.figures import draw_accuracy_throughput, draw_curves, draw_effects
from experiments.studies.reporting.hparams import write_hparams
from experiments.studies.reporting.outcomes import read_study
from experiments.studies.reporting.rows import arm_rows, run_rows
from experiments.studies.reporting.speed import SpeedSettings, measure_speeds, read_speeds
from experiments.studies.reporting.tables import arms_csv, markdown, runs_csv
from mobilemamba.files import check_writable, write_text

DEFAULT_SPEED = SpeedSettings()
"""On the CPU, in batches of 16."""


def write_report(folder: Path, speed: SpeedSettings | None = DEFAULT_SPEED) -> Path:
    """Write tables, pictures and TensorBoard entries of a study, in place of those that are there.

    Args:
        folder: The study's, as ``mobilemamba ablate`` writes it.
        speed: How to time the arms' networks, which is done only where it has not been; None times nothing. Figures of
            other devices stay.

    Returns:
        The report, STUDY/report/report.md.

    Raises:
        ReportError: When the folder is no study, is of another version, has no finished run, or its arms tell apart
            different numbers of classes.
        BenchmarkError: When the device is not to be had.
    """
    study = read_study(folder)
    report = folder / "report"
    check_writable(report)
    read_speeds(folder, study.arms)  # says what is damaged before anything is timed
    if speed is not None:
        measure_speeds(folder, study.arms, speed)
    speeds = read_speeds(folder, study.arms)
    devices = [entry.device for entry in speeds]
    rows, runs = arm_rows(study, speeds), run_rows(study)

    pictures = {
        "accuracy_throughput.png": draw_accuracy_throughput(rows, devices),
        "effects.png": draw_effects(study, rows),
        "curves.png": draw_curves(study),
    }
    for name, figure in pictures.items():
        write_picture(figure, report / name)
    write_hparams(report / "hparams", rows, runs)
    write_text(report / "report.csv", arms_csv(rows, devices))
    write_text(report / "runs.csv", runs_csv(runs))
    write_text(report / "report.md", markdown(study, rows, devices, list(pictures)))
    return report / "report.md"
