import math

import pytest

from mobilemamba.export import ExportOptions
from mobilemamba.export.options import FIXED_SHAPE, SUFFIXES, FormatName
from mobilemamba.export.tracing import promised_shapes, tracing_size


def test_unknown_format_names_the_choices() -> None:
    with pytest.raises(ValueError, match=f"format = 'tflite' must be one of {', '.join(SUFFIXES)}"):
        ExportOptions(format="tflite")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FIXED_SHAPE)
@pytest.mark.parametrize("field", ["dynamic_batch", "dynamic_size"])
def test_formats_of_fixed_shape_say_so(name: FormatName, field: str) -> None:
    remedy = f"{field} = True must be false: {name} files .* Set {field} to false, .* by --no-{field.replace('_', '-')}"
    with pytest.raises(ValueError, match=remedy):
        ExportOptions(**{"format": name, "dynamic_batch": False, field: True})  # type: ignore[arg-type]
    assert ExportOptions(format=name, dynamic_batch=False).suffix == SUFFIXES[name]


@pytest.mark.parametrize("tolerance", [0.0, -1e-4, math.nan, math.inf])
def test_tolerance_must_be_a_positive_number(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance = "):
        ExportOptions(tolerance=tolerance)


def test_fixed_file_is_compared_on_single_images_of_its_size() -> None:
    shapes = promised_shapes(3, (64, 96), 64, ExportOptions(dynamic_batch=False))
    assert set(shapes) == {(1, 3, 64, 96)}
    assert len(shapes) >= 16


def test_dynamic_file_is_compared_at_several_batches_and_sizes() -> None:
    shapes = promised_shapes(3, (64, 64), 64, ExportOptions(dynamic_size=True))
    assert len({batch for batch, *_ in shapes}) >= 3
    assert (2, 3, 64, 64) in shapes
    assert any(height != width for _, _, height, width in shapes)
    assert any(height % 2 and width % 2 == 0 for _, _, height, width in shapes)


def test_dynamic_size_is_traced_where_no_map_has_a_side_of_one() -> None:
    assert tracing_size((64, 512), 64, ExportOptions(dynamic_size=True)) == (256, 512)
    assert tracing_size((64, 512), 64, ExportOptions()) == (64, 512)
