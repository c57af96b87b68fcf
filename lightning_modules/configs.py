"""Finds configs by name, and files by paths relative to a config."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mobilemamba.errors import UserError

FILE_OPTIONS = ("checkpoint", "weights", "root", "table", "class_names_file", "predict_folder", "stored")
"""Names of options that are paths of existing files or folders."""


def shipped_configs() -> dict[str, Path]:
    """Return the configs that come with the project by name, such as "s6" and "ablations/stages"."""
    spec = find_spec("experiments")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [(Path(folder), path) for folder in folders for path in sorted(Path(folder).rglob("*.yaml"))]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for folder, path in files}


def find_config(name: str) -> str:
    """Return the path of a config, given as a path or as the name of a config of this project.

    Args:
        name: Such as "mine.yaml", "s6" or "experiments/s6.yaml", from any folder.

    Raises:
        UserError: When there is no such config; names the nearest.
    """
    if Path(name).exists() or "\n" in name or ":" in name.removeprefix(Path(name).drive):  # a path, or YAML text
        return name
    shipped = shipped_configs()
    key = name.removeprefix("experiments/").removesuffix(".yaml")
    if key in shipped:
        return str(shipped[key])
    nearest = get_close_matches(key, shipped, n=3, cutoff=0.5) or sorted(shipped)
    raise UserError(
        f"--config {name} must be a YAML file or the name of one that comes with the project: there is no such file; "
        f"similar names are {', '.join(nearest)}."
    )


def find_configs(arguments: list[str]) -> list[str]:
    """Replace the name of every config in a command line with its path.

    Raises:
        UserError: When there is no such config.
    """
    found: list[str] = []
    for position, word in enumerate(arguments):
        if word.startswith("--config="):
            found.append(f"--config={find_config(word.partition('=')[2])}")
        elif position and arguments[position - 1] == "--config":
            found.append(find_config(word))
        else:
            found.append(word)
    return found


def resolve_files(config: Any, folder: Path) -> None:
    """Make paths in a config absolute, in place, if they exist relative to the config's folder.

    Args:
        config: Nested mappings, as read from a file.
        folder: Folder of the config.
    """
    for section, name in _options(config):
        value = section[name]
        if name in FILE_OPTIONS and isinstance(value, str) and not Path(value).is_absolute():
            path = folder / value
            if value and path.exists():
                section[name] = str(path)


def _options(config: Any) -> Iterator[tuple[MutableMapping[str, Any], str]]:
    entries = config if isinstance(config, MutableMapping) else vars(config)
    for name, value in list(entries.items()):
        if isinstance(value, MutableMapping) or hasattr(value, "__dict__"):
            yield from _options(value)
        else:
            yield entries, name
