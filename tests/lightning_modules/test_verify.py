"""Published files are evaluated in every form, once, beside their figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.cli import main
from lightning_modules import verify as module
from lightning_modules.verify import Verified, as_table
from mobilemamba import VARIANTS, MobileMamba, MobileMambaConfig, fuse
from mobilemamba.preprocessing import evaluation_transform
from mobilemamba.weights import load_network
from tests.mobilemamba.conftest import randomise

TINY = MobileMambaConfig(widths=(16, 32, 48), depths=(1, 1, 1), scan=False)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand class folders with a small picture each."""
    root = tmp_path_factory.mktemp("imagenet")
    for index in range(1000):
        folder = root / "val" / f"n{index:08d}"
        folder.mkdir(parents=True)
        colour = (index % 256, index // 4, 255 - index % 256)
        Image.new("RGB", (64, 64), colour).save(folder / "0.png")
    return root


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the authors' repository with files of one variant, which is a tiny network here."""
    monkeypatch.setitem(VARIANTS, "mobilemamba_t2", replace(VARIANTS["mobilemamba_t2"], config=TINY, image_size=64))
    for index, folder in enumerate(("MobileMamba_T2", "MobileMamba_T2s")):
        (tmp_path / folder).mkdir()
        torch.manual_seed(index)
        raw, averaged = randomise(MobileMamba(TINY)).state_dict(), randomise(MobileMamba(TINY)).state_dict()
        content = {"net": raw, "net_E": averaged} if index else raw
        torch.save(content, tmp_path / folder / "checkpoint.pth")
    return tmp_path


def test_every_form_of_every_file_is_evaluated_once(
    imagenet: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = repository / "out"
    options = ["--data.root", str(imagenet), "--copy-of-hub", str(repository), "--output", str(output)]
    options += ["--variants", "mobilemamba_t2", "--num-workers", "0", "--batch-size", "250"]
    assert main(["verify", *options]) == 0
    first = capsys.readouterr().out
    [distilled, plain] = json.loads((output / "verify.json").read_text())["files"].values()
    assert [entry["form"] for entry in distilled] == ["raw", "ema", "fused", "onnx"]
    assert [entry["form"] for entry in plain] == ["raw", "fused", "onnx"]
    assert [entry["published"] for entry in distilled] == [None, 76.9, 76.9, 76.9]
    assert {entry["published"] for entry in plain} == {73.6}
    assert len({entry["top1"] for entry in distilled[1:]}) == 1

    # The figures are those of a plain loop over the images.
    network, metadata = load_network(repository / "MobileMamba_T2s" / "checkpoint.pth", "ema", "mobilemamba_t2")
    transform = evaluation_transform(replace(metadata, class_names=None))
    files = sorted(imagenet.rglob("*.png"))
    with torch.no_grad():
        logits = fuse(network)(torch.stack([transform(Image.open(file)) for file in files]))
    hits = logits.topk(5).indices == torch.arange(1000)[:, None]
    assert distilled[1]["top1"] == pytest.approx(hits[:, 0].sum().item() / 10)
    assert distilled[1]["top5"] == pytest.approx(hits.sum().item() / 10)

    monkeypatch.delattr(module, "_evaluate")  # what is finished is not done again
    assert main(["verify", *options]) == 0
    assert capsys.readouterr().out == first
    assert (output / "verify.md").read_text().strip() in first


def test_the_table_has_differences_and_standard_errors() -> None:
    text = as_table([Verified("mobilemamba_s6", True, "ema", 80.7, 80.0, 95.0, 10_000)])
    cells = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert cells == ["mobilemamba_s6", "distilled", "ema", "80.7", "80.00", "-0.70", "0.40", "95.00", "10,000"]


def test_what_is_missing_is_one_line(imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--data.root", str(imagenet), "--variants", "s6"]) == 1
    assert "--variants = 's6' must be one of mobilemamba_t2" in capsys.readouterr().err
    copy = ["--copy-of-hub", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(["verify", "--data.root", str(imagenet), "--variants", "mobilemamba_s6", *copy]) == 1
    assert "MobileMamba_S6s holds no .pth or .safetensors file" in capsys.readouterr().err
