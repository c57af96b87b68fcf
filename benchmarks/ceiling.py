"""How near a network comes to what the machine can do, and what MobileMamba's parts cost.

::

    python -m benchmarks ceiling --threads 2

First the ceilings, measured in the same run: multiply-accumulates per second of a large matrix product, and bytes per
second of a large copy. A forward pass takes no less than its multiply-accumulates at the one rate, nor than its weights
at the other. Then MobileMamba with parts left out. Such a network computes something else, but bounds what a faster
part can gain: without the recurrence of its scans (what is projected in goes on to the norm), without its wavelet
branches, without both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from benchmarks import latency
from benchmarks.forms import Form, check_forms, set_threads
from benchmarks.networks import build, fused
from benchmarks.publish import RESULTS, around_markers, replace_between, table_of, write_results
from mobilemamba.bimamba import BiMamba
from mobilemamba.complexity import complexity
from mobilemamba.environment import device_name, find_device, threads_in_words
from mobilemamba.export.timing import Timing, interleaved
from mobilemamba.wavelet_mamba import WaveletMamba

PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product measures arithmetic."""

COPY_FLOATS = {"cpu": 2**26, "cuda": 2**29}
"""Values of the copy that measures bandwidth: more than any cache holds."""

BYTES_PER_FLOAT = 4
REPEATS = 3

MARKERS = "ceiling"

VARIANTS = ("", " without scan", " without wavelets", " without both")


class WithoutScan(nn.Module):
    """A fused BiMamba whose scan hands on its input."""

    def __init__(self, mamba: BiMamba) -> None:
        super().__init__()
        self.in_proj, self.conv = mamba.in_proj, mamba.conv
        self.out_norm, self.out_proj = mamba.out_norm, mamba.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x, (B, C, H, W)."""
        u, z = self.in_proj(x)
        return self.out_proj(self.out_norm(self.conv(u), z))


@dataclass(frozen=True)
class Ceiling:
    """Multiply-accumulates of a large matrix product in float32, and bytes read and written by a large copy."""

    macs_per_second: float
    bytes_per_second: float


@dataclass(frozen=True)
class Share:
    """A network's time for one batch beside the ceilings.

    Args:
        network: timm's name, and what was left out.
        form: "fused" or an export format.
        macs: Multiply-accumulates of convolutions and matrix products, for the batch.
        weight_bytes: Of all parameters.
        timing: Milliseconds.
        least_milliseconds: The longer of arithmetic and reading weights, each at its ceiling.
        ratio_of_minima: To the reference in the same form.
    """

    network: str
    form: Form
    macs: int
    weight_bytes: int
    timing: Timing
    least_milliseconds: float
    ratio_of_minima: float


def ceiling(
    network: str = "mobilemamba_s6",
    reference: str = "shvit_s3",
    forms: list[Form] = ["fused", "onnx"],  # noqa: B006
    device: str = "cpu",
    threads: PositiveInt = 2,
    batch_size: PositiveInt = 1,
    rounds: PositiveInt = 40,
    output: Path = RESULTS / "ceiling.json",
    document: Path = Path("docs/performance.md"),
) -> None:
    """Measure how near a network comes to what the machine can do, and what MobileMamba's parts cost.

    Args:
        network: timm name of a MobileMamba.
        reference: Network that ratios are to.
        forms: Forms of each, all fused.
        device: PyTorch device.
        threads: CPU threads of every runtime.
        batch_size: Images per call.
        rounds: Timed rounds of three calls.
        output: JSON file.
        document: Markdown file whose table between the markers ceiling:begin and ceiling:end is replaced.
    """
    set_threads(threads)
    around_markers(document, MARKERS)  # fails now rather than after the work
    place = find_device(device)
    check_forms(forms, place)
    limits = measure_ceiling(place)
    shares = measure(network, reference, forms, batch_size, rounds, limits, place)
    heading = (
        f"{device_name(place)}, {threads_in_words(threads)}, batch {batch_size}, float32; matrix product "
        f"{limits.macs_per_second / 1e9:.0f} GMAC/s, copy {limits.bytes_per_second / 1e9:.0f} GB/s; minimum of "
        f"{REPEATS * rounds} calls."
    )
    write_results(output, place, ceiling=asdict(limits), results=[asdict(share) for share in shares])
    replace_between(document, MARKERS, f"{heading}\n\n{format_shares(shares, reference)}")


def measure_ceiling(device: torch.device) -> Ceiling:
    """Measure arithmetic and bandwidth, each at its best of several calls."""
    kind = device.type if device.type in PRODUCT_SIZE else "cpu"  # other devices are nearer to a CPU than to a server's
    size, count = PRODUCT_SIZE[kind], COPY_FLOATS[kind]
    matrix = torch.randn(size, size, device=device)
    source, target = torch.ones(count, device=device), torch.empty(count, device=device)
    calls = {"product": lambda: matrix @ matrix, "copy": lambda: target.copy_(source)}
    timings = interleaved(calls, rounds=5, repeats=2, device=device)
    return Ceiling(
        macs_per_second=size**3 / timings["product"].minimum * 1e3,
        bytes_per_second=2 * BYTES_PER_FLOAT * count / timings["copy"].minimum * 1e3,
    )


def measure(
    network: str,
    reference: str,
    forms: Sequence[Form],
    batch_size: int,
    rounds: int,
    ceiling: Ceiling,
    device: torch.device,
) -> list[Share]:
    """Time a fused MobileMamba, whole and in part, and a reference in all forms in turn; options as of the command."""
    whole, other = build(network, device), build(reference, device)
    parts = [
        replace(whole, name=f"{network}{variant}", network=without(whole.network, variant)) for variant in VARIANTS
    ]
    candidates = [replace(other, network=fused(other.network)), *parts]
    latencies = latency.measure(candidates, forms, reference, [batch_size], rounds, REPEATS, device)
    costs = {candidate.name: complexity(candidate.network, candidate.image_shape[1:]) for candidate in candidates}
    shares = []
    for one in sorted(latencies, key=lambda one: forms.index(one.form)):
        macs, weight_bytes = batch_size * costs[one.network].macs, BYTES_PER_FLOAT * one.parameters
        least = 1e3 * max(macs / ceiling.macs_per_second, weight_bytes / ceiling.bytes_per_second)
        shares.append(Share(one.network, one.form, macs, weight_bytes, one.timing, least, one.ratio_of_minima))
    return shares


def without(network: nn.Module, variant: str) -> nn.Module:
    """Return a fused copy of a MobileMamba without what the variant names."""
    copy = fused(network)
    for module in copy.modules():
        if not isinstance(module, WaveletMamba):
            continue
        if variant in (" without scan", " without both") and module.mamba is not None:
            module.mamba = WithoutScan(module.mamba).eval()  # type: ignore[assignment]
        if variant in (" without wavelets", " without both"):
            module.wavelet = None
    return copy


def format_shares(shares: Sequence[Share], reference: str) -> str:
    """Return a table."""
    return table_of(
        shares,
        {
            "network": lambda share: share.network,
            "form": lambda share: share.form,
            "GMACs": lambda share: f"{share.macs / 1e9:.3f}",
            "MB of weights": lambda share: f"{share.weight_bytes / 1e6:.0f}",
            "ms": lambda share: f"{share.timing.minimum:.2f}",
            "least ms": lambda share: f"{share.least_milliseconds:.2f}",
            f"ms / {reference}": lambda share: f"{share.ratio_of_minima:.2f}",
        },
        left=2,
    )
