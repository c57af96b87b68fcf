"""Training images are drawn in their colours, with their mixed labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.mixing import Mixer, MixingConfig, smooth_targets
from lightning_modules.pictures.samples import denormalised, draw_samples, label_text, mixed_labels
from mobilemamba import ModelMetadata

METADATA = ModelMetadata((8, 8), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), class_names=("ant", "bee", "cat"))


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
    normalised = (colours - torch.tensor(METADATA.mean)[:, None, None]) / torch.tensor(METADATA.std)[:, None, None]
    torch.testing.assert_close(denormalised(normalised, METADATA), colours)
    assert denormalised(normalised + 100, METADATA).max() == 1


def test_samples_are_drawn_with_their_labels() -> None:
    images, targets = torch.randn(5, 3, 8, 8), torch.tensor([2, 0, 1, 1, 0])
    figure = draw_samples(images, targets, METADATA, "five", 0.0)
    (axes,) = figure.axes
    assert figure.texts[0].get_text() == "five"
    labels = [text.get_text() for text in axes.texts]
    assert labels == [f"{name}: 100%" for name in ("cat", "ant", "bee", "bee", "ant")]
    for drawn, image, text in zip(axes.images, denormalised(images, METADATA), axes.texts, strict=True):
        assert np.array_equal(drawn.get_array(), image.permute(1, 2, 0).numpy())
        left, right, bottom, top = drawn.get_extent()
        assert right - left == pytest.approx(top - bottom)
        assert text.get_position() == (left, pytest.approx(bottom, abs=0.1))  # below its image
    figure.canvas.draw()


def test_labels_do_not_overlap() -> None:
    names = tuple(f"American Staffordshire terrier {index}, Staffordshire terrier" for index in range(4))
    targets = torch.tensor([0.4, 0.3, 0.2, 0.1]).expand(8, 4)
    metadata = ModelMetadata((8, 8), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), class_names=names)
    figure = draw_samples(torch.zeros(8, 3, 8, 8), targets, metadata, "a title\nof two lines", 0.0)
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in (*figure.texts, *axes.texts)]
    boxes += [image.get_window_extent() for image in axes.images]
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)


def test_other_channels_are_drawn_in_grey() -> None:
    metadata = ModelMetadata(image_size=(8, 8), mean=(0.5,), std=(0.1,))
    draw_samples(torch.randn(1, 1, 8, 8), torch.tensor([0]), metadata, "", 0.0).canvas.draw()
