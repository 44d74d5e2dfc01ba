"""Crops are placed to a fraction of a pixel, anti-aliased, and the right face is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.crop import (
    Crop,
    FaceTooSmallError,
    NoFaceError,
    ProfileError,
    apply_crop,
    portrait_crop,
    select_face,
    soften_outside,
    warp,
)
from openloopy.face.landmarks import Face
from openloopy.face.mesh import CHIN, FOREHEAD, Pose, canonical_mesh, rotation_of


def face_at(x: float, y: float, height_px: float, yaw: float = 0.0) -> Face:
    """A face of given height whose forehead-chin centre is at x y."""
    turned = canonical_mesh().vertices @ rotation_of(Pose(yaw, 0, 0)).T
    scale = height_px / np.linalg.norm(turned[FOREHEAD, :2] - turned[CHIN, :2])
    mesh = turned * scale
    middle = mesh[[FOREHEAD, CHIN]].mean(0)
    return Face.from_mesh(mesh + [x - middle[0], y - middle[1], 0])


def ramp(width: int, height: int) -> np.ndarray:
    """Red grows by one per pixel to the right, green downwards: at a position p the value is p."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x, y, 0 * x], -1).round().astype(np.uint8)


def test_whole_picture_at_its_own_size_is_unchanged():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(apply_crop(picture, Crop(0, 0, 64), 64), picture)


@pytest.mark.parametrize("crop", [Crop(20.3, 31.7, 100.0), Crop(50.5, 40.25, 31.0)])
@pytest.mark.parametrize("size_px", [16, 64, 200])
def test_positions_are_exact(crop, size_px):
    drawn = apply_crop(ramp(200, 180), crop, size_px).astype(float)
    centres = (np.arange(size_px) + 0.5) * crop.size / size_px
    assert np.abs(drawn[..., 0] - (crop.x0 + centres)[None]).max() < 1.0  # 8-bit rounding, twice
    assert abs((drawn[..., 0] - (crop.x0 + centres)[None]).mean()) < 0.55
    assert abs((drawn[..., 1] - (crop.y0 + centres)[:, None]).mean()) < 0.55


def test_points_follow_the_pixels():
    picture = np.zeros((300, 300, 3), np.uint8)
    picture[140:144, 171:175] = 255  # centre at (173, 142)
    crop = Crop(100.5, 80.25, 120.0)
    drawn = apply_crop(picture, crop, 90)[..., 0].astype(float)
    y, x = np.mgrid[:90, :90] + 0.5
    found = np.array([(x * drawn).sum(), (y * drawn).sum()]) / drawn.sum()
    np.testing.assert_allclose(found, crop.to_crop(np.array([173.0, 142.0]), 90), atol=0.1)


def test_to_source_undoes_to_crop():
    crop = Crop(-12.5, 33.0, 77.0)
    points = np.random.default_rng(0).uniform(0, 200, (478, 3)).astype(np.float32)
    np.testing.assert_allclose(crop.to_source(crop.to_crop(points, 256), 256), points, atol=1e-3)


def test_shrinking_is_anti_aliased():
    checkers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    drawn = apply_crop(np.repeat(checkers[..., None], 3, 2), Crop(0, 0, 256), 32).astype(int)
    assert np.abs(drawn - 127).max() <= 3


def test_border_is_repeated_outside():
    picture = np.full((50, 60, 3), 90, np.uint8)
    picture[:, 0] = (200, 10, 10)
    drawn = apply_crop(picture, Crop(-20, 5, 40), 40)
    assert np.all(drawn[:, :18] == (200, 10, 10)) and np.all(drawn[:, 24:] == 90)


def test_what_lies_beyond_the_picture_fades_into_a_blur():
    stripes = np.repeat((np.arange(100) % 8 < 4)[None] * np.uint8(255), 100, 0)[..., None].repeat(3, 2)
    square = apply_crop(stripes, Crop(0, -50, 100), 200)
    soft = soften_outside(square, Crop(0, -50, 100).outside((100, 100)))
    assert np.array_equal(soft[100:], square[100:]), "the picture itself stays"
    contrast = soft[:, 20:-20, 0].astype(float).std(axis=1)
    assert contrast[0] < 0.2 * contrast[150] and contrast[99] > 0.9 * contrast[150]
    assert (np.diff(contrast[:100]) > -1).all(), "the farther, the softer"
    assert soften_outside(square, (0.0, 0.0, 0.0, 0.0)) is square


@pytest.mark.parametrize("factor", [0.9, 0.4, 0.11])
def test_a_warp_puts_things_where_it_should_whatever_it_shrinks(factor):
    picture = np.full((1200, 1600, 3), 40, np.uint8)
    picture[590:611, 890:911] = 255  # centre at (900.5, 600.5)
    angle = np.deg2rad(20)
    linear = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = np.array([70.0, 60.0]) - linear @ [900.5, 600.5]
    drawn = warp(picture, linear, offset, 128).astype(float)[..., 0] - 40
    y, x = np.mgrid[:128, :128] + 0.5
    found = np.array([(x * drawn).sum(), (y * drawn).sum()]) / drawn.sum()
    np.testing.assert_allclose(found, [70, 60], atol=0.1)
    assert drawn.sum() == pytest.approx(215 * 21**2 * factor**2, rel=0.03), "no light is lost"


