"""``mobilemamba predict``: classifies images with any weights or exported file, without a config."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilemamba.errors import require
from mobilemamba.files import atomic_write
from mobilemamba.images import printable
from mobilemamba.inference.batches import find_all, read_batches, refuse_unreadable
from mobilemamba.inference.classifier import Classifier, open_classifier
from mobilemamba.tables import safe_cell, table

MOST_SHOWN = 20
"""Images whose classes are shown in the terminal; all of them are in the file of --output."""


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, best first.

    Args:
        path: The image.
        classes: Names.
        probabilities: In [0, 1].
    """

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(
    images: list[str],
    weights: str,
    weights_kind: Literal["ema", "raw"] = "ema",
    variant: str | None = None,
    top_k: int = 5,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str = "cpu",
    output: Path | None = None,
) -> None:
    """Classify images with any weights or exported file, and print the likeliest classes.

    Args:
        images: Image files, and folders of images in any depth.
        weights: published, published:in1k, a file of weights, a checkpoint, local-dir:FOLDER, hf-hub:OWNER/NAME, or an
            exported file (.onnx, .pt2, .xml, .pte, .tflite, .mlpackage).
        weights_kind: Averaged or raw weights, where there are both.
        variant: Network of published weights, such as mobilemamba_s6.
        top_k: Classes for each image.
        batch_size: Images per batch.
        num_workers: Processes that read images; 0 reads in this one.
        device: PyTorch device for weights, such as cuda; exported files run on the CPU.
        output: .csv or .json file to write; null prints only the table.

    Raises:
        UserError: When an argument cannot be used; when images could not be read, after all others were classified.
        FileNotFoundError: When there is no such file.
        ConnectionError: When the Hub cannot be reached.
    """
    require(top_k > 0, "--top-k", top_k, "1 or more")
    require(batch_size > 0, "--batch-size", batch_size, "1 or more")
    require(output is None or output.suffix in (".csv", ".json"), "--output", str(output), "a .csv or .json file")
    files = find_all(images)
    problems: list[str] = []
    predictions = name_images(
        open_classifier(weights, weights_kind, variant, device), files, top_k, batch_size, num_workers, problems
    )
    if predictions:
        print(as_table(predictions, "" if output else ": --output FILE.csv writes all of them"))
    if output is not None:
        write_predictions(predictions, output)
        print(f"Predictions of {len(predictions)} images: {output}")
    refuse_unreadable(problems, "all others were classified")


def name_images(
    classifier: Classifier, files: Sequence[Path], top_k: int, batch_size: int, num_workers: int, problems: list[str]
) -> list[Prediction]:
    """Return the likeliest classes of every image that can be read, in the order of the files.

    Args:
        classifier: Weights or exported file.
        files: Images.
        top_k: Classes for each image, at most as many as there are.
        batch_size: Images per batch.
        num_workers: Processes that read images.
        problems: Collects an error message for each image that cannot be read.
    """
    predictions = []
    for indices, batch in read_batches(files, classifier.metadata, batch_size, num_workers, problems):
        probabilities = classifier.run(batch).softmax(dim=1)
        best = probabilities.topk(min(top_k, probabilities.shape[1]), dim=1)
        for index, values, classes in zip(indices, best.values.tolist(), best.indices.tolist(), strict=True):
            names = tuple(classifier.class_name(number) for number in classes)
            predictions.append(Prediction(printable(files[index]), names, tuple(values)))
    return predictions


def as_table(predictions: Sequence[Prediction], hint: str = "") -> str:
    """Return a table of the first images: all of their classes for a few images, the best one for many.

    Args:
        predictions: At least one.
        hint: How to see the others.
    """
    shown = predictions[:MOST_SHOWN]
    ranks = len(shown[0].classes) if len(shown) <= 4 else 1
    rows = [
        (prediction.path if rank == 0 else "", prediction.classes[rank], f"{prediction.probabilities[rank]:.1%}")
        for prediction in shown
        for rank in range(ranks)
    ]
    text = table(("image", "class", "probability"), rows, left=2)
    hidden = len(predictions) - len(shown)
    return f"{text}\n... and {hidden} more{hint}." if hidden else text


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write .csv (path, class_1, probability_1, class_2, ...) or .json, whole or not at all."""
    with atomic_write(path) as unfinished:
        if path.suffix == ".json":
            content = [
                {"path": p.path, "classes": list(p.classes), "probabilities": list(p.probabilities)}
                for p in predictions
            ]
            unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            return
        ranks = len(predictions[0].classes) if predictions else 0
        header = ["path", *(f"{name}_{rank + 1}" for rank in range(ranks) for name in ("class", "probability"))]
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(header)
            for prediction in predictions:
                pairs = zip(prediction.classes, prediction.probabilities, strict=True)
                cells = (cell for name, p in pairs for cell in (safe_cell(name), f"{p:.6f}"))
                rows.writerow([safe_cell(prediction.path), *cells])
