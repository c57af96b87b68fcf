"""The table of predictions: names, order, and nothing half-written."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Subset

from lightning_modules.callbacks import PredictionsFile
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from mobilemamba.errors import UserError
from tests.lightning_modules.tiny_data import TinyData
from tests.spawned import SpawnedProcesses

MakeTrainer = Callable[..., Trainer]


class SplitImages(TinyData):
    """Images in another order; each process predicts its own and the first, as samplers do to make processes even."""

    def predict_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        named = list(super().predict_dataloader().dataset)  # type: ignore[call-overload]
        own = [0, *reversed(range(self.trainer.global_rank, len(named), self.trainer.world_size))]
        return DataLoader(Subset(named, own), batch_size=self.batch_size)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_image_gets_its_best_classes_by_name(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, processes: int
) -> None:
    path = tmp_path / "new" / "table.csv"
    options: dict[str, Any] = {"devices": processes, "strategy": SpawnedProcesses()} if processes > 1 else {}
    trainer = make_trainer(callbacks=[PredictionsFile(str(path))], use_distributed_sampler=False, **options)
    trainer.predict(ImageClassification(tiny), datamodule=SplitImages(samples=10), return_predictions=False)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"{index}.png" for index in range(10)]
    for row in rows:
        probabilities = [float(row[f"probability_{k}"]) for k in range(1, 5)]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert {row[f"class_{k}"] for k in range(1, 5)} == {f"class {index}" for index in range(4)}
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


def test_a_failure_leaves_no_file(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(ImageClassification, "predict_step", fail)
    trainer = make_trainer(callbacks=[PredictionsFile(str(tmp_path / "table.csv"))])
    with pytest.raises(RuntimeError, match="broken"):
        trainer.predict(ImageClassification(tiny), datamodule=TinyData())
    assert list(tmp_path.glob("*table*")) == []


@pytest.mark.parametrize(("name", "reason"), [("file/table.csv", "cannot be written"), ("folder", "must be a file")])
def test_a_path_that_cannot_be_written_is_found_before_predicting(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    trainer = make_trainer(callbacks=[PredictionsFile(str(tmp_path / name))])
    with pytest.raises(UserError, match=rf"predictions\.path = .*{name}.* {reason}"):
        trainer.predict(ImageClassification(tiny), datamodule=TinyData())
