"""A match from its options to the arm's file."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.networks import Contender, build
from experiments.matching.arm import arm_config, write_arm
from experiments.matching.cost import PARTS, Comparison, Conditions, MacsMeasure, Measure, TimeMeasure
from experiments.matching.description import describe_comparison, describe_conditions, describe_match, head
from experiments.matching.errors import MatchError
from experiments.matching.layouts import find_layout
from experiments.matching.search import Report, Search, first_scale
from experiments.matching.widths import WidthSpace
from mobilemamba.backbone import MobileMamba
from mobilemamba.complexity import Complexity, complexity
from mobilemamba.config import MobileMambaConfig
from mobilemamba.environment import find_device
from mobilemamba.files import check_writable

DEFAULT_BATCH_SIZE = 16
"""Images per call when throughput is measured: enough for a CPU; a GPU needs more to be busy."""


def match(options: argparse.Namespace) -> None:
    """Find widths, print what was measured on the way, write the arm.

    Args:
        options: Of ``mobilemamba match``.

    Raises:
        MatchError: When something asked for is not possible, before anything is measured; or when no widths match.
        BenchmarkError: When the reference or the device is not to be had.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    layout = find_layout(options.layout)
    device = find_device(options.device)
    reference = build(options.reference, device)
    output = options.output or Path(f"{layout.name}_as_{options.reference}.yaml")
    conditions = _conditions(options, reference, device)
    space = WidthSpace(_candidate(layout.network, reference), options.multiple)
    _check_options(options, space, conditions)
    check_writable(output.parent)
    reference_cost = _reference_complexity(reference, conditions.image_size)

    count = MacsMeasure(reference_cost.total_macs, space, conditions.image_size)
    measure: Measure = count
    if options.metric != "macs":
        measure = TimeMeasure(reference.network, space, conditions)
    _say(f"Reference: {options.reference}, {describe_conditions(options.metric, conditions)}")
    found = Search(space, measure, options.tolerance, _reporter(options)).run(first_scale(space, count))

    cost = complexity(MobileMamba(space.config(found.widths)), conditions.image_size)
    sentences = describe_match(options.metric, conditions, found, options.reference, cost, reference_cost)
    title = f"Layout {layout.name} with widths that match {options.reference}."
    measured = [*sentences, f"Found by: {_command(options)}"]
    write_arm(output, title, head(layout, output), measured, arm_config(layout, found.widths, output.stem))
    print("\n".join([f"Widths {', '.join(map(str, found.widths))}", *sentences, f"Written to {output}"]))


def _conditions(options: argparse.Namespace, reference: Contender, device: torch.device) -> Conditions:
    if options.metric == "latency" and options.batch_size not in (None, 1):
        raise MatchError(f"--batch-size {options.batch_size} is not possible: latency is that of single images.")
    if options.rounds < PARTS:
        raise MatchError(f"--rounds {options.rounds} is not possible: use {PARTS} or more, they show the noise.")
    size = options.image_size or reference.image_shape[1:]
    if len(size) > 2:
        raise MatchError(f"--image-size {' '.join(map(str, size))} is not possible: give height and width.")
    return Conditions(
        image_size=(size[0], size[-1]),
        batch_size=1 if options.metric == "latency" else options.batch_size or DEFAULT_BATCH_SIZE,
        device=device,
        rounds=options.rounds,
        repeats=options.repeats,
        autocast=options.autocast,
        compile=options.compile,
    )


def _candidate(layout: MobileMambaConfig, reference: Contender) -> MobileMambaConfig:
    """Return the layout with the reference's images and classes."""
    classes = getattr(reference.network, "num_classes", layout.num_classes)
    return replace(layout, in_chans=reference.image_shape[0], num_classes=classes)


def _check_options(options: argparse.Namespace, space: WidthSpace, conditions: Conditions) -> None:
    if not 0 < options.tolerance < 1:
        raise MatchError(f"--tolerance {options.tolerance} is not possible: use a share between 0 and 1, such as 0.03.")
    smallest, size = space.network.min_image_size, conditions.image_size
    if min(size) < smallest:
        raise MatchError(f"--image-size {size[0]} {size[1]} is too small for {options.layout}: use {smallest} or more.")


def _reference_complexity(reference: Contender, image_size: tuple[int, int]) -> Complexity:
    try:
        return complexity(reference.network, image_size)
    # Networks made for one image size have errors of their own.
    except (AssertionError, RuntimeError, ValueError) as error:
        size = f"{image_size[0]} x {image_size[1]}"
        raise MatchError(f"{reference.name} does not take images of {size} pixels: {error}") from error


def _reporter(options: argparse.Namespace) -> Report:
    def report(purpose: str, comparison: Comparison) -> None:
        _say(f"  {describe_comparison(options.metric, comparison)}, {purpose}")

    return report


def _say(line: str) -> None:
    # On the error stream, beside the progress bar, so that the result alone can be piped.
    print(line, file=sys.stderr, flush=True)


def _command(options: argparse.Namespace) -> str:
    """Return the command with every option that the result depends on."""
    words = ["mobilemamba", "match"]
    for name in ("reference", "layout", "metric", "tolerance", "multiple", "device", "batch_size", "threads"):
        value = getattr(options, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    words += ["--image-size", *map(str, options.image_size)] if options.image_size else []
    words += ["--autocast"] if options.autocast else []
    words += ["--compile"] if options.compile else []
    words += ["--rounds", str(options.rounds), "--repeats", str(options.repeats)]
    return shlex.join(words)
