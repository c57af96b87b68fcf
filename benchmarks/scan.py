"""Time of the selective scan in each of its forms, at the sizes that a network scans.

::

    python -m benchmarks scan mobilemamba_s6 --device cuda --batch-size 256

A scan does little arithmetic, so what it can reach is the memory's bandwidth. Bytes are the least a form must move:
each argument read and each result written once, and in the backward pass arguments and the output's gradient read,
gradients written. Over the time they give GB/s, set beside those of a copy measured in the same run. On CUDA a timing
spans several calls in a row, of which the host's share hides behind the device's work as far as it is shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from benchmarks.networks import build
from benchmarks.publish import RESULTS, table_of, write_results
from mobilemamba.bimamba import BiMamba
from mobilemamba.dispatch import ScanForm, selective_scan
from mobilemamba.environment import device_name, find_device
from mobilemamba.export.timing import Timing, interleaved

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""u, dt, A_log, B, C and D of :func:`mobilemamba.dispatch.selective_scan`."""

FORMS: dict[str, tuple[ScanForm, ...]] = {"cuda": ("triton", "parallel"), "cpu": ("parallel", "rows", "sequential")}
DTYPES = {"cuda": ("bfloat16", "float32"), "cpu": ("float32",)}
BATCH_SIZES = {"cuda": 256, "cpu": 8}
CALLS_PER_TIMING = {"cuda": 20, "cpu": 1}
COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}

DIFFERENCE_LIMIT = 1e-2
"""Largest difference from the parallel form, relative to the largest value: above it the wrong thing is timed. The
sequential form rounds step sizes to the dtype of maps."""


@dataclass(frozen=True)
class ScanSize:
    """Size of a scan within a network: H, W, D, K and N."""

    height: int
    width: int
    channels: int
    directions: int
    state_size: int


@dataclass(frozen=True)
class ScanTime:
    """Time of one form at one size.

    Args:
        size: Of the scan.
        dtype: Of maps; A_log and D are float32 as under autocast.
        form: Form of the scan.
        passes: "forward" or "forward and backward".
        timing: Milliseconds per call.
        gigabytes: Least traffic of a call, in 1e9 bytes.
        gigabytes_per_second: At the minimum of times.
        share_of_copy: Of the bandwidth of a copy.
    """

    size: ScanSize
    dtype: str
    form: ScanForm
    passes: str
    timing: Timing
    gigabytes: float
    gigabytes_per_second: float
    share_of_copy: float


def scan(
    network: str = "mobilemamba_s6",
    forms: list[ScanForm] | None = None,
    dtypes: list[str] | None = None,
    batch_size: PositiveInt | None = None,
    threads: PositiveInt | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    rounds: PositiveInt = 10,
    output: Path = RESULTS / "scan.json",
) -> None:
    """Time the selective scan in each of its forms, at the sizes that a network scans.

    Args:
        network: timm name of a MobileMamba.
        forms: Forms of the scan. Null: those that suit the device.
        dtypes: Types of maps. Null: bfloat16 and float32 on cuda, float32 on cpu.
        batch_size: Maps per call. Null: 256 on cuda, 8 on cpu.
        threads: PyTorch's threads. Null: its own choice.
        device: Where to scan.
        rounds: Timed rounds.
        output: JSON file.
    """
    if threads:
        torch.set_num_threads(threads)
    place = find_device(device)
    maps = batch_size or BATCH_SIZES[device]
    times = [
        time
        for size in scan_sizes(network)
        for dtype in dtypes or DTYPES[device]
        for time in measure(size, dtype, forms or FORMS[device], maps, rounds, place)
    ]
    print(f"{device_name(place)}, {torch.get_num_threads()} threads, batch {maps}\n\n{format_times(times)}\n")
    settings = {"network": network, "batch_size": maps, "rounds": rounds}
    write_results(output, place, settings=settings, results=[asdict(time) for time in times])


