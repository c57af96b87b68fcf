import math

import pytest

from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions
from mobilemamba.export.formats import FORMATS, FormatName


def test_unknown_format_names_the_choices() -> None:
    with pytest.raises(UserError, match=f"format = 'tflite' must be one of {', '.join(FORMATS)}"):
        ExportOptions(format="tflite")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["executorch", "litert", "coreml"])
def test_formats_of_fixed_shape_say_so(name: FormatName) -> None:
    for field in ("dynamic_batch", "dynamic_size"):
        remedy = f"{field} = True must be false: {name} files .* to false, .* by --no-{field.replace('_', '-')}"
        with pytest.raises(UserError, match=remedy):
            ExportOptions(**{"format": name, "dynamic_batch": False, field: True})  # type: ignore[arg-type]


@pytest.mark.parametrize("tolerance", [0.0, -1e-4, math.nan, math.inf])
def test_tolerance_must_be_a_positive_number(tolerance: float) -> None:
    with pytest.raises(UserError, match=r"tolerance = .* must be a positive number"):
        ExportOptions(tolerance=tolerance)
