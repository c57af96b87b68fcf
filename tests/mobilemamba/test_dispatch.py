"""Which form and which kernels run, and that networks stay what they are whatever runs."""

import builtins
import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mobilemamba import dispatch
from mobilemamba.bimamba import BiMamba
from mobilemamba.dispatch import plain_operators
from mobilemamba.fusion import fuse
from mobilemamba.wavelet_mamba import WaveletConv, WaveletMamba

OPERATORS = "mobilemamba::"
needs_kernels = pytest.mark.skipif(not dispatch._numba_runs(), reason="Numba is not installed")


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


def operators(network: nn.Module, x: Tensor) -> set[str]:
    """Return the operators of this project that run."""
    names: set[str] = set()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.add(function.name())
            return function(*args, **(kwargs or {}))

    with Recorder():
        network(x)
    return {name for name in names if name.startswith(OPERATORS)}


@pytest.mark.parametrize("way", [nullcontext, plain_operators])
@pytest.mark.parametrize(("directions", "states", "levels"), [(2, 1, 1), (1, 2, 1), (4, 2, 2)])
def test_blocks_equal_those_in_float64(
    way: type[AbstractContextManager[None]], directions: int, states: int, levels: int
) -> None:
    mixer = block(directions, states, levels)
    double, x = copy.deepcopy(mixer).double(), images().requires_grad_()
    x_double = x.detach().double().requires_grad_()
    expected = double(x_double)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * weight).sum().backward()
    with way():
        y = mixer(x)
        (y * weight).sum().backward()
        fused = fuse(mixer)(x)
    for value in (y, fused):
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.grad.double(), x_double.grad, rtol=1e-4, atol=1e-4)
    for (name, parameter), other in zip(mixer.named_parameters(), double.parameters(), strict=True):
        scale = other.grad.abs().max().item()
        assert (parameter.grad.double() - other.grad).abs().max().item() < 1e-4 * scale, name


@needs_kernels
@pytest.mark.parametrize("fused", [False, True])
def test_kernels_run_on_cpus_in_single_precision(fused: bool) -> None:
    mixer = fuse(block()) if fused else block()
    used = operators(mixer, images())
    assert len(used) == 4
    with plain_operators():
        assert not operators(mixer, images())
    assert operators(mixer, images()) == used
    assert not operators(copy.deepcopy(mixer).double(), images().double())


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    dispatch._numba_runs_or_warns.cache_clear()
    yield
    dispatch._numba_runs_or_warns.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
def test_without_numba_plain_operators_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert not operators(block(), images())


@pytest.mark.usefixtures("fresh_choice")
def test_a_numba_that_does_not_load_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        if name == "mobilemamba" and arguments[2] == ("kernels",):
            raise ImportError("Numba needs NumPy 2.0 or less")
        return original(name, *arguments)

    monkeypatch.setattr(dispatch, "find_spec", lambda name: object())
    monkeypatch.setattr(builtins, "__import__", refuse)
    mixer = block()
    with pytest.warns(UserWarning, match="Plain operators run") as warned:
        values = [mixer(images()) for _ in range(2)]
    assert len(warned) == 1
    with plain_operators():
        assert torch.equal(values[0], mixer(images()))


@pytest.mark.parametrize("way", [nullcontext, plain_operators])
def test_hooks_of_every_module_are_called(way: type[AbstractContextManager[None]]) -> None:
    mixer, seen = block(), []
    for name, module in mixer.named_modules():
        if not isinstance(module, nn.ParameterList):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    with way():
        mixer(images())
    names = [name for name, module in mixer.named_modules() if not isinstance(module, nn.ParameterList)]
    assert sorted(seen) == sorted(names)


def test_pruned_convolutions_train() -> None:
    mixer, x = block().train(), images()
    nn.utils.prune.l1_unstructured(mixer.mamba.conv, "weight", amount=0.5)
    for _ in range(2):
        mixer(x).sum().backward()
    assert mixer.mamba.conv.weight_orig.grad.any()


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_an_empty_batch_is_taken(fused: bool) -> None:
    mixer = fuse(block()) if fused else block()
    assert mixer(images(0)).shape == (0, 16, 5, 7)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace")
