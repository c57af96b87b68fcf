from typing import Any

import pytest
import torch
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata
from mobilemamba.export.comparison import Comparison
from mobilemamba.export.int8.report import Int8Report
from mobilemamba.export.parity import ParityReport, random_images
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


def tiny_network(*mixer_stages: bool) -> MobileMamba:
    """A tiny network in training mode with statistics that matter."""
    torch.manual_seed(0)
    config = MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), mixer_stages=mixer_stages, num_classes=7)
    network = randomise(MobileMamba(config))
    assert isinstance(network, MobileMamba)
    return calibrate(network)


@pytest.fixture(scope="session")
def network() -> MobileMamba:
    """A network with the mixers of two stages; exports leave it as it is."""
    return tiny_network(False, True, True)


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


def int8_report(**changes: Any) -> Int8Report:
    """A report that passes, with other figures where they are given."""
    fields = dict(
        float_report=ParityReport("onnx", 0.0, 1e-4, (), {}, 1),
        quantised_nodes=1,
        calibration_images=32,
        compared_images=1000,
        top1_agreement=0.95,
        max_abs_error=0.05,
        accuracy_before=0.803,
        accuracy_after=0.793,
        comparisons=(Comparison((1, 3, 64, 64), 1, 0.05, 1.0, 0.0),),
        min_agreement=0.9,
        max_accuracy_drop=1.0,
        milliseconds_before=2.0,
        milliseconds_after=1.0,
        size_bytes=1,
    )
    return Int8Report(**fields | changes)  # type: ignore[arg-type]
