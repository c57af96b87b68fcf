"""Inputs at the edge of what a network takes, and beyond: the right answer, or an error that says what to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilemamba import MobileMamba, MobileMambaConfig, fuse
from mobilemamba.scan import selective_scan
from tests.mobilemamba.conftest import randomise
from tests.mobilemamba.no_float64 import without_float64

CONFIGS = {
    "default": MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), num_classes=5),
    "K = 4, N = 2": MobileMambaConfig(
        widths=(16, 32, 32), depths=(1, 1, 1), num_classes=5, scan_directions=4, state_size=2, wavelet_levels=2
    ),
}
BACKENDS = ("matrix", "parallel", "rows", "sequential", "auto")


@pytest.fixture(scope="module", params=[(config, form) for config in CONFIGS for form in ("unfused", "fused")], ids=str)
def network(request: pytest.FixtureRequest) -> MobileMamba:
    config, form = request.param
    torch.manual_seed(0)
    network = randomise(MobileMamba(CONFIGS[config])).eval()
    assert isinstance(network, MobileMamba)
    return fuse(network) if form == "fused" else network


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda images: images.to(memory_format=torch.channels_last),
    "transposed": lambda images: images.mT.contiguous().mT,
    "every second pixel": lambda images: images.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, ::2, ::2],
    "part of a larger batch": lambda images: torch.cat([images[:1], images])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(layout: str, network: MobileMamba) -> None:
    images = torch.randn(2, 3, 64, 97)
    laid_out = LAYOUTS[layout](images)
    torch.testing.assert_close(laid_out, images)
    torch.testing.assert_close(network(laid_out), network(images), rtol=1e-4, atol=1e-5)


def test_expanded_images_give_one_answer(network: MobileMamba) -> None:
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(network(image.expand(3, -1, -1, -1)), network(image).expand(3, -1), rtol=1e-4, atol=1e-5)


def test_an_empty_batch_has_no_logits(network: MobileMamba) -> None:
    assert network(torch.empty(0, 3, 64, 96)).shape == (0, 5)


def test_the_last_map_may_be_one_pixel(network: MobileMamba) -> None:
    images = torch.randn(2, 3, 64, 64)
    assert network.forward_features(images).shape[2:] == (1, 1)
    assert network(images).isfinite().all()
    torch.testing.assert_close(network(images)[1:], network(images[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 64, 63), "Image size 64x63 is too small: .* at least 64x64 pixels"),
        (torch.zeros(0, 3, 63, 64), "Image size 63x64 is too small"),
        (torch.zeros(3, 64, 64), r"Input of shape \(3, 64, 64\) does not fit: expected \(B, 3, H, W\)"),
        (torch.zeros(64), r"Input of shape \(64,\) does not fit"),
        (torch.zeros(1, 4, 64, 64), r"Input of shape \(1, 4, 64, 64\) does not fit: .* set MobileMambaConfig.in_chans"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"Input in torch.uint8 .* normalise the images and convert"),
        (
            torch.zeros(1, 3, 64, 64).double(),
            r"Input in torch.float64 does not fit weights in torch.float32: ",
        ),
        (torch.zeros(1, 3, 64, 64).bfloat16(), r"convert them by \.to\(torch\.float32\)"),
    ],
    ids=lambda value: f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else "",
)
def test_images_that_do_not_fit_are_refused(images: Tensor, message: str, network: MobileMamba) -> None:
    for call in (network, network.forward_intermediates):
        with pytest.raises(ValueError, match=message):
            call(images)


def test_autocast_takes_any_floating_point(network: MobileMamba) -> None:
    images = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert network(images.to(dtype)).dtype == torch.bfloat16
        with pytest.raises(ValueError, match=r"torch\.uint8"):
            network(images.byte())


@pytest.mark.parametrize("autocast", [False, True])
def test_the_check_breaks_no_graph(autocast: bool) -> None:
    network = MobileMamba(CONFIGS["default"])

    @torch.compile(backend="eager", fullgraph=True)
    def checked(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network._check_input(images)
        return images + 1

    assert checked(torch.zeros(1, 3, 64, 64)).sum() > 0


@pytest.mark.parametrize("config", CONFIGS)
def test_float32_needs_no_float64(config: str) -> None:
    network: nn.Module = MobileMamba(CONFIGS[config])
    images = torch.randn(2, 3, 64, 96)
    with without_float64(), torch.enable_grad():
        network.train()(images).sum().backward()
        network.zero_grad()
        fused = fuse(network.eval())
        fused(images)
    with without_float64(), pytest.raises(TypeError, match="float64"):
        fused.double()


def scan_arguments(
    batch: int, height: int, width: int, directions: int = 2, state_size: int = 1
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    k, n, d, size = directions, state_size, 4, (height, width)
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, d, *size), (batch, k, d, *size), (k, d, n), (batch, k, n, *size), (batch, k, n, *size), (k, d))
    first, *rest = (torch.randn(shape, generator=generator) for shape in shapes)
    return (first, *rest)  # type: ignore[return-value]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("state_size", [1, 3])
@pytest.mark.parametrize("size", [(2, 1, 1), (0, 3, 5), (0, 1, 1), (2, 1, 5), (2, 5, 1)], ids=str)
def test_scans_of_few_pixels_and_no_images(backend: str, state_size: int, size: tuple[int, int, int]) -> None:
    arguments = scan_arguments(*size, directions=4, state_size=state_size)
    with torch.enable_grad():
        leaves = [argument.requires_grad_() for argument in arguments]
        scanned = selective_scan(*arguments, backend=backend)  # type: ignore[arg-type]
        gradients = torch.autograd.grad(scanned.sum(), leaves)
    torch.testing.assert_close(scanned, selective_scan(*arguments, backend="sequential"), rtol=1e-4, atol=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != "sequential"])
@pytest.mark.parametrize("mixed", [(0,), (1,), (2, 5), (3, 4), (0, 1, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scans_of_mixed_dtypes_are_computed_in_float32(
    backend: str, mixed: tuple[int, ...], dtype: torch.dtype
) -> None:
    arguments = [
        argument.to(dtype) if index in mixed else argument for index, argument in enumerate(scan_arguments(2, 3, 5))
    ]
    scanned = selective_scan(*arguments, backend=backend)  # type: ignore[arg-type]
    assert scanned.dtype == torch.float32
    expected = selective_scan(*(argument.float() for argument in arguments), backend="sequential")
    torch.testing.assert_close(scanned, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scans_of_bfloat16_are_in_float32_but_for_the_sequential_one(backend: str) -> None:
    arguments = [argument.bfloat16() for argument in scan_arguments(2, 3, 5)]
    scanned = selective_scan(*arguments, backend=backend)  # type: ignore[arg-type]
    assert scanned.dtype == (torch.bfloat16 if backend == "sequential" else torch.float32)


def test_an_unknown_scan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Scan backend 'cuda' is unknown: use one of auto, matrix, .*triton"):
        selective_scan(*scan_arguments(1, 2, 2), backend="cuda")  # type: ignore[arg-type]
