"""What is read off a confusion matrix, by hand."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.class_results import (
    Confusion,
    class_accuracies,
    confusion_matrix,
    most_confused,
    most_confused_with,
    worst_classes,
)

MATRIX = torch.tensor(
    [
        [6, 1, 3, 0],
        [0, 4, 0, 0],
        [5, 0, 5, 0],
        [0, 0, 0, 0],
    ]
)
NAMES = ("ant", "bee", "cat|dog", "eel")


def test_accuracies_of_classes() -> None:
    accuracies = class_accuracies(MATRIX)
    assert accuracies[:3].tolist() == [0.6, 1.0, 0.5]
    assert accuracies[3].isnan()


def test_most_frequent_confusions_come_first() -> None:
    assert most_confused(MATRIX, 2) == [Confusion(2, 0, 5, 0.5), Confusion(0, 2, 3, 0.3)]
    # The recognised and what never happened are no confusions.
    assert len(most_confused(MATRIX, 16)) == 3
    assert MATRIX[0, 0] == 6


def test_what_a_class_is_taken_for() -> None:
    assert most_confused_with(MATRIX, 0) == Confusion(0, 2, 3, 0.3)
    assert most_confused_with(MATRIX, 1) is None


@pytest.mark.parametrize(("names", "expected"), [(NAMES, r"cat\|dog"), (None, "2")])
def test_the_table_begins_with_the_worst(names: tuple[str, ...] | None, expected: str) -> None:
    lines = worst_classes(MATRIX, names, 2).splitlines()
    assert [part.strip() for part in lines[0].split(" | ")] == ["| class", "images", "recognised", "mostly taken for |"]
    worst, second = ([part.strip("| ") for part in line.split(" | ")] for line in lines[2:])
    first = "0" if names is None else "ant"
    assert worst == [expected, "10", "50.0%", f"{first} (50%)"]
    assert second == [first, "10", "60.0%", f"{expected} (30%)"]


def test_classes_without_images_are_not_among_the_worst() -> None:
    assert "eel" not in worst_classes(MATRIX, NAMES, 4)


def test_images_are_counted_by_class_and_prediction() -> None:
    predictions, targets = torch.tensor([0, 2, 2, 0]), torch.tensor([0, 1, 1, 2])
    assert confusion_matrix(predictions, targets, 3).tolist() == [[1, 0, 0], [0, 0, 2], [1, 0, 0]]
    assert confusion_matrix(predictions[:0], targets[:0], 2).tolist() == [[0, 0], [0, 0]]
