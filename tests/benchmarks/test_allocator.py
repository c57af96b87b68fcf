"""Freed memory that stays with the process."""

import subprocess
import sys

import pytest

from benchmarks import allocator

PROGRAM = """
import resource
import sys
import torch
from benchmarks.allocator import keep_freed_memory

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(64 * 2**20, dtype=torch.uint8)  # above any threshold glibc sets itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = faults()
kept = keep_freed_memory()
faults()
print(int(kept), before, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_a_large_block_costs_page_faults_once() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept, before, after = map(int, result.stdout.split())
    if not kept:
        pytest.skip("a setting of glibc")
    assert before > 100
    assert after < before / 10


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("a library was loaded"))
    assert allocator.keep_freed_memory.__wrapped__() is False
