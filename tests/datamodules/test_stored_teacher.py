"""The folder of a stored teacher: what is in its files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.likeliest_classes import all_probabilities, make_rows, set_rows
from datamodules.mixing import Mixer, MixingConfig
from datamodules.stored_teacher import StoredTeacher
from mobilemamba.errors import UserError

FINGERPRINT = {"data": {"images": 4}, "teacher": {"name": "x"}, "augmentation": {"seed": 1, "erasing": 0.5}}


def create(folder: Path, **options: Any) -> StoredTeacher:
    given: dict[str, Any] = {"fingerprint": FINGERPRINT, "images": 4, "classes": 5, "top_k": 2}
    return StoredTeacher.create(folder, **(given | options))


def fill(store: StoredTeacher, view: int) -> None:
    rows = make_rows(store.row_type, 4)
    set_rows(rows, np.arange(4), torch.randn(4, 5, generator=torch.Generator().manual_seed(view)))
    store.add(view, rows)


def finished(folder: Path, views: int = 2) -> StoredTeacher:
    store = create(folder)
    store.want(views)
    for view in range(views):
        fill(store, view)
    return StoredTeacher(folder)


def test_all_classes_come_back_to_half_precision() -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)) * 3
    rows = make_rows(np.dtype([("classes", "<i2", (9,)), ("probabilities", "<f2", (9,))]), 8)
    set_rows(rows, np.arange(6) + 1, logits)
    classes, probabilities = torch.from_numpy(rows["classes"][1:7]), torch.from_numpy(rows["probabilities"][1:7])
    torch.testing.assert_close(
        all_probabilities(classes, probabilities, 9), logits.softmax(1), rtol=2**-11, atol=2**-25
    )
    assert (rows["classes"][[0, 7]] == -1).all()


def test_the_rest_is_spread_over_the_other_classes() -> None:
    classes, known = torch.tensor([[3, 0]], dtype=torch.int16), torch.tensor([[0.5, 0.25]], dtype=torch.float16)
    expected = torch.tensor([[0.25, 0.25 / 3, 0.25 / 3, 0.5, 0.25 / 3]])
    torch.testing.assert_close(all_probabilities(classes, known, 5), expected)


def test_a_teacher_without_finite_logits_is_named() -> None:
    with pytest.raises(UserError, match="teacher's logits are not finite"):
        set_rows(
            make_rows(np.dtype([("classes", "<i2", (1,)), ("probabilities", "<f2", (1,))]), 1),
            np.array([0]),
            torch.tensor([[torch.nan, 1.0]]),
        )


def test_a_row_takes_four_bytes_for_each_class(tmp_path: Path) -> None:
    store = finished(tmp_path)
    assert np.load(store.path(0)).nbytes == 4 * 2 * 4
    assert store.path(1).name == "view_001.npy"


def test_views_are_added_to_a_store_and_kept(tmp_path: Path) -> None:
    before = finished(tmp_path).row(1, 3)
    store = create(tmp_path)
    store.want(1)
    assert (store.views, store.missing()) == (2, [])
    store.want(3)
    assert store.missing() == [2]
    with pytest.raises(UserError, match=r"has 2 of 3 views: run the same mobilemamba store-teacher again"):
        store.check_whole()
    fill(store, 2)
    store.check_whole()
    assert all(map(np.array_equal, before, store.row(1, 3)))


def test_a_view_is_claimed_by_one_process(tmp_path: Path) -> None:
    create(tmp_path).want(2)
    one, other = StoredTeacher(tmp_path), StoredTeacher(tmp_path)
    with one.claimed(0) as mine, other.claimed(0) as theirs, other.claimed(1) as next_one:
        assert (mine, theirs, next_one) == (True, False, True)
        fill(one, 0)
    with other.claimed(0) as again:
        assert not again
    assert not list(tmp_path.glob(".view*"))


@pytest.mark.parametrize("change", ["bit", "gone"])
def test_a_damaged_view_is_named_and_stored_again(change: str, tmp_path: Path) -> None:
    store = finished(tmp_path)
    path = store.path(1)
    if change == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"view_001\.npy is damaged or missing.*run the same mobilemamba store-teacher"):
        store.check_whole()
    store.want(2)
    assert store.missing() == [1]


@pytest.mark.parametrize(
    ("part", "entry", "value"), [("data", "images", 9), ("teacher", "name", "y"), ("augmentation", "erasing", 0.25)]
)
def test_another_fingerprint_is_refused_by_its_part(part: str, entry: str, value: Any, tmp_path: Path) -> None:
    store = finished(tmp_path)
    stored = FINGERPRINT[part][entry]  # type: ignore[index]
    other = {**FINGERPRINT, part: {**FINGERPRINT[part], entry: value}}
    with pytest.raises(
        UserError, match=rf"has other {part} \({entry}: {stored!r} there, {value!r} here\): use"
    ) as error:
        store.check(other)
    assert not any(f"other {name}" in str(error.value) for name in FINGERPRINT if name != part)
    with pytest.raises(UserError, match=f"has other {part}"):
        create(tmp_path, fingerprint=other)


def test_the_same_folder_takes_no_other_number_of_classes_to_keep(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(UserError, match="--top-k = 3 must be 2, as in"):
        create(tmp_path, top_k=3)
    assert create(tmp_path / "all", top_k=10).row_type["classes"].shape == (5,)
    with pytest.raises(UserError, match=r"data\.num_classes = 40000 must be at most 32,768"):
        create(tmp_path / "many", classes=40_000)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"form": 2}'])
def test_a_folder_that_is_no_store_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        StoredTeacher(tmp_path)


def test_other_targets_are_mixed_in_the_proportion_of_the_labels() -> None:
    mixer = Mixer(MixingConfig(label_smoothing=0.0), 4)
    for seed in range(4):  # both mixup and CutMix
        labels = torch.tensor([0, 1, 2, 3])
        said = torch.eye(4)
        images, soft, mixed = mixer(torch.rand(4, 3, 8, 8), labels, (seed,), said)
        torch.testing.assert_close(soft, mixed)
        assert not torch.equal(mixed, torch.eye(4))
        alone, labels_alone = mixer(torch.rand(4, 3, 8, 8), labels, (seed,))
        torch.testing.assert_close(labels_alone, soft)
        assert images.shape == alone.shape
