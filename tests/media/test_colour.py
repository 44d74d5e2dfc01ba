"""Colours come out as the file's own word has them: profiles, codes, gamma, EXIF; expected by other formulas."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from openloopy.media.colour import to_srgb
from openloopy.media.icc import ADOBE_RGB, PRIMARIES, ColourSpace, power, srgb_curve
from openloopy.media.image import as_rgb, read_image
from tests.media.colours import (
    PROPHOTO_CHROMATICITIES,
    corner_profile,
    from_a98,
    from_lab,
    from_p3,
    from_prophoto,
    prophoto_light,
)

SKIN, LEAF = (190, 120, 96), (96, 130, 70)
P3 = ColourSpace(PRIMARIES[12], srgb_curve).profile(is_grey=False)
PROPHOTO = ColourSpace(PROPHOTO_CHROMATICITIES, prophoto_light).profile(is_grey=False)
ADOBE = ADOBE_RGB.profile(is_grey=False)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COLOR_SPACE, INTEROP, EXIF_IFD = 0xA001, 0xA005, 0x8769


def halves(top=SKIN, bottom=LEAF) -> Image.Image:
    picture = np.empty((80, 96, 3), np.uint8)
    picture[:40], picture[40:] = top, bottom
    return Image.fromarray(picture)


def assert_halves(rgb: np.ndarray, top, bottom, atol=1.01) -> None:
    assert rgb.shape == (80, 96, 3) and rgb.dtype == np.uint8
    np.testing.assert_allclose(rgb[20, 48], top, atol=atol)
    np.testing.assert_allclose(rgb[60, 48], bottom, atol=atol)


def saved(image: Image.Image, path, **settings) -> np.ndarray:
    """What is read of it; nothing is to be said."""
    image.save(path, **settings)
    return read_image(path, pytest.fail)


@pytest.mark.parametrize(
    "profile, expected",
    [(P3, from_p3), (ADOBE, from_a98), (PROPHOTO, from_prophoto)],
    ids=["Display P3", "Adobe RGB", "ProPhoto"],
)
def test_profiles_are_obeyed(tmp_path, profile, expected):
    rgb = saved(halves(), tmp_path / "a.png", icc_profile=profile)
    assert_halves(rgb, expected(SKIN), expected(LEAF))
    assert np.abs(expected(SKIN) - SKIN).max() > 10, "it would not be seen"


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff", "avif", "heic"])
def test_in_every_format_that_holds_profiles(tmp_path, ending):
    read_image_of_heic_first(tmp_path)
    rgb = saved(halves(), tmp_path / f"a.{ending}", icc_profile=P3, quality=95)
    assert_halves(rgb, from_p3(SKIN), from_p3(LEAF), atol=5)
    assert rgb[20, 48, 0] > SKIN[0] + 5


def read_image_of_heic_first(folder) -> None:
    """Then Pillow knows how to write it."""
    halves().save(folder / "first.png")
    read_image(folder / "first.png")


def test_colours_that_srgb_has_not_become_the_nearest(tmp_path):
    rgb = saved(halves((255, 0, 0), (0, 255, 0)), tmp_path / "a.png", icc_profile=P3)
    assert_halves(rgb, (255, 0, 0), (0, 255, 0))


def test_white_and_black_stay(tmp_path):
    for profile in (P3, ADOBE, PROPHOTO):
        rgb = saved(halves((255, 255, 255), (0, 0, 0)), tmp_path / "a.png", icc_profile=profile)
        assert_halves(rgb, (255, 255, 255), (0, 0, 0), atol=0)


def test_srgb_keeps_its_numbers(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    by_codes = ColourSpace(PRIMARIES[1], srgb_curve).profile(is_grey=False)
    for profile in (SRGB, by_codes):
        assert np.array_equal(saved(Image.fromarray(noise), tmp_path / "a.png", icc_profile=profile), noise)


def nudged(profile: bytes) -> bytes:
    """With the X of green .00005 higher: so far apart are the sRGBs of those who write profiles."""
    content = bytearray(profile)
    (at,) = struct.unpack_from(">I", content, content.index(b"gXYZ") + 4)
    (x,) = struct.unpack_from(">i", content, at + 8)
    struct.pack_into(">i", content, at + 8, x + 3)
    return bytes(content)


def test_another_srgb_keeps_its_numbers_too(tmp_path):
    rgb = saved(halves((0, 237, 0), LEAF), tmp_path / "a.png", icc_profile=nudged(SRGB))
    assert_halves(rgb, (0, 237, 0), LEAF, atol=0)  # red would be 1


def test_a_picture_in_memory_is_converted_and_stays_as_it_is():
    image = halves()
    image.info["icc_profile"] = P3
    assert_halves(as_rgb(image), from_p3(SKIN), from_p3(LEAF))
    assert image.getpixel((48, 20)) == SKIN and image.info["icc_profile"] == P3


def test_a_palette_with_a_profile(tmp_path):
    rgb = saved(halves().convert("P", palette=Image.Palette.ADAPTIVE), tmp_path / "a.png", icc_profile=P3)
    assert_halves(rgb, from_p3(SKIN), from_p3(LEAF))


def test_transparency_is_over_white_in_srgb(tmp_path):
    image = halves()
    image.putalpha(51)  # a fifth
    rgb = saved(image, tmp_path / "a.png", icc_profile=P3)
    assert_halves(rgb, 204 + from_p3(SKIN) / 5, 204 + from_p3(LEAF) / 5)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_with_its_own_profile(tmp_path, mode):
    profile = ColourSpace(PRIMARIES[1], power(1.8)).profile(is_grey=True)
    image = Image.new("L", (96, 80), 100).convert(mode)
    light = (100 / 255) ** 1.8
    expected = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    assert_halves(saved(image, tmp_path / "a.png", icc_profile=profile), [expected] * 3, [expected] * 3)


def test_grey_with_a_profile_of_colours(tmp_path):
    profile = ColourSpace(PRIMARIES[12], power(1.8)).profile(is_grey=False)
    expected = 255 * (1.055 * (100 / 255) ** (1.8 / 2.4) - 0.055)
    rgb = saved(Image.new("L", (96, 80), 100), tmp_path / "a.jpg", icc_profile=profile)
    assert_halves(rgb, [expected] * 3, [expected] * 3)


def test_sixteen_bits_of_light_keep_their_shadows(tmp_path):
    light = np.tile(np.linspace(0, 0.004, 96), (80, 1))  # one level of 255, if rounded first
    profile = ColourSpace(PRIMARIES[1], power(1)).profile(is_grey=True)
    image = Image.fromarray(np.rint(light * 65535).astype(np.uint16))
    rgb = saved(image, tmp_path / "a.png", icc_profile=profile)
    levels = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(rgb[0, :, 1], levels[0], atol=1.01)
    assert len(np.unique(rgb)) > 8


CYAN, PAPER, BLACK = (55, -37, -50), (100, 0, 0), (0, 0, 0)
"""As ISO Coated prints them, in CIELAB."""


def prints(c, m, y, k) -> tuple[float, float, float]:
    return BLACK if k else (CYAN if c and not (m or y) else (PAPER if not (c or m or y) else (50, 30, 30)))


INKS = corner_profile(b"prtr", b"CMYK", prints)


@pytest.mark.parametrize("name", ["a.jpg", "a.tiff"])
def test_inks_with_a_profile(tmp_path, name):
    image = Image.new("CMYK", (96, 80), (255, 0, 0, 0))
    image.paste((0, 0, 0, 0), (0, 40, 96, 80))
    rgb = saved(image, tmp_path / name, icc_profile=INKS)
    assert_halves(rgb, from_lab(CYAN), (255, 255, 255), atol=4)


def test_black_becomes_black_however_grey_it_is(tmp_path):
    """As of a scanner or a print, whose black is no darker than L* 16."""
    profile = corner_profile(b"scnr", b"RGB ", lambda r, g, b: (100 if r + g + b == 3 else 16, 0, 0))
    rgb = saved(halves((0, 0, 0), (255, 255, 255)), tmp_path / "a.tiff", icc_profile=profile)
    assert_halves(rgb, (0, 0, 0), (255, 255, 255), atol=2)


def test_inks_without_a_profile_are_mixed_as_browsers_do(tmp_path):
    image = Image.new("CMYK", (96, 80), (255, 0, 0, 0))
    assert_halves(saved(image, tmp_path / "a.jpg"), (0, 255, 255), (0, 255, 255), atol=2)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes(), "which means that ink is written as its lack"


def test_cielab_in_a_tiff(tmp_path):
    lab = Image.merge("LAB", [Image.new("L", (96, 80), level) for level in (round(60 * 2.55), 148, 158)])
    assert_halves(saved(lab, tmp_path / "a.tiff"), from_lab((60, 20, 30)), from_lab((60, 20, 30)), atol=2)


def png_with(path, chunk: bytes, content: bytes, image=None, **settings):
    info = PngImagePlugin.PngInfo()
    info.add(chunk, content)
    (image or halves()).save(path, pnginfo=info, **settings)
    return read_image(path)


def chromaticities(*points: float) -> bytes:
    return struct.pack(">8I", *(round(point * 100_000) for point in points))


def test_a_pngs_primaries_and_gamma(tmp_path):
    rgb = png_with(tmp_path / "a.png", b"cHRM", chromaticities(*PRIMARIES[12]))
    assert_halves(rgb, from_p3(SKIN), from_p3(LEAF))
    light = (np.array(SKIN) / 255) ** 1.8
    rgb = png_with(tmp_path / "b.png", b"gAMA", struct.pack(">I", round(100_000 / 1.8)))
    np.testing.assert_allclose(rgb[20, 48], 255 * (1.055 * light ** (1 / 2.4) - 0.055), atol=1.01)


def test_a_pngs_gamma_that_stands_for_srgb_changes_nothing(tmp_path):
    assert_halves(png_with(tmp_path / "a.png", b"gAMA", struct.pack(">I", 45455)), SKIN, LEAF, atol=0)
    # sRGB it is, whatever gamma says beside it
    path = tmp_path / "b.png"
    png_with(path, b"gAMA", struct.pack(">I", 100_000))
    content, srgb = path.read_bytes(), b"sRGB\0"
    chunk = struct.pack(">I", 1) + srgb + struct.pack(">I", zlib.crc32(srgb))
    path.write_bytes(content[:33] + chunk + content[33:])
    assert_halves(read_image(path), SKIN, LEAF, atol=0)


def test_a_grey_pngs_gamma_keeps_sixteen_bits(tmp_path):
    image = Image.fromarray(np.full((80, 96), 131, np.uint16))  # .002 of light, half a level of 255
    rgb = png_with(tmp_path / "a.png", b"gAMA", struct.pack(">I", 100_000), image)
    assert_halves(rgb, [6.6] * 3, [6.6] * 3)


def test_a_pngs_codes_come_before_its_profile(tmp_path):
    rgb = png_with(tmp_path / "a.png", b"cICP", bytes([12, 13, 0, 1]), icc_profile=ADOBE)
    assert_halves(rgb, from_p3(SKIN), from_p3(LEAF))
    rgb = png_with(tmp_path / "b.png", b"cICP", bytes([1, 13, 0, 1]), icc_profile=ADOBE)
    assert_halves(rgb, SKIN, LEAF, atol=0)


def test_codes_of_avif_and_heic(tmp_path):
    read_image_of_heic_first(tmp_path)
    halves().save(tmp_path / "a.avif", quality=95)
    content = (tmp_path / "a.avif").read_bytes()
    at = content.index(b"colrnclx") + 8
    (tmp_path / "a.avif").write_bytes(content[:at] + bytes([0, 12]) + content[at + 2 :])
    assert_halves(read_image(tmp_path / "a.avif"), from_p3(SKIN), from_p3(LEAF), atol=5)
    halves().save(tmp_path / "a.heic", quality=95, color_primaries=12, transfer_characteristics=13)
    assert_halves(read_image(tmp_path / "a.heic"), from_p3(SKIN), from_p3(LEAF), atol=5)


@pytest.mark.parametrize(
    "transfer, white, expected",
    [(16, 148, 255), (18, 191, 255), (16, 97, 100), (18, 96, 100)],
    ids=["PQ, white", "HLG, white", "PQ, 26 nits", "HLG, .376"],
)
def test_hdr_shows_its_white_as_white(tmp_path, transfer, white, expected):
    """PQ: .58 is 203 cd/m2 (BT.2408, table 1), .38 is 26 (BT.2100); HLG: .75 is the same white, .376 an eighth."""
    said = []
    png_with(
        tmp_path / "a.png", b"cICP", bytes([9, transfer, 0, 1]), Image.new("RGB", (96, 80), (white,) * 3)
    )
    rgb = read_image(tmp_path / "a.png", said.append)
    assert_halves(rgb, [expected] * 3, [expected] * 3, atol=1.5)
    assert len(said) == 1 and "is HDR" in said[0]


def test_a_profile_inside_jpeg_2000(tmp_path):
    halves().save(tmp_path / "a.jp2", quality_mode="dB", quality_layers=[60])
    content = (tmp_path / "a.jp2").read_bytes()
    start = content.index(b"colr") - 4
    (length,) = struct.unpack_from(">I", content, start)
    colours = b"colr" + bytes([2, 0, 0]) + P3
    grown = struct.pack(">I", 4 + len(colours)) + colours
    header = content.index(b"jp2h") - 4
    (header_length,) = struct.unpack_from(">I", content, header)
    content = content[:start] + grown + content[start + length :]
    content = (
        content[:header] + struct.pack(">I", header_length + len(grown) - length) + content[header + 4 :]
    )
    (tmp_path / "a.jp2").write_bytes(content)
    assert_halves(read_image(tmp_path / "a.jp2"), from_p3(SKIN), from_p3(LEAF), atol=3)


@pytest.mark.parametrize(
    "told, interop, is_adobe",
    [
        (2, None, True),
        (0xFFFF, "R03", True),
        (0xFFFF, "R98", False),
        (0xFFFF, None, False),
        (1, "R03", False),
    ],
)
def test_adobe_rgb_by_exif(tmp_path, told, interop, is_adobe):
    exif = Image.Exif()
    exif[EXIF_IFD] = {COLOR_SPACE: told} | ({INTEROP: {1: interop}} if interop else {})
    halves().save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    expected = (from_a98(SKIN), from_a98(LEAF)) if is_adobe else (SKIN, LEAF)
    assert_halves(read_image(tmp_path / "a.jpg"), *expected, atol=3)


def test_a_profile_comes_before_exif(tmp_path):
    exif = Image.Exif()
    exif[EXIF_IFD] = {COLOR_SPACE: 2}
    rgb = saved(halves(), tmp_path / "a.png", icc_profile=SRGB, exif=exif)
    assert_halves(rgb, SKIN, LEAF, atol=0)


@pytest.mark.parametrize(
    "profile, reason",
    [
        (b"no profile at all", "cannot open profile"),
        (P3[:200], "cannot"),
        (P3[:300] + bytes(len(P3) - 300), "cannot"),
        (ColourSpace(PRIMARIES[1], power(1)).profile(is_grey=True), "it is for GRAY, the picture is RGB"),
        (INKS, "it is for CMYK, the picture is RGB"),
    ],
    ids=["text", "cut off", "emptied", "grey", "inks"],
)
def test_profiles_that_cannot_be_used_are_told_and_left(tmp_path, profile, reason):
    halves().save(tmp_path / "a.png", icc_profile=profile)
    said = []
    assert_halves(read_image(tmp_path / "a.png", said.append), SKIN, LEAF, atol=0)
    (told,) = said
    assert (
        told.startswith(f"{tmp_path / 'a.png'} has a colour profile that cannot be used (") and reason in told
    )
    assert_halves(read_image(tmp_path / "a.png"), SKIN, LEAF, atol=0)  # with nobody to tell


@pytest.mark.parametrize(
    "chunk, content",
    [
        (b"gAMA", struct.pack(">I", 0)),
        (b"gAMA", struct.pack(">I", 2**32 - 1)),
        (b"cHRM", bytes(32)),
        (b"cHRM", chromaticities(*[0.3] * 8)),
        (b"cHRM", struct.pack(">8I", *[1] * 8)),
        (b"cHRM", struct.pack(">8I", *[2**32 - 1, 1] * 4)),
        (b"cICP", bytes([77, 99, 0, 1])),
    ],
)
def test_colours_that_make_no_sense_are_told_and_left(tmp_path, chunk, content):
    png_with(tmp_path / "a.png", chunk, content)
    said = []
    assert_halves(read_image(tmp_path / "a.png", said.append), SKIN, LEAF, atol=0)
    assert len(said) == 1 and "colour profile that cannot be used" in said[0]


@pytest.mark.parametrize("mode", "1 L LA La P PA RGB RGBA RGBa CMYK YCbCr HSV I F".split())
def test_every_mode_of_pillow_becomes_rgb(mode):
    image = halves()
    image = image.convert({"RGBa": "RGBA", "La": "LA", "PA": "P"}.get(mode, mode)).convert(mode)
    assert to_srgb(image).mode == "RGB"


def test_a_profile_is_no_burden_for_pictures_cut_from_one(tmp_path):
    """Pillow's `crop` and `resize` keep the profile, `convert` too, where it no longer fits."""
    image = Image.new("CMYK", (96, 80), (255, 0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", icc_profile=INKS)
    converted = Image.open(buffer).convert("RGB")
    said = []
    assert_halves(as_rgb(converted, said.append), (0, 255, 255), (0, 255, 255), atol=0)
    assert len(said) == 1