def scan_sizes(network: str) -> list[ScanSize]:
    """Return the sizes that a timm network scans at its published image size, each once."""
    candidate = build(network, torch.device("cpu"))
    sizes: list[ScanSize] = []

    def note(module: BiMamba, inputs: tuple[Tensor], _: Tensor) -> None:
        height, width = inputs[0].shape[-2:]
        directions, inner = module.dt_proj_bias.shape
        sizes.append(ScanSize(height, width, inner, directions, module.A_log.shape[-1]))

    for module in candidate.network.modules():
        if isinstance(module, BiMamba):
            module.register_forward_hook(note)
    with torch.inference_mode():
        candidate.network(candidate.images(1, torch.device("cpu")))
    return list(dict.fromkeys(sizes))


def measure(
    size: ScanSize, dtype: str, forms: Sequence[ScanForm], batch_size: int, rounds: int, device: torch.device
) -> list[ScanTime]:
    """Time forms of a scan and a copy, in turn; options as of the command.

    Raises:
        RuntimeError: When a form gives other values than the parallel one.
    """
    arguments = _arguments(size, getattr(torch, dtype), batch_size, device)
    expected = selective_scan(*arguments, form="parallel").detach()
    weight = torch.randn_like(expected)
    span, copied = CALLS_PER_TIMING[device.type], COPY_BYTES[device.type]

    def forward(form: ScanForm) -> None:
        with torch.no_grad():
            for _ in range(span):
                selective_scan(*arguments, form=form)

    def both(form: ScanForm) -> None:
        for _ in range(span):
            torch.autograd.grad(selective_scan(*arguments, form=form), arguments, weight)

    read, written = (sum(t.numel() * t.element_size() for t in tensors) for tensors in (arguments, [expected]))
    passes = {"forward": (forward, read + written), "forward and backward": (both, 3 * read + 2 * written)}
    calls: dict[str, Callable[[], object]] = {}
    for form in forms:
        difference = (selective_scan(*arguments, form=form) - expected).abs().max() / expected.abs().max()
        if not difference <= DIFFERENCE_LIMIT:
            raise RuntimeError(f"Form {form} differs from parallel by {difference:.1e}: not timed.")
        calls |= {f"{form} {name}": partial(call, form) for name, (call, _) in passes.items()}
    source = torch.ones(copied // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    calls["copy"] = lambda: target.copy_(source)
    timings = interleaved(calls, rounds, 1, device)
    copy_bandwidth = copied / timings["copy"].minimum / 1e6
    times = []
    for form in forms:
        for name, (_, traffic) in passes.items():
            spanned = timings[f"{form} {name}"]
            timing = Timing(spanned.minimum / span, spanned.median / span, spanned.calls * span)
            bandwidth = traffic / timing.minimum / 1e6
            share = bandwidth / copy_bandwidth
            times.append(ScanTime(size, dtype, form, name, timing, traffic / 1e9, bandwidth, share))
    return times


def format_times(times: Sequence[ScanTime]) -> str:
    """Return times as a table."""
    return table_of(
        times,
        {
            "pixels, channels": lambda time: f"{time.size.height}x{time.size.width}, {time.size.channels}",
            "dtype": lambda time: time.dtype,
            "form": lambda time: time.form,
            "passes": lambda time: time.passes,
            "minimum ms": lambda time: f"{time.timing.minimum:.3f}",
            "median ms": lambda time: f"{time.timing.median:.3f}",
            "GB/s": lambda time: f"{time.gigabytes_per_second:.3g}",
            "of copy": lambda time: f"{time.share_of_copy:.3f}",
        },
    )


def _arguments(size: ScanSize, dtype: torch.dtype, batch_size: int, device: torch.device) -> Arguments:
    pixels, (K, D, N) = (size.height, size.width), (size.directions, size.channels, size.state_size)
    maps = [(batch_size, D, *pixels), (batch_size, K, D, *pixels), *[(batch_size, K, N, *pixels)] * 2]
    generator = torch.Generator().manual_seed(0)

    def normal(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    u, dt, B, C = (normal(shape, dtype) for shape in maps)
    return u, dt, normal((K, D, N)), B, C, normal((K, D))
