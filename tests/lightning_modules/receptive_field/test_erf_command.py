import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from experiments.cli import main
from lightning_modules.receptive_field.extent import measure_extent
from lightning_modules.receptive_field.gradient import contribution_map
from lightning_modules.receptive_field.networks import load_network
from mobilemamba import MobileMamba, MobileMambaConfig, ModelMetadata

SMALL = ["--image-size", "64", "--count", "2", "--radii", "8", "64"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``lightning fit`` writes, with other raw than averaged weights."""
    config = MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), num_classes=3)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        averaged, raw = MobileMamba(config), MobileMamba(config)
    metadata = ModelMetadata(image_size=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    path = tmp_path_factory.mktemp("checkpoints") / "best.ckpt"
    content = {
        "mobilemamba": {"config": dataclasses.asdict(config), "metadata": metadata.to_dict()},
        "state_dict": {f"student.{key}": value for key, value in averaged.state_dict().items()},
        "current_model_state": {f"student.{key}": value for key, value in raw.state_dict().items()},
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in two folders of classes."""
    photographs = tmp_path_factory.mktemp("photographs")
    generator = torch.Generator().manual_seed(0)
    for index in range(6):
        folder = photographs / f"class_{index // 3}"
        folder.mkdir(exist_ok=True)
        pixels = torch.randint(256, (70, 90, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    (photographs / "notes.txt").touch()
    return photographs


def test_a_checkpoint_and_a_timm_network_side_by_side(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "erf.png"
    names = [str(checkpoint), "test_resnet", "test_resnet"]
    assert main(["erf", *names, "--images", str(photographs), "--output", str(output), *SMALL]) == 0
    printed = capsys.readouterr()
    assert f"2 images from {photographs}, 64 x 64 pixels" in printed.out
    assert f"{checkpoint} (checkpoint, ema)" in printed.out
    assert "8 px (12%)" in printed.out
    assert "Random weights show the receptive field before training" in printed.out
    assert "WARNING" not in printed.err

    content = json.loads(output.with_suffix(".json").read_text())
    assert content["image_size"] == 64
    first, second = content["results"]
    assert (first["network"], first["weights"]) == (str(checkpoint), "checkpoint, ema")
    assert (second["network"], second["weights"]) == ("test_resnet", "random")
    for result in (first, second):
        near, far = result["circles"]
        assert (near["radius"], near["radius_fraction"], far["radius"]) == (8, 8 / 64, 64)
        assert 0 < near["share"] < far["share"] <= 1
        assert [square["share"] for square in result["squares"]] == [0.2, 0.3, 0.5, 0.99]
        assert f"{near['share']:.1%}" in printed.out
        assert f"{result['squares'][2]['side']} px" in printed.out
    with Image.open(output) as picture:
        picture.load()
        assert picture.width > 1.5 * picture.height  # two panels
    assert sorted(os.listdir(output.parent)) == ["erf.json", "erf.png"]

    # The same as by hand, on normalised images spread over all folders.
    measured = load_network(str(checkpoint))
    images = []
    for name in ("class_0/0.png", "class_1/3.png"):
        with Image.open(photographs / name) as image:
            pixels = pil_to_tensor(image.resize((64, 64), Image.Resampling.BICUBIC, (10, 0, 80, 70))) / 255
        images.append((pixels - torch.tensor(measured.mean)[:, None, None]) / torch.tensor(measured.std)[:, None, None])
    expected = measure_extent(contribution_map(measured.network, images), [8, 64])
    assert first["centre"] == list(expected.centre)
    assert [c["share"] for c in first["circles"]] == pytest.approx([c.share for c in expected.circles], rel=1e-6)


def test_noise_gives_a_warning_and_the_same_each_time_but_for_other_weights(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def results(weights: str) -> object:
        output = tmp_path / "erf.png"
        assert main(["erf", str(checkpoint), "--weights", weights, "--output", str(output), *SMALL]) == 0
        return json.loads(output.with_suffix(".json").read_text())["results"][0]["circles"]

    averaged = results("ema")
    printed = capsys.readouterr()
    assert "WARNING: measured on random normal images" in printed.err
    assert "2 random normal images" in printed.out
    assert "Random weights" not in printed.out
    assert averaged == results("ema")
    assert averaged != results("raw")


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_file_gives_a_timm_network_its_weights(weights: str, tmp_path: Path) -> None:
    averaged, raw = (timm.create_model("test_resnet").state_dict() for _ in range(2))
    torch.save({"state_dict": raw, "state_dict_ema": averaged}, tmp_path / "weights.pth")
    subject = load_network("test_resnet", tmp_path / "weights.pth", pretrained=True, weights=weights)  # type: ignore[arg-type]
    expected = averaged if weights == "ema" else raw
    assert all(torch.equal(value, expected[key]) for key, value in subject.network.state_dict().items())
    assert subject.weights == f"weights.pth, {weights}"
    assert not subject.network.training


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first = load_network("test_resnet").network.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    second = load_network("test_resnet").network.state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_published_weights_fit_a_mobilemamba(tmp_path: Path) -> None:
    state = timm.create_model("mobilemamba_t2").state_dict()
    torch.save({"net": state}, tmp_path / "published.pth")
    subject = load_network("mobilemamba_t2", tmp_path / "published.pth")
    assert all(torch.equal(value, state[key]) for key, value in subject.network.state_dict().items())


def _broken_image(folder: Path) -> list[str]:
    (folder / "broken").mkdir()
    (folder / "broken" / "no.jpg").write_text("no image")
    return ["test_resnet", "--images", str(folder / "broken")]


def _other_weights(folder: Path) -> list[str]:
    torch.save({"fc.weight": torch.zeros(2, 2)}, folder / "other.pth")
    return ["test_resnet", "--checkpoint", f"test_resnet={folder / 'other.pth'}"]


def _grey_network(folder: Path) -> list[str]:
    config = MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), in_chans=1)
    description = {"config": dataclasses.asdict(config), "metadata": ModelMetadata(image_size=(64, 64)).to_dict()}
    state = {f"student.{key}": value for key, value in MobileMamba(config).state_dict().items()}
    torch.save({"mobilemamba": description, "state_dict": state}, folder / "grey.ckpt")
    return [str(folder / "grey.ckpt")]


def _file_as_folder(folder: Path) -> list[str]:
    (folder / "file").touch()
    return ["test_resnet", "--output", str(folder / "file" / "erf.png")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mobilmamba_s6"], "'mobilmamba_s6' must be a name of timm or a checkpoint file: similar names are mobilem"),
        (["xyzzyq"], "timm.list_models() gives all names"),
        (["test_resnet.nonsense"], "timm cannot build test_resnet.nonsense"),
        (["runs/none.ckpt"], "Checkpoint runs/none.ckpt does not exist"),
        (
            ["test_vit", "--image-size", "160"],
            "test_vit cannot be measured at --image-size 160: VisionTransformer.forward_features gives 3",
        ),
        (
            ["mobilemamba_t2", "--image-size", "32"],
            "mobilemamba_t2 cannot be measured at --image-size 32: Image size = 32x32",
        ),
        (["test_resnet", "--images", "/nowhere"], "--images = /nowhere must be a folder"),
        (["test_resnet", "--images", str(Path(__file__).parent)], "must hold images"),
        (_broken_image, "no.jpg cannot be read"),
        (_grey_network, "takes images of 1 channels"),
        (["test_resnet", "--output", "erf.pdf"], "must be a file that ends in .png"),
        (_file_as_folder, "cannot be written"),
        (["test_resnet", "--device", "nonsense"], "--device = nonsense must be a device that works here"),
        (["test_resnet", "--checkpoint", "weights.pth"], "must be NETWORK=FILE"),
        (["test_resnet", "--checkpoint", "test_vit=weights.pth"], "must be NETWORK=FILE"),
        (["test_resnet", "--checkpoint", "test_resnet=none.pth"], "Checkpoint none.pth does not exist"),
        (_other_weights, "The weights do not fit the model"),
    ],
)
def test_user_errors_are_one_line_and_leave_no_file(
    arguments: list[str] | Callable[[Path], list[str]],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["erf", *(arguments(tmp_path) if callable(arguments) else arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("mobilemamba erf: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.rglob("*erf*"))


@pytest.mark.parametrize("option", ["--count 0", "--image-size -1", "--radii 8 -1"])
def test_numbers_out_of_range_are_named(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["erf", "test_resnet", *option.split()])
    assert ended.value.code == 2
    assert option.split()[0].strip("-").replace("-", "_") in capsys.readouterr().err
