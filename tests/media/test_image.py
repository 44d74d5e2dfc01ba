"""Pictures of every kind arrive upright in RGB, or are refused with a reason."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from openloopy.media.image import ImageError, read_image, write_image

RED, BLUE = (200, 30, 30), (30, 30, 200)
EXIF_ORIENTATION = 0x0112


def without_chunk(png: bytes, kind: bytes) -> bytes:
    at = png.index(kind) - 4
    (length,) = struct.unpack_from(">I", png, at)
    return png[:at] + png[at + 12 + length :]


def _two_halves(width=96, height=80) -> np.ndarray:
    """Red above blue."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2], picture[height // 2 :] = RED, BLUE
    return picture


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "a.gif"])
def test_common_formats(tmp_path, name):
    Image.fromarray(_two_halves()).save(tmp_path / name)
    picture = read_image(tmp_path / name)
    assert picture.dtype == np.uint8 and picture.shape == (80, 96, 3)
    np.testing.assert_allclose(picture[10, 48], RED, atol=12)
    np.testing.assert_allclose(picture[70, 48], BLUE, atol=12)


@pytest.mark.parametrize(("orientation", "red_side"), [(1, "top"), (3, "bottom"), (6, "right"), (8, "left")])
def test_exif_rotation_is_applied(tmp_path, orientation, red_side):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(_two_halves()).save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture = read_image(tmp_path / "a.jpg").astype(int)
    redness = picture[..., 0] - picture[..., 2]
    edges = {"top": redness[:8], "bottom": redness[-8:], "left": redness[:, :8], "right": redness[:, -8:]}
    assert max(edges, key=lambda side: edges[side].mean()) == red_side


def test_transparency_becomes_white(tmp_path):
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:32] = (*RED, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert tuple(picture[0, 0]) == RED and tuple(picture[63, 63]) == (255, 255, 255)


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (64, 64), color=1)
    image.paste(0, (0, 0, 64, 32))
    image.putpalette([*RED, *BLUE])
    image.save(tmp_path / "a.png", transparency=1)
    picture = read_image(tmp_path / "a.png")
    assert tuple(picture[0, 0]) == RED and tuple(picture[63, 63]) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "CMYK", "YCbCr", "P"])
def test_colour_modes(tmp_path, mode):
    name = "a.jpg" if mode in ("CMYK", "YCbCr") else "a.png"
    Image.fromarray(_two_halves()).convert(mode).save(tmp_path / name)
    picture = read_image(tmp_path / name)
    expected = np.asarray(Image.fromarray(_two_halves()).convert(mode).convert("RGB"))
    np.testing.assert_allclose(picture[[10, 70]].astype(int), expected[[10, 70]].astype(int), atol=12)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 128).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(picture[0, :, 0], np.linspace(0, 255, 128), atol=1)


def test_float_tiff_from_zero_to_one(tmp_path):
    Image.fromarray(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))).save(tmp_path / "a.tiff")
    assert read_image(tmp_path / "a.tiff")[0, -1, 0] == 255


@pytest.mark.parametrize(("size", "message"), [((63, 200), "at least 64 px"), ((8193, 64), "at most 8192")])
def test_sizes_out_of_bounds_are_refused(tmp_path, size, message):
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=f"{size[0]}x{size[1]}.*{message}"):
        read_image(tmp_path / "a.png")


def test_a_picture_of_palette_colours_without_a_palette_is_refused(tmp_path):
    Image.new("P", (80, 80)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(without_chunk(content, b"PLTE"))
    with pytest.raises(ImageError, match="a.png is damaged: it has numbers of colours, but no colours"):
        read_image(tmp_path / "a.png")


def test_a_damaged_picture_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    for name in ("a.jpg", "a.png"):
        Image.fromarray(noise).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ImageError, match="damaged or cut off"):
            read_image(tmp_path / name)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ImageError, match="not a picture.*PNG or JPEG"):
        read_image(tmp_path / "a.jpg")


def test_write_and_read_back(tmp_path):
    write_image(tmp_path / "a.png", _two_halves())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), _two_halves())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(ImageError, match="unknown ending"):
        write_image(tmp_path / "a.xyz", _two_halves())
    with pytest.raises(ValueError, match="uint8"):
        write_image(tmp_path / "b.png", _two_halves() / 255)
