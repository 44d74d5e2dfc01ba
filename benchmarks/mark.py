"""Is the mark of generated videos found again, is it seen, and is it found where it is not?

    python benchmarks/mark.py --videos DIR [DIR ...] --films DIR [DIR ...] --portraits DIR [DIR ...] --work DIR

`--videos`: generated videos without the mark, as nearly lossless as may be; they are marked, written as `openloopy
generate` does, changed in the ways of `CHANGES` and searched. `--films` and `--portraits`: real videos and pictures,
searched as they are and for thousands of other patterns. What is done is kept under `--work`, and the same command goes
on from there. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import av
import cv2
import numpy as np
from provenance import provenance, rounded, save_result
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from openloopy.media import mark
from openloopy.media.files import atomic_write, sha256_file
from openloopy.media.image import read_image
from openloopy.media.video import FPS, VideoWriter, read_frames

LENGTHS_S = (2, 8)
SEEN_FRAMES = 4
"""Of each video, over which PSNR and SSIM are taken."""
LEVELS = (3.0, 3.5, 4.0, 4.5, mark.THRESHOLD, 5.0)
CALLS = 50
VIDEO_ENDINGS = {".mp4", ".mpg", ".mov", ".mkv", ".webm"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """What happens to a video on its way: each frame is changed, then all are coded by H.264."""

    frame: Callable[[np.ndarray], np.ndarray]
    crf: int
    preset: str = "veryfast"


def resized(frame: np.ndarray, across: float, down: float) -> np.ndarray:
    """Another size, both sides even."""
    height, width = frame.shape[:2]
    size = 2 * round(across * width / 2), 2 * round(down * height / 2)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if across < 1 else cv2.INTER_CUBIC)


def cropped(frame: np.ndarray, share: float) -> np.ndarray:
    """Without a share of each side, half of it at each end."""
    height, width = frame.shape[:2]
    top, left = (round(share * side / 2) for side in (height, width))
    rest = frame[top : height - top, left : width - left]
    return rest[: rest.shape[0] // 2 * 2, : rest.shape[1] // 2 * 2]


def toned(frame: np.ndarray, contrast: float, brightness: float) -> np.ndarray:
    """Stretched about the middle grey and shifted."""
    return cv2.convertScaleAbs(
        np.clip((frame.astype(np.float32) - 128) * contrast + 128 + brightness, 0, 255)
    )


def grey(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


CHANGES = {
    "crf 23": Change(frame=lambda f: f, crf=23),
    "crf 30": Change(frame=lambda f: f, crf=30),
    "crf 30 medium": Change(frame=lambda f: f, crf=30, preset="medium"),
    "half": Change(frame=lambda f: resized(f, 0.5, 0.5), crf=18),
    "half crf 30": Change(frame=lambda f: resized(f, 0.5, 0.5), crf=30),
    "half crf 30 medium": Change(frame=lambda f: resized(f, 0.5, 0.5), crf=30, preset="medium"),
    "half crf 35": Change(frame=lambda f: resized(f, 0.5, 0.5), crf=35),
    "third crf 23": Change(frame=lambda f: resized(f, 1 / 3, 1 / 3), crf=23),
    "double crf 28": Change(frame=lambda f: resized(f, 2, 2), crf=28),
    "narrower crf 28": Change(frame=lambda f: resized(f, 0.6, 0.9), crf=28),
    "contrast 1.3 crf 28": Change(frame=lambda f: toned(f, 1.3, 0), crf=28),
    "contrast .7 crf 28": Change(frame=lambda f: toned(f, 0.7, 0), crf=28),
    "brighter crf 28": Change(frame=lambda f: toned(f, 1, 30), crf=28),
    "darker crf 28": Change(frame=lambda f: toned(f, 1, -30), crf=28),
    "grey crf 28": Change(frame=grey, crf=28),
    "crop 1 % crf 23": Change(frame=lambda f: cropped(f, 0.01), crf=23),
    "crop 2 % crf 23": Change(frame=lambda f: cropped(f, 0.02), crf=23),
    "crop 5 % crf 23": Change(frame=lambda f: cropped(f, 0.05), crf=23),
    "mirrored crf 23": Change(frame=lambda f: f[:, ::-1], crf=23),
}
LONG_CHANGES = ("crf 30", "half crf 30", "half crf 30 medium")
"""Also looked at in the longest videos; the others only in the shortest."""


def main() -> None:
    options = _parse()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = [measured_once(path, options.work) for path in paths_in(options.videos, VIDEO_ENDINGS)]
    waves = [waves_of(path) for path in paths_in(options.videos + options.films, VIDEO_ENDINGS)]
    stills = [waves_of(path) for path in paths_in(options.portraits, mark.STILL_ENDINGS)]
    result = {
        "benchmark": "mark",
        "threshold": mark.THRESHOLD,
        "false_alarm_rate": f"{mark.FALSE_ALARM_RATE:.0e}",
        "videos": summary(rows),
        "call_ms": {f"{side} px": call_ms(side) for side in (512, 768, 1080)},
        "unmarked_videos": false_alarms(waves, options.patterns),
        "unmarked_pictures": false_alarms(stills, options.patterns),
        "each": rows,
    }
    result = rounded({**result, **provenance()})
    save_result("mark", result)
    print(json.dumps(result))


def paths_in(folders: Iterable[Path], endings: Iterable[str]) -> list[Path]:
    return sorted(path for folder in folders for path in folder.iterdir() if path.suffix.lower() in endings)


def measured_once(path: Path, work: Path) -> dict[str, Any]:
    """What `measure_video` finds, or found before with the same mark."""
    kept = work / f"{path.stem}_{sha256_file(Path(mark.__file__))[:8]}.json"
    if not kept.exists():
        row = rounded(measure_video(path, work))
        with atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(row))
        print(kept.read_text(), flush=True)
    return json.loads(kept.read_text())


def measure_video(path: Path, work: Path) -> dict[str, Any]:
    """Strength, visibility, cost in bytes, and scores by length and change."""
    first = next(read_frames(path))
    unmarked = mark.find_mark(path)
    if unmarked.is_marked:
        raise ValueError(
            f"{path} bears the mark already (score {unmarked.score:.1f}); give videos without it"
        )
    begun_s = time.perf_counter()
    marker = mark.Marker(first)
    start_s = time.perf_counter() - begun_s
    scores: dict[str, dict[str, float]] = {}
    for length_s in LENGTHS_S:
        written = work / f"marked_{length_s}s.mp4"
        num_bytes = _write(written, map(marker, _beginning(path, length_s)))
        names = CHANGES if length_s == min(LENGTHS_S) else LONG_CHANGES
        found = {"as written": mark.find_mark(written).score}
        for name in names:
            found[name] = _score_changed(written, CHANGES[name], work)
        scores[f"{length_s} s"] = found
    plain_bytes = _write(work / "plain.mp4", _beginning(path, max(LENGTHS_S)))
    return {
        "name": path.stem,
        "size": [first.shape[1], first.shape[0]],
        "strength": marker.strength,
        "start_ms": 1e3 * start_s,
        "unmarked": unmarked.score,
        **visibility(_beginning(path, max(LENGTHS_S)), marker),
        "bytes_ratio": num_bytes / plain_bytes,
        "scores": scores,
    }


def visibility(frames: Iterator[np.ndarray], marker: mark.Marker) -> dict[str, float]:
    """Means of PSNR (dB) and SSIM of marked frames against the unmarked."""
    step = max(LENGTHS_S) * FPS // SEEN_FRAMES
    pairs = [(frame, marker(frame)) for frame in islice(frames, 0, None, step)]
    return {
        "psnr_db": float(np.mean([peak_signal_noise_ratio(*pair) for pair in pairs])),
        "ssim": float(np.mean([structural_similarity(*pair, channel_axis=2) for pair in pairs])),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over videos: worst and median numbers, and by length and change how many were found."""
    spans = {
        name: {"least": min(values), "median": median(values), "most": max(values)}
        for name in ("strength", "start_ms", "psnr_db", "ssim", "bytes_ratio")
        for values in [[row[name] for row in rows]]
    }
    found = {}
    for length, changes in rows[0]["scores"].items() if rows else ():
        for change in changes:
            scores = [row["scores"][length][change] for row in rows]
            found[f"{length}, {change}"] = {
                "found": sum(score >= mark.THRESHOLD for score in scores),
                "of": len(scores),
                "least": min(scores),
                "median": median(scores),
            }
    return {**spans, "found": found}


