"""Parameters and multiply-accumulates (MACs) of a network.

PyTorch's counter counts convolutions and matrix products as they run. The selective scan has neither; the paper
(arXiv:2411.15941) adds its operations, 9 * L * K * D * N for each block, to the MACs one to one. They are counted
separately, since other counters leave them out.

For the published networks the result is 0.4 to 0.8 percent below the paper's. The paper does not name its counter; one
that counts normalisation layers gives more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobilemamba.bimamba import BiMamba
from mobilemamba.scan.reference import FLOPS_PER_STATE


@dataclass(frozen=True)
class Complexity:
    """Cost of one image.

    Args:
        parameters: Number of parameters, without buffers such as the Haar filters.
        macs: Multiply-accumulates of convolutions and matrix products.
        scan_macs: Multiply-accumulates of the selective scans; 0 for networks without scans.
    """

    parameters: int
    macs: int
    scan_macs: int

    @property
    def total_macs(self) -> int:
        """All multiply-accumulates, the paper's figure."""
        return self.macs + self.scan_macs


def complexity(network: nn.Module, image_size: tuple[int, int]) -> Complexity:
    """Count parameters and MACs of a network for one image, on the meta device.

    Args:
        network: Any network of images, in training or inference form; it is not changed.
        image_size: Height and width in pixels.
    """
    return complexity_of_modules(network, image_size)[""]


def complexity_of_modules(network: nn.Module, image_size: tuple[int, int]) -> dict[str, Complexity]:
    """Count parameters and MACs of every module by its name, "" for the network itself; see :func:`complexity`."""
    shapes = copy.deepcopy(network).to("meta").eval()  # tensors without numbers: shapes alone are propagated
    scans: dict[str, int] = {}

    def count_scan(name: str, block: BiMamba, inputs: tuple[Tensor], output: Tensor) -> None:
        height, width = inputs[0].shape[-2:]
        scans[name] = FLOPS_PER_STATE * height * width * block.A_log.numel()  # K * D * N states for each pixel

    for name, module in shapes.named_modules():
        if isinstance(module, BiMamba):
            module.register_forward_hook(partial(count_scan, name))
    channels = next(module.in_channels for module in shapes.modules() if isinstance(module, nn.Conv2d))
    images = torch.empty(1, channels, *image_size, dtype=next(shapes.parameters()).dtype, device="meta")
    # Not inference_mode: there, some products do not reach the counter.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(images)
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    root = type(network).__name__  # the counter's name of the network itself
    return {
        name: Complexity(
            sum(parameter.numel() for parameter in module.parameters()),
            flops.get(f"{root}.{name}" if name else root, 0) // 2,
            sum(macs for scan, macs in scans.items() if f"{scan}.".startswith(f"{name}." if name else "")),
        )
        for name, module in network.named_modules()
    }
