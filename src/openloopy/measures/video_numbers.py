"""Everything that is measured of one video without weights from outside, and of a generated video beside the real one.

Every number has a name, a unit and a direction; `NUMBERS` lists them. Videos are read at 25 fps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np

from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.movement import lip_gap
from openloopy.measures.behaviour import blink_intervals, blink_rate, drift, jitter
from openloopy.measures.identity import face_descriptor, face_similarity
from openloopy.measures.lip_sync import MIN_FRAMES, SAMPLES_PER_FRAME, lip_sync
from openloopy.measures.motion import exp, face_found, glo, head_speed, per_frame
from openloopy.measures.quality import flicker, frame_difference, psnr, sharpness
from openloopy.measures.smoothness import smooth_blend
from openloopy.measures.sync import MIN_OVERLAP_FRAMES, lip_gap_correlation

FPS = 25
SAMPLED_EVERY = 10
"""Frames between those that sharpness and identity look at."""
MAX_LAG = 10
FACE_MARGIN = 0.1
Direction = Literal["higher", "lower", "truth", "none"]
Frames = Callable[[], Iterator[np.ndarray]]
"""Reads a video from its start: `H W 3` uint8 each."""


class Number(NamedTuple):
    """What a number is."""

    title: str
    unit: str
    better: Direction
    """"truth": nearer to the real video's."""


NUMBERS = {
    "num_frames": Number("frames", "", "none"),
    "face_found": Number("frames with a face", "share", "higher"),
    "sharpness": Number("sharpness of the face", "Laplacian over luma variance", "truth"),
    "flicker": Number("flicker", "warping error", "truth"),
    "frame_difference": Number("change from frame to frame", "luma levels", "truth"),
    "smooth_blend": Number("Smooth-blend", "1 - error of blended frames", "truth"),
    "jitter": Number("trembling of landmarks", "1/100 eye distance per frame^2", "truth"),
    "colour_drift": Number("colour drift", "share of black to white", "lower"),
    "identity_drift": Number("identity, last second against the first", "similarity", "higher"),
    "glo": Number("Glo", "(1/100 eye distance)^2", "truth"),
    "exp": Number("Exp", "(1/100 eye distance)^2", "truth"),
    "head_speed": Number("head speed", "eye distances per s", "truth"),
    "blinks_per_minute": Number("blinks", "per minute", "truth"),
    "lip_sync": Number("lip synchrony (our network)", "evidence", "higher"),
    "lip_sync_offset": Number("sound late by", "frames", "none"),
    "d_glo": Number("DGlo", "(1/100 eye distance)^2", "lower"),
    "d_exp": Number("DExp", "(1/100 eye distance)^2", "lower"),
    "lip_gap_r": Number("lip opening, correlation with the real video's", "", "higher"),
    "lip_gap_lag": Number("lips late by", "frames", "none"),
    "closures": Number("lips closed where b, m, p close the real ones", "share", "higher"),
    "identity": Number("identity, against the real video", "similarity", "higher"),
    "psnr": Number("PSNR against the real video", "dB", "higher"),
}


@dataclass(frozen=True, eq=False)
class Measured:
    """One video's numbers, and what set measures and pairs need of it."""

    numbers: dict[str, float]
    points: np.ndarray
    """`f 68 2` px, NaN where no face was found."""
    blink_intervals_s: np.ndarray
    descriptors: np.ndarray
    """Identity of sampled frames with a face, `n d`."""


def measure_video(frames: Frames, sound: np.ndarray | None, landmarker: NetworkLandmarker) -> Measured:
    """Measure one video; a number that cannot be had (no face, no sound, too short) is left out.

    Args:
        frames: reads the video from its start; called a few times, so that memory does not grow with its length.
        sound: `samples` float32 at 16 kHz; None: no sound.
    """
    points = _track(frames(), landmarker)
    numbers = {"num_frames": float(len(points)), "face_found": face_found(points)}
    seen = [(rgb, p) for rgb, p in _sampled(frames(), points)]
    if seen:
        numbers["sharpness"] = float(np.median([sharpness(rgb, _face_box(p)) for rgb, p in seen]))
    descriptors = np.stack([face_descriptor(rgb, p) for rgb, p in seen]) if seen else np.zeros((0, 0))
    numbers |= _picture_numbers(frames)
    numbers |= _motion_numbers(points)
    numbers |= _sync_numbers(points, sound)
    if len(descriptors) > 1:
        numbers["identity_drift"] = face_similarity(descriptors[0], descriptors[-1])
    return Measured(numbers, points, _intervals(points), descriptors)


