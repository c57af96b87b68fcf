"""The forms of the scan against the sequential one: outputs and the gradient of every argument."""

import pytest
import torch
from torch import Tensor

from mobilemamba.dispatch import selective_scan
from mobilemamba.errors import UserError
from mobilemamba.scan.parallel import parallel_scan
from mobilemamba.scan.projected import split
from mobilemamba.scan.reference import sequential_scan
from mobilemamba.scan.rows import projected_rows_scan, rows_scan, scan_map

FORMS = {"parallel": parallel_scan, "rows": rows_scan}
SIZES = [(1, 1), (1, 5), (5, 1), (3, 4), (6, 9)]
DIRECTIONS_AND_STATES = [(1, 1), (2, 3), (4, 2)]


def scan_arguments(
    size: tuple[int, int],
    directions: int = 2,
    state_size: int = 1,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    channels: int = 3,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(size) + directions + state_size)
    shapes = [
        (batch, channels, *size),
        (batch, directions, channels, *size),
        (directions, channels, state_size),
        (batch, directions, state_size, *size),
        (batch, directions, state_size, *size),
        (directions, channels),
    ]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def assert_same_values_and_gradients(actual: Tensor, expected: Tensor, arguments: list[Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients, others = (torch.autograd.grad((y * weight).sum(), arguments) for y in (actual, expected))
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("directions", "state_size"), DIRECTIONS_AND_STATES)
def test_equals_the_sequential_scan(form: str, size: tuple[int, int], directions: int, state_size: int) -> None:
    arguments = [a.requires_grad_() for a in scan_arguments(size, directions, state_size)]
    assert_same_values_and_gradients(FORMS[form](*arguments), sequential_scan(*arguments), arguments)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("directions", "state_size"), DIRECTIONS_AND_STATES)
def test_rows_with_their_projection_equal_the_sequential_scan(
    size: tuple[int, int], directions: int, state_size: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    channels, rank = 3, 2
    shapes = (
        (2, channels, *size),
        (2, directions * (rank + 2 * state_size), *size),
        (directions, channels, rank),
        (directions, channels),
        (directions * channels, state_size),
        (directions * channels,),
    )
    arguments = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    expected = sequential_scan(arguments[0], *split(*arguments[1:]))
    assert_same_values_and_gradients(projected_rows_scan(*arguments), expected, arguments)


def test_sequential_scan_equals_the_formula_by_hand() -> None:
    u = torch.tensor([[[[2.0, 3.0]]]], dtype=torch.float64)
    dt = torch.zeros(1, 2, 1, 1, 2, dtype=torch.float64)  # delta of log 2, A_bar of 1 / 2
    ones = torch.ones(1, 2, 1, 1, 2, dtype=torch.float64)
    y = sequential_scan(u, dt, ones[0, :, :1, 0, :1] * 0, ones, ones, torch.ones(2, 1, dtype=torch.float64))
    delta = torch.log(torch.tensor(2.0, dtype=torch.float64))
    forward = torch.stack([delta * 2, delta * 2 / 2 + delta * 3])
    backward = torch.stack([delta * 3 / 2 + delta * 2, delta * 3])
    torch.testing.assert_close(y.flatten(), forward + backward + 2 * u.flatten())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("half", [(0, 1, 2, 3, 4, 5), (0, 1, 3, 4), (2, 5)], ids=["all", "maps", "parameters"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_is_float32_for_half_inputs_and_under_autocast(
    form: str, half: tuple[int, ...], dtype: torch.dtype
) -> None:
    arguments = [a.to(dtype) if i in half else a.float() for i, a in enumerate(scan_arguments((5, 6)))]
    expected = sequential_scan(*(a.double() for a in arguments))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = FORMS[form](*arguments)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dt", [-60.0, 60.0])
def test_extreme_step_sizes_stay_finite_on_long_sequences(form: str, dt: float) -> None:
    arguments = scan_arguments((32, 32), dtype=torch.float32)
    arguments[1] = torch.full_like(arguments[1], dt).requires_grad_()
    y = FORMS[form](*arguments)
    (gradient,) = torch.autograd.grad(y.sum(), arguments[1])
    assert y.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_batch_has_an_empty_result(form: str) -> None:
    arguments = [a.requires_grad_() for a in scan_arguments((3, 4), batch=0)]
    y = FORMS[form](*arguments)
    assert y.shape == (0, 3, 3, 4)
    assert not torch.autograd.grad(y.sum(), arguments[2])[0].any()


@pytest.mark.parametrize("form", FORMS)
def test_arguments_of_any_memory_layout_give_the_same(form: str) -> None:
    arguments = scan_arguments((4, 6))
    strided = [arguments[0].to(memory_format=torch.channels_last), *(a.mT.contiguous().mT for a in arguments[1:5])]
    torch.testing.assert_close(FORMS[form](*strided, arguments[5]), FORMS[form](*arguments))


def test_the_parallel_form_compiles_without_graph_break() -> None:
    torch.compiler.reset()  # tests before may have used up what a process recompiles
    arguments = [a.requires_grad_() for a in scan_arguments((4, 5))]
    compiled = torch.compile(parallel_scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), parallel_scan(*arguments))


def test_every_form_is_called_by_its_name_and_another_is_refused() -> None:
    arguments = scan_arguments((3, 4))
    for form in ("auto", "parallel", "rows"):
        y = selective_scan(*arguments, form=form)  # type: ignore[arg-type]
        torch.testing.assert_close(y, sequential_scan(*arguments), rtol=0, atol=1e-10)
    with pytest.raises(UserError, match=r"Scan form 'cuda' must be one of parallel, rows, .*auto"):
        selective_scan(*arguments, form="cuda")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch.func itself
@pytest.mark.parametrize("direction", [0, 1, 3])
def test_scans_of_maps_have_derivatives_of_every_kind(direction: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [x.requires_grad_() for x in torch.rand(2, 1, 3, 2, 2, generator=generator, dtype=torch.float64)]

    def scan(A_bar: Tensor, delta_B_u: Tensor) -> Tensor:
        return scan_map(A_bar, delta_B_u, direction)

    assert torch.autograd.gradcheck(scan, maps, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(scan, maps, check_fwd_over_rev=True)
