"""Chunks in object storage, in a real server on this machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import ImageNetDataModule
from datamodules.chunks.manifest import MANIFEST
from mobilemamba.errors import UserError
from tests.datamodules.conftest import photographs
from tests.datamodules.test_chunks import batches, small_chunks  # noqa: F401

prepare = pytest.importorskip("datamodules.chunks.prepare")
pytest.importorskip("litdata")
server = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="images")
    yield client
    running.stop()


@pytest.fixture
def stored(bucket: Any, image_folder: Callable[..., Path], tmp_path: Path) -> tuple[Path, Any]:
    root, output = image_folder(per_class=6), tmp_path / "chunks"
    prepare.prepare(root, output)
    for file in output.rglob("*.*"):
        bucket.upload_file(str(file), "images", f"mine/{file.relative_to(output)}")
    return root, bucket


def remote(cache: Path, **options: Any) -> ImageNetDataModule:
    return photographs("s3://images/mine", cache=str(cache), **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folders(stored: tuple[Path, Any], tmp_path: Path, workers: int) -> None:
    from_folder = photographs(stored[0])
    from_storage = remote(tmp_path / "cache", shuffle_chunks=0, num_workers=workers)
    for one, other in zip(batches(from_folder), batches(from_storage), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    for one, other in zip(from_folder.val_dataloader(), from_storage.val_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])


def test_two_machines_load_disjoint_parts_in_blocks(
    stored: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, loaded = [], []
    for rank in range(2):
        monkeypatch.setattr(ImageNetDataModule, "rank_and_world_size", lambda self, rank=rank: (rank, 2))
        data = remote(tmp_path / f"machine{rank}", shuffle_chunks=1, batch_size=3)
        labels += [targets for _, targets in batches(data)]
        loaded.append({file.name for file in (tmp_path / f"machine{rank}").rglob("train/*.bin")})
    assert torch.cat(labels).bincount().tolist() == [6, 6, 6]  # each image once
    assert len(loaded[0] | loaded[1]) == 5
    assert len(loaded[0] & loaded[1]) <= 1


def test_blocks_are_the_same_for_any_number_of_loader_processes(stored: tuple[Path, Any], tmp_path: Path) -> None:
    first, second = (batches(remote(tmp_path / "cache", num_workers=workers)) for workers in (0, 2))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(first, second, strict=True))


def test_what_is_on_disk_is_not_loaded_again(stored: tuple[Path, Any], tmp_path: Path) -> None:
    expected = batches(remote(tmp_path / "cache"))
    data = remote(tmp_path / "cache")
    for number in range(5):
        stored[1].delete_object(Bucket="images", Key=f"mine/train/chunk-0-{number}.bin")
    assert all(torch.equal(one[0], other[0]) for one, other in zip(expected, batches(data), strict=True))


def test_the_cache_keeps_to_its_limit(stored: tuple[Path, Any], tmp_path: Path) -> None:
    unlimited = batches(remote(tmp_path / "all"))
    limited = batches(remote(tmp_path / "some", cache_gigabytes=50e3 / 1e9))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(unlimited, limited, strict=True))
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).rglob("*.bin")) for name in ("all", "some")]
    assert sizes[1] < 50e3 < sizes[0]


def test_a_chunk_that_is_missing_or_short_is_named(stored: tuple[Path, Any], tmp_path: Path) -> None:
    stored[1].put_object(Bucket="images", Key="mine/train/chunk-0-1.bin", Body=b"short")
    with pytest.raises(UserError, match=r"s3://images/mine/train/chunk-0-1\.bin must have \d+ bytes"):
        batches(remote(tmp_path / "cache", batch_size=1))
    stored[1].delete_object(Bucket="images", Key="mine/train/chunk-0-1.bin")
    with pytest.raises(UserError, match=r"s3://images/mine/train/chunk-0-1\.bin is missing"):
        batches(remote(tmp_path / "cache", batch_size=1))


def test_a_place_without_chunks_and_a_bucket_that_is_not_there_are_named(
    stored: tuple[Path, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"data\.root = s3://images/other has no chunks in train/"):
        photographs("s3://images/other", cache=str(tmp_path))
    stored[1].delete_object(Bucket="images", Key=f"mine/val/{MANIFEST}")
    with pytest.raises(UserError, match=r"s3://nobody/mine/.* cannot be loaded|no chunks in train/"):
        photographs("s3://nobody/mine", cache=str(tmp_path))
    assert "no chunks in val/" in ImageNetDataModule("s3://images/mine", cache=str(tmp_path)).missing()


def test_balance_needs_the_order_of_folders(stored: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.balance = 1\.0 must be 0 for chunks in object storage"):
        remote(tmp_path / "cache", balance=1.0).train_dataloader()
    remote(tmp_path / "cache", balance=1.0, shuffle_chunks=0).train_dataloader()
