import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, read_metadata, report_path
from mobilemamba.export import export as export_module
from mobilemamba.export.comparison import Comparison
from mobilemamba.export.int8.export import export_int8
from mobilemamba.export.int8.images import choose_images, find_labelled_images, read_batches
from mobilemamba.export.int8.options import Int8Options
from mobilemamba.export.int8.quantise import quantise
from mobilemamba.export.int8.report import Int8Report
from mobilemamba.export.parity import random_images
from mobilemamba.images import find_images
from tests.mobilemamba.export.conftest import int8_report, tiny_network

SIZE = (64, 64)
LENIENT: dict[str, Any] = {"min_agreement": 0.8, "max_accuracy_drop": 20.0}
"""Limits for random weights, which tell classes apart by little."""


@pytest.fixture(scope="module")
def network() -> MobileMamba:
    return tiny_network(True, True, True)  # of random networks with fewer mixers, int8 changes more answers


@pytest.fixture(scope="module")
def metadata() -> ModelMetadata:
    return ModelMetadata(SIZE, mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0, class_names=tuple("gfedcba"))


@pytest.fixture(scope="module")
def folders(
    network: MobileMamba, metadata: ModelMetadata, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Images to calibrate with, and others in the folders of the classes that the network gives them."""
    calibration, validation = tmp_path_factory.mktemp("calibration"), tmp_path_factory.mktemp("validation")
    for folder, seed in ((calibration, 1), (validation, 2)):
        images = (random_images((64, 3, *SIZE), seed) / 4 + 0.5).clamp(0, 1)
        for number, image in enumerate(images):
            to_pil_image(image).save(folder / f"{number:02d}.png")
    assert metadata.class_names is not None
    (batch,) = read_batches(find_images(validation, ""), metadata, 64)
    training = network.training
    with torch.no_grad():
        predicted = network.eval()(batch).argmax(1)
    network.train(training)
    for name in metadata.class_names:
        (validation / name).mkdir()
    for number, target in enumerate(predicted.tolist()):
        name = f"{number:02d}.png"
        (validation / name).rename(validation / metadata.class_names[target] / name)
    assert len(predicted.unique()) > 1
    return calibration, validation


@pytest.fixture(scope="module")
def exported(
    network: MobileMamba, metadata: ModelMetadata, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Int8Report]:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    options = Int8Options(*folders, calibration_images=32, **LENIENT)
    return path, export_int8(network, path, ExportOptions(), options, metadata)


def test_accuracy_before_and_after_is_in_the_report(exported: tuple[Path, Int8Report]) -> None:
    path, report = exported
    content = json.loads(report_path(path).read_text())
    assert content["passed"]
    assert content["float_report"]["passed"]
    assert (content["calibration_images"], content["compared_images"]) == (32, 64)
    assert content["accuracy_before"] == 1.0  # the folders are the network's own answers
    assert content["accuracy_after"] > 0.8
    assert content["accuracy_drop"] == pytest.approx(100 * (1 - content["accuracy_after"]))
    assert content["top1_agreement"] == pytest.approx(content["accuracy_after"], abs=0.02)  # ties count as the same
    assert 1e-3 < content["max_abs_error"] < 0.3  # int8, not float32
    assert content["milliseconds_before"] > 0
    assert content["size_bytes"] == path.stat().st_size < report.float_report.size_bytes
    assert sorted(os.listdir(path.parent)) == ["model.onnx", "model.onnx.parity.json"]


def test_file_has_metadata_and_names_of_the_float_file_and_takes_any_batch_size(
    exported: tuple[Path, Int8Report], metadata: ModelMetadata
) -> None:
    assert read_metadata(exported[0]) == metadata
    session = onnxruntime.InferenceSession(exported[0])
    images = random_images((5, 3, *SIZE)).numpy()
    (together,), (alone,) = (session.run(["logits"], {"images": batch}) for batch in (images, images[:1]))
    assert together.shape == (5, 7)
    assert abs(together[:1] - alone).max() < 0.01 * abs(together).max()
    assert {comparison.shape[0] for comparison in exported[1].comparisons} == {1, 3, 16}


def test_channel_mixing_is_int8_and_the_scan_is_not(exported: tuple[Path, Int8Report]) -> None:
    graph = onnx.load(exported[0]).graph
    stored = {value.name: value.data_type for value in graph.initializer}
    quantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    dense = 0
    for node in graph.node:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if node.op_type == "Conv" and groups == 1:
            dense += 1
            assert stored[quantised[node.input[1]]] == onnx.TensorProto.INT8
        elif node.op_type in ("Exp", "Log", "Sigmoid", "LayerNormalization", "ConvTranspose", "Conv", "Mul", "Add"):
            assert not any(value in quantised and quantised[value] in stored for value in node.input), node.name
    assert dense > 10
    assert exported[1].quantised_nodes > dense  # products with weights, too
    (classifier,) = (node for node in graph.node if node.output[0] == "logits")
    assert classifier.op_type == "Gemm"
    assert classifier.input[1] in stored


def test_single_images_without_labels(
    network: MobileMamba, metadata: ModelMetadata, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    report = export_int8(
        network,
        tmp_path / "model.onnx",
        ExportOptions(dynamic_batch=False),
        Int8Options(folders[0], **LENIENT),
        metadata,
    )
    assert report.calibration_images == report.compared_images == 32
    assert report.accuracy_before is report.accuracy_after is report.accuracy_drop is None
    assert report.top1_agreement >= 0.8


def test_compared_images_are_not_those_of_the_calibration(folders: tuple[Path, Path], metadata: ModelMetadata) -> None:
    for options in (Int8Options(folders[0]), Int8Options(*folders)):
        calibration, compared = choose_images(options, 7, metadata.class_names)
        assert not set(calibration.files) & set(compared.files)


def test_a_file_that_lost_the_classes_is_refused_and_leaves_nothing(
    network: MobileMamba,
    metadata: ModelMetadata,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def badly(source: Path, target: Path, batches: Iterator[Tensor]) -> int:
        return quantise(source, target, (torch.zeros_like(batch) for batch in batches))  # ranges without width

    monkeypatch.setattr("mobilemamba.export.int8.export.quantise", badly)
    path = tmp_path / "model.onnx"
    path.write_text("older")
    options = Int8Options(*folders, min_agreement=1.0, max_accuracy_drop=0.0)
    with pytest.raises(UserError, match=r"agrees with the float32 .*; accuracy drops by .* from 100.00%"):
        export_int8(network, path, ExportOptions(), options, metadata)
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert path.read_text() == "older"


def test_a_drop_of_just_the_limit_passes() -> None:
    assert int8_report().accuracy_drop == 1.0
    int8_report().raise_if_refused()
    assert int8_report(accuracy_after=0.9).passed
    assert int8_report(top1_agreement=0.9, accuracy_before=None, accuracy_after=None).passed


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"accuracy_after": 0.792}, r"drops by 1.10 points, from 80.30% to 79.20% of 1000 images \(at most 1\)"),
        ({"top1_agreement": 0.89}, r"top class of 89.0% of 1000 images \(at least 90.0%\)"),
        ({"top1_agreement": 0.89, "accuracy_before": None, "accuracy_after": None}, "top class of 89.0%"),
        ({"comparisons": (Comparison((1, 3, 9, 9), 1, float("inf"), 1.0, 0.0),)}, "not finite"),
    ],
    ids=str,
)
def test_report_refuses(bad: dict[str, Any], message: str) -> None:
    assert not int8_report(**bad).passed
    with pytest.raises(UserError, match=f"int8 file is refused: .*{message}"):
        int8_report(**bad).raise_if_refused()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration_images": 31}, "calibration_images = 31 must be 32 or more"),
        ({"compared_images": 1}, "compared_images = 1 must be 32"),
        ({"min_agreement": 1.1}, r"min_agreement = 1.1 must be a share in \[0, 1\]"),
        ({"max_accuracy_drop": -1.0}, "max_accuracy_drop = -1.0 must be"),
        ({"max_accuracy_drop": float("nan")}, "max_accuracy_drop = nan must be"),
    ],
    ids=str,
)
def test_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Int8Options(Path(), **changes)


@pytest.mark.parametrize(
    ("changes", "form", "message"),
    [
        ({"in_chans": 1}, ExportOptions(), "this network takes 1 channels"),
        ({"num_classes": 0}, ExportOptions(), "no classifier"),
        ({}, ExportOptions(format="pt2"), "int8 files are made in format 'onnx', not 'pt2'"),
        ({}, ExportOptions(), r"Output .*model\.pt2 does not fit format 'onnx'"),
    ],
    ids=str,
)
def test_networks_and_forms_without_int8_fail_before_work(
    changes: dict[str, Any], form: ExportOptions, message: str, metadata: ModelMetadata, tmp_path: Path
) -> None:
    network = MobileMamba(MobileMambaConfig(**{"widths": (16, 16, 16), "depths": (1, 1, 1)} | changes))
    path = tmp_path / ("model.pt2" if "Output" in message else "model.onnx")
    with pytest.raises(UserError, match=message):
        export_int8(network, path, form, Int8Options(tmp_path / "missing"), metadata)
    assert os.listdir(tmp_path) == []


def test_unfit_images_fail_before_work(
    network: MobileMamba,
    metadata: ModelMetadata,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_module, "fuse", None)  # calling it would fail
    calibration, validation = folders
    for folder in ("empty", "few", *(f"stray/{name}" for name in metadata.class_names or ())):
        (tmp_path / folder).mkdir(parents=True)
    for file in sorted(calibration.iterdir())[:32]:
        (tmp_path / "few" / file.name).symlink_to(file)
    (tmp_path / "stray" / "stray.png").symlink_to(calibration / "00.png")
    for options, message in (
        (Int8Options(tmp_path / "missing"), "--calibration = .*missing must be a folder with images"),
        (Int8Options(tmp_path / "empty"), "--calibration = .*empty must hold images: expected files ending in"),
        (Int8Options(tmp_path / "few"), "16 images to calibrate with are too few: at least 32 .*, so 64 in --calibr"),
        (Int8Options(validation, validation), "is in --calibration and in --validation"),
        (Int8Options(calibration, calibration), "--validation .* has 0 folders, the network 7 classes"),
        (Int8Options(calibration, tmp_path / "stray"), "stray.png lies in no class's folder"),
    ):
        with pytest.raises(UserError, match=message):
            export_int8(network, tmp_path / "out" / "model.onnx", ExportOptions(), options, metadata)
        assert os.listdir(tmp_path / "out") == []


def test_folders_belong_to_the_classes_of_their_names(tmp_path: Path) -> None:
    for name in ("10", "2"):
        (tmp_path / name / "deeper").mkdir(parents=True)
        (tmp_path / name / "deeper" / "image.png").touch()
    for names, targets in ((("2", "10"), [1, 0]), (("two", "ten"), [0, 1]), (None, [0, 1])):
        assert [target for _, target in find_labelled_images(tmp_path, 2, names)] == targets
