"""Where points of the skin went, read from the picture: what a face mesh is too coarse to see.

Brows, mouth corners and a head's nod move by tenths of a millimetre up to a few millimetres; the mesh network sees a
face in 128 px, where that is less than its error. Here each frame is drawn as the head at rest would see it (pose
removed), and small patches about mesh points are found again by Lucas and Kanade's method (1981), from a frame in which
the face is at rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.rig.field import place_head, tps_operator
from openloopy.rig.mesh import EYES, LIP_OUTER_LOWER, LIP_OUTER_UPPER, NUM_SKIN_POINTS, HeadFrame
from openloopy.rig.state import State

VIEW_PX_PER_CM = 10.0
VIEW_CM = 20.0
"""Side of the square that is drawn of every frame, about the middle of the face."""
_VIEW_PX = round(VIEW_PX_PER_CM * VIEW_CM)
_GRID = 41
_WINDOW_PX = 15
_CONTRAST_PX, _CONTRAST = 9.0, 40.0
"""Light is taken out: each pixel's difference from its surroundings of this radius, in units of their spread."""
_NOISE_LEVELS = 8.0
_LEAST_SD_CM = 0.015
# fmt: off
_STEADY = [
    6, 197, 195, 5, 4, 1, 168, 8, 9, 98, 327, 2, 94, 48, 278, 115, 344, 129, 358, 122, 351, 193, 417,
    33, 133, 263, 362, 117, 346, 118, 347, 119, 348, 101, 330, 50, 280, 36, 266, 111, 340, 151, 108, 337, 69, 299,
    67, 297, 104, 333, 10, 205, 425, 116, 345, 123, 352, 187, 411,
]
_CHIN = [152, 175, 199, 200, 18, 148, 377, 83, 313, 201, 421, 140, 369]
# fmt: on
SKIN_POINTS = np.array(
    sorted(
        {*_STEADY, *_CHIN, *LIP_OUTER_UPPER, *LIP_OUTER_LOWER, 57, 287, 186, 410, 92, 322}
        | {i for eye in EYES for i in eye.brow}
    )
)
"""The mesh points that are looked for."""


@dataclass(frozen=True, eq=False)
class SkinTrack:
    """Points of the skin over time, in px of the frames."""

    points: np.ndarray
    """Indices of the mesh points, `p`."""
    places_px: np.ndarray
    """`f p 2`."""
    information: np.ndarray
    """`f p 2 2`, 1/cm^2: how surely each is known and in which direction; 0 where it was lost."""


def track_skin(
    frames: Sequence[np.ndarray],
    head: HeadFrame,
    states: Sequence[State],
    meshes_px: np.ndarray,
    reference: int,
) -> SkinTrack:
    """Find the reference frame's points in all frames.

    Args:
        frames: `H W 3` uint8 each.
        head: the head at rest, in px of the frames.
        states: a first guess of every frame's state; its pose is removed from the picture.
        meshes_px: where the guess has the mesh points at rest but for the expression, `f 478 3` px, pose removed.
        reference: the frame whose points are followed.
    """
    view = _View(head)
    first = view.draw(frames[reference], states[reference])
    origin = view.from_head(meshes_px[reference][SKIN_POINTS])
    texture = _texture(first, origin)
    places = np.empty((len(frames), len(SKIN_POINTS), 2))
    information = np.empty((len(frames), len(SKIN_POINTS), 2, 2))
    for i, frame in enumerate(frames):
        guess = view.from_head(meshes_px[i][SKIN_POINTS])
        picture = first if i == reference else view.draw(frame, states[i])
        found, sd, error = _follow(first, picture, origin, guess)
        places[i] = view.to_frame(found, states[i])
        information[i] = _information(texture, sd, error)
    return SkinTrack(SKIN_POINTS, places, information)


