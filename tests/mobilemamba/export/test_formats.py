"""Every format passes the same gate; one whose extra is missing says so before any work."""

import copy
import io
import json
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata, fuse
from mobilemamba.errors import UserError
from mobilemamba.export import (
    ExportOptions,
    NotComparedWarning,
    ParityReport,
    export_network,
    formats,
    read_metadata,
    report_path,
)
from mobilemamba.export import export as export_module
from mobilemamba.export.formats import FORMATS, FormatName, aoti, load
from mobilemamba.export.formats.onnx import convert
from mobilemamba.export.formats.openvino import join_softplus
from mobilemamba.export.graph import for_graphs
from mobilemamba.export.tracing import trace
from tests.mobilemamba.conftest import randomise
from tests.mobilemamba.export.conftest import calibrate, tiny_network

COMPANIONS: dict[FormatName, list[str]] = {"openvino": ["model.bin"]}
"""Files of a format besides the one that was asked for."""

ERRORS: dict[FormatName, float] = {"onnx-float16": 5e-3}
"""Largest differences of formats that are not in float32."""


def require(name: FormatName) -> FormatName:
    for package in FORMATS[name].packages:
        pytest.importorskip(package, reason=f"extra {name!r} is not installed")
    if FORMATS[name].is_compiled:
        try:
            aoti.check_compiler()
        except UserError as error:
            pytest.skip(str(error))
    return name


def expected_warning(name: FormatName) -> AbstractContextManager[Any]:
    if FORMATS[name].runs_here:
        return nullcontext()
    return pytest.warns(NotComparedWarning, match=rf"NOT run: this system has no {name} runtime")


def options(name: FormatName, **changes: Any) -> ExportOptions:
    return ExportOptions(**{"format": name, "dynamic_batch": not FORMATS[name].single_shape} | changes)


def slow_unless(*quick: FormatName) -> list[Any]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS]


# A compiler takes half a minute.
@pytest.fixture(params=slow_unless(*(name for name in FORMATS if not FORMATS[name].is_compiled)), scope="module")
def name(request: pytest.FixtureRequest) -> FormatName:
    return require(request.param)


@pytest.fixture(scope="module")
def exported(
    name: FormatName, network: MobileMamba, metadata: ModelMetadata, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ParityReport]:
    path = tmp_path_factory.mktemp(name) / f"model{FORMATS[name].suffix}"
    if name == "coreml":
        (path / "of an older package").mkdir(parents=True)
    with expected_warning(name):
        return path, export_network(network, path, options(name), metadata)


def test_file_gives_the_logits_of_the_network(name: FormatName, exported: tuple[Path, ParityReport]) -> None:
    path, report = exported
    assert report.fuse_max_abs_error < 1e-12
    if not FORMATS[name].runs_here:
        assert report.verdict == "converted, not run"
        with pytest.raises(UserError, match=f"cannot be run: this system has no {name} runtime"):
            load(path)
        return
    assert report.passed
    assert report.conclusive
    assert report.max_abs_error is not None
    assert 0 < report.max_abs_error < ERRORS.get(name, 1e-5)
    assert report.top1_agreement == 1.0
    assert load(path)(torch.zeros(1, 3, 64, 96)).shape == (1, 7)
    assert {comparison.shape[0] for comparison in report.comparisons} == (
        {1} if FORMATS[name].single_shape else {1, 3, 16}
    )


def test_file_lies_beside_its_report_and_what_belongs_to_it(
    name: FormatName, exported: tuple[Path, ParityReport], metadata: ModelMetadata
) -> None:
    path, report = exported
    assert sorted(os.listdir(path.parent)) == sorted([path.name, report_path(path).name, *COMPANIONS.get(name, [])])
    assert not (path / "of an older package").exists()
    assert json.loads(report_path(path).read_text()) == report.to_dict()
    assert len(report.versions) == 1 + len(FORMATS[name].packages)
    if name in ("onnx", "onnx-float16", "pt2", "aoti"):
        assert report.size_bytes == path.stat().st_size
    assert read_metadata(path) == metadata


@pytest.mark.parametrize("name", ["onnx"], indirect=True)  # otherwise `exported` stays that of another format
def test_onnx_file_is_a_fused_graph_with_names_and_metadata_that_any_program_can_read(
    exported: tuple[Path, ParityReport], metadata: ModelMetadata
) -> None:
    graph = onnx.load(exported[0]).graph
    assert not any(node.op_type in ("BatchNormalization", "Scan", "Loop", "If") for node in graph.node)
    (images,), (logits,) = graph.input, graph.output
    assert (images.name, logits.name) == ("images", "logits")
    assert [dimensions(images), dimensions(logits)] == [["batch", 3, 64, 96], ["batch", 7]]
    properties = onnxruntime.InferenceSession(exported[0]).get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in properties.items()} == metadata.to_dict()


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


