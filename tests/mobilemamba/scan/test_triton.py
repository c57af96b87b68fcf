"""The Triton kernels against the sequential scan in float64: outputs and the gradient of every argument.

On a CUDA device: ``pytest -m gpu``. Where TRITON_INTERPRET is 1, in Triton's interpreter on the CPU, which takes some
0.1 ms a value: sizes are small. As that acts on a whole process, test_triton_without_device.py starts one.
"""

import os

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton", reason="Triton is not installed")

from mobilemamba.bimamba import BiMamba
from mobilemamba.dispatch import selective_scan
from mobilemamba.scan import triton as form
from mobilemamba.scan.parallel import parallel_scan
from mobilemamba.scan.reference import sequential_scan
from mobilemamba.scan.triton import scan_sequences, scan_sequences_backward, triton_scan
from tests.mobilemamba.scan.test_scan import scan_arguments

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

FLOAT32_ERROR = 1e-5
"""Largest error of float32 results, relative to the largest value (or to 1)."""


def arguments_on_device(*args: object, **kwargs: object) -> list[Tensor]:
    return [a.to(DEVICE).requires_grad_() for a in scan_arguments(*args, **kwargs)]  # type: ignore[arg-type]


def check(arguments: list[Tensor], reference: object = sequential_scan) -> None:
    """Compare with float64 on the same values; half-precision gradients may also be off by a unit in the last place."""
    exact = [a.detach().double().cpu().requires_grad_() for a in arguments]
    actual, expected = triton_scan(*arguments), reference(*exact)  # type: ignore[operator]
    assert actual.dtype == torch.float32
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(actual, arguments, weight.to(DEVICE))
    expected_gradients = torch.autograd.grad(expected, exact, weight.double())
    assert [g.dtype for g in gradients] == [a.dtype for a in arguments]
    for a, e in zip([actual, *gradients], [expected, *expected_gradients], strict=True):
        rounding = 0.0 if a.dtype == torch.float32 else torch.finfo(a.dtype).eps
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a.double().cpu(), e, rtol=rounding, atol=FLOAT32_ERROR * scale)


@pytest.mark.parametrize(
    ("size", "directions", "state_size"),
    [((1, 1), 2, 1), ((1, 5), 1, 2), ((5, 1), 2, 1), ((3, 4), 2, 2), ((3, 4), 4, 1), ((5, 3), 4, 2), ((7, 7), 2, 1)],
)
def test_equals_the_sequential_scan(size: tuple[int, int], directions: int, state_size: int) -> None:
    check(arguments_on_device(size, directions, state_size, torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_arguments_are_scanned_in_float32(dtype: torch.dtype) -> None:
    check(arguments_on_device((3, 5), dtype=dtype))


def test_under_autocast_maps_are_half_precision_and_parameters_are_not() -> None:
    arguments = arguments_on_device((3, 4), dtype=torch.bfloat16)
    for index in (2, 5):
        arguments[index] = arguments[index].detach().float().requires_grad_()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        check(arguments)


@pytest.mark.parametrize(("directions", "state_size"), [(1, 1), (2, 2)])
def test_long_maps_are_scanned_chunk_by_chunk(
    monkeypatch: pytest.MonkeyPatch, directions: int, state_size: int
) -> None:
    monkeypatch.setattr(form, "CHUNK", 16)
    check(arguments_on_device((5, 7), directions, state_size, torch.float32))  # 16 + 16 + 3 pixels


def test_chunks_of_half_precision_are_added_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "CHUNK", 16)
    check(arguments_on_device((5, 4), dtype=torch.bfloat16))


def test_channels_take_several_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "TILE", 32)  # 2 channels of 16 pixels, of 3 channels
    check(arguments_on_device((3, 4), dtype=torch.float32))


def test_arguments_may_have_any_memory_layout() -> None:
    arguments = scan_arguments((3, 4), state_size=2, dtype=torch.float32)
    strided = [arguments[0].to(memory_format=torch.channels_last), *(a.mT.contiguous().mT for a in arguments[1:])]
    assert not any(a.is_contiguous() for a in strided)
    check([a.to(DEVICE).requires_grad_() for a in strided])


