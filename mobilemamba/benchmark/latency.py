"""Latency of networks in several forms, measured in one process and in turn.

Forms: "eager" is the network in eval mode as it was trained; "fused" has all norms folded; "onnx" is the fused network
in ONNX Runtime on the CPU; "compiled" is the fused network under torch.compile. Ratios are to a reference network in
the same form.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime
import torch
from torch import Tensor, nn

from mobilemamba.benchmark.networks import BenchmarkError, Contender, fused, inference_call
from mobilemamba.benchmark.results import table
from mobilemamba.benchmark.timing import Timing, interleaved

Form = Literal["eager", "fused", "onnx", "compiled"]

DIFFERENCE_LIMIT = 1e-3
"""Largest difference from the eager network, relative to the largest logit: above it the wrong thing is timed."""

AUTOCAST_DIFFERENCE_LIMIT = 0.1
"""The same for mixed precision: random weights make small logits of large features."""


@dataclass(frozen=True)
class Latency:
    """Latency of one network in one form.

    Args:
        network: timm's name.
        form: As in the module's description.
        image_size: Height and width in pixels.
        timing: Milliseconds per batch.
        ratio_of_minima: To the reference in the same form.
        ratio_of_medians: To the reference in the same form.
        max_difference: From the eager network, relative to the largest logit.
    """

    network: str
    form: Form
    image_size: tuple[int, int]
    timing: Timing
    ratio_of_minima: float
    ratio_of_medians: float
    max_difference: float


def measure(
    contenders: list[Contender],
    forms: list[Form],
    reference: str,
    batch_size: int,
    rounds: int,
    repeats: int,
    device: torch.device,
    autocast: bool = False,
) -> list[Latency]:
    """Time every contender in every form, in turn.

    Args:
        contenders: Networks, the reference among them.
        forms: Forms of each.
        reference: Name of the network that ratios are to.
        batch_size: Images per call.
        rounds: Timed rounds.
        repeats: Calls of each form in a round.
        device: Of the contenders.
        autocast: Whether PyTorch's forms run in the device's mixed precision.

    Raises:
        BenchmarkError: When a form does not run on the device, or gives other answers than the eager network.
    """
    calls: dict[tuple[str, Form], Callable[[], Tensor]] = {}
    differences: dict[tuple[str, Form], float] = {}
    for contender in contenders:
        images = contender.images(batch_size, device)
        with torch.inference_mode():
            expected = contender.network(images)
        for form in forms:
            key = (contender.name, form)
            calls[key] = _call(contender.network, images, form, autocast)
            difference = (calls[key]() - expected).abs().max() / expected.abs().max()
            differences[key] = difference.item()
            if not differences[key] <= (AUTOCAST_DIFFERENCE_LIMIT if autocast else DIFFERENCE_LIMIT):
                raise BenchmarkError(f"{contender.name} as {form} differs from eager by {difference:.1e}: not timed.")
    keys = {" ".join(key): key for key in calls}
    timings = interleaved({name: calls[key] for name, key in keys.items()}, rounds, repeats, device)
    shapes = {contender.name: contender.image_shape for contender in contenders}
    latencies = []
    for name, (network, form) in keys.items():
        timing, base = timings[name], timings[f"{reference} {form}"]
        latencies.append(
            Latency(
                network,
                form,
                shapes[network][1:],
                timing,
                timing.minimum / base.minimum,
                timing.median / base.median,
                differences[network, form],
            )
        )
    return latencies


def format_latencies(latencies: list[Latency], reference: str) -> str:
    """Return latencies as a table."""
    header = ("network", "form", "pixels", "minimum", "median", f"minimum / {reference}", f"median / {reference}")
    rows = [
        (
            latency.network,
            latency.form,
            "x".join(map(str, latency.image_size)),
            f"{latency.timing.minimum:.2f}",
            f"{latency.timing.median:.2f}",
            f"{latency.ratio_of_minima:.2f}",
            f"{latency.ratio_of_medians:.2f}",
        )
        for latency in latencies
    ]
    return table(header, rows)


def _call(network: nn.Module, images: Tensor, form: Form, autocast: bool) -> Callable[[], Tensor]:
    match form:
        case "eager":
            return inference_call(network, images, autocast)
        case "fused":
            return inference_call(fused(network), images, autocast)
        case "compiled":
            return inference_call(torch.compile(fused(network)), images, autocast)
        case "onnx":
            return _onnx_call(fused(network), images)


def _onnx_call(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    if images.device.type != "cpu":
        raise BenchmarkError(f"Form 'onnx' is measured on the CPU, not on {images.device}: leave it out of --forms.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (images,), path, dynamo=True, external_data=False, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    array = images.numpy()
    return lambda: torch.from_numpy(session.run(None, {name: array})[0])
