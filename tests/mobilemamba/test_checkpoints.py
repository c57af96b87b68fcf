import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import mobilemamba
from mobilemamba import MobileMamba, ModelMetadata, pretrained
from mobilemamba.errors import UserError
from mobilemamba.published import rename_published
from tests.mobilemamba.conftest import randomise
from tests.mobilemamba.published_weights import published_shapes, published_state


@pytest.fixture(scope="module")
def t2_state() -> dict[str, Tensor]:
    return published_state("t2")


@pytest.fixture(scope="module")
def t2_logits(t2_state: dict[str, Tensor]) -> Tensor:
    return logits(mobilemamba.load_published_weights(timm.create_model("mobilemamba_t2"), t2_state))


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


def release_fusion(state: dict[str, Tensor], fold_local: bool = True) -> dict[str, Tensor]:
    """Fold a published state dict as the release does: ConvNorms, depthwise skips and the head."""
    fused = dict(state)

    def fold(conv: str, norm: str, target: str, skip: bool = False) -> None:
        scale = fused.pop(f"{norm}.weight") / (fused.pop(f"{norm}.running_var") + 1e-5).sqrt()
        bias = fused.pop(f"{norm}.bias") - fused.pop(f"{norm}.running_mean") * scale
        fused.pop(f"{norm}.num_batches_tracked")
        weight = fused.pop(f"{conv}.weight") * scale.view(-1, 1, 1, 1)
        if skip:
            weight[:, 0, 1, 1] += 1
        fused[f"{target}.weight"], fused[f"{target}.bias"] = weight, bias

    for key in state:
        if key.endswith(".c.weight"):
            name = key.removesuffix(".c.weight")
            skip = name.endswith(".m")
            fold(f"{name}.c", f"{name}.bn", name.removesuffix(".m"), skip)
        elif fold_local and key.endswith("dwconv3x3.weight"):
            name = key.removesuffix(".dwconv3x3.weight")
            fold(f"{name}.dwconv3x3", f"{name}.bn1", f"{name}.dwconv3x3")
            fold(f"{name}.dwconv1x1", f"{name}.bn2", f"{name}.dwconv1x1")
    scale = fused.pop("head.bn.weight") / (fused.pop("head.bn.running_var") + 1e-5).sqrt()
    shift = fused.pop("head.bn.bias") - fused.pop("head.bn.running_mean") * scale
    fused.pop("head.bn.num_batches_tracked")
    weight, bias = fused.pop("head.l.weight"), fused.pop("head.l.bias")
    fused["head.weight"], fused["head.bias"] = weight * scale, bias + weight @ shift
    return fused


@pytest.mark.parametrize("variant", ["t2", "s6"])
def test_every_published_key_has_a_place(variant: str) -> None:
    own = timm.create_model(f"mobilemamba_{variant}").state_dict()
    published = [key for key in published_shapes(variant) if not key.endswith("t_filter")]
    assert sorted(map(rename_published, published)) == sorted(own)


@pytest.mark.parametrize("fold_local", [True, False])
def test_a_fused_published_file_gives_the_same_network(
    t2_state: dict[str, Tensor], t2_logits: Tensor, fold_local: bool
) -> None:
    model = timm.create_model("mobilemamba_t2")
    mobilemamba.load_published_weights(model, release_fusion(t2_state, fold_local))
    torch.testing.assert_close(logits(model), t2_logits, rtol=0, atol=1e-5)


def test_raw_and_averaged_weights_of_a_training_file(
    tmp_path: Path, t2_state: dict[str, Tensor], t2_logits: Tensor
) -> None:
    zeros = {f"module.{key}": torch.zeros_like(value) for key, value in t2_state.items()}
    path = tmp_path / "published.pth"
    torch.save({"net": zeros, "net_E": t2_state, "epoch": 300}, path)
    model = timm.create_model("mobilemamba_t2")
    assert torch.equal(logits(mobilemamba.load_published_weights(model, path)), t2_logits)
    mobilemamba.load_published_weights(model, path, weights="raw")
    assert not model.stem[0].conv.weight.any()


def test_timm_loads_a_published_file_by_path(tmp_path: Path, t2_state: dict[str, Tensor], t2_logits: Tensor) -> None:
    save_file(t2_state, tmp_path / "t2.safetensors")
    model = timm.create_model("mobilemamba_t2", checkpoint_path=str(tmp_path / "t2.safetensors"))
    assert torch.equal(logits(model), t2_logits)


def test_another_variant_is_refused_with_both_sides_listed(t2_state: dict[str, Tensor]) -> None:
    state = {key: value for key, value in t2_state.items() if key != "head.l.bias"} | {"extra": torch.ones(1)}
    with pytest.raises(UserError) as caught:
        mobilemamba.load_published_weights(timm.create_model("mobilemamba_t4"), state)
    message = str(caught.value)
    assert "only in the model (1): head.linear.bias" in message
    assert "only in the file (1): extra" in message
    assert "other shapes" in message


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    path = tmp_path / "evil.pth"
    torch.save({"net": Payload()}, path)
    with pytest.raises(UserError, match="refused"):
        mobilemamba.load_published_weights(timm.create_model("mobilemamba_t2"), path)
    assert not marker.exists()


