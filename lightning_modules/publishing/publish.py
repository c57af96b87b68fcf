"""``mobilemamba publish``: writes weights as a folder, or a repository of the Hugging Face Hub, that timm can load."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file

from lightning_modules.publishing.model_card import model_card
from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import UserError
from mobilemamba.files import write_json, write_text
from mobilemamba.metadata import ModelMetadata, readable_name
from mobilemamba.variants import VARIANTS
from mobilemamba.weights import load_network, variant_of

PARITY_TOLERANCE = 1e-5
"""Largest difference allowed between the network and what timm loads from the folder, relative to the largest logit."""


@dataclass(frozen=True)
class Published:
    """Result of a publication.

    Args:
        place: Folder, or address on the Hub.
        architecture: timm name of the variant in the config.
        difference: Largest difference of logits between the network and what timm loads, relative to the largest.
    """

    place: str
    architecture: str
    difference: float


def publish(
    weights: str,
    to: str,
    weights_kind: Literal["ema", "raw"] = "ema",
    variant: str | None = None,
    licence: str = "mit",
    private: bool = False,
) -> Published:
    """Write weights as a folder for timm and the Hugging Face Hub, compared with what timm loads from it.

    The folder holds model.safetensors, config.json (architecture, preprocessing, classes) and a model card.

    Args:
        weights: A .ckpt of a run, whose results and config are in the card, or any other source; also --checkpoint.
        to: A folder that does not exist yet, or hf-hub:OWNER/NAME, for which you must be logged in (`hf auth login`).
        weights_kind: Averaged or raw weights, where there are both.
        variant: Network of published weights, such as mobilemamba_s6.
        licence: Licence of the weights, as the Hub names it.
        private: Create the Hub's repository as a private one.

    Raises:
        UserError: When the weights cannot be used, the folder exists, or timm loads a different network from it.
        FileNotFoundError: When there is no such file.
        ConnectionError: When the Hub cannot be reached.
    """
    on_hub, repository = to.startswith("hf-hub:"), to.removeprefix("hf-hub:")
    target = Path(to.removeprefix("local-dir:")).expanduser()
    name = repository if on_hub else f"OWNER/{target.name}"
    if on_hub and repository.count("/") != 1:
        raise UserError(f"--to {to} must name a repository as hf-hub:OWNER/NAME.")
    if not on_hub and target.exists():
        raise UserError(f"--to {to} must be a folder that does not exist yet: delete it, or choose another.")
    network, metadata = load_network(weights, weights_kind, variant)
    if network.num_classes == 0:
        raise UserError(f"{weights} has no classifier: publish weights of a classifier.")
    if not on_hub:
        target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=None if on_hub else target.parent, prefix=".publish.") as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        architecture = _write(folder, network, metadata)
        difference = _difference(network, folder, metadata)
        card = model_card(weights, architecture, network, metadata, weights_kind, licence, difference, name)
        write_text(folder / "README.md", card)
        if on_hub:
            _upload(folder, repository, private)
        else:
            folder.rename(target)
    place = f"https://huggingface.co/{repository}" if on_hub else str(target)
    source = f"hf-hub:{repository}" if on_hub else f"local-dir:{target}"
    print(f"{place}: {architecture}, largest difference from what timm loads {difference:.1e} of the largest logit.")
    print(f'import mobilemamba, timm; model = timm.create_model("{source}", pretrained=True)')
    return Published(place, architecture, difference)


def timm_config(network: MobileMamba, metadata: ModelMetadata) -> dict[str, Any]:
    """Return the content of config.json: timm's entries, and this project's metadata under "mobilemamba".

    Args:
        network: The network.
        metadata: Its preprocessing and classes.
    """
    architecture = variant_of(network.config, metadata.image_size[0]) or "mobilemamba_s6"
    own, base = asdict(network.config), asdict(VARIANTS[architecture].config)
    arguments = {name: value for name, value in own.items() if value != base[name] and name != "num_classes"}
    preprocessing = {
        "input_size": [network.in_chans, *metadata.image_size],
        "mean": list(metadata.mean),
        "std": list(metadata.std),
        "interpolation": metadata.interpolation,
        "crop_pct": metadata.crop_pct,
        "num_classes": network.num_classes,
        "fixed_input_size": False,
        "first_conv": "stem.0.conv",
        "classifier": "head.linear",
    }
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "pretrained_cfg": preprocessing,
        "mobilemamba": metadata.to_dict(),
    }
    if arguments:
        config["model_args"] = arguments
    if metadata.class_names is not None:
        config["label_names"] = list(metadata.class_names)
        config["label_descriptions"] = {name: readable_name(name) for name in metadata.class_names}
    return config


def _write(folder: Path, network: MobileMamba, metadata: ModelMetadata) -> str:
    config = timm_config(network, metadata)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    write_json(folder / "config.json", config)
    return str(config["architecture"])


def _difference(network: MobileMamba, folder: Path, metadata: ModelMetadata) -> float:
    """Compare a network with the one that timm loads from a folder, on random images.

    Raises:
        UserError: When they differ.
    """
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, network.in_chans, *metadata.image_size, generator=generator)
    with torch.no_grad():
        expected, obtained = network(images), loaded(images)
    difference = float((expected - obtained).abs().max() / expected.abs().max().clamp(min=1e-12))
    if difference > PARITY_TOLERANCE:
        raise UserError(
            f"timm loads a different network from the folder: logits differ by {difference:.1e}: report this."
        )
    return difference


def _upload(folder: Path, repository: str, private: bool) -> None:
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Publish weights")
    # The Hub's client raises the errors of its HTTP library, which differs between releases.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ConnectionError(
            f"hf-hub:{repository} could not be written ({type(error).__name__}: {reason}): log in by `hf auth login`, "
            "or publish into a folder and upload that."
        ) from error
