"""A small network of three classes that tells colours apart, and pictures of these colours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image

from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
METADATA = ModelMetadata(image_size=(64, 64), class_names=tuple(COLOURS))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint whose head was solved for: each colour gets its own class."""
    config = MobileMambaConfig(num_classes=3, widths=(16, 32, 48), depths=(1, 1, 1), mixer_stages=(False, True, False))
    torch.manual_seed(0)
    network = MobileMamba(config)
    colours = torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 255
    mean, std = torch.tensor(METADATA.mean), torch.tensor(METADATA.std)
    images = ((colours - mean) / std)[:, :, None, None].expand(-1, -1, 64, 64)
    with torch.no_grad():
        for _ in range(50):  # statistics that suit the pictures, or they would all look the same
            network.train()(images.repeat(4, 1, 1, 1) + 0.3 * torch.randn(12, 3, 1, 1))
        network.reset_classifier(3)
        features = network.eval().forward_head(network.forward_features(images), pre_logits=True)
        features = features / (1 + 1e-5) ** 0.5  # as the head's fresh norm gives them
        centred = features - features.mean(dim=0)
        logits = torch.tensor([[8.0, 2.0, 0.0], [0.0, 8.0, 2.0], [2.0, 0.0, 8.0]])  # no two classes are as likely
        weight = torch.linalg.lstsq(centred, logits - 10 / 3).solution.T
        network.head.linear.weight.copy_(weight)
        network.head.linear.bias.copy_(-weight @ features.mean(dim=0))
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    state = {f"student.{name}": value for name, value in network.state_dict().items()}
    description = {"config": asdict(config), "metadata": METADATA.to_dict(), "started_from": None}
    torch.save({"state_dict": state, "mobilemamba": description}, path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder for each colour with three pictures of other sizes."""
    for name, colour in COLOURS.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (80 + 9 * index, 70), colour).save(tmp_path / "pictures" / name / f"{index}.png")
    return tmp_path / "pictures"
