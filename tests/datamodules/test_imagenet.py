import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilemamba.errors import UserError
from tests.datamodules.conftest import photographs, save_image


def test_folders_give_the_classes(image_folder: Callable[..., Path]) -> None:
    data = photographs(image_folder())
    assert data.metadata().class_names == ("ant", "bee", "cow")
    assert [target for _, target in data.datasets["train"].images] == [0] * 4 + [1] * 4 + [2] * 4


def _empty_class(root: Path) -> None:
    for file in (root / "train" / "bee").iterdir():
        file.unlink()


def _file_as_root(root: Path) -> None:
    shutil.rmtree(root)
    root.touch()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (shutil.rmtree, {}, r"must be a folder like ImageNet's.*train/<class>/.*/val/<class>/.*quickstart\.yaml"),
        (_file_as_root, {}, r"must be a folder like ImageNet's.*train/<class>/.*/val/<class>/.*quickstart\.yaml"),
        (_empty_class, {}, r"images/train has no images of 1 class\(es\): bee\."),
        (
            lambda root: (root / "val" / "cow").rename(root / "val" / "dog"),
            {},
            r"only in val \['dog'\], missing in val \['cow'\]",
        ),
        (lambda root: None, {"num_classes": 1000}, r"3 classes, 997 fewer than .*--data.num_classes null"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(
    image_folder: Callable[..., Path], change: Callable[[Path], object], options: dict[str, Any], message: str
) -> None:
    root = image_folder()
    change(root)
    with pytest.raises(UserError, match=message):
        photographs(root, **options)


def test_folders_are_scanned_once(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    data = photographs(root)
    shutil.move(root / "val", root / "gone")
    data.setup("validate")
    assert len(data.validation_dataset()) == 12


def test_readable_class_names_come_from_a_file(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = image_folder()
    names = tmp_path / "names.txt"
    names.write_text("cow Cow, cattle\nant Ant\nbee Honey bee\nowl Owl\n", encoding="utf-8")
    assert photographs(root, class_names_file=str(names)).metadata().class_names == ("Ant", "Honey bee", "Cow, cattle")
    names.write_text("cow Cow\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"names 1 of 3 and lacks \['ant', 'bee'\]"):
        photographs(root, class_names_file=str(names))
    with pytest.raises(UserError, match=r"class_names_file = .*nowhere must be a text file"):
        photographs(root, class_names_file=str(tmp_path / "nowhere"))


def test_prediction_reads_any_folder(tmp_path: Path) -> None:
    save_image(tmp_path / "deep" / "er" / "b.png", 0)
    save_image(tmp_path / "a.jpg", 1)
    (tmp_path / "notes.txt").touch()
    data = photographs(tmp_path / "no imagenet here", stage="predict", predict_folder=str(tmp_path))
    images, paths = next(iter(data.predict_dataloader()))
    assert images.shape == (2, 3, 64, 64)
    assert paths == ["a.jpg", "deep/er/b.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_paths_that_are_not_utf8_are_predicted_under_printable_names(tmp_path: Path) -> None:
    save_image(tmp_path / "caf\udce9.png", 0)
    data = photographs(tmp_path, stage="predict", predict_folder=str(tmp_path))
    assert next(iter(data.predict_dataloader()))[1] == [r"caf\udce9.png"]


def test_prediction_without_a_folder_is_of_the_validation_images(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    _, paths = next(iter(photographs(root, stage="predict").predict_dataloader()))
    assert paths == [str(root / "val" / "ant" / f"{number}.jpg") for number in range(4)]


def test_a_prediction_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.predict_folder = .* must hold images"):
        photographs(tmp_path, stage="predict", predict_folder=str(tmp_path))


@pytest.mark.skipif("IMAGENETTE_DIR" not in os.environ, reason="IMAGENETTE_DIR names no folder of photographs")
def test_real_photographs() -> None:
    data = photographs(Path(os.environ["IMAGENETTE_DIR"]), num_classes=10, num_workers=2, batch_size=32)
    images, targets = data.finish(next(iter(data.train_dataloader())))
    assert images.shape == (32, 3, 64, 64)
    assert targets.unique().numel() > 3
    assert data.corrupt_count == 0
