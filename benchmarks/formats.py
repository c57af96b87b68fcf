"""Every export format for a few networks: whether it converts, what its runtime answers, how long an image takes.

::

    python -m benchmarks formats mobilemamba_s6 quickstart --threads 1

Weights are random, but the norms have statistics of images and weights that matter, so that a file which loses a norm
differs. Each file goes through the comparison of :mod:`mobilemamba.export`; a format whose packages are not installed
is listed as such. Files take single images of one size, and times are of those, on the CPU, in float32, with the same
number of threads in every runtime.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import yaml
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from benchmarks.forms import CPU, set_threads
from benchmarks.networks import build
from benchmarks.publish import RESULTS, around_markers, replace_between, table_of, write_results
from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata
from mobilemamba.environment import device_name
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, NotComparedWarning, check_installed, export_network, load
from mobilemamba.export.formats import FORMATS, FormatName
from mobilemamba.export.parity import Runner, random_images
from mobilemamba.export.timing import Timing, interleaved

QUICKSTART = "quickstart"
"""Name of the network of this config, for images of its datamodule's size and classes."""

QUICKSTART_FILE = Path("experiments/quickstart.yaml")
QUICKSTART_SIZE, QUICKSTART_CLASSES = (64, 64), 10

MARKERS = "formats"

PURPOSES: dict[FormatName, tuple[str, str]] = {
    "onnx": ("ONNX Runtime and most other engines", "`.onnx`"),
    "pt2": ("torch.export, AOTInductor", "`.pt2`"),
    "openvino": ("Intel CPUs and GPUs", "`.xml`, `.bin`"),
    "executorch": ("phones and small devices, by XNNPACK", "`.pte`"),
    "litert": ("Android, LiteRT", "`.tflite`"),
    "coreml": ("Apple; only macOS can run it", "`.mlpackage`"),
}
"""What a format is for, and what its files end in."""


@dataclass(frozen=True)
class Support:
    """What became of one network in one format.

    Args:
        network: timm's name, or "quickstart".
        image_size: Height and width in pixels.
        format: Name of the format.
        outcome: "passed", "converted, not run", "not installed", "refused" by the comparison or "failed".
        message: Why it was refused, failed or not installed.
        versions: Packages that wrote and, last, ran the file.
        max_abs_error: Largest difference from the network, relative to the largest logit; None without comparison.
        top1_agreement: Share of images with the same top class; None without comparison.
        conclusive: Whether a wrong file would have been noticed.
        size_bytes: Size of the file; None without one.
        timing: Milliseconds for a single image; None for a file that was not run.
    """

    network: str
    image_size: tuple[int, int]
    format: FormatName
    outcome: str
    message: str | None = None
    versions: dict[str, str] | None = None
    max_abs_error: float | None = None
    top1_agreement: float | None = None
    conclusive: bool = False
    size_bytes: int | None = None
    timing: Timing | None = None


def formats(
    networks: list[str] = ["mobilemamba_s6", QUICKSTART],  # noqa: B006
    formats: list[FormatName] = list(FORMATS),  # noqa: B006
    threads: PositiveInt | None = None,
    rounds: PositiveInt = 20,
    repeats: PositiveInt = 3,
    output: Path = RESULTS / "formats.json",
    document: Path = Path("benchmarks/README.md"),
) -> list[Support]:
    """Export, compare and time every format for a few networks.

    Args:
        networks: timm names of MobileMambas, or quickstart.
        formats: Formats to try.
        threads: CPU threads of every runtime. Null: PyTorch's choice.
        rounds: Timed rounds.
        repeats: Calls of each file in a round.
        output: JSON file.
        document: Markdown file whose table between the markers formats:begin and formats:end is replaced.
    """
    around_markers(document, MARKERS)  # fails now rather than after the work
    set_threads(threads or torch.get_num_threads())
    supports = [support for name in networks for support in measure(name, formats, rounds, repeats)]
    for support in supports:
        if support.message:
            print(f"{support.network} as {support.format}: {support.message}\n")
    settings = {"rounds": rounds, "repeats": repeats}
    write_results(output, CPU, settings=settings, results=[asdict(support) for support in supports])
    calls = f"minimum of {rounds * repeats} calls"
    heading = f"{device_name(CPU)}, threads: {torch.get_num_threads()}, batch 1, float32; {calls}."
    replace_between(document, MARKERS, f"{heading}\n\n{format_supports(supports)}")
    return supports


