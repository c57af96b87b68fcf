import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata, fuse
from mobilemamba.errors import UserError
from mobilemamba.export import (
    ExportOptions,
    NotComparedWarning,
    export_network,
    read_metadata,
    report_path,
)
from mobilemamba.export import export as export_module
from mobilemamba.export.formats.torch_export import FORMAT
from mobilemamba.export.options import FormatName
from mobilemamba.export.tracing import trace

FORMATS: tuple[FormatName, ...] = ("onnx", "pt2")


@pytest.fixture(scope="module")
def onnx_file(network: MobileMamba, metadata: ModelMetadata, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    before = copy.deepcopy(network.state_dict())
    export_network(network, path, ExportOptions(), metadata)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    return path


def test_report_lies_beside_the_file_and_nothing_else(onnx_file: Path) -> None:
    report = json.loads(report_path(onnx_file).read_text())
    assert report["passed"]
    assert report["conclusive"]
    assert 0 < report["max_abs_error"] < 1e-5
    assert report["fuse_max_abs_error"] < 1e-12
    assert report["top1_agreement"] == 1.0
    assert {comparison["shape"][0] for comparison in report["comparisons"]} == {1, 3, 16}
    assert report["versions"].keys() == {"torch", "onnx", "onnxruntime"}
    assert report["size_bytes"] == onnx_file.stat().st_size
    assert sorted(os.listdir(onnx_file.parent)) == ["model.onnx", "model.onnx.parity.json"]


def test_onnx_file_is_a_fused_graph_with_names(onnx_file: Path) -> None:
    graph = onnx.load(onnx_file).graph
    assert not any(node.op_type in ("BatchNormalization", "Scan", "Loop", "If") for node in graph.node)
    (images,), (logits,) = graph.input, graph.output
    shapes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (images, logits)]
    assert (images.name, logits.name) == ("images", "logits")
    assert shapes == [["batch", 3, 64, 96], ["batch", 7]]


def test_onnx_metadata_is_json_that_any_program_can_read(onnx_file: Path, metadata: ModelMetadata) -> None:
    properties = onnxruntime.InferenceSession(onnx_file).get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in properties.items()} == metadata.to_dict()
    assert read_metadata(onnx_file) == metadata


