"""Backbones at the image sizes of detection and segmentation: time and memory, compared with others of similar size.

Only feature maps are computed, without classifiers. Memory is the peak that one forward pass allocates above what was
allocated before: by the allocator's count on CUDA, by PyTorch's profiler on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm
import torch
from jsonargparse.typing import PositiveInt
from rich.progress import track
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.forms import set_threads
from benchmarks.networks import fused, inference_call
from benchmarks.publish import around_markers, machine, replace_between, table_of
from mobilemamba.environment import find_device
from mobilemamba.export.timing import interleaved, synchronise

MARKERS = "dense-resolution"

SIZES = {"512": (512, 512), "800x1333": (800, 1333), "1024": (1024, 1024)}


@dataclass(frozen=True)
class Cost:
    """Forward pass of a backbone for one image: least milliseconds, and peak memory in 1e6 bytes."""

    milliseconds: float
    megabytes: float


def resolution(
    networks: list[str] = ["mobilemamba_b1", "efficientvit_m5", "shvit_s3", "tiny_vit_21m_224"],  # noqa: B006
    sizes: list[str] = list(SIZES),  # noqa: B006
    device: str = "cpu",
    threads: PositiveInt | None = None,
    rounds: PositiveInt = 3,
    document: Path = Path("docs/dense.md"),
) -> None:
    """Time backbones at the image sizes of detection and segmentation, and measure their memory.

    Args:
        networks: timm names; times are divided by the first one's.
        sizes: Any of 512, 800x1333 and 1024.
        device: PyTorch device.
        threads: CPU threads. Null: PyTorch's choice.
        rounds: Timed rounds of one call each.
        document: Markdown file whose table between the markers dense-resolution:begin and dense-resolution:end is
            replaced.
    """
    around_markers(document, MARKERS)  # fails before the work
    set_threads(threads)
    place = find_device(device)
    costs = {size: measure(networks, SIZES[size], rounds, place) for size in sizes}
    heading = f"{machine(place)}, batch 1, float32, norms folded; minimum of {rounds} calls."
    replace_between(document, MARKERS, f"{heading}\n\n{cost_table(networks, costs)}")


def measure(
    networks: Sequence[str], image_size: tuple[int, int], rounds: int, device: torch.device
) -> dict[str, Cost | None]:
    """Time networks in turn; None for one that does not take images of this size.

    Args:
        networks: timm names.
        image_size: Height and width in pixels.
        rounds: Timed rounds.
        device: Where to run.
    """
    image = torch.randn(1, 3, *image_size, generator=torch.Generator().manual_seed(0)).to(device)
    calls: dict[str, Callable[[], object]] = {}
    for name in networks:
        call = inference_call(partial(features, backbone(name, image_size).to(device)), image)
        try:
            call()
        except (RuntimeError, ValueError, AssertionError):
            continue
        calls[name] = call
    megabytes = {name: peak_megabytes(call, device) for name, call in track(calls.items(), "Memory", transient=True)}
    timings = interleaved(calls, rounds, 1, device, warmup=0)
    return {name: Cost(timings[name].minimum, megabytes[name]) if name in calls else None for name in networks}


def backbone(name: str, image_size: tuple[int, int]) -> nn.Module:
    """Return a network without classifier, its norms folded, built for the image size if it has a fixed one."""
    takes_size = name.startswith(("swin", "efficientvit_m", "vit", "deit"))
    options = {"img_size": image_size if name.startswith(("swin", "vit", "deit")) else max(image_size)}
    return fused(timm.create_model(name, num_classes=0, **(options if takes_size else {})).eval())


def features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the last feature map of images (B, C, H, W)."""
    result: Tensor = network.forward_features(images)  # type: ignore[operator]  # timm's interface
    return result


def peak_megabytes(call: Callable[[], object], device: torch.device) -> float:
    """Return the peak memory of a call above what was allocated before, in 1e6 bytes."""
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():  # there is no public one
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 1e6


def cost_table(networks: Sequence[str], costs: dict[str, dict[str, Cost | None]]) -> str:
    """Return a Markdown table with a row for each network."""

    def cell(cost: Cost | None, first: Cost | None) -> str:
        if cost is None or first is None:
            return "- | -"
        return f"{cost.milliseconds:.0f} ({cost.milliseconds / first.milliseconds:.2f}) | {cost.megabytes:.0f}"

    header = "network | " + " | ".join(f"ms at {size} | MB at {size}" for size in costs)
    rows = (
        f"{name} | " + " | ".join(cell(by_name[name], by_name[networks[0]]) for by_name in costs.values())
        for name in networks
    )
    return table_of(header, rows)