@pytest.mark.parametrize("fused", [False, True])
def test_traced_graphs_hold_plain_operators(fused: bool) -> None:
    mixer, x = fuse(block()) if fused else block(), images()
    traced = torch.jit.trace(mixer, x)  # with gradients on
    assert OPERATORS not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), mixer(x), rtol=1e-4, atol=1e-5)


def compiled_graphs(network: nn.Module) -> tuple[nn.Module, list[torch.fx.GraphModule]]:
    """Compile a network into one graph, and return the graphs it is given when it runs."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()  # tests before may have used up what a process recompiles
    return torch.compile(network, backend=keep, fullgraph=True), graphs  # type: ignore[return-value]


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_exported_and_compiled_graphs_of_plain_operators_hold_the_same_small_form(fused: bool) -> None:
    mixer, x = fuse(block()) if fused else block(), images()
    program = torch.export.export(mixer, (x,))
    compiled, graphs = compiled_graphs(mixer)
    with plain_operators():
        torch.testing.assert_close(compiled(x), mixer(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(program.module()(x), mixer(x), rtol=1e-4, atol=1e-5)
    for graph in (program.graph, graphs[0].graph):
        nodes = list(graph.nodes)
        assert OPERATORS not in str([node.target for node in nodes])
        # Doubling takes 3 + 3 steps for 7 columns and 5 rows; loops over them would take 12 of each kind.
        recurrences = [node for node in nodes if "addcmul" in str(node.target)]
        assert len(recurrences) == 2 * (3 + 3 + 1)


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_compiled_graphs_hold_the_kernels_unless_plain_operators_are_asked_for(fused: bool) -> None:
    mixer, x = fuse(block()) if fused else block(), images()
    compiled, graphs = compiled_graphs(mixer)
    torch.testing.assert_close(compiled(x), mixer(x))
    with plain_operators():
        compiled(x)
    compiled(x)
    held = [{str(node.target) for node in graph.graph.nodes if "_cpu" in str(node.target)} for graph in graphs]
    assert [len(names) for names in held] == [4, 0]
    compiled, graphs = compiled_graphs(copy.deepcopy(mixer).double())
    compiled(x.double())
    assert "_cpu" not in str(graphs[0].graph)


@pytest.mark.parametrize("way", [nullcontext, plain_operators])
def test_compiled_blocks_train_as_those_in_float64(way: type[AbstractContextManager[None]]) -> None:
    mixer, x = block().train(), images().requires_grad_()
    double, x_double = copy.deepcopy(mixer).double(), x.detach().double().requires_grad_()
    torch.compiler.reset()
    with way():
        torch.compile(mixer, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    double(x_double).square().sum().backward()
    for value, other in zip([x, *mixer.parameters()], [x_double, *double.parameters()], strict=True):
        assert (value.grad.double() - other.grad).abs().max().item() < 1e-4 * other.grad.abs().max().item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_networks_of_low_precision_compute_in_float32_inside(dtype: torch.dtype) -> None:
    mixer, x = block().to(dtype), images().to(dtype)
    expected = copy.deepcopy(mixer).double()(x.double())
    for way in (nullcontext, plain_operators):
        for network in (mixer, fuse(mixer)):
            with way():
                y = network(x)
            assert y.dtype == dtype
            tolerance = 8 * torch.finfo(dtype).eps * expected.abs().max().item()
            torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("way", [nullcontext, plain_operators])
def test_training_under_autocast_stays_close(way: type[AbstractContextManager[None]]) -> None:
    mixer, x = block().train(), images()
    plain = copy.deepcopy(mixer)
    with way(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = mixer(x)
    y.float().square().sum().backward()
    plain(x).square().sum().backward()
    for (name, parameter), other in zip(mixer.named_parameters(), plain.parameters(), strict=True):
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - other.grad).norm() < 0.05 * other.grad.norm(), name
