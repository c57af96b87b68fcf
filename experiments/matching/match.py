"""``mobilemamba match``: widths that make a layout as fast, or as large, as a reference network."""

from __future__ import annotations

import copy
import platform
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse.typing import PositiveInt

from benchmarks.forms import set_threads
from benchmarks.networks import Candidate, build
from benchmarks.publish import machine
from experiments.matching.cost import PARTS, Comparison, Conditions, Metric, macs_measure, time_measure
from experiments.matching.layouts import Layout, find_layout
from experiments.matching.search import Search, first_scale
from experiments.matching.widths import WidthSpace
from mobilemamba.backbone import MobileMamba
from mobilemamba.complexity import complexity
from mobilemamba.environment import find_device
from mobilemamba.errors import require
from mobilemamba.files import check_writable, write_text

LINE_LENGTH = 118


def match(
    reference: str,
    layout: str,
    metric: Metric = "throughput",
    tolerance: float = 0.03,
    multiple: PositiveInt = 8,
    device: str = "cpu",
    batch_size: PositiveInt | None = None,
    image_size: list[PositiveInt] | None = None,
    threads: PositiveInt | None = None,
    autocast: bool = False,
    compile: bool = False,
    rounds: PositiveInt = 20,
    repeats: PositiveInt = 2,
    output: Path | None = None,
) -> None:
    """Find widths at which a layout is as fast as a reference network, and write them as an arm of a study.

    Args:
        reference: timm name, such as mobilemamba_s6.
        layout: three_stage, four_stage_cnn, four_stage_mamba, or an experiment's YAML file; gives the proportions.
        metric: What to match: images per second, time of a single image, or multiply-accumulates.
        tolerance: Largest relative difference.
        multiple: Widths are multiples of this number of channels.
        device: PyTorch device.
        batch_size: Images per call, for throughput. Null: 16; a GPU needs more.
        image_size: Height and width in pixels, or one number for both. Null: that of the reference.
        threads: CPU threads. Null: PyTorch's choice.
        autocast: Run in the device's mixed precision.
        compile: Compile the networks with torch.compile.
        rounds: Timed rounds.
        repeats: Calls of each network in a round.
        output: YAML file to write. Null: runs/LAYOUT_as_REFERENCE.yaml.

    Raises:
        UserError: When an option cannot be used, before anything is measured; or when no widths match.
    """
    options = {name: value for name, value in locals().items() if name != "output"}
    set_threads(threads)
    found_layout, place = find_layout(layout), find_device(device)
    candidate = build(reference, place, image_size)
    channels, *size = candidate.image_shape
    path = output or Path("runs") / f"{found_layout.name}_as_{reference}.yaml"
    require(0 < tolerance < 1, "--tolerance", tolerance, "a share between 0 and 1, such as 0.03")
    require(rounds >= PARTS, "--rounds", rounds, f"{PARTS} or more, they show the error")
    require(metric != "latency" or batch_size in (None, 1), "--batch-size", batch_size, "1 for the latency")
    classes = getattr(candidate.network, "num_classes", found_layout.network.num_classes)
    network = replace(found_layout.network, in_chans=channels, num_classes=classes)
    smallest = network.min_image_size
    require(min(size) >= smallest, "--image-size", size, f"{smallest} or more for {layout}")
    check_writable(path.parent)
    candidate.answer(candidate.images(1, place))
    images = 1 if metric == "latency" else batch_size or 16
    conditions = Conditions(images, place, rounds, repeats, autocast, compile)
    measured = _conditions(metric, conditions, candidate)
    space = WidthSpace(network, multiple)
    reference_cost = complexity(candidate.network, candidate.image_shape[1:])
    count = macs_measure(space, reference_cost.total_macs, candidate.image_shape[1:])
    measure = count if metric == "macs" else time_measure(space, candidate, conditions)

    def say(purpose: str, comparison: Comparison) -> None:
        # To stderr, like the progress bar, so that only the result is on stdout.
        widths, ratio = " ".join(f"{width:4d}" for width in comparison.widths), comparison.ratio(metric)
        error = f" +- {comparison.standard_error * ratio:.3f}" if comparison.standard_error else ""
        print(f"  {widths}   {ratio:.3f}{error} times its {_name(metric)}, {purpose}", file=sys.stderr, flush=True)

    print(f"Reference: {reference}, {measured}", file=sys.stderr, flush=True)
    found = Search(space, measure, tolerance, say).run(first_scale(space, count))
    cost = complexity(MobileMamba(space.config(found.widths)), candidate.image_shape[1:])
    sentences = [
        f"{cost.parameters:,} parameters and {cost.total_macs / 1e9:.4f} GMACs; {reference} has "
        f"{reference_cost.parameters:,} and {reference_cost.total_macs / 1e9:.4f}.",
        f"{found.ratio(metric):.3f} times the {_name(metric)} of {reference}{_times(metric, images, found)}: "
        f"{measured}.",
        *_caution(metric, found),
        f"Python {platform.python_version()}, torch {torch.__version__}, timm {version('timm')}.",
    ]
    _write_arm(path, found_layout, found.widths, reference, [*sentences, f"Found by: {_command(options)}"])
    print("\n".join([f"Widths {', '.join(map(str, found.widths))}", *sentences, f"Written to {path}"]))


