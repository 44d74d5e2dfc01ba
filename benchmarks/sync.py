"""How well the lip-sync network tells true pairs of lips and sound from shifted and swapped ones, on real clips.

    python benchmarks/sync.py --videos FOLDER [--weights FILE] [--trained-on NAME,...] [--seconds 20]

Every video is one person speaking. Landmarks come from our own tracker. Shifts: the sound moved by 2 to 12 frames both
ways, and by quarters of a frame up to 1.5. Halves: the same clip's first and second half. Swaps: every other clip's
sound. Clips whose names begin with one of --trained-on are left out (they were trained on). The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance, rounded, save_result

from openloopy.data.describe import cut_sound, sync_measures
from openloopy.data.filters import Thresholds, judge
from openloopy.data.footage import SteadyReader
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.measures.lip_sync import (
    MIN_FRAMES,
    SAMPLES_PER_FRAME,
    LipSync,
    lip_sync,
    load_lip_sync,
    shipped_lip_sync,
)
from openloopy.measures.motion import points_of
from openloopy.media.audio import SAMPLE_RATE_HZ, open_sound
from openloopy.media.video import FPS

SHIFTS = (-12, -8, -5, -3, -2, 2, 3, 5, 8, 12)
FRACTIONS = tuple(k / 4 for k in range(-6, 7) if k)


def main() -> None:
    options = _parse()
    network = load_lip_sync(options.weights) if options.weights else shipped_lip_sync()
    known = tuple(name for name in options.trained_on.split(",") if name)
    files = [
        f for f in sorted(options.videos.iterdir()) if f.is_file() and not f.stem.startswith(known or ("\0",))
    ]
    clips = {path.stem: read_clip(path, round(options.seconds * FPS)) for path in files}
    groups = {"all": list(clips)}
    for speaker in sorted({name.rsplit("_", 1)[0] for name in clips}):
        groups[speaker] = [name for name in clips if name.startswith(f"{speaker}_")]
    result = {
        "benchmark": "sync",
        "num_clips": len(clips),
        "groups": {name: judge_group(group, clips, network) for name, group in groups.items()},
        "ms_per_clip": measure_speed(next(iter(clips.values())), network),
    }
    result = rounded({**result, **provenance()})
    save_result("sync", result)
    print(json.dumps(result))


def read_clip(path: Path, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks `f 68 2` of the first frames and as much sound, from the first picture on."""
    reader = SteadyReader(path)
    points = points_of(NetworkLandmarker().track(frame.rgb for frame in islice(reader, num_frames)))
    sound = open_sound(path)
    lead = round((sound.start_s - reader.info.first_time_s) * SAMPLE_RATE_HZ)
    return points, cut_sound(sound.waveform, -lead, len(points) * SAMPLES_PER_FRAME)[0]


def fitted(sound: np.ndarray, num_frames: int) -> np.ndarray:
    wanted = num_frames * SAMPLES_PER_FRAME
    return np.pad(sound[:wanted], (0, max(wanted - len(sound), 0)))


def judge_group(names: list[str], clips: dict[str, Any], network: Any) -> dict[str, Any]:
    """Scores of the lips of these clips with their own, with moved, and with all others' sound."""
    true = [lip_sync(*clips[name], network=network) for name in names]
    usual = float(np.median([t.offset_frames for t in true]))
    errors = []
    for name in names:
        points, sound = clips[name]
        errors += [
            lip_sync(points, moved(sound, k), network=network).offset_frames - k - usual for k in SHIFTS
        ]
    swapped = [
        lip_sync(clips[name][0], fitted(clips[other][1], len(clips[name][0])), network=network)
        for name in names
        for other in clips
        if other != name
    ]

    def passes(found: LipSync) -> bool:
        return not judge(sync_measures(found), Thresholds())

    pairs = np.array([t.score for t in true])[:, None] > np.array([s.score for s in swapped])[None]
    fractions = [
        fraction_errors(*clips[name], found, network) for name, found in zip(names, true, strict=True)
    ]
    halves = [halves_differ(*clips[name], network) for name in names]
    sure = [i for i, found in enumerate(true) if found.is_sure]
    return {
        "num_true": len(true),
        "num_swapped": len(swapped),
        "usual_offset": usual,
        "offset_sd": float(np.std([t.offset_frames for t in true])),
        "offset_error_p50_p90": percentiles([t.offset_error for t in true]),
        "sure": len(sure) / len(true),
        "off": float(np.mean([t.is_off for t in true])),
        "fraction_error_p50_p90": percentiles(np.concatenate(fractions)),
        "fraction_error_where_sure": percentiles(np.concatenate([fractions[i] for i in sure] or [[]])),
        "halves_differ_p50_p90": percentiles(halves),
        "halves_differ_where_sure": percentiles([halves[i] for i in sure]),
        "offset_within_1_frame": float(np.mean([abs(t.offset_frames - usual) <= 1 for t in true])),
        "shift_found_within_1_frame": float(np.mean(np.abs(errors) <= 1)),
        "true_above_swapped": float(pairs.mean()),
        "true_kept_by_default": float(np.mean([passes(t) for t in true])),
        "swapped_caught_by_default": float(np.mean([not passes(s) for s in swapped])),
        "score_true_p5_p50": np.percentile([t.score for t in true], [5, 50]).tolist(),
        "score_swapped_p50_p95": np.percentile([s.score for s in swapped], [50, 95]).tolist(),
    }


def fraction_errors(points: np.ndarray, sound: np.ndarray, found: LipSync, network: Any) -> np.ndarray:
    """By how much the measured shift is wrong where the sound is moved by fractions of a frame, `12`."""
    late = [
        lip_sync(points, moved(sound, k), network=network).offset_frames - found.offset_frames
        for k in FRACTIONS
    ]
    return np.abs(np.array(late) - FRACTIONS)


def halves_differ(points: np.ndarray, sound: np.ndarray, network: Any) -> float:
    """By how much the offsets of a clip's halves differ; NaN where they are too short."""
    half = len(points) // 2
    if half < MIN_FRAMES:
        return float("nan")
    parts = (
        (points[:half], sound[: half * SAMPLES_PER_FRAME]),
        (points[half:], sound[half * SAMPLES_PER_FRAME :]),
    )
    first, second = (lip_sync(*part, network=network).offset_frames for part in parts)
    return abs(first - second)


def percentiles(values: Any) -> list[float]:
    """Median and 90th percentile of what is known; empty where nothing is."""
    known = np.asarray(values, float)[np.isfinite(values)]
    return np.percentile(known, [50, 90]).tolist() if len(known) else []


def moved(sound: np.ndarray, frames: float) -> np.ndarray:
    """Late by so many frames, silence in the gap."""
    samples = round(frames * SAMPLES_PER_FRAME)
    late = np.roll(sound, samples)
    late[slice(0, samples) if samples > 0 else slice(samples, None)] = 0
    return late


def measure_speed(clip: tuple[np.ndarray, np.ndarray], network: Any, repeats: int = 20) -> float:
    begun_s = time.perf_counter()
    for _ in range(repeats):
        lip_sync(*clip, network=network)
    return 1000 * (time.perf_counter() - begun_s) / repeats


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--trained-on", default="")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each video, at most")
    return parser.parse_args()


if __name__ == "__main__":
    main()
