"""How fast and how large is generation? Speed, arithmetic and memory of the whole way from files to an mp4.

    python benchmarks/generate.py --model mini [--size 1024 | --frame full] [--short | --minutes 10]

Each length is made in a fresh process, so that its peak memory (getrusage) is its own: 10 s, and `--minutes` unless
`--short`. Where the time goes is told apart by the CPU time of the threads that do it, in the same run. The
arithmetic is counted by torch's flop counter, the peak of the machine by matrix products in the same run. The last
line is one JSON object, which benchmarks/README.md explains.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable
from functools import wraps
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from provenance import folder_hash, provenance, rounded, save_result

if TYPE_CHECKING:
    from openloopy.apps.generate import GenerateReport
    from openloopy.inference.pipeline import LoopyPipeline

SAMPLE_RATE_HZ = 16_000
FPS = 25
SHORT_S = 10.0
FULL_FRAME_PX = (1920, 1080)
LONG_STEPS = 1
"""Sampling steps follow one another in the same memory: one is enough to see whether it grows with the length."""
MATMUL_SIDE = 2048
MATMUL_SECONDS = 2.0


def main() -> None:
    options = _parse()
    if options.child_seconds:
        print(json.dumps(measure_video(options)))
        return
    result = {"benchmark": "generate", **in_fresh_process(options, SHORT_S)}
    result["peak_rss_mb_10s"] = result.pop("peak_rss_mb")
    if not options.short:
        long = in_fresh_process(options, 60 * options.minutes, steps=LONG_STEPS)["peak_rss_mb"]
        result |= {"minutes_long": options.minutes, "steps_long": LONG_STEPS, "peak_rss_mb_long": long}
        result["peak_rss_ratio"] = long / result["peak_rss_mb_10s"]
    result |= arithmetic(options, result["seconds_per_video_second"])
    result = rounded({**result, **provenance()})
    save_result("generate", result)
    print(json.dumps(result))


def measure_video(options: argparse.Namespace) -> dict[str, Any]:
    """What `openloopy generate` does, once, in this process."""
    started_s = time.monotonic()
    import openloopy.apps.generate  # noqa: F401  (here, so that its time is known)

    import_s, shares = time.monotonic() - started_s, Shares.watching()
    with tempfile.TemporaryDirectory() as folder:
        made = make_video(options, Path(folder))
    names = ("inputs_s", "load_s", "first_frame_s", "seconds_per_video_second")
    return {
        "import_s": import_s,
        **{name: made.timings[name] for name in names},
        "cpu_s_per_video_second": shares.per_second(made.num_frames / FPS),
        "num_frames": made.num_frames,
        "output_px": [made.width, made.height],
        "device": made.device,
        "dtype": made.dtype,
        "drawing_processes": len(shares.drawing_mb),
        "drawing_peak_rss_mb": sum(shares.drawing_mb),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 + sum(shares.drawing_mb),
    }


class Shares:
    """CPU time of the parts of generation, each in whichever threads and processes do it."""

    def __init__(self) -> None:
        self._spent_s: dict[str, float] = {}
        self._lock = threading.Lock()
        self._begun_s = 0.0
        self.drawing_mb: list[float] = []
        """Peak memory of each process that drew, once it has ended."""

    @staticmethod
    def watching() -> Shares:
        """Listens to all that generates from here on."""
        from openloopy.inference.full_frame import Paster
        from openloopy.inference.pipeline import LoopyPipeline
        from openloopy.models.audio_encoder import AudioFeatureReader
        from openloopy.rig import drawing
        from openloopy.rig.portrait_rig import PortraitRig

        shares = Shares()
        for owner, method, part in (
            (LoopyPipeline, "_clip_latents", "sampling"),
            (AudioFeatureReader, "window", "sound"),
            (PortraitRig, "render", "drawing"),
            (Paster, "__call__", "pasting"),
        ):
            setattr(owner, method, shares._timed(getattr(owner, method), part))
        drawing._Process.close = shares._measured(drawing._Process.close)
        # the first thing that happens after loading
        LoopyPipeline._frames = shares._from_here(LoopyPipeline._frames)
        return shares

    def per_second(self, video_s: float) -> dict[str, float]:
        """Seconds of CPU per second of video. `encoding` is what no other part spent, x264's own threads above all."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        processes_s = children.ru_utime + children.ru_stime
        total_s = time.process_time() - self._begun_s + processes_s
        parts = dict(self._spent_s)
        # processes that draw, from their start on
        parts["drawing"] = parts.get("drawing", 0.0) + processes_s
        # the sound is heard while a clip is sampled
        parts["sampling"] = parts.get("sampling", 0.0) - parts.get("sound", 0.0)
        parts["encoding"] = total_s - sum(parts.values())
        return {name: spent_s / video_s for name, spent_s in (parts | {"total": total_s}).items()}

    def _timed(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(call)
        def run(*args: Any, **settings: Any) -> Any:
            begun_s = time.thread_time()
            try:
                return call(*args, **settings)
            finally:
                with self._lock:
                    spent_s = time.thread_time() - begun_s
                    self._spent_s[part] = self._spent_s.get(part, 0.0) + spent_s

        return run

    def _measured(self, close: Callable[..., Any]) -> Callable[..., Any]:
        def run(process: Any) -> None:
            # getrusage would tell the peak of this process, of which it was a copy for a moment
            status = Path(f"/proc/{process._process.pid}/status").read_text()
            self.drawing_mb.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
            close(process)

        return run

    def _from_here(self, frames: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(frames)
        def run(*args: Any, **settings: Any) -> Any:
            made = frames(*args, **settings)
            first = next(made)
            # the portrait is prepared: from the second frame on all is drawing, sampling and encoding
            self._spent_s, self._begun_s = {}, time.process_time()
            yield first
            yield from made

        return run


def make_video(options: argparse.Namespace, folder: Path) -> GenerateReport:
    """The demo portrait speaks the demo speech, over and over for `child_seconds`."""
    import torch

    from openloopy.apps.generate import GenerateRequest, ModelChoice, generate_video
    from openloopy.apps.settings import VideoSettings
    from openloopy.media.image import write_image

    torch.set_num_threads(options.threads)
    portrait, sound = folder / "portrait.png", folder / "speech.wav"
    write_image(portrait, demo_portrait() if options.frame == "crop" else full_frame())
    write_speech(sound, options.child_seconds)
    request = GenerateRequest(
        portrait=portrait,
        audio=sound,
        out=folder / "out.mp4",
        settings=VideoSettings(steps=options.steps, size=options.size, frame=options.frame),
        has_credentials=False,
    )
    choice = ModelChoice(model=options.model, device=options.device, dtype=options.dtype)
    return generate_video(request, choice, say=lambda _: None)


def in_fresh_process(
    options: argparse.Namespace, seconds: float, *, steps: int | None = None
) -> dict[str, Any]:
    """The numbers of `measure_video` for this length."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child-seconds", str(seconds)]
    # The last of two equal options wins.
    command += [] if steps is None else ["--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def arithmetic(options: argparse.Namespace, seconds_per_video_second: float) -> dict[str, Any]:
    """Operations per frame, and how much of the machine's matrix product speed they reach."""
    from openloopy.apps.doctor import choose
    from openloopy.inference.pipeline import LoopyPipeline
    from openloopy.models.folder import find_model_folder, load_config

    folder = find_model_folder(options.model)
    choice = choose(options.device, options.dtype, load_config(folder))
    pipeline = LoopyPipeline.from_pretrained(folder, device=choice.device, dtype=choice.dtype)
    peaks = {dtype: matmul_gflops(dtype, options) for dtype in ("float32", "bfloat16")}
    per_frame = frame_gflop(pipeline, options) + sound_gflop(pipeline)
    reached = per_frame * FPS / seconds_per_video_second
    return {
        "gflop_per_frame": per_frame,
        "gflops_reached": reached,
        "matmul_peak_gflops_fp32": peaks["float32"],
        "matmul_peak_gflops_bf16": peaks["bfloat16"],
        "share_of_matmul_peak": reached / peaks.get(choice.dtype_name, peaks["float32"]),
        "million_parameters": count_parameters(pipeline) / 1e6,
        "model": options.model,
        "model_hash": folder_hash(folder),
        "model_mb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        "threads": options.threads,
        "steps": options.steps or pipeline.model.config.defaults.steps,
    }


def count_parameters(pipeline: LoopyPipeline) -> int:
    """Parameters of everything that is loaded to generate."""
    parts = (pipeline.model.loopy, pipeline.model.codec, pipeline.model.audio_encoder)
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def frame_gflop(pipeline: LoopyPipeline, options: argparse.Namespace) -> float:
    """GFLOP per frame of a clip whose history is complete; a multiply-add is two. Without the sound's encoder.

    Of the networks: what a portrait that itself moves is drawn with is no tensor arithmetic, and not counted.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from openloopy.inference.pipeline import GenerationOptions, plan_clips
    from openloopy.models.codec import KLCodec, PreparedLatents

    config = pipeline.model.config
    last_clip = -(-config.segments.span // config.clip_frames)
    total_frames = (last_clip + 1) * config.clip_frames
    plan = plan_clips(config, GenerationOptions(steps=options.steps), pipeline.model.device)
    codec, shape = pipeline.model.codec, latent_shape(pipeline)
    prepared = PreparedLatents(torch.zeros(1, *shape, device=pipeline.model.device))
    counts = []
    with FlopCounterMode(display=False) as counter:
        for latents in pipeline.clips(prepared, speech(total_frames / FPS), total_frames, plan):
            if isinstance(codec, KLCodec):
                list(codec.decode([latents], prepared, pipeline.decoded_at_once))
            counts.append(counter.get_total_flops())
    return (counts[last_clip] - counts[last_clip - 1]) / config.clip_frames / 1e9


def latent_shape(pipeline: LoopyPipeline) -> tuple[int, int, int]:
    """`c h w` of a frame's latents."""
    from openloopy.models.codec import KLCodec

    codec = pipeline.model.codec
    if isinstance(codec, KLCodec):
        side = pipeline.size_px // codec.downsample
        return (codec.latent_channels, side, side)
    return codec.latent_shape


def sound_gflop(pipeline: LoopyPipeline) -> float:
    """GFLOP of the sound's encoder per frame, over one of the chunks in which it reads."""
    from torch.utils.flop_counter import FlopCounterMode

    from openloopy.models.audio_encoder import CHUNK_FRAMES, AudioFeatureReader

    with FlopCounterMode(display=False) as counter:
        AudioFeatureReader(pipeline.model.audio_encoder, speech(CHUNK_FRAMES / FPS)).window(0, CHUNK_FRAMES)
    return counter.get_total_flops() / CHUNK_FRAMES / 1e9


def matmul_gflops(dtype: str, options: argparse.Namespace) -> float:
    """The best of repeated products of two square matrices on the CPU, in GFLOP/s."""
    import torch

    torch.set_num_threads(options.threads)
    a = torch.randn(MATMUL_SIDE, MATMUL_SIDE).to(getattr(torch, dtype))
    best_s, until_s = float("inf"), time.monotonic() + MATMUL_SECONDS
    while time.monotonic() < until_s:
        started_s = time.perf_counter()
        torch.mm(a, a)
        best_s = min(best_s, time.perf_counter() - started_s)
    return 2 * MATMUL_SIDE**3 / best_s / 1e9


def demo_portrait() -> np.ndarray:
    """A public-domain photograph by NASA, from the installed scikit-image."""
    from skimage.data import astronaut

    return astronaut()


def full_frame() -> np.ndarray:
    """The same in the middle of a picture of FULL_FRAME_PX."""
    import cv2

    width, height = FULL_FRAME_PX
    portrait = cv2.resize(demo_portrait(), (height, height), interpolation=cv2.INTER_CUBIC)
    beside = (width - height) // 2
    return cv2.copyMakeBorder(portrait, 0, 0, beside, beside, cv2.BORDER_REPLICATE)


def speech(seconds: float) -> np.ndarray:
    """The demo speech over and over, `samples` float32."""
    from openloopy.media.audio import open_waveform

    with resources.as_file(resources.files("openloopy") / "assets" / "demo_speech.flac") as path:
        waveform = open_waveform(path)
    return np.resize(waveform, round(seconds * SAMPLE_RATE_HZ))


def write_speech(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((speech(seconds) * 32767).astype("<i2").tobytes())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", help='"mini", a model folder or a hub id')
    parser.add_argument("--steps", type=int, help="sampling steps; the model's own by default")
    parser.add_argument("--size", type=int, help="side of the pictures, px; the model's own by default")
    parser.add_argument("--frame", choices=["crop", "full"], default="crop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--short", action="store_true", help="only 10 s of video, nothing longer")
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the longer video")
    parser.add_argument("--child-seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