def _name(metric: Metric) -> str:
    return "MACs" if metric == "macs" else metric


def _conditions(metric: Metric, conditions: Conditions, reference: Candidate) -> str:
    """Return a description of the measurement."""
    size = "{} x {} pixels".format(*reference.image_shape[1:])
    if metric == "macs":
        return f"multiply-accumulates at {size}, the scan's included"
    precision = "mixed precision (bfloat16)" if conditions.autocast else "float32"
    form = "fused and compiled" if conditions.compile else "fused"
    images = "single images" if conditions.batch_size == 1 else f"{conditions.batch_size} images"
    return f"{metric} on {machine(conditions.device)}, {images} of {size}, {precision}, {form} networks in inference"


def _times(metric: Metric, images: int, found: Comparison) -> str:
    """Return both networks' times in the metric's unit; nothing for multiply-accumulates."""
    if metric == "macs":
        return ""
    if metric == "latency":
        return f" ({found.cost:.2f} to {found.reference_cost:.2f} ms)"
    ours, theirs = (images / milliseconds * 1e3 for milliseconds in (found.cost, found.reference_cost))
    return f" ({ours:.1f} to {theirs:.1f} images/s)"


def _caution(metric: Metric, found: Comparison) -> list[str]:
    """Return how far measured times can be trusted; nothing for multiply-accumulates."""
    if metric == "macs":
        return []
    return [
        f"Medians of {found.calls} calls of each, in turn in one process, measured again after the search; standard "
        f"error of the ratio {found.standard_error:.1%} within this process. Another device ranks layouts differently: "
        "match the widths again on the device of interest."
    ]


def _write_arm(path: Path, layout: Layout, widths: Sequence[int], reference: str, measured: Sequence[str]) -> None:
    """Write the layout's experiment with these widths, and the measurement in its head."""
    config = copy.deepcopy(dict(layout.experiment))
    config = {"run": (config.pop("run", None) or {}) | {"name": path.stem}} | config
    config["model"] = config.get("model") or {}
    config["model"]["network"] = (config["model"].get("network") or {}) | {"widths": list(widths)}
    entries = {
        "Paper row": layout.paper_row,
        "Command": f"lightning fit --config {shlex.quote(str(path))} --data.root /path/to/imagenet",
        "Expected": "not run; no published figure belongs to these widths",
        "Cost": "not run",
    }
    lines = [f"Layout {layout.name} with widths that match {reference}.", ""]
    lines += [line for key, text in entries.items() for line in _wrapped(f"{key + ':':11}{text}", 11 * " ")]
    lines += ["", *(line for sentence in measured for line in _wrapped(sentence))]
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    write_text(path, head + yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=LINE_LENGTH))


def _wrapped(text: str, indent: str = "") -> list[str]:
    # Commands are not broken at the hyphens of their options.
    return textwrap.wrap(text, LINE_LENGTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _command(options: Mapping[str, Any]) -> str:
    """Return the command with every option that was given or that the result depends on."""
    words = ["mobilemamba", "match"]
    for name, value in options.items():
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Writes lists of values in one line, as in this project's experiments."""


_Dumper.add_representer(
    list,
    lambda dumper, values: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", values, flow_style=not any(isinstance(value, dict) for value in values)
    ),
)
