"""``mobilemamba embed``: features of images, for search, clustering and nearest neighbours."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mobilemamba.environment import find_device
from mobilemamba.errors import UserError, require
from mobilemamba.files import atomic_write
from mobilemamba.images import printable
from mobilemamba.inference.batches import find_all, read_batches, refuse_unreadable
from mobilemamba.tables import safe_cell
from mobilemamba.weights import load_network


def embed(
    folder: Path,
    weights: str,
    weights_kind: Literal["ema", "raw"] = "ema",
    variant: str | None = None,
    output: Path = Path("runs/embeddings.safetensors"),
    neighbours: int = 20,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str = "cpu",
) -> None:
    """Write the features of a folder's images; where folders are classes, print the accuracy of nearest neighbours.

    Args:
        folder: Folder of images, in any depth; where it has a folder for each class, neighbours are evaluated.
        weights: published, published:in1k, a file of weights, a checkpoint, local-dir:FOLDER or hf-hub:OWNER/NAME.
        weights_kind: Averaged or raw weights, where there are both.
        variant: Network of published weights, such as mobilemamba_s6.
        output: File for the features; a .csv beside it gets path and class of each row.
        neighbours: Nearest neighbours that vote for an image's class.
        batch_size: Images per batch.
        num_workers: Processes that read images; 0 reads in this one.
        device: PyTorch device, such as cuda.

    Raises:
        UserError: When an argument cannot be used; when images could not be read, after all others were written.
        FileNotFoundError: When there is no such file.
        ConnectionError: When the Hub cannot be reached.
    """
    require(output.suffix == ".safetensors", "--output", str(output), "a .safetensors file")
    require(neighbours > 0, "--neighbours", neighbours, "1 or more")
    require(batch_size > 0, "--batch-size", batch_size, "1 or more")
    where = find_device(device)
    files = find_all([str(folder)])
    network, metadata = load_network(weights, weights_kind, variant)
    network = network.to(where)
    problems: list[str] = []
    rows: list[int] = []
    parts = []
    for indices, batch in read_batches(files, metadata, batch_size, num_workers, problems):
        with torch.inference_mode():
            features = network.forward_head(network.forward_features(batch.to(where)), pre_logits=True)
        rows += indices
        parts.append(features.float().cpu())
    if not parts:
        refuse_unreadable(problems, "there are no others")
    features, written = torch.cat(parts), [files[index] for index in rows]
    classes = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in written]
    write_embeddings(features, written, classes, output)
    print(f"{len(features)} rows of {features.shape[1]} features: {output}, {output.with_suffix('.csv')}")
    if "" not in classes and len(set(classes)) > 1:
        count = min(neighbours, len(features) - 1)
        accuracy = neighbour_accuracy(features, classes, count)
        print(f"{accuracy:.2%} of the images have the class that most of their {count} nearest neighbours have.")
    refuse_unreadable(problems, "all others were written")


def write_embeddings(features: Tensor, files: Sequence[Path], classes: Sequence[str], path: Path) -> None:
    """Write features (N, F) as tensor "features", and path and class of each row beside it, together or not at all."""
    if not features.isfinite().all():
        raise UserError("The features are not all finite: these weights are damaged.")
    with atomic_write(path) as unfinished:
        save_file({"features": features.contiguous()}, unfinished)
        table = unfinished.with_suffix(".csv")
        with table.open("w", newline="", encoding="utf-8") as file:
            columns = ([safe_cell(printable(text)) for text in texts] for texts in (files, classes))
            csv.writer(file).writerows([("path", "class"), *zip(*columns, strict=True)])


def neighbour_accuracy(features: Tensor, classes: Sequence[str], neighbours: int) -> float:
    """Return the accuracy of classifying each row by a vote of its nearest other rows by cosine distance.

    Args:
        features: (N, F).
        classes: Class of each row.
        neighbours: Voters for each row; nearer ones count more.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import, and not always needed

    names, targets = np.unique(np.asarray(classes), return_inverse=True)
    distances, indices = NearestNeighbors(n_neighbors=neighbours, metric="cosine").fit(features.numpy()).kneighbors()
    votes = np.zeros((len(targets), len(names)))
    np.add.at(votes, (np.arange(len(targets))[:, None], targets[indices]), 2 - distances)
    return float((votes.argmax(axis=1) == targets).mean())
