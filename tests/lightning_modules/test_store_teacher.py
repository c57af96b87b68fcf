"""The command that stores a teacher: resumed, in several processes, and refused where a store is of something else."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.multiprocessing.spawn import start_processes

from datamodules import DigitsDataModule
from datamodules.stored_teacher import StoredTeacher
from lightning_modules import store_teacher
from lightning_modules.classification import ImageClassification
from lightning_modules.teacher import TeacherConfig, build_teacher
from mobilemamba import MobileMambaConfig
from mobilemamba.errors import UserError
from tests.lightning_modules.stored import DATA, TEACHER, fail, store, store_and_die
from tests.spawned import QUICK

pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of three views with all classes."""
    folder = tmp_path_factory.mktemp("whole")
    assert store(folder, folder / "store", "--views=3") == 0
    return folder / "store"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.npy"))}


def test_a_store_killed_within_a_view_keeps_the_whole_ones_and_goes_on(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "store"
    assert store_and_die(tmp_path, output, 12, "--views=2") == -9  # eight batches are a view
    assert list(digests(output)) == ["view_000.npy"]
    first = (output / "view_000.npy").stat()
    assert store(tmp_path, output, "--views=2") == 0
    assert "1 of 2 views of 60 images are to be stored" in capsys.readouterr().out
    assert (output / "view_000.npy").stat().st_mtime_ns == first.st_mtime_ns
    assert store(tmp_path, output, "--views=3") == 0  # more views are added
    assert digests(output) == digests(whole)
    assert not [path for path in output.iterdir() if "unfinished" in path.name or path.name.startswith(".view")]


@pytest.fixture
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy processes in which all is imported."""
    monkeypatch.setattr(store_teacher, "spawn", partial(start_processes, start_method=QUICK))


@pytest.mark.usefixtures("quick_processes")
def test_two_processes_store_what_one_does(whole: Path, tmp_path: Path) -> None:
    assert store(tmp_path, tmp_path / "store", "--views=3", "--devices=2") == 0
    assert digests(tmp_path / "store") == digests(whole)


@pytest.mark.usefixtures("quick_processes")
def test_an_error_in_a_process_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.store_teacher._work", fail)
    assert store(tmp_path, tmp_path / "store", "--views=2", "--devices=2") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "mobilemamba store-teacher: error: the disk is full"


def test_the_rows_are_the_teachers_probabilities_of_the_views(whole: Path) -> None:
    data = digits()
    data.use_stored_teacher(StoredTeacher(whole), mixes=False)
    teacher = build_teacher(TeacherConfig(**TEACHER), 10, data.mean, data.std)  # type: ignore[arg-type]
    loader = data.train_dataloader()
    loader.sampler.set_epoch(4)  # type: ignore[attr-defined]
    for batch in loader:
        images, _ = data.finish(batch)
        classes, probabilities = batch.teacher_answer
        live = teacher(images).softmax(1).gather(1, classes.long())
        torch.testing.assert_close(probabilities.float(), live, rtol=2**-10, atol=2**-24)
        assert (probabilities.diff(dim=1) <= 0).all()


def test_another_seed_or_teacher_cannot_be_added(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store(tmp_path, whole, "--set", "data.seed=1") == 1
    assert "other augmentation (seed: 0 there, 1 here): use the config" in capsys.readouterr().err
    assert (
        store(
            tmp_path,
            whole,
            "--set",
            "model.teacher.checkpoint=null",
            "model.teacher.pretrained=false",
            "model.teacher.class_indices=[0,1,2,3,4,5,6,7,8,9]",
        )
        == 1
    )
    assert "other teacher (weights: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "model.teacher=null"], "model.teacher must be set"),
        (["--set", "model.teachr=null"], "model.teachr"),
        (["--set", "data.seed"], "--set data.seed must be NAME=VALUE"),
        (["--set", "trainer.precision=3"], "precision"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store(tmp_path, tmp_path / "store", *options) == 1
    assert message in capsys.readouterr().err


def digits(**options: object) -> DigitsDataModule:
    data = DigitsDataModule(**{**DATA, **options})  # type: ignore[arg-type]
    data.setup("fit")
    return data


def set_up(whole: Path, teacher: dict[str, object] | None = None, **options: object) -> None:
    data = digits(**options)
    network = MobileMambaConfig(num_classes=data.num_classes, stem_stride=4, widths=(16, 16, 32), depths=(1, 1, 1))
    module = ImageClassification(network, TeacherConfig(stored=str(whole), **(teacher or {})))  # type: ignore[arg-type]
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.datamodule = data  # type: ignore[attr-defined]
    module.trainer = trainer
    module.setup("fit")
    assert module.teacher is None


def test_a_store_is_taken_with_what_it_was_made_from(whole: Path) -> None:
    set_up(whole)
    set_up(whole, TEACHER, seed=5)  # type: ignore[arg-type]  # which decides the order, not the views


@pytest.mark.parametrize(
    ("options", "teacher", "message"),
    [
        ({"train_per_class": 5}, {}, r"other data \(images: 60 there, 50 here"),
        ({"validation_share": 0.3}, {}, r"other data \(digest: '"),
        ({"image_size": 48}, {}, r"other data .* other augmentation \(image_size: \[32, 32\] there, \[48, 48\] here"),
        ({"mean": (0.4, 0.4, 0.4)}, {}, r"other augmentation \(mean"),
        ({"exif_orientation": True}, {}, r"other augmentation \(exif_orientation: False there, True here\)"),
        ({}, {"name": "test_resnet"}, r"other teacher \(name: 'test_efficientnet' there, 'test_resnet' here\)"),
        ({}, {"image_size": 96}, r"other teacher \(image_size: \[64, 64\] there, \[96, 96\] here\)"),
        ({}, {"checkpoint": __file__}, r"other teacher \(checkpoint: '"),
        ({"digits": (1, 2, 3)}, {}, r"data\.num_classes = 3 must be 10, as of the stored teacher"),
    ],
)
def test_a_store_of_something_else_is_refused_by_what_differs(
    options: dict[str, object], teacher: dict[str, object], message: str, whole: Path
) -> None:
    with pytest.raises(UserError, match=message):
        set_up(whole, teacher, **options)


def test_other_versions_of_what_makes_pixels_are_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.fingerprints.version", lambda package: "0.1" if package == "Pillow" else "2.0")
    with pytest.raises(
        UserError, match=r"other augmentation \(version of timm: .*version of Pillow: '.*', '0.1'|'0.1' here"
    ):
        set_up(whole)


def test_a_damaged_view_stops_a_fit_before_it_begins(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in whole.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    rows = np.load(copy / "view_002.npy")
    rows["probabilities"][3, 0] = 0
    np.save(copy / "view_002.npy", rows)
    with pytest.raises(UserError, match=r"view_002\.npy is damaged"):
        set_up(copy)
