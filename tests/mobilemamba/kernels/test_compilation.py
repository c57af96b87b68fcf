"""What is kept of compiled kernels on disk. In processes of their own: a process reads a kernel once."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import torch
from mobilemamba.kernels.vector_math import total
print(total(torch.ones(5).numpy()), *total.stats.cache_hits.values())
"""
OTHER_SOURCES = "from mobilemamba.kernels import compilation\ncompilation.SOURCES = ''\n"


def total_of_five(folder: Path, script: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-W", "default", "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_a_kernel_is_compiled_once_for_its_sources_and_a_damaged_file_is_told_and_passed_by(tmp_path: Path) -> None:
    first, second = total_of_five(tmp_path), total_of_five(tmp_path)
    assert (first.stdout.split(), second.stdout.split()) == (["5.0"], ["5.0", "1"])
    assert [result.stderr.count("Compiling kernels") for result in (first, second)] == [1, 0]
    assert total_of_five(tmp_path, OTHER_SOURCES + SCRIPT).stdout.split() == ["5.0"]
    for suffix in ("nbc", "nbi"):
        for path in tmp_path.rglob(f"*.{suffix}"):
            path.write_bytes(path.read_bytes()[:-40])
        result = total_of_five(tmp_path)
        assert result.stdout.split() == ["5.0"]
        assert "NUMBA_CACHE_DIR" in result.stderr
