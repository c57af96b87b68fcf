"""Views that are drawn again: the same pixels whoever draws them, each with what is stored of that very image."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.likeliest_classes import make_rows, set_rows
from datamodules.sampling import Draw, TrainingSampler, View
from datamodules.seeded_views import StoredViews, ViewToStore, view_seed
from datamodules.stored_teacher import StoredTeacher
from tests.datamodules.conftest import photographs, truncate


def drawn(epoch: int, **options: object) -> list[Draw | View]:
    sampler = TrainingSampler(12, 5, **options)  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    return list(sampler)


def test_epochs_draw_views_in_turn_in_the_order_they_have_without() -> None:
    for epoch in range(5):
        views = drawn(epoch, views=3)
        assert {view.number for view in views if isinstance(view, View)} == {epoch % 3}
        assert [view.image for view in views] == [draw.image for draw in drawn(epoch)]


def test_repeats_in_an_epoch_are_views_of_their_own() -> None:
    numbers = [[view[1] for view in drawn(epoch, views=5, repeats=2)] for epoch in range(3)]
    assert numbers == [[0, 1] * 6, [2, 3] * 6, [4, 0] * 6]


def test_an_image_drawn_several_times_for_balance_has_another_view_each_time() -> None:
    targets = np.repeat([0, 1], [10, 2])
    seen = [view for epoch in range(2) for view in drawn(epoch, views=100, balance=1.0, targets=targets)]
    assert sum(view.image >= 10 for view in seen) == 12
    assert len(set(seen)) == len(seen)


def test_processes_share_the_views_and_go_on_within_an_epoch() -> None:
    whole = drawn(1, views=3, repeats=2)
    halves = [drawn(1, views=3, repeats=2, rank=rank, world_size=2) for rank in range(2)]
    assert [view for pair in zip(*halves, strict=True) for view in pair] == whole
    resumed = TrainingSampler(12, 5, repeats=2, epoch=1, start=4, views=3)
    assert list(resumed) == whole[4:]


def test_the_seed_of_a_view_depends_on_seed_number_and_image_alone() -> None:
    seeds = {view_seed(seed, View(image, number)) for seed in range(5) for image in range(6) for number in range(7)}
    assert len(seeds) == 210
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert view_seed(3, View(4, 5)) == view_seed(3, View(4, 5))


def store_of(root: Path, folder: Path) -> tuple[StoredTeacher, dict[View, Tensor]]:
    """Store answers for two views, the first class at 0.5 + 0.01 * image + 0.2 * view; return them with the pixels."""
    data = photographs(root)
    fingerprint = {**data.fingerprint(), "teacher": {}}
    fingerprint["augmentation"]["seed"] = 7
    images = data.datasets["train"]
    store = StoredTeacher.create(folder, fingerprint, len(images), 3, 1)
    store.want(2)
    pixels = {}
    for number in range(2):
        rows = make_rows(store.row_type, len(images))
        dataset = ViewToStore(images, 7, number)  # type: ignore[arg-type]
        for sample in filter(None, (dataset[index] for index in range(len(dataset)))):
            index = int(sample.label)
            pixels[View(index, number)] = sample.image
            likeliest = 0.5 + 0.01 * index + 0.2 * number
            probabilities = torch.tensor([[likeliest, (1 - likeliest) / 2, (1 - likeliest) / 2]])
            set_rows(rows, np.array([index]), probabilities.log())
        store.add(number, rows)
    return store, pixels


def expected(view: View) -> np.ndarray:
    return np.array([0.5 + 0.01 * view.image + 0.2 * view.number], dtype=np.float16)


def test_a_student_sees_what_the_teacher_saw(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = image_folder()
    store, pixels = store_of(root, tmp_path / "store")
    # As loader processes get it, and in any order.
    dataset = pickle.loads(pickle.dumps(StoredViews(photographs(root).datasets["train"], store)))  # type: ignore[arg-type]
    for view in [View(11, 1), View(3, 0), View(11, 0), View(0, 1)]:
        image, label, _, (classes, probabilities) = dataset[view]
        assert torch.equal(image, pixels[view])
        assert (label, classes.tolist()) == (view.image // 4, [0])
        np.testing.assert_array_equal(probabilities, expected(view))
    assert not torch.equal(pixels[View(3, 0)], pixels[View(3, 1)])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_replacement_comes_with_its_own_view_and_answer(
    when: str, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = image_folder()
    file = root / "train" / "bee" / "1.jpg"  # image 5
    content = file.read_bytes()
    if when == "before":
        truncate(file)
    store, pixels = store_of(root, tmp_path / "store")
    if when == "before":
        file.write_bytes(content)  # it can be read again, but nothing is stored of it
        assert store.not_stored == {5}
    else:
        truncate(file)
        assert not store.not_stored
    dataset = StoredViews(photographs(root).datasets["train"], StoredTeacher(store.folder))  # type: ignore[arg-type]
    for number in range(2):
        image, label, _, (_, probabilities) = dataset[View(5, number)]
        index = next(view.image for view, shown in pixels.items() if torch.equal(shown, image))
        assert index in {4, 6, 7}
        assert label == 1
        assert torch.equal(image, pixels[View(index, number)])
        np.testing.assert_array_equal(probabilities, expected(View(index, number)))