def test_a_warp_at_the_corner_of_a_large_picture_repeats_its_border():
    picture = np.full((2000, 2000, 3), 90, np.uint8)
    picture[:, :40] = (200, 10, 10)
    drawn = warp(picture, np.eye(2) * 0.1, np.array([64.0, 64.0]), 128)
    assert np.abs(drawn[:, :60].astype(int) - (200, 10, 10)).max() <= 1
    assert np.abs(drawn[:, 75:].astype(int) - 90).max() <= 1


def test_square_wholly_outside_is_an_error():
    with pytest.raises(ValueError, match="outside the 60x50 picture"):
        apply_crop(np.zeros((50, 60, 3), np.uint8), Crop(500, 0, 40), 40)
    with pytest.raises(ValueError, match="positive size"):
        apply_crop(np.zeros((50, 60, 3), np.uint8), Crop(0, 0, 0), 40)


def test_portrait_crop_frames_the_face():
    crop = portrait_crop(face_at(500, 400, 200), (1000, 900))
    assert crop.size == pytest.approx(1.9 * 200, rel=1e-5)
    assert (400 - crop.y0) / crop.size == pytest.approx(0.49, abs=1e-4)
    assert (500 - crop.x0) / crop.size == pytest.approx(0.5, abs=1e-2)


def test_portrait_crop_gives_way_at_the_edge_but_only_so_far():
    inside = portrait_crop(face_at(500, 180, 200), (1000, 900))
    assert inside.y0 == pytest.approx(0.0) and inside.size == pytest.approx(380)
    beyond = portrait_crop(face_at(500, 100, 200), (1000, 900))
    assert beyond.y0 == pytest.approx(100 - 0.49 * 380 + 0.06 * 380)
    small = portrait_crop(face_at(180, 180, 200), (360, 360))
    assert small.size == pytest.approx(360) and small.x0 == pytest.approx(0, abs=1e-3)
    assert portrait_crop(face_at(100, 100, 180), (200, 200)).size == pytest.approx(1.7 * 180)


def test_a_crop_that_stays_inside_gives_way_as_far_as_it_takes():
    aside = portrait_crop(face_at(500, 100, 200), (1000, 900), stays_inside=True)
    assert aside.size == pytest.approx(380) and aside.y0 == 0
    assert aside.x0 == pytest.approx(500 - 190, abs=4)
    close = portrait_crop(face_at(150, 130, 200), (300, 400), stays_inside=True)
    assert (close.x0, close.y0, close.size) == (0, pytest.approx(0), 300)
    # hardly larger than the face: the same room on both sides of the picture
    narrow = portrait_crop(face_at(80, 300, 200), (160, 900), stays_inside=True)
    assert narrow.size == pytest.approx(0.9 * 200)
    assert narrow.outside((160, 900))[1] == narrow.outside((160, 900))[3] == 0
    # cut tight: all of the picture that a square has room for, nothing beyond it
    tight = portrait_crop(face_at(110, 115, 200), (220, 230), stays_inside=True)
    assert tight.size == 220 and not any(tight.outside((220, 230)))
    # where it can, it frames the face as always
    assert portrait_crop(face_at(500, 400, 200), (1000, 900), stays_inside=True) == portrait_crop(
        face_at(500, 400, 200), (1000, 900)
    )


def test_select_face_takes_the_largest_or_the_one_asked_for():
    faces = [face_at(300, 300, 200), face_at(700, 300, 120)]
    assert select_face(faces, (1000, 600)) is faces[0]
    assert select_face(faces, (1000, 600), 1) is faces[1]


@pytest.mark.parametrize(
    ("faces", "index", "error", "message"),
    [
        ([], None, NoFaceError, "no face in the 1000x600 picture"),
        ([face_at(300, 300, 200)], 1, NoFaceError, "asked for face 1"),
        ([face_at(300, 300, 200)], -1, NoFaceError, "asked for face -1"),
        ([face_at(300, 300, 39)], None, FaceTooSmallError, "39 px high, at least 40"),
        ([face_at(300, 300, 200, yaw=45)], None, ProfileError, "45 degrees to the right"),
        ([face_at(300, 300, 200, yaw=-60)], None, ProfileError, "60 degrees to the left"),
    ],
)
def test_select_face_says_what_is_wrong(faces, index, error, message):
    with pytest.raises(error, match=message) as caught:
        select_face(faces, (1000, 600), index)
    assert isinstance(caught.value, ValueError)
