"""The forms in which a network is timed: in PyTorch, or as a file in the runtime of an export format.

"eager" is the network in eval mode as it was trained; "fused" has all norms folded; "compiled" is the fused network
under torch.compile, "compiled-eager" the unfused one; "training" is a training step. Every other form is an export
format: the fused network of a fixed shape, written as for deployment and run on the CPU by the format's own runtime, in
float32 but for "onnx-float16".
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.networks import fused, inference_call
from benchmarks.training_step import TrainingStep
from mobilemamba.errors import UserError
from mobilemamba.export.formats import FORMATS, check_installed, format_module
from mobilemamba.export.formats.base import quiet
from mobilemamba.export.graph import for_graphs
from mobilemamba.export.half import HalfPrecision
from mobilemamba.metadata import ModelMetadata

CPU = torch.device("cpu")

ExportForm = Literal["onnx", "onnx-float16", "pt2", "aoti", "openvino", "executorch", "litert"]
InferenceForm = Literal["eager", "fused", "compiled", "compiled-eager", ExportForm]
Form = Literal[InferenceForm, "training"]


def set_threads(count: int | None) -> None:
    """Set the CPU threads of PyTorch and of every runtime of an exported file that is opened from now on.

    Args:
        count: Number of threads; None leaves PyTorch's choice, for all.
    """
    count = count or torch.get_num_threads()
    torch.set_num_threads(count)  # the others are opened with PyTorch's number, ExecuTorch excepted
    if find_spec("executorch"):
        with quiet("torch.utils._pytree"):
            from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

        with redirect_stderr(io.StringIO()):  # ExecuTorch prints a line
            _unsafe_reset_threadpool(count)


def check_forms(forms: Iterable[Form], device: torch.device) -> None:
    """Check that forms can be measured, before any work.

    Raises:
        UserError: When an exported form is requested for another device than the CPU, or its packages are missing.
    """
    for form in forms:
        if form in FORMATS:
            if device.type != "cpu":
                raise UserError(
                    f"Form {form!r} can only be measured on the CPU, not {device}: leave it out of --forms."
                )
            check_installed(form)


def call_of(
    network: nn.Module, images: Tensor, form: Form, autocast: bool = False
) -> Callable[[], Tensor] | TrainingStep:
    """Return the function to time: a network's forward pass in one form, or a training step.

    Args:
        network: In eval mode, not fused.
        images: (B, C, H, W), of the size that the network is made for.
        form: As in the module's description.
        autocast: Whether PyTorch's own forms run in the device's mixed precision.

    Raises:
        UserError: When an exporter does not take the network.
    """
    match form:
        case "eager":
            return inference_call(network, images, autocast)
        case "fused":
            return inference_call(fused(network), images, autocast)
        case "compiled":
            return inference_call(torch.compile(fused(network)), images, autocast)
        case "compiled-eager":
            return inference_call(torch.compile(network), images, autocast)
        case "training":
            return TrainingStep(network, images, autocast)
        case _:
            own = fused(network)
            if not FORMATS[form].is_compiled:
                own = for_graphs(own, dynamic_size=False)  # leaves other networks as they are
            return _exported_call(own, images, form)


def _exported_call(network: nn.Module, images: Tensor, form: ExportForm) -> Callable[[], Tensor]:
    exporter = format_module(form)
    height, width = images.shape[2:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{FORMATS[form].suffix}"
        try:
            with torch.no_grad(), quiet():
                traced = HalfPrecision(network) if FORMATS[form].is_half else network
                program = torch.export.export(traced, (images,))
            exporter.write(program, path, ModelMetadata((height, width)))
        except Exception as error:  # exporters raise any exception
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(
                f"Form {form!r} does not take {type(network).__name__} ({reason}): leave it out of --forms."
            ) from error
        return inference_call(exporter.load(path), images)
