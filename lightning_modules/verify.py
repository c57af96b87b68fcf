"""``mobilemamba verify``: evaluates every published file on ImageNet, beside its published accuracy.

Each file is evaluated raw, averaged, fused and as ONNX in one pass over the images. Finished files are kept, so the
command continues where it was stopped.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from datamodules import ImageNetDataModule
from mobilemamba.backbone import MobileMamba
from mobilemamba.checkpoints import read_file
from mobilemamba.checksums import file_digest
from mobilemamba.environment import environment, find_device
from mobilemamba.errors import UserError, require
from mobilemamba.export.export import export_network
from mobilemamba.export.formats import load
from mobilemamba.export.options import ExportOptions
from mobilemamba.files import write_json, write_text
from mobilemamba.fusion import fuse
from mobilemamba.metadata import ModelMetadata
from mobilemamba.pretrained import published_file
from mobilemamba.published import split_checkpoint
from mobilemamba.tables import table
from mobilemamba.variants import VARIANTS
from mobilemamba.weights import load_network

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Verified:
    """Accuracy of one form of one published file.

    Args:
        variant: Such as "mobilemamba_s6".
        distilled: Whether it is the file trained with a teacher.
        form: "raw", "ema", "fused" or "onnx"; the last two have averaged weights if there are any.
        published: Published top-1 in percent; None for raw weights, for which nothing is published.
        top1: Measured top-1 in percent.
        top5: Measured top-5 in percent.
        images: Number of images.
    """

    variant: str
    distilled: bool
    form: str
    published: float | None
    top1: float
    top5: float
    images: int

    @property
    def standard_error(self) -> float:
        """Standard error of top-1 in percent, for a random sample of images."""
        share = self.top1 / 100
        return 100 * math.sqrt(share * (1 - share) / self.images)


def verify(
    data_root: Path,
    variants: list[str] | None = None,
    copy_of_hub: Path | None = None,
    output: Path = Path("runs/verify"),
    batch_size: int = 64,
    num_workers: int = 4,
    device: str = "cpu",
) -> list[Verified]:
    """Evaluate every published file on ImageNet, raw, averaged, fused and as ONNX, beside the published accuracy.

    Args:
        data_root: ImageNet's folder, with val/ and its 1000 class folders; also --data.root.
        variants: Such as mobilemamba_s6. Null: all six.
        copy_of_hub: Folder with the files of the authors' repository, for offline machines.
        output: Folder for verify.md, verify.json and the ONNX files; finished files in it are not evaluated again.
        batch_size: Images per batch.
        num_workers: Processes that read images.
        device: PyTorch device of the networks, such as cuda; ONNX files run on the CPU.

    Raises:
        UserError: When an option or a file cannot be used, or images cannot be read.
        FileNotFoundError: When a file is missing.
        ConnectionError: When the Hub cannot be reached.
    """
    names = list(VARIANTS) if variants is None else variants
    for name in names:
        require(name in VARIANTS, "--variants", name, f"one of {', '.join(VARIANTS)}")
    where = find_device(device)
    done: dict[str, list[Verified]] = {}
    record = output / "verify.json"
    if record.is_file():
        for key, entries in json.loads(record.read_text())["files"].items():
            done[key] = [Verified(**entry) for entry in entries]
    results: list[Verified] = []
    for name in names:
        for distilled in (True, False):
            file = published_file(name, distilled, copy_of_hub)
            key = f"{name} {'dist' if distilled else 'plain'} {file_digest(file)[:16]} {data_root.resolve()}"
            if key not in done:
                data = _data(data_root, VARIANTS[name].image_size, batch_size, num_workers)
                done[key] = _evaluate(file, name, distilled, data, where, output)
                contents = {name: [asdict(entry) for entry in entries] for name, entries in done.items()}
                write_json(record, {"environment": environment(where), "files": contents})
            results += done[key]
    text = as_table(results)
    write_text(output / "verify.md", text + "\n")
    print(f"{text}\n\nWritten to {output / 'verify.md'} and {record}.")
    return results


def as_table(results: list[Verified]) -> str:
    """Return published beside obtained top-1, in percent, as Markdown."""
    rows = []
    for entry in results:
        difference = None if entry.published is None else entry.top1 - entry.published
        rows.append(
            (
                entry.variant,
                "distilled" if entry.distilled else "300 epochs",
                entry.form,
                "-" if entry.published is None else f"{entry.published:.1f}",
                f"{entry.top1:.2f}",
                "-" if difference is None else f"{difference:+.2f}",
                f"{entry.standard_error:.2f}",
                f"{entry.top5:.2f}",
                f"{entry.images:,}",
            )
        )
    header = ("network", "weights", "form", "published", "obtained", "difference", "standard error", "top-5", "images")
    return table(header, rows, left=3)


def _data(root: Path, image_size: int, batch_size: int, num_workers: int) -> ImageNetDataModule:
    # Unreadable images end the evaluation, since the published accuracy is that of all images.
    data = ImageNetDataModule(
        str(root), image_size=image_size, batch_size=batch_size, num_workers=num_workers, on_corrupt="raise"
    )
    data.setup("validate")
    return data


def _evaluate(
    file: Path, name: str, distilled: bool, data: ImageNetDataModule, device: torch.device, output: Path
) -> list[Verified]:
    """Evaluate all forms of a file in one pass over the images."""
    variant = VARIANTS[name]
    published = variant.top1_distilled if distilled else variant.top1
    forms = _forms(file, name, distilled, device, output)
    correct = dict.fromkeys(forms, (0, 0))
    images = 0
    loader = data.val_dataloader()
    title = f"{name}, {'distilled' if distilled else '300 epochs'}"
    for batch, targets in track(loader, title, console=Console(stderr=True), transient=True):
        images += len(targets)
        for form, run in forms.items():
            hits = run(batch).topk(5, dim=1).indices == targets[:, None]
            first, five = correct[form]
            correct[form] = first + int(hits[:, 0].sum()), five + int(hits.sum())
    return [
        Verified(
            name,
            distilled,
            form,
            None if form == "raw" and "ema" in forms else published,
            100 * first / images,
            100 * five / images,
            images,
        )
        for form, (first, five) in correct.items()
    ]


def _forms(file: Path, name: str, distilled: bool, device: torch.device, output: Path) -> dict[str, Run]:
    """Return for every form of a file a function from images to logits, both on the CPU."""
    _, averaged = split_checkpoint(read_file(file))
    forms: dict[str, Run] = {"raw": _runner(load_network(file, "raw", name)[0], device)}
    network, metadata = load_network(file, "ema", name)
    if network.num_classes != 1000:
        raise UserError(f"{file} has {network.num_classes} classes: it must have ImageNet's 1000.")
    if averaged is not None:
        forms["ema"] = _runner(copy.deepcopy(network), device)
    forms["fused"] = _runner(fuse(copy.deepcopy(network)), device)
    path = output / f"{name}{'_distilled' if distilled else ''}.onnx"
    export_network(network, path, ExportOptions("onnx"), ModelMetadata(metadata.image_size))
    forms["onnx"] = load(path)
    return forms


def _runner(network: MobileMamba | torch.nn.Module, device: torch.device) -> Run:
    network = network.eval().to(device)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(images.to(device)).float().cpu()

    return run
