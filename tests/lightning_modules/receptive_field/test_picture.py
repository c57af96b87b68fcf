import pytest
import torch
from matplotlib.colors import LogNorm

from lightning_modules.receptive_field.picture import draw


def test_panels_share_a_logarithmic_scale_and_show_the_square_of_half() -> None:
    flat = torch.ones(9, 9, dtype=torch.float64)
    point = torch.zeros(9, 9, dtype=torch.float64)
    point[2, 5] = 7
    figure = draw([flat, point], ["flat", "a point"], "two maps")
    first, second, _ = figure.axes
    assert [first.get_title(), second.get_title()] == ["flat", "a point"]
    for axes in (first, second):
        norm = axes.images[0].norm
        assert isinstance(norm, LogNorm)
        assert (norm.vmin, norm.vmax) == (1e-4, 1.0)  # shares, from the largest of both panels downwards
    assert first.images[0].get_array().max() == pytest.approx(1 / 81)
    square = first.patches[0]
    # 7 x 7 of 81 pixels is the first odd square with half; pixel 4 spans 3.5 to 4.5.
    assert (square.get_xy(), square.get_width(), square.get_height()) == ((0.5, 0.5), 7, 7)
    assert second.patches[0].get_xy() == (4.5, 1.5)
    assert first.get_xlabel() == "50 % within 7 x 7 pixels"
