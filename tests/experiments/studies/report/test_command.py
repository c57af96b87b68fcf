from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from experiments.cli import main
from experiments.studies.report import speed
from experiments.studies.report.arms import arm_table
from experiments.studies.report.command import write_report
from experiments.studies.report.figures import draw_accuracy_throughput, draw_curves, draw_effects, mean_and_range
from experiments.studies.report.results import read_results
from mobilemamba import MobileMamba
from mobilemamba.complexity import complexity
from tests.experiments.studies.report.conftest import made_up_times, make_study, record, write_run

FILES = ["accuracy_throughput.png", "curves.png", "effects.png", "hparams", "report.csv", "report.md", "runs.csv"]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose report has been written twice, on one made-up device."""
    study = make_study(tmp_path_factory.mktemp("study"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "interleaved", made_up_times)
        write_report(study, speed.SpeedSettings(batch_size=4))
        write_report(study, speed.SpeedSettings(batch_size=4))
    return study


def table(study: Path) -> dict[str, dict[str, str]]:
    with (study / "report" / "report.csv").open() as file:
        return {row["arm"]: row for row in csv.DictReader(file)}


def test_figures_by_hand(reported: Path) -> None:
    assert sorted(path.name for path in (reported / "report").iterdir()) == FILES
    rows = table(reported)
    assert list(rows) == ["base", "no_scan", "no_ema"]
    base, no_scan, no_ema = rows.values()
    assert float(base["top1_ema_mean"]) == pytest.approx(91.0)
    assert float(base["top1_ema_deviation"]) == pytest.approx(1.0)  # 90, 92, 91
    assert float(base["top1_raw_mean"]) == pytest.approx(90.0)
    assert float(no_scan["difference"]) == pytest.approx(-3.0)  # -2, -3, -4
    half = 4.302653 / 3**0.5
    assert float(no_scan["difference_low"]) == pytest.approx(-3 - half, abs=1e-4)
    assert float(no_scan["difference_high"]) == pytest.approx(-3 + half, abs=1e-4)
    assert no_scan["pairs"] == "3"
    assert no_scan["p_value"] == no_scan["holm_p_value"] != ""  # the other arm has no test
    assert float(no_scan["minutes"]) == pytest.approx(31 / 60)
    assert (float(base["peak_memory_megabytes"]), float(no_scan["peak_memory_megabytes"])) == (500.0, 510.0)
    assert base["difference"] == base["verdict"] == ""
    # Raw weights of an arm without averaged ones, against the base's averaged ones: 93 - 90.
    assert (no_ema["top1_ema_mean"], no_ema["top1_raw_deviation"]) == ("", "")
    assert float(no_ema["difference"]) == pytest.approx(3.0)
    assert no_ema["verdict"] == "one seed: no interval"
    assert no_ema["runs_without_result"] == "seed 1 failed: error: disk is full; seed 2 not started"
    assert no_scan["overrides"] == "model.network.scan=False"
    assert no_ema["overrides"] == "enable.ema=False model.teacher=null"


def test_costs_are_those_of_the_arms_networks(reported: Path) -> None:
    for arm in read_results(reported).arms:
        row, cost = table(reported)[arm.name], complexity(MobileMamba(arm.network), (64, 64))
        assert (int(row["parameters"]), int(row["macs"])) == (cost.parameters, cost.total_macs)
        (throughput,) = (float(value) for name, value in row.items() if name.startswith("images_per_second ("))
        (latency,) = (float(value) for name, value in row.items() if name.startswith("latency_milliseconds ("))
        first = arm.name != "no_scan"
        assert throughput == pytest.approx(400 if first else 200)
        assert latency == (10.0 if first else 20.0)


def test_without_speed_nothing_is_timed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(study), "--no-speed"]) == 0
    assert not list(study.glob("speed_*"))
    printed = capsys.readouterr().out
    assert "Speed was not measured." in printed
    assert "images/s" not in printed
    assert f"Written to {study / 'report'}" in printed


def test_markdown_shows_the_same_figures(reported: Path) -> None:
    text = (reported / "report" / "report.md").read_text()
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.split("## Differences")[0].splitlines()
        if line.startswith("| ")
    }
    assert cells["base"][:4] == ["3 of 3", "91.00 ± 1.00", "90.00 ± 1.00", "base"]
    assert cells["no_scan"][:4] == ["3 of 3", "88.00 ± 1.00", "88.00 ± 1.00", "-3.00"]
    assert cells["no_ema"][:4] == ["1 of 3", "-", "93.00", "+3.00"]
    assert cells["no_scan"][-2:] == ["510", "0.5"]
    assert "7 of 9 runs have finished" in text
    assert "One of the 360 validation images is 0.278 points." in text
    assert "arms compared" not in text  # only one has an interval
    low, high = (float(table(reported)["no_scan"][f"difference_{end}"]) for end in ("low", "high"))
    assert re.search(rf"\| no_scan +\| +3 \| +-3.00 \| +{low:+.2f} to {high:+.2f} \| +lower \(Holm p = ", text)
    assert re.search(r"\| no_ema +\| +1 \| +\+3.00 \| +- \| +one seed: no interval \|", text)
    assert "- no_ema: seed 1 failed: error: disk is full\n- no_ema: seed 2 not started" in text
    assert "- no_scan: What no_scan is for." in text
    for name in re.findall(r"\]\((.*?)\)", text):
        assert (reported / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_noise_is_called_so(study: Path) -> None:
    for seed, value in enumerate([0.91, 0.91, 0.90]):  # +1, -1, -1
        write_run(study, "no_scan", seed, record(value, value))
        write_run(study, "no_ema", seed, record(value / 2, value / 2))
    text = write_report(study, None).read_text()
    assert re.search(r"\| no_scan .* not distinguishable from zero \|", text)
    assert "With 2 arms compared, some intervals miss the truth by chance" in text
    assert "validation images is" not in text  # no longer known


def test_a_base_without_finished_runs_leaves_differences_out(study: Path) -> None:
    shutil.rmtree(study / "runs" / "base")
    text = write_report(study, None).read_text()
    assert re.search(r"\| base +\| 0 of 3 \| +- \| +- \| +base \| +0.039 \| +0.000301 \| +- \| +- \|", text)
    assert len(re.findall(r"\| +0 \| +- \| +- \| no finished run with a seed of the base \|", text)) == 2
    row = table(study)["no_scan"]
    assert row["difference"] == row["pairs"] == row["verdict"] == ""


def test_a_run_that_diverged_has_no_accuracy(study: Path) -> None:
    write_run(study, "no_scan", 1, record(None, None))
    text = write_report(study, None).read_text()
    assert "| 87.50 ± 0.71 (2 of them) |" in text  # 88 and 87
    row = table(study)["no_scan"]
    assert (float(row["top1_ema_mean"]), row["finished_runs"], row["pairs"]) == (pytest.approx(87.5), "3", "2")
    assert row["runs_without_result"] == "seed 1 finished without a finite accuracy"


def test_hparams_agree_with_the_tables(reported: Path) -> None:
    with (reported / "report" / "runs.csv").open() as file:
        runs = {f"{row['arm']}/seed_{row['seed']}": row for row in csv.DictReader(file)}
    folder = reported / "report" / "hparams"
    entries = {str(path.parent.relative_to(folder)): path for path in folder.rglob("events.out.tfevents.*")}
    assert entries.keys() == runs.keys()
    assert len(list(folder.rglob("events.*"))) == len(runs)  # rewritten, not piled up
    for name, run in runs.items():
        arm = table(reported)[run["arm"]]
        log = EventAccumulator(str(entries[name]))
        log.Reload()
        shown = {tag: log.Scalars(tag)[-1].value for tag in log.Tags()["scalars"]}
        expected = {f"run/{figure}": run[figure] for figure in ("top1_ema", "top1_raw", "minutes")}
        expected |= {f"arm/{figure}": arm[figure] for figure in ("top1_ema_mean", "top1_raw_deviation", "parameters")}
        expected["arm/difference_to_base"] = arm["difference"]
        for column, figure in arm.items():
            if column.startswith("images_per_second ("):
                expected[f"images_per_second/{column[len('images_per_second (') : -1]}"] = figure
        known = {tag: float(figure) for tag, figure in expected.items() if figure != ""}
        assert {tag: value for tag, value in shown.items() if tag in expected} == pytest.approx(known)
        tags = log.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        options = dict(metadata.parse_session_start_info_plugin_data(tags).hparams)
        assert (options["arm"].string_value, options["seed"].string_value) == (run["arm"], run["seed"])
        scan = "False" if run["arm"] == "no_scan" else "not overridden"
        assert options["model.network.scan"].string_value == scan
        columns = metadata.parse_experiment_plugin_data(
            log.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
        )
        # TensorBoard takes its columns from any one entry.
        assert {"model.network.scan", "enable.ema"} <= {info.name for info in columns.hparam_infos}
        assert {"run/top1_ema", "arm/difference_to_base"} <= {info.name.tag for info in columns.metric_infos}


def test_pictures_show_the_table(reported: Path) -> None:
    study = read_results(reported)
    speeds = speed.read_speeds(reported, study.arms)
    arms = arm_table(study, speeds)
    (axes,) = draw_accuracy_throughput(arms, list(speeds)).axes
    points = {tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() in "osD"}
    assert {(400.0, 91.0), (200.0, 88.0), (400.0, 93.0)} == {(x, round(y, 6)) for x, y in points}
    assert len(axes.texts) == 2  # arrows from the base
    (axes,) = draw_accuracy_throughput(arms, []).axes
    assert axes.get_xlabel().startswith("multiply-accumulates")

    accuracy, loss = draw_curves(study).axes
    assert [line.get_label() for line in accuracy.lines] == ["base", "no_scan", "no_ema"]
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx([50.0, 91.0])
    assert list(loss.lines[2].get_xdata()) == [0]  # its second value was not finite


def test_table_and_picture_of_differences_go_by_one_verdict(study: Path) -> None:
    def check(words: str, color: str, pairs: int) -> None:
        outcome = read_results(study)
        arms = arm_table(outcome, {})
        row = arms.loc["no_scan"]
        assert row["verdict"].startswith(words)
        (axes,) = draw_effects(outcome, arms).axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["no_scan (3)", f"no_ema ({pairs})"]
        interval = next(line for line in axes.lines if len(line.get_xdata()) == 2 and list(line.get_ydata()) == [0, 0])
        assert tuple(interval.get_xdata()) == (row["difference_low"], row["difference_high"])
        assert interval.get_color() == color

    check("lower (Holm p = 0.035)", "C0", pairs=1)
    for seed, value in enumerate([0.93, 0.94, 0.92]):  # +3, +2, +1: a second test, with which 0.035 counts twice
        write_run(study, "no_ema", seed, record(value, value))
    check("not distinguishable from zero among several arms (Holm p = 0.07)", "0.5", pairs=3)


def test_curves_are_means_and_ranges_and_the_last_value_of_an_epoch_counts(study: Path) -> None:
    curves = read_results(study).curves
    found = mean_and_range(curves[curves["arm"] == "base"], "val/top1_ema")
    assert found.index.tolist() == [0, 1]
    assert found.to_numpy().tolist() == [pytest.approx([0.5, 0.5, 0.5]), pytest.approx([0.91, 0.90, 0.92])]
    for seed, last in enumerate((0.7, 0.8, 0.9)):
        curves = {"epoch": [0, 0, 1], "val/top1_ema": [0.1, 0.6, last]}
        write_run(study, "base", seed, record(last, last, curves=curves))
    curves = read_results(study).curves
    found = mean_and_range(curves[curves["arm"] == "base"], "val/top1_ema")
    assert found.to_numpy().tolist() == [pytest.approx([0.6, 0.6, 0.6]), pytest.approx([0.8, 0.7, 0.9])]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda study: (study / "plan.json").unlink(), "must be a study's folder"),
        (lambda study: (study / "speed_x.json").write_text("{"), "speed_x.json is damaged: delete it"),
        (lambda study: (study / "speed_x.json").write_text("[]"), "speed_x.json is damaged: delete it"),
        (lambda study: (study / "speed_x.json").write_text("{}"), "speed_x.json is of another version"),
    ],
)
def test_errors_are_one_line(
    spoil: Callable[[Path], object], message: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(study)
    assert main(["report", str(study), "--no-speed"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mobilemamba report: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(study.rglob("*.unfinished*"))


def test_an_unknown_device_is_said_before_anything_is_written(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(study), "--device", "nowhere"]) == 1
    assert "--device = nowhere must be a device" in capsys.readouterr().err
