"""Files in float16: half the size, float32 images and logits, the scan in float32; what does not fit is refused."""

import copy
import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata, fuse
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, ParityReport, export_network, read_metadata
from mobilemamba.export import export as export_module
from mobilemamba.export.export import _of_detector
from mobilemamba.export.formats.onnx import load
from mobilemamba.export.graph import for_graphs
from mobilemamba.export.half import HalfPrecision
from mobilemamba.export.options import OPSETS
from tests.mobilemamba.export.conftest import calibrate

METADATA = ModelMetadata(image_size=(64, 64))
NAME = "model.float16.onnx"

aten = torch.ops.aten
EXPECTED = {
    aten.exp.default: torch.float32,
    aten.log.default: torch.float32,
    aten.addcmul.default: torch.float32,
    aten.conv2d.default: torch.float16,
    aten.layer_norm.default: torch.float16,
}
"""In what operators of a graph compute."""


@pytest.fixture(scope="module")
def written(network: MobileMamba, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ParityReport]:
    """The oldest operators, which onnx's reference evaluator and old runtimes take."""
    path = tmp_path_factory.mktemp("half") / NAME
    return path, export_network(network, path, ExportOptions("onnx-float16", opset=OPSETS[0]), METADATA)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def assert_close(logits: object, network: MobileMamba, tolerance: float) -> None:
    with torch.no_grad():
        expected = copy.deepcopy(network).eval()(images()).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_weights_are_float16_and_the_ends_float32(written: tuple[Path, ParityReport]) -> None:
    model = onnx.load(written[0])
    onnx.checker.check_model(model, full_check=True)
    values = Counter[int]()
    for tensor in model.graph.initializer:
        values[tensor.data_type] += int(np.prod(tensor.dims))
    assert values[TensorProto.FLOAT16] > 20 * values[TensorProto.FLOAT] > 0  # decays of the scan
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}
    assert read_metadata(written[0]) == METADATA


def test_error_of_the_file_and_of_rounded_results_are_both_reported_and_judged(
    written: tuple[Path, ParityReport], network: MobileMamba
) -> None:
    report = written[1]
    assert report.passed
    assert report.tolerance == 2e-2
    assert report.half is not None
    assert 1e-4 < max(part.max_abs_error for part in report.comparisons) < 5e-3
    assert 1e-4 < report.half.max_abs_error < 7e-3
    assert report.to_dict()["half"]["max_abs_error"] == report.half.max_abs_error
    assert report.max_abs_error == max(part.max_abs_error for part in (*report.comparisons, report.half))


def test_reference_evaluator_rounds_every_result_and_still_gives_the_logits(
    written: tuple[Path, ParityReport], network: MobileMamba
) -> None:
    (logits,) = ReferenceEvaluator(onnx.load(written[0])).run(None, {"images": images().numpy()})
    assert_close(logits, network, 1e-2)


def test_onnxslim_leaves_the_logits_and_the_metadata(
    written: tuple[Path, ParityReport], network: MobileMamba, tmp_path: Path
) -> None:
    onnxslim = pytest.importorskip("onnxslim")
    slim = tmp_path / NAME
    onnx.save(onnxslim.slim(onnx.load(written[0])), slim)
    assert_close(load(slim)(images()), network, 5e-3)
    assert read_metadata(slim) == METADATA


def test_scans_stay_in_float32(network: MobileMamba) -> None:
    """Their products of decays would underflow."""
    half = HalfPrecision(for_graphs(fuse(copy.deepcopy(network).eval()), dynamic_size=False))
    program = torch.export.export(half, (images(),))
    found = {(node.target, node.meta["val"].dtype) for node in program.graph.nodes if node.target in EXPECTED}
    assert found == set(EXPECTED.items())


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (1e6, r"stem\.0\.weight reaches \d.*e\+05, beyond float16 \(up to 65504\)"),
        (1e5, "what some of its layers give is beyond float16"),
    ],
)
def test_values_beyond_float16_are_refused_before_anything_is_written(
    weight: float, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norms after it bring the large values back, so that the network in float32 is sound."""
    torch.manual_seed(0)
    network = MobileMamba(
        MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), mixer_stages=(False, True, False), num_classes=7)
    )
    first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    nn.init.constant_(first.weight, weight)
    calibrate(network)
    monkeypatch.setattr(export_module, "trace", None)  # calling it would fail
    with pytest.raises(UserError, match=f"format = 'onnx-float16' must be 'onnx' for this network: {message}"):
        export_network(network, tmp_path / NAME, ExportOptions("onnx-float16"), METADATA)
    assert os.listdir(tmp_path) == []


def test_detectors_are_refused() -> None:
    with pytest.raises(UserError, match=r"format = 'onnx-float16' .* must be 'onnx' or 'pt2'"):
        _of_detector(ExportOptions("onnx-float16"))
