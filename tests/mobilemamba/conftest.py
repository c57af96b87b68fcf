from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig

FOUR_STAGES: dict[str, Any] = {
    "stem_stride": 4,
    "widths": (32, 32, 40, 48),
    "depths": (1, 1, 1, 1),
    "mixer_stages": (False, False, True, True),
    "global_shares": (0.8, 0.8, 0.7, 0.6),
    "local_shares": (0.2, 0.2, 0.2, 0.3),
    "local_kernels": ((7,), (7,), (5,), (3,)),
    "wavelet_kernels": (7, 7, 5, 3),
}
"""Options of a layout with four stages, of which two are convolutional."""


def randomise(network: nn.Module) -> nn.Module:
    """Give every norm, scale and statistic a value that matters; fresh ones make a dropped norm invisible."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor, low, high in (
                    (module.weight, 0.3, 0.9),
                    (module.bias, -0.3, 0.3),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 1.5),
                ):
                    tensor.uniform_(low, high, generator=generator)
        for name, parameter in network.named_parameters():
            if "scale" in name or name.endswith((".A_log", ".D", "dt_proj_bias")):
                parameter.uniform_(-0.9, 1.1, generator=generator)
    return network


@pytest.fixture
def tiny_config() -> MobileMambaConfig:
    return MobileMambaConfig(widths=(32, 40, 48), depths=(1, 2, 1), num_classes=7)


@pytest.fixture
def randomised() -> Callable[[MobileMambaConfig], MobileMamba]:
    """Build an eval-mode float64 network with randomised statistics."""

    def build(config: MobileMambaConfig) -> MobileMamba:
        torch.manual_seed(0)
        return randomise(MobileMamba(config)).double().eval()

    return build
