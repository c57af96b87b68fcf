"""When blocks use the kernels, and that they stay what they are without."""

import copy
import sys
import warnings
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mobilemamba import kernels
from mobilemamba.bimamba import BiMamba
from mobilemamba.fusion import fuse
from mobilemamba.wavelet_mamba import WaveletConv, WaveletMamba

OPERATORS = "mobilemamba::"


def block(directions: int = 2, states: int = 1, levels: int = 1) -> WaveletMamba:
    mixer = WaveletMamba(
        16, BiMamba(16, state_size=states, directions=directions), WaveletConv(16, kernel_size=3, levels=levels)
    )
    generator = torch.Generator().manual_seed(0)
    for name, value in mixer.state_dict().items():
        if value.is_floating_point():
            value.normal_(0, 0.5, generator=generator)
        if name.endswith("running_var"):
            value.abs_().add_(0.1)
    return mixer.eval()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 16, 5, 7, generator=torch.Generator().manual_seed(1))


class Recorder(TorchDispatchMode):
    """Keeps the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))


def operators(network: nn.Module, x: Tensor) -> set[str]:
    """Return the operators of this project that run."""
    with Recorder() as recorder:
        network(x)
    return {name for name in recorder.names if name.startswith(OPERATORS)}


@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("states", [1, 2])
@pytest.mark.parametrize("levels", [1, 2])
def test_blocks_equal_those_of_plain_operators(directions: int, states: int, levels: int) -> None:
    mixer = block(directions, states, levels)
    double, x = copy.deepcopy(mixer).double(), images().requires_grad_()
    x_double = x.detach().double().requires_grad_()
    expected = double(x_double)
    y = mixer(x)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad.double(), x_double.grad, rtol=1e-4, atol=1e-4)
    for (name, parameter), other in zip(mixer.named_parameters(), double.parameters(), strict=True):
        scale = other.grad.abs().max().item()
        difference = (parameter.grad.double() - other.grad).abs().max().item()
        assert difference < 1e-4 * scale, name
    with torch.no_grad():
        torch.testing.assert_close(fuse(mixer)(x).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_blocks_use_them_on_cpus_in_single_precision(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mixer = fuse(block()) if fused else block()
    used = operators(mixer, images())
    assert len(used) == 4
    with kernels.switched_off():
        assert not operators(mixer, images())
    assert operators(mixer, images()) == used
    assert not operators(copy.deepcopy(mixer).double(), images().double())
    monkeypatch.setattr(kernels, "NUMBA_IS_INSTALLED", False)
    assert not operators(mixer, images())


def test_a_numba_that_does_not_load_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer = block()
    monkeypatch.setitem(sys.modules, "mobilemamba.kernels.compilation", None)  # importing it is an ImportError
    kernels._load_or_warn.cache_clear()
    try:
        with pytest.warns(UserWarning, match="plain operators") as warned:
            values = [mixer(images()) for _ in range(2)]
    finally:
        kernels._load_or_warn.cache_clear()
    assert len(warned) == 1
    with kernels.switched_off():
        assert torch.equal(values[0], mixer(images()))


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch.func itself
def test_forward_mode_derivatives_are_those_of_plain_operators() -> None:
    mixer, x = fuse(block()), images()
    tangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def derivative() -> Tensor:
        return torch.func.jvp(mixer, (x,), (tangent,))[1]

    actual = derivative()
    with kernels.switched_off():
        torch.testing.assert_close(actual, derivative())
    assert actual.any()


def test_what_was_put_in_place_of_a_module_is_used() -> None:
    mixer, x = block(), images()
    mixer.mamba.act = nn.ReLU()
    mixer.wavelet.scales[0] = nn.Sequential(mixer.wavelet.scales[0])
    assert not operators(mixer, x)


@pytest.mark.parametrize("name", ["mamba.conv", "mamba.act", "mamba.out_norm", "wavelet.synthesis", "wavelet.convs.0"])
def test_hooks_are_called(name: str) -> None:
    mixer, x, seen = block(), images(), []
    handle = mixer.get_submodule(name).register_forward_hook(lambda *arguments: seen.append(name))
    used = operators(mixer, x)
    assert seen
    handle.remove()
    assert used < operators(mixer, x)  # the other branch keeps its kernels


def test_pruned_convolutions_train() -> None:
    mixer, x = block().train(), images()
    nn.utils.prune.l1_unstructured(mixer.mamba.conv, "weight", amount=0.5)
    for _ in range(2):
        mixer(x).sum().backward()
    assert mixer.mamba.conv.weight_orig.grad.any()


def test_transforms_of_functions_have_plain_operators() -> None:
    mixer, x = block().double(), images().double()

    def loss(mixer: WaveletMamba, x: Tensor) -> Tensor:
        return mixer(x).square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(mixer, leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss, argnums=1)(mixer, x), expected)
    single = torch.func.grad(loss, argnums=1)(mixer.float(), x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-3)


def test_second_derivatives_are_had_without_them() -> None:
    mixer, x = block(), images().requires_grad_()
    with kernels.switched_off():
        (first,) = torch.autograd.grad(mixer.wavelet(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.any()


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_an_empty_batch_is_taken(fused: bool) -> None:
    mixer = fuse(block()) if fused else block()
    assert mixer(images(0)).shape == (0, 16, 5, 7)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace")
@torch.no_grad()
def test_traced_graphs_do_not_hold_them() -> None:
    mixer, x = fuse(block()), images()
    traced = torch.jit.trace(mixer, x)
    assert OPERATORS not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), mixer(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_exported_and_compiled_graphs_do_not_hold_them() -> None:
    mixer, x = fuse(block()), images()
    program = torch.export.export(mixer, (x,))
    assert OPERATORS not in str(program.graph)
    torch.testing.assert_close(program.module()(x), mixer(x), rtol=1e-4, atol=1e-5)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(mixer, backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(x), mixer(x), rtol=1e-4, atol=1e-5)
    assert OPERATORS not in str(graphs[0].graph)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_networks_of_low_precision_compute_in_float32_inside(dtype: torch.dtype) -> None:
    mixer, x = block().to(dtype), images().to(dtype)
    expected = copy.deepcopy(mixer).double()(x.double())
    for network in (mixer, fuse(mixer)):
        y = network(x)
        assert y.dtype == dtype
        tolerance = 8 * torch.finfo(dtype).eps * expected.abs().max().item()
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)


def test_training_under_autocast_stays_close() -> None:
    mixer, x = block(), images()
    plain = copy.deepcopy(mixer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mixer(x)
    y.float().square().sum().backward()
    plain(x).square().sum().backward()
    for (name, parameter), other in zip(mixer.named_parameters(), plain.parameters(), strict=True):
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - other.grad).norm() < 0.05 * other.grad.norm(), name


@torch.no_grad()
def test_no_warning_is_given_where_all_is_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block()(images())