def measure(name: str, formats: Sequence[FormatName], rounds: int, repeats: int) -> list[Support]:
    """Export one network to every format, then time all files in turn; options as of the command.

    Raises:
        UserError: When timm knows no MobileMamba of this name.
    """
    network, image_size = trained_looking(name)
    supports: dict[str, Support] = {}
    calls: dict[str, Callable[[], Tensor]] = {}
    image = random_images((1, network.in_chans, *image_size))
    with tempfile.TemporaryDirectory() as folder:
        for form in formats:
            supports[form], runner = _try(name, network, image_size, form, Path(folder))
            if runner is not None:
                calls[form] = partial(runner, image)
        with torch.inference_mode():
            timings = interleaved(calls, rounds, repeats, CPU)
    return [replace(support, timing=timings.get(form)) for form, support in supports.items()]


def trained_looking(name: str) -> tuple[MobileMamba, tuple[int, int]]:
    """Return a network whose norms matter and whose logits depend on the image, and its image size.

    Raises:
        UserError: When timm knows no MobileMamba of this name.
    """
    torch.manual_seed(0)
    if name == QUICKSTART:
        config = yaml.safe_load(QUICKSTART_FILE.read_text())["model"]["network"]
        network: nn.Module = MobileMamba(MobileMambaConfig(**config, num_classes=QUICKSTART_CLASSES))
        size = QUICKSTART_SIZE
    else:
        candidate = build(name, CPU)
        network, size = candidate.network, candidate.image_shape[1:]
    if not isinstance(network, MobileMamba):
        raise UserError(f"Network {name!r} is no MobileMamba: only those can be exported.")
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.weight, 0.3, 0.9)
            nn.init.uniform_(norm.bias, -0.3, 0.3)
            norm.momentum = None  # the average of all batches, here of one
            norm.reset_running_stats()
    with torch.no_grad():
        network.train()(random_images((16, network.in_chans, *size)))
    return network.eval(), size


def support_table(supports: Sequence[Support]) -> str:
    """Return a Markdown table of what each format is for, how it is installed, and what became of one network in it."""

    def extra(support: Support) -> str:
        needs_extra = support.format not in ("onnx", "pt2")
        return f'`pip install ".[{support.format}]"` in the checkout' if needs_extra else "the package"

    def outcome(support: Support) -> str:
        passed = support.outcome == "passed"
        return f"compared, off by {support.max_abs_error:.0e}" if passed else support.outcome

    columns: dict[str, Callable[[Support], str]] = {
        "`--format`": lambda support: f"`{support.format}`",
        "file": lambda support: PURPOSES[support.format][1],
        "for": lambda support: PURPOSES[support.format][0],
        "installs with": extra,
        f"{supports[0].network} here": outcome,
    }
    return table_of(supports, columns, left=len(columns))


def format_supports(supports: Sequence[Support]) -> str:
    """Return a Markdown table."""

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    def runtime(support: Support) -> str:
        if not support.versions or support.outcome == "converted, not run":
            return "-"
        return " ".join(list(support.versions.items())[-1])

    return table_of(
        supports,
        {
            "network": lambda support: f"{support.network}, {'x'.join(map(str, support.image_size))}",
            "format": lambda support: support.format,
            "runtime": runtime,
            "exported": lambda support: "yes, compared" if support.outcome == "passed" else support.outcome,
            "max error": lambda support: cell(support.max_abs_error, ".1e"),
            "top-1 agreement": lambda support: cell(support.top1_agreement, ".0%"),
            "ms": lambda support: "-" if support.timing is None else f"{support.timing.minimum:.1f}",
            "MB": lambda support: cell(support.size_bytes and support.size_bytes / 1e6, ".1f"),
        },
    )


def _try(
    name: str, network: MobileMamba, image_size: tuple[int, int], form: FormatName, folder: Path
) -> tuple[Support, Runner | None]:
    support = Support(name, image_size, form, "failed")
    options = ExportOptions(form, dynamic_batch=False)
    path = folder / f"network{options.suffix}"
    try:
        check_installed(form)
    except UserError as error:
        return replace(support, outcome="not installed", message=str(error)), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotComparedWarning)  # the table says it
            report = export_network(network, path, options, ModelMetadata(image_size))
    except UserError as error:
        return replace(support, outcome="refused", message=str(error)), None
    except Exception as error:  # converters raise what they like, and the other formats are to be tried all the same
        return replace(support, message=f"{type(error).__name__}: {error}"), None
    figures = ("versions", "max_abs_error", "top1_agreement", "conclusive", "size_bytes")
    support = replace(support, outcome=report.verdict, **{name: getattr(report, name) for name in figures})
    return support, load(path) if FORMATS[form].runs_here else None