class _View:
    """Draws the face at rest: every pixel belongs to one point of the head."""

    def __init__(self, head: HeadFrame) -> None:
        self.head = head
        middle = head.points_cm[:NUM_SKIN_POINTS].mean(0)
        self.corner_cm = middle[:2] - VIEW_CM / 2
        line = (np.arange(_GRID) + 0.5) / _GRID * VIEW_CM
        grid = np.stack(np.meshgrid(line, line), -1) + self.corner_cm
        self._depth = self._depth_at(grid)
        self._grid_px = self.head.to_px(np.concatenate([grid, self._depth[..., None]], -1)).astype(np.float32)

    def draw(self, frame: np.ndarray, state: State) -> np.ndarray:
        """`V V` uint8: the frame with the pose removed, and the light."""
        shrink = min(1.0, VIEW_PX_PER_CM / self.head.scale_px * 1.2)
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if shrink < 0.8:
            grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        else:
            shrink = 1.0
        at = place_head(self.head, state)(self._grid_px, np.ones((_GRID, _GRID), np.float32)) * shrink - 0.5
        at = cv2.resize(at.astype(np.float32), (_VIEW_PX, _VIEW_PX), interpolation=cv2.INTER_LINEAR)
        seen = cv2.remap(grey, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        away = seen - cv2.GaussianBlur(seen, (0, 0), _CONTRAST_PX)
        spread = np.sqrt(cv2.GaussianBlur(away**2, (0, 0), _CONTRAST_PX)) + 2.0
        return np.clip(away / spread * _CONTRAST + 128, 0, 255).astype(np.uint8)

    def from_head(self, points_px: np.ndarray) -> np.ndarray:
        """Points `p 3` px of the head at rest -> px of the view, whole numbers at pixel centres."""
        cm = (points_px - self.head.origin_px)[:, :2] / self.head.scale_px
        return ((cm - self.corner_cm) * VIEW_PX_PER_CM - 0.5).astype(np.float32)

    def to_frame(self, view_px: np.ndarray, state: State) -> np.ndarray:
        """Places `p 2` in the view -> px of the frame."""
        at = (view_px + np.float32(0.5)) * np.float32(_GRID / _VIEW_PX) - np.float32(0.5)
        depth = cv2.remap(
            self._depth.astype(np.float32), at[None].astype(np.float32), None, cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )[0]  # fmt: skip
        cm = np.c_[(view_px + 0.5) / VIEW_PX_PER_CM + self.corner_cm, depth]
        points = self.head.to_px(cm).astype(np.float32)
        return place_head(self.head, state)(points, np.ones(len(points), np.float32))

    def _depth_at(self, grid: np.ndarray) -> np.ndarray:
        knots = self.head.points_cm[:NUM_SKIN_POINTS]
        operator = tps_operator(knots[:, :2], np.zeros((0, 2)), grid.reshape(-1, 2), 1e-2)
        depth = operator @ knots[:, 2].astype(np.float32)
        return np.clip(depth, knots[:, 2].min() - 2, knots[:, 2].max()).reshape(grid.shape[:2])


def _follow(
    first: np.ndarray, picture: np.ndarray, origin: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places `p 2` px, how far the way back misses `p` px, grey levels by which the patches differ `p`."""
    options = {
        "winSize": (_WINDOW_PX, _WINDOW_PX),
        "maxLevel": 1,
        "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01),
        "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
    }
    found, there, error = cv2.calcOpticalFlowPyrLK(first, picture, origin, guess.copy(), **options)
    back, here, _ = cv2.calcOpticalFlowPyrLK(picture, first, found, origin + found - guess, **options)
    miss = np.linalg.norm(back - origin, axis=1)
    miss[(there[:, 0] == 0) | (here[:, 0] == 0)] = np.inf
    return found, miss, error[:, 0]


def _texture(picture: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Structure tensors of the patches, `p 2 2`: squared grey levels per px^2, summed."""
    grey = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=1 / 8)
    products = np.stack([dx * dx, dx * dy, dy * dy], -1)
    summed = cv2.boxFilter(products, -1, (_WINDOW_PX, _WINDOW_PX), normalize=False)
    xx, xy, yy = cv2.remap(summed, at[None].astype(np.float32), None, cv2.INTER_LINEAR)[0].T
    return np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)


def _information(texture: np.ndarray, miss_px: np.ndarray, error: np.ndarray) -> np.ndarray:
    """`p 2 2`, 1/cm^2."""
    noise = (_NOISE_LEVELS + error) ** 2
    exact = texture / noise[:, None, None] * VIEW_PX_PER_CM**2
    covariance = np.linalg.inv(exact + 1e-2 * np.eye(2))
    own = _LEAST_SD_CM**2 + (np.minimum(miss_px, 100) / VIEW_PX_PER_CM) ** 2
    information = np.linalg.inv(covariance + own[:, None, None] * np.eye(2))
    return np.where((miss_px < 3)[:, None, None], information, 0)
