"""Photographs by simplejpeg: the pixels of Pillow, and everything else left to Pillow."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilemamba import jpeg
from mobilemamba.errors import UserError
from mobilemamba.images import open_image, read_pixels
from mobilemamba.metadata import ModelMetadata

METADATA = ModelMetadata(image_size=(64, 64))
pytestmark = pytest.mark.skipif(jpeg.simplejpeg() is None, reason="simplejpeg is not installed")


def photograph(size: tuple[int, int] = (129, 87), mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def write(path: Path, image: Image.Image, format: str = "JPEG", **options: object) -> Path:
    image.save(path, format, **options)
    return path


def is_fast(path: Path, metadata: ModelMetadata = METADATA) -> bool:
    """Whether a file is read without Pillow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilemamba.images.open_image", lambda *_: None)
        return read_pixels(path, metadata).dtype == np.uint8


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_pillow(
    tmp_path: Path, subsampling: int, quality: int, progressive: bool, mode: str
) -> None:
    options = {"quality": quality, "progressive": progressive}
    if mode == "RGB":
        options["subsampling"] = subsampling
    path = write(tmp_path / "image.jpg", photograph(mode=mode), **options)
    assert is_fast(path)
    np.testing.assert_array_equal(read_pixels(path, METADATA), np.asarray(open_image(path, METADATA)))


def test_other_colours_and_formats_are_left_to_pillow(tmp_path: Path) -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64))
    files = [
        write(tmp_path / "cmyk.jpg", photograph(mode="CMYK")),
        write(tmp_path / "rgb.jpg", photograph(), keep_rgb=True),
        write(tmp_path / "png.jpg", photograph(), "PNG"),
        write(tmp_path / "deep.jpg", deep, "PNG"),
        write(tmp_path / "bitmap.jpg", photograph(), "BMP"),
    ]
    for file in files:
        assert not is_fast(file), file
        np.testing.assert_array_equal(read_pixels(file, METADATA), np.asarray(open_image(file, METADATA)))


def test_a_photograph_is_turned_where_that_is_asked_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path / "turned.jpg", photograph(), exif=exif)
    turned = ModelMetadata(image_size=(64, 64), exif_orientation=True)
    assert is_fast(path)
    assert not is_fast(path, turned)
    assert read_pixels(path, METADATA).shape == (87, 129, 3)
    assert read_pixels(path, turned).shape == (129, 87, 3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_has_pillows_error(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "image.jpg", photograph())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    errors = []
    for read in (read_pixels, open_image):
        with pytest.raises(UserError) as error:
            read(path, METADATA)
        errors.append(str(error.value))
    assert errors[0] == errors[1]


def test_flipped_bits_are_read_as_by_pillow(tmp_path: Path) -> None:
    content = io.BytesIO()
    photograph().save(content, "JPEG")
    generator, path = np.random.default_rng(1), tmp_path / "image.jpg"
    results = []
    for place in generator.integers(2, len(content.getvalue()), 300):
        damaged = bytearray(content.getvalue())
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        answers = []
        for read in (read_pixels, open_image):
            try:
                answers.append(np.asarray(read(path, METADATA)))
            except UserError as error:
                answers.append(np.frombuffer(str(error).encode(), np.uint8))
        np.testing.assert_array_equal(*answers)
        results.append(answers[0].ndim)
    assert {1, 3} == set(results)


def test_a_missing_file_and_a_giant_have_pillows_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_pixels(tmp_path / "none.jpg", METADATA)
    long = write(tmp_path / "long.jpg", photograph((30000, 4)))
    with pytest.raises(UserError, match="would become"):
        read_pixels(long, METADATA)
    path = write(tmp_path / "image.jpg", photograph())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="decompression bomb"):
        read_pixels(path, METADATA)


def test_without_simplejpeg_pillow_reads_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "image.jpg", photograph())
    expected = read_pixels(path, METADATA)
    monkeypatch.setattr(jpeg, "simplejpeg", lambda: None)
    np.testing.assert_array_equal(read_pixels(path, METADATA), expected)
