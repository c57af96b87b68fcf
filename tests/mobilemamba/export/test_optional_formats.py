"""Formats that need an extra: where it is missing they say so, where it is installed they pass the gate."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata
from mobilemamba.errors import UserError
from mobilemamba.export import (
    ExportOptions,
    NotComparedWarning,
    ParityReport,
    export_network,
    read_metadata,
    report_path,
)
from mobilemamba.export import export as export_module
from mobilemamba.export import formats as formats_module
from mobilemamba.export.formats import PACKAGES
from mobilemamba.export.options import FIXED_SHAPE, SUFFIXES, FormatName
from mobilemamba.export.tracing import trace
from tests.mobilemamba.conftest import randomise
from tests.mobilemamba.export.conftest import calibrate

COMPANIONS: dict[FormatName, list[str]] = {"openvino": ["model.bin"]}
"""Files of a format besides the one that was asked for."""


def require(name: FormatName) -> None:
    for package in PACKAGES[name]:
        pytest.importorskip(package, reason=f"extra {name!r} is not installed")


def runs_here(name: FormatName) -> bool:
    return name != "coreml" or sys.platform == "darwin"


def expected_warning(name: FormatName) -> AbstractContextManager[Any]:
    if runs_here(name):
        return nullcontext()
    return pytest.warns(NotComparedWarning, match=rf"NOT run: this system has no {name} runtime")


def options(name: FormatName, **changes: Any) -> ExportOptions:
    return ExportOptions(**{"format": name, "dynamic_batch": name not in FIXED_SHAPE} | changes)


@pytest.fixture(params=[name for name in PACKAGES if name != "onnx"], scope="module")
def name(request: pytest.FixtureRequest) -> FormatName:
    require(request.param)
    return request.param


@pytest.fixture(scope="module")
def exported(
    name: FormatName, network: MobileMamba, metadata: ModelMetadata, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ParityReport]:
    path = tmp_path_factory.mktemp(name) / f"model{SUFFIXES[name]}"
    if name == "coreml":
        (path / "of an older package").mkdir(parents=True)
    with expected_warning(name):
        return path, export_network(network, path, options(name), metadata)


def test_file_gives_the_logits_of_the_network(name: FormatName, exported: tuple[Path, ParityReport]) -> None:
    _, report = exported
    if not runs_here(name):
        assert report.verdict == "converted, not run"
        assert report.fuse_max_abs_error < 1e-12
        return
    assert report.passed
    assert report.max_abs_error is not None
    assert report.conclusive
    assert 0 < report.max_abs_error < 1e-5
    assert report.top1_agreement == 1.0


def test_file_lies_beside_its_report_and_what_belongs_to_it(
    name: FormatName, exported: tuple[Path, ParityReport]
) -> None:
    path, _ = exported
    assert sorted(os.listdir(path.parent)) == sorted([path.name, report_path(path).name, *COMPANIONS.get(name, [])])
    assert not (path / "of an older package").exists()


def test_metadata_are_in_the_file(exported: tuple[Path, ParityReport], metadata: ModelMetadata) -> None:
    assert read_metadata(exported[0]) == metadata


def test_versions_name_the_packages(name: FormatName, exported: tuple[Path, ParityReport]) -> None:
    versions = exported[1].versions
    assert {package.replace("-", "_") for package in versions} >= {"torch", *PACKAGES[name]}
    assert all(version[0].isdigit() for version in versions.values())


def test_wrong_weights_are_refused_and_leave_no_file(
    name: FormatName, network: MobileMamba, metadata: ModelMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupted(fused: nn.Module, *arguments: Any) -> torch.export.ExportedProgram:
        weight = next(fused.parameters())
        weight[0] *= 1.05
        return trace(fused, *arguments)

    if not runs_here(name):
        pytest.skip(f"{name} files cannot be run on {sys.platform}")
    monkeypatch.setattr(export_module, "trace", corrupted)
    with pytest.raises(UserError, match=rf"The {name} file is refused: it differs from the network by"):
        export_network(network, tmp_path / f"model{SUFFIXES[name]}", options(name), metadata)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_s6_gives_the_logits_of_the_network(name: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("mobilemamba_s6")
    assert isinstance(network, MobileMamba)
    network = calibrate(randomise(network))
    metadata = ModelMetadata(image_size=(224, 224))
    with expected_warning(name):
        report = export_network(network, tmp_path / f"s6{SUFFIXES[name]}", options(name), metadata)
    if runs_here(name):
        assert report.conclusive
        assert report.max_abs_error is not None
        assert report.max_abs_error < 1e-5


@pytest.mark.slow
def test_other_architectures_export(name: FormatName, tmp_path: Path) -> None:
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
    network = calibrate(randomise(MobileMamba(config)))
    with expected_warning(name):
        report = export_network(
            network, tmp_path / f"model{SUFFIXES[name]}", options(name), ModelMetadata(image_size=(65, 96))
        )
    assert report.passed == runs_here(name)


@pytest.mark.slow
def test_openvino_file_of_dynamic_size_takes_any_size_and_batch(network: MobileMamba, tmp_path: Path) -> None:
    require("openvino")
    metadata = ModelMetadata(image_size=(80, 96))
    report = export_network(network, tmp_path / "model.xml", options("openvino", dynamic_size=True), metadata)
    assert report.passed
    assert {c.shape[2:] for c in report.comparisons} >= {(80, 96), (64, 64)}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_extra_is_named_before_any_work(
    name: FormatName,
    network: MobileMamba,
    metadata: ModelMetadata,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats_module, "find_spec", lambda _: None)
    monkeypatch.setattr(export_module, "fuse", None)  # calling it would fail
    extra = "" if name == "onnx" else rf"\[{name}\]"  # ONNX comes with the project itself
    command = rf'needs {PACKAGES[name][0]}.* not installed: run pip install "\.{extra}" in the checkout'
    with pytest.raises(UserError, match=command):
        export_network(network, tmp_path / f"model{SUFFIXES[name]}", options(name), metadata)
    assert os.listdir(tmp_path) == []
