"""Scenes of digits: image, boxes, masks and labels agree, and come from a seed alone."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.scenes import DigitScenesDataModule, DigitScenesDetectionDataModule, compose


def test_a_scene_depends_on_its_seed_alone_and_its_parts_agree() -> None:
    for seed in range(5):
        scene, again = (compose((0, seed), 64, 5, True) for _ in range(2))
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(scene, again, strict=True))
        assert len(scene.masks) == len(scene.labels) == len(scene.boxes)
        assert scene.masks.sum(axis=0).max() <= 1  # a pixel belongs to one digit
        for mask, (left, top, right, bottom) in zip(scene.masks, scene.boxes, strict=True):
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
            assert mask[top].any()
            assert mask[bottom - 1].any()
            assert mask[:, left].any()
            assert mask[:, right - 1].any()
    assert not np.array_equal(compose((0, 0), 64, 5, True).image, compose((0, 1), 64, 5, True).image)


def test_both_data_modules_show_the_same_scenes_and_repeat_them() -> None:
    options = {"image_size": 64, "batch_size": 4, "scenes": 8, "validation_scenes": 4}
    segmentation, detection = DigitScenesDataModule(**options), DigitScenesDetectionDataModule(**options)
    batches = []
    for data in (segmentation, detection):
        data.setup("fit")
        batches.append(next(iter(data.val_dataloader())))
        first, again = (next(iter(data.train_dataloader())) for _ in range(2))
        assert torch.equal(first[0], again[0])
        assert first[0].shape == (4, 3, 64, 64)
    (images, masks), (same, targets) = batches
    assert torch.equal(images, same)
    for mask, target in zip(masks, targets, strict=True):
        assert set(mask.unique().tolist()) - {0} >= {label + 1 for label in target["labels"].tolist()}
        for digit, label in zip(target["masks"], target["labels"], strict=True):
            assert (mask[digit.bool()] == label + 1).all()
