"""The head moves inside its whole picture: what lies around it stays, to the byte, and no seam shows."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.landmarks import Face
from openloopy.face.mesh import NOSE_BRIDGE, canonical_mesh
from openloopy.inference.full_frame import SEAM_SHARE, SQUARE_FACE_HEIGHTS, FullFrame
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline
from openloopy.puppet.drawn import draw_face
from tests.tiny import tiny_rig_model, tiny_sound

PX_PER_CM = 4.0


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def face_at(x: float, y: float, scale: float = 1.0) -> Face:
    """A face of about 75 px times scale, about a point."""
    mesh = canonical_mesh().vertices * PX_PER_CM * scale
    return Face.from_mesh(mesh - mesh[NOSE_BRIDGE] + [x, y, 0])


def square_of(full: FullFrame) -> np.ndarray:
    """Whether a pixel of the picture lies in the square, `H W`."""
    y, x = np.mgrid[: full.rgb.shape[0], : full.rgb.shape[1]]
    inside_x = (x >= full.x0) & (x < full.x0 + full.size_px)
    return inside_x & (y >= full.y0) & (y < full.y0 + full.size_px)


INSIDE = FullFrame.of(picture(600, 500), face_at(300, 240))
LOW_RIGHT = FullFrame.of(picture(400, 400), face_at(350, 330))
TOP_LEFT = FullFrame.of(picture(400, 400), face_at(50, 30))
NARROW = FullFrame.of(picture(120, 400), face_at(60, 200))
PLACES = [INSIDE, LOW_RIGHT, TOP_LEFT, NARROW]


def test_the_square_holds_the_face_in_its_middle_at_the_picture_s_own_resolution():
    assert INSIDE.rgb.shape == (500, 600, 3) and INSIDE.size_px % 2 == 0
    middle = np.array([INSIDE.x0, INSIDE.y0]) + INSIDE.size_px / 2
    assert np.abs(middle - [300, 240]).max() < 0.3 * INSIDE.size_px
    face_height = face_at(300, 240).height_px
    assert INSIDE.size_px == pytest.approx(SQUARE_FACE_HEIGHTS * face_height, abs=3)
    portrait = INSIDE.portrait
    assert portrait.rgb.shape == (INSIDE.size_px, INSIDE.size_px, 3)
    np.testing.assert_allclose(portrait.mesh, face_at(300 - INSIDE.x0, 240 - INSIDE.y0).mesh, atol=1e-3)


@pytest.mark.parametrize(
    "full, sides",
    [
        (INSIDE, {"left", "top", "right", "bottom"}),
        (LOW_RIGHT, {"left", "top"}),
        (TOP_LEFT, {"right", "bottom"}),
        (NARROW, {"top", "bottom"}),
    ],
)
def test_it_is_known_at_which_sides_the_picture_goes_on_and_nothing_moves_there(full, sides):
    assert {side for side, goes_on in full.goes_on.items() if goes_on} == sides
    assert set(full.portrait.still_sides) == sides
    outside = dict(zip(("left", "top", "right", "bottom"), full.portrait.outside, strict=True))
    assert all((outside[side] == 0) for side in sides)


@pytest.mark.parametrize("full", PLACES)
def test_the_square_itself_leaves_the_picture_as_it_is(full):
    assert np.array_equal(full.paster()(full.portrait.rgb), full.rgb)


@pytest.mark.parametrize("full", PLACES)
def test_outside_the_square_nothing_changes_and_inside_everything(full):
    paste, inside = full.paster(), square_of(full)
    for value in (0, 255):
        made = paste(np.full((full.size_px, full.size_px, 3), value, np.uint8))
        assert made.dtype == np.uint8 and np.array_equal(made[~inside], full.rgb[~inside])
        distance = border_distance(full)
        deep = inside & (distance > SEAM_SHARE * full.size_px)
        assert deep.any() and (made[deep] == value).all()
        edge = inside & (distance < 1)
        assert np.abs(made[edge].astype(int) - full.rgb[edge]).mean() < 40
    again = paste(np.full((full.size_px, full.size_px, 3), 255, np.uint8))
    assert np.array_equal(again, made)  # frames leave nothing behind


def border_distance(full: FullFrame) -> np.ndarray:
    """Of each pixel to the nearest side of the square at which the picture goes on, px; `H W`."""
    y, x = np.mgrid[: full.rgb.shape[0], : full.rgb.shape[1]] + 0.5
    sides = {
        "left": x - full.x0,
        "top": y - full.y0,
        "right": full.x0 + full.size_px - x,
        "bottom": full.y0 + full.size_px - y,
    }
    return np.min([sides[name] for name, goes_on in full.goes_on.items() if goes_on], axis=0)


def test_the_blend_rises_evenly_from_the_seam():
    grey = FullFrame.of(np.zeros((500, 600, 3), np.uint8), face_at(300, 240))
    made = grey.paster()(np.full((grey.size_px, grey.size_px, 3), 200, np.uint8))
    row = made[grey.y0 + grey.size_px // 2, grey.x0 :, 0].astype(int)
    seam = int(SEAM_SHARE * grey.size_px)
    steps = np.diff(row[: seam + 1])
    assert (
        row[0] < 200 / seam and (steps > 0).all() and np.ptp(steps) <= 1 and (row[seam + 1 : 50] == 200).all()
    )


@pytest.mark.parametrize("width, height, shown", [(301, 299, (298, 300)), (300, 401, (400, 300))])
def test_odd_sizes_lose_a_row_or_column_for_the_video(width, height, shown):
    rgb = picture(width, height)
    full = FullFrame.of(rgb, face_at(150, 150))
    assert full.rgb.shape[:2] == shown
    assert np.array_equal(full.rgb, rgb[: shown[0], : shown[1]])
    assert full.mesh == pytest.approx(face_at(150, 150).mesh)
    assert full.paster()(full.portrait.rgb).shape[:2] == shown


def test_a_picture_that_is_too_large_for_players_is_reduced_with_its_face():
    full = FullFrame.of(picture(1200, 900), face_at(600, 450, 2.0), max_side_px=401)
    assert full.rgb.shape[:2] == (300, 400)
    expected = face_at(200, 150, 2.0 / 3).mesh
    np.testing.assert_allclose(full.mesh[:, :2], expected[:, :2], atol=0.5)
    assert full.size_px == pytest.approx(SQUARE_FACE_HEIGHTS * face_at(0, 0, 2.0 / 3).height_px, abs=3)


def test_a_moved_head_in_its_picture_is_still_at_the_seam():
    """With a real rig: at the border of the square its frames are the picture."""
    drawn, rgb = draw_face(np.random.default_rng(5), size_px=160), picture(300, 280)
    rgb[60:220, 70:230] = drawn.rgb
    full = FullFrame.of(rgb, Face.from_mesh(drawn.mesh + [70, 60, 0]))
    pipeline = LoopyPipeline(tiny_rig_model())
    options = GenerationOptions(size_px=full.size_px, steps=1)
    paste, inside = full.paster(), square_of(full)
    frames = [
        paste(frame)
        for frame in pipeline.generate(full.portrait, (tiny_sound(0.12), 16_000), options=options)
    ]
    assert len(frames) == 3
    edge = inside & (border_distance(full) < 2)
    for frame in frames:
        assert np.array_equal(frame[~inside], full.rgb[~inside])
        assert np.abs(frame[edge].astype(int) - full.rgb[edge]).max() <= 12
        assert np.abs(frame[inside].astype(int) - full.rgb[inside]).mean() > 0.2
