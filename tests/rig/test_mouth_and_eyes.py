"""What the rig paints between lips and over eyes: colours in the portrait's light, teeth that follow skull and jaw."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest

from openloopy.puppet.drawn import DrawnFace, draw_face
from openloopy.rig import mouth
from openloopy.rig.beard import hairiness
from openloopy.rig.expression import FaceShape
from openloopy.rig.eyes import EyeRegion, Lashes
from openloopy.rig.field import free_point_operator
from openloopy.rig.mesh import EYES, LIP_INNER_LOWER, LIP_INNER_UPPER, LOWER_LIP, fit_head, smoothstep
from openloopy.rig.mouth import Texture, _upper_edge
from openloopy.rig.own_mouth import without_rims
from openloopy.rig.paint import open_slit
from openloopy.rig.portrait_rig import PortraitRig
from openloopy.rig.state import NEUTRAL
from openloopy.rig.tones import LUMA, Tones

SIZE, OUT = 360, 240
SKIN_SEEDS = (0, 1, 2, 3, 5, 8)
"""Drawn people of dark, brown and light skin."""
OPEN_STATES = (
    {"jaw": 0.2},
    {"jaw": 0.9, "tongue": 0.5},
    {"jaw": 0.3, "upper_lip": 0.9, "wide": 0.8},
    {"jaw": 0.4, "tongue_tip": 1.0},
    {"blink_left": 0.5, "blink_right": 1.0, "gaze_y": 8.0, "squint": 0.4},
)


@cache
def person(seed: int) -> DrawnFace:
    return draw_face(np.random.default_rng(seed), SIZE)


def rig_of(rgb: np.ndarray, face: DrawnFace, *, seed: int = 1) -> PortraitRig:
    return PortraitRig(rgb, face.mesh, face.mask, rng=np.random.default_rng(seed), own=NEUTRAL)


@cache
def drawn_rig(seed: int) -> PortraitRig:
    return rig_of(person(seed).rgb, person(seed))


def in_state(**values: float) -> dict[str, float]:
    return dict(NEUTRAL) | values


def grey(rgb: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def between_lips(frame: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Pixels `n 3` well inside the mouth's opening."""
    area = np.zeros(frame.shape[:2], np.uint8)
    outline = np.concatenate([mesh[LIP_INNER_UPPER], mesh[LIP_INNER_LOWER][::-1]])
    cv2.fillPoly(area, [np.round(outline - 0.5).astype(np.int32)], 1)
    return frame[cv2.erode(area, np.ones((3, 3), np.uint8)) > 0].astype(np.float32)


def rows_of(rig: PortraitRig, part: str, jaw: float) -> np.ndarray:
    """How far down (cm, in the mouth's plane) each row of the opening's middle is covered by teeth; rows of v."""
    blank = Texture(np.zeros((4, 4, 3)), np.zeros((4, 4)))
    mouth, kept = rig.mouth, {name: getattr(rig.mouth, name) for name in ("upper_row", "lower_row", "tongue")}
    try:
        for name in kept:
            if name != part:
                setattr(mouth, name, blank)
        frame, mesh = rig.frame(in_state(jaw=jaw, lower_lip=1.0), OUT)
    finally:
        for name, row in kept.items():
            setattr(mouth, name, row)
    x = int(mesh[13, 0] + 0.08 * np.ptp(mesh[[61, 291], 0]))
    y0, y1 = int(mesh[13, 1]) + 2, int(mesh[14, 1]) - 2
    luma = frame[y0:y1, x - 2 : x + 3].astype(np.float32).mean(1) @ LUMA
    px_per_cm = rig.head.scale_px * OUT / SIZE
    return np.flatnonzero(luma > 0.5 * (luma.max() + luma.min())) / px_per_cm + y0 / px_per_cm


@pytest.mark.parametrize("state", OPEN_STATES)
def test_a_grey_portrait_stays_grey(state: dict[str, float]) -> None:
    face = person(0)
    frame, _ = rig_of(grey(face.rgb), face).frame(in_state(**state), OUT)
    assert np.ptp(frame, axis=-1).max() == 0


