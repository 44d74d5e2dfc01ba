"""Picture files of other kinds than JPEG and PNG: upright once, the main picture of several, small before decoded."""

from __future__ import annotations

import base64
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from openloopy.media import picture_file
from openloopy.media.image import ImageError, as_rgb, read_image
from openloopy.media.picture_file import FORMATS, PICTURE_ENDINGS, check_size, open_picture
from openloopy.media.picture_headers import avif_codes, boxes, jxl_size, png_codes
from tests.formats_table import photoshop

pillow_heif = pytest.importorskip("pillow_heif", reason="needs the `heic` extra")
pytest.importorskip("pillow_jxl", reason="needs the `jxl` extra")
pillow_heif.register_heif_opener()

RED, BLUE = (200, 30, 30), (30, 30, 200)
ORIENTATION = 0x0112
SIDES = {1: "top", 2: "top", 3: "bottom", 4: "bottom", 5: "left", 6: "right", 7: "right", 8: "left"}
"""Where the upper side of a picture is after it was turned as EXIF's orientation says."""
TURNED_JXL = """AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAEFanhsY/8KkyyQUFwSABKIAgC4A13lEgAAFSqjjBu8nOv58kOHxbSN6wxt
tW1hSaLIODZJJ3AIKbCBSd7FmDHGjDGZmWTGIMaMMcZkwigIAOC+hDwYSYS1K9BtkwiSDZlB5da9g4XSPS07QRM8EwgzXwbJqEWg+FZM
bmVOAAQjst2ZtBWjrEIKZF6MMxMvZzLGjDkzEydOjMN31lwwwjNLBgw5gQrtwCGD/nuLb8Z/+Ak4eKwpLLwFiML5lfQY3DBRteTmjEnc
nHgbDrbKK08pO/cCdzgg1gbUpP0FJSqSDuJDM1SRDP4BSrPMgVLvW2qqLuBTSzgAdDQQ7SYbgwKAWgc="""
"""By cjxl 0.7 from red above blue, 96x80 px, with orientation 6 in its head, where its plugin cannot write it."""
P3_JXL = """/wqTQEImFwIAEogCALwDXeUSAAAVKqOMG7yc6/nyQ4fFtI3rDG21bWFJosg4NkkncAgpsIGRGXmZMcaMMfIyj5kxxngZM8aYjBhhHwBT
ApYo5KBsXPrDVVFMYuQqhxUdy+fyjcu5l+DZaGUGEFiirqKwIDYrRoqzZwiD0QHvD5NVIQUyL8Y4Mzc5MebEzJk4cSbGUf/xMDDPyItD
7L0KFHuEg1Setrjfa56pcjYWMRihfYxRkgWs4FHsOddzMT4+uyDZIvOiXF5eKXmgaqPpgc1cO6WEWUiWJ45x4G+wjBXEtnNMpQY4KAFJ
tRg1GlCpHgeC7BS0taoASTT5XQA="""
"""By cjxl 0.7 from red above blue in Display P3, which it writes by name and not as a profile."""


def two_halves(width=96, height=80) -> Image.Image:
    """Red above blue."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2], picture[height // 2 :] = RED, BLUE
    return Image.fromarray(picture)


def red_side(rgb: np.ndarray) -> str:
    redness = rgb[..., 0].astype(int) - rgb[..., 2]
    edges = {"top": redness[:8], "bottom": redness[-8:], "left": redness[:, :8], "right": redness[:, -8:]}
    return max(edges, key=lambda side: edges[side].mean())


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff", "avif", "heic"])
@pytest.mark.parametrize("orientation", SIDES)
def test_every_format_is_turned_once(tmp_path, ending, orientation):
    """HEIC and AVIF say it twice, in EXIF and in a box of their own; TIFFs Pillow turns itself."""
    two_halves().save(tmp_path / f"a.{ending}", exif=turned(orientation))
    rgb = read_image(tmp_path / f"a.{ending}", pytest.fail)
    assert red_side(rgb) == SIDES[orientation]
    assert rgb.shape == ((80, 96, 3) if orientation < 5 else (96, 80, 3))


def test_heic_that_is_turned_by_exif_alone_stands_as_it_is(tmp_path):
    """EXIF's word does not count in HEIC (ISO/IEC 23008-12, annex A.2.3), its own box does."""
    two_halves().save(tmp_path / "a.heic", exif=turned(6), quality=95)
    content = (tmp_path / "a.heic").read_bytes()
    assert content.count(b"irot") == 1
    (tmp_path / "a.heic").write_bytes(content.replace(b"irot\x03", b"free\x03"))
    assert red_side(read_image(tmp_path / "a.heic")) == "top"