@pytest.mark.parametrize("directions", [2, 4])
def test_empty_batch_gives_empty_maps_and_gradients_of_zero(directions: int) -> None:
    arguments = arguments_on_device((3, 4), directions, dtype=torch.float32)
    check([a if i in (2, 5) else a.detach()[:0].requires_grad_() for i, a in enumerate(arguments)])


@pytest.mark.parametrize("logit", [-60.0, 60.0])
def test_extreme_step_sizes(logit: float) -> None:
    arguments = arguments_on_device((3, 5), dtype=torch.float32)
    arguments[1] = torch.full_like(arguments[1], logit).requires_grad_()
    check(arguments)


@pytest.mark.parametrize("logit", [-20.0, -10.0, -3.0, 0.0, 10.0])
def test_small_steps_keep_their_relative_precision(logit: float) -> None:
    u, dt, A_log, B, C, _ = scan_arguments((1, 2), 1, dtype=torch.float32)
    exact = [u.abs(), torch.full_like(dt, logit), A_log, B.abs(), C.abs(), torch.zeros(1, 3)]
    actual = triton_scan(*(a.to(DEVICE) for a in exact))
    torch.testing.assert_close(actual.double().cpu(), sequential_scan(*(a.double() for a in exact)), rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck reads it
@pytest.mark.parametrize("chunk", [8, 1024])
def test_operators_pass_the_checks_of_torch_library(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(form, "CHUNK", chunk)
    maps = arguments_on_device((3, 3), dtype=torch.float32)
    arguments = [a.detach() if i in (2, 5) else a.detach().flatten(-2) for i, a in enumerate(maps)]
    y, handed = scan_sequences(*arguments)
    torch.library.opcheck(
        scan_sequences_backward, (y, *arguments, handed), test_utils=("test_schema", "test_faketensor")
    )
    torch.library.opcheck(scan_sequences, [a.requires_grad_() for a in arguments])


def test_compiles_without_graph_break() -> None:
    def scan(*arguments: Tensor) -> Tensor:
        return selective_scan(*arguments, form="triton").relu()

    arguments = arguments_on_device((3, 4), 4, dtype=torch.float32)
    compiled = torch.compile(scan, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    gradients = torch.autograd.grad(compiled(*arguments).sum(), arguments)
    expected = torch.autograd.grad(scan(*arguments).sum(), arguments)
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_flops_are_counted() -> None:
    arguments = arguments_on_device((2, 3), dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        y = triton_scan(*arguments)
    forward = 9 * 2 * 6 * 2 * 3  # operations, images, pixels, directions, channels
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.skipif(DEVICE == "cpu", reason="sizes of real networks take the interpreter minutes")
@pytest.mark.parametrize("size", [(14, 14), (7, 7), (4, 4), (32, 32), (40, 41)])
@pytest.mark.parametrize(
    ("dtype", "directions", "state_size"),
    [
        (torch.bfloat16, 2, 1),
        (torch.float16, 2, 1),
        (torch.float32, 2, 1),
        (torch.float32, 1, 2),
        (torch.float32, 4, 16),
    ],
)
def test_sizes_of_networks(size: tuple[int, int], dtype: torch.dtype, directions: int, state_size: int) -> None:
    check(arguments_on_device(size, directions, state_size, dtype, batch=3, channels=70), parallel_scan)


@pytest.mark.skipif(DEVICE == "cpu", reason="on CPUs the module takes another form")
def test_module_compiles_whole_and_trains_under_autocast() -> None:
    torch.manual_seed(0)
    plain = BiMamba(32).to(DEVICE)
    compiled: nn.Module = torch.compile(plain, fullgraph=True)  # type: ignore[assignment]
    x = torch.randn(4, 32, 14, 14, device=DEVICE, requires_grad=True)
    results = []
    for module in (plain, compiled):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            y = module(x)
        results.append((y.float(), *torch.autograd.grad(y.float().square().sum(), [x, *plain.parameters()])))
    for expected, actual in zip(*results, strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(actual, expected, rtol=0, atol=0.05 * scale)  # bfloat16, fused otherwise
