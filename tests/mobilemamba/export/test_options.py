import math
from typing import Any

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


def test_opset_belongs_to_both_onnx_formats() -> None:
    assert ExportOptions("onnx-float16", opset=18).opset == ExportOptions("onnx", opset=18).opset == 18


@pytest.mark.parametrize("tolerance", [0.0, -1e-4, math.nan, math.inf])
def test_tolerance_must_be_a_positive_number(tolerance: float) -> None:
    with pytest.raises(UserError, match=r"tolerance = .* must be a positive number"):
        ExportOptions(tolerance=tolerance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 16}, "opset = 16 must be 17 to 23, or null for the exporter's default"),
        ({"opset": 24}, "opset = 24 must be 17 to 23"),
        ({"dynamic_size": True, "format": "aoti"}, "dynamic_size = True must be false: aoti files take"),
        ({"opset": 18, "format": "pt2"}, "opset = 18 must be null for format 'pt2'"),
    ],
)
def test_options_of_some_formats_alone_say_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExportOptions(**options)
