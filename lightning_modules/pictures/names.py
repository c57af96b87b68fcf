"""Class names where there is little room for them."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 20
"""Characters of a name in a picture."""


def class_name(index: int, class_names: Sequence[str] | None) -> str:
    """Return the name of a class, shortened, or its number where no names are known.

    Args:
        index: Of the class.
        class_names: Names of all classes, if known.
    """
    name = f"class {index}" if class_names is None else class_names[index]
    name = name.split(",")[0].strip() or name  # ImageNet lists synonyms: "tench, Tinca tinca"
    # Not what matplotlib would take for mathematics.
    name = name.replace("$", r"\$")
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