def measure_pair(generated: Measured, real: Measured, frames: tuple[Frames, Frames]) -> dict[str, float]:
    """Numbers of a generated video beside the real one, over the frames that both have."""
    length = min(len(generated.points), len(real.points))
    numbers = {
        f"d_{name}": abs(generated.numbers[name] - real.numbers[name])
        for name in ("glo", "exp")
        if name in generated.numbers and name in real.numbers
    }
    if length >= MIN_OVERLAP_FRAMES + MAX_LAG:
        gaps = [per_frame(lip_gap, measured.points[:length]) for measured in (generated, real)]
        found = lip_gap_correlation(*gaps, max_lag=MAX_LAG)
        numbers |= {"lip_gap_r": found.r, "lip_gap_lag": float(found.best_lag)}
    if len(generated.descriptors) and len(real.descriptors):
        wanted = real.descriptors.mean(0)
        wanted = wanted / max(float(np.linalg.norm(wanted)), 1e-9)
        numbers["identity"] = float(np.mean([face_similarity(d, wanted) for d in generated.descriptors]))
    return numbers | _psnr(frames)


def _track(frames: Iterable[np.ndarray], landmarker: NetworkLandmarker) -> np.ndarray:
    """The 68 landmarks, frame by frame, without keeping whole meshes."""
    lost = np.full((68, 2), np.nan, np.float32)
    tracked: list[np.ndarray] = []
    follower, stream = landmarker.tracker(), iter(frames)
    while chunk := list(islice(stream, 8)):
        tracked += [lost if face is None else face.points68 for face in follower.follow(chunk)]
    if not tracked:
        raise ValueError("the video holds no frames")
    return np.stack(tracked)


def _sampled(frames: Iterable[np.ndarray], points: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i, rgb in enumerate(frames):
        if i % SAMPLED_EVERY == 0 and np.isfinite(points[i]).all():
            yield rgb, points[i]


def _face_box(points: np.ndarray) -> np.ndarray:
    low, high = points.min(0), points.max(0)
    pad = FACE_MARGIN * (high - low)
    return np.concatenate([low - pad, high + pad])


def _picture_numbers(frames: Frames) -> dict[str, float]:
    measures = {
        "flicker": flicker,
        "frame_difference": frame_difference,
        "smooth_blend": smooth_blend,
        "colour_drift": lambda stream: drift(stream, FPS),
    }
    return {name: value for name, f in measures.items() if (value := _tried(f, frames())) is not None}


def _motion_numbers(points: np.ndarray) -> dict[str, float]:
    measures = {
        "glo": glo,
        "exp": exp,
        "head_speed": lambda p: head_speed(p, FPS),
        "jitter": jitter,
        "blinks_per_minute": lambda p: blink_rate(p, FPS),
    }
    if np.isfinite(points).all((1, 2)).sum() < 2:
        return {}
    return {name: value for name, f in measures.items() if (value := _tried(f, points)) is not None}


def _sync_numbers(points: np.ndarray, sound: np.ndarray | None) -> dict[str, float]:
    if sound is None or len(points) < MIN_FRAMES or not np.isfinite(points).all((1, 2)).any():
        return {}
    wanted = len(points) * SAMPLES_PER_FRAME
    found = lip_sync(points, np.pad(sound[:wanted], (0, max(wanted - len(sound), 0))))
    return {"lip_sync": found.score, "lip_sync_offset": float(found.offset_frames)}


def _intervals(points: np.ndarray) -> np.ndarray:
    found = _tried(lambda p: blink_intervals(p, FPS), points)
    return np.zeros(0) if found is None else found


def _psnr(frames: tuple[Frames, Frames]) -> dict[str, float]:
    """Mean over sampled frames; nothing where the sizes differ."""
    values = []
    for i, (ours, real) in enumerate(zip(frames[0](), frames[1](), strict=False)):
        if ours.shape != real.shape:
            return {}
        if i % SAMPLED_EVERY == 0:
            values.append(psnr(ours, real))
    return {"psnr": float(np.mean(values))} if values else {}


def _tried(function: Callable, argument):
    """None where a measure says that a video is too short, or shows nothing to measure."""
    try:
        return function(argument)
    except ValueError:
        return None
