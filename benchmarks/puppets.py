"""Do puppets move like people? Real clips and puppet clips under one meter.

    python benchmarks/puppets.py --videos DIR --data SHARDS [--num-clips 40]

Both are tracked by the same landmarker on their pictures; nothing is taken from a rig. DIR holds talking heads
named SPEAKER_anything (the same speaker counts once, however many clips there are), SHARDS a corpus of puppets.
Lengths are centimetres of the mean face that is laid over each mesh; mouth measures look at frames in which the
voice is heard. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from provenance import provenance, rounded, save_result
from scipy.ndimage import gaussian_filter1d

from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.shards import read_index, read_shard
from openloopy.face.landmarks import Face, NetworkLandmarker
from openloopy.face.mesh import Pose, rotation_of
from openloopy.face.movement import eye_opening
from openloopy.measures.motion import blinks, exp, glo, head_speed, points_of
from openloopy.media.audio import open_waveform
from openloopy.media.video import FPS, read_frames
from openloopy.puppet.prosody import analyse
from openloopy.rig.mesh import EYES, fit_head

HEARD = 0.1
"""Loudness (see `Prosody`) above which a frame counts as speech."""
MIN_FOUND = 0.95
"""Clips in which the face is found in fewer frames are left out."""
POSE_NOISE_FRAMES = 1.0
"""Sigma of the smoothing before speeds are taken: the tracker's jitter is not movement."""
_UPPER_LIP, _LOWER_LIP, _LIP_TOP, _CHIN, _CORNERS = 13, 14, 0, 152, (61, 291)
_STEADY = [168, 6, 33, 133, 362, 263]
"""Bridge of the nose and corners of the eyes: what the face's moves are measured against."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One talking head."""

    speaker: str
    frames: list[np.ndarray]
    waveform: np.ndarray


Measures = dict[str, float]


def main() -> None:
    options = _parse()
    landmarker = NetworkLandmarker()
    real = measure_all(video_clips(options.videos), landmarker)
    puppets = measure_all(islice(shard_clips(options.data), options.num_clips), landmarker)
    result = compare(real, puppets)
    print_table(result)
    result = rounded({"benchmark": "puppets", **result, **provenance()})
    save_result("puppets", result)
    print(json.dumps(result))


def video_clips(folder: Path) -> Iterator[Clip]:
    """The videos of a folder; the speaker is the file name up to its last underscore."""
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        yield Clip(
            speaker=path.stem.rsplit("_", 1)[0],
            frames=list(read_frames(path)),
            waveform=open_waveform(path),
        )


def shard_clips(folder: Path) -> Iterator[Clip]:
    """The finished clips of a corpus, a few of each shard in turn."""
    shards = [iter(read_shard(folder / name)) for name in sorted(read_index(folder).shards)]
    while shards:
        for shard in list(shards):
            sample = next(shard, None)
            if sample is None:
                shards.remove(shard)
                continue
            frames, waveform = list(decode_frames(sample.mp4)), decode_sound(sample.flac)
            yield Clip(speaker=sample.record.person_id, frames=frames, waveform=waveform)


def measure_all(clips: Iterator[Clip], landmarker: NetworkLandmarker) -> dict[str, list[Measures]]:
    """Measures of every clip in which the face was found, by speaker."""
    found = defaultdict(list)
    for clip in clips:
        faces = landmarker.track(clip.frames)
        known = [face for face in faces if face is not None]
        if len(known) >= MIN_FOUND * len(faces):
            found[clip.speaker].append(measure(_fill(faces), clip.waveform))
    if not found:
        raise ValueError("no clip in which a face can be followed; are these talking heads?")
    return found


def measure(faces: Sequence[Face], waveform: np.ndarray) -> Measures:
    """All measures of one clip: faces of consecutive frames, 16 kHz sound."""
    points, poses = points_of(faces), np.array([_angles(face.pose) for face in faces])
    face_cm = steady_cm(faces)
    return {
        **mouth_measures(face_cm, heard(waveform, len(faces))),
        **head_measures(poses),
        "nose_speed_eyes_s": head_speed(points, FPS),
        **lid_measures(eye_opening(points)),
        "brow_sd_cm": float(np.std(_brow_height(face_cm))),
        "glo": glo(points),
        "exp": exp(points),
    }


def heard(waveform: np.ndarray, num_frames: int) -> np.ndarray:
    """Frames in which the voice is heard, bool `f`."""
    prosody = analyse(waveform)
    frame_s = np.arange(num_frames) / FPS
    return np.interp(frame_s, prosody.time_s, prosody.loudness) > HEARD


def steady_cm(faces: Sequence[Face]) -> np.ndarray:
    """Meshes turned to the front and held at the bridge of the nose, `f 478 3` cm; one scale for all frames."""
    cm_per_px = 1 / np.median([fit_head(face.mesh).scale_px for face in faces])
    turned = [(face.mesh @ rotation_of(face.pose)) * cm_per_px for face in faces]
    return np.stack([points - points[_STEADY].mean(0) for points in turned])


