"""The parallel forms against the sequential one: outputs and the gradient of every argument."""

import pytest
import torch
from torch import Tensor

from mobilemamba.scan import matrix_scan, parallel_scan, rows_scan, selective_scan, sequential_scan
from mobilemamba.scan.rows import row_scan

FORMS = {"parallel": parallel_scan, "matrix": matrix_scan, "rows": rows_scan}
SIZES = [(1, 1), (1, 5), (5, 1), (2, 2), (3, 4), (7, 7), (6, 9)]


def scan_arguments(
    size: tuple[int, int], directions: int = 2, state_size: int = 1, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(size) + directions + state_size)
    batch, inner = 2, 3
    shapes = [
        (batch, inner, *size),
        (batch, directions, inner, *size),
        (directions, inner, state_size),
        (batch, directions, state_size, *size),
        (batch, directions, state_size, *size),
        (directions, inner),
    ]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("state_size", [1, 3])
def test_equals_the_sequential_scan(form: str, size: tuple[int, int], directions: int, state_size: int) -> None:
    arguments = [a.requires_grad_() for a in scan_arguments(size, directions, state_size)]
    expected, actual = sequential_scan(*arguments), FORMS[form](*arguments)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected_gradients = torch.autograd.grad((expected * weight).sum(), arguments)
    gradients = torch.autograd.grad((actual * weight).sum(), arguments)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


def test_sequential_scan_equals_the_formula_by_hand() -> None:
    u = torch.tensor([[[[2.0, 3.0]]]], dtype=torch.float64)
    dt = torch.zeros(1, 2, 1, 1, 2, dtype=torch.float64)  # steps of log 2, decay of 1 / 2
    ones = torch.ones(1, 2, 1, 1, 2, dtype=torch.float64)
    y = sequential_scan(u, dt, ones[0, :, :1, 0, :1] * 0, ones, ones, torch.ones(2, 1, dtype=torch.float64))
    step = torch.log(torch.tensor(2.0, dtype=torch.float64))
    forward = torch.stack([step * 2, step * 2 / 2 + step * 3])
    backward = torch.stack([step * 3 / 2 + step * 2, step * 3])
    torch.testing.assert_close(y.flatten(), forward + backward + 2 * u.flatten())


@pytest.mark.parametrize("form", ["parallel", "rows"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_is_float32_for_half_inputs_and_under_autocast(form: str, dtype: torch.dtype) -> None:
    half = scan_arguments((5, 6), dtype=dtype)
    expected = sequential_scan(*(a.double() for a in half))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = FORMS[form](*half)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("logit", [-60.0, 60.0])
def test_extreme_step_sizes_stay_finite_on_long_sequences(form: str, logit: float) -> None:
    u, dt, A_log, B, C, D = scan_arguments((32, 32), dtype=torch.float32)
    dt = torch.full_like(dt, logit).requires_grad_()
    y = FORMS[form](u, dt, A_log, B, C, D)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert dt.grad is not None
    assert torch.isfinite(dt.grad).all()


@pytest.mark.parametrize("form", FORMS)
def test_arguments_of_any_memory_layout_give_the_same(form: str) -> None:
    arguments = scan_arguments((4, 6))
    strided = [arguments[0].to(memory_format=torch.channels_last), *(a.mT.contiguous().mT for a in arguments[1:5])]
    torch.testing.assert_close(FORMS[form](*strided, arguments[5]), FORMS[form](*arguments))


@pytest.mark.parametrize("form", FORMS)
def test_compiles_without_graph_break(form: str) -> None:
    arguments = [a.requires_grad_() for a in scan_arguments((4, 5))]
    compiled = torch.compile(FORMS[form], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), FORMS[form](*arguments))


def test_every_backend_name_gives_the_same() -> None:
    arguments = scan_arguments((3, 4))
    expected = sequential_scan(*arguments)
    for backend in ("auto", "matrix", "parallel", "rows", "sequential"):
        torch.testing.assert_close(selective_scan(*arguments, backend=backend), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reverse", [False, True])
def test_row_scan_equals_the_recurrence(size: tuple[int, int], reverse: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    decay, drive = torch.rand(2, 2, *size, 3, generator=generator, dtype=torch.float64)
    expected, state = torch.empty_like(drive), torch.zeros(2, 3, dtype=torch.float64)
    pixels = [(row, column) for row in range(size[0]) for column in range(size[1])]
    for row, column in reversed(pixels) if reverse else pixels:
        state = decay[:, row, column] * state + drive[:, row, column]
        expected[:, row, column] = state
    torch.testing.assert_close(row_scan(decay, drive, reverse), expected, rtol=0, atol=1e-12)
