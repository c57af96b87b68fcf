"""Writes a model card: facts, results, recipe and use of trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lightning_modules.run_record import RunRecord
from mobilemamba.backbone import MobileMamba
from mobilemamba.metadata import ModelMetadata, readable_name
from mobilemamba.published import WeightSource
from mobilemamba.tables import table

MOST_CLASSES = 50
"""Number of class names in the card."""


def model_card(
    checkpoint: str,
    architecture: str,
    network: MobileMamba,
    metadata: ModelMetadata,
    kind: WeightSource,
    licence: str,
    difference: float,
    repository: str,
) -> str:
    """Return the card as Markdown with the Hub's header.

    Args:
        checkpoint: Source of the weights; for a run's checkpoint the card has the run's results and config.
        architecture: Variant of the network, or the variant that it is derived from.
        network: The network.
        metadata: Its preprocessing and classes.
        kind: Averaged or raw weights.
        licence: The Hub's name of the licence.
        difference: Difference between the network and the one that timm loads, relative to the largest logit.
        repository: Name of the repository, for the example.
    """
    run = _run_folder(checkpoint)
    header = yaml.safe_dump(
        {
            "library_name": "timm",
            "license": licence,
            "pipeline_tag": "image-classification",
            "tags": ["image-classification", "timm", "mobilemamba"],
        },
        sort_keys=False,
    )
    height, width = metadata.image_size
    parameters = sum(parameter.numel() for parameter in network.parameters())
    facts = [
        ("architecture", architecture if not run else f"{architecture} (config.json lists what differs)"),
        ("parameters", f"{parameters:,}"),
        ("image size", f"{height} x {width}"),
        ("normalisation", f"mean {_short(metadata.mean)}, std {_short(metadata.std)}"),
        ("evaluation", f"resize to size / {metadata.crop_pct:g} ({metadata.interpolation}), centre crop"),
        ("classes", str(network.num_classes)),
        ("weights", "averaged (EMA)" if kind == "ema" else "raw"),
    ]
    parts = [
        f"---\n{header}---\n\n# {repository.rpartition('/')[2] or architecture}",
        "A MobileMamba image classifier (CVPR 2025, arXiv:2411.15941).",
        table(("fact", "value"), facts, left=2),
        _metrics(run, kind),
        _recipe(run),
        f"## Use\n\n```python\nimport mobilemamba  # registers the network with timm\nimport timm\n\n"
        f'model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()\n```',
        _classes(metadata),
        f"## Check\n\nOn random images the logits of the network that timm loads from this folder differ from those of "
        f"the one that was published by {difference:.1e} of the largest logit.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _run_folder(checkpoint: str) -> Path | None:
    """Return the folder of the run that a checkpoint belongs to, None for other weights."""
    folder = Path(checkpoint).expanduser().absolute().parent.parent
    return folder if (folder / "config.yaml").is_file() and checkpoint.endswith(".ckpt") else None


def _metrics(run: Path | None, kind: WeightSource) -> str:
    """Return the results of the run's last epoch, whichever epoch was published."""
    record = None if run is None else RunRecord.read(run)
    if record is None:
        return "## Results\n\nNot measured."
    names = {"top1": "top-1", "top5": "top-5", "macro_accuracy": "macro accuracy", "f1": "macro F1"}
    found = [(text, record.metrics.get(f"val/{name}_{kind}")) for name, text in names.items()]
    rows = [(text, f"{value:.2%}") for text, value in found if value is not None]
    images = f" on {record.validation_images:,} images" if record.validation_images else ""
    text = f"Validation{images} after the run's last epoch ({record.epochs} epochs, {record.device}), by this project:"
    return f"## Results\n\n{text}\n\n{table(('metric', 'value'), rows)}" if rows else ""


def _recipe(run: Path | None) -> str:
    if run is None:
        return ""
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    chosen = {"trainer": config.get("trainer", {}), "model": config.get("model", {}), "data": config.get("data", {})}
    for section in (chosen["data"].get("init_args", {}), chosen["data"]):
        for name in ("root", "table", "predict_folder"):  # paths of the author's machine
            section.pop(name, None)
    wanted = {name: chosen["trainer"].get(name) for name in ("max_epochs", "precision", "gradient_clip_val")}
    text = yaml.safe_dump({**chosen, "trainer": wanted}, sort_keys=False)
    return f"## Recipe\n\n```yaml\n{text}```"


def _classes(metadata: ModelMetadata) -> str:
    if metadata.class_names is None:
        return ""
    names = [readable_name(name).partition(",")[0] for name in metadata.class_names]
    more = f" and {len(names) - MOST_CLASSES} more, see config.json" if len(names) > MOST_CLASSES else ""
    return f"## Classes\n\n{', '.join(names[:MOST_CLASSES])}{more}"


def _short(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
