import torch
from torch import nn

from benchmarks.training_step import saved_bytes


def test_saved_bytes_count_each_activation_once_and_no_parameter() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    images = torch.randn(5, 8)
    # Kept: the input, and the ReLU's output, which the second linear layer shares. Kept by sum: nothing.
    assert saved_bytes(network, lambda: network(images).sum().backward()) == 4 * (5 * 8 + 5 * 16)
