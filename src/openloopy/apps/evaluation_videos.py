"""The videos of an evaluation: read at 25 fps, and what was measured of each, kept in a file.

So that an interrupted run goes on, and so that no more than one video's landmarks are in memory.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openloopy.data.footage import SteadyReader
from openloopy.measures.video_numbers import FPS, Measured
from openloopy.media.files import atomic_write
from openloopy.media.video import VideoError

MAX_HELD_S = 10.0
"""A picture is held for so long where none follows; a longer hole is a damaged file."""
DAMAGE = (KeyError, TypeError, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a file can raise that is cut short, changed or another one: zip files with a bit of their flags turned
are encrypted, or of a kind not implemented, which are RuntimeErrors."""


@dataclass(frozen=True, eq=False)
class EvaluatedVideo:
    """A measured file, and where what was measured lies."""

    case: str
    path: Path
    stored: Path
    sound: Callable[[], np.ndarray]
    """Reads its sound from the first picture on, `samples` at 16 kHz; an AudioError where there is none."""

    @property
    def measured(self) -> Measured:
        return load_measured(self.stored)

    def frames(self) -> Iterator[np.ndarray]:
        return read_steady(self.path)


def read_steady(path: Path) -> Iterator[np.ndarray]:
    """At 25 fps, whatever rate the file has: the picture that is nearest in time, `H W 3` uint8.

    Where the file has none for a while the last one is held, as players do, so that picture and sound stay together.

    Raises:
        VideoError: no picture for more than `MAX_HELD_S`.
    """
    held, number = None, 0
    for frame in SteadyReader(path):
        if frame.number - number > MAX_HELD_S * FPS:
            raise VideoError(
                f"{path} has no pictures from {number / FPS:.1f} s to {frame.number / FPS:.1f} s; cut it there"
            )
        while held is not None and number < frame.number:
            yield held
            number += 1
        held, number = frame.rgb, frame.number + 1
        yield held


def save_measured(measured: Measured, path: Path) -> None:
    """Whole or not at all."""
    about = {
        "numbers": measured.numbers,
        "left_out": measured.left_out,
        "size_px": measured.size_px,
        "sound_s": measured.sound_s,
    }
    with atomic_write(path) as partial_path, open(partial_path, "wb") as file:
        np.savez(
            file,
            about=json.dumps(about, allow_nan=False),
            points=measured.points,
            intervals=measured.blink_intervals_s,
            descriptors=measured.descriptors,
        )


def load_measured(path: Path) -> Measured:
    """What `save_measured` wrote.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    try:
        with np.load(path) as arrays:
            about = json.loads(str(arrays["about"]))
            points, intervals, descriptors = (arrays[key] for key in ("points", "intervals", "descriptors"))
            width_px, height_px = about["size_px"]
            if {array.dtype.kind for array in (points, intervals, descriptors)} != {"f"}:
                raise ValueError("landmarks, intervals or descriptors are no numbers")
            shapes = [array.shape for array in (points, intervals, descriptors)]
            is_known = points.shape == (int(about["numbers"]["num_frames"]), 68, 2)
            if not is_known or (intervals.ndim, descriptors.ndim) != (1, 2):
                raise ValueError(f"landmarks, intervals and descriptors of the shapes {shapes}")
            return Measured(
                numbers=about["numbers"],
                left_out=about["left_out"],
                points=points,
                blink_intervals_s=intervals,
                descriptors=descriptors,
                size_px=(width_px, height_px),
                sound_s=about["sound_s"],
            )
    except DAMAGE as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
