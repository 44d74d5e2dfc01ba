"""Peak memory of generation at the paper's size, tier by tier, with random weights in a real model folder.

    python benchmarks/memory.py --work DIR --portrait PICTURE --audio SOUND [--tiers full,slim,int8] [--size 512]

Synthetic checkpoints of Stable Diffusion 1.5, its autoencoder and wav2vec2-base (random, in their own layouts) are
written to DIR, imported with `openloopy import`, and each tier makes the same short video with `openloopy generate`
in a process of its own. What comes out is noise; its size and its memory are real. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance, rounded, save_result

from openloopy.media.video import probe_video


def main() -> None:
    options = _parse()
    start = options.work / f"start-{options.size}"
    imported = make_start(options.work, start, options.size)
    estimates = json.loads((start / "import.json").read_text())
    result = {
        "benchmark": "memory",
        **{name: getattr(options, name) for name in ("size", "steps", "dtype", "device")},
        "import": imported | {"new_tensors": len(estimates["new"])},
        "tiers": {tier: generate(options, start, tier) for tier in options.tiers.split(",")},
    }
    first = next(iter(result["tiers"].values()))
    for row in result["tiers"].values():
        row["memory_ratio"], row["time_ratio"] = (row[k] / first[k] for k in ("peak_rss_gb", "seconds"))
    result = rounded({**result, **provenance()})
    save_result("memory", result)
    print(json.dumps(result))


def make_start(work: Path, start: Path, size: int) -> dict[str, Any]:
    """Random checkpoints in their own layouts, imported; what is there already is used again."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from openloopy.models.audio_encoder import AudioEncoder, AudioEncoderConfig, save_audio_encoder

    if not (work / "sd15" / "unet").exists():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float16)
        UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        ).save_pretrained(work / "sd15" / "unet")
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        ).save_pretrained(work / "vae")
        torch.set_default_dtype(torch.float32)
        save_audio_encoder(work / "wav2vec2", AudioEncoder(AudioEncoderConfig(loudness="normalised")))
    if start.exists():
        return {"seconds": None, "peak_rss_gb": None}
    sources = [str(work / name) for name in ("sd15", "vae", "wav2vec2")]
    return run_measured(["import", *sources, str(start), "--size", str(size)])


def generate(options: argparse.Namespace, start: Path, tier: str) -> dict[str, Any]:
    out = options.work / f"{tier}.mp4"
    arguments = ["generate", str(options.portrait), str(options.audio), "-o", str(out), "--force"]
    arguments += ["--model", str(start), "--steps", str(options.steps), "--memory", tier]
    arguments += ["--device", options.device, "--dtype", options.dtype]
    arguments += ["--audio-guidance", str(options.guidance), "--reference-guidance", str(options.guidance)]
    row = run_measured(arguments)
    video = probe_video(out)
    return row | {"frames": video.num_frames, "width": video.width}


def run_measured(arguments: list[str]) -> dict[str, Any]:
    """Seconds and peak resident set of one command, an error where it fails."""
    started_s = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "openloopy", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"openloopy {' '.join(arguments)} failed with status {status}")
    return {"seconds": time.perf_counter() - started_s, "peak_rss_gb": usage.ru_maxrss / 2**20}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and videos, 10 GB")
    parser.add_argument("--portrait", type=Path, required=True)
    parser.add_argument("--audio", type=Path, required=True, help="a short sound: every 0.48 s is a clip")
    parser.add_argument("--tiers", default="full,slim,int8")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=1.0, help="1: one branch instead of three")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