def test_a_sepia_portrait_stays_sepia() -> None:
    face = person(0)
    sepia = np.clip(grey(face.rgb) * np.array([1.0, 0.86, 0.66]), 0, 255).astype(np.uint8)
    frame, mesh = rig_of(sepia, face).frame(in_state(jaw=0.5, upper_lip=0.8), OUT)
    inside = between_lips(frame, mesh)
    expected = inside[:, :1] * np.array([1.0, 0.86, 0.66])
    assert np.abs(inside - expected).max() < 6


@pytest.mark.parametrize("seed", SKIN_SEEDS)
@pytest.mark.parametrize("state", OPEN_STATES[:4])
def test_teeth_are_in_the_light_of_the_face(seed: int, state: dict[str, float]) -> None:
    """Never brighter than the face's highlights, and dark while the lips hardly part."""
    rig = drawn_rig(seed)
    luma = between_lips(*rig.frame(in_state(**state), OUT)) @ LUMA
    assert np.percentile(luma, 99) < 1.04 * rig.mouth.tones.highlight
    if state["jaw"] < 0.25:
        assert np.median(luma) < 0.75 * rig.mouth.tones.highlight


def test_dim_light_makes_dim_teeth() -> None:
    face = person(1)
    dim = (face.rgb * 0.45).astype(np.uint8)
    smile = in_state(jaw=0.3, upper_lip=0.9)
    bright_teeth, dim_teeth = (
        np.percentile(between_lips(*rig_of(rgb, face).frame(smile, OUT)) @ LUMA, 90)
        for rgb in (face.rgb, dim)
    )
    assert 0.3 < dim_teeth / bright_teeth < 0.65


def test_teeth_take_the_cast_of_the_light() -> None:
    face = person(1)
    warm, cool = (
        np.clip(face.rgb * np.array(cast), 0, 255).astype(np.uint8)
        for cast in ((1.0, 0.9, 0.7), (0.8, 0.9, 1.0))
    )
    blue_share = []
    for rgb in (warm, cool):
        rig = rig_of(rgb, face)
        blue_share.append(rig.mouth.enamel[2] / rig.mouth.enamel[0])
    assert blue_share[0] < blue_share[1] - 0.1


def test_upper_teeth_stay_with_the_head_and_lower_ones_follow_the_jaw() -> None:
    rig = drawn_rig(0)
    low, wide = 0.55, 0.95
    dropped = rig.shape.express(in_state(jaw=wide)).jaw_cm - rig.shape.express(in_state(jaw=low)).jaw_cm
    upper_low, upper_wide = (rows_of(rig, "upper_row", jaw).max() for jaw in (low, wide))
    assert abs(upper_wide - upper_low) < 0.1
    lower_low, lower_wide = (rows_of(rig, "lower_row", jaw).min() for jaw in (low, wide))
    assert abs(lower_wide - lower_low - 0.97 * dropped) < 0.12