def waves_of(path: Path) -> np.ndarray:
    """What the search sees of a picture or of the beginning of a video."""
    if path.suffix.lower() in mark.STILL_ENDINGS:
        return mark.picture_waves(mark.picture_on_grid(read_image(path)))
    total, num_frames = 0, 0
    for frame in islice(read_frames(path), mark.MAX_FRAMES):
        total, num_frames = total + mark.picture_on_grid(frame), num_frames + 1
    return mark.picture_waves(total / num_frames)


def false_alarms(waves: list[np.ndarray], num_patterns: int) -> dict[str, Any]:
    """Scores of our pattern, and of many others drawn alike, in what bears none of them."""
    ours = np.array([mark.correlation(one, mark.pattern_phasors()) for one in waves])
    stacked = np.stack(waves)
    stacked = stacked / np.sqrt((np.abs(stacked) ** 2).sum(1, keepdims=True) / 2)
    above, greatest = dict.fromkeys(LEVELS, 0), -np.inf
    for i in range(num_patterns):
        scores = (stacked @ mark.pattern_phasors(b"other %d" % i).conj()).real
        greatest = max(greatest, float(scores.max()))
        for level in LEVELS:
            above[level] += int((scores >= level).sum())
    trials = len(waves) * num_patterns
    return {
        "searched": len(waves),
        "found": int((ours >= mark.THRESHOLD).sum()),
        "greatest": float(ours.max()),
        "mean": float(ours.mean()),
        "deviation": float(ours.std()),
        "rate_below_at_95": 3 / len(waves) if ours.max() < mark.THRESHOLD else None,
        "other_patterns": {
            "trials": trials,
            "greatest": greatest,
            "above": {f"{level:.2f}": above[level] for level in LEVELS},
            "above_if_normal": {f"{level:.2f}": trials * NormalDist().cdf(-level) for level in LEVELS},
        },
    }


