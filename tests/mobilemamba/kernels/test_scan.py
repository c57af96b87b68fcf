"""The kernel of the scan beside the sequential form, behind the projection that it holds."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mobilemamba.bimamba import scan_inputs
from mobilemamba.kernels.scan import projected_scan
from mobilemamba.scan import sequential_scan

from .oracle import assert_equal_in_float64, assert_same_between_threads, values


def scan_arguments(
    images: int = 2,
    channels: int = 5,
    size: tuple[int, int] = (3, 4),
    directions: int = 2,
    states: int = 1,
    rank: int = 2,
) -> list[Tensor]:
    return values(
        (images, *size, channels),
        (images, *size, directions * (rank + 2 * states)),
        (directions, channels, rank),
        (directions, channels),
        (directions * channels, states),
        (directions * channels,),
    )


def reference(
    u: Tensor, projected: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> Tensor:
    # The projection as given, in place of that of u: a 1x1 convolution by the identity.
    projected, u = projected.permute(0, 3, 1, 2), u.permute(0, 3, 1, 2)
    identity = torch.eye(projected.shape[1], dtype=u.dtype)[..., None, None]
    inputs = scan_inputs(projected, identity, dt_proj_weight, dt_proj_bias, A_log, D)
    return sequential_scan(u, *inputs).permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 4), (7, 7)])
@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("states", [1, 3])
def test_equals_the_sequential_scan(size: tuple[int, int], directions: int, states: int) -> None:
    arguments = scan_arguments(size=size, directions=directions, states=states)
    assert_equal_in_float64(projected_scan, reference, arguments)


@pytest.mark.parametrize("channels", [1, 16, 100, 129, 300])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_tasks_cover_every_channel_of_every_image(
    channels: int, images: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilemamba.kernels.threads.SMALLEST_SHARE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert_equal_in_float64(projected_scan, reference, scan_arguments(images, channels))


def test_results_do_not_vary_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_between_threads(projected_scan, scan_arguments(5, 300, (4, 4)), monkeypatch)


@pytest.mark.parametrize("bias", [-200.0, -40.0, -1.0, 0.0, 1e-3, 1.0, 40.0, 200.0])
def test_extreme_step_sizes(bias: float) -> None:
    arguments = scan_arguments()
    arguments[2].zero_()  # a sum with something else would be rounded
    arguments[3].fill_(bias)
    assert_equal_in_float64(projected_scan, reference, arguments)


def test_any_memory_layout_is_taken() -> None:
    arguments = scan_arguments()
    strided = [x.repeat_interleave(2, dim=-1)[..., ::2] for x in arguments]
    assert torch.equal(projected_scan(*strided), projected_scan(*arguments))


@pytest.mark.parametrize("argument", [0, 1])
def test_nan_is_not_hidden(argument: int) -> None:
    arguments = scan_arguments()
    arguments[argument][0, 0, 0] = torch.nan
    assert projected_scan(*arguments)[0, 0, 0].isnan().all()


def test_an_empty_batch_has_empty_results() -> None:
    assert_equal_in_float64(projected_scan, reference, scan_arguments(images=0))


def test_operations_are_counted_as_in_the_paper() -> None:
    arguments = [x.requires_grad_() for x in scan_arguments(2, 5, (3, 4), 2, 3, 2)]
    with FlopCounterMode(display=False) as counter:
        projected_scan(*arguments).sum().backward()
    scan = 9 * 2 * 12 * 2 * 5 * 3  # images, pixels, directions, channels, states
    projection = 2 * 2 * 12 * 2 * 5 * 2  # two for a multiply-accumulate; rank
    assert counter.get_total_flops() == 4 * (scan + projection)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operator_is_registered_properly() -> None:
    torch.library.opcheck(projected_scan, [x.requires_grad_() for x in scan_arguments()])
