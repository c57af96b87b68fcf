"""ExecuTorch files (.pte) for the processor of phones and small devices, by XNNPACK; other delegates take other files.

Method "forward" maps one image (1, C, H, W) to logits (1, num_classes); method "metadata" takes nothing and returns the
fields of :class:`mobilemamba.metadata.ModelMetadata` as a JSON object.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from mobilemamba.export.comparison import Runner
from mobilemamba.export.formats.base import quiet
from mobilemamba.metadata import ModelMetadata

METADATA_METHOD = "metadata"


def write(program: ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
    """Write one self-contained file."""
    with quiet("torch.utils._pytree"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.exir.passes.constant_prop_pass import constant_prop_pass

        # Without it what depends on weights alone is computed anew for every image, in half of the file's time.
        program = constant_prop_pass(program.run_decompositions({}))
        lowered = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            constant_methods={METADATA_METHOD: json.dumps(metadata.to_dict())},
        )
        with path.open("wb") as file:
            lowered.to_executorch().write_to_file(file)


def load(path: Path) -> Runner:
    """Open a file on the CPU."""
    method = _program(path).load_method("forward")
    # The runtime answers with a view of memory that the next image overwrites.
    return lambda images: method.execute([images])[0].clone()


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a file."""
    (text,) = _program(path).load_method(METADATA_METHOD).execute([])
    return ModelMetadata.from_dict(json.loads(text))


def _program(path: Path) -> Any:
    with quiet():
        from executorch.runtime import Runtime

        return Runtime.get().load_program(path)
