"""Images as they are in the wild: what is found, what is left out, and how each becomes RGB."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilemamba import images
from mobilemamba.errors import UserError
from mobilemamba.images import class_folders, find_images, list_images, open_image, printable
from mobilemamba.metadata import ModelMetadata

METADATA = ModelMetadata(image_size=(224, 224))
RAMP = np.tile(np.arange(256), (8, 1))
"""Every grey level."""


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")


def test_hidden_and_system_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "ant/1.JPG", "ant/._1.JPG", "ant/more/2.png", "ant/.thumbs/3.png", "ant/notes.txt", "bee/4.webp")
    touch(tmp_path, "__MACOSX/ant/._1.JPG", "@eaDir/5.jpg", ".ipynb_checkpoints/6.png", "ant/Thumbs.db")
    assert list_images(tmp_path) == ["ant/1.JPG", "ant/more/2.png", "bee/4.webp"]
    assert class_folders(tmp_path) == ["ant", "bee"]
    assert class_folders(tmp_path / "nowhere") == []


def test_links_are_followed_and_no_folder_is_entered_twice(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/far/1.png", "root/ant/2.png")
    (tmp_path / "root" / "ant" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "ant" / "same").symlink_to(tmp_path / "elsewhere" / "far")
    (tmp_path / "root" / "ant" / "up").symlink_to(tmp_path / "root")  # its bees are no ants
    (tmp_path / "root" / "bee").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "loop").symlink_to(tmp_path)
    assert list_images(tmp_path / "root" / "ant") == ["2.png", "link/far/1.png"]
    assert class_folders(tmp_path / "root") == ["ant", "bee"]


def test_other_formats_are_found_by_an_option(tmp_path: Path) -> None:
    touch(tmp_path, "a.gif", "b.avif", "c.png", "d.eps", "e.h5")
    assert list_images(tmp_path) == ["c.png"]
    assert [file.name for file in find_images(tmp_path, "--images", all_formats=True)] == ["a.gif", "b.avif", "c.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=rf"Folder {tmp_path} cannot be listed \(Permission denied\)"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16bit.png", (RAMP * 257).astype(np.uint16)),
        ("16bit.tif", (RAMP * 257).astype(">u2")),
        ("int32.tif", (RAMP * 257).astype(np.int32)),
        ("int32_small.tif", RAMP.astype(np.int32)),
        ("int32_large.tif", (RAMP * 1_000_003 - 10_000).astype(np.int32)),
        ("float01.tif", (RAMP / 255).astype(np.float32)),
        ("float255.tif", RAMP.astype(np.float32)),
        ("float_signed.tif", (RAMP / 127.5 - 1).astype(np.float32)),
    ],
)
def test_grey_levels_of_many_bits_are_scaled_by_their_range(name: str, values: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / name)
    image = open_image(tmp_path / name)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.repeat(RAMP[..., None], 3, axis=2))


def test_grey_levels_that_are_not_finite_are_the_ends_of_the_range(tmp_path: Path) -> None:
    values = np.array([[np.nan, -np.inf, np.inf, 0.2, 1.0]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "depth.tif")
    assert np.asarray(open_image(tmp_path / "depth.tif"))[0, :, 0].tolist() == [0, 0, 255, 51, 255]
    Image.fromarray(np.full((1, 2), np.nan, dtype=np.float32)).save(tmp_path / "nothing.tif")
    assert not np.asarray(open_image(tmp_path / "nothing.tif")).any()


def palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    return image


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (palette(), {"transparency": bytes([0, 255])}, [[255, 255, 255], [255, 0, 0]]),
        (palette(), {}, [[0, 0, 0], [255, 0, 0]]),
        (Image.fromarray(np.array([[[90, 0], [90, 255]]], dtype=np.uint8), "LA"), {}, [[255] * 3, [90] * 3]),
        (Image.new("RGBA", (2, 1), (10, 20, 30, 255)), {}, [[10, 20, 30]] * 2),
        (Image.new("RGB", (2, 1), (10, 20, 30)), {"transparency": (10, 20, 30)}, [[255, 255, 255]] * 2),
        (Image.new("1", (2, 1), 1), {}, [[255] * 3] * 2),
    ],
)
def test_every_mode_becomes_what_one_sees_on_white(
    image: Image.Image, options: dict[str, Any], expected: list[list[int]], tmp_path: Path
) -> None:
    image.save(tmp_path / "image.png", **options)
    assert np.asarray(open_image(tmp_path / "image.png")).tolist() == [expected]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (1, 1), (0, 255, 255, 0)).save(tmp_path / "image.tif")
    assert np.asarray(open_image(tmp_path / "image.tif")).tolist() == [[[255, 0, 0]]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_exif_orientation_is_an_option_of_the_weights(tmp_path: Path) -> None:
    turned = ModelMetadata.from_dict(ModelMetadata(image_size=(8, 8), exif_orientation=True).to_dict())
    image, exif = Image.new("RGB", (3, 2)), Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "damaged.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12")
    assert open_image(tmp_path / "turned.jpg", METADATA).size == (3, 2)
    assert open_image(tmp_path / "turned.jpg", turned).size == (2, 3)
    assert open_image(tmp_path / "damaged.jpg", turned).size == (3, 2)
    older = {key: value for key, value in METADATA.to_dict().items() if key != "exif_orientation"}
    assert ModelMetadata.from_dict(older) == METADATA


def test_absurd_shapes_are_refused_by_the_area_after_resizing(tmp_path: Path) -> None:
    Image.new("L", (3, 30_000)).save(tmp_path / "strip.png")
    Image.new("L", (20, 2)).save(tmp_path / "panorama.png")
    with pytest.raises(UserError, match=r"strip\.png cannot be read \(3 x 30000 pixels would become 655 million when"):
        open_image(tmp_path / "strip.png", METADATA)
    assert open_image(tmp_path / "panorama.png", METADATA).size == (20, 2)


@pytest.mark.parametrize("error", [RuntimeError("decoder"), NotImplementedError(), KeyError("tag")])
def test_whatever_a_decoder_raises_is_an_unreadable_image(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.Image, "open", raising(error))
    with pytest.raises(UserError, match=r"a\.jpg cannot be read \((decoder|NotImplementedError|'tag')\)"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_what_says_nothing_of_the_file_is_raised(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.Image, "open", raising(error))
    with pytest.raises(type(error)):
        open_image(Path("a.jpg"))


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_names_that_are_not_utf8_are_printable(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    file.write_text("no image")
    assert printable(file.name) == r"caf\udce9.png"
    with pytest.raises(UserError) as error:
        open_image(find_images(tmp_path, "--images")[0])
    str(error.value).encode("utf-8")
