"""What is traced gives the network's answers: modules are swapped by others that compute the same."""

import copy

import pytest
import torch
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig, fuse
from mobilemamba.bimamba import BiMamba
from mobilemamba.export import ExportOptions
from mobilemamba.export.comparison import compare_logits
from mobilemamba.export.graph import for_graphs
from mobilemamba.export.parity import random_images
from mobilemamba.export.tracing import promised_shapes, trace, tracing_size
from mobilemamba.wavelet_mamba import WaveletConv
from tests.mobilemamba.conftest import randomise
from tests.mobilemamba.export.conftest import calibrate


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"scan_directions": 4, "state_size": 2, "wavelet_levels": 2},
        {"scan": False, "local_kernels": ((3, 5),) * 3},
    ],
    ids=str,
)
def fused(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    config = MobileMambaConfig(**{"widths": (16, 32, 32), "depths": (1, 1, 1), "num_classes": 5} | request.param)
    return fuse(calibrate(randomise(MobileMamba(config))).double().eval())


@pytest.mark.parametrize("dynamic_size", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (97, 80)])
def test_swapped_modules_give_the_same_answers(fused: nn.Module, dynamic_size: bool, size: tuple[int, int]) -> None:
    swapped = for_graphs(copy.deepcopy(fused), dynamic_size)
    images = random_images((3, 3, *size)).double()
    with torch.no_grad():
        comparison = compare_logits(fused(images), swapped(images), images.shape)
    assert comparison.max_abs_error < 1e-12
    assert comparison.response > 1e-3
    assert not any(isinstance(module, BiMamba | WaveletConv) or module.training for module in swapped.modules())


@pytest.mark.parametrize("dynamic_size", [False, True])
def test_graph_has_no_operator_that_phones_lack(network: MobileMamba, dynamic_size: bool) -> None:
    swapped = for_graphs(fuse(copy.deepcopy(network).eval()), dynamic_size)
    options = ExportOptions(dynamic_batch=dynamic_size, dynamic_size=dynamic_size)
    program = trace(swapped, 3, tracing_size((64, 64), 64, options), options)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("bmm" in name for name in names) == dynamic_size  # products with small matrices, or loops
    assert any("pixel_shuffle" in name for name in names)
    assert not any(word in name for name in names for word in ("transpose2d", "conv_transpose", "softplus", "while"))


def test_files_are_compared_on_all_that_they_promise_to_take() -> None:
    fixed = promised_shapes(3, (64, 96), 64, ExportOptions(dynamic_batch=False))
    assert set(fixed) == {(1, 3, 64, 96)}
    assert len(fixed) >= 16
    dynamic = promised_shapes(3, (64, 64), 64, ExportOptions(dynamic_size=True))
    assert len({batch for batch, *_ in dynamic}) >= 3
    assert (2, 3, 64, 64) in dynamic
    assert any(height != width for _, _, height, width in dynamic)
    assert any(height % 2 and width % 2 == 0 for _, _, height, width in dynamic)


@pytest.mark.parametrize(("dynamic_size", "size"), [(True, (256, 512)), (False, (64, 512))])
def test_dynamic_size_is_traced_where_no_map_has_a_side_of_one(dynamic_size: bool, size: tuple[int, int]) -> None:
    assert tracing_size((64, 512), 64, ExportOptions(dynamic_size=dynamic_size)) == size
