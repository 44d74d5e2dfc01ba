"""What is measured of a clip before anything is decided: numbers by name, from its landmarks and its sound.

Source: Loopy (arXiv:2409.02634) for the two movement descriptors; the rest is ours. `data.filters` says what the
numbers must be.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from openloopy.data.tracks import Track
from openloopy.face.crop import Crop, portrait_crop
from openloopy.face.landmarks import Face
from openloopy.measures.lip_sync import MIN_FRAMES, LipSync, in_head_frame, lip_sync
from openloopy.measures.motion import exp, glo, head_speed
from openloopy.measures.sound import describe_sound
from openloopy.media.audio import SAMPLE_RATE_HZ, SpooledWaveform
from openloopy.media.video import FPS

HAIR = 0.3
"""Of the face's height: how far a head reaches above the forehead, at least."""
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
USUAL_ANGLE = 95
"""Percentile of a head's angles that must be allowed."""


@dataclass(frozen=True, eq=False)
class Described:
    """A track with its crop and measures, and what its clip will hold."""

    crop: Crop
    points: np.ndarray
    """`f 68 2` px of the picture."""
    pose: np.ndarray
    """`f 3` yaw, pitch, roll in degrees."""
    measures: dict[str, float]


def describe_track(track: Track) -> Described:
    """Everything that the landmarks say."""
    faces = track.faces
    points = np.stack([face.points68 for face in faces])
    poses = [face.pose for face in faces]
    pose = np.array([[p.yaw, p.pitch, p.roll] for p in poses], np.float32)
    crop = portrait_crop(Face.from_mesh(np.median([face.mesh for face in faces], axis=0)), track.image_size)
    angles = np.percentile(np.abs(pose), USUAL_ANGLE, axis=0)
    moving = len(faces) > 1
    measures = {
        "duration_s": len(faces) / FPS,
        "face_px": float(np.median([face.height_px for face in faces])),
        "confidence": float(np.mean([face.score for face in faces])),
        "head_outside": max(_outside(face, track.image_size) for face in faces),
        "yaw_deg": float(angles[0]),
        "pitch_deg": float(angles[1]),
        "roll_deg": float(angles[2]),
        "face_outside_crop": float(np.mean([_leaves(face, crop) for face in faces])),
        "head_speed": head_speed(points, FPS) if moving else 0.0,
        "head_motion": glo(points) if moving else 0.0,
        "expression": exp(points) if moving else 0.0,
        "movement": _movement(points),
        "repeated": track.num_repeated / len(faces),
        "others": track.num_others / len(faces),
    }
    return Described(crop, points, pose, measures)


def describe_clip_sound(sound: np.ndarray, missing_samples: int) -> dict[str, float]:
    """What the sound says. sound: `samples` float32, silence where it is missing."""
    return {"sound_missing_s": missing_samples / SAMPLE_RATE_HZ} | {
        name: float(value) for name, value in asdict(describe_sound(sound)).items()
    }


def describe_sync(points: np.ndarray, sound: np.ndarray) -> LipSync | None:
    """Whether lips and sound agree; None for clips too short to say."""
    return lip_sync(points, sound) if len(points) >= MIN_FRAMES else None


def sync_measures(found: LipSync | None) -> dict[str, float]:
    """What of it is kept in the record."""
    if found is None:
        return {}
    return {
        "sync_score": found.score,
        "sync_strength": found.strength,
        "sync_offset": found.offset_frames,
        "sync_error": found.offset_error,
        "sync_height": found.height,
    }


def cut_sound(waveform: SpooledWaveform, first: int, num_samples: int) -> tuple[np.ndarray, int]:
    """Samples from `first` on (negative: before the sound begins), silence where there are none; how many these are."""
    start = max(-first, 0)
    kept = waveform.read(max(first, 0), num_samples - start)
    cut = np.zeros(num_samples, np.float32)
    cut[start : start + len(kept)] = kept
    return cut, num_samples - len(kept)


def _outside(face: Face, image_size: tuple[int, int]) -> float:
    """Share of the head's box that lies beyond the picture."""
    x0, y0, x1, y1 = face.box
    y0 = y0 - HAIR * (y1 - y0)
    width, height = image_size
    inside = max(min(x1, width) - max(x0, 0), 0) * max(min(y1, height) - max(y0, 0), 0)
    return float(1 - inside / max((x1 - x0) * (y1 - y0), 1e-6))


def _leaves(face: Face, crop: Crop) -> bool:
    box = face.box - np.array([crop.x0, crop.y0] * 2)
    return bool(box.min() < 0 or box.max() > crop.size)


def _movement(points: np.ndarray) -> float:
    """How much the points move within the head's frame, eye distances, rms over points and time."""
    aligned = in_head_frame(points)
    return float(np.sqrt(((aligned - aligned.mean(0)) ** 2).sum(-1).mean()))
