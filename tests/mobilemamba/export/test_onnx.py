"""ONNX files for older runtimes and other readers: versions of operators, simplification, the reference evaluator."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from mobilemamba import MobileMamba, ModelMetadata
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, export_network, read_metadata
from mobilemamba.export.export import _of_detector
from mobilemamba.export.formats.onnx import load, lower
from mobilemamba.export.options import OPSETS

OLDEST, NEWEST = OPSETS[0], OPSETS[-1]
METADATA = ModelMetadata(image_size=(64, 64))


@pytest.fixture(scope="module")
def oldest(network: MobileMamba, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oldest") / "model.onnx"
    report = export_network(network, path, ExportOptions(opset=OLDEST), METADATA)
    assert report.passed
    assert report.conclusive
    return path


def versions(path: Path) -> tuple[int, int]:
    model = onnx.load(path)
    (operators,) = model.opset_import
    return operators.version, model.ir_version


def test_oldest_operators_pass_the_gate_in_a_file_of_their_time(oldest: Path) -> None:
    assert versions(oldest) == (OLDEST, 8)  # that of ONNX 1.12, which brought these operators
    onnx.checker.check_model(oldest, full_check=True)
    assert read_metadata(oldest) == METADATA


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [ExportOptions(opset=OLDEST, dynamic_size=True), ExportOptions(opset=18), ExportOptions(opset=NEWEST)]
)
def test_operators_of_other_files_are_those_asked_for(
    options: ExportOptions, network: MobileMamba, tmp_path: Path
) -> None:
    assert export_network(network, tmp_path / "model.onnx", options, METADATA).passed
    assert versions(tmp_path / "model.onnx")[0] == options.opset


def images() -> np.ndarray:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).numpy()


def assert_same(logits: object, network: MobileMamba) -> None:
    with torch.no_grad():
        expected = copy.deepcopy(network).eval()(torch.from_numpy(images())).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_reference_evaluator_gives_the_logits_of_the_network(oldest: Path, network: MobileMamba) -> None:
    (logits,) = ReferenceEvaluator(onnx.load(oldest)).run(None, {"images": images()})
    assert_same(logits, network)


def test_onnxslim_leaves_the_logits_and_the_metadata(oldest: Path, network: MobileMamba, tmp_path: Path) -> None:
    onnxslim = pytest.importorskip("onnxslim")
    slim = tmp_path / "slim.onnx"
    onnx.save(onnxslim.slim(onnx.load(oldest)), slim)
    assert len(onnx.load(slim).graph.node) <= len(onnx.load(oldest).graph.node)
    assert_same(load(slim)(torch.from_numpy(images())), network)
    assert read_metadata(slim) == METADATA


def graph(body: str) -> onnx.ModelProto:
    head = '<ir_version: 8, opset_import: ["": 18]> g (bool c, float[2, 4] x) => (float[2, 1] y)'
    return onnx.parser.parse_model(f"{head} <int64[1] axes = {{1}}> {{ {body} }}")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("y = BitwiseNot (x)", "BitwiseNot"),
        ("y = ReduceMean (x)", "ReduceMean"),
        ("a = Constant <value_ints = [1]> () y = ReduceMean (x, a)", "ReduceMean"),
        ("y = If (c) <then_branch = t () => (z) {z = Abs (x)}, else_branch = e () => (z) {z = Neg (x)}>", "If"),
    ],
)
def test_an_operator_that_opset_17_has_not_is_named(body: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"opset = 17 must be 18 or later .* has the operator {name}"):
        lower(graph(body))


def test_a_mean_keeps_its_axes_and_default() -> None:
    model = graph("y = ReduceMean (x, axes)")
    lower(model)
    x = torch.randn(2, 4).numpy()
    (y,) = ReferenceEvaluator(model).run(None, {"c": np.array(True), "x": x})
    np.testing.assert_allclose(y, x.mean(1, keepdims=True), rtol=1e-6)


def test_detectors_have_operators_of_their_own() -> None:
    with pytest.raises(UserError, match="opset = 18 must be null for a detector"):
        _of_detector(ExportOptions(opset=18))
