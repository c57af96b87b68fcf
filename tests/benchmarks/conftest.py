from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

from benchmarks import formats
from mobilemamba import MobileMamba, MobileMambaConfig


@pytest.fixture
def pixels() -> int:
    """Height and width for which timm's networks seem to be made."""
    return 64


@pytest.fixture
def tiny_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pixels: int) -> None:
    """Small networks under the names of large ones, the quickstart's among them."""

    def create(name: str) -> nn.Module:
        torch.manual_seed(0)
        network: nn.Module = (
            MobileMamba(
                MobileMambaConfig(
                    widths=(16, 16, 16), depths=(1, 1, 1), mixer_stages=(False, False, True), num_classes=5
                )
            )
            if name.startswith("mobilemamba")
            else nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        )
        network.pretrained_cfg = {"input_size": (3, pixels, pixels)}  # type: ignore[assignment]
        return network

    monkeypatch.setattr(timm, "create_model", create)
    network = {"widths": [16, 16, 16], "depths": [1, 1, 1], "mixer_stages": [False, False, True]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"model": {"network": network}}))
    monkeypatch.setattr(formats, "QUICKSTART_FILE", tmp_path / "tiny.yaml")
