"""Fetch the authors' published weights from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download

from mobilemamba.checkpoints import read_file

PUBLISHED_REPOSITORY = "Lewandofski/MobileMamba"
WEIGHT_SUFFIXES = (".pth", ".safetensors")


def published_folder(variant: str, distilled: bool) -> str:
    """Return the folder of a variant's weights in the repository, such as "MobileMamba_S6s" for distilled S6."""
    return f"MobileMamba_{variant.removeprefix('mobilemamba_').upper()}{'s' if distilled else ''}"


def download_published(variant: str, distilled: bool = True) -> dict[str, Any]:
    """Return the content of a variant's published file, from the Hub or its cache.

    Args:
        variant: Name such as "mobilemamba_s6".
        distilled: The 1000-epoch distilled weights, or those of 300 epochs without teacher.

    Raises:
        UserError: When the file is damaged or holds code.
        ConnectionError: When the Hub cannot be reached; the message says how to load a file by hand.
        FileNotFoundError: When the repository has no such weights.
    """
    return read_file(published_file(variant, distilled))


def published_file(variant: str, distilled: bool = True, copy: Path | None = None) -> Path:
    """Return a variant's published file: from the Hub's cache, which is filled if necessary, or from a local copy.

    Args:
        variant: Name such as "mobilemamba_s6".
        distilled: The 1000-epoch distilled weights, or those of 300 epochs without teacher.
        copy: Folder with a downloaded copy of the repository.

    Raises:
        ConnectionError: When the Hub cannot be reached; the message says how to load a file by hand.
        FileNotFoundError: When the repository or its copy has no such weights.
    """
    folder = published_folder(variant, distilled)
    if copy is not None:
        found = sorted(path for path in (copy / folder).glob("*") if path.suffix in WEIGHT_SUFFIXES)
        if not found:
            raise FileNotFoundError(f"{copy / folder} holds no {' or '.join(WEIGHT_SUFFIXES)} file.")
        return found[0]
    try:
        files = [file for file in HfApi().list_repo_files(PUBLISHED_REPOSITORY) if file.startswith(f"{folder}/")]
        weights = sorted(file for file in files if file.endswith(WEIGHT_SUFFIXES))
        if weights:
            return Path(hf_hub_download(PUBLISHED_REPOSITORY, weights[0]))
    # The Hub's client raises the errors of its HTTP library, which differs between releases.
    except Exception as error:
        raise ConnectionError(
            f"The weights of {variant} could not be fetched from https://huggingface.co/{PUBLISHED_REPOSITORY} "
            f"({type(error).__name__}). Offline, download folder {folder} elsewhere and load the file with "
            "mobilemamba.load_published_weights(model, path), or pass checkpoint_path=path to timm.create_model."
        ) from error
    raise FileNotFoundError(f"Repository {PUBLISHED_REPOSITORY} has no weights in folder {folder}; it holds {files}.")
