"""Time of the selective scan in each of its forms, at the sizes that a network scans.

A scan does little arithmetic, so its limit is the memory's bandwidth. Its least traffic is each argument read and each
result written once; in the backward pass, arguments and the output's gradient read and gradients written. Divided by
the time it gives GB/s, compared with a copy in the same run. On CUDA one timing covers several calls in a row, so that
the host's work overlaps with the device's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from benchmarks.ceiling import copying
from benchmarks.forms import set_threads
from benchmarks.networks import build
from benchmarks.publish import RESULTS, machine, table_of, write_results
from mobilemamba.bimamba import BiMamba
from mobilemamba.dispatch import ScanForm, selective_scan
from mobilemamba.environment import find_device
from mobilemamba.export.timing import Timing, interleaved

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""u, dt, A_log, B, C and D of :func:`mobilemamba.dispatch.selective_scan`."""

FORMS: dict[str, tuple[ScanForm, ...]] = {"cuda": ("triton", "parallel"), "cpu": ("parallel", "rows", "sequential")}
DTYPES = {"cuda": ("bfloat16", "float32"), "cpu": ("float32",)}
BATCH_SIZES = {"cuda": 256, "cpu": 8}
CALLS_PER_TIMING = {"cuda": 20, "cpu": 1}

DIFFERENCE_LIMIT = 1e-2
"""Largest difference from the parallel form, relative to the largest value: above it, a form is wrong. The sequential
form rounds step sizes to the dtype of maps."""


class ScanSize(NamedTuple):
    """Size of a scan within a network: H, W, D, K and N."""

    height: int
    width: int
    channels: int
    directions: int
    state_size: int


ScanTime = dict[str, Any]
"""Time of one form at one size: size, form and dtype of maps (A_log and D are float32, as under autocast), passes
("forward" or "forward and backward"), timing in milliseconds per call, the least traffic of a call (gigabytes, 1e9
bytes), gigabytes_per_second by the least time, and share_of_copy, relative to the bandwidth of a copy."""


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
        threads: PyTorch's threads. Null: its default.
        device: Where to scan.
        rounds: Timed rounds.
        output: JSON file.
    """
    set_threads(threads)
    place = find_device(device)
    maps = batch_size or BATCH_SIZES[device]
    times = [
        time
        for size in scan_sizes(network)
        for dtype in dtypes or DTYPES[device]
        for time in measure(size, dtype, forms or FORMS[device], maps, rounds, place)
    ]
    header = "pixels, channels | dtype | form | passes | minimum ms | median ms | GB/s | of copy"
    rows = (
        f"{one['size']['height']}x{one['size']['width']}, {one['size']['channels']} | {one['dtype']} | {one['form']}"
        f"| {one['passes']} | {one['timing']['minimum']:.3f} | {one['timing']['median']:.3f}"
        f"| {one['gigabytes_per_second']:.3g} | {one['share_of_copy']:.3f}"
        for one in times
    )
    print(f"{machine(place)}, batch {maps}\n\n{table_of(header, rows)}\n")
    write_results(output, place, times, settings={"network": network, "batch_size": maps, "rounds": rounds})


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
        RuntimeError: When the result of a form differs from the parallel one's.
    """
    arguments = _arguments(size, getattr(torch, dtype), batch_size, device)
    expected = selective_scan(*arguments, form="parallel").detach()
    weight = torch.randn_like(expected)
    span = CALLS_PER_TIMING[device.type]

    def forward(form: ScanForm) -> None:
        with torch.no_grad():
            for _ in range(span):
                selective_scan(*arguments, form=form)

    def both(form: ScanForm) -> None:
        for _ in range(span):
            torch.autograd.grad(selective_scan(*arguments, form=form), arguments, weight)

    read, written = (sum(t.numel() * t.element_size() for t in tensors) for tensors in (arguments, [expected]))
    passes = {"forward": (forward, read + written), "forward and backward": (both, 3 * read + 2 * written)}
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    calls["copy", ""], copied = copying(device)
    for form in forms:
        difference = (selective_scan(*arguments, form=form) - expected).abs().max() / expected.abs().max()
        if not difference <= DIFFERENCE_LIMIT:
            raise RuntimeError(f"Form {form} is not timed: it differs from parallel by {difference:.1e}.")
        calls |= {(form, name): partial(call, form) for name, (call, _) in passes.items()}
    timings = interleaved(calls, rounds, 1, device)
    copy_bandwidth = copied / timings.pop(("copy", "")).minimum / 1e6
    times = []
    for (scan_form, name), spanned in timings.items():
        timing = Timing(spanned.minimum / span, spanned.median / span, spanned.calls * span)
        gigabytes = passes[name][1] / 1e9
        bandwidth = gigabytes / timing.minimum * 1e3
        times.append(
            {
                "size": size._asdict(),
                "dtype": dtype,
                "form": scan_form,
                "passes": name,
                "timing": asdict(timing),
                "gigabytes": gigabytes,
                "gigabytes_per_second": bandwidth,
                "share_of_copy": bandwidth / copy_bandwidth,
            }
        )
    return times


def _arguments(size: ScanSize, dtype: torch.dtype, batch_size: int, device: torch.device) -> Arguments:
    pixels, (K, D, N) = (size.height, size.width), (size.directions, size.channels, size.state_size)
    maps = [(batch_size, D, *pixels), (batch_size, K, D, *pixels), *[(batch_size, K, N, *pixels)] * 2]
    generator = torch.Generator().manual_seed(0)

    def normal(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    u, dt, B, C = (normal(shape, dtype) for shape in maps)
    return u, dt, normal((K, D, N)), B, C, normal((K, D))
