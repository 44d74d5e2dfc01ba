"""Which frames of the video each generated clip covers.

The video has exactly round(duration * 25) frames. The last clip is as long as the others: the sound past its end
is silence, and the surplus frames are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from openloopy.media.video import FPS


@dataclass(frozen=True)
class ClipWindow:
    """One clip of the video."""

    index: int
    start_frame: int
    num_kept: int
    """Frames of the clip that belong to the video: all of them but in the last clip."""


def num_frames(duration_s: float) -> int:
    """Frames of the video for this much sound; too little for a single frame is an error."""
    frames = round(duration_s * FPS)
    if frames < 1:
        raise ValueError(
            f"the sound lasts {duration_s:.3f} s, less than half a video frame of 1/{FPS} s; "
            f"give at least {1 / FPS} s of sound"
        )
    return frames


def clip_windows(total_frames: int, *, clip_frames: int) -> Iterator[ClipWindow]:
    """Clips side by side from the first frame to the last."""
    for index, start in enumerate(range(0, total_frames, clip_frames)):
        yield ClipWindow(index, start, min(clip_frames, total_frames - start))
