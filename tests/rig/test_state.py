"""The face state: names and ranges, its tokens, and what one side of the face does alone."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.mesh import canonical_mesh
from openloopy.rig.expression import FaceShape
from openloopy.rig.field import free_point_operator
from openloopy.rig.mesh import EYES, fit_head
from openloopy.rig.state import (
    HIGH,
    LOW,
    NAMES,
    NEUTRAL,
    PARTS,
    STATE_VERSION,
    TOKEN_WIDTH,
    VALUES,
    States,
    from_tokens,
    mean_of,
    to_tokens,
)

LEFT_EYE, RIGHT_EYE = EYES
MOUTH_CORNERS = (61, 291)


@pytest.fixture(scope="module")
def shape() -> FaceShape:
    head = fit_head(canonical_mesh().vertices * 10 + 100)
    return FaceShape(head.points_cm, free_point_operator(head))


def moved(shape: FaceShape, **values: float) -> np.ndarray:
    return shape.express(NEUTRAL | values).landmarks


def test_the_list_of_version_1_stays_as_it_is():
    """Weights and corpora were made with it: another list is another version."""
    assert STATE_VERSION == 1 and len(set(NAMES)) == len(NAMES) == 26
    assert {part: len(values) for part, values in PARTS.items()} == {"mouth": 9, "head": 7, "eyes": 10}
    assert NAMES[0] == "jaw" and NAMES[9] == "yaw" and NAMES[16] == "gaze_x" and NAMES[25] == "smile_right"
    assert all(value.unit and value.low <= 0 < value.high for value in VALUES)
    assert (LOW < HIGH).all()


def test_tokens_hold_every_value_once():
    states = np.random.default_rng(0).normal(size=(4, 5, len(NAMES))).astype(np.float32)
    tokens = to_tokens(states)
    assert tokens.shape == (4, 5, TOKEN_WIDTH, 1, len(PARTS))
    assert np.array_equal(from_tokens(tokens), states)
    assert np.count_nonzero(tokens) == states.size
    assert np.array_equal(tokens[0, 0, :9, 0, 0], states[0, 0, :9])
    assert np.array_equal(tokens[0, 0, :7, 0, 1], states[0, 0, 9:16])


def test_states_are_made_of_one_track_for_each_name():
    tracks = {name: np.full(3, float(i)) for i, name in enumerate(NAMES)}
    states = States.of(tracks)
    assert len(states) == 3 and states.values.dtype == np.float32
    assert states["blink_right"].tolist() == [NAMES.index("blink_right")] * 3
    assert states.frame(1) == {name: float(i) for i, name in enumerate(NAMES)}
    with pytest.raises(ValueError, match=r"missing \['jaw'\], unknown \['chin'\]"):
        States.of({"chin" if name == "jaw" else name: track for name, track in tracks.items()})
    with pytest.raises(ValueError, match=r"expected states of shape \(frames, 26\), got \(3, 25\)"):
        States(np.zeros((3, 25), np.float32))
    assert mean_of(states.frame(0), "brow") == (NAMES.index("brow_left") + NAMES.index("brow_right")) / 2


@pytest.mark.parametrize(
    ("side", "own", "other"), [("left", LEFT_EYE, RIGHT_EYE), ("right", RIGHT_EYE, LEFT_EYE)]
)
def test_a_wink_and_a_raised_brow_stay_on_their_side(shape, side, own, other):
    wink = moved(shape, **{f"blink_{side}": 1.0})
    assert wink[own.upper[4], 1] > 0.3 and np.abs(wink[other.lids]).max() < 1e-9
    assert shape.express(NEUTRAL | {f"blink_{side}": 1.0}).lid_closures[0 if side == "left" else 1] > 0.95
    brow = moved(shape, **{f"brow_{side}": 1.0})
    assert brow[own.brow, 1].max() < -0.3
    assert np.abs(brow[other.brow]).max() < 0.05


def test_half_a_smile_lifts_one_corner(shape):
    left, both = moved(shape, smile_left=0.8), moved(shape, smile_left=0.8, smile_right=0.8)
    own, other = MOUTH_CORNERS
    assert left[own, 1] == pytest.approx(both[own, 1], abs=1e-6) and left[own, 1] < -0.15
    assert abs(left[other, 1]) < 0.02


def test_both_sides_together_are_symmetric(shape):
    both = moved(
        shape, smile_left=0.6, smile_right=0.6, brow_left=0.5, brow_right=0.5, blink_left=1, blink_right=1
    )
    mirrored = both[canonical_mesh().mirror] * [-1, 1, 1]
    assert np.abs(both - mirrored).max() < 0.05
