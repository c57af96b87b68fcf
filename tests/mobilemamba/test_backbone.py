"""The whole network: sizes, layouts and inputs at the edge of what it takes and beyond."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilemamba import MobileMamba, MobileMambaConfig, fuse
from mobilemamba.dispatch import plain_operators
from mobilemamba.errors import UserError
from tests.mobilemamba.conftest import randomise
from tests.mobilemamba.no_float64 import without_float64

CONFIG = MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), num_classes=5)


@pytest.fixture(scope="module", params=["unfused", "fused"])
def network(request: pytest.FixtureRequest) -> MobileMamba:
    torch.manual_seed(0)
    network = randomise(MobileMamba(CONFIG)).eval()
    assert isinstance(network, MobileMamba)
    return fuse(network) if request.param == "fused" else network


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda images: images.to(memory_format=torch.channels_last),
    "every second pixel": lambda images: images.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, ::2, ::2],
    "part of a larger batch": lambda images: torch.cat([images[:1], images])[1:],
    "expanded": lambda images: images[:1].expand(2, -1, -1, -1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", [nullcontext, plain_operators])
def test_memory_layout_does_not_matter(
    layout: str, way: type[AbstractContextManager[None]], network: MobileMamba
) -> None:
    laid_out = LAYOUTS[layout](torch.randn(2, 3, 64, 97))
    with way():
        torch.testing.assert_close(network(laid_out), network(laid_out.contiguous()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_maps_lie_channels_last_but_those_of_the_stem_in_training(training: bool) -> None:
    network, images = MobileMamba(CONFIG).train(training), torch.randn(2, 3, 64, 96)
    maps = network.forward_intermediates(images, list(range(len(network.feature_info))), intermediates_only=True)
    layouts = [feature_map.is_contiguous(memory_format=torch.channels_last) for feature_map in maps]
    assert layouts == [not training] * 3 + [True] * 3


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (127, 81)])
def test_any_size_from_64_pixels_works(size: tuple[int, int], network: MobileMamba) -> None:
    images = torch.randn(2, 3, *size)
    logits = network(images)
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[1:], network(images[1:]), rtol=1e-4, atol=1e-5)


def test_an_empty_batch_has_no_logits(network: MobileMamba) -> None:
    assert network(torch.empty(0, 3, 64, 96)).shape == (0, 5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 64, 63), "Image size = 64x63 must be at least 64x64 pixels"),
        (torch.zeros(3, 64, 64), r"Input shape = \(3, 64, 64\) must be \(B, 3, H, W\)"),
        (torch.zeros(1, 4, 64, 64), r"Input shape = \(1, 4, 64, 64\) must be .* set MobileMambaConfig.in_chans"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "Input dtype = torch.uint8 must be .* normalise the images"),
        (
            torch.zeros(1, 3, 64, 64).double(),
            r"Input dtype = torch.float64 .* convert them with \.to\(torch\.float32\)",
        ),
    ],
    ids=lambda value: f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else "",
)
def test_images_that_do_not_fit_are_refused(images: Tensor, message: str, network: MobileMamba) -> None:
    for call in (network, network.forward_intermediates):
        with pytest.raises(UserError, match=message):
            call(images)


def test_autocast_takes_any_floating_point(network: MobileMamba) -> None:
    images = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert network(images.to(dtype)).dtype == torch.bfloat16
        with pytest.raises(UserError, match=r"torch\.uint8"):
            network(images.byte())


def test_the_check_breaks_no_graph() -> None:
    network = MobileMamba(CONFIG)

    @torch.compile(backend="eager", fullgraph=True)
    def checked(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            network._check_input(images)
        return images + 1

    assert checked(torch.zeros(1, 3, 64, 64)).sum() > 0


def test_float32_needs_no_float64() -> None:
    network: nn.Module = MobileMamba(CONFIG)
    images = torch.randn(2, 3, 64, 96)
    with without_float64(), torch.enable_grad():
        network.train()(images).sum().backward()
        network.zero_grad()
        fused = fuse(network.eval())
        fused(images)
    with without_float64(), pytest.raises(TypeError, match="float64"):
        fused.double()


def test_a_network_built_on_the_meta_device_is_complete_once_weights_are_loaded() -> None:
    source = randomise(MobileMamba(CONFIG)).eval()
    with torch.device("meta"):
        network = MobileMamba(CONFIG)
    network.to_empty(device="cpu")
    for module in network.modules():
        for filters in module.buffers(recurse=False):
            if filters.is_floating_point():
                filters.fill_(torch.nan)
    network.load_state_dict(source.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with plain_operators():  # these read the fixed filters
        assert torch.equal(network.eval()(images), source(images))


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch.func itself
def test_per_sample_gradients_are_those_of_each_image_alone() -> None:
    network, images = randomise(MobileMamba(CONFIG)).eval(), torch.randn(2, 3, 64, 64)
    weights = {name: p.detach() for name, p in network.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(network, weights, (image[None],)).square().sum()

    with torch.enable_grad():
        together = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, images)
        for index, image in enumerate(images):
            network.zero_grad()
            network(image[None]).square().sum().backward()
            for name, parameter in network.named_parameters():
                tolerance = 1e-4 * parameter.grad.abs().max().item() + 1e-6
                torch.testing.assert_close(together[name][index], parameter.grad, rtol=0, atol=tolerance)
