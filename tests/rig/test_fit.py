"""What made a face move is found again from where its points went."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.mesh import MESH_POINTS, canonical_mesh, fit_similarity
from openloopy.puppet.drawn import draw_face
from openloopy.rig.fit import (
    MAX_GAP_FRAMES,
    PersonShape,
    face_shape,
    fit,
    landmarks,
    neutral_shape,
)
from openloopy.rig.mesh import EYES, LOWER_LIP, UPPER_LIP, fit_head
from openloopy.rig.portrait_rig import PortraitRig
from openloopy.rig.skin import SKIN_POINTS, SkinTrack
from openloopy.rig.state import HIGH, INDEX, LOW, NAMES, NEUTRAL, States

PX_PER_CM = 10.0
MESH = canonical_mesh().vertices * PX_PER_CM + 200
CLOSURE = slice(20, 22)
BLINK = slice(30, 34)


def waves(num_frames: int, **sizes: tuple[float, float]) -> States:
    """Every named value swings about its middle: (middle, swing); the others rest."""
    rng, time = np.random.default_rng(4), np.arange(num_frames) / 25
    tracks = {name: np.zeros(num_frames) for name in NAMES}
    for name, (middle, swing) in sizes.items():
        tracks[name] = middle + swing * np.sin(2 * np.pi * (rng.uniform(0.4, 1.1) * time + rng.uniform()))
    return States.of(tracks)


def speech(num_frames: int = 50) -> States:
    """Talking, nodding, raising the brows; the lips shut for two frames, the eyes blink."""
    states = waves(
        num_frames,
        jaw=(0.4, 0.25),
        wide=(0.0, 0.5),
        yaw=(2.0, 8.0),
        pitch=(1.0, 5.0),
        roll=(0.0, 4.0),
        shift_x=(0.0, 0.6),
        shift_y=(0.0, 0.4),
        nearness=(0.0, 0.03),
        brow_left=(0.2, 0.4),
        brow_right=(0.2, 0.3),
        smile_left=(0.1, 0.3),
        smile_right=(0.1, 0.3),
        gaze_x=(0.0, 6.0),
    )
    values = states.values.copy()
    values[CLOSURE, INDEX["close"]] = 1
    values[BLINK, INDEX["blink_left"]] = values[BLINK, INDEX["blink_right"]] = [0.5, 1, 1, 0.4]
    return States(values)


def meshes_of(states: States, mesh: np.ndarray = MESH) -> np.ndarray:
    return landmarks(fit_head(mesh), face_shape(PersonShape.of_mesh(mesh)), states)


@pytest.fixture(scope="module")
def spoken() -> States:
    return speech()


@pytest.fixture(scope="module")
def meshes(spoken) -> np.ndarray:
    return meshes_of(spoken)


@pytest.fixture(scope="module")
def fitted(meshes):
    return fit(meshes, PersonShape.of_mesh(MESH))


def lip_gap(meshes: np.ndarray) -> np.ndarray:
    return np.linalg.norm(meshes[:, 13, :2] - meshes[:, 14, :2], axis=1) / PX_PER_CM


TOLERANCES = {"jaw": 0.08, "wide": 0.2, "brow_left": 0.15, "brow_right": 0.15, "smile_left": 0.2} | {
    "smile_right": 0.2,
    "yaw": 0.6,
    "pitch": 0.8,
    "roll": 0.4,
    "gaze_x": 1.5,
}


@pytest.mark.parametrize("name", TOLERANCES)
def test_states_come_back(name, fitted, spoken):
    away = np.abs(fitted.states[name] - spoken[name])
    assert np.percentile(away, 90) < TOLERANCES[name]
    assert np.corrcoef(fitted.states[name], spoken[name])[0, 1] > 0.95


def test_shift_and_nearness_are_relative_to_the_clip_s_mean(fitted, spoken):
    for name, within in (("shift_x", 0.08), ("shift_y", 0.08), ("nearness", 0.01)):
        wanted = spoken[name] - spoken[name].mean()
        assert abs(fitted.states[name].mean()) < 1e-3
        assert np.abs(fitted.states[name] - wanted).max() < within


def test_the_fitted_states_make_the_same_meshes(fitted, meshes):
    assert np.median(fitted.error_cm) < 0.04
    assert np.corrcoef(lip_gap(refit(fitted)), lip_gap(meshes))[0, 1] > 0.99


def refit(fitted) -> np.ndarray:
    from openloopy.rig.fit import face_shape

    return landmarks(fitted.head, face_shape(fitted.shape), fitted.states)


def test_jitter_hides_neither_a_closure_of_two_frames_nor_a_blink(meshes, spoken):
    noise = np.random.default_rng(0).normal(0, 0.05 * PX_PER_CM, meshes.shape)
    fitted = fit(meshes + noise, PersonShape.of_mesh(MESH))
    gap = lip_gap(refit(fitted))
    assert gap[CLOSURE].max() < 0.12 and gap[CLOSURE.start - 3] > 0.3
    assert fitted.states["blink_left"][BLINK].max() > 0.85
    # shakes less than the landmarks do: .05 cm of brow is .12 of its unit
    shaken = np.diff(fitted.states["brow_left"] - spoken["brow_left"])
    assert shaken.std() < 0.04
    assert np.corrcoef(fitted.states["yaw"], spoken["yaw"])[0, 1] > 0.99


def fit_with_skin(monkeypatch, meshes: np.ndarray, places: np.ndarray) -> States:
    """States where patches of skin are found at `f p 2` px, with .04 cm as their own estimate of their error."""
    sure = np.tile(np.eye(2) / 0.04**2, (*places.shape[:2], 1, 1))
    track = SkinTrack(SKIN_POINTS, places.copy(), sure)
    monkeypatch.setattr("openloopy.rig.fit.track_skin", lambda *_: track)
    blank = [np.zeros((8, 8, 3), np.uint8)] * len(meshes)
    return fit(meshes, PersonShape.of_mesh(MESH), frames=blank).states


def test_skin_tells_a_width_that_lips_of_the_networks_show_too_small(spoken, meshes, monkeypatch):
    calm = spoken.values.copy()
    calm[:, [INDEX[name] for name in ("wide", "smile_left", "smile_right")]] = 0
    lips = np.unique([*UPPER_LIP.flat, *LOWER_LIP.flat])
    dull = meshes.copy()
    dull[:, lips] = 0.6 * meshes[:, lips] + 0.4 * meshes_of(States(calm))[:, lips]
    states = fit_with_skin(monkeypatch, dull, meshes[:, SKIN_POINTS, :2])
    for name, least in (("wide", 0.82), ("smile_left", 0.65)):
        assert np.polyfit(spoken[name], states[name], 1)[0] > least, name
        assert np.corrcoef(spoken[name], states[name])[0, 1] > 0.985, name


def test_patches_that_slid_do_not_pull_the_face(spoken, meshes, monkeypatch):
    places = meshes[:, SKIN_POINTS, :2].copy()
    gone = np.isin(SKIN_POINTS, EYES[0].brow[::2])  # as when a strand of hair hangs over the brow
    places[1::2, gone, 1] += 0.8 * PX_PER_CM
    states = fit_with_skin(monkeypatch, meshes, places)
    away = states["brow_left"] - spoken["brow_left"]
    assert np.abs(away - np.median(away)).max() < 0.1


def test_values_keep_within_their_bounds(meshes):
    wild = meshes + np.random.default_rng(1).normal(0, 0.6 * PX_PER_CM, meshes.shape)
    values = fit(wild).states.values
    assert np.isfinite(values).all()
    assert (values >= LOW).all() and (values <= HIGH).all()


def test_what_landmarks_cannot_see_rests_and_is_said(fitted):
    unseen = {name for name, seen in zip(NAMES, fitted.seen, strict=True) if not seen}
    assert unseen == {"tongue_tip", "tongue", "breath"}
    assert all((fitted.states[name] == 0).all() for name in unseen)


def test_short_gaps_are_bridged_and_long_ones_are_missing(spoken, meshes):
    lost = meshes.copy()
    lost[8:11] = np.nan
    fitted = fit(lost, PersonShape.of_mesh(MESH))
    assert fitted.present.all() and np.isnan(fitted.error_cm[8:11]).all()
    assert np.abs(fitted.states["yaw"] - spoken["yaw"])[8:11].max() < 2.5
    lost[5 : 5 + MAX_GAP_FRAMES + 1] = np.nan
    lost[-2:] = np.nan
    fitted = fit(lost, PersonShape.of_mesh(MESH))
    assert not fitted.present[5 : 5 + MAX_GAP_FRAMES + 1].any() and not fitted.present[-2:].any()
    assert fitted.present.sum() == len(meshes) - MAX_GAP_FRAMES - 3
    assert np.isfinite(fitted.states.values).all()


def test_a_single_frame_has_a_pose_and_an_open_mouth():
    state = {**NEUTRAL, "yaw": 9.0, "roll": -5.0, "jaw": 0.6}
    one = meshes_of(States(np.array([[state[name] for name in NAMES]], np.float32)))
    fitted = fit(one)
    assert abs(fitted.states["yaw"][0] - 9) < 2 and abs(fitted.states["roll"][0] + 5) < 1
    assert 0.35 < fitted.states["jaw"][0] < 0.85
    assert abs(fitted.states["shift_x"][0]) < 1e-6
    assert lip_gap(fitted.shape.points_cm[None] * PX_PER_CM)[0] < 0.1


def test_another_person_s_shape_is_found(spoken):
    own = MESH.copy()
    own[:, 0] = 200 + 0.9 * (own[:, 0] - 200)  # a narrow face
    own[:, 1] += 0.12 * np.maximum(own[:, 1] - own[2, 1], 0)  # with a long chin
    fitted = fit(meshes_of(spoken, own))
    for name in ("jaw", "yaw", "pitch", "roll", "brow_left", "blink_left", "wide"):
        assert np.corrcoef(fitted.states[name], spoken[name])[0, 1] > 0.93, name
    away, mean_away = (
        off_shape(points, own) for points in (fitted.shape.points_cm, canonical_mesh().vertices)
    )
    assert away < 0.06 and away < 0.4 * mean_away


def off_shape(points: np.ndarray, mesh: np.ndarray) -> float:
    """Median distance between two faces, cm, laid over one another."""
    scale, rotation, offset = fit_similarity(points, mesh)
    return float(np.median(np.linalg.norm(scale * points @ rotation.T + offset - mesh, axis=1))) / scale


def test_the_neutral_face_has_shut_lips_and_open_eyes(meshes):
    points = neutral_shape(meshes).points_cm
    assert points[14, 1] - points[13, 1] < 0.35
    assert points[145, 1] - points[159, 1] > 0.7


@pytest.fixture(scope="module")
def film():
    """A drawn face whose brows and head move by little; the tracked mesh sees its mouth and lids alone."""
    drawn = draw_face(np.random.default_rng(3), size_px=384)
    states = waves(
        24, jaw=(0.25, 0.2), pitch=(0.0, 2.0), brow_left=(0.1, 0.2), brow_right=(0.1, 0.2), yaw=(0.0, 2.0)
    )
    rig = PortraitRig(drawn.rgb, drawn.mesh, drawn.mask, rng=np.random.default_rng(0))
    frames, exact = zip(*(rig.frame(states.frame(i), 256) for i in range(len(states))), strict=True)
    depth = np.repeat(drawn.mesh[None, :, 2:] * (256 / 384), len(states), 0)
    meshes = np.concatenate([np.stack(exact), depth], 2)
    return list(frames), meshes + np.random.default_rng(5).normal(0, 1.0, meshes.shape), states


def test_pictures_tell_what_meshes_do_not(film):
    frames, meshes, states = film
    blind, seeing = fit(meshes), fit(meshes, frames=frames)
    for name in ("pitch", "brow_left", "brow_right"):
        r_blind, r_seeing = (np.corrcoef(f.states[name], states[name])[0, 1] for f in (blind, seeing))
        assert r_seeing > 0.9 and r_seeing > r_blind, name


def test_a_lost_frame_among_pictures(film):
    frames, meshes, states = film
    lost = meshes.copy()
    lost[10:12] = np.nan
    fitted = fit(lost, frames=frames)
    assert fitted.present.all()
    assert np.corrcoef(fitted.states["pitch"], states["pitch"])[0, 1] > 0.9


def test_errors_say_what_is_wrong(meshes):
    with pytest.raises(ValueError, match=r"expected face meshes of shape \(frames, 478, 3\).*got \(478, 3\)"):
        fit(meshes[0])
    with pytest.raises(ValueError, match="none of the 3 frames has a face mesh"):
        fit(np.full((3, MESH_POINTS, 3), np.nan))
    with pytest.raises(ValueError, match="one frame for each of the 50 meshes, got 2"):
        fit(meshes, frames=[np.zeros((8, 8, 3), np.uint8)] * 2)
    with pytest.raises(ValueError, match="expected RGB frames `H W 3` uint8, got float64"):
        fit(meshes, frames=[np.zeros((8, 8, 3))] * 50)
    with pytest.raises(ValueError, match="expected a neutral face of shape"):
        fit(meshes, PersonShape(np.zeros((68, 2))))
