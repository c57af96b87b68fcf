from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from benchmarks.curves import PANELS, draw, read_curves
from mobilemamba.errors import UserError


def test_curves_of_a_log_are_drawn_with_their_values(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as log:
        for step, value in enumerate((0.25, 0.5)):
            log.add_scalar("val/top1_ema", value, step)

    curves = read_curves(tmp_path)
    figure = draw({"a run": curves})

    assert curves == {"val/top1_ema": ([0, 1], [0.25, 0.5])}
    assert [axes.get_title() for axes in figure.axes] == list(PANELS)
    (line,) = figure.axes[0].lines
    assert line.get_label() == "a run, EMA"
    assert list(line.get_ydata()) == [0.25, 0.5]


def test_a_folder_without_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no TensorBoard log"):
        read_curves(tmp_path)