def mouth_measures(face_cm: np.ndarray, is_heard: np.ndarray) -> Measures:
    """face_cm: `f 478 3`. Travel is the span from the 5th to the 95th percentile."""
    if is_heard.sum() < FPS / 2:
        return {}
    spoken = face_cm[is_heard]
    gap = np.linalg.norm(spoken[:, _LOWER_LIP] - spoken[:, _UPPER_LIP], axis=-1)
    low, middle, high = np.percentile(gap, (50, 75, 95))
    left, right = _CORNERS
    return {
        "lip_gap_p50_cm": float(low),
        "lip_gap_p75_cm": float(middle),
        "lip_gap_p95_cm": float(high),
        "chin_travel_cm": _span(spoken[:, _CHIN, 1]),
        "upper_lip_travel_cm": _span(spoken[:, _LIP_TOP, 1]),
        "mouth_width_sd_cm": float(np.linalg.norm(spoken[:, left] - spoken[:, right], axis=-1).std()),
    }


def head_measures(poses: np.ndarray) -> Measures:
    """Turns of the head, from `f 3` degrees (yaw, pitch, roll)."""
    steady = gaussian_filter1d(poses, POSE_NOISE_FRAMES, axis=0)
    speed = np.diff(steady, axis=0) * FPS
    sizes = zip(("yaw", "pitch", "roll"), steady.std(0), np.abs(speed).mean(0), strict=True)
    measures = {}
    for name, spread, mean_speed in sizes:
        measures |= {f"{name}_sd_deg": float(spread), f"{name}_speed_deg_s": float(mean_speed)}
    power = (np.abs(np.fft.rfft(speed - speed.mean(0), axis=0)) ** 2).sum(1)
    frequency = np.fft.rfftfreq(len(speed), 1 / FPS)
    middle = (frequency >= 0.5) & (frequency <= 2.0)
    return measures | {
        "turn_speed_deg_s": float(np.linalg.norm(speed, axis=1).mean()),
        "speed_share_half_to_2_hz": float(power[middle].sum() / power.sum()),
    }


def lid_measures(opening: np.ndarray) -> Measures:
    """From the opening of the eyes, `f` eye distances."""
    spans = blinks(opening, FPS)
    open_level = np.percentile(opening, 90)
    is_open = opening > 0.75 * open_level
    jitter = np.abs(np.diff(opening, 2))[is_open[1:-1]]
    measures = {
        "closed_share": float((opening < 0.55 * open_level).mean()),
        "blinks_per_min": 60 * FPS * len(spans) / len(opening),
        "eye_jitter": float(np.median(jitter) / open_level),
    }
    if spans:
        measures["blink_s"] = float(np.mean([end - start for start, end in spans]) / FPS)
    return measures


def compare(real: dict[str, list[Measures]], puppets: dict[str, list[Measures]]) -> dict:
    """Means over speakers, spreads over clips, ratios puppet / real."""
    sides = {"real": real, "puppets": puppets}
    names = {name for side in sides.values() for clips in side.values() for clip in clips for name in clip}
    table = {
        name: {side: _mean_of_speakers(name, of) for side, of in sides.items()} for name in sorted(names)
    }
    for name, row in table.items():
        row["ratio"] = row["puppets"] / row["real"] if row["real"] else float("nan")
        row |= {f"{side}_p10_p90": _spread(name, of) for side, of in sides.items()}
    return {
        "clips": {side: sum(map(len, of.values())) for side, of in sides.items()},
        "speakers": {side: len(of) for side, of in sides.items()},
        "measures": table,
    }


def print_table(result: dict) -> None:
    print(f"{'':26}{'real':>9}{'puppets':>9}{'ratio':>7}")
    for name, row in result["measures"].items():
        print(f"{name:26}{row['real']:9.3f}{row['puppets']:9.3f}{row['ratio']:7.2f}")


def _mean_of_speakers(name: str, side: dict[str, list[Measures]]) -> float:
    """NaN where no clip has the measure."""
    values = [[clip[name] for clip in clips if name in clip] for clips in side.values()]
    means = [np.mean(of_speaker) for of_speaker in values if of_speaker]
    return float(np.mean(means)) if means else float("nan")


def _spread(name: str, side: dict[str, list[Measures]]) -> list[float]:
    values = [clip[name] for clips in side.values() for clip in clips if name in clip]
    return [float(value) for value in np.percentile(values, (10, 90))] if values else []


def _span(track: np.ndarray) -> float:
    low, high = np.percentile(track, (5, 95))
    return float(high - low)


def _angles(pose: Pose) -> tuple[float, float, float]:
    return pose.yaw, pose.pitch, pose.roll


def _brow_height(face_cm: np.ndarray) -> np.ndarray:
    """Mean height of the brows over the bridge of the nose, `f` cm."""
    return -face_cm[:, [i for eye in EYES for i in eye.brow], 1].mean(1)


def _fill(faces: Sequence[Face | None]) -> list[Face]:
    """Lost frames take the face seen last, or the first one seen."""
    last = next(face for face in faces if face is not None)
    filled = []
    for face in faces:
        last = last if face is None else face
        filled.append(last)
    return filled


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--num-clips", type=int, default=40)
    return parser.parse_args()


if __name__ == "__main__":
    main()
