import pytest

from experiments.matching.layouts import find_layout
from experiments.matching.widths import LARGEST_WIDTH, WidthSpace
from mobilemamba import MobileMambaConfig
from mobilemamba.errors import UserError


def test_scaled_widths_are_rounded_to_multiples() -> None:
    space = WidthSpace(MobileMambaConfig(widths=(192, 384, 448)), 8)
    assert space.at(1.0) == (192, 384, 448)
    assert space.at(0.52) == (96, 200, 232)  # 99.8, 199.7 and 233.0
    assert space.at(0.001) == (8, 8, 8)


def test_the_stem_divides_the_first_width() -> None:
    assert WidthSpace(MobileMambaConfig(), 4).multiples == (8, 4, 4)
    assert WidthSpace(MobileMambaConfig(), 12).multiples == (24, 12, 12)
    assert WidthSpace(find_layout("four_stage_cnn").network, 1).multiples == (2, 1, 1, 1)


def test_neighbours_change_one_stage_within_what_is_possible() -> None:
    space = WidthSpace(MobileMambaConfig(), 8)
    assert space.neighbours((8, 384, 448), -1) == [(8, 376, 448), (8, 384, 440)]
    assert space.neighbours((8, 384, LARGEST_WIDTH), 1) == [(16, 384, LARGEST_WIDTH), (8, 392, LARGEST_WIDTH)]


def test_limits_are_the_ends_of_what_is_possible() -> None:
    # Sixteen local kernels need as many local channels: a fifth of 80.
    network = MobileMambaConfig(global_shares=(0.0, 0.7, 0.6), local_kernels=((3,) * 16, (3,), (3,)))
    space = WidthSpace(network, 8)
    smallest, largest = space.limits()
    assert space.at(smallest)[0] == 80
    assert not space.is_possible((72, 144, 168))
    assert max(space.at(largest)) == LARGEST_WIDTH
    assert space.is_possible(space.at(largest))


def test_a_layout_without_possible_widths_is_refused() -> None:
    space = WidthSpace(MobileMambaConfig(local_shares=(0.001, 0.2, 0.3), local_kernels=((3,), (5,), (3,))), 4096)
    with pytest.raises(UserError, match="use a smaller --multiple"):
        space.limits()
