"""What the packages need: the network five distributions alone, and no package one that stands above it."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LAYERS = ("mobilemamba", "datamodules", "lightning_modules", "benchmarks", "experiments")
"""Packages from the lowest to the highest: each imports those to its left alone."""

NETWORK_NEEDS = ("torch", "timm", "PyWavelets", "safetensors", "huggingface-hub")

SCRIPT = """
import sys
import torch, timm
import mobilemamba

network = timm.create_model("mobilemamba_s6", widths=(16, 32, 32), depths=(1, 1, 1), num_classes=3).eval()
images = torch.zeros(1, 3, 64, 64)
assert torch.allclose(mobilemamba.fuse(network)(images), network(images), atol=1e-4)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def closure(names: tuple[str, ...]) -> dict[str, Distribution]:
    """Return distributions and all that they require here, extras left out."""
    found: dict[str, Distribution] = {}
    pending = list(names)
    while pending:
        name = canonicalize_name(pending.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # not needed on this system
            continue
        for text in found[name].requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
    return found


def test_the_network_needs_five_distributions_alone(tmp_path: Path) -> None:
    """In an environment with nothing else: links to their files and to those of what they require."""
    site = tmp_path / "site"
    site.mkdir()
    for found in closure(NETWORK_NEEDS).values():
        for file in found.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    (site / "mobilemamba").symlink_to(ROOT / "mobilemamba")
    code = f"import sys; sys.path = [p for p in sys.path if 'site-packages' not in p] + [{str(site)!r}]\n{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "mobilemamba" in imported
    assert not imported & {"lightning", "numba", "matplotlib", "onnx", "jsonargparse", "rich", "scipy", "sklearn"}


def modules() -> dict[str, Path]:
    """Return all modules of the product by their dotted names."""
    paths = [path for package in LAYERS for path in (ROOT / package).rglob("*.py")]
    dotted = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in dotted.items()}


def imports(path: Path, known: set[str]) -> Iterator[str]:
    """Yield the modules of the product that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & known or {node.module} & known


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    paths = modules()
    return {name: set(imports(path, set(paths))) - {name} for name, path in paths.items()}


def test_no_package_imports_one_above_it(graph: dict[str, set[str]]) -> None:
    level = {package: index for index, package in enumerate(LAYERS)}
    upwards = [
        f"{module} imports {target}"
        for module, targets in graph.items()
        for target in targets
        if level[target.partition(".")[0]] > level[module.partition(".")[0]]
    ]
    assert not upwards


def test_there_is_no_import_circle(graph: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in graph[module]:
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_module_names_another_package_by_a_process() -> None:
    for name, path in modules().items():
        package = name.partition(".")[0]
        above = LAYERS[LAYERS.index(package) + 1 :]
        for word in above:
            assert f'"-m", "{word}' not in path.read_text(), f"{name} starts {word}"


def test_tests_compute_in_one_thread() -> None:
    import torch

    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