# One gate serves all formats.
@pytest.mark.parametrize("name", slow_unless("pt2", "onnx"), indirect=True)
def test_wrong_weights_are_refused_and_leave_no_file(
    name: FormatName, network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupted(fused: nn.Module, *arguments: Any) -> torch.export.ExportedProgram:
        weight = next(fused.parameters())
        weight[0] *= 1.05
        return trace(fused, *arguments)

    if not FORMATS[name].runs_here:
        pytest.skip(f"{name} files cannot be run on {sys.platform}")
    monkeypatch.setattr(export_module, "trace", corrupted)
    with pytest.raises(UserError, match=rf"The {name} file is refused: it differs from the network by"):
        export_network(network, tmp_path / f"model{FORMATS[name].suffix}", options(name, dynamic_batch=False), metadata)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "smallest"),
    [
        ("onnx", 64),
        pytest.param("pt2", 65, marks=pytest.mark.slow),
        pytest.param("openvino", 64, marks=pytest.mark.slow),
        pytest.param("onnx-float16", 64, marks=pytest.mark.slow),
    ],
    indirect=["name"],
)
def test_file_of_dynamic_size_takes_any_size_and_batch(name: FormatName, smallest: int, tmp_path: Path) -> None:
    network = tiny_network(False, False, True)
    path = tmp_path / f"model{FORMATS[name].suffix}"
    metadata = ModelMetadata(image_size=(80, 96))
    report = export_network(network, path, options(name, dynamic_size=True), metadata)
    assert report.passed
    assert {c.shape[2:] for c in report.comparisons} >= {(80, 96), (smallest, smallest)}
    assert len({c.shape[0] for c in report.comparisons}) == 4
    if name == "onnx":
        assert dimensions(onnx.load(path).graph.input[0]) == ["batch", 3, "height", "width"]


def test_pt2_file_of_fixed_shape_runs_without_this_package(
    network: MobileMamba, metadata: ModelMetadata, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt2"
    report = export_network(network, path, options("pt2", dynamic_batch=False), metadata)
    assert [comparison.images for comparison in report.comparisons] == [16]
    assert report.conclusive
    extra_files = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra_files).module()
    assert json.loads(extra_files["metadata.json"]) == metadata.to_dict()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = copy.deepcopy(network).eval()(images)
    torch.testing.assert_close(program(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_openvino_gets_each_softplus_as_one_operator_with_the_same_answers() -> None:
    """Run by ONNX Runtime: what the graph computes does not depend on who runs it."""
    fused = fuse(tiny_network(False, True, False).eval())
    program = trace(for_graphs(copy.deepcopy(fused), dynamic_size=False), 3, (64, 64), ExportOptions())
    model = convert(program).model
    before = [node.op_type for node in model.graph]
    joined = join_softplus(model)
    after = [node.op_type for node in joined.graph]
    assert before.count("Log") == after.count("Softplus") > 0
    assert "Softplus" not in before
    assert "Log" not in after
    buffer = io.BytesIO(ir.to_proto(joined).SerializeToString())
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = fused(images).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_s6_gives_the_logits_of_the_network(name: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("mobilemamba_s6")
    assert isinstance(network, MobileMamba)
    network = calibrate(randomise(network))
    metadata = ModelMetadata(image_size=(224, 224))
    with expected_warning(name):
        report = export_network(network, tmp_path / f"s6{FORMATS[name].suffix}", options(name), metadata)
    if FORMATS[name].runs_here:
        assert report.conclusive
        assert report.max_abs_error is not None
        assert report.max_abs_error < ERRORS.get(name, 1e-5)


@pytest.mark.slow
def test_other_architectures_export_to_all_formats(name: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MobileMambaConfig(
        widths=(16, 32, 32),
        depths=(1, 1, 1),
        num_classes=7,
        scan_directions=4,
        state_size=2,
        wavelet_levels=2,
        local_kernels=((3, 5), (3, 5), (3,)),
    )
    network, path = calibrate(randomise(MobileMamba(config))), tmp_path / f"model{FORMATS[name].suffix}"
    with expected_warning(name):
        report = export_network(network, path, options(name), ModelMetadata(image_size=(65, 96)))
    assert report.passed == FORMATS[name].runs_here


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].packages])
def test_a_missing_package_is_named_before_any_work(
    name: FormatName, network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    monkeypatch.setattr(export_module, "fuse", None)  # calling it would fail
    extra = "" if name.startswith("onnx") else rf"\[{name}\]"
    command = rf'needs {FORMATS[name].packages[0]}.* not installed: run pip install "\.{extra}" in the checkout'
    with pytest.raises(UserError, match=command):
        export_network(network, tmp_path / f"model{FORMATS[name].suffix}", options(name), metadata)
    assert os.listdir(tmp_path) == []


def test_a_missing_compiler_is_named_before_any_work(
    network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "fuse", None)  # calling it would fail
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(UserError, match=r"format = 'aoti' needs a C\+\+ compiler .*: install g\+\+"),
    ):
        export_network(network, tmp_path / "model.aoti.pt2", options("aoti"), metadata)
    assert os.listdir(tmp_path) == []


def test_compiled_packages_hold_the_network_as_it_is_with_the_scan_in_the_parallel_form(
    metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in rows, of which there are so many that a compiler takes minutes."""

    def stop(program: torch.export.ExportedProgram, *_: object) -> None:
        operators.extend(str(node.target) for node in program.graph.nodes)
        raise KeyboardInterrupt

    def graph(fused: nn.Module) -> list[str]:
        return [str(node.target) for node in trace(fused, 3, (64, 96), options("aoti")).graph.nodes]

    operators: list[str] = []
    network = tiny_network(False, True, False)
    monkeypatch.setattr(aoti, "write", stop)
    monkeypatch.setattr(aoti, "check_compiler", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        export_network(network, tmp_path / "model.aoti.pt2", options("aoti"), metadata)
    fused = fuse(copy.deepcopy(network).eval())
    assert operators == graph(fused)
    assert operators != graph(for_graphs(fused, dynamic_size=False))
