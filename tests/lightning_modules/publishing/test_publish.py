"""What is published is what timm loads, custom layouts and run's figures included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml

from experiments.cli import main
from lightning_modules.publishing import publish as module
from lightning_modules.publishing.publish import publish
from lightning_modules.run_record import RunRecord
from mobilemamba import VARIANTS, MobileMamba, ModelMetadata, UserError
from mobilemamba.weights import load_network
from tests.mobilemamba.conftest import randomise
from tests.mobilemamba.inference.conftest import checkpoint as checkpoint


def test_a_published_folder_is_the_same_network_to_timm_and_to_this_project(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "published"
    published = publish(str(checkpoint), str(folder))
    assert (published.place, published.difference) == (str(folder), 0.0)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    network, metadata = load_network(checkpoint)
    ours, theirs = load_network(f"local-dir:{folder}")
    assert (theirs, ours.config) == (metadata, network.config)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))
    data = timm.data.resolve_model_data_config(loaded)
    assert (tuple(data["input_size"]), tuple(data["mean"]), data["crop_pct"]) == ((3, 64, 64), metadata.mean, 0.875)
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "timm"
    assert "blue, green, red" in card
    assert 'timm.create_model("hf-hub:OWNER/published", pretrained=True)' in card
    assert not list(tmp_path.rglob(".publish*"))


def test_a_published_variant_keeps_its_name_and_classes(tmp_path: Path) -> None:
    config = replace(VARIANTS["mobilemamba_t2"].config, num_classes=2)
    torch.save(randomise(MobileMamba(config)).state_dict(), tmp_path / "t2.pth")
    publish(str(tmp_path / "t2.pth"), f"local-dir:{tmp_path / 'out'}", variant="mobilemamba_t2")
    description = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (description["architecture"], description["num_classes"]) == ("mobilemamba_t2", 2)
    assert "model_args" not in description


def test_the_card_tells_the_runs_figures_and_recipe_without_its_folders(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    weights = run / "checkpoints" / "best.ckpt"
    weights.write_bytes(checkpoint.read_bytes())
    config = {
        "model": {"optimizer": {"learning_rate": 1e-3}},
        "data": {"class_path": "datamodules.ImageNetDataModule", "init_args": {"root": "/home/me/photos"}},
        "trainer": {"max_epochs": 4, "default_root_dir": "/home/me"},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    metrics: dict[str, float | None] = {"val/top1_raw": 0.5, "val/top1_ema": 0.75}
    RunRecord(True, 4, 9.0, 3, "a CPU", 1, "process", metrics, {}, 8, 1, 360).write(run)
    publish(str(weights), str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "75.00%" in card
    assert "on 360 images after the run's last epoch (4 epochs, a CPU)" in card
    assert "learning_rate: 0.001" in card
    assert "/home/me" not in card


def test_a_place_that_is_taken_or_out_of_reach_is_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "--checkpoint", str(checkpoint), "--to", str(tmp_path)]) == 1
    assert "must be a folder that does not exist yet" in capsys.readouterr().err
    with pytest.raises(UserError, match="hf-hub:OWNER/NAME"):
        publish(str(checkpoint), "hf-hub:name")

    class Unreachable:
        def create_repo(self, *_: object, **__: object) -> None:
            raise RuntimeError("no network")

    monkeypatch.setattr(module, "HfApi", Unreachable)
    assert main(["publish", "--checkpoint", str(checkpoint), "--to", "hf-hub:me/net"]) == 1
    assert "hf-hub:me/net could not be written (RuntimeError: no network)" in capsys.readouterr().err


def test_the_hub_gets_the_same_files(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = []

    class Hub:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            uploads.append((name, private))

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
            uploads.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr(module, "HfApi", Hub)
    publish(str(checkpoint), "hf-hub:me/net", private=True)
    assert uploads == [("me/net", True), ("me/net", ["README.md", "config.json", "model.safetensors"])]


def test_another_network_from_timm_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: object, **__: object) -> MobileMamba:
        return MobileMamba(load_network(checkpoint)[0].config)

    monkeypatch.setattr(module.timm, "create_model", other)
    with pytest.raises(UserError, match="timm loads a different network"):
        publish(str(checkpoint), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert ModelMetadata(image_size=(1, 1)).readable_class(3) == "class 3"
