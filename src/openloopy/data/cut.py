"""Shots: where one ends and the next begins, by PySceneDetect's adaptive detector, as frames go by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from openloopy.data.footage import SteadyFrame
from openloopy.media.video import FPS

LOOK_PX = 192
"""Longer side of what the detector sees; it is enough, and ten times faster than the whole picture."""
LOOK_AHEAD = 2
"""Frames after a cut that the detector needs to be sure."""
MIN_SHOT_FRAMES = 5


class ShotFrame(NamedTuple):
    """A frame, and whether it is the first of a shot."""

    number: int
    rgb: np.ndarray
    is_repeated: bool
    starts_shot: bool


def in_shots(frames: Iterable[SteadyFrame]) -> Iterator[ShotFrame]:
    """The same frames, a few frames later. A hole and a change of size begin a shot too."""
    detector = AdaptiveDetector(window_width=LOOK_AHEAD, min_scene_len=MIN_SHOT_FRAMES)
    waiting: deque[SteadyFrame] = deque()
    cuts: set[int] = set()
    before: SteadyFrame | None = None
    seen = 0
    for seen, frame in enumerate(frames, 1):
        # The detector counts what it sees; holes are cuts anyway.
        found = detector.process_frame(FrameTimecode(seen - 1, float(FPS)), _small(frame.rgb))
        cuts.update(cut.frame_num for cut in found)
        waiting.append(frame)
        if len(waiting) > LOOK_AHEAD:
            first = waiting.popleft()
            yield _marked(first, before, seen - 1 - LOOK_AHEAD in cuts)
            before = first
    for frame in waiting:
        yield _marked(frame, before, False)
        before = frame


def _marked(frame: SteadyFrame, before: SteadyFrame | None, is_cut: bool) -> ShotFrame:
    is_broken = before is None or frame.number != before.number + 1 or frame.rgb.shape != before.rgb.shape
    return ShotFrame(frame.number, frame.rgb, frame.is_repeated, is_cut or is_broken)


def _small(rgb: np.ndarray) -> np.ndarray:
    """What the detector sees, BGR."""
    scale = min(1.0, LOOK_PX / max(rgb.shape[:2]))
    size = (max(round(rgb.shape[1] * scale), 1), max(round(rgb.shape[0] * scale), 1))
    return cv2.cvtColor(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