def call_ms(side_px: int) -> float:
    """Median time to mark a square frame."""
    frame = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), np.uint8)
    marker, times_s = mark.Marker(frame), []
    for _ in range(CALLS):
        begun_s = time.perf_counter()
        marker(frame)
        times_s.append(time.perf_counter() - begun_s)
    return 1e3 * median(times_s)


def _beginning(path: Path, length_s: float) -> Iterator[np.ndarray]:
    return islice(read_frames(path), round(length_s * FPS))


def _write(path: Path, frames: Iterator[np.ndarray]) -> int:
    """Write a video as `openloopy generate` does; its size in bytes."""
    first = next(frames)
    with VideoWriter(path, size=(first.shape[1], first.shape[0])) as video:
        video.write(first)
        for frame in frames:
            video.write(frame)
    return path.stat().st_size


def _score_changed(source: Path, change: Change, work: Path) -> float:
    changed = work / "changed.mp4"
    recode(source, changed, change)
    return mark.find_mark(changed).score


def recode(source: Path, target: Path, change: Change) -> None:
    """Change all frames of a video and code them by x264 with its own defaults."""
    frames = map(change.frame, read_frames(source))
    with av.open(str(target), "w") as container:
        options = {"crf": str(change.crf), "preset": change.preset}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, FPS)
        for i, frame in enumerate(frames):
            if i == 0:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, nargs="+", required=True)
    parser.add_argument("--films", type=Path, nargs="+", required=True)
    parser.add_argument("--portraits", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True, help="for videos that are searched and replaced")
    parser.add_argument("--patterns", type=int, default=5000, help="how many others to search for")
    return parser.parse_args()


if __name__ == "__main__":
    main()
