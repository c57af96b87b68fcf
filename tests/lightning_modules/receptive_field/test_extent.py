import pytest
import torch

from lightning_modules.receptive_field.extent import Circle, Square, measure_extent

# 40 in all: 8 in the middle, 4 x 4 beside it, 4 x 2 at its corners, 4 x 1 at distance 2 and 4 x 1 in the corners.
SMALL = torch.tensor(
    [[1, 0, 1, 0, 1], [0, 2, 4, 2, 0], [1, 4, 8, 4, 1], [0, 2, 4, 2, 0], [1, 0, 1, 0, 1]], dtype=torch.float64
)


def test_circles_by_hand() -> None:
    extent = measure_extent(SMALL, radii=[0, 1, 2, 3, 100])
    assert extent.centre == (2, 2)
    assert extent.circles == (
        Circle(0, 0.0, 8 / 40),
        Circle(1, 0.2, 24 / 40),
        Circle(2, 0.4, 36 / 40),
        Circle(3, 0.6, 1.0),
        Circle(100, 20.0, 1.0),
    )


def test_squares_by_hand() -> None:
    # The pixel alone holds 20 %, 3 x 3 pixels hold 80 %.
    squares = measure_extent(SMALL, radii=[], shares=(0.2, 0.21, 0.8, 0.81, 1.0)).squares
    assert squares == (
        Square(0.2, 1, 0.2, 1 / 25),
        Square(0.21, 3, 0.6, 9 / 25),
        Square(0.8, 3, 0.6, 9 / 25),
        Square(0.81, 5, 1.0, 1.0),
        Square(1.0, 5, 1.0, 1.0),
    )


def test_the_field_is_measured_about_itself_wherever_it_lies() -> None:
    shifted = torch.zeros(9, 12, dtype=torch.float64)
    shifted[3:8, 5:10] = SMALL
    extent = measure_extent(shifted, radii=[1], shares=(0.8,))
    assert extent.centre == (5, 7)
    assert extent.circles == (Circle(1, 1 / 9, 24 / 40),)
    assert extent.squares == (Square(0.8, 3, 3 / 9, 9 / 108),)


def test_a_square_ends_at_the_border() -> None:
    corner = torch.zeros(4, 4, dtype=torch.float64)
    corner[0, 0], corner[3, 3] = 3, 1
    (square,) = measure_extent(corner, radii=[], shares=(0.9,)).squares
    assert square == Square(0.9, 4, 1.0, 1.0)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_shares_do_not_depend_on_the_scale(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    contributions = torch.rand(31, 31, generator=generator, dtype=torch.float64)
    one, other = measure_extent(contributions, [4, 9]), measure_extent(contributions * scale, [4, 9])
    assert one.squares == other.squares
    assert [c.share for c in one.circles] == pytest.approx([c.share for c in other.circles])
