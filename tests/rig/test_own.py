"""The portrait's own state: what is measured, that states are absolute, and how poses are limited."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from openloopy.face.mesh import Pose, canonical_mesh, rotation_of
from openloopy.puppet.drawn import draw_face
from openloopy.rig.field import GRID, WarpField, free_point_operator, limit_slope, place_head
from openloopy.rig.mesh import EYES, LIP_INNER_LOWER, LIP_INNER_UPPER, LOWER_LIP, UPPER_LIP, fit_head
from openloopy.rig.own import PortraitFace, measure_own_state, neutral_shape, pose_within_reach, soft_limit
from openloopy.rig.own_mouth import MouthMoves
from openloopy.rig.paint import open_slit
from openloopy.rig.portrait_rig import ALL_SIDES, PortraitRig
from openloopy.rig.state import NAMES, NEUTRAL

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 160
SEEDS = range(4)
POSES = [
    {"yaw": 15.0},
    {"yaw": -15.0},
    {"pitch": 12.0},
    {"pitch": -12.0},
    {"roll": 15.0},
    {"roll": -15.0},
    {"yaw": 12.0, "pitch": -10.0, "jaw": 0.8},
    {"yaw": -40.0},
    {"jaw": 1.0},
    {"smile_left": 1.0, "smile_right": 1.0, "wide": 1.0},
    {"wide": -1.0, "jaw": 0.3},
    {"close": 1.0, "press": 1.0},
    {"shift_x": 1.0, "shift_y": -1.0},
]


def mesh_of(
    *, parted_cm: float = 0.0, eyes_open: float = 1.0, stretch: float = 1.0, pose: Pose | None = None
) -> np.ndarray:
    """The mean face with parted lips, narrowed eyes, a wider mouth, turned; `478 3` px."""
    points = canonical_mesh().vertices.copy()
    middle = points[[61, 291], 0].mean()
    lips = sorted({int(i) for i in (*UPPER_LIP.flat, *LOWER_LIP.flat)})
    points[lips, 0] = middle + stretch * (points[lips, 0] - middle)
    gap = points[LIP_INNER_LOWER, 1] - points[LIP_INNER_UPPER, 1]
    # closed first, then parted in the shape of a mouth
    points[LOWER_LIP, 1] += parted_cm * (1 - np.linspace(-1, 1, 11) ** 2) - gap
    for eye in EYES:
        opening = points[eye.lower, 1] - points[eye.upper, 1]
        points[eye.upper, 1] = points[eye.lower, 1] - eyes_open * opening
    return (points @ rotation_of(pose or Pose(0, 0, 0)).T) * 9 + [SIZE / 2, SIZE / 2, 0]


def gap_of(face: PortraitFace, **values: float) -> np.ndarray:
    """`11` cm between the lips in a state."""
    moved = face.head.points_cm + face.express(NEUTRAL | values).landmarks
    return moved[LIP_INNER_LOWER, 1] - moved[LIP_INNER_UPPER, 1]


def rig_of(mesh: np.ndarray, **settings: object) -> PortraitRig:
    """A rig of a picture of noise: every pixel differs from its neighbours."""
    rgb = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[20:, 30:130] = 1
    return PortraitRig(rgb, mesh, mask, rng=np.random.default_rng(1), **settings)


# ---------------------------------------------------------------- what is measured


def test_pose_is_measured() -> None:
    own = measure_own_state(fit_head(mesh_of(pose=Pose(-23.0, 6.0, 9.0))))
    assert own["yaw"] == pytest.approx(-23, abs=1)
    assert own["pitch"] == pytest.approx(6, abs=1)
    assert own["roll"] == pytest.approx(9, abs=1)


def test_mean_face_is_neutral() -> None:
    own = measure_own_state(fit_head(mesh_of()))
    assert set(own) == set(NAMES)
    assert max(abs(own[name]) for name in NAMES if name not in ("yaw", "pitch", "roll", "gaze_x")) < 0.03
    assert abs(own["gaze_x"]) < 1


@pytest.mark.parametrize("parted_cm", [0.3, 0.8, 1.6])
def test_parted_lips_are_an_open_mouth_of_that_size(parted_cm: float) -> None:
    face = PortraitFace(mesh_of(parted_cm=parted_cm))
    assert np.abs(gap_of(face, **face.own)[5] - gap_of(face)[5]) == pytest.approx(parted_cm, rel=0.1)
    assert any("parted" in note for note in face.notes) == (parted_cm > 0.5)


def test_a_wide_mouth_is_a_smile_and_bares_the_teeth_with_the_upper_lip() -> None:
    plain, smiling = (PortraitFace(mesh_of(parted_cm=0.9, stretch=stretch)).own for stretch in (1.0, 1.35))
    assert plain["smile_left"] == 0 and smiling["smile_left"] > 0.4
    assert smiling["upper_lip"] > 1.5 * plain["upper_lip"] and smiling["jaw"] < plain["jaw"]


@pytest.mark.parametrize(
    ("eyes_open", "least", "most"), [(1.0, 0, 0), (0.6, 0, 0), (0.35, 0.2, 0.9), (0.1, 1, 1)]
)
def test_only_eyes_below_the_range_of_open_ones_count_as_shut(
    eyes_open: float, least: float, most: float
) -> None:
    own = measure_own_state(fit_head(mesh_of(eyes_open=eyes_open)))
    assert least <= own["blink_left"] <= most and least <= own["blink_right"] <= most


# ---------------------------------------------------------------- states are absolute


@pytest.mark.parametrize(
    "shape", [{}, {"parted_cm": 0.9, "stretch": 1.3}, {"parted_cm": 1.6}, {"eyes_open": 0.35}]
)
def test_neutral_face_in_its_own_state_is_the_portrait(shape: dict[str, float]) -> None:
    head = fit_head(mesh_of(**shape))
    face = PortraitFace(mesh_of(**shape))
    neutral = neutral_shape(head.points_cm, free_point_operator(head), face.own)
    np.testing.assert_allclose(
        neutral.points + neutral.express(face.own).landmarks, head.points_cm, atol=2e-3
    )


def test_lips_of_an_open_mouthed_portrait_meet_when_they_close() -> None:
    face = PortraitFace(mesh_of(parted_cm=1.2, stretch=1.2))
    assert gap_of(face, **face.own)[5] > 1
    for values in ({}, {"jaw": 0.5, "close": 1.0}):
        assert np.abs(gap_of(face, **values)).max() < 0.02
    assert gap_of(face, close=1.0, press=1.0).max() < 0.02
    gaps = [gap_of(face, **face.own | {"jaw": jaw})[5] for jaw in (0.2, 0.5, 0.8, 1.1)]
    assert np.all(np.diff(gaps) > 0.1)


def test_states_do_not_depend_on_the_portrait_s_own_pose() -> None:
    """The same person, photographed from two sides, is shown alike in one state."""
    ahead, aside = (PortraitFace(mesh_of(pose=Pose(yaw, 0, 0))) for yaw in (0.0, 8.0))
    state = NEUTRAL | {"yaw": 4.0, "jaw": 0.4}
    shown = [
        face.place(state)(
            face.head.mesh_px + face.head.vectors_to_px(face.express(state).landmarks), np.ones(478)
        )
        for face in (ahead, aside)
    ]
    # where the head stands may differ, its shape may not
    one, other = (points - points.mean(0) for points in shown)
    assert np.abs(one - other)[:468].max() < 2.0


@pytest.mark.parametrize(("parted_cm", "yaw"), [(0.0, 0.0), (1.2, 0.0), (0.5, 25.0)])
def test_own_state_gives_every_pixel_back(parted_cm: float, yaw: float) -> None:
    rig = rig_of(mesh_of(parted_cm=parted_cm, stretch=1.2, pose=Pose(yaw, 0, 4)))
    frame, points = rig.frame(rig.own, SIZE)
    np.testing.assert_array_equal(frame, rig.source)
    np.testing.assert_array_equal(points, rig.landmarks(rig.own, SIZE))


@pytest.mark.parametrize("parted_cm", [0.3, 1.2])
def test_the_inside_of_an_open_mouth_is_the_portrait_s_own_while_nothing_moves(parted_cm: float) -> None:
    rig = rig_of(mesh_of(parted_cm=parted_cm, stretch=1.2))
    scene = rig._scene(rig.own, SIZE)
    upper, lower = (rig.head.mesh_px[indices, :2] for indices in (LIP_INNER_UPPER, LIP_INNER_LOWER))
    slit = open_slit(upper, lower, 6, 0.7, SIZE)
    inside = slit.opening > 0.99
    black = np.zeros((*inside.shape, 3), np.float32)
    kept = rig.own_mouth.keep(black, slit, scene, MouthMoves(0.0, 0.0))
    assert inside.sum() > 10
    np.testing.assert_allclose(kept[inside], rig.source[slit.box.slices][inside], atol=1.0)
    if rig.mouth.own_teeth is None:  # teeth stay however wide the mouth opens
        assert rig.own_mouth.keep(black, slit, scene, MouthMoves(2.0, 2.0)).max() == 0


def test_near_the_own_state_the_frame_is_near_the_portrait() -> None:
    """Nothing is painted all at once: a small step changes little."""
    rig = rig_of(mesh_of(parted_cm=0.8))
    steps = ("jaw", "blink_left", "gaze_x", "smile_left", "press")
    for name in steps:
        frame = rig.render(rig.own | {name: rig.own[name] + 1e-4}, SIZE)
        assert np.abs(frame.astype(int) - rig.source).mean() < 0.05, name


def test_a_given_own_state_is_believed() -> None:
    given = NEUTRAL | {"jaw": 0.2, "yaw": 5.0, "gaze_x": 7.0, "brow_left": 0.5}
    rig = rig_of(mesh_of(), own=given)
    assert rig.own == given
    np.testing.assert_array_equal(rig.render(given, SIZE), rig.source)


def test_shut_eyes_stay_shut_and_half_shut_ones_open_no_further() -> None:
    shut, half = (PortraitFace(mesh_of(eyes_open=share)) for share in (0.1, 0.4))
    assert "the eyes are shut in the portrait and stay shut" in shut.notes
    lids = [i for eye in EYES for i in eye.upper]
    for face in (shut, half):
        moved = face.express(NEUTRAL).landmarks[lids, 1]
        assert np.abs(moved).max() < 0.01
    closed = half.express(NEUTRAL | {"blink_left": 1.0, "blink_right": 1.0})
    assert closed.lid_closures == pytest.approx((1, 1)) and max(shut.express(NEUTRAL).lid_closures) == 0
    assert sum("half shut" in note for note in half.notes) == 2


def test_a_turned_head_is_noted() -> None:
    assert any("34 degrees to the left" in note for note in PortraitFace(mesh_of(pose=Pose(-34, 0, 0))).notes)


# ---------------------------------------------------------------- limits


def test_soft_limit_is_smooth_monotone_and_the_identity_near_zero() -> None:
    x = np.linspace(-200, 200, 4001)
    y = np.array([soft_limit(value, 20.0) for value in x])
    assert np.all(np.diff(y) > 0) and np.abs(y).max() < 20
    assert soft_limit(4.0, 20.0) == pytest.approx(4, rel=0.01)
    assert np.abs(np.diff(y, 2)).max() < 0.01
    np.testing.assert_allclose(y, -y[::-1], atol=1e-9)


@pytest.mark.parametrize("own_yaw", [0.0, 18.0, -38.0])
def test_turning_is_monotone_and_shrinks_with_the_portrait_s_own_turn(own_yaw: float) -> None:
    own = NEUTRAL | {"yaw": own_yaw}
    asked = np.linspace(-90, 90, 721)
    yaw = np.array([pose_within_reach(NEUTRAL | {"yaw": value}, own)["yaw"] for value in asked])
    assert np.all(np.diff(yaw) > 0)
    side = np.sign(own_yaw) or 1.0
    further, back = (abs(yaw[i] - own_yaw) for i in ((-1, 0) if side > 0 else (0, -1)))
    assert further <= back and further < 26 - 0.4 * abs(own_yaw)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_field_folds_nowhere(seed: int) -> None:
    drawn = draw_face(np.random.default_rng(seed), SIZE)
    face = PortraitFace(drawn.mesh - [0.5, 0.5, 0])
    field = WarpField(face.head, SIZE)
    for values in POSES:
        state = NEUTRAL | {
            name: value + (face.own[name] if name in ("yaw", "pitch", "roll") else 0)
            for name, value in values.items()
        }
        skin_px = face.head.vectors_to_px(face.express(state).skin)
        for displacement in field.displacements(skin_px, face.place(state)):
            assert field.slopes(displacement)[1].min() > 0, values


@pytest.mark.parametrize("yaw", [-35.0, 30.0])
@pytest.mark.parametrize("name", ["yaw", "roll", "pitch"])
def test_three_quarter_views_turn_without_folds(yaw: float, name: str) -> None:
    mesh = mesh_of(pose=Pose(yaw, 0, 0))
    face = PortraitFace(
        (mesh - [SIZE / 2, SIZE / 2, 0]) * 0.75 + [SIZE / 2, SIZE / 2, 0]
    )  # hair and shoulders
    field = WarpField(face.head, SIZE)
    for turn in (-15.0, 15.0):
        placement = face.place(face.own | {name: face.own[name] + turn})
        for displacement in field.displacements(np.zeros((478, 3)), placement):
            assert field.slopes(displacement)[1].min() > 0.15


def test_what_would_fold_is_smoothed_and_the_rest_is_left() -> None:
    field = WarpField(PortraitFace(mesh_of()).head, SIZE)
    x, y = np.moveaxis(field.grid, -1, 0)
    bump = 9 * np.exp(-((x - 80) ** 2 + (y - 60) ** 2) / 30)
    displacement = np.stack([bump, np.zeros_like(bump)], -1).astype(np.float32)
    assert field.slopes(displacement)[1].min() < 0
    smoothed = field._unfold(displacement.copy())
    assert field.slopes(smoothed)[1].min() > 0
    np.testing.assert_array_equal(smoothed[70:], displacement[70:])


def test_limited_slopes_are_limited_and_flat_ground_is_kept() -> None:
    cliff = np.zeros((40, 40), np.float32)
    cliff[:, 20:] = 30
    limited = limit_slope(cliff, 1.0)
    assert np.abs(np.diff(limited, axis=1)).max() <= 2.0 + 1e-5
    np.testing.assert_array_equal(limited[:, :5], 0)
    np.testing.assert_array_equal(limited[:, -5:], 30)


# ---------------------------------------------------------------- sizes and borders


def test_sizes_may_be_mixed() -> None:
    drawn = draw_face(np.random.default_rng(0), SIZE)
    rig = PortraitRig(drawn.rgb, drawn.mesh, drawn.mask, rng=np.random.default_rng(1))
    state = NEUTRAL | {"yaw": 6.0, "jaw": 0.5}
    first = rig.render(state, 96)
    for size in (256, 48, 97):
        frame, points = rig.frame(state, size)
        assert frame.shape == (size, size, 3)
        np.testing.assert_allclose(points * 96 / size, rig.landmarks(state, 96), atol=1e-3)
    np.testing.assert_array_equal(rig.render(state, 96), first)


@pytest.mark.parametrize("sides", [ALL_SIDES, ("left", "bottom")])
def test_given_sides_of_the_picture_stay_still(sides: tuple[str, ...]) -> None:
    rig = rig_of(mesh_of(parted_cm=0.5), still_sides=sides)
    state = NEUTRAL | {"yaw": 12.0, "roll": 10.0, "shift_x": 1.5, "shift_y": 1.0, "breath": 0.3, "jaw": 0.8}
    frame = rig.render(state, SIZE)
    edges = {"left": np.s_[:, 0], "right": np.s_[:, -1], "top": np.s_[0], "bottom": np.s_[-1]}
    for side, edge in edges.items():
        is_still = bool((frame[edge] == rig.source[edge]).all())
        assert is_still == (side in sides), side
    points = rig.landmarks(state, SIZE)
    assert np.abs(points - rig.landmarks(rig.own, SIZE)).max() > 5


def test_hair_that_the_border_cuts_leaves_freely_and_is_stretched_when_drawn_in() -> None:
    head = PortraitFace(mesh_of()).head
    person = np.zeros((SIZE, SIZE), np.float32)
    person[:, SIZE // 3 : 2 * SIZE // 3] = 1
    cut, beside = WarpField(head, SIZE, (), person), WarpField(head, SIZE, (), np.zeros_like(person))
    middle, still = GRID // 2, np.zeros((478, 3))

    def along_top(field: WarpField, **pose: float) -> np.ndarray:
        return field.displacements(still, place_head(head, NEUTRAL | pose))[0][0, middle]

    down, aside = along_top(cut, shift_y=1.0), along_top(cut, shift_x=1.0)
    assert abs(down[1]) < 0.1 * along_top(beside, shift_y=1.0)[1]
    np.testing.assert_allclose(aside, along_top(beside, shift_x=1.0), atol=1e-4)
    np.testing.assert_allclose(along_top(cut, shift_y=-1.0), along_top(beside, shift_y=-1.0), atol=1e-4)
    # a picture that ends inside the square is held at its end
    ends = WarpField(head, SIZE, (), person, (0.0, 0.1, 0.0, 0.0))
    row = int(0.1 * GRID)
    moved = ends.displacements(still, place_head(head, NEUTRAL | {"shift_y": 1.0}))[0][row, middle, 1]
    assert abs(moved) < 0.1 * along_top(beside, shift_y=1.0)[1]


@pytest.mark.parametrize("side", range(4))
def test_each_side_holds_its_own_movement(side: int) -> None:
    head = PortraitFace(mesh_of()).head
    person = np.zeros((SIZE, SIZE), np.float32)
    np.rot90(person, side - 1)[: SIZE // 2] = 1  # a view: that half of the picture
    hold = np.concatenate(WarpField(head, SIZE, (), person)._hold, -1)
    edges = hold[GRID // 2, 0], hold[0, GRID // 2], hold[GRID // 2, -1], hold[-1, GRID // 2]
    assert edges[side][side] < 0.1
    assert edges[(side + 2) % 4].min() == 1


def test_wrong_inputs_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="sides out of"):
        rig_of(mesh_of(), still_sides=("above",))
    with pytest.raises(ValueError, match="finite"):
        rig_of(np.full((478, 3), np.nan))
    rig = rig_of(mesh_of())
    with pytest.raises(ValueError, match="finite"):
        rig.render(NEUTRAL | {"yaw": float("nan")}, SIZE)
    with pytest.raises(ValueError, match="at least 1 px"):
        rig.render(NEUTRAL, 0)
    with pytest.raises(ValueError, match="jaw"):
        rig.landmarks({name: 0.0 for name in NAMES if name != "jaw"}, SIZE)


# ---------------------------------------------------------------- real portraits


def test_real_portraits_come_back_and_fold_nowhere() -> None:
    folder = Path(os.environ.get("OPENLOOPY_SAMPLES", REPOSITORY.parent / "shared" / "samples")) / "portraits"
    if not folder.is_dir():
        pytest.skip(f"no portraits at {folder}; set OPENLOOPY_SAMPLES to a folder with portraits and videos")
    from openloopy.face.crop import apply_crop, portrait_crop
    from openloopy.face.landmarks import NetworkLandmarker
    from openloopy.face.person_mask import PersonSegmenter
    from openloopy.media.image import read_image

    landmarker, segmenter, size = NetworkLandmarker(), PersonSegmenter(), 256
    for path in sorted(folder.iterdir()):
        rgb = read_image(path)
        (face, *_) = landmarker.detect(rgb)
        crop = portrait_crop(face, rgb.shape[1::-1])
        picture = apply_crop(rgb, crop, size)
        rig = PortraitRig(
            picture,
            crop.to_crop(face.mesh, size),
            segmenter.mask(picture),
            rng=np.random.default_rng(0),
        )
        np.testing.assert_array_equal(rig.render(rig.own, size), picture)
        for turn in (-15.0, 15.0):
            state = rig.own | {"yaw": rig.own["yaw"] + turn, "jaw": 0.5}
            skin_px = rig.head.vectors_to_px(rig.face.express(state).skin)
            for displacement in rig.field.displacements(skin_px, rig.face.place(state)):
                assert rig.field.slopes(displacement)[1].min() > 0, path.name
                assert displacement.shape == (GRID, GRID, 2)