@pytest.mark.parametrize("name", FORMATS)
def test_dynamic_size_file_takes_any_size_and_batch(
    name: FormatName, network: MobileMamba, metadata: ModelMetadata, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{name}"
    metadata = ModelMetadata(image_size=(80, 96), class_names=metadata.class_names)
    report = export_network(network, path, ExportOptions(format=name, dynamic_size=True), metadata)
    assert report.passed
    smallest = {"onnx": 64, "pt2": 65}[name]
    assert {c.shape[2:] for c in report.comparisons} >= {(80, 96), (smallest, smallest)}
    assert read_metadata(path) == metadata
    if name == "onnx":
        (images,) = onnx.load(path).graph.input
        assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == [
            "batch",
            3,
            "height",
            "width",
        ]


def test_pt2_file_of_fixed_shape_runs_without_this_package(
    network: MobileMamba, metadata: ModelMetadata, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt2"
    report = export_network(network, path, ExportOptions(format="pt2", dynamic_batch=False), metadata)
    assert [comparison.images for comparison in report.comparisons] == [16]
    assert report.conclusive
    extra_files = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra_files).module()
    assert json.loads(extra_files["metadata.json"]) == metadata.to_dict()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = copy.deepcopy(network).eval()(images)
    torch.testing.assert_close(program(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    "changes",
    [
        {"scan_directions": 4, "state_size": 2},
        {"wavelet_levels": 2, "local_kernels": ((3, 5), (3, 5), (3,))},
        {"scan": False},
        {"in_chans": 1, "num_classes": 0},
    ],
    ids=str,
)
def test_other_architectures_export(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MobileMamba(
        MobileMambaConfig(**{"widths": (16, 32, 32), "depths": (1, 1, 1), "num_classes": 5} | changes)
    )
    metadata = ModelMetadata(image_size=(64, 64))
    assert export_network(network, tmp_path / "model.pt2", ExportOptions(format="pt2"), metadata).passed


def test_fused_and_double_networks_export_too(network: MobileMamba, metadata: ModelMetadata, tmp_path: Path) -> None:
    fused = fuse(copy.deepcopy(network).double().eval())
    options = ExportOptions(format="pt2", dynamic_batch=False)
    assert export_network(fused, tmp_path / "model.pt2", options, metadata).passed
    assert next(fused.parameters()).dtype == torch.float64


@pytest.mark.parametrize("name", FORMATS)
def test_wrong_weights_are_refused_and_leave_no_file(
    name: FormatName, network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupted(fused: nn.Module, *arguments: Any) -> torch.export.ExportedProgram:
        weight = next(fused.parameters())
        weight[0] *= 1.05
        return trace(fused, *arguments)

    monkeypatch.setattr(export_module, "trace", corrupted)
    with pytest.raises(UserError, match=rf"The {name} file is refused: it differs from the network by"):
        export_network(network, tmp_path / f"model.{name}", ExportOptions(format=name, dynamic_batch=False), metadata)
    assert os.listdir(tmp_path) == []


def test_lossy_fusion_is_refused_before_anything_is_written(
    network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(unfused: MobileMamba) -> MobileMamba:
        fused = fuse(unfused)
        next(fused.parameters())[0] += 1e-6
        return fused

    monkeypatch.setattr(export_module, "fuse", lossy)
    with pytest.raises(UserError, match="Fusion is refused"):
        export_network(network, tmp_path / "model.onnx", ExportOptions(), metadata)
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_run_here_is_kept_with_a_warning_and_no_claim(
    network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "file_format", lambda _: replace(FORMAT, load=None))
    path = tmp_path / "model.pt2"
    with pytest.warns(NotComparedWarning, match="NOT compared"):
        report = export_network(network, path, ExportOptions(format="pt2", dynamic_batch=False), metadata)
    assert not report.passed
    assert path.exists()
    assert json.loads(report_path(path).read_text())["verdict"] == "converted, not run"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_export_that_is_cut_off_leaves_the_older_file(
    exception: type[BaseException],
    network: MobileMamba,
    metadata: ModelMetadata,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut_off(*_: object) -> None:
        assert any(name.startswith(".model.pt2") for name in os.listdir(tmp_path))  # the unfinished file is there
        raise exception

    monkeypatch.setattr(export_module, "compare_runner", cut_off)
    path = tmp_path / "model.pt2"
    path.write_text("older")
    with pytest.raises(exception):
        export_network(network, path, ExportOptions(format="pt2", dynamic_batch=False), metadata)
    assert os.listdir(tmp_path) == ["model.pt2"]
    assert path.read_text() == "older"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(*_: object) -> None:
        raise AssertionError("The request must be checked before any work.")

    monkeypatch.setattr(export_module, "fuse", too_late)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("path", "options", "size", "message"),
    [
        ("file/model.onnx", ExportOptions(), (64, 64), "Folder .*file cannot be written"),
        ("file/below/model.onnx", ExportOptions(), (64, 64), "Folder .*below cannot be written"),
        ("model.onnx", ExportOptions(format="pt2"), (64, 64), r"let its name end in \.pt2"),
        ("folder.onnx", ExportOptions(), (64, 64), "is a folder"),
        ("model.onnx", ExportOptions(), (64, 63), "image_size = 64x63 is too small.*at least 64x64"),
        ("model.pt2", ExportOptions(format="pt2", dynamic_size=True), (64, 64), "at least 65x65"),
        ("model.onnx", ExportOptions(dynamic_size=True), (64, 4097), "64x4097 is too large .* up to 4096x4096"),
    ],
)
def test_bad_requests_fail_before_work(
    path: str, options: ExportOptions, size: tuple[int, int], message: str, network: MobileMamba, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError, match=message):
        export_network(network, tmp_path / path, options, ModelMetadata(image_size=size))


def test_only_a_mobilemamba_is_exported(metadata: ModelMetadata, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Linear"):
        export_network(nn.Linear(2, 2), tmp_path / "model.onnx", ExportOptions(), metadata)


def test_metadata_of_an_unknown_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in none of \.onnx, \.pt2"):
        read_metadata(tmp_path / "model.ckpt")


def test_network_with_damaged_weights_is_named(
    tiny_config: MobileMambaConfig, randomised: Callable[[MobileMambaConfig], MobileMamba], tmp_path: Path
) -> None:
    network = randomised(tiny_config).float()
    with torch.no_grad():
        network.stem[0].conv.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        export_network(network, tmp_path / "model.onnx", ExportOptions(), ModelMetadata(image_size=(64, 64)))
