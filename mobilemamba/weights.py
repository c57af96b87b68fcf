"""Finds weights by one name: published ones, in a file, in a folder, or on the Hugging Face Hub.

A source is one of

- ``published``: the authors' distilled weights of a variant; ``published:in1k`` those trained without teacher;
- a path: a file of the authors (raw, averaged, fused), of timm's form (``.safetensors``, ``.pth``), or a ``.ckpt`` of
  this project;
- ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``: a model in timm's form, config.json beside its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from timm.data import ImageNetInfo
from torch import Tensor

from mobilemamba.backbone import MobileMamba
from mobilemamba.checkpoints import load_strictly, mismatches, read_file, student_state
from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import UserError, require
from mobilemamba.metadata import ModelMetadata
from mobilemamba.pretrained import download_published
from mobilemamba.published import WeightSource, adapt_state, split_checkpoint
from mobilemamba.variants import VARIANTS

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a folder of timm's form, the first one preferred."""

SOURCES = (
    "'published', 'published:in1k', a file, 'local-dir:FOLDER' with a config.json, or 'hf-hub:OWNER/NAME' of the "
    "Hugging Face Hub"
)


@dataclass(frozen=True)
class Weights:
    """Weights that were found, and their description.

    Args:
        source: The name they were found by.
        kind: "ema" for averaged weights; "raw" for others, and where the source has only one kind.
        state: State dict with the source's own names.
        config: Architecture; None where the source is a bare state dict.
        metadata: Preprocessing and class names; None where the source is a bare state dict.
        head: For tasks other than classification: the "task" and options of its module; empty for a classifier.
    """

    source: str
    kind: WeightSource
    state: Mapping[str, Any]
    config: MobileMambaConfig | None
    metadata: ModelMetadata | None
    head: Mapping[str, Any] = field(default_factory=dict)


def find_weights(source: str | Path, kind: WeightSource = "ema", variant: str | None = None) -> Weights:
    """Read weights without running any code in their files.

    Args:
        source: See the top of this module.
        kind: Which weights to take where there are averaged and raw ones.
        variant: Published variant, such as "mobilemamba_s6", of ``published`` weights and bare state dicts; None
            recognises a state dict by its shapes.

    Raises:
        UserError: When the source is unknown, its file is damaged or holds code, or a variant must be named.
        FileNotFoundError: When there is no such file.
        ConnectionError: When the Hub cannot be reached.
    """
    text = str(source)
    require(variant is None or variant in VARIANTS, "variant", variant, f"one of {', '.join(sorted(VARIANTS))}")
    scheme, _, rest = text.partition(":")
    if scheme == "published":
        return _published(text, rest, kind, variant)
    if scheme in ("hf-hub", "local-dir"):
        return _timm_folder(text, rest, on_hub=scheme == "hf-hub")
    path = Path(source).expanduser()
    if path.is_dir():
        raise UserError(f"{text} is a folder: name a file in it, or the folder as local-dir:{text}.")
    if not path.is_file():
        raise FileNotFoundError(f"Weights {text} must be {SOURCES}: there is no such file.")
    content = read_file(path)
    if "mobilemamba" not in content:
        return _bare(text, content, kind, variant)
    raw, averaged = split_checkpoint(content)
    takes_average = averaged is not None and kind == "ema"
    description = content["mobilemamba"]
    return Weights(
        text,
        "ema" if takes_average else "raw",
        student_state(averaged if averaged is not None and takes_average else raw),
        MobileMambaConfig(**description["config"]),
        ModelMetadata.from_dict(description["metadata"]),
        description.get("head", {}),
    )


def load_network(
    source: str | Path, kind: WeightSource = "ema", variant: str | None = None
) -> tuple[MobileMamba, ModelMetadata]:
    """Build a network in eval mode with its weights, and return it with the metadata of its images.

    Args:
        source: See the top of this module.
        kind: Which weights to take where there are averaged and raw ones.
        variant: Published variant; see :func:`find_weights`.

    Raises:
        UserError: When the weights cannot be used, or their network is unknown.
        FileNotFoundError: When there is no such file.
        ConnectionError: When the Hub cannot be reached.
    """
    return build_network(find_weights(source, kind, variant))


def build_network(weights: Weights) -> tuple[MobileMamba, ModelMetadata]:
    """Build the network of weights in eval mode, and return it with the metadata of its images.

    Raises:
        UserError: When it is not a classifier, or its architecture is unknown.
    """
    if weights.head:
        raise UserError(f"Weights {weights.source} must be those of a classifier: they are for {weights.head['task']}.")
    if weights.config is None or weights.metadata is None:
        raise UserError(
            f"{weights.source} does not name the network of its weights, and no published variant has such shapes: "
            f"name one of {', '.join(sorted(VARIANTS))} as the variant, or use a .ckpt or a published folder."
        )
    network = MobileMamba(weights.config)
    load_strictly(network, weights.state)
    return network.eval(), weights.metadata


