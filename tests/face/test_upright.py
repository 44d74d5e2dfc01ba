"""Pictures without a tag that lie on their side are turned until a face stands; others are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.landmarks import Face, NetworkLandmarker
from openloopy.face.upright import find_upright
from tests.face.test_crop import face_at


class Sees:
    """Finds a face where the red corner of the picture is at the top left, otherwise what else it is told to."""

    def __init__(self, otherwise: tuple[Face, ...] = ()) -> None:
        self.otherwise, self.num_looks = list(otherwise), 0

    def detect(self, rgb: np.ndarray) -> list[Face]:
        self.num_looks += 1
        height = rgb.shape[0]
        return [face_at(0.5 * height, 0.5 * height, 0.4 * height)] if rgb[0, 0, 0] > 200 else self.otherwise


def marked(height: int = 300, width: int = 400) -> np.ndarray:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:40, :40] = (255, 0, 0)
    return rgb


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_picture_is_turned_back(turns):
    found = find_upright(np.rot90(marked(), turns), Sees())
    assert np.array_equal(found.rgb, marked()) and (found.quarter_turns + turns) % 4 == 0
    assert found.faces[0].height_px == pytest.approx(120, rel=1e-5)


def test_an_upright_picture_is_looked_at_once():
    eyes = Sees()
    found = find_upright(marked(), eyes)
    assert found.quarter_turns == 0 and eyes.num_looks == 1


def test_landmarks_are_those_of_the_picture_in_its_own_size():
    found = find_upright(np.rot90(marked(1500, 2000)), Sees())
    assert found.rgb.shape == (1500, 2000, 3) and found.faces[0].height_px == pytest.approx(600, rel=1e-5)


def test_a_face_that_lies_is_turned_and_one_that_nothing_turns_stays():
    standing = face_at(200, 200, 100)
    lying = Face.from_mesh(standing.mesh[:, [1, 0, 2]] * np.float32([1, -1, 1]) + np.float32([0, 400, 0]))
    assert abs(lying.pose.roll) > 80
    found = find_upright(np.rot90(marked()), Sees((lying,)))
    assert found.quarter_turns == 3 and np.array_equal(found.rgb, marked())
    nothing = np.zeros((300, 400, 3), np.uint8)
    found = find_upright(nothing, Sees((lying,)))
    assert found.quarter_turns == 0 and found.faces == [lying]


def test_no_face_anywhere_is_no_face():
    found = find_upright(np.zeros((300, 400, 3), np.uint8), Sees())
    assert found.faces == [] and found.quarter_turns == 0


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_networks_find_a_drawn_face_however_it_lies(drawn, turns):
    found = find_upright(np.ascontiguousarray(np.rot90(drawn.rgb, turns)), NetworkLandmarker())
    assert np.array_equal(found.rgb, drawn.rgb) and abs(found.faces[0].pose.roll) < 20


class Believes:
    """Sees a face whichever way is up; how surely, by the turns that bring the red corner to the top left."""

    def __init__(
        self, scores: tuple[float, float, float, float], sizes: tuple[float, ...] = (0.4,) * 4
    ) -> None:
        self.scores, self.sizes, self.num_looks = scores, sizes, 0

    def detect(self, rgb: np.ndarray) -> list[Face]:
        self.num_looks += 1
        corners = [np.rot90(rgb, turns)[0, 0, 0] > 200 for turns in range(4)]
        number, height = corners.index(True), rgb.shape[0]
        face = face_at(0.5 * height, 0.5 * height, self.sizes[number] * height)
        return [Face.from_mesh(face.mesh, self.scores[number])]


@pytest.mark.parametrize(
    ("scores", "sizes", "turns", "looks"),
    [
        ((0.95, 0.99, 0.99, 0.99), (0.4, 0.6, 0.6, 0.6), 0, 1),
        ((0.6, 0.55, 0.98, 0.7), (0.4, 0.6, 0.4, 0.4), 2, 5),
        ((0.6, 0.55, 0.58, 0.52), (0.5, 0.4, 0.4, 0.4), 0, 4),
        ((0.6, 0.97, 0.55, 0.98), (0.4, 0.5, 0.4, 0.4), 1, 5),
    ],
)
def test_an_unsure_face_stands_the_way_in_which_it_is_surest(scores, sizes, turns, looks):
    eyes = Believes(scores, sizes)
    rgb = np.zeros((400, 400, 3), np.uint8)
    rgb[:40, :40] = (255, 0, 0)
    found = find_upright(rgb, eyes)
    assert found.quarter_turns == -turns % 4 and eyes.num_looks == looks
    assert found.faces[0].score == scores[turns]
