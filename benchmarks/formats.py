"""Every export format for a few networks: whether the export works, how exact the file is and how long an image takes.

Weights are random, but norms have statistics of images and weights other than 1 and 0: a file that loses a norm gives
different logits. Each file is compared as in :mod:`mobilemamba.export`; a format whose packages are missing is listed
as not installed. Files take single images of one size; times are on the CPU, in float32, with the same number of
threads in every runtime.
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
from benchmarks.publish import RESULTS, around_markers, machine, replace_between, table_of, write_results
from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, NotComparedWarning, check_installed, export_network, load
from mobilemamba.export.comparison import Runner
from mobilemamba.export.formats import FORMATS, FormatName
from mobilemamba.export.parity import ParityReport, random_images
from mobilemamba.export.timing import Timing, interleaved

QUICKSTART = "quickstart"
"""Name of the quickstart config's network."""

QUICKSTART_FILE = Path("experiments/quickstart.yaml")
QUICKSTART_SIZE, QUICKSTART_CLASSES = (64, 64), 10

MARKERS = "formats"

PURPOSES: dict[FormatName, tuple[str, str]] = {
    "onnx": ("ONNX Runtime and most other engines", "`.onnx`"),
    "onnx-float16": ("the same in half the size, for float16 devices", "`.float16.onnx`"),
    "pt2": ("torch.export", "`.pt2`"),
    "aoti": ("PyTorch compiled ahead of time, C++", "`.aoti.pt2`"),
    "openvino": ("Intel CPUs and GPUs", "`.xml`, `.bin`"),
    "executorch": ("phones and small devices, by XNNPACK", "`.pte`"),
    "litert": ("Android, LiteRT", "`.tflite`"),
    "coreml": ("Apple; only macOS can run it", "`.mlpackage`"),
}
"""What a format is for, and the suffix of its files."""


@dataclass(frozen=True)
class Support:
    """Result of exporting one network to one format.

    Args:
        network: timm's name, or "quickstart".
        image_size: Height and width in pixels.
        format: Name of the format.
        outcome: "passed", "converted, not run", "not installed", "refused" by the comparison or "failed".
        message: Why it was refused, failed or not installed.
        report: Report of the comparison; None without a file.
        timing: Milliseconds for a single image; None for a file that was not run.
    """

    network: str
    image_size: tuple[int, int]
    format: FormatName
    outcome: str
    message: str | None = None
    report: ParityReport | None = None
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
    around_markers(document, MARKERS)  # fails before the work
    set_threads(threads)
    supports = [support for name in networks for support in measure(name, formats, rounds, repeats)]
    for support in supports:
        if support.message:
            print(f"{support.network} as {support.format}: {support.message}\n")
    reports = [support.report.to_dict() if support.report else {} for support in supports]
    results = [asdict(support) | {"report": report} for support, report in zip(supports, reports, strict=True)]
    write_results(output, CPU, results, settings={"rounds": rounds, "repeats": repeats})
    heading = f"{machine(CPU)}, batch 1, float32; minimum of {rounds * repeats} calls."
    replace_between(document, MARKERS, f"{heading}\n\n{format_table(supports)}")
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
        raise UserError(f"Network {name!r} must be a MobileMamba: no others can be exported.")
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
    """Return a Markdown table: what each format is for, how to install it, and one network's result."""
    rows = []
    for one in supports:
        needs_extra = one.format not in ("onnx", "onnx-float16", "pt2", "aoti")
        extra = f'`pip install ".[{one.format}]"` in the checkout' if needs_extra else "the package"
        if FORMATS[one.format].is_compiled:
            extra += ", and a C++ compiler"
        error = f"compared, off by {_figure(one, 'max_abs_error', '.0e')}"
        purpose, suffixes = PURPOSES[one.format]
        rows.append(
            f"`{one.format}` | {suffixes} | {purpose} | {extra} | {error if one.outcome == 'passed' else one.outcome}"
        )
    return table_of(f"`--format` | file | for | installs with | {supports[0].network} here", rows, left=5)


def format_table(supports: Sequence[Support]) -> str:
    """Return a Markdown table of what was measured of each network and format."""
    rows = []
    for one in supports:
        report, size = one.report, "x".join(map(str, one.image_size))
        outcome = "yes, compared" if one.outcome == "passed" else one.outcome
        runtime = " ".join(list(report.versions.items())[-1]) if report and one.timing else "-"
        milliseconds = f"{one.timing.minimum:.1f}" if one.timing else "-"
        megabytes = f"{report.size_bytes / 1e6:.1f}" if report else "-"
        error, agreement = _figure(one, "max_abs_error", ".1e"), _figure(one, "top1_agreement", ".0%")
        rows.append(
            f"{one.network}, {size} | {one.format} | {runtime} | {outcome} | {error} | {agreement} | {milliseconds} "
            f"| {megabytes}"
        )
    return table_of("network | format | runtime | exported | max error | top-1 agreement | ms | MB", rows)


def _figure(support: Support, name: str, form: str) -> str:
    value = getattr(support.report, name, None)
    return "-" if value is None else format(value, form)


def _try(
    name: str, network: MobileMamba, image_size: tuple[int, int], form: FormatName, folder: Path
) -> tuple[Support, Runner | None]:
    """Export a network to one format; return the result, and the function that runs the file if one can here."""
    support = partial(Support, name, image_size, form)
    options = ExportOptions(form, dynamic_batch=False)
    path = folder / f"network{options.suffix}"
    try:
        check_installed(form)
    except UserError as error:
        return support("not installed", str(error)), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotComparedWarning)  # the table says it
            report = export_network(network, path, options, ModelMetadata(image_size))
    except UserError as error:
        return support("refused", str(error)), None
    except Exception as error:  # converters raise any exception, and the other formats must be tried all the same
        return support("failed", f"{type(error).__name__}: {error}"), None
    return support(report.verdict, report=report), load(path) if FORMATS[form].runs_here else None
