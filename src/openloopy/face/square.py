"""Squares that stand as a face stands: what the networks see of a picture, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openloopy.face.crop import warp
from openloopy.face.mesh import CHIN, FOREHEAD, canonical_mesh
from openloopy.face.networks import MESH_PX, VIEW_FACE_HEIGHTS

MAX_DRIFT = 0.12
"""A tracked face that is off its view's centre by more of its height, or larger or smaller by more, gets a new view."""
MAX_DRIFT_RAD = 0.3


@dataclass(frozen=True)
class FaceSquare:
    """A square that stands as the face stands: centre `2` px, side px, roll in radians (clockwise)."""

    centre: np.ndarray
    side: float
    roll: float = 0.0
    is_mirrored: bool = False

    @classmethod
    def about(cls, mesh: np.ndarray) -> FaceSquare:
        """The view that the mesh network is best at, from a mesh `478 3` px."""
        down = mesh[CHIN, :2] - mesh[FOREHEAD, :2]
        roll = float(np.arctan2(-down[0], down[1]))
        square = cls(np.zeros(2), VIEW_FACE_HEIGHTS * float(np.linalg.norm(down)), roll)
        upright = mesh[:, :2] @ square._turn.T
        middle = (upright.min(0) + upright.max(0)) / 2
        return cls(square._turn.T @ middle, square.side, roll)

    @property
    def _turn(self) -> np.ndarray:
        """Rotates the picture so that the face stands upright."""
        c, s = np.cos(self.roll), np.sin(self.roll)
        mirror = np.diag([-1.0 if self.is_mirrored else 1.0, 1.0])
        return mirror @ np.array([[c, s], [-s, c]])

    def cut(self, rgb: np.ndarray, size_px: int = MESH_PX) -> np.ndarray:
        """What a network sees, `size_px size_px 3` uint8; what lies outside repeats the border."""
        linear = self._turn * (size_px / self.side)
        return warp(rgb, linear, size_px / 2 - linear @ self.centre, size_px)

    def to_picture(self, mesh: np.ndarray) -> np.ndarray:
        """The network's mesh `478 3` (view sides from the centre) in px of the picture."""
        if self.is_mirrored:
            mesh = mesh[canonical_mesh().mirror]
        return np.concatenate([self.points_to_picture(mesh[:, :2]), mesh[:, 2:] * self.side], 1)

    def points_to_picture(self, points: np.ndarray) -> np.ndarray:
        """Points `n 2` (sides from the centre, as `cut` shows them) in px of the picture."""
        return points @ self._turn * self.side + self.centre

    def points_in_cut(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `points_to_picture`."""
        return (points - self.centre) @ self._turn.T / self.side

    def scaled(self, factor: float) -> FaceSquare:
        """The same square of a picture that is larger by a factor."""
        return FaceSquare(self.centre * factor, self.side * factor, self.roll, self.is_mirrored)

    def varied(self, zoom: float, is_mirrored: bool) -> FaceSquare:
        """The same place at another size, or seen in a mirror."""
        return FaceSquare(self.centre, self.side * zoom, self.roll, is_mirrored)

    def still_fits(self, mesh: np.ndarray) -> bool:
        """Whether a mesh lies well enough in this view."""
        ideal = FaceSquare.about(mesh)
        turn = abs((ideal.roll - self.roll + np.pi) % (2 * np.pi) - np.pi)
        away = np.linalg.norm(ideal.centre - self.centre) * VIEW_FACE_HEIGHTS / ideal.side
        return bool(
            away < MAX_DRIFT and abs(np.log(ideal.side / self.side)) < MAX_DRIFT and turn < MAX_DRIFT_RAD
        )
