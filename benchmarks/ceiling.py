"""How close a network comes to the limits of the machine, and what MobileMamba's parts cost.

The limits are measured in the same run: multiply-accumulates per second of a large matrix product, and bytes per second
of a large copy. A forward pass cannot be faster than its multiply-accumulates at the first rate or its weights at the
second. MobileMamba is also timed with parts left out: without the recurrence of its scans (the input projection goes
directly to the norm), without its wavelet branches, and without both. These networks compute something else, but bound
what a faster part can gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from benchmarks import measurement
from benchmarks.forms import InferenceForm, check_forms, set_threads
from benchmarks.networks import build, fused
from benchmarks.publish import RESULTS, around_markers, machine, replace_between, table_of, write_results
from mobilemamba.bimamba import BiMamba
from mobilemamba.complexity import complexity
from mobilemamba.environment import find_device
from mobilemamba.export.timing import interleaved
from mobilemamba.wavelet_mamba import WaveletMamba

PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product measures arithmetic."""

COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Size of the copy that measures bandwidth: more than any cache holds."""

BYTES_PER_FLOAT = 4
REPEATS = 3

MARKERS = "ceiling"

VARIANTS = ("", " without scan", " without wavelets", " without both")


class WithoutScan(nn.Module):
    """A fused BiMamba whose scan returns its input."""

    def __init__(self, mamba: BiMamba) -> None:
        super().__init__()
        self.in_proj, self.conv = mamba.in_proj, mamba.conv
        self.out_norm, self.out_proj = mamba.out_norm, mamba.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x, (B, C, H, W)."""
        u, z = self.in_proj(x)
        return self.out_proj(self.out_norm(self.conv(u), z))


Share = dict[str, Any]
"""A measurement and its limits: macs of convolutions and matrix products for the batch, weight_bytes of all parameters,
and least_milliseconds, the longer of arithmetic and reading weights, each at the machine's limit."""


@dataclass(frozen=True)
class Ceiling:
    """Multiply-accumulates of a large matrix product in float32, and bytes read and written by a large copy."""

    macs_per_second: float
    bytes_per_second: float


def ceiling(
    network: str = "mobilemamba_s6",
    reference: str = "shvit_s3",
    forms: list[InferenceForm] = ["fused", "onnx"],  # noqa: B006
    device: str = "cpu",
    threads: PositiveInt = 2,
    batch_size: PositiveInt = 1,
    rounds: PositiveInt = 40,
    output: Path = RESULTS / "ceiling.json",
    document: Path = Path("docs/performance.md"),
) -> None:
    """Measure how close a network comes to the limits of the machine, and what MobileMamba's parts cost.

    Args:
        network: timm name of a MobileMamba.
        reference: Network by whose time the others are divided.
        forms: Forms to time, all fused.
        device: PyTorch device.
        threads: CPU threads of every runtime.
        batch_size: Images per call.
        rounds: Timed rounds of three calls.
        output: JSON file.
        document: Markdown file whose table between the markers ceiling:begin and ceiling:end is replaced.
    """
    around_markers(document, MARKERS)  # fails before the work
    set_threads(threads)
    place = find_device(device)
    check_forms(forms, place)
    limits = measure_ceiling(place)
    shares = measure(network, reference, forms, batch_size, rounds, limits, place)
    heading = (
        f"{machine(place)}, batch {batch_size}, float32; matrix product {limits.macs_per_second / 1e9:.0f} GMAC/s, "
        f"copy {limits.bytes_per_second / 1e9:.0f} GB/s; minimum of {REPEATS * rounds} calls."
    )
    write_results(output, place, shares, ceiling=asdict(limits))
    rows = (
        f"{share['network']} | {share['form']} | {share['macs'] / 1e9:.3f} | {share['weight_bytes'] / 1e6:.0f}"
        f"| {share['timing']['minimum']:.2f} | {share['least_milliseconds']:.2f} | {share['ratio_of_minima']:.2f}"
        for share in shares
    )
    header = f"network | form | GMACs | MB of weights | ms | least ms | ms / {reference}"
    replace_between(document, MARKERS, f"{heading}\n\n{table_of(header, rows, left=2)}")


def measure_ceiling(device: torch.device) -> Ceiling:
    """Measure arithmetic and bandwidth, each by the fastest of several calls."""
    kind = device.type if device.type in PRODUCT_SIZE else "cpu"  # other devices are closer to a CPU than to a server
    size = PRODUCT_SIZE[kind]
    matrix = torch.randn(size, size, device=device)
    copy, moved = copying(device)
    timings = interleaved({"product": lambda: matrix @ matrix, "copy": copy}, rounds=5, repeats=2, device=device)
    return Ceiling(size**3 / timings["product"].minimum * 1e3, moved / timings["copy"].minimum * 1e3)


def copying(device: torch.device) -> tuple[Callable[[], object], int]:
    """Return a large copy, and the bytes that it reads and writes."""
    size = COPY_BYTES.get(device.type, COPY_BYTES["cpu"])
    source = torch.ones(size, dtype=torch.uint8, device=device)
    return partial(torch.empty_like(source).copy_, source), 2 * size


def measure(
    network: str,
    reference: str,
    forms: Sequence[InferenceForm],
    batch_size: int,
    rounds: int,
    ceiling: Ceiling,
    device: torch.device,
) -> list[Share]:
    """Time a fused MobileMamba, its variants and a reference in all forms in turn; options as of the command."""
    whole, other = build(network, device), build(reference, device)
    parts = [
        replace(whole, name=f"{network}{variant}", network=without(whole.network, variant)) for variant in VARIANTS
    ]
    candidates = [replace(other, network=fused(other.network)), *parts]
    kinds = [(form, batch_size) for form in forms]
    results = measurement.measure(candidates, kinds, reference, rounds, REPEATS, device)
    costs = {candidate.name: complexity(candidate.network, candidate.image_shape[1:]) for candidate in candidates}
    shares = []
    for one in sorted(results, key=lambda one: forms.index(one.form)):
        macs, weight_bytes = batch_size * costs[one.network].macs, BYTES_PER_FLOAT * one.parameters
        least = 1e3 * max(macs / ceiling.macs_per_second, weight_bytes / ceiling.bytes_per_second)
        shares.append(asdict(one) | {"macs": macs, "weight_bytes": weight_bytes, "least_milliseconds": least})
    return shares


def without(network: nn.Module, variant: str) -> nn.Module:
    """Return a fused copy of a MobileMamba without the parts that the variant names."""
    copy = fused(network)
    for module in copy.modules():
        if not isinstance(module, WaveletMamba):
            continue
        if variant in (" without scan", " without both") and module.mamba is not None:
            module.mamba = WithoutScan(module.mamba).eval()  # type: ignore[assignment]
        if variant in (" without wavelets", " without both"):
            module.wavelet = None
    return copy
