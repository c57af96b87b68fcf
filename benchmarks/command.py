"""``mobilemamba benchmark``: networks beside each other, in use or in training, as a table, JSON and a picture."""

from __future__ import annotations

from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt

from benchmarks.forms import Form, InferenceForm, check_forms, set_threads
from benchmarks.measurement import latency_table, measure, training_table
from benchmarks.networks import build
from benchmarks.picture import draw
from benchmarks.publish import machine, write_results
from lightning_modules.figures import write_figure
from mobilemamba.environment import find_device
from mobilemamba.errors import UserError
from mobilemamba.files import check_writable


def benchmark(
    networks: list[str] = ["mobilemamba_s6"],  # noqa: B006
    reference: str = "shvit_s3",
    training: bool = False,
    forms: list[InferenceForm] = ["eager", "fused", "onnx"],  # noqa: B006
    batch_sizes: list[PositiveInt] | None = None,
    batch_size: list[PositiveInt] | None = None,
    image_size: list[PositiveInt] | None = None,
    threads: PositiveInt | None = None,
    device: str = "cpu",
    autocast: bool = False,
    warmup: NonNegativeInt = 1,
    rounds: PositiveInt | None = None,
    repeats: PositiveInt = 3,
    output: Path | None = None,
    picture: Path | None = None,
) -> None:
    """Time networks beside each other, in use or in training.

    Args:
        networks: timm names.
        reference: Network that ratios are to.
        training: Measure memory and time of a training step instead.
        forms: eager, as trained; fused, norms folded; compiled, fused and by torch.compile; compiled-eager, the same
            not fused; others are fused, written in this export format and run by its own runtime on the CPU, in
            float32 but for onnx-float16.
        batch_sizes: Images per call, one or several numbers. Null: 1, in training 16.
        batch_size: The same.
        image_size: Height and width of all networks, as one number or two. Null: what each was published for.
        threads: CPU threads. Null: PyTorch's choice.
        device: PyTorch device.
        autocast: Run PyTorch in the device's mixed precision.
        warmup: Rounds before the timed ones.
        rounds: Timed rounds. Null: 30, in training 5.
        repeats: Calls of each form in a round.
        output: JSON file. Null: runs/latency.json, in training runs/training_step.json.
        picture: PNG file of published accuracy against measured images per second.

    Raises:
        UserError: When something asked for does not exist here, before anything is measured; or when a form gives wrong
            answers.
        OSError: When a file cannot be written.
    """
    if training and picture is not None:
        raise UserError("--picture shows latency: leave it out with --training.")
    set_threads(threads)
    place = find_device(device)
    path = output or Path("runs") / ("training_step.json" if training else "latency.json")
    if not training:
        check_forms(forms, place)
    for file in (path, picture):
        if file is not None:
            check_writable(file.parent)
    candidates = [build(name, place, image_size) for name in dict.fromkeys([*networks, reference])]
    sizes = batch_sizes or batch_size or [16 if training else 1]
    rounds = rounds or (5 if training else 30)
    repeats = 1 if training else repeats
    kinds: list[tuple[Form, int]] = [(form, size) for size in sizes for form in forms]
    if training:
        kinds = [("training", size) for size in sizes]
    results = measure(candidates, kinds, reference, rounds, repeats, place, warmup, autocast)
    precision = "mixed precision" if autocast else "float32"
    heading = f"{machine(place)}, batch {', '.join(map(str, sizes))}, {precision}"
    if training:
        print(f"{heading}\n\n{training_table(results, reference)}\n")
    else:
        print(f"{heading}, milliseconds per batch\n\n{latency_table(results, reference)}\n")
    if picture is not None:
        write_figure(draw(results, heading), picture)
        print(f"Written to {picture}")
    settings = {"batch_sizes": sizes, "warmup": warmup, "rounds": rounds, "repeats": repeats, "autocast": autocast}
    write_results(path, place, results, settings=settings, reference=reference)
