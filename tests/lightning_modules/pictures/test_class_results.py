"""What is read off a confusion matrix, by hand, and pictures that show it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from lightning_modules.pictures.class_results import (
    class_accuracies,
    class_name,
    class_results,
    draw_accuracies,
    draw_confusion,
    most_confused,
    results_table,
    worst_classes,
)

MATRIX = torch.tensor([[6, 1, 3, 0], [0, 4, 0, 0], [5, 0, 5, 0], [0, 0, 0, 0]])
NAMES = ("ant", "bee", "cat|dog", "eel")


def bars(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches]  # type: ignore[attr-defined]


def y_labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_accuracies_of_classes() -> None:
    accuracies = class_accuracies(MATRIX)
    assert accuracies[:3].tolist() == [0.6, 1.0, 0.5]
    assert accuracies[3].isnan()


def test_most_frequent_confusions_come_first() -> None:
    assert most_confused(MATRIX, 2) == [(2, 0), (0, 2)]
    assert len(most_confused(MATRIX, 16)) == 3  # the recognised and what never happened are no confusions
    assert MATRIX[0, 0] == 6


@pytest.mark.parametrize(("names", "expected"), [(NAMES, ("cat\\|dog", "ant", "bee")), (None, ("2", "0", "1"))])
def test_the_table_begins_with_the_worst(names: tuple[str, ...] | None, expected: tuple[str, str, str]) -> None:
    lines = [[part.strip("| ") for part in line.split(" | ")] for line in worst_classes(MATRIX, names).splitlines()]
    worst, second, best = expected
    assert lines[0] == ["class", "images", "recognised", "mostly taken for"]
    assert lines[2:] == [  # classes without images are left out
        [worst, "10", "50.0%", f"{second} (50%)"],
        [second, "10", "60.0%", f"{worst} (30%)"],
        [best, "4", "100.0%", ""],
    ]
    assert len(worst_classes(MATRIX, names, 1).splitlines()) == 3


def test_the_table_of_all_classes_is_printable() -> None:
    names = ("n01440764", "a|b", "caf\udce9\n", "eel")  # a folder of ImageNet, and names that no table could hold
    lines = results_table(class_results(MATRIX, names)).splitlines()
    rows = [[part.strip() for part in line[2:-2].split(" | ")] for line in lines[2:]]
    assert rows == [
        ["tench, Tinca tinca", "10", "60.0%", "54.5%", "57.1%"],
        [r"a\|b", "4", "100.0%", "80.0%", "88.9%"],
        ["caf?", "10", "50.0%", "62.5%", "55.6%"],
        ["eel", "0", "", "", ""],
    ]
    assert class_results(MATRIX, None)[2].name == "2"


def test_a_small_matrix_holds_its_numbers() -> None:
    figure = draw_confusion(torch.tensor([[3, 1], [0, 4]]), ("ant", "bee"))
    axes = figure.axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "3", (1, 0): "1", (1, 1): "4"}
    assert np.array_equal(axes.images[0].get_array(), [[0.75, 0.25], [0, 1]])  # rows are true classes
    assert axes.get_title() == "7 of 8 images recognised (87.5%)"
    assert y_labels(axes) == ["ant", "bee"]
    figure.canvas.draw()  # warnings are errors


def test_many_classes_are_shown_by_their_confusions() -> None:
    matrix = 10 * torch.eye(50, dtype=torch.int64)
    matrix[7, 9], matrix[30, 2], matrix[30, 3] = 30, 10, 5
    figure = draw_confusion(matrix, None)
    axes = figure.axes[0]
    assert y_labels(axes) == ["class 7 → class 9", "class 30 → class 2", "class 30 → class 3"]
    assert bars(axes) == pytest.approx([30 / 40, 10 / 25, 5 / 25])
    assert [text.get_text() for text in axes.texts] == ["30", "10", "5"]
    assert "45 mistakes" in axes.get_title()
    figure.canvas.draw()


@pytest.mark.parametrize("classes", [3, 50])
def test_a_perfect_network_can_be_drawn(classes: int) -> None:
    draw_confusion(torch.eye(classes, dtype=torch.int64), None).canvas.draw()
    draw_accuracies(torch.ones(classes), None).canvas.draw()


def test_accuracies_of_few_classes_are_sorted_bars() -> None:
    figure = draw_accuracies(torch.tensor([0.5, torch.nan, 0.9, 0.1]), ("ant", "bee", "cat", "dog"))
    axes = figure.axes[0]
    assert (y_labels(axes), bars(axes)) == (["cat", "ant", "dog"], pytest.approx([0.9, 0.5, 0.1]))
    assert axes.get_title() == "mean of the classes 50.0% (dashed)"
    figure.canvas.draw()


def test_accuracies_of_many_classes_are_a_distribution() -> None:
    accuracies = torch.cat([torch.full((20,), 0.02), torch.full((40,), 0.98), torch.tensor([torch.nan])])
    axes = draw_accuracies(accuracies, None).axes[0]
    heights = [bar.get_height() for bar in axes.patches]  # type: ignore[attr-defined]
    assert (heights[0], heights[-1], sum(heights)) == (20, 40, 60)
    assert axes.get_ylabel() == "classes (of 60)"


def test_names_are_short_and_no_mathematics() -> None:
    assert class_name(1, None) == "class 1"
    assert class_name(0, ["tench, Tinca tinca"]) == "tench"
    assert class_name(0, ["a$b$"]) == r"a\$b\$"
    assert class_name(0, ["a very long name of a class"]) == "a very long name of…"
