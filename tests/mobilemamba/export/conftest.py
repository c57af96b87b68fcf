import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata
from mobilemamba.export.parity import random_images
from tests.mobilemamba.conftest import randomise


def calibrate(network: MobileMamba) -> MobileMamba:
    """Give norms the statistics of images, as training does: with arbitrary ones the logits hardly depend on images."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches
    with torch.no_grad():
        network.train()(random_images((16, network.in_chans, 96, 96)))
    for norm in norms:
        norm.momentum = 0.1
    return network


@pytest.fixture(scope="session")
def network() -> MobileMamba:
    """A tiny network in training mode with statistics that matter; exports leave it as it is."""
    torch.manual_seed(0)
    network = randomise(MobileMamba(MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), num_classes=7)))
    assert isinstance(network, MobileMamba)
    return calibrate(network)


@pytest.fixture(scope="session")
def metadata() -> ModelMetadata:
    return ModelMetadata(
        image_size=(64, 96),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        interpolation="bilinear",
        crop_pct=0.9,
        class_names=("a", "b", "c", "d", "e", "f", "naïve, quoted 'g'"),
    )


@pytest.fixture
def checkpoint_of(tmp_path: Path) -> Callable[[MobileMamba, ModelMetadata], Path]:
    """Write a network as ``lightning fit`` does."""

    def write(network: MobileMamba, metadata: ModelMetadata) -> Path:
        content = {
            "mobilemamba": {"config": dataclasses.asdict(network.config), "metadata": metadata.to_dict()},
            "state_dict": {f"student.{key}": value for key, value in network.state_dict().items()},
        }
        torch.save(content, tmp_path / "best.ckpt")
        return tmp_path / "best.ckpt"

    return write
