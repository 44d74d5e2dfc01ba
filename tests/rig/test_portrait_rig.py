"""The rig: what controls do to picture and landmarks, on drawn faces (no photo, no detector)."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image

from openloopy.face.landmarks import Face
from openloopy.face.mesh import MESH_TO_68, Pose, canonical_mesh, rotation_of
from openloopy.face.movement import eye_opening, lip_gap
from openloopy.face.person_mask import face_hull_mask
from openloopy.puppet.drawn import DrawnFace, draw_face
from openloopy.rig.expression import FaceShape
from openloopy.rig.field import GRID, WarpField, free_point_operator, place_head, tps_operator
from openloopy.rig.mesh import (
    EYES,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    LOWER_LIP,
    LOWER_SLIT_POINTS,
    UPPER_SLIT_POINTS,
    fit_head,
)
from openloopy.rig.paint import Box, fill_polygon, push_pull, smooth_curve
from openloopy.rig.portrait_rig import MIN_FACE_HEIGHT_PX, PortraitRig, check_portrait
from openloopy.rig.shade import Lamp
from openloopy.rig.state import NEUTRAL

SIZE, OUT = 240, 160
FACE_CORE = [33, 263, 1, 2, 13, 105, 334]
"""Mesh points that span eyes, brows, nose and mouth."""


@cache
def drawn_face() -> DrawnFace:
    return draw_face(np.random.default_rng(0), SIZE)


def build_rig() -> PortraitRig:
    face = drawn_face()
    return PortraitRig(face.rgb, face.mesh, face.mask, rng=np.random.default_rng(1))


@pytest.fixture(scope="module")
def rig() -> PortraitRig:
    return build_rig()


BOTH_SIDES = ("blink", "brow", "smile")


def in_state(**values: float) -> dict[str, float]:
    """The neutral state with some values changed; blink, brow and smile stand for both sides."""
    state = dict(NEUTRAL)
    for name, value in values.items():
        sides = (f"{name}_left", f"{name}_right") if name in BOTH_SIDES else (name,)
        state |= dict.fromkeys(sides, value)
    return state


def shown(rig: PortraitRig, **values: float) -> tuple[np.ndarray, np.ndarray]:
    return rig.frame(in_state(**values), OUT)


def gap_of(mesh: np.ndarray) -> float:
    return float(lip_gap(mesh[None, MESH_TO_68])[0])


def eyes_of(mesh: np.ndarray) -> float:
    return float(eye_opening(mesh[None, MESH_TO_68])[0])


def shrunk_source(rig: PortraitRig) -> np.ndarray:
    return np.asarray(Image.fromarray(rig.source).resize((OUT, OUT), Image.Resampling.BILINEAR))


def face_pixels(mesh: np.ndarray) -> np.ndarray:
    return face_hull_mask(mesh, (OUT, OUT)) > 0.9


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


def darkness_at(rgb: np.ndarray, mesh: np.ndarray, index: int) -> float:
    x, y = mesh[index].astype(int)
    return float(255 - rgb[y - 1 : y + 2, x - 1 : x + 2].mean())


def test_own_state_shows_the_portrait_itself(rig: PortraitRig) -> None:
    frame, mesh = rig.frame(rig.own, SIZE)
    assert frame.shape == (SIZE, SIZE, 3) and frame.dtype == np.uint8
    assert mesh.shape == (478, 2) and mesh.dtype == np.float32
    np.testing.assert_array_equal(frame, drawn_face().rgb)
    np.testing.assert_allclose(mesh, drawn_face().mesh[:, :2], atol=1e-3)
    small = rig.render(rig.own, OUT)
    assert psnr(small, shrunk_source(rig)) > 30


def test_neutral_state_looks_ahead(rig: PortraitRig) -> None:
    def nose_aside(mesh: np.ndarray) -> float:
        return float(mesh[1, 0] - mesh[[33, 263], 0].mean())

    assert abs(rig.own["yaw"]) > 3
    before, after = nose_aside(rig.landmarks(rig.own, OUT)), nose_aside(rig.landmarks(NEUTRAL, OUT))
    assert abs(after) < 0.4 * abs(before)


def test_jaw_opens_the_mouth_step_by_step(rig: PortraitRig) -> None:
    meshes = [shown(rig, jaw=jaw)[1] for jaw in (0.0, 0.25, 0.5, 0.75, 1.0)]
    gaps = [gap_of(mesh) for mesh in meshes]
    assert np.all(np.diff(gaps) > 0.04)
    chins = [mesh[152, 1] for mesh in meshes]
    assert np.all(np.diff(chins) > 0)


def test_open_mouth_is_painted_dark(rig: PortraitRig) -> None:
    shut, mesh = shown(rig)
    wide, open_mesh = shown(rig, jaw=0.9)
    centre = (open_mesh[13] + open_mesh[14]) / 2
    x, y = centre.astype(int)
    assert wide[y, x].astype(int).sum() < shut[y, x].astype(int).sum() - 60


@pytest.mark.parametrize("controls", [{"jaw": 0.15}, {"jaw": 0.9}, {"jaw": 0.5, "wide": -0.8}])
def test_close_brings_the_lips_together(rig: PortraitRig, controls: dict[str, float]) -> None:
    _, mesh = shown(rig, **controls, close=1.0, press=1.0)
    assert gap_of(mesh) < 0.02
    assert gap_of(shown(rig, **controls)[1]) > 0.022


def test_parted_lips_of_a_smiling_portrait_close() -> None:
    points = canonical_mesh().vertices.copy()
    points[LOWER_LIP, 1] += 0.8 * (1 - np.linspace(-1, 1, 11) ** 2)
    head = fit_head(points * 16 + 140)
    shape = FaceShape(head.points_cm, free_point_operator(head))
    assert shape.rest_gap.max() > 0.5
    for controls in (NEUTRAL, in_state(jaw=0.5, close=1.0)):
        moved = head.points_cm + shape.express(controls).landmarks
        gap = moved[LIP_INNER_LOWER, 1] - moved[LIP_INNER_UPPER, 1]
        assert np.abs(gap[2:-2]).max() < 0.02


def test_tuck_lifts_the_lower_lip_to_the_upper_teeth(rig: PortraitRig) -> None:
    _, rest = shown(rig, jaw=0.4)
    _, tucked = shown(rig, jaw=0.4, tuck=1.0)
    assert tucked[14, 1] < rest[14, 1] - 1
    assert 0.005 < gap_of(tucked) < gap_of(rest)


def test_rounding_narrows_and_spreading_widens(rig: PortraitRig) -> None:
    widths = [np.ptp(shown(rig, wide=wide)[1][[61, 291], 0]) for wide in (-1.0, 0.0, 1.0)]
    assert widths[0] < 0.85 * widths[1] and widths[2] > 1.05 * widths[1]


def test_blink_shuts_both_eyes(rig: PortraitRig) -> None:
    meshes = [shown(rig, blink=blink)[1] for blink in (0.0, 0.5, 1.0)]
    opening = [eyes_of(mesh) for mesh in meshes]
    assert opening[0] > 1.3 * opening[1] > 1.3 * opening[2]
    upright = rig.head.rotation[:2, 1]
    lids = (meshes[-1][[145, 374]] - meshes[-1][[159, 386]]) @ upright
    assert np.abs(lids).max() < 0.01 * np.linalg.norm(meshes[-1][263] - meshes[-1][33])


def test_blink_hides_the_eyeballs(rig: PortraitRig) -> None:
    wide, mesh = shown(rig)
    shut, _ = shown(rig, blink=1.0)
    for iris in (468, 473):
        assert darkness_at(shut, mesh, iris) < darkness_at(wide, mesh, iris) - 15


def test_gaze_moves_the_iris_and_its_landmark(rig: PortraitRig) -> None:
    _, ahead = shown(rig)
    frame, aside = shown(rig, gaze_x=14.0)
    shift = aside[[468, 473], 0] - ahead[[468, 473], 0]
    assert np.all(shift > 0.5)
    assert np.abs(np.delete(aside - ahead, np.r_[468:478], 0)).max() < 0.05
    assert psnr(frame, shown(rig)[0]) < 60


@pytest.mark.parametrize(
    ("control", "axis", "sign"),
    [("yaw", 0, 1), ("yaw", 0, -1), ("pitch", 1, 1), ("pitch", 1, -1)],
)
def test_turning_moves_the_nose(rig: PortraitRig, control: str, axis: int, sign: int) -> None:
    _, rest = shown(rig)
    _, turned = shown(rig, **{control: 10.0 * sign})
    step = turned[1] - rest[1]
    assert sign * step[axis] > 3
    # the nose moves further than the eyes' corners: a turn, not a shift
    assert sign * step[axis] > sign * (turned - rest)[[33, 263], axis].mean() + 1


def test_roll_turns_the_head_clockwise(rig: PortraitRig) -> None:
    def slope(mesh: np.ndarray) -> float:
        x, y = mesh[263] - mesh[33]
        return float(np.degrees(np.arctan2(y, x)))

    assert slope(shown(rig, roll=8.0)[1]) - slope(shown(rig)[1]) == pytest.approx(8, abs=0.5)


def test_translation_moves_every_face_point_alike(rig: PortraitRig) -> None:
    _, rest = shown(rig)
    _, moved = shown(rig, shift_x=0.5, shift_y=-0.3)
    expected = np.array([0.5, -0.3]) * rig.head.scale_px * OUT / SIZE
    upper_face = [1, 4, 33, 133, 263, 362, 10, 61, 291, 13, 14]
    np.testing.assert_allclose((moved - rest)[upper_face], np.tile(expected, (11, 1)), atol=0.02)


def test_translation_moves_the_pixels_with_the_landmarks(rig: PortraitRig) -> None:
    unit = SIZE / OUT / rig.head.scale_px  # cm per output px
    rest, mesh = shown(rig)
    moved, _ = shown(rig, shift_x=4 * unit, shift_y=3 * unit)
    x0, y0, x1, y1 = *mesh[FACE_CORE].min(0).astype(int), *mesh[FACE_CORE].max(0).astype(int)
    there = moved[y0 + 3 : y1 + 3, x0 + 4 : x1 + 4]
    assert psnr(there, rest[y0:y1, x0:x1]) > psnr(moved[y0:y1, x0:x1], rest[y0:y1, x0:x1]) + 10


def test_landmarks_follow_the_pixels_of_the_warp(rig: PortraitRig) -> None:
    """Where a mesh point goes, the inverse map must show the source px it came from."""
    state = in_state(jaw=0.5, yaw=8.0, pitch=4.0, smile=0.4)
    _, mesh = rig.frame(state, OUT)
    skin_px = rig.head.vectors_to_px(rig.face.express(state).skin)
    maps = rig.field.inverse_maps(skin_px, rig.face.place(state))
    for i in (1, 4, 50, 280, 152, 61, 291, 105, 334):
        cell = mesh[i] * GRID / OUT - 0.5
        x, y = np.floor(cell).astype(int)
        fx, fy = cell - (x, y)
        corners = maps.lower[y : y + 2, x : x + 2]
        weights = np.array([[(1 - fx) * (1 - fy), fx * (1 - fy)], [(1 - fx) * fy, fx * fy]])
        source = (corners * weights[..., None]).sum((0, 1))
        assert np.linalg.norm(source - rig.head.mesh_px[i, :2]) < 2.0, i


def test_same_seed_same_frames() -> None:
    controls = in_state(jaw=0.6, blink=0.7, yaw=5.0)
    (one, mesh_one), (two, mesh_two) = (build_rig().frame(controls, OUT) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(mesh_one, mesh_two)


def test_frames_in_any_order_are_the_same(rig: PortraitRig) -> None:
    states = [in_state(yaw=yaw, jaw=jaw) for yaw, jaw in ((0.0, 0.3), (10.0, 1.0), (-12.0, 0.0), (25.0, 0.5))]
    forward = [rig.frame(state, OUT) for state in states]
    backward = [rig.frame(state, OUT) for state in reversed(states)][::-1]
    for (one, mesh_one), (other, mesh_other) in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(mesh_one, mesh_other)


@pytest.mark.parametrize(
    "values", [{"jaw": 0.9}, {"yaw": 12.0, "pitch": -6.0, "roll": 8.0}, {"shift_y": -0.8, "nearness": 0.06}]
)
def test_the_inverse_maps_undo_the_field(rig: PortraitRig, values: dict[str, float]) -> None:
    """What is shown at a grid point is the source px that the field sends there."""
    state, field = in_state(**values), rig.field
    placement = rig.face.place(state)
    skin_px = rig.head.vectors_to_px(rig.face.express(state).skin)
    maps = field.inverse_maps(skin_px, placement)
    forward = field.grid + field.displacements(skin_px, placement)[0]
    at = (maps.upper + 0.5) * GRID / SIZE - 0.5
    back = cv2.remap(forward, at.astype(np.float32), None, cv2.INTER_LINEAR)
    inside = ((maps.upper > 2) & (maps.upper < SIZE - 3)).all(-1)
    off = np.linalg.norm(back - field.grid, axis=-1)[inside]
    assert np.percentile(off, 99) < 0.1 and off.max() < 0.5


def test_background_is_replaced_and_the_face_is_not() -> None:
    face = drawn_face()
    green = np.full((OUT, OUT, 3), (0, 255, 0), np.uint8)
    rig = PortraitRig(face.rgb, face.mesh, face.mask, rng=np.random.default_rng(1), background=green)
    frame, mesh = shown(rig)
    plain, _ = shown(build_rig())
    assert np.abs(frame[2, 2].astype(int) - green[2, 2]).max() <= 1
    inside = face_pixels(mesh)
    assert np.abs(frame[inside].astype(int) - plain[inside]).mean() < 2


def test_lamp_lights_its_own_side_and_moves_no_landmark(rig: PortraitRig) -> None:
    face = drawn_face()
    lamp = Lamp((0.8, 0.0, 0.6), 0.5)
    lit_rig = PortraitRig(face.rgb, face.mesh, face.mask, rng=np.random.default_rng(1), lamp=lamp)
    plain, mesh = shown(rig)
    lit, lit_mesh = shown(lit_rig)
    np.testing.assert_array_equal(lit_mesh, mesh)
    left, right = (darkness_at(lit, mesh, i) - darkness_at(plain, mesh, i) for i in (147, 376))
    assert right < left - 10


def test_open_jaw_darkens_the_throat(rig: PortraitRig) -> None:
    shading = rig.shading
    open_jaw = in_state(jaw=0.8)
    shade = shading.log_shade(open_jaw, rig.shape.express(open_jaw), np.eye(3))
    x, y = (rig.head.mesh_px[152, :2] + [0, rig.head.scale_px]) * GRID / SIZE
    assert shade[int(y), int(x)] < -0.1
    assert np.abs(shading.log_shade(NEUTRAL, rig.shape.express(NEUTRAL), np.eye(3))).max() < 1e-6


def test_missing_controls_are_named(rig: PortraitRig) -> None:
    with pytest.raises(ValueError, match="jaw"):
        rig.frame({name: value for name, value in NEUTRAL.items() if name != "jaw"}, OUT)


@pytest.mark.parametrize("spoil", ["rgb", "mesh", "mask"])
def test_wrong_inputs_are_refused(spoil: str) -> None:
    good = {
        "rgb": np.zeros((64, 64, 3), np.uint8),
        "mesh": canonical_mesh().vertices * 3 + 32,
        "mask": np.ones((64, 64)),
    }
    bad = {"rgb": np.zeros((64, 48, 3), np.uint8), "mesh": np.zeros((468, 3)), "mask": np.ones((32, 32))}
    with pytest.raises(ValueError, match="expected"):
        PortraitRig(**{**good, spoil: bad[spoil]}, rng=np.random.default_rng(0))


# ---------------------------------------------------------------- the gate


def posed_face(yaw: float = 0.0, height_px: float = 220.0, eyes_shut: bool = False) -> Face:
    points = canonical_mesh().vertices.copy()
    if eyes_shut:
        for eye in EYES:
            points[eye.upper, 1] = points[eye.lower, 1]
    points = points @ rotation_of(Pose(yaw, 0.0, 0.0)).T
    scale = height_px / np.ptp(points[[10, 152], 1])
    return Face.from_mesh(points * scale + np.array([300, 300, 0]))


PICTURE = np.zeros((600, 600, 3), np.uint8)


def test_gate_lets_a_frontal_face_pass() -> None:
    assert check_portrait(posed_face(), PICTURE) is None


@pytest.mark.parametrize(
    ("face", "picture", "reason"),
    [
        (posed_face(yaw=20.0), PICTURE, "turned"),
        (posed_face(height_px=MIN_FACE_HEIGHT_PX - 5), PICTURE, "px high"),
        (posed_face(eyes_shut=True), PICTURE, "eye"),
        (posed_face(), PICTURE[:, :380], "outside"),
    ],
)
def test_gate_gives_a_reason(face: Face, picture: np.ndarray, reason: str) -> None:
    refusal = check_portrait(face, picture)
    assert refusal is not None and reason in refusal


# ---------------------------------------------------------------- parts


def test_tps_operator_passes_through_its_knots_and_keeps_its_anchors() -> None:
    rng = np.random.default_rng(0)
    control, anchors = rng.uniform(0, 100, (20, 2)), rng.uniform(0, 100, (10, 2))
    values = rng.standard_normal(20)
    operator = tps_operator(control, anchors, np.concatenate([control, anchors]), 1e-8)
    np.testing.assert_allclose(operator @ values, np.r_[values, np.zeros(10)], atol=1e-2)


def test_tps_operator_reproduces_an_affine_move() -> None:
    rng = np.random.default_rng(1)
    control, query = rng.uniform(0, 100, (30, 2)), rng.uniform(0, 100, (50, 2))
    operator = tps_operator(control, np.zeros((0, 2)), query, 1e-6)
    np.testing.assert_allclose(operator @ (control @ [0.3, -0.2] + 4), query @ [0.3, -0.2] + 4, atol=1e-2)


def test_rest_placement_is_the_identity_on_the_whole_grid() -> None:
    head = fit_head(canonical_mesh().vertices * 14 + 140)
    field = WarpField(head, 280)
    maps = field.inverse_maps(np.zeros((478, 3)), place_head(head, NEUTRAL))
    assert np.abs(maps.upper - field.grid).max() < 1e-3
    assert np.abs(maps.lower - field.grid).max() < 1e-3


def test_fields_differ_only_where_the_skin_tears() -> None:
    assert not UPPER_SLIT_POINTS & LOWER_SLIT_POINTS
    assert {61, 291, 33, 133}.isdisjoint(UPPER_SLIT_POINTS | LOWER_SLIT_POINTS)
    assert {13, 159} <= UPPER_SLIT_POINTS and {14, 145} <= LOWER_SLIT_POINTS


def test_smooth_curve_keeps_its_ends_and_straight_lines() -> None:
    line = np.stack([np.arange(9.0), 2 * np.arange(9.0)], 1)
    curve = smooth_curve(line, 33)
    np.testing.assert_allclose(curve[:, 1], 2 * curve[:, 0], atol=1e-9)
    np.testing.assert_allclose(curve[[0, -1]], line[[0, -1]])


def test_polygon_area_is_anti_aliased() -> None:
    area = fill_polygon(np.array([[1.0, 1.0], [5.5, 1.0], [5.5, 4.0], [1.0, 4.0]]), Box(0, 0, 8, 8))
    assert area.sum() == pytest.approx(4.5 * 3.0, rel=0.15)
    assert ((area > 0.1) & (area < 0.9)).any()


def test_push_pull_fills_a_hole_with_what_surrounds_it() -> None:
    picture = np.full((40, 40, 3), 90.0, np.float32)
    known = np.ones((40, 40), np.float32)
    picture[15:25, 15:25], known[15:25, 15:25] = 255, 0
    filled = push_pull(picture, known)
    assert np.abs(filled - 90).max() < 12


@pytest.mark.parametrize("size", [OUT, 97, 150])
def test_values_are_enlarged_the_same_in_whichever_box(rig: PortraitRig, size: int) -> None:
    scene = rig._scene(in_state(jaw=0.5, yaw=6.0), size)
    whole = cv2.resize(scene.maps.lower, (size, size), interpolation=cv2.INTER_LINEAR)
    for box in (
        Box(0, 0, size, size),
        Box(31, 40, 77, 90),
        Box(0, size - 9, 5, size),
        Box(size - 1, 3, size, 4),
    ):
        np.testing.assert_allclose(scene.enlarged(scene.maps.lower, box), whole[box.slices], atol=1e-3)


def test_the_lower_map_is_the_upper_one_away_from_the_slits(rig: PortraitRig) -> None:
    """It is found by itself only where it differs, and there it undoes the lower field."""
    state, field = in_state(jaw=0.9, yaw=6.0), rig.field
    placement, skin_px = rig.face.place(state), rig.head.vectors_to_px(rig.face.express(state).skin)
    maps = field.inverse_maps(skin_px, placement)
    differs = (maps.upper != maps.lower).any(-1)
    assert 0.01 < differs.mean() < 0.7
    forward = field.grid + field.displacements(skin_px, placement)[1]
    at = (maps.lower + 0.5) * GRID / SIZE - 0.5
    back = cv2.remap(forward, at.astype(np.float32), None, cv2.INTER_LINEAR)
    inside = ((maps.lower > 2) & (maps.lower < SIZE - 3)).all(-1)
    off = np.linalg.norm(back - field.grid, axis=-1)[inside]
    assert np.percentile(off, 99) < 0.1 and off.max() < 0.5
