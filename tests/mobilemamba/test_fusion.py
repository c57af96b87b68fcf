from collections.abc import Callable

import pytest
import torch
from torch import nn

from mobilemamba import MobileMamba, MobileMambaConfig, fuse
from mobilemamba.errors import UserError
from mobilemamba.mrffi import MRFFI
from tests.mobilemamba.conftest import FOUR_STAGES

CONFIGS = {
    "published layout": MobileMambaConfig(widths=(32, 40, 48), num_classes=5),
    "kernel groups": MobileMambaConfig(widths=(32, 48, 64), num_classes=5, local_kernels=((3, 5, 7), (3, 5), (3,))),
    "no wavelet": MobileMambaConfig(widths=(32, 40, 48), num_classes=5, wavelet_levels=0),
    "no scan": MobileMambaConfig(widths=(32, 40, 48), num_classes=5, scan=False, wavelet_levels=2),
    "no local": MobileMambaConfig(widths=(32, 40, 48), num_classes=5, local_shares=(0, 0, 0)),
    "no global": MobileMambaConfig(widths=(32, 40, 48), num_classes=5, global_shares=(0, 0, 0)),
    "four directions, two states": MobileMambaConfig(
        widths=(32, 40, 48), num_classes=5, scan_directions=4, state_size=2
    ),
    "four stages, half of them convolutional": MobileMambaConfig(**FOUR_STAGES, num_classes=5),
    "no classifier": MobileMambaConfig(widths=(32, 40, 48), num_classes=0),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_fused_network_is_equal_with_randomised_statistics(
    name: str, randomised: Callable[[MobileMambaConfig], MobileMamba]
) -> None:
    network = randomised(CONFIGS[name])
    images = torch.randn(2, 3, 96, 80, dtype=torch.float64)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(fuse(network)(images), expected, rtol=0, atol=1e-12)
        assert expected.std() > 1e-3  # the outputs depend on the input: the comparison means something


def test_fused_network_has_no_norm_scale_or_depthwise_residual(
    tiny_config: MobileMambaConfig, randomised: Callable[[MobileMambaConfig], MobileMamba]
) -> None:
    fused = fuse(randomised(tiny_config))
    kinds = {type(module).__name__ for module in fused.modules()}
    assert not kinds & {"BatchNorm2d", "BatchNorm1d", "ConvNorm", "NormLinear", "ChannelScale"}
    assert isinstance(fused.stages[0].blocks[0].conv_in, nn.Conv2d)
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_the_source_is_untouched_and_fusing_twice_changes_nothing(
    tiny_config: MobileMambaConfig, randomised: Callable[[MobileMambaConfig], MobileMamba]
) -> None:
    network = randomised(tiny_config)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = fuse(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert torch.equal(fuse(fused)(images), fused(images))


def test_a_network_in_training_mode_is_refused(tiny_config: MobileMambaConfig) -> None:
    with pytest.raises(UserError, match=r"must be in eval mode.*eval\(\)"):
        fuse(MobileMamba(tiny_config))


def test_a_norm_that_nothing_folds_is_refused_by_name(tiny_config: MobileMambaConfig) -> None:
    network = MobileMamba(tiny_config)
    network.stages[1].downsample.append(nn.BatchNorm2d(40))
    with pytest.raises(UserError, match=r"stages\.1\.downsample\.5"):
        fuse(network.eval())


def test_dtype_is_kept(tiny_config: MobileMambaConfig) -> None:
    fused = fuse(MobileMamba(tiny_config).bfloat16().eval())
    assert {parameter.dtype for parameter in fused.parameters()} == {torch.bfloat16}


def test_the_local_part_carries_the_identity_part(
    tiny_config: MobileMambaConfig, randomised: Callable[[MobileMambaConfig], MobileMamba]
) -> None:
    network = randomised(tiny_config)
    stage = next(stage for stage in range(3) if tiny_config.channel_split(stage).identity_channels)
    split, mixer = tiny_config.channel_split(stage), fuse(network).stages[stage].blocks[0].mixer.branch
    assert mixer.split == (split.global_channels, split.local_channels + split.identity_channels, 0)
    x = torch.randn(1, mixer.split.local_channels, 5, 6, dtype=torch.float64)
    identity = mixer.local_mixer(x)[:, split.local_channels :].relu()
    assert torch.equal(identity, x[:, split.local_channels :].relu())


def test_a_mixer_of_one_part_splits_nothing() -> None:
    config = MobileMambaConfig(widths=(32, 40, 48), num_classes=5, global_shares=(1, 1, 1), local_shares=(0, 0, 0))
    mixer = MRFFI(config, 0).eval()
    program = torch.export.export(mixer, (torch.randn(1, 32, 4, 4),))
    splits = [node.args[1] for node in program.graph.nodes if "split" in str(node.target)]
    assert all(len(sizes) > 1 for sizes in splits if isinstance(sizes, list))
    assert [32] not in splits
