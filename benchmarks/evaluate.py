"""The evaluation evaluated: `mini` against the truth, the floor of real against real, known damage, speed and memory.

    python benchmarks/evaluate.py --work DIR --shards SHARDS [--shards MORE] [--parts mini,floor,damage,speed]

SHARDS have `val` clips (of `openloopy prepare` or `openloopy puppet`).

mini    the embedded model speaks with each clip's first frame and sound, and is evaluated against the clip
floor   one half of the clips against the other
damage  clips that are blurred, noisy, frozen, shuffled, or out of step, at three strengths each, against themselves
speed   100 short clips in a process of its own

DIR keeps the videos and the reports. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from provenance import provenance, rounded, save_result

from openloopy.apps.evaluate import EvaluateConfig, cases_of, evaluate
from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.shards import read_shards
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.video import VideoWriter
from openloopy.models.folder import find_model_folder
from openloopy.models.rig_codec import Portrait

SAMPLES_PER_FRAME = 640
DAMAGED = 4
"""Clips that are damaged."""
SPEED_CLIPS, SPEED_S = 100, 2
SHOWN = (
    *(
        "face_found",
        "sharpness",
        "flicker",
        "smooth_blend",
        "jitter",
        "glo",
        "exp",
        "head_speed",
        "blinks_per_minute",
    ),
    *("lip_sync", "lip_sync_offset", "lip_gap_r", "identity", "psnr", "colour_drift", "d_glo", "d_exp"),
)
Clip = tuple[np.ndarray, np.ndarray]
"""Frames `f H W 3` and sound."""


def main() -> None:
    options = _parse()
    options.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"benchmark": "evaluate"}
    if "mini" in options.parts:
        result["mini"] = {
            s.name: mini(s, options.work / f"mini-{s.name}", options.clips) for s in options.shards
        }
    if "floor" in options.parts:
        result["floor"] = {s.name: floor(s, options.work / f"floor-{s.name}") for s in options.shards}
    if "damage" in options.parts:
        result["damage"] = damage(options.shards[0], options.work / "damage")
    if "speed" in options.parts:
        result["speed"] = speed(options.shards[0], options.work / "speed")
    result = rounded({**result, **provenance()})
    save_result("evaluate", result)
    print(json.dumps(result))


def clips_of(shards: Path, split: str | None = "val") -> Iterable[tuple[str, Clip]]:
    for sample in read_shards(shards, split):
        yield sample.record.clip_id, (decode_frames(sample.mp4), decode_sound(sample.flac))


def write(path: Path, clip: Clip) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames, sound = clip
    with VideoWriter(path, size=frames.shape[2:0:-1], sound=sound) as writer:
        for frame in frames:
            writer.write(frame)


def mini(shards: Path, work: Path, limit: int) -> dict[str, Any]:
    """The embedded model on the first frames and sounds of held-out clips."""
    pipeline = LoopyPipeline.from_pretrained(find_model_folder("mini"))
    for i, (name, (frames, sound)) in enumerate(clips_of(shards)):
        path = work / "generated" / f"{name}.mp4"
        if i >= limit or path.exists():
            continue
        write(work / "truth" / f"{name}.mp4", (frames, sound))
        options = GenerationOptions(size_px=frames.shape[1])
        made = pipeline.generate(Portrait(frames[0]), (sound, SAMPLE_RATE_HZ), options=options)
        write(path, (np.stack(list(made)), sound))
    return report(work / "generated", work / "truth", work / "report", "mini")


def floor(shards: Path, work: Path) -> dict[str, Any]:
    """Real against real: even clips against odd ones, of both splits."""
    for i, (_, clip) in enumerate(clips_of(shards, None)):
        path = work / ("even", "odd")[i % 2] / f"{i // 2}.mp4"
        if not path.exists():
            write(path, clip)
    return report(work / "even", work / "odd", work / "report", "real against real")


def damage(shards: Path, work: Path) -> dict[str, Any]:
    """Every damage at every strength, against the clips themselves."""
    clips = [clip for _, clip in zip(range(DAMAGED), (c for _, c in clips_of(shards)), strict=False)]
    for i, clip in enumerate(clips):
        if not (work / "truth" / f"{i}.mp4").exists():
            write(work / "truth" / f"{i}.mp4", clip)
    rows = {"none": report(work / "truth", work / "truth", work / "report-none", "none")}
    for name, (harm, strengths) in DAMAGES.items():
        for strength in strengths:
            label = f"{name} {strength}"
            for i, clip in enumerate(clips):
                if not (work / label / f"{i}.mp4").exists():
                    write(work / label / f"{i}.mp4", harm(clip, strength))
            rows[label] = report(work / label, work / "truth", work / f"report-{label}", label)
    return rows


def blurred(clip: Clip, sigma_px: float) -> Clip:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma_px) for frame in clip[0]]), clip[1]


def noisy(clip: Clip, levels: float) -> Clip:
    noise = np.random.default_rng(0).normal(0, levels, clip[0].shape)
    return np.clip(clip[0] + noise, 0, 255).astype(np.uint8), clip[1]


def frozen(clip: Clip, share: float) -> Clip:
    """From the middle on every frame repeats the last one, for a share of the clip."""
    frames = clip[0].copy()
    first = round(len(frames) * (1 - share))
    frames[first:] = frames[min(first, len(frames) - 1)]
    return frames, clip[1]


def shuffled(clip: Clip, window: int) -> Clip:
    """Frames in random order within windows."""
    rng, order = np.random.default_rng(0), np.arange(len(clip[0]))
    for start in range(0, len(order), window):
        rng.shuffle(order[start : start + window])
    return clip[0][order], clip[1]


def late(clip: Clip, frames: int) -> Clip:
    sound = np.roll(clip[1], frames * SAMPLES_PER_FRAME)
    sound[: frames * SAMPLES_PER_FRAME] = 0
    return clip[0], sound


DAMAGES: dict[str, tuple[Callable[[Clip, Any], Clip], tuple[float, ...]]] = {
    "blurred, sd px": (blurred, (1, 2, 4)),
    "noisy, sd levels": (noisy, (4, 8, 16)),
    "frozen, share": (frozen, (0.25, 0.5, 1.0)),
    "shuffled within frames": (shuffled, (2, 5, 25)),
    "sound late, frames": (late, (2, 5, 10)),
}


def speed(shards: Path, work: Path) -> dict[str, Any]:
    """Videos per minute and peak memory for 100 clips, and what a second call of the same costs."""
    clips = [clip for _, clip in clips_of(shards)]
    count = SPEED_S * 25
    for i in range(SPEED_CLIPS):
        frames, sound = clips[i % len(clips)]
        first = (7 * i) % max(len(frames) - count, 1)
        part = (
            frames[first : first + count],
            sound[first * SAMPLES_PER_FRAME : (first + count) * SAMPLES_PER_FRAME],
        )
        if not (work / "generated" / f"{i}.mp4").exists():
            write(work / "generated" / f"{i}.mp4", part)
    few = work / "few"
    few.mkdir(exist_ok=True)
    for i in range(10):
        if not (few / f"{i}.mp4").exists():
            (few / f"{i}.mp4").write_bytes((work / "generated" / f"{i}.mp4").read_bytes())
    rows = {
        "10 clips": _child(few, work / "report-few"),
        "100 clips": _child(work / "generated", work / "report"),
    }
    rows["again"] = _child(work / "generated", work / "report")
    ratio = rows["100 clips"]["peak_rss_mb"] / rows["10 clips"]["peak_rss_mb"]
    return {"clip_s": SPEED_S, "runs": rows, "peak_rss_ratio": ratio}


def _child(generated: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", str(generated), "--work", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_child(generated: Path, out: Path) -> None:
    begun_s = time.monotonic()
    found = evaluate(EvaluateConfig(cases=cases_of(generated, None, None), out=out, name="speed"))
    seconds = time.monotonic() - begun_s
    # Not ru_maxrss: that counts the parent's memory at the fork.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_mb = int(status["VmHWM"].split()[0]) / 1024
    count = len(found["videos"])
    print(json.dumps({"seconds": seconds, "videos_per_minute": 60 * count / seconds, "peak_rss_mb": peak_mb}))


def report(generated: Path, truth: Path, out: Path, name: str) -> dict[str, Any]:
    """The means that the table shows."""
    found = evaluate(EvaluateConfig(cases=cases_of(generated, truth, None), out=out, name=name))
    row = {"num_videos": len(found["videos"])}
    for number in SHOWN:
        for side in ("generated", "real", "pair"):
            if side in found["numbers"].get(number, {}):
                row[f"{number}{'_real' if side == 'real' else ''}"] = found["numbers"][number][side]["mean"]
    return row | found["sets"]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shards", type=Path, action="append", default=[])
    parser.add_argument("--parts", default="mini,floor,damage,speed")
    parser.add_argument("--clips", type=int, default=6, help="of each shards folder that `mini` speaks")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _parse()
    if arguments.child:
        run_child(arguments.child, arguments.work)
    else:
        main()
