"""Latency of networks in several forms, measured in one process and in turn.

::

    python -m benchmarks.latency mobilemamba_s6 shvit_s3 efficientvim_m3 --batch-size 1 --threads 2

Forms: "eager" is the network in eval mode as it was trained; "fused" has all norms folded; "onnx" is the fused network
in ONNX Runtime on the CPU; "compiled" is the fused network under torch.compile. Ratios are to a reference network in
the same form.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.environment import environment
from benchmarks.networks import Contender, build, fused
from benchmarks.results import table, write_json
from benchmarks.timing import Timing, interleaved

Form = Literal["eager", "fused", "onnx", "compiled"]

DIFFERENCE_LIMIT = 1e-3
"""Largest difference from the eager network, relative to the largest logit: above it the wrong thing is timed."""


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


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    names = list(dict.fromkeys([*options.networks, options.reference]))
    latencies = measure(
        [build(name, device) for name in names],
        options.forms,
        reference=options.reference,
        batch_size=options.batch_size,
        rounds=options.rounds,
        repeats=options.repeats,
        device=device,
    )
    about = environment(device)
    print(f"{about['device']}, {about['threads']} threads, batch {options.batch_size}, float32, milliseconds\n")
    print(format_latencies(latencies, options.reference))
    settings = {"batch_size": options.batch_size, "rounds": options.rounds, "repeats": options.repeats}
    content = {"environment": about, "settings": settings, "reference": options.reference}
    write_json(options.output, content | {"results": [asdict(latency) for latency in latencies]})
    print(f"\nWritten to {options.output}")


def measure(
    contenders: list[Contender],
    forms: list[Form],
    reference: str,
    batch_size: int,
    rounds: int,
    repeats: int,
    device: torch.device,
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

    Raises:
        ValueError: When a form does not run on the device.
        RuntimeError: When a form gives other answers than the eager network.
    """
    calls: dict[tuple[str, Form], Callable[[], Tensor]] = {}
    differences: dict[tuple[str, Form], float] = {}
    for contender in contenders:
        images = contender.images(batch_size, device)
        with torch.inference_mode():
            expected = contender.network(images)
        for form in forms:
            key = (contender.name, form)
            calls[key] = _call(contender.network, images, form)
            difference = (calls[key]() - expected).abs().max() / expected.abs().max()
            differences[key] = difference.item()
            if not differences[key] <= DIFFERENCE_LIMIT:
                raise RuntimeError(f"{contender.name} as {form} differs from eager by {difference:.1e}: not timed.")
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


def _call(network: nn.Module, images: Tensor, form: Form) -> Callable[[], Tensor]:
    run: Callable[[Tensor], Tensor]
    match form:
        case "eager":
            run = network
        case "fused":
            run = fused(network)
        case "compiled":
            run = torch.compile(fused(network))
        case "onnx":
            return _onnx_call(fused(network), images)

    def call() -> Tensor:
        with torch.inference_mode():
            return run(images)

    return call


def _onnx_call(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    if images.device.type != "cpu":
        raise ValueError(f"Form 'onnx' is measured on the CPU, not on {images.device}: leave it out of --forms.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (images,), path, dynamo=True, external_data=False, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    array = images.numpy()
    return lambda: torch.from_numpy(session.run(None, {name: array})[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", default=["mobilemamba_s6"], help="timm names (default: mobilemamba_s6)")
    parser.add_argument("--reference", default="shvit_s3", help="network that ratios are to (default: shvit_s3)")
    parser.add_argument("--forms", nargs="+", choices=get_args(Form), default=["eager", "fused", "onnx"])
    parser.add_argument("--batch-size", type=int, default=1, help="images per call (default: 1)")
    parser.add_argument("--threads", type=int, help="of PyTorch and ONNX Runtime (default: PyTorch's choice)")
    parser.add_argument("--device", default="cpu", help="PyTorch device (default: cpu)")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds (default: 30)")
    parser.add_argument("--repeats", type=int, default=3, help="calls of each form in a round (default: 3)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/latency.json"))
    return parser


if __name__ == "__main__":
    main()
