"""Pictures show the numbers they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.mixing import Mixer, MixingConfig, smooth_targets
from lightning_modules.pictures.class_accuracy import draw_accuracies
from lightning_modules.pictures.confusion import draw_confusion
from lightning_modules.pictures.decay import decay_percentiles, draw_decays
from lightning_modules.pictures.names import class_name
from lightning_modules.pictures.samples import denormalised, draw_samples, label_text, mixed_labels
from lightning_modules.scan_memory import scan_decay

MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


def bars(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches]  # type: ignore[attr-defined]


def y_labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def render(figure: Figure) -> None:
    figure.canvas.draw()  # warnings are errors


def test_a_small_matrix_holds_its_numbers() -> None:
    figure = draw_confusion(torch.tensor([[3, 1], [0, 4]]), ("ant", "bee"))
    axes = figure.axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "3", (1, 0): "1", (1, 1): "4"}
    assert np.array_equal(axes.images[0].get_array(), [[0.75, 0.25], [0, 1]])  # rows are true classes
    assert axes.get_title() == "7 of 8 images recognised (87.5%)"
    assert y_labels(axes) == ["ant", "bee"]
    render(figure)


def test_many_classes_are_shown_by_their_confusions() -> None:
    matrix = 10 * torch.eye(50, dtype=torch.int64)
    matrix[7, 9], matrix[30, 2], matrix[30, 3] = 30, 10, 5
    figure = draw_confusion(matrix, None)
    axes = figure.axes[0]
    assert y_labels(axes) == ["class 7 → class 9", "class 30 → class 2", "class 30 → class 3"]
    assert bars(axes) == pytest.approx([30 / 40, 10 / 25, 5 / 25])
    assert [text.get_text() for text in axes.texts] == ["30", "10", "5"]
    assert "45 mistakes" in axes.get_title()
    render(figure)


@pytest.mark.parametrize("classes", [3, 50])
def test_a_perfect_network_can_be_drawn(classes: int) -> None:
    render(draw_confusion(torch.eye(classes, dtype=torch.int64), None))
    render(draw_accuracies(torch.ones(classes), None))


def test_accuracies_of_few_classes_are_sorted_bars() -> None:
    figure = draw_accuracies(torch.tensor([0.5, torch.nan, 0.9, 0.1]), ("ant", "bee", "cat", "dog"))
    axes = figure.axes[0]
    assert (y_labels(axes), bars(axes)) == (["cat", "ant", "dog"], pytest.approx([0.9, 0.5, 0.1]))
    assert axes.get_title() == "mean of the classes 50.0% (dashed)"
    render(figure)


def test_accuracies_of_many_classes_are_a_distribution() -> None:
    accuracies = torch.cat([torch.full((20,), 0.02), torch.full((40,), 0.98), torch.tensor([torch.nan])])
    axes = draw_accuracies(accuracies, None).axes[0]
    heights = [bar.get_height() for bar in axes.patches]  # type: ignore[attr-defined]
    assert (heights[0], heights[-1], sum(heights)) == (20, 40, 60)
    assert axes.get_ylabel() == "classes (of 60)"


def test_shares_of_a_mixed_label() -> None:
    target = torch.full((10,), 0.01)
    target[3] += 0.3
    target[8] += 0.6
    labels = mixed_labels(target, 0.1)
    assert [index for index, _ in labels] == [8, 3]
    assert [share for _, share in labels] == pytest.approx([0.61, 0.31])
    assert label_text(labels, None) == "class 8: 61%\nclass 3: 31%\nothers: 8%"


@pytest.mark.parametrize(
    ("target", "smoothing", "expected"),
    [
        (torch.tensor(2), 0.1, [(2, 1.0)]),
        (smooth_targets(torch.tensor([2]), 4, 0.0)[0], 0.0, [(2, 1.0)]),
        (smooth_targets(torch.tensor([2]), 4, 0.2)[0], 0.2, [(2, pytest.approx(0.85))]),
        (smooth_targets(torch.tensor([1]), 2, 0.1)[0], 0.1, [(1, pytest.approx(0.95))]),
        (torch.tensor([1.0]), 0.1, [(0, 1.0)]),  # the only class there is
    ],
)
def test_labels_of_images_that_are_not_mixed(
    target: Tensor, smoothing: float, expected: list[tuple[int, float]]
) -> None:
    assert mixed_labels(target, smoothing) == expected


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_both_of_two_classes_are_shown(smoothing: float) -> None:
    labels = mixed_labels(torch.tensor([0.45, 0.55]), smoothing)
    assert label_text(labels, None) == "class 1: 55%\nclass 0: 45%"


def test_shares_are_those_of_the_pixels_that_were_mixed() -> None:
    mixer = Mixer(MixingConfig(mixup=1.0, cutmix=0.0, label_smoothing=0.1), num_classes=4)
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    mixed, targets = mixer(images, torch.tensor([1, 3]), seed=(1,))
    share = mixed[0, 0, 0, 0].item()  # of the second image in the first
    labels = dict(mixed_labels(targets[0], 0.1))
    assert 0.05 < share < 0.95
    assert labels == {1: pytest.approx(0.025 + 0.9 * (1 - share)), 3: pytest.approx(0.025 + 0.9 * share)}


def test_colours_are_those_before_the_normalisation() -> None:
    colours = torch.rand(2, 3, 4, 5)
    normalised = (colours - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(denormalised(normalised, MEAN, STD), colours)
    assert denormalised(normalised + 100, MEAN, STD).max() == 1


def test_samples_are_drawn_with_their_labels() -> None:
    images, targets = torch.randn(5, 3, 8, 8), torch.tensor([2, 0, 1, 1, 0])
    figure = draw_samples(images, targets, MEAN, STD, ("ant", "bee", "cat"), "five", 0.0)
    (axes,) = figure.axes
    assert figure.texts[0].get_text() == "five"
    labels = [text.get_text() for text in axes.texts]
    assert labels == [f"{name}: 100%" for name in ("cat", "ant", "bee", "bee", "ant")]
    for drawn, image, text in zip(axes.images, denormalised(images, MEAN, STD), axes.texts, strict=True):
        assert np.array_equal(drawn.get_array(), image.permute(1, 2, 0).numpy())
        left, right, bottom, top = drawn.get_extent()
        assert right - left == pytest.approx(top - bottom)
        assert text.get_position() == (left, pytest.approx(bottom, abs=0.1))  # below its image
    render(figure)


def test_other_channels_are_drawn_in_grey() -> None:
    render(draw_samples(torch.randn(1, 1, 8, 8), torch.tensor([0]), (0.5,), (0.1,), None, "", 0.0))


def test_names_are_short_and_no_mathematics() -> None:
    assert class_name(1, None) == "class 1"
    assert class_name(0, ["tench, Tinca tinca"]) == "tench"
    assert class_name(0, ["a$b$"]) == r"a\$b\$"
    assert class_name(0, ["a very long name of a class"]) == "a very long name of…"


def test_decay_lengths_are_drawn_beside_the_size_of_the_map() -> None:
    steps = torch.logspace(0, -2, 101).view(1, 1, 101, 1, 1).expand(1, 2, 101, 3, 4)  # lengths of 1 to 100 pixels
    decay = scan_decay(torch.log(torch.expm1(steps)), torch.zeros(2, 101, 1))
    expected = [10 ** (2 * share) for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    assert decay_percentiles(decay) == pytest.approx(expected, rel=0.02)
    figure = draw_decays({"stages.0.blocks.0": decay, "stages.1.blocks.0": decay})
    axes = figure.axes[0]
    assert y_labels(axes) == ["stages.0.blocks.0  3x4", "stages.1.blocks.0  3x4"]
    drawn = [value for line in axes.lines[:5] for value in np.atleast_1d(line.get_xdata()).tolist()]
    lowest, lower, median, upper, highest = expected
    assert drawn == pytest.approx([lowest, highest, lower, upper, median, 4, 12], rel=0.02)
    render(figure)


def test_a_state_that_never_decays_can_be_drawn() -> None:
    steps = torch.tensor([-200.0, 0.0]).view(1, 1, 2, 1, 1)  # exp(-200) is zero in single precision
    decay = scan_decay(steps, torch.zeros(1, 2, 1))
    assert decay.decay_lengths.isinf().tolist() == torch.tensor([True, False]).view(1, 1, 2, 1, 1, 1).tolist()
    assert decay_percentiles(decay)[-1] <= 1e6
    render(draw_decays({"stages.0.blocks.0": decay}))
