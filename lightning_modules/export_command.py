"""``mobilemamba export``: writes a checkpoint as a fused file for deployment, checked against its network."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any, Literal

from lightning_modules.task_networks import load_task_network
from mobilemamba.errors import UserError, require
from mobilemamba.export.export import NotComparedWarning, export_network, report_path
from mobilemamba.export.formats import FormatName
from mobilemamba.export.int8.export import export_int8
from mobilemamba.export.int8.options import Int8Options
from mobilemamba.export.int8.report import Int8Report
from mobilemamba.export.options import ExportOptions
from mobilemamba.export.parity import ParityReport
from mobilemamba.tables import table


def export(
    weights: str,
    weights_kind: Literal["ema", "raw"] = "ema",
    variant: str | None = None,
    format: FormatName = "onnx",
    output: Path | None = None,
    image_size: list[int] | None = None,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    tolerance: float | None = None,
    opset: int | None = None,
    int8: bool = False,
    calibration: Path | None = None,
    validation: Path | None = None,
    calibration_images: int | None = None,
    compared_images: int | None = None,
    min_agreement: float | None = None,
    max_accuracy_drop: float | None = None,
) -> None:
    """Write weights as a file for deployment, BatchNorm folded, compared with their network.

    Args:
        weights: A checkpoint of `lightning fit`, of any task, or another file of weights, published, published:in1k,
            local-dir:FOLDER or hf-hub:OWNER/NAME; also --checkpoint.
        weights_kind: Averaged or raw weights, where there are both.
        variant: Network of published weights, such as mobilemamba_s6.
        format: File format.
        output: File to write. Null: the weights' file with the format's suffix, or .int8.onnx.
        image_size: Height and width in pixels. Null: the evaluation size of the weights.
        dynamic_batch: Take any batch size, or single images.
        dynamic_size: Take images of any height and width, or of one size.
        tolerance: Largest difference allowed, relative to the largest logit. Null: 1e-4, in float16 2e-2.
        opset: With an ONNX format, version of the operators, 17 or later, for older runtimes. Null: the exporter's.
        int8: Write weights and activations in int8, for ONNX Runtime; needs --calibration.
        calibration: With --int8, folder of images like those to come, in any depth of folders.
        validation: With --int8, other images, a folder for each class; the accuracy before and after is compared,
            beside the top classes by both files. Null: other images of --calibration, by their top classes alone.
        calibration_images: With --int8, images to calibrate with, at most. Null: 256.
        compared_images: With --int8, images to compare on, at most. Null: 1000.
        min_agreement: With --int8, least share of images with the same top class before and after. Null: 0.9.
        max_accuracy_drop: With --int8, largest drop of the accuracy on --validation, in percentage points. Null: 1.

    Raises:
        UserError: When an option or the checkpoint does not fit, or the file differs from its network.
    """
    options = ExportOptions(format, dynamic_batch, dynamic_size, tolerance, opset)
    int8_options = _int8_options(
        int8,
        calibration=calibration,
        validation=validation,
        calibration_images=calibration_images,
        compared_images=compared_images,
        min_agreement=min_agreement,
        max_accuracy_drop=max_accuracy_drop,
    )
    suffix = f".int8{options.suffix}" if int8 else options.suffix
    if output is None and not Path(weights).is_file():
        raise UserError(f"--output must name the file to write, such as mobilemamba{suffix}: {weights} is no file.")
    network, metadata = load_task_network(weights, weights_kind, variant)
    if image_size is not None:
        require(len(image_size) == 2, "--image-size", image_size, "two numbers, height and width in pixels")
        metadata = dataclasses.replace(metadata, image_size=(image_size[0], image_size[1]))
    path = output or Path(weights).with_suffix(suffix)
    print(f"Exporting {path} and comparing it with its network ...", flush=True)
    if int8_options is not None:
        print(_int8_text(path, export_int8(network, path, options, int8_options, metadata)))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotComparedWarning)  # the text says it
        print(_text(path, export_network(network, path, options, metadata)))


def _int8_options(is_wanted: bool, **options: Any) -> Int8Options | None:
    given = {name: value for name, value in options.items() if value is not None}
    if not is_wanted:
        for name in given:
            raise UserError(f"--{name.replace('_', '-')} belongs to --int8: add that, or leave it out.")
        return None
    if "calibration" not in given:
        raise UserError("--int8 needs --calibration FOLDER: images that the ranges of activations are taken from.")
    return Int8Options(**given)


def _text(path: Path, report: ParityReport) -> str:
    """Return the printed result of an export."""
    lines = [f"{path}  ({report.size_bytes / 1e6:.1f} MB)", ""]
    if report.verdict == "converted, not run":
        lines.append(
            f"CONVERTED, NOT RUN: this system has no {report.format} runtime, so the file was NOT compared with its "
            "network. Do so where it runs."
        )
    else:
        rows = [
            (" x ".join(map(str, c.shape)), str(c.images), f"{c.max_abs_error:.1e}", f"{c.top1_agreement:.1%}")
            for c in report.comparisons
        ]
        lines += [
            table(("batch of images", "images", "largest difference", "same top class"), rows),
            "",
            f"Differences are relative to the largest logit; tolerance {report.tolerance:g}.",
        ]
        if report.half is not None:
            lines.append(
                f"With every result rounded to float16, as on GPUs, in PyTorch: {report.half.max_abs_error:.1e}, "
                f"same top class {report.half.top1_agreement:.1%} of {report.half.images} images."
            )
        if not report.conclusive:
            lines.append(
                "Note: this network gives almost the same logits for all images, as before training, so the comparison "
                "proves little."
            )
    lines += [f"Fusion alone, in float64: {report.fuse_max_abs_error:.1e}.", f"Report: {report_path(path)}"]
    return "\n".join(lines)


def _int8_text(path: Path, report: Int8Report) -> str:
    """Return the printed result of an export in int8."""
    before, after = report.milliseconds_before, report.milliseconds_after
    rows = [
        (name, "-" if accuracy is None else f"{accuracy:.2%}", f"{size / 1e6:.1f}", f"{milliseconds:.2f}")
        for name, accuracy, size, milliseconds in (
            ("float32", report.accuracy_before, report.float_report.size_bytes, before),
            ("int8", report.accuracy_after, report.size_bytes, after),
        )
    ]
    lines = [
        f"{path}  ({report.size_bytes / 1e6:.1f} MB, {report.quantised_nodes} nodes in int8)",
        "",
        table(("weights", "accuracy", "MB", "ms per image"), rows),
        "",
        f"Same top class for {report.top1_agreement:.2%} of {report.compared_images} images, none of the "
        f"{report.calibration_images} it was calibrated with; logits differ by up to {report.max_abs_error:.1%} of the "
        "largest.",
    ]
    if after >= before:
        lines.append("On this machine the int8 file is only smaller, not faster.")
    return "\n".join([*lines, f"Report: {report_path(path)}"])