def test_jpeg_xl_is_turned_once(tmp_path):
    content = base64.b64decode(TURNED_JXL)
    path = tmp_path / "a.jxl"
    path.write_bytes(content)
    assert red_side(read_image(path)) == "right"
    at = content.index(b"jxlc") - 4
    exif = bytes(4) + turned(6).removeprefix(b"Exif\0\0")
    path.write_bytes(content[:at] + struct.pack(">I", 8 + len(exif)) + b"Exif" + exif + content[at:])
    assert red_side(read_image(path)) == "right"
    two_halves().save(tmp_path / "a.jpg", exif=turned(6), quality=95)
    Image.open(tmp_path / "a.jpg").save(path, lossless_jpeg=True)
    assert red_side(read_image(path)) == "right"


def test_jpeg_xl_in_display_p3(tmp_path):
    (tmp_path / "a.jxl").write_bytes(base64.b64decode(P3_JXL))
    np.testing.assert_allclose(read_image(tmp_path / "a.jxl")[20, 48], (218, 0, 0), atol=3)


@pytest.mark.parametrize("settings", [{}, {"lossless": True}])
def test_jpeg_xl(tmp_path, settings):
    for mode in ("RGB", "RGBA", "L", "LA"):
        two_halves().convert(mode).save(tmp_path / "a.jxl", **settings)
        expected = np.asarray(two_halves().convert(mode).convert("RGB")).astype(int)
        np.testing.assert_allclose(read_image(tmp_path / "a.jxl")[[10, 70]], expected[[10, 70]], atol=8)


def test_heic_of_ten_bits_with_transparency_and_in_grey(tmp_path):
    path = tmp_path / "a.heic"
    sixteen = np.asarray(two_halves()).astype(np.uint16) * 257
    pillow_heif.from_bytes("RGB;16", (96, 80), sixteen.tobytes()).save(path, quality=95)
    assert pillow_heif.open_heif(path).info["bit_depth"] == 10
    np.testing.assert_allclose(read_image(path)[10, 48], RED, atol=4)
    image = two_halves()
    image.putalpha(51)
    image.save(path, quality=95)
    np.testing.assert_allclose(read_image(path)[10, 48], 204 + np.array(RED) / 5, atol=4)
    two_halves().convert("L").save(path)
    assert np.ptp(read_image(path), axis=2).max() == 0


@pytest.mark.parametrize("ending", ["heic", "avif", "gif", "png", "webp", "tiff", "mpo"])
def test_the_first_of_several_pictures(tmp_path, ending):
    other = two_halves().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    kind = {"mpo": "MPO"}.get(ending)
    two_halves().save(tmp_path / f"a.{ending}", kind, save_all=True, append_images=[other])
    assert red_side(read_image(tmp_path / f"a.{ending}")) == "top"


def test_the_main_picture_of_a_heic(tmp_path):
    other = two_halves().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    two_halves().save(tmp_path / "a.heic", save_all=True, append_images=[other], primary_index=1)
    assert red_side(read_image(tmp_path / "a.heic")) == "bottom"


def test_names_do_not_count(tmp_path):
    two_halves().save(tmp_path / "a.heic")
    (tmp_path / "a.heic").rename(tmp_path / "image")
    assert red_side(read_image(tmp_path / "image")) == "top"


@pytest.mark.parametrize("ending", ["heic", "avif", "jxl", "webp", "tiff", "gif", "bmp", "jp2", "psd", "qoi"])
def test_damaged_files_are_refused(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    if ending == "psd":
        path.write_bytes(photoshop(noise))
    else:
        Image.fromarray(noise).save(path)
    content = path.read_bytes()
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ImageError, match="damaged or cut off|not a picture that can be read"):
            read_image(path)


@pytest.mark.parametrize(
    "ending, module, extra", [("heic", "pillow_heif", "heic"), ("jxl", "pillow_jxl", "jxl")]
)
def test_without_an_extra_its_format_is_refused_by_name(tmp_path, monkeypatch, ending, module, extra):
    path = tmp_path / f"a.{ending}"
    two_halves().save(path)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    picture_file._readable.cache_clear()
    try:
        with pytest.raises(
            ImageError, match=rf"needs the extra `{extra}`: pip install 'openloopy\[{extra}\]'"
        ):
            read_image(path)
        two_halves().save(tmp_path / "a.png")
        read_image(tmp_path / "a.png")
    finally:
        monkeypatch.undo()
        picture_file._readable.cache_clear()
    read_image(path)


