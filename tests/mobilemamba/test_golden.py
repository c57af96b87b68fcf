"""The network against outputs of the authors' release, and its sizes against the paper's table."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import mobilemamba
from mobilemamba import dispatch
from mobilemamba.dispatch import plain_operators
from mobilemamba.published import convert_published
from tests.mobilemamba.published_weights import (
    golden_input,
    golden_outputs,
    published_direction,
    published_shapes,
    published_state,
)

TRAINABLE = {
    "t2": (8_806_682, 30_208),
    "t4": (14_137_690, 38_400),
    "s6": (14_996_696, 39_936),
    "b1": (17_070_625, 52_224),
}


@pytest.mark.parametrize("variant", TRAINABLE)
def test_parameter_counts_are_those_of_the_paper(variant: str) -> None:
    model = timm.create_model(f"mobilemamba_{variant}")
    haar = sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith("filters"))
    assert (sum(p.numel() for p in model.parameters()), haar) == TRAINABLE[variant]


@pytest.mark.parametrize("way", [nullcontext, plain_operators])
@pytest.mark.parametrize(("variant", "size"), [("t2", (2, 192, 192)), ("s6", (2, 224, 224)), ("s6", (1, 208, 240))])
def test_outputs_equal_the_release(
    variant: str, size: tuple[int, int, int], way: type[AbstractContextManager[None]]
) -> None:
    golden = golden_outputs(variant)
    prefix = "x".join(map(str, size))
    model = timm.create_model(f"mobilemamba_{variant}").eval()
    mobilemamba.load_published_weights(model, published_state(variant))
    images = golden_input(*size)
    with torch.no_grad(), way():
        maps = [model.stem(images), *model.forward_intermediates(images, intermediates_only=True)]
        logits = model(images)
    torch.testing.assert_close(logits, torch.from_numpy(golden[f"{prefix}/logits"]), rtol=0, atol=1e-5)
    for name, feature_map in zip(("stem", "stage1", "stage2", "stage3"), maps, strict=True):
        expected = torch.from_numpy(golden[f"{prefix}/{name}"])
        deviation, mean = torch.std_mean(feature_map, dim=(2, 3), correction=0)
        # Relative to the size of the map: the float64 network differs from these float32 vectors by as much as the
        # float32 network does (up to 1.2e-5 where values reach 1.5), so the rest is the vectors' own rounding.
        error = (torch.stack([mean, deviation], -1) - expected).abs().max() / expected.abs().max().clamp(min=1)
        assert error < 1e-5, name


def trained(dtype: torch.dtype, device: str = "cpu") -> tuple[float, Tensor, Tensor, Tensor]:
    """Return loss, logits, directional derivatives of the loss and products of running statistics of one step."""
    golden = golden_outputs("train_t2")
    batch, height, width = (int(size) for size in golden["shape"])
    rng = np.random.default_rng([9, 0])
    images = torch.from_numpy(rng.standard_normal((batch, 3, height, width))).to(dtype)
    targets = torch.from_numpy(rng.integers(0, 1000, batch))
    model = timm.create_model("mobilemamba_t2")
    mobilemamba.load_published_weights(model, published_state("t2"))
    model = model.to(device, dtype).train()
    logits = model(images.to(device))
    loss = F.cross_entropy(logits, targets.to(device))
    loss.backward()
    gradients = {name: parameter.grad.double().cpu() for name, parameter in model.named_parameters()}
    slopes, running = torch.zeros(32, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    own = model.state_dict()
    shapes = {key: shape for key, shape in published_shapes("t2").items() if not key.endswith("t_filter")}
    for direction in range(32):
        drawn = {key: torch.from_numpy(published_direction(key, shape, direction)) for key, shape in shapes.items()}
        for name, value in convert_published(drawn, model).items():
            if name in gradients:
                slopes[direction] += (value * gradients[name]).sum()
            elif direction < 8 and name.endswith(("running_mean", "running_var")):
                running[direction] += (value * own[name].double().cpu()).sum()
    return loss.item(), logits.detach().double().cpu(), slopes, running


def test_a_training_step_equals_that_of_the_release() -> None:
    check_training_step(trained(torch.float64), tolerance=1e-5)


@pytest.mark.parametrize(
    "form", ["kernels", "rows", "parallel", "sequential", pytest.param("triton", marks=pytest.mark.gpu)]
)
def test_every_form_trains_as_the_release_in_float32(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if form != "kernels":
        monkeypatch.setattr(dispatch, "scan_form", lambda u: form)
    with nullcontext() if form == "kernels" else plain_operators():
        check_training_step(trained(torch.float32, "cuda" if form == "triton" else "cpu"), tolerance=1e-4)


def check_training_step(step: tuple[float, Tensor, Tensor, Tensor], tolerance: float) -> None:
    golden = golden_outputs("train_t2")
    loss, *others = step
    assert loss == pytest.approx(float(golden["loss"]), rel=tolerance)
    for name, value in zip(("logits", "slopes", "running"), others, strict=True):
        expected = torch.from_numpy(golden[name])
        assert (value - expected).abs().max() / expected.abs().max() < tolerance, name
