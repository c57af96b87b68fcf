"""What is kept of compiled kernels on disk: a kernel that is decorated anew reads the files that the last one wrote."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

import numba

from mobilemamba.kernels import compilation
from mobilemamba.kernels.vector_math import total

Add = Callable[[], tuple[int, bool]]


@pytest.fixture
def add_five_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Add:
    """Return a function that adds by a new kernel, and returns how often it was read and whether compiling was said."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def add() -> tuple[int, bool]:
        compilation._announce.cache_clear()
        caplog.clear()
        kernel = compilation.reordered(total.py_func)
        assert kernel(np.ones(5, np.float32)) == 5
        return sum(kernel.stats.cache_hits.values()), "Compiling kernels" in caplog.text

    return add


def test_a_kernel_is_compiled_once_for_its_sources(add_five_ones: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(total._cache, compilation._Cache)
    assert [add_five_ones(), add_five_ones()] == [(0, True), (1, False)]
    monkeypatch.setattr(compilation, "SOURCES", "")
    assert [add_five_ones(), add_five_ones()] == [(0, True), (1, False)]


@pytest.mark.parametrize("suffix", ["nbc", "nbi"])
def test_a_damaged_file_is_told_and_passed_by(suffix: str, add_five_ones: Add, tmp_path: Path) -> None:
    add_five_ones()
    [path] = tmp_path.rglob(f"*.{suffix}")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="another folder in NUMBA_CACHE_DIR"):
        assert add_five_ones() == (0, True)
