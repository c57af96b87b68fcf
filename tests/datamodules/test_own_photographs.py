"""Photographs as people have them: folders that are not divided, a test set, classes that are counted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules import ImageNetDataModule
from mobilemamba.errors import UserError
from tests.datamodules.conftest import photographs, save_image

ClassFolders = Callable[..., Path]


@pytest.fixture
def folders(tmp_path: Path) -> ClassFolders:
    """Make root/{ant,bee,...}/*.png with as many images as are named."""

    def make(**counts: int) -> Path:
        for name, count in counts.items():
            for number in range(count):
                save_image(tmp_path / "own" / name / f"{number}.png", number, (8, 8))
        return tmp_path / "own"

    return make


def split_of(data: ImageNetDataModule) -> dict[str, str]:
    return {
        str(path.relative_to(data.root)): split
        for split in ("train", "val")
        for path, _ in data.datasets[split].images  # type: ignore[attr-defined]
    }


def divided(root: Path, **options: object) -> dict[str, str]:
    return split_of(photographs(root, **({"num_classes": None, "validation_share": 0.2} | options)))


def test_a_share_of_each_class_is_validated_on(folders: ClassFolders) -> None:
    root = folders(ant=10, bee=20)
    split = divided(root)
    validated = [path for path, part in split.items() if part == "val"]
    assert (len(split), len(validated)) == (30, 6)
    assert sum(path.startswith("ant") for path in validated) == 2
    assert divided(root) == split != divided(root, seed=1)


def test_few_images_change_sides_when_others_are_added(folders: ClassFolders) -> None:
    before = divided(folders(ant=50, bee=50))
    after = divided(folders(ant=55, bee=50))
    changed = [path for path in before if before[path] != after[path]]
    assert len(changed) <= 2
    assert all(path.startswith("ant") for path in changed)


def test_folders_of_splits_beside_classes(folders: ClassFolders) -> None:
    root = folders(ant=5, bee=5, train=5)  # a class of trains
    assert photographs(root, num_classes=None, validation_share=0.2).class_names == ("ant", "bee", "train")
    for name in ("ant", "bee"):
        save_image(root / "test" / name / "0.png", 0, (8, 8))
    data = photographs(root, "test", num_classes=None, validation_share=0.2)
    assert [len(targets) for _, targets in data.test_dataloader()] == [2]
    assert data.class_names == ("ant", "bee", "train")  # which the test may lack


def test_a_train_folder_without_val_is_divided(image_folder: Callable[..., Path], folders: ClassFolders) -> None:
    root = image_folder()
    with pytest.raises(UserError, match=r"validation_share = 0\.2 must be null, since there are validation images"):
        divided(root)
    (root / "val").rename(root / "test")
    assert sorted(divided(root, validation_share=0.25).values()) == ["train"] * 9 + ["val"] * 3
    with pytest.raises(UserError, match=r"found no class folders in .*/train.*set data\.validation_share"):
        photographs(folders(ant=1, bee=1))


def test_without_test_images_those_to_validate_on_are_tested(
    image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = image_folder()
    (root / "test").mkdir()
    save_image(root / "test" / "unlabelled.jpg", 0)  # as ImageNet's own
    with caplog.at_level("INFO"):
        assert sum(len(targets) for _, targets in photographs(root, "test").test_dataloader()) == 12
    assert "There are no images to test on" in caplog.text + "".join(capsys.readouterr())


def test_classes_are_counted_and_named(folders: ClassFolders, tmp_path: Path) -> None:
    root = folders(ant=10, bee=20)
    (root / ".ipynb_checkpoints").mkdir()
    data = photographs(root, num_classes=None, validation_share=0.2)
    assert (data.num_classes, data.class_counts) == (2, (8, 16))
    with pytest.raises(UserError, match=r"2 classes, 1 fewer than data\.num_classes = 3: ant, bee\. Set .* null"):
        photographs(root, validation_share=0.2)
    names = tmp_path / "names.txt"
    names.write_text("ant Ant\nbee Bee\ncow Cow\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"1 fewer than data\.num_classes = 3, namely cow\."):
        photographs(root, validation_share=0.2, class_names_file=str(names))
    folders(weird=1)
    with pytest.raises(UserError, match=r"1 more than data\.num_classes = 2; those with the fewest .* weird \(1\)\."):
        photographs(root, num_classes=2, validation_share=0.2)


def test_classes_that_cannot_be_learned_are_refused(folders: ClassFolders) -> None:
    root = folders(ant=10)
    with pytest.raises(UserError, match="has one class, ant: two or more"):
        divided(root)
    folders(bee=1)
    with pytest.raises(UserError, match=r"validation_share = 0\.2 divides .* so that val has no images .*: bee\."):
        divided(root)
    with pytest.raises(UserError, match=r"so that train has no images of 1 class\(es\): bee\."):
        divided(root, validation_share=0.5)
    folders(Bee=1)
    with pytest.raises(UserError, match="differ only in case, Bee and bee"):
        divided(root)
    with pytest.raises(UserError, match=r"validation_share = 1 must be a share"):
        divided(root, validation_share=1)


def test_a_checkpoint_keeps_its_split_when_images_come_and_go(folders: ClassFolders) -> None:
    root = folders(ant=10, bee=10)
    first = photographs(root, num_classes=None, validation_share=0.3)
    validated = {path for path, part in split_of(first).items() if part == "val"}
    gone = max(validated)
    (root / gone).unlink()
    folders(ant=30)
    resumed = photographs(root, num_classes=None, validation_share=0.3)
    resumed.load_state_dict(first.state_dict())
    after = split_of(resumed)
    assert {path for path, part in after.items() if part == "val"} == validated - {gone}
    assert len(after) == 39
    tested = photographs(root, "test", num_classes=None, validation_share=0.3)
    tested.load_state_dict(first.state_dict())
    assert len(tested.datasets["test"]) == len(validated) - 1
    for path in validated:
        (root / path).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"The checkpoint divides .* so that val has no images"):
        photographs(root, num_classes=None, validation_share=0.3).load_state_dict(first.state_dict())


def test_prediction_needs_no_more_than_the_number_of_classes(folders: ClassFolders, tmp_path: Path) -> None:
    root = folders(ant=5, bee=5)
    state = photographs(root, num_classes=None, validation_share=0.2).state_dict()
    root.rename(tmp_path / "elsewhere")
    options = {"validation_share": 0.2, "predict_folder": str(tmp_path / "elsewhere")}
    data = photographs(root, "predict", num_classes=2, **options)
    data.load_state_dict(state)
    assert sum(len(paths) for _, paths in data.predict_dataloader()) == 10
    with pytest.raises(UserError, match=r"null counts the classes: data\.root = .* no folders of classes.* give their"):
        photographs(root, "predict", num_classes=None, **options)


def test_balanced_draws_are_of_all_classes_alike(folders: ClassFolders) -> None:
    root = folders(ant=40, bee=10)
    data = photographs(root, num_classes=None, validation_share=0.5, balance=1.0)
    drawn = [data.datasets["train"].images[draw.image][1] for draw in data.train_dataloader().sampler]
    assert np.bincount(drawn).tolist() == [12, 13]