def test_filters_other_than_haar_are_refused(t2_state: dict[str, Tensor]) -> None:
    key = "blocks1.0.mixer.m.attn.global_op.wt_filter"
    state = t2_state | {key: torch.ones(published_shapes("t2")[key])}
    with pytest.raises(ValueError, match="not the Haar wavelet"):
        mobilemamba.load_published_weights(timm.create_model("mobilemamba_t2"), state)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    model = timm.create_model("mobilemamba_t2")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth does not exist"):
        mobilemamba.load_published_weights(model, tmp_path / "nowhere.pth")
    (tmp_path / "half.pth").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(UserError, match=r"half\.pth"):
        mobilemamba.load_published_weights(model, tmp_path / "half.pth")
    (tmp_path / "half.safetensors").write_bytes(b"\x80\x00\x00\x00 and nothing more")
    with pytest.raises(UserError, match=r"half\.safetensors is damaged"):
        mobilemamba.load_published_weights(model, tmp_path / "half.safetensors")


def test_training_checkpoint_round_trip(tmp_path: Path, tiny_config: mobilemamba.MobileMambaConfig) -> None:
    from dataclasses import asdict

    averaged, raw = MobileMamba(tiny_config), MobileMamba(tiny_config)
    metadata = ModelMetadata(image_size=(64, 96), class_names=tuple("abcdefg"))
    path = tmp_path / "last.ckpt"
    torch.save(
        {
            "state_dict": {f"student.{key}": value for key, value in averaged.state_dict().items()},
            "current_model_state": {f"student.{key}": value for key, value in raw.state_dict().items()},
            "mobilemamba": {"config": asdict(tiny_config), "metadata": metadata.to_dict()},
        },
        path,
    )
    for weights, expected in (("ema", averaged), ("raw", raw)):
        model, loaded = mobilemamba.load_network(path, weights)  # type: ignore[arg-type]
        assert torch.equal(logits(model), logits(expected))
        assert loaded == metadata


def test_pretrained_fetches_the_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, t2_state: dict[str, Tensor], t2_logits: Tensor
) -> None:
    torch.save({"net": t2_state}, tmp_path / "weights.pth")
    asked = []

    class Hub:
        def list_repo_files(self, repository: str) -> list[str]:
            return ["README.md", "MobileMamba_T2/log.txt", "MobileMamba_T2s/weights.pth", "MobileMamba_T2/weights.pth"]

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "weights.pth")

    monkeypatch.setattr(pretrained, "HfApi", Hub)
    monkeypatch.setattr(pretrained, "hf_hub_download", download)
    assert torch.equal(logits(timm.create_model("mobilemamba_t2", pretrained=True)), t2_logits)
    timm.create_model("mobilemamba_t2.in1k", pretrained=True, num_classes=10)
    assert asked == [
        ("Lewandofski/MobileMamba", "MobileMamba_T2s/weights.pth"),
        ("Lewandofski/MobileMamba", "MobileMamba_T2/weights.pth"),
    ]


class ClientError(Exception):
    """What an HTTP client that the Hub's is built on may raise: no OSError."""


@pytest.mark.parametrize("error", [ConnectionError, ClientError])
def test_offline_says_what_to_do(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def list_repo_files(self, repository: str) -> list[str]:
            raise error

    monkeypatch.setattr(pretrained, "HfApi", Hub)
    with pytest.raises(ConnectionError, match=r"MobileMamba_S6s.*load_published_weights"):
        timm.create_model("mobilemamba_s6", pretrained=True)


OLD_NAMES = {
    "dt_proj_weight": "step_weight",
    "dt_proj_bias": "step_bias",
    "x_proj.weight": "scan_proj.weight",
    "mamba.D": "mamba.D_skip",
    "wavelet.weights.0": "wavelet.convs.0.weight",
    "wavelet.scales.0": "wavelet.scales.0.weight",
}


def test_older_checkpoints_of_this_project_load_everywhere(tiny_config: mobilemamba.MobileMambaConfig) -> None:
    network = randomise(MobileMamba(tiny_config))
    old = {}
    for key, value in network.state_dict().items():
        for new_name, old_name in OLD_NAMES.items():
            if key.endswith(new_name):
                key = key.removesuffix(new_name) + old_name
        old[key] = value
    assert sum(key.endswith("D_skip") for key in old) == 4
    assert old.keys().isdisjoint(key for key in network.state_dict() if key.endswith(tuple(OLD_NAMES)))
    alone = MobileMamba(tiny_config)
    alone.load_state_dict(old)
    inside = torch.nn.ModuleDict({"student": MobileMamba(tiny_config)})  # as Lightning loads them
    inside.load_state_dict({f"student.{key}": value for key, value in old.items()})
    for loaded in (alone, inside["student"]):
        assert torch.equal(logits(loaded), logits(network))
