"""The variants as any other timm model."""

import pytest
import timm
import torch

import mobilemamba  # noqa: F401  (registers the variants)

TINY = {"widths": (32, 40, 48), "num_classes": 10}


def test_features_only_gives_the_stages() -> None:
    model = timm.create_model("mobilemamba_s6", widths=(32, 40, 48), features_only=True, out_indices=(0, 1, 2))
    maps = model(torch.randn(2, 3, 96, 64))
    assert [tuple(feature_map.shape) for feature_map in maps] == [(2, 32, 6, 4), (2, 40, 3, 2), (2, 48, 2, 1)]
    assert model.feature_info.channels() == [32, 40, 48]
    assert model.feature_info.reduction() == [16, 32, 64]


def test_features_only_accepts_num_classes() -> None:
    model = timm.create_model("mobilemamba_s6", num_classes=10, features_only=True, out_indices=(0, 1, 2))
    assert model.feature_info.channels() == [192, 384, 448]


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
    last, maps = model.forward_intermediates(images, indices=[0, 2])
    assert torch.equal(last, maps[-1])
    assert [m.shape[1] for m in maps] == [32, 48]
    assert model.prune_intermediate_layers([1]) == [1]
    assert model(images).shape == (1, 40, 2, 2)
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


def test_no_decay_rule_and_every_parameter_gets_a_gradient() -> None:
    model = timm.create_model("mobilemamba_s6", **TINY)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    model(torch.randn(4, 3, 128, 128)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias or scale directly in front of a norm in training mode has no effect there.
    assert not [name for name in without if not name.endswith("bias")], without
