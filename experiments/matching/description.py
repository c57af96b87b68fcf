"""What was measured, in words: for the screen and the head of the arm's file."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from experiments.matching.cost import Comparison, Conditions, Metric
from experiments.matching.layouts import Layout
from mobilemamba.complexity import Complexity
from mobilemamba.environment import device_name, threads_in_words

NAMES: dict[Metric, str] = {"throughput": "throughput", "latency": "latency", "macs": "MACs"}
"""What each metric is called in a sentence."""


def describe_conditions(metric: Metric, conditions: Conditions) -> str:
    """Return what is measured, and where."""
    size = f"{conditions.image_size[0]} x {conditions.image_size[1]} pixels"
    if metric == "macs":
        return f"multiply-accumulates at {size}, the scan's included"
    device = conditions.device
    threads = f", {threads_in_words(torch.get_num_threads())}" if device.type == "cpu" else ""
    precision = "mixed precision (bfloat16)" if conditions.autocast else "float32"
    form = "fused and compiled" if conditions.compile else "fused"
    images = "single images" if conditions.batch_size == 1 else f"{conditions.batch_size} images"
    return (
        f"{metric} on {device_name(device)} ({device.type}{threads}), {images} of {size}, {precision}, {form} networks "
        "in inference"
    )


def describe_comparison(metric: Metric, comparison: Comparison) -> str:
    """Return one line on some widths beside the reference."""
    ratio = comparison.ratio(metric)
    error = f" +- {comparison.noise * ratio:.3f}" if comparison.noise else ""
    return f"{' '.join(f'{width:4d}' for width in comparison.widths)}   {ratio:.3f}{error} times its {NAMES[metric]}"


def describe_match(
    metric: Metric,
    conditions: Conditions,
    found: Comparison,
    reference: str,
    cost: Complexity,
    reference_cost: Complexity,
) -> list[str]:
    """Return sentences on a match.

    Args:
        metric: What is alike.
        conditions: How it was measured.
        found: The comparison that decided.
        reference: Name of the reference.
        cost: Complexity of the arm.
        reference_cost: Complexity of the reference.
    """
    sentences = [
        f"{cost.parameters:,} parameters and {cost.total_macs / 1e9:.4f} GMACs; {reference} has "
        f"{reference_cost.parameters:,} and {reference_cost.total_macs / 1e9:.4f}.",
        f"{found.ratio(metric):.3f} times the {NAMES[metric]} of {reference}{_figures(metric, conditions, found)}: "
        f"{describe_conditions(metric, conditions)}.",
    ]
    if metric != "macs":
        sentences.append(
            f"Medians of {found.calls} calls of each, in turn in one process, measured anew after the search; standard "
            f"error of the ratio {found.noise:.1%} within this process. Another device ranks layouts differently: "
            "match the widths anew on the device that the claim is about."
        )
    sentences.append(f"Python {platform.python_version()}, torch {torch.__version__}, timm {version('timm')}.")
    return sentences


def head(layout: Layout, path: Path) -> Mapping[str, str]:
    """Return the entries that an experiment's head has, for an arm that nobody has trained yet."""
    return {
        "Paper row": layout.paper_row,
        "Command": f"lightning fit --config {shlex.quote(str(path))} --data.root /path/to/imagenet",
        "Expected": "not run; no published figure belongs to these widths",
        "Cost": "not run",
    }


def _figures(metric: Metric, conditions: Conditions, found: Comparison) -> str:
    match metric:
        case "macs":
            return ""
        case "latency":
            return f" ({found.cost:.2f} to {found.reference_cost:.2f} ms)"
        case "throughput":
            ours, reference = (conditions.batch_size / cost * 1e3 for cost in (found.cost, found.reference_cost))
            return f" ({ours:.1f} to {reference:.1f} images/s)"
