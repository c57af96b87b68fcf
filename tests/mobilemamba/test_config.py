from typing import Any

import pytest

from mobilemamba import VARIANTS, MobileMamba, MobileMambaConfig
from tests.mobilemamba.conftest import FOUR_STAGES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem_stride": 3}, "stem_stride = 3"),
        ({"widths": (190, 384, 448)}, r"widths\[0\] = 190.*multiple of 8"),
        ({"widths": (192, 384)}, "depths = .*2 entries"),
        ({"depths": (1, 0, 2)}, r"depths\[1\] = 0"),
        ({"global_shares": (0.9, 0.7, 0.6)}, r"local_shares\[0\] = 0.2.*at most 0.1, what .*leaves"),
        ({"global_shares": (-0.1, 0.7, 0.6)}, r"global_shares\[0\]"),
        ({"local_kernels": ((7,), (4,), (3,))}, r"local_kernels\[1\] = \(4,\).*odd"),
        ({"local_kernels": ((), (5,), (3,))}, r"local_kernels\[0\]"),
        ({"wavelet_kernels": (7, 5, 2)}, r"wavelet_kernels\[2\] = 2.*odd"),
        ({"wavelet_levels": -1}, "wavelet_levels = -1"),
        (
            {"scan": False, "wavelet_levels": 0},
            "scan = False must be true, or wavelet_levels at least 1, or global_shares",
        ),
        ({"scan_directions": 3}, "scan_directions = 3"),
        ({"state_size": 0}, "state_size = 0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate = 1.0"),
        ({"num_classes": -1}, "num_classes = -1"),
        ({"in_chans": 0}, "in_chans = 0"),
        ({"global_pool": "median"}, "global_pool = 'median'"),
    ],
)
def test_a_contradiction_names_field_value_and_remedy(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MobileMambaConfig(**fields)


@pytest.mark.parametrize(
    ("variant", "splits"),
    [
        ("mobilemamba_t2", [(112, 28, 4), (192, 54, 26), (224, 110, 34)]),
        ("mobilemamba_s6", [(160, 32, 0), (272, 76, 36), (272, 134, 42)]),
        ("mobilemamba_b1", [(160, 40, 0), (256, 75, 45), (272, 134, 42)]),
    ],
)
def test_channel_splits_are_those_of_the_release(variant: str, splits: list[tuple[int, int, int]]) -> None:
    config = VARIANTS[variant].config
    assert [tuple(config.channel_split(stage)) for stage in range(3)] == splits


def test_lists_as_yaml_gives_them_become_tuples() -> None:
    config = MobileMambaConfig(widths=[192, 384, 448], local_kernels=[[7], [5], [3]])  # type: ignore[arg-type]
    assert config == MobileMambaConfig()
    assert hash(config) == hash(MobileMambaConfig())


def test_four_stages_at_stride_four() -> None:
    model = MobileMamba(MobileMambaConfig(**FOUR_STAGES))
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8, 16, 32]
    assert model.config.min_image_size == 32
