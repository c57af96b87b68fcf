"""AOTInductor packages (.aoti.pt2): the network compiled ahead of time, for PyTorch's runtime, in C++ too.

``torch._inductor.aoti_load_package(path)`` runs one, ``AOTIModelPackageLoader`` does in C++, without Python. It is code
for one kind of processor (operating system, vector instructions: see the package's own metadata) and for the number of
threads that PyTorch had where it was made. Only making one takes a C++ compiler.

Networks keep their own modules, whose scan traces to the parallel form: Inductor merges its operators into loops, but
makes of rows that are written out one by one thousands of lines, which take minutes to compile and longer to run.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.export import ExportedProgram

from mobilemamba.errors import UserError
from mobilemamba.export.comparison import Runner
from mobilemamba.export.formats.base import quiet
from mobilemamba.metadata import ModelMetadata

METADATA = "mobilemamba"
"""Key of our metadata, a JSON object, among the package's own."""


def check_compiler() -> None:
    """Look for the C++ compiler that writing takes.

    Raises:
        UserError: When there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            "format = 'aoti' needs a C++ compiler where the file is made: install g++, or name one by the environment "
            "variable CXX."
        ) from error


def write(program: ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
    """Compile and write one self-contained package; takes a minute or more."""
    settings = {"aot_inductor.metadata": {METADATA: json.dumps(metadata.to_dict())}}
    with quiet("torch.utils.cpp_extension"):
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)


def load(path: Path) -> Runner:
    """Open a package on the CPU."""
    return torch._inductor.aoti_load_package(str(path))


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a package."""
    content = torch._inductor.aoti_load_package(str(path)).get_metadata()
    return ModelMetadata.from_dict(json.loads(content[METADATA]))
