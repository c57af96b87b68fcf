"""The kernels for CPUs against the sequential form in float64: outputs and the gradient of every argument."""

import copy
import sys

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mobilemamba import scan
from mobilemamba.bimamba import BiMamba
from mobilemamba.fusion import fuse
from mobilemamba.scan import fastest_backend, rows_scan, selective_scan, sequential_scan
from mobilemamba.scan import numba as numba_form
from mobilemamba.scan.numba import numba_scan, scan_rows


def scan_arguments(
    images: int = 2, channels: int = 5, size: tuple[int, int] = (3, 4), directions: int = 2, states: int = 1
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (images, channels, *size),
        (images, directions, channels, *size),
        (directions, channels, states),
        (images, directions, states, *size),
        (images, directions, states, *size),
        (directions, channels),
    ]
    u, logits, *others = (torch.randn(shape, generator=generator) for shape in shapes)
    return [u, 3 * logits, *others]


def gradients(form: object, arguments: list[Tensor]) -> tuple[Tensor, ...]:
    arguments = [x.detach().requires_grad_() for x in arguments]
    y = form(*arguments)  # type: ignore[operator]
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y.detach(), *torch.autograd.grad((y * weight).sum(), arguments)


def assert_equals_the_sequential_scan(arguments: list[Tensor]) -> None:
    expected = gradients(sequential_scan, [x.double() for x in arguments])
    for value, reference in zip(gradients(numba_scan, arguments), expected, strict=True):
        # float32 has no numbers below 1e-38 to be right in.
        tolerance = 2e-6 * reference.abs().max().item() + 1e-36
        torch.testing.assert_close(value.double(), reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 4), (7, 7)])
@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("states", [1, 3])
def test_equals_the_sequential_scan(size: tuple[int, int], directions: int, states: int) -> None:
    assert_equals_the_sequential_scan(scan_arguments(size=size, directions=directions, states=states))


@pytest.mark.parametrize("channels", [1, 16, 100, 129, 300])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_tasks_cover_every_channel_of_every_image(
    channels: int, images: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba_form, "SMALLEST_SHARE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert_equals_the_sequential_scan(scan_arguments(images, channels))


def test_results_do_not_vary_between_runs() -> None:
    arguments = scan_arguments(3, 300, (8, 8))
    for first, second in zip(gradients(numba_scan, arguments), gradients(numba_scan, arguments), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("logit", [-200.0, -40.0, -1.0, 0.0, 1e-3, 1.0, 40.0, 200.0])
def test_extreme_step_sizes(logit: float) -> None:
    u, logits, *others = scan_arguments()
    assert_equals_the_sequential_scan([u, torch.full_like(logits, logit), *others])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_is_float32_for_half_inputs(dtype: torch.dtype) -> None:
    half = [x.to(dtype) for x in scan_arguments()]
    y = numba_scan(*half)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), sequential_scan(*(x.double() for x in half)), rtol=0, atol=1e-4)
    assert [g.dtype for g in gradients(numba_scan, half)[1:]] == [dtype] * 6


def test_any_memory_layout_is_taken() -> None:
    arguments = scan_arguments()
    strided = [x.repeat_interleave(2, dim=-1)[..., ::2] for x in arguments]
    torch.testing.assert_close(numba_scan(*strided), numba_scan(*arguments), rtol=0, atol=0)


@pytest.mark.parametrize("argument", [0, 1, 3])
def test_nan_is_not_hidden(argument: int) -> None:
    arguments = scan_arguments()
    arguments[argument][0, ..., 0, 0] = torch.nan
    assert numba_scan(*arguments)[0, ..., 0, 0].isnan().all()


def test_an_empty_batch_has_empty_results() -> None:
    values = gradients(numba_scan, scan_arguments(images=0))
    assert values[0].shape == (0, 5, 3, 4)
    assert all(not gradient.any() for gradient in values[1:])


