"""Decay lengths are drawn as they are, those without end too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_modules.pictures.decay import decay_percentiles, draw_decays
from lightning_modules.scan_memory import scan_decay


def test_decay_lengths_are_drawn_beside_the_size_of_the_map() -> None:
    steps = torch.logspace(0, -2, 101).view(1, 1, 101, 1, 1).expand(1, 2, 101, 3, 4)  # lengths of 1 to 100 pixels
    decay = scan_decay(torch.log(torch.expm1(steps)), torch.zeros(2, 101, 1))
    expected = [10 ** (2 * share) for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    assert decay_percentiles(decay) == pytest.approx(expected, rel=0.02)
    figure = draw_decays({"stages.0.blocks.0": decay, "stages.1.blocks.0": decay})
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "stages.0.blocks.0  3x4",
        "stages.1.blocks.0  3x4",
    ]
    drawn = [value for line in axes.lines[:5] for value in np.atleast_1d(line.get_xdata()).tolist()]
    lowest, lower, median, upper, highest = expected
    assert drawn == pytest.approx([lowest, highest, lower, upper, median, 4, 12], rel=0.02)
    figure.canvas.draw()


def test_a_state_that_never_decays_can_be_drawn() -> None:
    steps = torch.tensor([-200.0, 0.0]).view(1, 1, 2, 1, 1)  # exp(-200) is zero in single precision
    decay = scan_decay(steps, torch.zeros(1, 2, 1))
    assert decay.decay_lengths.isinf().tolist() == torch.tensor([True, False]).view(1, 1, 2, 1, 1, 1).tolist()
    assert decay_percentiles(decay)[-1] <= 1e6
    draw_decays({"stages.0.blocks.0": decay}).canvas.draw()
