"""From a trained network to a file that is known to be right.

Fuse a copy, compare in float64; swap what graphs need in another form; trace, write in a hidden folder, reload with the
file's own runtime, compare in float32; only then does the file move to its place, with all that belongs to it.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import UserError, require
from mobilemamba.export.detections import SingleImageDetector, trace_detector
from mobilemamba.export.formats import FORMATS, check_installed, format_module, format_of
from mobilemamba.export.graph import for_graphs
from mobilemamba.export.half import HalfPrecision, compare_half
from mobilemamba.export.options import ExportOptions
from mobilemamba.export.parity import ParityReport, compare_fused, compare_runner, random_images
from mobilemamba.export.tracing import largest_dynamic_size, promised_shapes, trace, tracing_size
from mobilemamba.files import atomic_write, check_writable
from mobilemamba.fusion import fuse
from mobilemamba.metadata import ModelMetadata

HALF_IMAGES = 4
"""Images on which a network is compared with itself in float16."""


class NotComparedWarning(UserWarning):
    """A file was written without comparison: this system cannot run it."""


def export_network(
    network: nn.Module, path: str | Path, options: ExportOptions, metadata: ModelMetadata
) -> ParityReport:
    """Export a network and compare the file with it.

    Args:
        network: A MobileMamba, or a network that segments or detects by one, in any mode, on any device, fused or not;
            it stays as it is. Files of detectors take single images of one size.
        path: The file, which ends in the format's suffix. Its report is written beside it (:func:`report_path`).
        options: Form of the file.
        metadata: Written into the file; its image_size is the size that the file takes.

    Returns:
        The report, which passed, or says that this system cannot run the file.

    Raises:
        UserError: When path, image size or network do not fit, or the format's packages or compiler are missing, before
            any work; or when the fused network or the file gives other answers than the network.

    Warns:
        NotComparedWarning: When this system cannot run the file.
    """
    path = Path(path)
    backbone = check_request(network, path, options, metadata)
    form, module = FORMATS[options.format], format_module(options.format)
    smallest = _smallest_side(backbone, options)
    channels, image_size = backbone.config.in_chans, metadata.image_size
    image = random_images((1, channels, *image_size))
    with torch.no_grad():
        unfused = copy.deepcopy(network).cpu().eval().requires_grad_(False).double()
        answer = unfused(image.double())
    is_detector = not isinstance(answer, Tensor)
    if is_detector:
        options = _of_detector(options)
        unfused = SingleImageDetector(unfused).eval()
    fused = fuse(unfused)
    fuse_error = compare_fused(unfused, fused, (1 if is_detector else 2, channels, *image_size))
    unfused.float()  # from here on both are in float32; rounding gives back the network's own weights
    fused.float()
    if not form.is_compiled:
        for_graphs(fused, options.dynamic_size)
    logits = 1 if is_detector else answer.numel()
    shapes = promised_shapes(channels, image_size, smallest, options, logits)
    half = None
    if form.is_half:
        fused = HalfPrecision(fused)
        half = compare_half(unfused, fused, (HALF_IMAGES, channels, *image_size))
    with atomic_write(path) as unfinished:
        if is_detector and options.format == "onnx":
            from mobilemamba.export.formats.onnx import write_detector  # whose packages other formats do not need

            write_detector(fused, image, unfinished, metadata)
        else:
            size = tracing_size(image_size, smallest, options)
            program = trace_detector(fused, image) if is_detector else trace(fused, channels, size, options)
            if options.opset is None:
                module.write(program, unfinished, metadata)
            else:
                from mobilemamba.export.formats import onnx  # whose packages other formats do not need

                onnx.write(program, unfinished, metadata, options.opset)
        report = ParityReport(
            format=options.format,
            fuse_max_abs_error=fuse_error,
            tolerance=options.tolerance or form.tolerance,
            comparisons=compare_runner(unfused, module.load(unfinished), shapes) if form.runs_here else (),
            half=half,
            versions=form.versions(),
            size_bytes=sum(part.stat().st_size for part in unfinished.parent.rglob("*") if part.is_file()),
        )
        report.raise_if_refused()
        report_path(unfinished).write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    if report.verdict == "converted, not run":
        warnings.warn(
            f"{path} was converted, NOT run: this system has no {options.format} runtime, so the file was NOT compared "
            "with its network. Do so where it runs.",
            NotComparedWarning,
            stacklevel=2,
        )
    return report


def report_path(path: str | Path) -> Path:
    """Return where the parity report of an exported file lies: ``model.onnx`` has ``model.onnx.parity.json``."""
    path = Path(path)
    return path.with_name(f"{path.name}.parity.json")


def check_request(network: nn.Module, path: Path, options: ExportOptions, metadata: ModelMetadata) -> MobileMamba:
    """Return a network's backbone when it can be exported as asked, as far as can be said before any work.

    Raises:
        UserError: When path, image size or network do not fit, or the format's packages are missing.
    """
    backbone = next((module for module in network.modules() if isinstance(module, MobileMamba)), None)
    if backbone is None:
        raise UserError(f"Only a MobileMamba, or a network with one, can be exported, not a {type(network).__name__}.")
    if not path.name.endswith(options.suffix) or format_of(path) != options.format:
        raise UserError(f"Output {path} does not fit format {options.format!r}: let its name end in {options.suffix}.")
    if path.is_dir() and options.format != "coreml":
        raise UserError(f"Output {path} is a folder: name a file in it.")
    height, width = metadata.image_size
    smallest, largest = _smallest_side(backbone, options), largest_dynamic_size(backbone.config.stem_stride)
    if min(height, width) < smallest:
        raise UserError(
            f"image_size = {height}x{width} is too small: this network as a {options.format} file of "
            f"{'dynamic' if options.dynamic_size else 'fixed'} size takes at least {smallest}x{smallest} pixels."
        )
    if options.dynamic_size and max(height, width) > largest:
        raise UserError(
            f"image_size = {height}x{width} is too large for a file of dynamic size, which takes up to "
            f"{largest}x{largest} pixels: export with dynamic_size = False."
        )
    check_installed(options.format)
    check_writable(path.parent)
    return backbone


def _of_detector(options: ExportOptions) -> ExportOptions:
    """Return the form of a detector's file.

    Raises:
        UserError: When there is none.
    """
    if options.format not in ("onnx", "pt2") or options.dynamic_size:
        raise UserError(
            f"format = {options.format!r} with dynamic_size = {options.dynamic_size} must be 'onnx' or 'pt2' with "
            "dynamic_size = False: there are no other files of detectors."
        )
    require(options.opset is None, "opset", options.opset, "null for a detector: its files have operators of their own")
    return replace(options, dynamic_batch=False)


def _smallest_side(network: MobileMamba, options: ExportOptions) -> int:
    """Return the smallest height and width in pixels that a file takes."""
    margin = FORMATS[options.format].dynamic_size_margin
    return network.config.min_image_size + (margin if options.dynamic_size else 0)
