"""What is measured of stored teachers: parts of a store, the table and the picture, and the cost of a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks.stored_step import stored_step
from benchmarks.stored_teacher import Trial, _part, as_table, draw, stored_teacher
from datamodules.likeliest_classes import make_rows, set_rows
from datamodules.stored_teacher import StoredTeacher
from lightning_modules.run_record import RunRecord
from mobilemamba.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

ROOT = Path(__file__).parents[2]
TRIALS = [
    Trial(arm, views, top_k, seed, top1 + 0.01 * seed, 10.0)
    for arm, views, top_k, top1 in (
        ("labels alone", None, None, 0.5),
        ("live teacher", None, None, 0.6),
        ("live teacher, not mixed", None, None, 0.61),
        ("stored, V 1, K 4", 1, 4, 0.55),
        ("stored, V 2, K 4", 2, 4, 0.58),
        ("stored, V 2, K 1", 2, 1, 0.52),
        ("stored, mixed", 2, 4, 0.57),
    )
    for seed in range(2)
]


def test_the_table_has_a_row_for_each_arm() -> None:
    lines = as_table(TRIALS).splitlines()
    assert len(lines) == 2 + 7
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["labels alone", "50.5 ± 0.7", "10"]


def test_the_picture_compares_views_with_all_classes_and_classes_with_all_views() -> None:
    left, right = draw(TRIALS).axes
    assert left.lines[0].get_xdata().tolist() == [1, 2]  # type: ignore[union-attr]
    assert left.lines[0].get_ydata() == pytest.approx([55.5, 58.5])
    assert right.lines[0].get_xdata().tolist() == [1, 4]  # type: ignore[union-attr]
    assert right.lines[0].get_ydata() == pytest.approx([52.5, 58.5])


def test_a_part_of_a_store_has_its_first_views_and_likeliest_classes(tmp_path: Path) -> None:
    fingerprint: dict[str, dict[str, object]] = {"data": {}, "teacher": {}, "augmentation": {"seed": 0}}
    whole = StoredTeacher.create(tmp_path / "whole", fingerprint, 3, 5, 5)
    whole.want(3)
    for view in range(3):
        rows = make_rows(whole.row_type, 3)
        set_rows(rows, np.arange(3), torch.randn(3, 5, generator=torch.Generator().manual_seed(view)))
        whole.add(view, rows)
    part = StoredTeacher(_part(StoredTeacher(whole.folder), 2, 2, tmp_path / "part"))
    part.check_whole()
    assert part.views == 2
    for ours, theirs in zip(part.row(1, 2), whole.row(1, 2), strict=True):
        np.testing.assert_array_equal(ours, theirs[:2])


def test_photographs_need_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--teacher = None must be options of model\.teacher"):
        stored_teacher(data=tmp_path)


@pytest.mark.slow
def test_a_whole_measurement_runs(tmp_path: Path) -> None:
    trials = stored_teacher(views=[1], top_k=[2], seeds=1, epochs=1, output=tmp_path)
    assert len(trials) == 6
    assert RunRecord.read(tmp_path / "runs" / "stored_mixed" / "seed_0") is not None
    assert stored_teacher(views=[1], top_k=[2], seeds=1, epochs=1, output=tmp_path) == trials
    assert (tmp_path / "stored_teacher.png").is_file()


@pytest.mark.slow
def test_a_step_is_timed_with_each_kind_of_teacher(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    config = yaml.safe_load((ROOT / "experiments" / "quickstart.yaml").read_text())
    config["model"]["teacher"]["checkpoint"] = str(ROOT / "experiments/teachers/digits_test_efficientnet.safetensors")
    path.write_text(yaml.safe_dump(config))
    assert stored_step([str(path)], rounds=1, options=["data.train_per_class=40"]).keys() == {"none", "stored", "live"}