def start_from(network: MobileMamba, weights: Weights) -> bool:
    """Load weights into a network; its classifier is kept if the weights have other classes or no classifier.

    Returns:
        Whether the network kept its own classifier.

    Raises:
        UserError: When anything but the classifier differs; lists both sides.
    """
    state, own = adapt_state(weights.state, network), network.state_dict()
    head = [name for name in own if name.startswith("head.")]
    has_other_head = not head or any(name not in state or state[name].shape != own[name].shape for name in head)
    if has_other_head:
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
        state |= {name: own[name] for name in head}
    try:
        load_strictly(network, state)
    except UserError as error:
        raise UserError(f"Weights {weights.source}: {error}") from error
    return has_other_head


def variant_of(config: MobileMambaConfig, image_size: int | None = None) -> str | None:
    """Return the published variant of an architecture, whatever its classes and drop rates; None if there is none.

    Args:
        config: The architecture.
        image_size: Height and width in pixels. B1, B2 and B4 differ only in it, and the nearest is taken.
    """
    free = {name: getattr(config, name) for name in ("num_classes", "drop_path_rate", "drop_rate")}
    same = [name for name, variant in VARIANTS.items() if replace(variant.config, **free) == config]
    return min(same, key=lambda name: abs(VARIANTS[name].image_size - (image_size or 0)), default=None)


def _published(text: str, tag: str, kind: WeightSource, variant: str | None) -> Weights:
    require(text in ("published", "published:in1k"), "weights", text, SOURCES)
    if variant is None:
        raise UserError(f"weights = {text!r} need a variant: name one of {', '.join(sorted(VARIANTS))}.")
    return _bare(text, download_published(variant, distilled=tag != "in1k"), kind, variant)


def _bare(text: str, content: Mapping[str, Any], kind: WeightSource, variant: str | None) -> Weights:
    """Describe the content of a published file or a state dict."""
    raw, averaged = split_checkpoint(content)
    takes_average = averaged is not None and kind == "ema"
    chosen = averaged if averaged is not None and takes_average else raw
    state = {name.removeprefix("module."): value for name, value in chosen.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{text} holds no weights: it holds {sorted(content)[:10]}.")
    config, metadata = _recognise(state, variant)
    return Weights(text, "ema" if takes_average else "raw", state, config, metadata)


def _recognise(
    state: Mapping[str, Tensor], variant: str | None
) -> tuple[MobileMambaConfig | None, ModelMetadata | None]:
    """Return architecture and preprocessing of the published variant that has the shapes of a state dict."""
    for name in VARIANTS if variant is None else (variant,):
        published = VARIANTS[name]
        with torch.device("meta"):
            network = MobileMamba(published.config)
        head = adapt_state(state, network).get("head.linear.weight")
        classes = 0 if head is None else len(head)
        network.reset_classifier(classes)
        if variant is not None or not mismatches(network, adapt_state(state, network)):
            size = (published.image_size, published.image_size)
            names = tuple(ImageNetInfo("imagenet-1k").label_names()) if classes == 1000 else None
            config = replace(published.config, num_classes=classes)
            return config, ModelMetadata(image_size=size, class_names=names)
    return None, None


def _timm_folder(text: str, place: str, on_hub: bool) -> Weights:
    """Read a model in timm's form: config.json and weights."""
    file = _file_of(text, place, ("config.json",), on_hub)
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{text}: config.json is damaged ({error}): fetch or publish it again.") from error
    if not isinstance(description, dict):
        raise UserError(f"{text}: config.json must hold an object with an architecture.")
    name = str(description.get("architecture"))
    require(name in VARIANTS, f"{text}: architecture", name, f"one of {', '.join(sorted(VARIANTS))}")
    options = {"num_classes": description.get("num_classes", 1000), **(description.get("model_args") or {})}
    unknown = options.keys() - {field.name for field in fields(MobileMambaConfig)}
    if unknown:
        raise UserError(f"{text}: model_args = {sorted(unknown)} are unknown options: upgrade this package.")
    config = replace(VARIANTS[name].config, **options)
    if "mobilemamba" in description:
        metadata = ModelMetadata.from_dict(description["mobilemamba"])
    else:
        metadata = _timm_metadata(description.get("pretrained_cfg") or {}, VARIANTS[name].image_size)
    state = read_file(_file_of(text, place, WEIGHT_FILES, on_hub))
    return Weights(text, "raw", state, config, metadata)


def _timm_metadata(config: Mapping[str, Any], image_size: int) -> ModelMetadata:
    """Take what timm's pretrained_cfg says of preprocessing."""
    known = {name: config[name] for name in ("mean", "std", "interpolation", "crop_pct") if name in config}
    _, height, width = config.get("input_size", (3, image_size, image_size))
    names = config.get("label_names")
    return ModelMetadata.from_dict({**known, "image_size": [height, width], "class_names": names})


def _file_of(text: str, place: str, names: tuple[str, ...], on_hub: bool) -> Path:
    """Return the first of some files that exists in a folder or a repository of the Hub."""
    if not on_hub:
        folder = Path(place).expanduser()
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(f"Weights {text}: the folder {folder} has no {' or '.join(names)}.")
        return found
    failure: Exception | None = None
    for name in names:
        try:
            return Path(hf_hub_download(place, name))
        # The Hub's client raises the errors of its HTTP library, which differs between releases.
        except Exception as error:
            failure = error
    raise ConnectionError(
        f"{' or '.join(names)} of {text} could not be fetched from https://huggingface.co/{place} "
        f"({type(failure).__name__}). Offline, download the repository elsewhere and give it as local-dir:FOLDER."
    ) from failure
