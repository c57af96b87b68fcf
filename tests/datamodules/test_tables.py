"""Images that a table lists, in place of class folders."""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from lightning.pytorch.trainer.states import TrainerFn

from datamodules import ImageNetDataModule
from mobilemamba.errors import UserError
from tests.datamodules.conftest import photographs, save_image

MakeTable = Callable[..., str]


@pytest.fixture
def table(tmp_path: Path) -> MakeTable:
    """Write a table of rows (path, label, split), and the images of those that are not to be missing."""

    def make(*rows: str, header: str = "path,label,split", missing: tuple[str, ...] = ()) -> str:
        for row in rows:
            path = Path(os.fsdecode(os.fsencode(tmp_path / row.split(",")[0])))
            if path.name not in missing:
                save_image(path, 0, (8, 8))
        file = tmp_path / "table.csv"
        file.write_bytes(os.fsencode("\n".join([header, *rows]) + "\n"))
        return str(file)

    return make


ROWS = ("1.png,NA,train", "deep/2.png,bee,train", "3.png,NA,val", "4.png,bee,val", "5.png,bee,test")


def of_table(file: str, stage: str = "fit", **options: object) -> ImageNetDataModule:
    defaults = {"root": "imagenet", "table": file, "num_classes": None, "batch_size": 2}
    return photographs(stage=stage, **(defaults | options))  # type: ignore[arg-type]


def test_a_table_names_images_labels_and_splits(table: MakeTable, tmp_path: Path) -> None:
    data = of_table(table(*ROWS))
    assert data.class_names == ("NA", "bee")
    assert [(path.name, target) for path, target in data.datasets["train"].images] == [("1.png", 0), ("2.png", 1)]  # type: ignore[attr-defined]
    assert [targets.tolist() for _, targets in data.val_dataloader()] == [[0, 1]]
    tested = of_table(table(*ROWS), TrainerFn.TESTING)  # as a trainer names the stage
    assert [targets.tolist() for _, targets in tested.test_dataloader()] == [[1]]
    (tmp_path / "images").mkdir()
    for name in ("1.png", "deep", "3.png", "4.png", "5.png"):
        (tmp_path / name).rename(tmp_path / "images" / name)
    assert len(of_table(str(tmp_path / "table.csv"), root=str(tmp_path / "images")).datasets["train"]) == 2


def test_a_table_without_splits_is_divided(table: MakeTable) -> None:
    file = table(*(f"{number}.png,{number % 2}" for number in range(20)), header="path,label")
    data = of_table(file, validation_share=0.2)
    assert (len(data.datasets["train"]), len(data.datasets["val"])) == (16, 4)
    with pytest.raises(UserError, match=r"lacks the column\(s\) split: it has path, label\. .* data\.validation_share"):
        of_table(file)


def test_whole_numbers_are_in_the_order_of_their_values(table: MakeTable) -> None:
    rows = (f"{split}{label}.png,{label},{split}" for label in (10, 9, 0) for split in ("train", "val"))
    assert of_table(table(*rows)).class_names == ("0", "9", "10")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((*ROWS, "gone.png,bee,train"), r"1 file\(s\) that are not in .*: 'gone\.png'"),
        ((*ROWS, "deep/../1.png,bee,val"), r"1 path\(s\) more than once: 'deep/\.\./1\.png'"),
        ((*ROWS, "6.png,bee,dev"), r"1 split\(s\) other than train, val, test: 'dev'"),
        ((*ROWS, "6.png"), r"1 row\(s\) without path or label: '6\.png'"),
        ((*ROWS, "6.png,,val"), r"1 row\(s\) without path or label: '6\.png'"),
        ((*ROWS, "6.png,Bee,val", "7.png,Bee,train"), r"differ only in case, Bee and bee"),
        ((*ROWS, "6.png,cow,train"), r'Split "val" of .* has no images of 1 class\(es\): cow'),
        (("1.png,bee,train", "2.png,bee,val"), r"has one class, bee"),
    ],
)
def test_what_cannot_be_right_is_named_and_counted(rows: tuple[str, ...], message: str, table: MakeTable) -> None:
    with pytest.raises(UserError, match=message):
        of_table(table(*rows, missing=("gone.png",)))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    for name in ("empty.csv", "nowhere.csv"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a table"):
            of_table(str(tmp_path / name))
    assert "nowhere.csv must be a file" in ImageNetDataModule(table=str(tmp_path / "nowhere.csv")).missing()


def test_a_parquet_file_is_read_like_text(table: MakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, list[object]] = {
        "path": ["1.png", "2.png", "3.png", "4.png"],
        "label": [9, 10, 9, 10],
        "split": ["train"] * 2 + ["val"] * 2,
    }
    file = table(*(f"{path},," for path in rows["path"])).replace(".csv", ".parquet")
    monkeypatch.setattr(pd, "read_parquet", lambda _: pd.DataFrame(rows))
    assert of_table(file).class_names == ("9", "10")
    rows["label"][3] = None
    with pytest.raises(UserError, match=r"1 row\(s\) without path or label: '4\.png'"):
        of_table(file)


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is here")
def test_a_parquet_file_without_its_reader_names_the_package(tmp_path: Path) -> None:
    (tmp_path / "table.parquet").touch()
    with pytest.raises(UserError, match=r"table\.parquet needs pyarrow: pip install pyarrow"):
        of_table(str(tmp_path / "table.parquet"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_names_that_are_not_utf8_are_read(table: MakeTable) -> None:
    data = of_table(table("caf\udce9.png,caf\udce9,train", "2.png,tea,train", "3.png,caf\udce9,val", "4.png,tea,val"))
    assert data.class_names == (r"caf\udce9", "tea")
    assert len([image for batch in data.train_dataloader() for image in batch[0]]) == 2
    assert data.corrupt_count == 0
