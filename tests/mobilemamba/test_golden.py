"""The network against outputs of the authors' release, and its sizes against the paper's table."""

import pytest
import timm
import torch

import mobilemamba
from tests.mobilemamba.published_weights import golden_input, golden_outputs, published_state

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


@pytest.mark.parametrize(("variant", "size"), [("t2", (2, 192, 192)), ("s6", (2, 224, 224)), ("s6", (1, 208, 240))])
def test_outputs_equal_the_release(variant: str, size: tuple[int, int, int]) -> None:
    golden = golden_outputs(variant)
    prefix = "x".join(map(str, size))
    model = timm.create_model(f"mobilemamba_{variant}").eval()
    mobilemamba.load_published_weights(model, published_state(variant))
    images = golden_input(*size)
    with torch.no_grad():
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


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (96, 64), (127, 81)])
def test_any_size_from_64_pixels_works(size: tuple[int, int], tiny_config: mobilemamba.MobileMambaConfig) -> None:
    model = mobilemamba.MobileMamba(tiny_config).eval()
    assert model(torch.randn(1, 3, *size)).shape == (1, 7)


def test_a_smaller_image_is_refused_by_name(tiny_config: mobilemamba.MobileMambaConfig) -> None:
    with pytest.raises(ValueError, match=r"63x80 is too small.*at least 64x64"):
        mobilemamba.MobileMamba(tiny_config)(torch.randn(1, 3, 63, 80))


def test_other_channels_are_refused_by_name(tiny_config: mobilemamba.MobileMambaConfig) -> None:
    with pytest.raises(ValueError, match="in_chans"):
        mobilemamba.MobileMamba(tiny_config)(torch.randn(1, 1, 64, 64))
