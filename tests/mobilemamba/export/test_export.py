"""What holds for exports in any format, shown by torch.export files, which are made fastest."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata, fuse
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, NotComparedWarning, export_network, read_metadata, report_path
from mobilemamba.export import export as export_module
from mobilemamba.export.formats import FORMATS

PT2 = ExportOptions(format="pt2", dynamic_batch=False)


def test_the_network_stays_as_it_is(network: MobileMamba, metadata: ModelMetadata, tmp_path: Path) -> None:
    before = copy.deepcopy(network.state_dict())
    assert export_network(network, tmp_path / "model.pt2", PT2, metadata).passed
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"scan_directions": 4, "state_size": 2, "wavelet_levels": 2, "local_kernels": ((3, 5), (3, 5), (3,))},
        {"scan": False},
        {"in_chans": 1, "num_classes": 0},
    ],
    ids=str,
)
def test_other_architectures_export(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MobileMamba(
        MobileMambaConfig(
            **{"widths": (16, 32, 32), "depths": (1, 1, 1), "mixer_stages": (False, True, True), "num_classes": 5}
            | changes
        )
    )
    options, metadata = ExportOptions(format="pt2"), ModelMetadata(image_size=(64, 64))
    assert export_network(network, tmp_path / "model.pt2", options, metadata).passed


def test_fused_and_double_networks_export_too(network: MobileMamba, metadata: ModelMetadata, tmp_path: Path) -> None:
    fused = fuse(copy.deepcopy(network).double().eval())
    assert export_network(fused, tmp_path / "model.pt2", PT2, metadata).passed
    assert next(fused.parameters()).dtype == torch.float64


def test_lossy_fusion_is_refused_before_anything_is_written(
    network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(unfused: MobileMamba) -> MobileMamba:
        fused = fuse(unfused)
        next(fused.parameters())[0] += 1e-8
        return fused

    monkeypatch.setattr(export_module, "fuse", lossy)
    with pytest.raises(UserError, match=r"Fusion is refused: .* \(tolerance 1e-12\)"):
        export_network(network, tmp_path / "model.pt2", PT2, metadata)
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_run_here_is_kept_with_a_warning_and_no_claim(
    network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], platform="another"))
    path = tmp_path / "model.pt2"
    with pytest.warns(NotComparedWarning, match="NOT compared"):
        report = export_network(network, path, PT2, metadata)
    assert not report.passed
    assert path.exists()
    assert json.loads(report_path(path).read_text())["verdict"] == "converted, not run"


def test_an_export_that_is_cut_off_leaves_the_older_file(
    network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        assert any(name.startswith(".model.pt2") for name in os.listdir(tmp_path))  # the unfinished file is there
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "compare_runner", cut_off)
    path = tmp_path / "model.pt2"
    path.write_text("older")
    with pytest.raises(KeyboardInterrupt):
        export_network(network, path, PT2, metadata)
    assert os.listdir(tmp_path) == ["model.pt2"]
    assert path.read_text() == "older"


@pytest.mark.parametrize(
    ("path", "options", "size", "message"),
    [
        ("file/model.onnx", ExportOptions(), (64, 64), "Folder .*file cannot be written"),
        ("file/below/model.onnx", ExportOptions(), (64, 64), "Folder .*below cannot be written"),
        ("model.onnx", ExportOptions(format="pt2"), (64, 64), r"let its name end in \.pt2"),
        (
            "model.aoti.pt2",
            ExportOptions(format="pt2"),
            (64, 64),
            r"does not fit format 'pt2': let its name end in \.pt2",
        ),
        ("model.pt2", ExportOptions(format="aoti"), (64, 64), r"let its name end in \.aoti\.pt2"),
        ("folder.onnx", ExportOptions(), (64, 64), "is a folder"),
        ("model.onnx", ExportOptions(), (64, 63), "image_size = 64x63 is too small.*at least 64x64"),
        ("model.pt2", ExportOptions(format="pt2", dynamic_size=True), (64, 64), "at least 65x65"),
        ("model.onnx", ExportOptions(dynamic_size=True), (64, 4097), "64x4097 is too large .* up to 4096x4096"),
    ],
)
def test_bad_requests_fail_before_work(
    path: str,
    options: ExportOptions,
    size: tuple[int, int],
    message: str,
    network: MobileMamba,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_module, "fuse", None)  # calling it would fail
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError, match=message):
        export_network(network, tmp_path / path, options, ModelMetadata(image_size=size))


def test_only_a_mobilemamba_is_exported(metadata: ModelMetadata, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Linear"):
        export_network(nn.Linear(2, 2), tmp_path / "model.onnx", ExportOptions(), metadata)


def test_metadata_of_an_unknown_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in none of \.onnx, \.float16\.onnx, \.pt2"):
        read_metadata(tmp_path / "model.ckpt")
