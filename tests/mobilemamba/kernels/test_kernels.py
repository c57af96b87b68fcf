"""Kernels against plain operators in float64: results and the gradient of every argument."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mobilemamba import dispatch
from mobilemamba.scan.projected import split
from mobilemamba.scan.reference import sequential_scan
from mobilemamba.wavelet import haar_filters

kernels = pytest.importorskip("mobilemamba.kernels", reason="Numba is not installed", exc_type=ImportError)

TOLERANCE = 2e-6
"""Largest difference, relative to the largest value: some units in the last place of float32."""
EPS = 1e-5


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return kernels.gated_norm(y, z, weight, bias, EPS)


def plain_gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return dispatch.gated_norm(y, z, weight, bias, EPS)  # in float64 no kernel is used


def plain_scan(u: Tensor, *others: Tensor) -> Tensor:
    return sequential_scan(u, *split(*others))


def plain_haar_conv(x: Tensor, weight: Tensor) -> Tensor:
    filters = haar_filters().repeat(x.shape[1], 1, 1, 1)
    return dispatch.haar_conv(x, [weight], filters, filters)


KERNELS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "depthwise_silu": (kernels.depthwise_silu, dispatch.depthwise_silu),
    "gated_norm": (gated_norm, plain_gated_norm),
    "haar_conv": (kernels.haar_conv, plain_haar_conv),
    "projected_scan": (kernels.projected_scan, plain_scan),
}


def arguments(
    name: str,
    images: int = 2,
    channels: int = 37,
    size: tuple[int, int] = (5, 7),
    kernel_size: int = 3,
    directions: int = 2,
    states: int = 1,
) -> list[Tensor]:
    images_and_size, rank = (images, channels, *size), 2
    shapes: dict[str, list[Sequence[int]]] = {
        "depthwise_silu": [images_and_size, (channels, 1, kernel_size, kernel_size), (channels,)],
        "gated_norm": [images_and_size, images_and_size, (channels,), (channels,)],
        "haar_conv": [images_and_size, (4 * channels, 1, kernel_size, kernel_size)],
        "projected_scan": [
            images_and_size,
            (images, directions * (rank + 2 * states), *size),
            (directions, channels, rank),
            (directions, channels),
            (directions * channels, states),
            (directions * channels,),
        ],
    }
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tuple(shape), generator=generator) for shape in shapes[name]]


def with_gradients(form: Callable[..., Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in values]
    y = form(*leaves)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), leaves)]


def assert_equal_in_float64(name: str, values: Sequence[Tensor]) -> None:
    kernel, plain = KERNELS[name]
    expected = with_gradients(plain, [x.double() for x in values])
    for actual, value in zip(with_gradients(kernel, values), expected, strict=True):
        assert actual.dtype == torch.float32
        # Exponentials end at 1e-38, the smallest that float32 has in full.
        tolerance = TOLERANCE * value.abs().max().item() + 1e-36 if value.numel() else 0.0
        torch.testing.assert_close(actual.double(), value, rtol=0, atol=tolerance)


CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"size": size}) for name in KERNELS for size in [(1, 1), (1, 6), (5, 1), (5, 7)]),
    *((name, {"images": images, "channels": 5, "size": (2, 3)}) for name in KERNELS for images in (0, 1, 35)),
    *((name, {"size": (7, 4), "kernel_size": k}) for name in ("depthwise_silu", "haar_conv") for k in (1, 5, 7)),
    *(("projected_scan", {"size": (3, 4), "directions": k, "states": n}) for k, n in ((1, 1), (1, 3), (4, 1), (4, 3))),
]


@pytest.mark.parametrize(("name", "changes"), CASES, ids=str)
def test_equals_plain_operators(name: str, changes: dict[str, Any]) -> None:
    assert_equal_in_float64(name, arguments(name, **changes))


@pytest.mark.parametrize("channels", [1, 129, 300])
@pytest.mark.parametrize("threads", [1, 3])
def test_tasks_cover_every_channel_of_every_image(channels: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilemamba.kernels.threads.SMALLEST_SHARE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert_equal_in_float64("projected_scan", arguments("projected_scan", 1, channels, (3, 4)))


@pytest.mark.parametrize("name", KERNELS)
def test_results_do_not_vary_with_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilemamba.kernels.threads.SMALLEST_SHARE", 1)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(with_gradients(KERNELS[name][0], arguments(name, 5, 64, (4, 4))))
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0], strict=True))


@pytest.mark.parametrize("name", KERNELS)
def test_any_memory_layout_is_taken(name: str) -> None:
    values = arguments(name)
    strided = [x.repeat_interleave(2, dim=-1)[..., ::2] for x in values]
    torch.testing.assert_close(KERNELS[name][0](*strided), KERNELS[name][0](*values))


@pytest.mark.parametrize("dt", [-200.0, -40.0, 0.0, 1e-3, 40.0, 200.0])
def test_extreme_step_sizes(dt: float) -> None:
    values = arguments("projected_scan", 2, 5, (3, 4))
    values[2].zero_()  # a sum with something else would be rounded
    values[3].fill_(dt)
    assert_equal_in_float64("projected_scan", values)


@pytest.mark.parametrize(("name", "argument"), [("depthwise_silu", 2), ("gated_norm", 1)])
@pytest.mark.parametrize("shift", [-70.0, -20.0, 20.0, 70.0])
def test_extreme_gates(name: str, argument: int, shift: float) -> None:
    values = [(8 * x).round() / 8 for x in arguments(name)]  # sums of products are exact
    values[argument] += shift
    assert_equal_in_float64(name, values)


def test_a_mean_far_from_zero_leaves_the_deviation() -> None:
    y, *others = arguments("gated_norm")
    y = (16 * y).round() / 16  # no rounding when 64 is added
    torch.testing.assert_close(gated_norm(y + 64, *others), gated_norm(y, *others), rtol=0, atol=1e-4)


@pytest.mark.parametrize("argument", [0, 1])
def test_nan_is_not_hidden(argument: int) -> None:
    values = arguments("projected_scan")
    values[argument][0, :, 0, 0] = torch.nan
    assert kernels.projected_scan(*values)[0, :, 0, 0].isnan().all()


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch.func itself
@pytest.mark.parametrize("name", KERNELS)
def test_derivatives_of_every_kind_are_those_of_plain_operators(name: str) -> None:
    kernel, plain = KERNELS[name]
    x, *others = arguments(name, 2, 5, (3, 4))
    tangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def second(form: Callable[..., Tensor], x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        values = [other.to(x.dtype) for other in others]
        (first,) = torch.autograd.grad((form(x, *values) ** 3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    def forward_mode(form: Callable[..., Tensor], x: Tensor) -> Tensor:
        values = [other.to(x.dtype) for other in others]
        return torch.func.jvp(lambda x: form(x, *values), (x,), (tangent.to(x.dtype),))[1]

    def per_sample(form: Callable[..., Tensor], x: Tensor) -> Tensor:
        values = [other.to(x.dtype)[:1] if other.shape[0] == len(x) == 2 else other.to(x.dtype) for other in others]
        return torch.vmap(torch.func.grad(lambda x: form(x[None], *values).square().sum()))(x)

    for derivative in (second, forward_mode, per_sample) if name != "projected_scan" else (second, forward_mode):
        expected = derivative(plain, x.double())
        tolerance = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(derivative(kernel, x).double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", KERNELS)
def test_in_inference_mode_nothing_is_prepared_for_derivatives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, values = KERNELS[name][0], arguments(name)
    expected = kernel(*values)
    monkeypatch.setattr("mobilemamba.derivatives._Function", None)
    with torch.inference_mode():
        assert torch.equal(kernel(*values), expected)


@pytest.mark.parametrize("name", KERNELS)
def test_in_inference_mode_the_dispatcher_is_asked_where_something_watches(name: str) -> None:
    kernel, values = KERNELS[name][0], arguments(name)
    with torch.inference_mode():
        with FakeTensorMode() as fakes:
            assert isinstance(kernel(*(fakes.from_tensor(x) for x in values)), FakeTensor)
        assert isinstance(kernel(*(fakes.from_tensor(x) for x in values)), FakeTensor)
        with FlopCounterMode(display=False) as counter:
            kernel(*values)
    assert (counter.get_total_flops() > 0) == (name != "gated_norm")


@pytest.mark.parametrize("name", KERNELS)
def test_in_inference_mode_vmap_is_that_of_plain_operators(name: str) -> None:
    x, *others = arguments(name)
    with torch.inference_mode():
        y = torch.vmap(lambda scale: KERNELS[name][0](scale * x, *others))(torch.tensor([1.0, -2.0]))
        for scale, result in zip((1, -2), y, strict=True):
            torch.testing.assert_close(result, KERNELS[name][0](scale * x, *others), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["depthwise_silu", "haar_conv"])
def test_operations_are_counted_as_of_convolutions(name: str) -> None:
    counts = []
    for form, dtype in zip(KERNELS[name], (torch.float32, torch.float64), strict=True):
        with FlopCounterMode(display=False) as counter:
            form(*(x.to(dtype) for x in arguments(name, size=(6, 8))))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_operations_of_the_scan_are_counted_as_in_the_paper() -> None:
    values = [x.requires_grad_() for x in arguments("projected_scan", 2, 5, (3, 4), directions=2, states=3)]
    with FlopCounterMode(display=False) as counter:
        kernels.projected_scan(*values).sum().backward()
    scan = 9 * 2 * 12 * 2 * 5 * 3  # images, pixels, directions, channels, states
    projection = 2 * 2 * 12 * 2 * 5 * 2  # two for a multiply-accumulate; rank
    assert counter.get_total_flops() == 4 * (scan + projection)


@pytest.mark.parametrize("name", KERNELS)
def test_operators_are_registered_properly(name: str) -> None:
    values, constants = arguments(name), (EPS,) if name == "gated_norm" else ()
    for operator, inputs in ((f"{name}_cpu", values), (f"{name}_cpu_backward", [values[0], *values])):
        checked = getattr(torch.ops.mobilemamba, operator)
        torch.library.opcheck(checked, (*inputs, *constants), test_utils=("test_schema", "test_faketensor"))
