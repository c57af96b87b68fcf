"""The variants as any other timm model."""

import pytest
import timm
import torch

import mobilemamba
from tests.mobilemamba.conftest import randomise

CONTAINERS = (torch.nn.ModuleList, torch.nn.ParameterList)
TINY = {"widths": (32, 40, 48), "num_classes": 10}


def test_reset_classifier_and_pre_logits() -> None:
    model = timm.create_model("mobilemamba_s6", **TINY).eval()
    images = torch.randn(2, 3, 64, 64)
    model.reset_classifier(4)
    assert model(images).shape == (2, 4)
    assert model.get_classifier().out_features == 4
    assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (2, 48)
    model.reset_classifier(0)
    assert model(images).shape == (2, 48)


def test_intermediates_and_pruning() -> None:
    model = timm.create_model("mobilemamba_s6", **TINY).eval()
    images = torch.randn(1, 3, 64, 64)
    last, maps = model.forward_intermediates(images, indices=[3, 5])
    assert torch.equal(last, maps[-1])
    assert [m.shape[1] for m in maps] == [32, 48]
    assert model.prune_intermediate_layers([1, 4]) == [1, 4]
    assert model(images).shape == (1, 40, 2, 2)
    assert [m.shape[1] for m in model.forward_intermediates(images, [1, 4], intermediates_only=True)] == [8, 40]
    assert model.prune_intermediate_layers([1]) == [1]
    assert model.forward_intermediates(images, 1, stop_early=True)[0].shape == (1, 8, 16, 16)
    with pytest.raises(ValueError, match="NLC"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_layer_groups_cover_every_parameter_in_order() -> None:
    from timm.models import group_parameters

    model = timm.create_model("mobilemamba_s6", **TINY)
    groups = group_parameters(model, model.group_matcher())
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert len(groups) == 1 + 5 + 1  # stem, blocks (a downsample belongs to the block behind it), head


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilemamba_s6", **TINY).double()
    torch.nn.init.uniform_(model.stages[1].blocks[0].mixer.branch.proj.norm.weight)
    images = torch.randn(4, 3, 128, 128, dtype=torch.float64)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_pretrained_cfg_describes_the_data() -> None:
    model = timm.create_model("mobilemamba_b4")
    assert model.pretrained_cfg["input_size"] == (3, 512, 512)
    assert model.pretrained_cfg["classifier"] == "head.linear"
    assert timm.data.resolve_model_data_config(model)["crop_pct"] == 0.875


def test_channels_classes_and_drop_path_are_free() -> None:
    model = timm.create_model("mobilemamba_b1", in_chans=1, num_classes=3, drop_path_rate=0.2).eval()
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 3)
    assert model.config.drop_path_rate == 0.2


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="mobilemamba_s6 has no option window_size"):
        timm.create_model("mobilemamba_s6", window_size=7)


def test_every_parameter_gets_a_gradient() -> None:
    """In eval mode: in front of a norm in training mode a bias has no effect."""
    model = timm.create_model("mobilemamba_s6", **TINY).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    model(torch.randn(2, 3, 128, 128)).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_no_name_is_exempt_from_weight_decay() -> None:
    assert timm.create_model("mobilemamba_s6", **TINY).no_weight_decay() == set()


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", "fast", "fastcatavgmax"])
def test_every_pooling_of_timm_is_taken(pool: str) -> None:
    features = 96 if "cat" in pool else 48
    images = torch.randn(2, 3, 64, 64)
    for model in (
        timm.create_model("mobilemamba_s6", **TINY, global_pool=pool).eval(),
        timm.create_model("mobilemamba_s6", **TINY).eval(),
    ):
        model.reset_classifier(4, pool)
        assert model(images).shape == (2, 4)
        assert model.head_hidden_size == features
        assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (2, features)
        assert mobilemamba.fuse(model)(images).shape == (2, 4)


def test_a_pooling_that_does_not_fit_is_refused_at_creation() -> None:
    with pytest.raises(mobilemamba.UserError, match=r"global_pool = 'median' must be one of .*'catavgmax'"):
        timm.create_model("mobilemamba_s6", global_pool="median")
    with pytest.raises(mobilemamba.UserError, match="global_pool = '' must be a pooling, since num_classes = 10"):
        timm.create_model("mobilemamba_s6", **TINY).reset_classifier(10, "")
    assert timm.create_model("mobilemamba_s6", num_classes=0, global_pool="").eval()(
        torch.randn(1, 3, 64, 64)
    ).shape == (1, 448, 1, 1)


def test_timm_fuses_the_network_by_its_own_function() -> None:
    model = timm.create_model("mobilemamba_s6", **TINY).double()
    model = randomise(model).eval()
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    fused = timm.utils.reparameterize_model(model)
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    torch.testing.assert_close(fused(images), model(images), rtol=0, atol=1e-12)


def test_global_hooks_see_every_module() -> None:
    model, seen = timm.create_model("mobilemamba_s6", **TINY).eval(), set()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(module))
    try:
        model(torch.randn(1, 3, 64, 64))
    finally:
        handle.remove()
    assert {m for m in model.modules() if not isinstance(m, CONTAINERS)} == seen
