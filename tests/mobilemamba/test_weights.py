"""Every source of weights gives the same network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from mobilemamba import VARIANTS, MobileMamba, UserError, weights
from mobilemamba.weights import find_weights, load_network, start_from, variant_of
from tests.mobilemamba.conftest import randomise
from tests.mobilemamba.published_weights import published_state


def logits(network: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return network.eval()(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return published_state("t2")


@pytest.fixture(scope="module")
def expected(state: dict[str, Tensor]) -> Tensor:
    network = timm.create_model("mobilemamba_t2")
    network.load_state_dict(state)
    return logits(network)


@pytest.mark.parametrize("nesting", ["net_E", "state_dict_ema", "model", None])
def test_a_file_is_recognised_by_its_shapes(
    tmp_path: Path, state: dict[str, Tensor], expected: Tensor, nesting: str | None
) -> None:
    file = tmp_path / "weights.pth"
    content = {f"module.{name}": value for name, value in state.items()}
    torch.save({nesting: content, "epoch": 3} if nesting else content, file)
    network, metadata = load_network(file)
    assert torch.equal(logits(network), expected)
    assert metadata.image_size == (192, 192)
    assert metadata.class_names is not None
    assert metadata.class_names[0] == "n01440764"


def test_raw_weights_of_a_file_with_both(tmp_path: Path, state: dict[str, Tensor], expected: Tensor) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"net": {k: torch.zeros_like(v) for k, v in state.items()}, "net_E": state}, file)
    assert (find_weights(file).kind, find_weights(file, "raw").kind) == ("ema", "raw")
    assert torch.equal(logits(load_network(file)[0]), expected)
    assert not logits(load_network(file, "raw")[0]).any()


@pytest.mark.parametrize(("source", "distilled"), [("published", True), ("published:in1k", False)])
def test_published_weights(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor], expected: Tensor, source: str, distilled: bool
) -> None:
    asked = []

    def download(variant: str, distilled: bool) -> dict[str, Tensor]:
        asked.append((variant, distilled))
        return state

    monkeypatch.setattr(weights, "download_published", download)
    assert torch.equal(logits(load_network(source, variant="mobilemamba_t2")[0]), expected)
    assert asked == [("mobilemamba_t2", distilled)]
    with pytest.raises(UserError, match="need a variant: name one of mobilemamba_b1"):
        load_network(source)


def test_a_folder_of_timms_form_with_a_layout_of_its_own(tmp_path: Path) -> None:
    config = replace(VARIANTS["mobilemamba_s6"].config, widths=(32, 48, 64), num_classes=3)
    network = randomise(MobileMamba(config))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    description = {
        "architecture": "mobilemamba_s6",
        "num_classes": 3,
        "model_args": {"widths": [32, 48, 64]},
        "pretrained_cfg": {"mean": [0.5] * 3, "input_size": [3, 96, 96], "label_names": ["a", "b", "c"]},
    }
    (tmp_path / "config.json").write_text(json.dumps(description))
    loaded, metadata = load_network(f"local-dir:{tmp_path}")
    assert torch.equal(logits(loaded), logits(network))
    assert (metadata.image_size, metadata.mean, metadata.class_names) == ((96, 96), (0.5,) * 3, ("a", "b", "c"))
    description["architecture"] = "resnet18"
    (tmp_path / "config.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="architecture = 'resnet18' must be one of"):
        load_network(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": ')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load_network(f"local-dir:{tmp_path}")


def test_sources_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"Weights nowhere\.pth must be 'published'"):
        find_weights("nowhere.pth")
    with pytest.raises(UserError, match=f"is a folder: name a file in it, or the folder as local-dir:{tmp_path}"):
        find_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        find_weights(f"local-dir:{tmp_path}")
    with pytest.raises(UserError, match="weights = 'published:1k' must be"):
        find_weights("published:1k", variant="mobilemamba_t2")
    with pytest.raises(UserError, match="variant = 's7' must be one of"):
        find_weights("published", variant="s7")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match=r"holds no weights: it holds \['epoch'\]"):
        find_weights(tmp_path / "empty.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not name the network"):
        load_network(tmp_path / "other.pth")

    def fail(*_: str) -> str:
        raise RuntimeError("no network")

    monkeypatch.setattr(weights, "hf_hub_download", fail)
    with pytest.raises(ConnectionError, match=r"config\.json of hf-hub:a/b could not be fetched .*local-dir:FOLDER"):
        find_weights("hf-hub:a/b")


def test_variants_of_one_architecture_differ_by_image_size() -> None:
    config = replace(VARIANTS["mobilemamba_b1"].config, num_classes=5, drop_path_rate=0.1)
    assert [variant_of(config, size) for size in (256, 400, 600)] == [f"mobilemamba_b{n}" for n in (1, 2, 4)]
    assert variant_of(replace(config, widths=(16, 32, 48))) is None


def test_a_file_without_classifier_starts_all_but_the_classifier(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({name: value for name, value in state.items() if not name.startswith("head")}, tmp_path / "body.pth")
    network = timm.create_model("mobilemamba_t2")
    before = network.head.linear.weight.detach().clone()
    assert start_from(network, find_weights(tmp_path / "body.pth"))
    assert torch.equal(network.head.linear.weight, before)
    assert torch.equal(network.stem[0].conv.weight, state["patch_embed.0.c.weight"])