def test_operations_are_counted_as_in_the_paper() -> None:
    arguments = [x.requires_grad_() for x in scan_arguments(2, 5, (3, 4), 2, 3)]
    with FlopCounterMode(display=False) as counter:
        numba_scan(*arguments).sum().backward()
    forward = 9 * 2 * 12 * 2 * 5 * 3  # images, pixels, directions, channels, states
    assert counter.get_total_flops() == forward + 3 * forward


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operator_is_registered_properly() -> None:
    u, logits, A_log, B, C, D_skip = scan_arguments()
    arguments = (u.flatten(2).mT.contiguous(), logits.flatten(3).permute(1, 0, 3, 2).contiguous(), A_log)
    arguments += (B.flatten(3), C.flatten(3), D_skip)
    torch.library.opcheck(scan_rows, [x.requires_grad_() for x in arguments])


def test_auto_takes_it_on_cpus_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = scan_arguments()
    assert fastest_backend(arguments[0]) == "numba"
    assert torch.equal(selective_scan(*arguments), numba_scan(*arguments))
    assert torch.equal(selective_scan(*arguments, backend="numba"), numba_scan(*arguments))
    monkeypatch.setattr(scan, "NUMBA_IS_INSTALLED", False)
    assert fastest_backend(arguments[0]) == "rows"
    assert torch.equal(selective_scan(*arguments), rows_scan(*arguments))
    with pytest.raises(ModuleNotFoundError, match="pip install numba"):
        selective_scan(*arguments, backend="numba")


def test_a_numba_that_does_not_load_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = scan_arguments()
    monkeypatch.setitem(sys.modules, "mobilemamba.scan.numba", None)
    scan._numba_loads_or_warns.cache_clear()
    try:
        with pytest.warns(UserWarning, match="plain operators") as warned:
            values = [selective_scan(*arguments) for _ in range(2)]
    finally:
        scan._numba_loads_or_warns.cache_clear()
    assert len(warned) == 1
    assert torch.equal(values[0], rows_scan(*arguments))


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch.func itself
def test_forward_mode_derivatives_are_those_of_the_rows_form(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = scan_arguments()
    tangent = torch.randn(arguments[0].shape, generator=torch.Generator().manual_seed(1))

    def derivative() -> Tensor:
        return torch.func.jvp(lambda u: selective_scan(u, *arguments[1:]), (arguments[0],), (tangent,))[1]

    actual = derivative()
    monkeypatch.setattr(scan, "NUMBA_IS_INSTALLED", False)
    torch.testing.assert_close(actual, derivative())
    assert actual.any()


@torch.no_grad()
def test_fused_block_takes_an_empty_batch() -> None:
    assert fuse(torch.nn.Sequential(BiMamba(16)).eval())(torch.empty(0, 16, 4, 4)).shape == (0, 16, 4, 4)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace")
@torch.no_grad()
def test_traced_graphs_do_not_hold_it() -> None:
    mamba, x = fuse(torch.nn.Sequential(BiMamba(16)).eval()), torch.randn(1, 16, 4, 4)
    traced = torch.jit.trace(mamba, x)
    assert "mobilemamba::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), mamba(x), rtol=1e-5, atol=1e-6)


def test_what_it_cannot_do_is_said() -> None:
    arguments = scan_arguments()
    with pytest.raises(ValueError, match="float64"):
        numba_scan(*(x.double() for x in arguments))
    with pytest.raises(ValueError, match="meta"):
        numba_scan(*(x.to("meta") for x in arguments))


@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("states", [1, 2])
@torch.no_grad()
def test_fused_block_is_equal(directions: int, states: int) -> None:
    mamba = BiMamba(16, state_size=states, directions=directions).eval()
    for parameter in mamba.parameters():
        parameter.normal_(0, 0.5)
    x = torch.randn(3, 16, 5, 7)
    expected = copy.deepcopy(mamba).double()(x.double())
    fused = fuse(torch.nn.Sequential(copy.deepcopy(mamba)).eval())
    torch.testing.assert_close(fused(x).double(), expected, rtol=1e-4, atol=1e-4)
