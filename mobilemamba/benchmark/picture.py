"""Published accuracy against measured latency, as a picture."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.figure import Figure

from mobilemamba.benchmark.accuracy import published_top1
from mobilemamba.benchmark.latency import Latency


def draw(latencies: list[Latency], title: str) -> Figure:
    """Draw one panel for each form; networks of unknown accuracy are left out.

    Args:
        latencies: What was measured.
        title: Device, threads and batch size.
    """
    forms = list(dict.fromkeys(latency.form for latency in latencies))
    figure = Figure(figsize=(5 * len(forms), 4), layout="constrained")
    figure.suptitle(title)
    for axes, form in zip(figure.subplots(1, len(forms), squeeze=False)[0], forms, strict=True):
        for latency in latencies:
            top1 = published_top1(latency.network)
            if latency.form != form or top1 is None:
                continue
            ours = latency.network.startswith("mobilemamba")
            axes.plot(latency.timing.minimum, top1, "o", color="C3" if ours else "C7")
            point = (latency.timing.minimum, top1)
            axes.annotate(latency.network, point, xytext=(0, 6), textcoords="offset points", ha="center")
        axes.set(title=form, xlabel="milliseconds per batch (minimum)", ylabel="published ImageNet top-1, percent")
        axes.margins(x=0.35, y=0.2)
        axes.grid(alpha=0.3)
    return figure


def write_picture(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished.png")
    figure.savefig(unfinished, dpi=120)
    os.replace(unfinished, path)
