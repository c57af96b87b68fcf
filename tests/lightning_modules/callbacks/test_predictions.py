"""The table of predictions: names, order, and nothing half-written."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from lightning_modules.callbacks import PredictionsFile
from lightning_modules.callbacks.predictions import join_parts
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


def test_every_image_gets_its_best_classes_by_name(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "table.csv"
    trainer = make_trainer(callbacks=[PredictionsFile(str(path))])
    trainer.predict(ImageClassification(tiny), datamodule=TinyData(samples=10))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"{index}.png" for index in range(10)]
    for row in rows:
        probabilities = [float(row[f"probability_{k}"]) for k in range(1, 5)]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert {row[f"class_{k}"] for k in range(1, 5)} == {f"class {index}" for index in range(4)}
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


def test_parts_of_processes_are_joined_sorted_and_without_repeats(tmp_path: Path) -> None:
    parts = [tmp_path / "part0", tmp_path / "part1"]
    parts[0].write_text("c.png,cat,0.9\na.png,dog,0.8\n")
    parts[1].write_text('"b,1.png",cat,0.7\nc.png,cat,0.9\n')
    assert join_parts(parts, tmp_path / "all.csv") == 3
    lines = (tmp_path / "all.csv").read_text().splitlines()
    assert lines == ["path,class_1,probability_1", "a.png,dog,0.8", '"b,1.png",cat,0.7', "c.png,cat,0.9"]
    assert not any(part.exists() for part in parts)


def test_a_failure_leaves_no_file(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(ImageClassification, "predict_step", fail)
    trainer = make_trainer(callbacks=[PredictionsFile(str(tmp_path / "table.csv"))])
    with pytest.raises(RuntimeError, match="broken"):
        trainer.predict(ImageClassification(tiny), datamodule=TinyData())
    assert list(tmp_path.glob("table*")) == []


def test_a_folder_that_cannot_be_made_is_found_before_predicting(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    trainer = make_trainer(callbacks=[PredictionsFile(str(tmp_path / "file" / "table.csv"))])
    with pytest.raises(OSError, match=r"predictions\.path = .*table\.csv.* cannot be written"):
        trainer.predict(ImageClassification(tiny), datamodule=TinyData())
