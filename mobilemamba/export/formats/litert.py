"""LiteRT files (.tflite, formerly TensorFlow Lite) for Android and other devices.

The signature has input "images" (1, C, H, W), as in PyTorch, and output "logits" (1, num_classes). The fields of
:class:`mobilemamba.metadata.ModelMetadata` are a JSON object in a ZIP archive at the end of the file, the usual place
for what belongs to such a model: ``unzip -p model.tflite metadata.json``.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mobilemamba.export.comparison import Runner
from mobilemamba.export.formats.base import INPUT, OUTPUT, quiet
from mobilemamba.metadata import ModelMetadata

METADATA_FILE = "metadata.json"
"""Name of the metadata inside the archive."""


class _Named(nn.Module):
    """Gives input and output their names in the file's signature."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False  # not by eval(), which traced networks refuse; they are in eval mode for good

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {OUTPUT: self.network(images)}


def write(program: ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
    """Write one self-contained file."""
    with quiet():
        import litert_torch

        litert_torch.config.show_progress = False
        (images,), _ = program.example_inputs
        network = _Named(program.module(check_guards=False))
        litert_torch.convert(network, sample_kwargs={INPUT: images}).export(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA_FILE, json.dumps(metadata.to_dict()))


def load(path: Path) -> Runner:
    """Open a file on the CPU."""
    with quiet():
        from ai_edge_litert.interpreter import Interpreter

        signature = Interpreter(str(path), num_threads=torch.get_num_threads()).get_signature_runner()
    return lambda images: torch.from_numpy(signature(**{INPUT: images.numpy()})[OUTPUT])


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a file."""
    with zipfile.ZipFile(path) as archive:
        return ModelMetadata.from_dict(json.loads(archive.read(METADATA_FILE)))