def test_what_is_not_listed_is_not_opened(tmp_path):
    """An EPS would be run by Ghostscript, wherever that is installed."""
    two_halves().save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is not a picture that can be read; convert it to PNG or JPEG"):
        read_image(tmp_path / "a.png")


def huge_png(side_px: int) -> bytes:
    head = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + head, b"IDAT" + zlib.compress(bytes(100)))
    parts = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def huge_jxl(side_px: int) -> bytes:
    """Only a head: both sides in 30 bits."""
    bits, at = 0, 0
    for value, count in ((0, 1), (3, 2), (side_px - 1, 30), (0, 3), (3, 2), (side_px - 1, 30)):
        bits, at = bits | value << at, at + count
    return b"\xff\x0a" + bits.to_bytes(12, "little")


@pytest.mark.parametrize("side_px", [8193, 40_000])
@pytest.mark.parametrize("content", [huge_png, huge_jxl])
def test_size_is_refused_before_anything_is_decoded(tmp_path, content, side_px):
    (tmp_path / "a").write_bytes(content(side_px))
    with pytest.raises(ImageError, match="each side may have at most 8192 px, scale it down first"):
        open_picture(tmp_path / "a")


def test_a_jpeg_xl_without_a_size_is_refused(tmp_path):
    for content in (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20)):
        (tmp_path / "a.jxl").write_bytes(content)
        with pytest.raises(ImageError, match="damaged or cut off"):
            open_picture(tmp_path / "a.jxl")


def test_sizes_of_jpeg_xl(tmp_path):
    for size in [(96, 80), (64, 64), (300, 200), (256, 256), (1100, 64), (65, 1201), (160, 90), (2000, 1000)]:
        Image.new("RGB", size).save(tmp_path / "a.jxl", effort=1)
        assert jxl_size((tmp_path / "a.jxl").read_bytes()) == size
        Image.new("RGB", size).save(tmp_path / "a.jxl", effort=1, use_container=True, exif=turned(1))
        assert jxl_size((tmp_path / "a.jxl").read_bytes()) == size


@pytest.mark.parametrize("exif", [b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x05\x01\x12"])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_that_ends_early_is_told_and_left(tmp_path, recwarn, ending, exif):
    path = tmp_path / f"a.{ending}"
    two_halves().save(path, exif=b"Exif\0\0" + exif)
    said = []
    assert red_side(read_image(path, said.append)) == "top"
    assert len(said) == 1 and said[0].startswith(f"{path}: Corrupt EXIF data.") and "may be lost" in said[0]
    assert not recwarn.list
    read_image(path)
    assert recwarn.list, "with nobody to tell it stays a warning of Python's"


def test_what_is_no_exif_is_told_and_left(tmp_path):
    two_halves().save(tmp_path / "a.png", exif=b"Exif\0\0garbage, not a TIFF")
    said = []
    assert red_side(read_image(tmp_path / "a.png", said.append)) == "top"
    assert len(said) == 1 and "has EXIF that cannot be read" in said[0]
    assert red_side(read_image(tmp_path / "a.png")) == "top"


def test_a_damaged_picture_that_is_opened_already(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)).save(
        buffer, "JPEG"
    )
    with pytest.raises(ImageError, match="the picture is damaged or cut off"):
        as_rgb(Image.open(io.BytesIO(buffer.getvalue()[:2000])))


def test_a_large_picture_is_whole(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (700, 1031, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), rgb)


def test_heads_that_end_early_tell_nothing():
    two_halves().save(buffer := io.BytesIO(), "AVIF")
    content = buffer.getvalue()
    assert avif_codes(content) == (1, 13)
    assert {avif_codes(content[:end]) for end in range(200)} <= {None, (1, 13)}
    two_halves().save(buffer := io.BytesIO(), "PNG")
    assert {png_codes(buffer.getvalue()[:end]) for end in range(100)} == {None}
    assert list(boxes(b"\0\0\0\x03ftyp")) == [] == list(boxes(b"\0\0\0\x01ftyp"))
    assert list(boxes(b"\0\0\0\0mdatrest")) == [(b"mdat", b"rest")]
    assert list(boxes(struct.pack(">I4sQ", 1, b"mdat", 18) + b"xyz")) == [(b"mdat", b"xy")]


def test_endings_are_told_apart():
    endings = [ending for kind in FORMATS for ending in kind.endings]
    assert len(endings) == len(set(endings)) == len(PICTURE_ENDINGS)
    assert {".jpg", ".heic", ".avif", ".jxl"} <= PICTURE_ENDINGS
    assert all(ending == ending.lower() and ending.startswith(".") for ending in endings)
    check_size((8192, 64), "a")
