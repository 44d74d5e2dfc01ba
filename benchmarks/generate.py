"""How fast and how large is generation? Speed, arithmetic and memory of the whole way from files to an mp4.

    python benchmarks/generate.py --model mini [--short]

Each length is made in a fresh process, so that its peak memory (getrusage) is its own: 10 s, and 3 min unless
`--short`. The arithmetic is counted by torch's flop counter, the peak of the machine by matrix products in the same
run. The last line is one JSON object, which benchmarks/README.md explains.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from provenance import folder_hash, provenance, rounded, save_result

if TYPE_CHECKING:
    from openloopy.inference.pipeline import LoopyPipeline

SAMPLE_RATE_HZ = 16_000
FPS = 25
SHORT_S, LONG_S = 10.0, 180.0
MATMUL_SIDE = 2048
MATMUL_SECONDS = 2.0


def main() -> None:
    options = _parse()
    if options.child_seconds:
        print(json.dumps(generate_video(options)))
        return
    short = in_fresh_process(options, SHORT_S)
    result = {"benchmark": "generate", **short, "peak_rss_mb_10s": short["peak_rss_mb"]}
    if not options.short:
        result["peak_rss_mb_3min"] = in_fresh_process(options, LONG_S)["peak_rss_mb"]
        result["peak_rss_ratio"] = result["peak_rss_mb_3min"] / result["peak_rss_mb_10s"]
    del result["peak_rss_mb"]
    result = rounded({**result, **arithmetic(options, short), **settings(options), **provenance()})
    save_result("generate", result)
    print(json.dumps(result))


def generate_video(options: argparse.Namespace) -> dict[str, Any]:
    """One video from files to mp4 in this process. Imports happen here, so that loading includes them."""
    started_s = time.monotonic()
    pipeline = load_pipeline(options)
    from openloopy.media.audio import open_waveform
    from openloopy.media.video import VideoWriter

    load_s, frame_times_s = time.monotonic() - started_s, []
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        write_speech(sound, options.child_seconds)
        started_s = time.monotonic()
        frames = pipeline.generate(
            portrait(pipeline.size_px), open_waveform(sound), options=generation(options)
        )
        first = next(frames)
        with VideoWriter(Path(folder) / "out.mp4", size=first.shape[1::-1], sound=sound) as writer:
            for frame in _chain(first, frames):
                writer.write(frame)
                frame_times_s.append(time.monotonic() - started_s)
        total_s = time.monotonic() - started_s
    return {
        "load_s": load_s,
        "first_frame_s": frame_times_s[0],
        "seconds_per_video_second": total_s / (len(frame_times_s) / FPS),
        "num_frames": len(frame_times_s),
        "output_px": first.shape[0],
        "dtype": str(pipeline.model.dtype),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def in_fresh_process(options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """The numbers of `generate_video` for this length."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child-seconds", str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def arithmetic(options: argparse.Namespace, short: dict[str, Any]) -> dict[str, float]:
    """Operations per frame, and how much of the machine's matrix product speed they reach."""
    pipeline = load_pipeline(options)
    first, both = count_gflop(pipeline, 1, options), count_gflop(pipeline, 2, options)
    clip_frames = pipeline.model.config.clip_frames
    peaks = {dtype: matmul_gflops(dtype) for dtype in ("float32", "bfloat16")}
    per_frame = (both - first) / clip_frames
    reached = per_frame * FPS / short["seconds_per_video_second"]
    dtype = short["dtype"].removeprefix("torch.")
    return {
        "gflop_per_frame": per_frame,
        "gflop_once_per_video": 2 * first - both,
        "gflops_reached": reached,
        "matmul_peak_gflops_fp32": peaks["float32"],
        "matmul_peak_gflops_bf16": peaks["bfloat16"],
        "share_of_matmul_peak": reached / peaks[dtype],
    }


def count_gflop(pipeline: LoopyPipeline, num_clips: int, options: argparse.Namespace) -> float:
    """Floating-point operations (a multiply-add is two) of generating so many clips; the landmarker's not included."""
    from torch.utils.flop_counter import FlopCounterMode

    num_samples = round(num_clips * pipeline.model.config.clip_frames / FPS * SAMPLE_RATE_HZ)
    with FlopCounterMode(display=False) as counter:
        for _ in pipeline.generate(
            portrait(pipeline.size_px), speech(num_samples), options=generation(options)
        ):
            pass
    return counter.get_total_flops() / 1e9


def matmul_gflops(dtype: str) -> float:
    """The best of repeated products of two square matrices, in GFLOP/s."""
    import torch

    a = torch.randn(MATMUL_SIDE, MATMUL_SIDE).to(getattr(torch, dtype))
    best_s, until_s = float("inf"), time.monotonic() + MATMUL_SECONDS
    while time.monotonic() < until_s:
        started_s = time.perf_counter()
        torch.mm(a, a)
        best_s = min(best_s, time.perf_counter() - started_s)
    return 2 * MATMUL_SIDE**3 / best_s / 1e9


def load_pipeline(options: argparse.Namespace) -> LoopyPipeline:
    import torch

    from openloopy.inference.pipeline import LoopyPipeline

    torch.set_num_threads(options.threads)
    return LoopyPipeline.from_pretrained(options.model)


def generation(options: argparse.Namespace) -> Any:
    from openloopy.inference.pipeline import GenerationOptions

    return GenerationOptions(seed=0, steps=options.steps)


def portrait(size_px: int) -> np.ndarray:
    """A drawn face, `size_px size_px 3` uint8: what it shows does not change the time."""
    from openloopy.puppet.drawn import draw_face

    return draw_face(np.random.default_rng(0), size_px=size_px)[0]


def speech(num_samples: int) -> np.ndarray:
    """Noise in syllables, `samples` float32: what it says does not change the time."""
    noise = np.random.default_rng(0).standard_normal(num_samples)
    syllables = np.sin(2 * np.pi * 2 * np.arange(num_samples) / SAMPLE_RATE_HZ) ** 2
    return (0.1 * noise * syllables).astype(np.float32)


def write_speech(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((speech(round(seconds * SAMPLE_RATE_HZ)) * 32767).astype("<i2").tobytes())


def settings(options: argparse.Namespace) -> dict[str, Any]:
    from openloopy.models.folder import find_model_folder

    return {
        "model": options.model,
        "model_hash": folder_hash(find_model_folder(options.model)),
        "threads": options.threads,
        "steps": options.steps or "model's own",
        "seconds_of_video": SHORT_S,
    }


def _chain(first: np.ndarray, rest: Any) -> Any:
    yield first
    yield from rest


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", help='"mini", a model folder or a hub id')
    parser.add_argument("--steps", type=int, help="sampling steps; the model's own by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--short", action="store_true", help="only 10 s of video, not 3 min")
    parser.add_argument("--child-seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
