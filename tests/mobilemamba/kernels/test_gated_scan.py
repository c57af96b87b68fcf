"""The inside of a BiMamba as one function: against its modules in float64, and what it keeps."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mobilemamba import dispatch
from mobilemamba.bimamba import BiMamba
from mobilemamba.dispatch import recomputing_kernels

kernels = pytest.importorskip("mobilemamba.kernels", reason="Numba is not installed", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch.func itself


def mamba(directions: int = 2, states: int = 1) -> BiMamba:
    torch.manual_seed(0)
    module = BiMamba(12, directions=directions, state_size=states)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.train()


def image(count: int = 3, size: tuple[int, int] = (5, 7)) -> Tensor:
    return torch.randn(count, 12, *size, generator=torch.Generator().manual_seed(1))


def trained(module: BiMamba, x: Tensor) -> list[Tensor]:
    x = x.requires_grad_()
    y = module(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    (y * weight).sum().backward()
    return [y, x.grad, *(parameter.grad for parameter in module.parameters())]


@pytest.mark.parametrize(("directions", "states"), [(1, 1), (2, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize(("count", "size"), [(3, (5, 7)), (2, (1, 3)), (35, (2, 1))])
def test_result_and_all_gradients_equal_those_of_modules_in_float64(
    directions: int, states: int, count: int, size: tuple[int, int]
) -> None:
    module, x = mamba(directions, states), image(count, size)
    expected = trained(copy.deepcopy(module).double(), x.double())  # in float64 modules are called
    for actual, value in zip(trained(module, x.clone()), expected, strict=True):
        torch.testing.assert_close(actual.double(), value, rtol=0, atol=1e-5 * value.abs().max().item())


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whether the kernel was used, for each call of a BiMamba."""
    results: list[object] = []

    def recorded(*arguments: object) -> object:
        results.append(recomputing_kernels(*arguments))
        return results[-1]

    monkeypatch.setattr(dispatch, "recomputing_kernels", recorded)
    return results


def kept_bytes(module: BiMamba, x: Tensor) -> int:
    own = {parameter.data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x).sum().backward()
    return sum(kept.values())


def test_what_is_between_input_and_gate_is_not_kept(uses: list[object]) -> None:
    module, x = mamba(), image()
    less = kept_bytes(module, x)
    module.conv.register_forward_hook(lambda *_: None)
    more = kept_bytes(module, x)
    assert uses == [kernels, None]
    inner, low_rank = 24, 2 * (1 + 2)
    assert more - less == 4 * 3 * 5 * 7 * (2 * inner + low_rank)  # convolved, scanned, projected, in float32


class Other(nn.Conv2d):
    """Whatever replaces a projection."""


CHANGES: dict[str, Callable[[BiMamba], object]] = {
    "forward hook": lambda module: module.out_norm.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda module: module.x_proj.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda module: module.conv.register_full_backward_hook(lambda *_: None),
    "another class": lambda module: setattr(module, "x_proj", Other(24, 6, 1, bias=False)),
    "parametrised": lambda module: nn.utils.parametrizations.weight_norm(module.conv),
}


@pytest.mark.parametrize("change", CHANGES)
def test_modules_that_do_more_are_called(change: str, uses: list[object]) -> None:
    module = mamba()
    CHANGES[change](module)
    module(image()).sum().backward()
    assert uses == [None]


def test_modules_are_called_where_nothing_is_kept_or_something_is_cast(uses: list[object]) -> None:
    with torch.no_grad():
        mamba()(image())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mamba()(image())
    mamba().bfloat16()(image().bfloat16())
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        mamba()(image())
    assert uses == [None] * 4


def test_derivatives_of_every_kind_are_those_of_modules() -> None:
    module, x = mamba().eval(), image(2, (3, 4))

    def second(module: BiMamba, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad((module(x) ** 3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    def forward_mode(module: BiMamba, x: Tensor) -> Tensor:
        return torch.func.jvp(module, (x,), (x.flip(0),))[1]

    def per_sample(module: BiMamba, x: Tensor) -> Tensor:
        return torch.vmap(torch.func.grad(lambda x: module(x[None]).square().sum()))(x)

    double = copy.deepcopy(module).double()
    for derivative in (second, forward_mode, per_sample):
        expected = derivative(double, x.double())
        tolerance = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(derivative(module, x).double(), expected, rtol=0, atol=tolerance)


def test_gradients_are_the_same_under_autocast_of_the_backward_pass(uses: list[object]) -> None:
    module, x = mamba(), image()
    gradients = []
    for enabled in (False, True):
        y = module(x.requires_grad_())
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients.append(torch.autograd.grad(y.sum(), [x, *module.parameters()]))
    assert uses[0] is not None
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("change", ["bias of x_proj", "groups of x_proj", "no bias of conv", "forward of an instance"])
def test_changed_modules_give_the_same_with_and_without_gradients(change: str) -> None:
    module, x = mamba(), image()
    match change:
        case "bias of x_proj":
            module.x_proj = nn.Conv2d(module.x_proj.in_channels, module.x_proj.out_channels, 1)
        case "groups of x_proj":
            channels, outputs = module.x_proj.in_channels, module.x_proj.out_channels
            module.x_proj = nn.Conv2d(channels, outputs, 1, groups=2, bias=False)
        case "no bias of conv":
            module.conv.bias = None
        case _:
            forward = module.conv.forward
            module.conv.forward = lambda u: 2 * forward(u)  # type: ignore[method-assign]
    with torch.no_grad():
        expected = module(x)
    torch.testing.assert_close(module(x), expected)
