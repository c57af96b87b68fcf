"""One measurement from its options to its table and files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import latency, training_step
from benchmarks.forms import check_forms
from benchmarks.networks import BenchmarkError, Contender, build
from benchmarks.picture import draw, write_picture
from benchmarks.threads import set_threads
from mobilemamba.environment import environment, find_device
from mobilemamba.files import check_writable, write_json


def measure_latency(options: argparse.Namespace) -> None:
    """Time every network in every form.

    Args:
        options: Of ``mobilemamba benchmark``.

    Raises:
        BenchmarkError: When something asked for is not to be had; before anything is measured.
    """
    output, device = options.output or Path("latency.json"), _device(options)
    check_forms(options.forms, device)
    _check_files(output, options.picture)
    settings = {
        "batch_sizes": options.batch_sizes or [1],
        "warmup": options.warmup,
        "rounds": options.rounds or 30,
        "repeats": options.repeats,
        "autocast": options.autocast,
    }
    latencies = latency.measure(
        _contenders(options, device), options.forms, reference=options.reference, device=device, **settings
    )
    about = environment(device)
    heading = _heading(about, settings)
    print(f"{heading}, milliseconds per batch\n\n{latency.format_latencies(latencies, options.reference)}\n")
    _write(output, about, settings, options.reference, [asdict(result) for result in latencies])
    if options.picture is not None:
        write_picture(draw(latencies, heading), options.picture)
        print(f"Written to {options.picture}")


def measure_training(options: argparse.Namespace) -> None:
    """Measure a training step of every network.

    Args:
        options: Of ``mobilemamba benchmark --training``.

    Raises:
        BenchmarkError: When something asked for is not to be had; before anything is measured.
    """
    if options.picture is not None:
        raise BenchmarkError("--picture shows latency: leave it out with --training.")
    output, device = options.output or Path("training_step.json"), _device(options)
    _check_files(output, None)
    settings = {
        "batch_sizes": options.batch_sizes or [16],
        "warmup": options.warmup,
        "rounds": options.rounds or 5,
        "autocast": options.autocast,
    }
    steps = training_step.measure(_contenders(options, device), reference=options.reference, device=device, **settings)
    about = environment(device)
    print(f"{_heading(about, settings)}\n\n{training_step.format_steps(steps, options.reference)}\n")
    _write(output, about, settings, options.reference, [asdict(result) for result in steps])


def _device(options: argparse.Namespace) -> torch.device:
    if options.threads:
        set_threads(options.threads)
    return find_device(options.device)


def _contenders(options: argparse.Namespace, device: torch.device) -> list[Contender]:
    size = options.image_size
    if size is not None and len(size) > 2:
        raise BenchmarkError(f"--image-size {' '.join(map(str, size))} is not possible: give one number or two.")
    image_size = None if size is None else (size[0], size[-1])
    return [build(name, device, image_size) for name in dict.fromkeys([*options.networks, options.reference])]


def _check_files(output: Path, picture: Path | None) -> None:
    for path in (output, picture):
        if path is not None:
            check_writable(path.parent)


def _heading(about: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    precision = "mixed precision" if settings["autocast"] else "float32"
    batches = ", ".join(map(str, settings["batch_sizes"]))
    return f"{about['device']}, {about['threads']} threads, batch {batches}, {precision}"


def _write(
    output: Path, about: dict[str, Any], settings: dict[str, Any], reference: str, results: list[dict[str, Any]]
) -> None:
    write_json(output, {"environment": about, "settings": settings, "reference": reference, "results": results})
    print(f"Written to {output}")
