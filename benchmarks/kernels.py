"""How much time the kernels for CPUs save: a MobileMamba with and without them, and another network, timed in turn.

Times a single image, a batch and a training step, and counts what autograd keeps for the backward pass.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from jsonargparse.typing import PositiveInt

from benchmarks.forms import CPU, Form, set_threads
from benchmarks.measurement import measure
from benchmarks.networks import build
from benchmarks.publish import RESULTS, around_markers, machine, replace_between, write_results
from mobilemamba.dispatch import plain_operators
from mobilemamba.errors import UserError
from mobilemamba.tables import table

MARKERS = "cpu_kernels"

REPEATS = 3
"""Calls of one form in a row: in the first, the weights are not in the cache."""


def kernels(
    network: str = "mobilemamba_s6",
    reference: str = "shvit_s3",
    threads: PositiveInt = 2,
    batch_size: PositiveInt = 16,
    rounds: PositiveInt = 10,
    output: Path = RESULTS / "cpu_kernels.json",
    document: Path = Path("docs/performance.md"),
) -> None:
    """Measure how much time the kernels for CPUs save.

    Args:
        network: timm name of a MobileMamba.
        reference: Network to compare with.
        threads: PyTorch's threads.
        batch_size: Images in a batch and in a training step.
        rounds: Timed rounds of three calls.
        output: JSON file.
        document: Markdown file whose table between the markers cpu_kernels:begin and cpu_kernels:end is replaced.

    Raises:
        UserError: When the kernels do not work here, before anything is measured.
    """
    around_markers(document, MARKERS)  # fails before the work
    set_threads(threads)
    try:
        import_module("mobilemamba.kernels")
    except (ImportError, OSError) as error:
        raise UserError(f"The kernels need Numba: `pip install numba` ({error}).") from error
    kinds: dict[tuple[Form, int], str] = {
        ("eager", 1): "single image, eager",
        ("fused", 1): "single image, fused",
        ("fused", batch_size): f"{batch_size} images, fused",
        ("training", batch_size): f"training step, {batch_size} images",
    }
    ours, other = build(network, CPU), build(reference, CPU)
    plain = replace(ours, name=f"{network} in plain operators", context=plain_operators)
    results = measure([plain, ours, other], list(kinds), reference, rounds, REPEATS, CPU, warmup=2)
    write_results(output, CPU, results, settings={"network": network, "reference": reference, "rounds": rounds})
    rows = {
        text: [one.timing.minimum for one in results if (one.form, one.batch_size) == kind]
        for kind, text in kinds.items()
    }
    rows["kept for the backward pass, MB per image"] = [
        one.megabytes_per_image for one in results if one.megabytes_per_image
    ]
    cells = []
    for text, (in_plain, in_kernels, of_other) in rows.items():
        ratios = (in_kernels / in_plain, in_plain / of_other, in_kernels / of_other)
        figures = (f"{figure:.1f}" for figure in (in_plain, in_kernels, of_other))
        cells.append((text, *figures, *(f"{ratio:.2f}" for ratio in ratios)))
    header = ("", "plain operators", "kernels", reference, "kernels / plain", f"plain / {reference}")
    heading = f"{machine(CPU)}, float32, {network}; milliseconds, minimum of {REPEATS * rounds} calls."
    replace_between(document, MARKERS, f"{heading}\n\n{table((*header, f'kernels / {reference}'), cells)}")
