"""What a test's runs have written into their TensorBoard logs."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def events(tmp_path: Path, version: int = 0) -> EventAccumulator:
    keep_all = {"images": 0, "tensors": 0, "histograms": 0, "scalars": 0}
    return EventAccumulator(str(tmp_path / "run" / f"version_{version}"), size_guidance=keep_all).Reload()


def picture_steps(log: EventAccumulator) -> dict[str, list[int]]:
    return {tag: [image.step for image in log.Images(tag)] for tag in log.Tags()["images"]}


def text(log: EventAccumulator, tag: str) -> str:
    return log.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()