def test_people_differ_in_their_teeth_and_seeds_repeat_them() -> None:
    face, state = person(2), in_state(jaw=0.3, upper_lip=1.0)
    (one, mesh), (again, _), (other, _) = (
        rig_of(face.rgb, face, seed=s).frame(state, OUT) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    away = np.abs(between_lips(one, mesh) - between_lips(other, mesh))
    assert away.mean() > 2


def test_the_edge_of_own_teeth_is_an_arc_above_the_lower_row() -> None:
    scale_px, width = 20.0, 80
    across = np.linspace(-1, 1, width)
    true_edge = 30 - 6 * across**2
    rows = np.arange(50)[:, None]
    upper = (rows > 12) & (rows <= true_edge)
    with_gap = upper | ((rows > true_edge + 2) & (rows < 45))
    assert np.abs(_upper_edge(with_gap, scale_px) - true_edge).max() < 1.5
    # at some columns the line between the rows does not show
    touching = with_gap.copy()
    touching[13:45, 20:26] = True
    touching[13:45, 50:54] = True
    edge = _upper_edge(touching, scale_px)
    assert (edge - true_edge).max() < 3


def with_own_teeth(face: DrawnFace, teeth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture and mesh of a face whose lips are parted over teeth of this colour."""
    rgb, mesh = face.rgb.copy(), face.mesh.copy()
    for i, j in zip(LIP_INNER_UPPER[1:-1], LIP_INNER_LOWER[1:-1], strict=True):
        mesh[i, 1], mesh[j, 1] = mesh[i, 1] - 0.014 * SIZE, mesh[j, 1] + 0.014 * SIZE
    outline = np.concatenate([mesh[LIP_INNER_UPPER, :2], mesh[LIP_INNER_LOWER, :2][::-1]])
    cv2.fillPoly(rgb, [np.round(outline).astype(np.int32)], (40, 18, 20))
    inner = outline.mean(0) + (outline - outline.mean(0)) * [0.8, 0.9] - [0, 0.1 * np.ptp(outline[:, 1])]
    cv2.fillPoly(rgb, [np.round(inner).astype(np.int32)], teeth.tolist())
    return rgb, mesh


def test_own_teeth_give_their_colour() -> None:
    face = person(3)
    teeth = np.array([205.0, 206.0, 140.0])
    rig = PortraitRig(*with_own_teeth(face, teeth), face.mask, rng=np.random.default_rng(1), own=NEUTRAL)
    assert rig.mouth.own_teeth is not None
    np.testing.assert_allclose(rig.mouth.enamel, teeth, atol=12)


def test_a_gleam_that_may_be_teeth_is_none(monkeypatch) -> None:
    monkeypatch.setattr(mouth, "_bright_between_lips", lambda rgb, area: np.where(area > 0, 0.55, 0.0))
    face = person(3)
    rgb, mesh = with_own_teeth(face, np.array([205.0, 206.0, 140.0]))
    rig = PortraitRig(rgb, mesh, face.mask, rng=np.random.default_rng(1), own=NEUTRAL)
    assert rig.mouth.own_teeth is None


def test_features_keep_their_size_and_colour_at_other_resolutions() -> None:
    face, state = person(0), in_state(jaw=0.4, upper_lip=0.5, blink_left=0.6, blink_right=0.6)
    large = cv2.resize(face.rgb, (2 * SIZE, 2 * SIZE), interpolation=cv2.INTER_CUBIC)
    small_frame, mesh = rig_of(face.rgb, face).frame(state, OUT)
    mask = cv2.resize(face.mask, (2 * SIZE, 2 * SIZE))
    big = PortraitRig(large, face.mesh * 2, mask, rng=np.random.default_rng(1), own=NEUTRAL)
    shrunk = cv2.resize(big.render(state, 2 * OUT), (OUT, OUT), interpolation=cv2.INTER_AREA)
    inside, inside_big = between_lips(small_frame, mesh), between_lips(shrunk, mesh)
    assert np.abs(inside - inside_big).mean() < 12
    assert np.abs(inside.mean(0) - inside_big.mean(0)).max() < 6


def test_pursed_lips_are_narrower_and_fuller_and_open_in_the_middle_alone() -> None:
    rig = drawn_rig(0)
    spread, pursed = (rig.landmarks(in_state(jaw=0.25, wide=wide), OUT) for wide in (0.0, -1.0))

    def width(mesh: np.ndarray) -> float:
        return float(np.linalg.norm(mesh[291] - mesh[61]))

    def gap(mesh: np.ndarray, column: int) -> float:
        return float(mesh[LIP_INNER_LOWER[column], 1] - mesh[LIP_INNER_UPPER[column], 1])

    assert width(pursed) < 0.82 * width(spread)
    assert gap(pursed, 1) < 0.25 * gap(spread, 1) and gap(pursed, 5) > 0.6 * gap(spread, 5)
    red = [mesh[14, 1] - mesh[17, 1] for mesh in (spread, pursed)]
    assert abs(red[1]) > 1.05 * abs(red[0])


def test_pursed_lips_shade_the_teeth() -> None:
    rig = drawn_rig(0)
    spread, pursed = (
        np.percentile(between_lips(*rig.frame(in_state(jaw=0.6, upper_lip=0.6, wide=wide), OUT)) @ LUMA, 90)
        for wide in (0.0, -1.0)
    )
    assert pursed < 0.6 * spread


def test_pursed_lips_of_a_portrait_that_bares_its_teeth_meet_at_the_corners() -> None:
    points = fit_head(person(0).mesh - 0.5).points_cm.copy()
    # a gap that the rules do not explain: as wide beside the middle as in it
    points[LOWER_LIP, 1] += 0.8 * (1 - np.linspace(-1, 1, 11) ** 8)
    own = in_state(jaw=0.4)
    shape = FaceShape(points, free_point_operator(fit_head(points * 20)), own)

    def gaps(wide: float) -> np.ndarray:
        moved = points + shape.express(in_state(jaw=0.4, wide=wide)).landmarks
        return moved[LIP_INNER_LOWER, 1] - moved[LIP_INNER_UPPER, 1]

    left = gaps(-1.0) / (gaps(0.0) + 1e-6)
    assert np.abs(shape.rest_gap[[1, 9]]).min() > 0.2
    assert left[[1, 9]].max() < 0.5 * left[5], left


def test_the_tip_of_the_tongue_is_round() -> None:
    """Darker above, where it turns back between the teeth, and below, where it turns down."""
    rig = drawn_rig(1)
    state = in_state(jaw=0.55, tongue_tip=1.0, lower_lip=0.6, upper_lip=0.3)
    blank = Texture(np.zeros((4, 4, 3)), np.zeros((4, 4)))
    kept = rig.mouth.upper_row, rig.mouth.lower_row
    rig.mouth.upper_row = rig.mouth.lower_row = blank
    try:
        frame, mesh = rig.frame(state, 2 * OUT)
    finally:
        rig.mouth.upper_row, rig.mouth.lower_row = kept
    x, unit = round(float(mesh[13, 0] + 0.3 * rig.head.scale_px)), rig.head.scale_px * 2 * OUT / SIZE
    top, bottom = mesh[13, 1], mesh[14, 1]
    luma = frame[int(top) + 2 : int(bottom) - 2, x - 2 : x + 3].astype(np.float32).mean(1) @ LUMA
    brightest = int(luma.argmax())
    assert brightest > 0.15 * unit
    lower = luma[brightest + int(0.25 * unit) :]
    assert len(lower) and lower.min() < 0.85 * luma[brightest]


def test_closed_lips_keep_no_line_of_the_teeth_they_showed() -> None:
    face = person(0)
    mesh = face.mesh.copy()
    mesh[LIP_INNER_LOWER[2:-2], 1] += 0.5 * fit_head(mesh).scale_px
    rgb, unit = face.rgb.copy(), fit_head(mesh).scale_px
    # teeth reach a little below the edge that the mesh has
    low = mesh[LIP_INNER_LOWER[2:-2], :2] + [0, 0.07 * unit]
    outline = np.concatenate([mesh[LIP_INNER_UPPER, :2], low[::-1]])
    cv2.fillPoly(rgb, [np.round(outline).astype(np.int32)], (235, 235, 225))
    rig = PortraitRig(rgb, mesh, face.mask, rng=np.random.default_rng(1))
    frame, points = rig.frame(rig.own | {"jaw": 0.0, "upper_lip": 0.0, "lower_lip": 0.0, "close": 1.0}, SIZE)
    steps = np.linspace(-0.05, 0.12, 8) * unit
    seen = np.stack([sample(frame, points[LIP_INNER_LOWER[4:7]] + [0, step]) for step in steps])
    assert (seen @ LUMA).max() < 180


def test_rims_roll_in_where_lips_come_together_and_only_there() -> None:
    """As when they purse: beside the middle, and close to the corners too."""
    px_per_cm, x = 20.0, np.linspace(20, 120, 41)
    edge = np.stack([x, np.full_like(x, 40.0)], -1)
    slit = open_slit(edge, edge + [0.0, 1.0], 20, 0.7, 160)
    below_cm = np.broadcast_to((slit.box.ys - 41.0) / px_per_cm, slit.below.shape)
    lip = np.repeat((200 * (below_cm < 0.1)).astype(np.float32)[..., None], 3, 2)
    shares = np.array([1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1.0])
    _, rolled = without_rims((lip, lip), slit, px_per_cm, shares)
    rim = rolled[41 - slit.box.y0, :, 0]
    assert np.all(rim[[round(at) - slit.box.x0 for at in (24.5, 35, 105, 115.5)]] < 20)
    assert rim[70 - slit.box.x0] == 200


def test_a_moustache_is_seen_and_hangs_over_the_opening() -> None:
    face = person(0)
    head = fit_head(face.mesh)
    assert hairiness(face.rgb, head, 0.0) == 0
    hairy = face.rgb.astype(np.float32)
    columns = 1 + 0.35 * np.sin(np.arange(SIZE) * 2 * np.pi / (0.22 * head.scale_px))[None]
    area = np.zeros((SIZE, SIZE), np.float32)
    outline = face.mesh[[206, 203, 423, 426, 291, 17, 61], :2]
    cv2.fillConvexPoly(area, cv2.convexHull(np.round(outline).astype(np.int32)), 1)
    hairy = np.clip(hairy * (1 + (columns - 1) * area)[..., None], 0, 255).astype(np.uint8)
    assert hairiness(hairy, head, 0.0) > 0.7
    assert hairiness(hairy, head, 0.5) == 0  # a smile's folds
    state = in_state(jaw=0.5, upper_lip=0.4)
    bare, bearded = rig_of(hairy, face), rig_of(hairy, face)
    bare.hairiness = 0.0
    teeth = [np.percentile(between_lips(*rig.frame(state, OUT)) @ LUMA, 90) for rig in (bare, bearded)]
    assert teeth[1] < 0.9 * teeth[0]
    np.testing.assert_array_equal(bare.landmarks(state, OUT), bearded.landmarks(state, OUT))


def test_a_dark_moustache_is_seen_in_a_smiling_face_too() -> None:
    face = person(1)
    head = fit_head(face.mesh)
    rng = np.random.default_rng(0)
    hair = cv2.GaussianBlur(
        rng.uniform(0.1, 1.9, (SIZE, SIZE)).astype(np.float32), (0, 0), 0.05 * head.scale_px
    )
    area = np.zeros((SIZE, SIZE), np.float32)
    outline = face.mesh[[206, 203, 2, 423, 426, 410, 0, 186], :2]
    cv2.fillConvexPoly(area, cv2.convexHull(np.round(outline).astype(np.int32)), 1)
    dark, light = (
        np.clip(face.rgb * (1 + (share * hair - 1) * area)[..., None], 0, 255).astype(np.uint8)
        for share in (0.35, 0.95)
    )
    assert hairiness(dark, head, 0.8) > 0.7
    # a smile's folds are as rough, but what lies under the nose is as bright as the cheeks
    assert hairiness(light, head, 0.8) == 0


def test_a_mouth_behind_a_microphone_stays_as_it_is() -> None:
    face, wide = person(1), in_state(jaw=0.9, smile_left=1.0)
    rgb = face.rgb.copy()
    x, y = np.round(face.mesh[13, :2]).astype(int)
    radius = round(0.8 * float(np.linalg.norm(face.mesh[61, :2] - face.mesh[291, :2])))
    cv2.circle(rgb, (int(x), int(y)), radius, (60, 60, 64), -1, cv2.LINE_AA)
    rig = rig_of(rgb, face)
    assert rig.mouth_covered and "covers the mouth" in rig.notes[-1]
    frame, mesh = rig.frame(wide, SIZE)
    np.testing.assert_array_equal(frame, rgb)
    np.testing.assert_array_equal(mesh, rig.landmarks(wide, SIZE))
    assert np.abs(rig.render(in_state(blink_left=1.0), SIZE).astype(int) - rgb).max() > 40
    for seed in SKIN_SEEDS:
        assert not drawn_rig(seed).mouth_covered


def test_folds_do_not_shade_what_lies_well_below_the_chin() -> None:
    rig = drawn_rig(0)
    state = in_state(jaw=1.0, press=1.0, tuck=1.0, close=1.0, wide=-1.0, smile_left=1.0, smile_right=1.0)
    log = rig.shading.log_shade(state, rig.shape.express(state), np.eye(3))
    chin_px = rig.head.to_px(rig.head.points_cm[152] + [0.0, 1.7, 0.0])[1]
    row = int(np.ceil(chin_px * len(log) / SIZE))
    assert row < len(log) and np.abs(log[row:]).max() < 0.01
    assert log.min() < -0.1


# ---------------------------------------------------------------- lids


def test_a_shut_lid_reaches_up_to_the_fold_of_the_open_one() -> None:
    rig = rig_of(person(0).rgb, person(0))
    eye, unit = rig.eyes[0], rig.head.scale_px * OUT / SIZE
    eye.lid[..., :3] = (255, 0, 255)
    frame = rig.render(in_state(blink_left=1.0), OUT)
    top = rig.landmarks(NEUTRAL, OUT)[eye.indices.upper[4]]
    for above_cm, is_lid in ((eye.lid_top_cm[12] - 0.15, True), (eye.lid_top_cm[12] + 0.3, False)):
        red, green, _ = sample(frame, (top - [0, above_cm * unit])[None])[0]
        assert (green < 0.5 * red) == is_lid
    assert eye.lid_top_cm[12] > 0.35


@pytest.mark.parametrize("seed", SKIN_SEEDS)
def test_shut_lids_are_of_the_skin_around_them(seed: int) -> None:
    rig = drawn_rig(seed)
    frame, mesh = rig.frame(in_state(blink_left=1.0, blink_right=1.0), OUT)
    unit = rig.head.scale_px * OUT / SIZE
    up = rig.head.rotation[:2, 1]
    for eye in EYES:
        edge = mesh[eye.upper][2:-2]
        lid, cheek = (
            np.median(sample(frame, np.concatenate([edge + s * unit * up for s in steps])), 0)
            for steps in (np.linspace(-0.6, -0.2, 5), np.linspace(0.6, 1.0, 5))
        )
        assert abs((lid - cheek) @ LUMA) < 0.12 * (cheek @ LUMA) + 4, (lid, cheek)
        assert np.abs(lid / (lid @ LUMA) - cheek / (cheek @ LUMA)).max() < 0.15


def sample(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    at = (points - 0.5).astype(np.float32)[None]
    return cv2.remap(frame, at, None, cv2.INTER_LINEAR)[0].astype(np.float32)


def test_a_bruised_eye_has_no_bruised_lid() -> None:
    """Skin in the shade of the fold does not become the colour of the whole lid."""
    face = person(5)
    rgb = face.rgb.astype(np.float32)
    head = fit_head(face.mesh - 0.5)
    for eye in EYES:
        shade = np.zeros((SIZE, SIZE), np.float32)
        at = face.mesh[eye.upper, :2] - [0, 0.12 * head.scale_px]
        cv2.polylines(shade, [np.round(at).astype(np.int32)], False, 1.0, max(2, round(0.22 * head.scale_px)))
        rgb *= 1 - 0.5 * cv2.GaussianBlur(shade, (0, 0), 1)[..., None]
    plain, shaded = (EyeLid(rig_of(picture.astype(np.uint8), face)).luma for picture in (face.rgb, rgb))
    assert shaded > 0.85 * plain


def test_a_painted_lid_keeps_its_paint_when_it_shuts() -> None:
    face, paint = person(1), (0.55, 0.6, 0.95)
    head = fit_head(face.mesh - 0.5)
    rgb = face.rgb.astype(np.float32)
    for eye in EYES:
        cover = np.zeros((SIZE, SIZE), np.float32)
        lid, brow = face.mesh[eye.upper, :2], face.mesh[eye.brow[5:], :2]
        outline = np.concatenate([lid, brow[np.argsort(brow[:, 0])[:: -eye.side]]])
        cv2.fillConvexPoly(cover, cv2.convexHull(np.round(outline).astype(np.int32)), 1)
        inside = np.concatenate([lid, face.mesh[eye.lower, :2][::-1]])
        cv2.fillPoly(cover, [np.round(inside).astype(np.int32)], 0)
        cover = cv2.GaussianBlur(cover, (0, 0), 0.05 * head.scale_px)[..., None]
        rgb *= 1 + cover * (np.array(paint, np.float32) - 1)
    plain, painted = (EyeLid(rig_of(picture.astype(np.uint8), face)).colour for picture in (face.rgb, rgb))
    wanted = plain * paint
    assert np.abs(painted - wanted).max() < 0.5 * np.abs(plain - wanted).max()


def test_a_shut_eye_keeps_no_lashes_past_its_outer_corner() -> None:
    face = person(1)
    rgb, unit = face.rgb.copy(), fit_head(face.mesh).scale_px
    wings = []
    for eye in EYES:
        corner = face.mesh[eye.upper[0], :2]
        wing = corner + [[0.02 * eye.side * unit, 0], [0.3 * eye.side * unit, -0.25 * unit]]
        cv2.line(rgb, *(tuple(map(int, np.round(p))) for p in wing), (15, 12, 12), 2, cv2.LINE_AA)
        wings.append(wing.mean(0) + [0.03 * eye.side * unit, -0.03 * unit])
    rig, plain = rig_of(rgb, face), drawn_rig(1)
    at = np.array(wings)
    shut = in_state(blink_left=1.0, blink_right=1.0)
    expected = sample(plain.render(shut, SIZE), at) @ LUMA
    for state, least, most in ((NEUTRAL, -1.0, 0.75), (shut, 0.85, 1.15)):
        seen = (sample(rig.render(state, SIZE), at) @ LUMA) / expected
        assert np.all((seen > least) & (seen < most)), (state is NEUTRAL, seen)


class EyeLid:
    """Median luma and colour of the left shut lid."""

    def __init__(self, rig: PortraitRig) -> None:
        frame, mesh = rig.frame(in_state(blink_left=1.0, blink_right=1.0), OUT)
        unit, up = rig.head.scale_px * OUT / SIZE, rig.head.rotation[:2, 1]
        points = np.concatenate([mesh[EYES[0].upper][2:-2] + s * unit * up for s in (-0.6, -0.45, -0.3)])
        self.luma = float(np.median(sample(frame, points) @ LUMA))
        self.colour = np.median(sample(frame, points), 0)


def test_half_shut_lids_are_of_one_piece() -> None:
    """No pixel of the region above a half shut lid jumps when it begins to close."""
    rig = drawn_rig(0)
    frames = [
        rig.frame(in_state(blink_left=b, blink_right=b), OUT)[0].astype(np.float32)
        for b in np.linspace(0, 0.3, 13)
    ]
    steps = [np.abs(b - a).mean(-1) for a, b in zip(frames[:-1], frames[1:], strict=True)]
    assert max(np.percentile(step[step > 0.5], 90) for step in steps) < 60


def test_lashes_are_as_dark_as_the_portraits() -> None:
    face = person(8)
    head = fit_head(face.mesh - 0.5)
    bright = face.rgb.copy()
    region = EyeRegion.of(bright, head, EYES[0])
    plain = Lashes.measure(region, 0.03, np.random.default_rng(0))
    pale = np.full_like(
        bright, np.median(region.bright_skin(region.upper_cm[None, :, 1] - 0.5, 1.0), 0).astype(np.uint8)
    )
    none = Lashes.measure(EyeRegion.of(pale, head, EYES[0]), 0.03, np.random.default_rng(0))
    assert none.strength < 0.05 < plain.strength


# ---------------------------------------------------------------- tones


def test_tones_tell_grey_stone_and_colour_apart() -> None:
    face = person(0)
    head = fit_head(face.mesh - 0.5)
    stone = np.clip(0.6 * grey(face.rgb) + 80, 0, 255) * np.array([1.0, 0.98, 0.94])
    assert Tones.measure(grey(face.rgb), head).colour == 0
    assert Tones.measure(stone.astype(np.uint8), head).colour == 0
    assert Tones.measure(face.rgb, head).colour > 0.9


def test_blur_of_the_portrait_is_measured() -> None:
    face = person(0)
    head = fit_head(face.mesh - 0.5)
    soft = cv2.GaussianBlur(face.rgb, (0, 0), 3)
    assert Tones.measure(soft, head).blur_cm > 1.5 * Tones.measure(face.rgb, head).blur_cm


def test_a_face_lit_from_one_side_has_teeth_lit_from_there() -> None:
    face = person(1)
    ramp = (0.3 + 0.7 * smoothstep(np.linspace(0, 1, SIZE), 0.35, 0.65))[None, :, None]
    left, right = (
        between_lips_halves(rig_of((face.rgb * light).astype(np.uint8), face))
        for light in (ramp[:, ::-1], ramp)
    )
    assert right > left + 0.15


def between_lips_halves(rig: PortraitRig) -> float:
    """Log of brightness in the mouth's right half over that in its left one."""
    frame, mesh = rig.frame(in_state(jaw=0.3, upper_lip=0.9), OUT)
    middle = int(mesh[13, 0])
    halves = []
    for columns in (slice(0, middle), slice(middle, OUT)):
        part = np.zeros_like(frame)
        part[:, columns] = frame[:, columns]
        inside = between_lips(part, mesh) @ LUMA
        halves.append(np.log(inside[inside > 0].mean()))
    return float(halves[1] - halves[0])
