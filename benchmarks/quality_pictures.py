"""Contact sheets and videos: look at them before believing the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from quality_cases import Case, Tracked

from openloopy.face.movement import EYES, eye_opening, mouth_box
from openloopy.measures.motion import per_frame
from openloopy.media.image import write_image
from openloopy.media.video import VideoWriter, contact_sheet

SHEET_COLUMNS, SHEET_PX = 12, 128
STRIP_FRAMES, STRIP_START = 24, 25
MOUTH_PX = (64, 64)
EYES_PX = (84, 32)


@dataclass
class Sheets:
    """The rows of a part's three sheets, which grow person by person: ours above the truth."""

    frames: list[np.ndarray] = field(default_factory=list)
    """`SHEET_COLUMNS` moments a row."""
    mouths: list[np.ndarray] = field(default_factory=list)
    """`STRIP_FRAMES` consecutive frames a row."""
    eyes: list[np.ndarray] = field(default_factory=list)
    """`STRIP_FRAMES` consecutive frames a row, about the moment when that video's eyes are most closed."""

    def add(self, case: Case, ours: Tracked) -> None:
        """Rows for one person."""
        length = len(ours.frames)
        for video in (ours, case.truth):
            if video is not None:
                chosen = np.linspace(0, length - 1, SHEET_COLUMNS).round().astype(int)
                self.frames += [_resized(video.frames[i]) for i in chosen]
                self.mouths += cut_strip(video, case, strip(length, STRIP_START), mouth_square, MOUTH_PX)
                closed = most_closed(video.points) - STRIP_FRAMES // 2
                self.eyes += cut_strip(video, case, strip(length, closed), eyes_box, EYES_PX)

    def add_long(self, case: Case, moments: Tracked, ends: Tracked) -> None:
        """Rows for one long video: moments of all of it, and its first and last consecutive frames."""
        self.frames += [_resized(frame) for frame in moments.frames]
        first, last = strip(len(ends.frames), 0), strip(len(ends.frames), len(ends.frames))
        for chosen in (first, last):
            self.mouths += cut_strip(ends, case, chosen, mouth_square, MOUTH_PX)
            self.eyes += cut_strip(ends, case, chosen, eyes_box, EYES_PX)

    def write(self, folder: Path) -> None:
        for name, rows, columns in (
            ("frames", self.frames, SHEET_COLUMNS),
            ("mouths", self.mouths, STRIP_FRAMES),
            ("eyes", self.eyes, STRIP_FRAMES),
        ):
            if rows:
                write_image(folder / f"{name}.png", contact_sheet(rows, columns))


def write_video(path: Path, case: Case, ours: Tracked) -> None:
    """Ours, with the truth on its right where there is one, and the sound."""
    videos = [video.frames for video in (ours, case.truth) if video is not None]
    height, width = case.portrait.shape[:2]
    with VideoWriter(path, size=(len(videos) * width, height), sound=case.waveform) as writer:
        for pair in zip(*videos, strict=True):
            writer.write(np.hstack(pair))


def strip(num_frames: int, start: int) -> list[int]:
    """`STRIP_FRAMES` consecutive frames from `start`, moved into the video; a short video repeats its last."""
    start = min(max(start, 0), max(0, num_frames - STRIP_FRAMES))
    return [min(i, num_frames - 1) for i in range(start, start + STRIP_FRAMES)]


def cut_strip(
    video: Tracked,
    case: Case,
    chosen: list[int],
    box_of: Callable[[np.ndarray], np.ndarray],
    size: tuple[int, int],
) -> list[np.ndarray]:
    """One part of the face in each chosen frame, (width, height) px; the portrait's place where a face is lost."""
    found = np.where(np.isfinite(video.points), video.points, case.portrait_points)
    return [cut_out(video.frames[i], box_of(found[i]), size) for i in chosen]


def most_closed(points: np.ndarray) -> int:
    """The frame whose eyes are most closed, of a track `f 68 2` px; the first where no face was found."""
    opening = per_frame(eye_opening, points)
    return int(np.nanargmin(opening)) if np.isfinite(opening).any() else 0


def mouth_square(points: np.ndarray) -> np.ndarray:
    """A square as wide as the widened mouth box, `68 2` -> `x0 y0 x1 y1`."""
    return _reshaped(mouth_box(points), MOUTH_PX)


def eyes_box(points: np.ndarray) -> np.ndarray:
    """Both eyes, `68 2` -> `x0 y0 x1 y1`."""
    corners = points[np.concatenate(EYES)]
    x0, x1 = corners[:, 0].min(), corners[:, 0].max()
    margin = 0.1 * (x1 - x0)
    return _reshaped(np.array([x0 - margin, corners[:, 1].min(), x1 + margin, corners[:, 1].max()]), EYES_PX)


def cut_out(frame: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The box `x0 y0 x1 y1` px of a frame, drawn at (width, height); the border is repeated outside."""
    scale = size[0] / (box[2] - box[0])
    matrix = np.column_stack([np.eye(2) * scale, -box[:2] * scale])
    return cv2.warpAffine(frame, matrix, size, borderMode=cv2.BORDER_REPLICATE)


def _reshaped(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The box about the same centre, as wide, with the proportions of (width, height)."""
    width = box[2] - box[0]
    half = np.array([width, width * size[1] / size[0]]) / 2
    centre = (box[:2] + box[2:]) / 2
    return np.concatenate([centre - half, centre + half])


def _resized(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, (SHEET_PX, SHEET_PX), interpolation=cv2.INTER_AREA)
