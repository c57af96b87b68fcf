"""A file that has changed by a single bit, or would grow when it is read, is refused."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
import torch

from mobilemamba.checkpoints import read_file
from mobilemamba.checksums import append_checksum
from mobilemamba.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.ckpt"
    torch.save({"weights": torch.arange(2000.0), "step": 3, "name": "student"}, path)
    append_checksum(path)
    return path


def test_a_file_with_a_checksum_is_a_file_of_torch(path: Path) -> None:
    for content in (read_file(path), torch.load(path, weights_only=True), torch.load(path, mmap=True)):
        assert torch.equal(content["weights"], torch.arange(2000.0))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_every_flipped_bit_is_found(path: Path) -> None:
    whole = path.read_bytes()
    ends = [*range(64), *range(len(whole) - 200, len(whole))]
    for position in [*ends, *random.SystemRandom().sample(range(len(whole)), 300)]:
        for bit in range(8) if position in ends else [random.SystemRandom().randrange(8)]:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(UserError, match="damaged"):
                read_file(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_part_of_a_file_is_refused(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="damaged"):
        read_file(path)


def test_a_file_that_would_grow_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    plain, bomb = tmp_path / "plain.ckpt", tmp_path / "bomb.ckpt"
    torch.save({"weights": torch.zeros(1_000_000)}, plain)
    read_file(plain)  # without a checksum, as earlier versions and others write it
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as small:
        for entry in archive.infolist():
            small.writestr(entry.filename, archive.read(entry))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"would become 4,\d{3},\d{3} in memory"):
        read_file(bomb)
