"""What a training step of stage 2 costs: time, peak memory, arithmetic, and its share of what the machine can do.

    python benchmarks/train_step.py --size 256 --frames 12 --device cpu --variants plain,recompute
    python benchmarks/train_step.py --size 512 --device cuda --dtype bfloat16 \\
        --variants plain,recompute,adamw8bit,ema_cpu,compiled

One clip with its full history and random weights of the paper's size (`--model tiny`: of the tests' size). Each
variant runs in a process of its own, so that its peak memory is its own: max. resident set on a CPU, allocated memory
on a GPU. `--no-optimizer` leaves out AdamW and the moving average: forward and backward alone. The arithmetic is
counted by torch's flop counter in a last step (recomputation included), the peak by matrix products in the same
dtype just before. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from provenance import provenance, rounded, save_result
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from openloopy.data.batch import ClipBatch
from openloopy.diffusion.loss import denoising_loss
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.recompute import set_recompute
from openloopy.recipes import sd15, tiny
from openloopy.training.denoise import DenoiseTask, Draws, clip_conditions
from openloopy.training.optim import MovingAverage, OptimConfig, build_optimizer
from openloopy.training.stages import StageConfig

VARIANTS = {
    "plain": {},
    "recompute": {"recompute": True},
    "adamw8bit": {"recompute": True, "optimizer": "adamw8bit"},
    "ema_cpu": {"recompute": True, "ema": "cpu"},
    "compiled": {"recompute": True, "compiled": True},
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}


def main() -> None:
    options = _parse()
    if options.child:
        print(json.dumps(measure(options, VARIANTS[options.child])))
        return
    names = options.variants.split(",")
    result = {
        "benchmark": "train_step",
        **{name: getattr(options, name) for name in ("model", "size", "frames", "device", "dtype")},
        "with_optimizer": not options.no_optimizer,
        "variants": {name: in_fresh_process(name) for name in names},
    }
    first = result["variants"][names[0]]
    for row in result["variants"].values():
        if "step_s" in row and "step_s" in first:
            row["time_ratio"], row["memory_ratio"] = (row[k] / first[k] for k in ("step_s", "peak_memory_gb"))
    result = rounded({**result, **provenance()})
    save_result("train_step", result)
    print(json.dumps(result))


def in_fresh_process(variant: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--child", variant],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"failed": f"exit code {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(options: argparse.Namespace, variant: dict[str, Any]) -> dict[str, Any]:
    """One variant, in this process."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    peak_flops = matmul_peak(device, dtype)
    torch.manual_seed(0)
    # On a CPU the weights are of the dtype themselves, which is what lets the paper's size fit.
    own_dtype = dtype if device.type == "cpu" else torch.float32
    torch.set_default_dtype(own_dtype)
    model = LoopyModel(config_of(options)).to(device).train()
    torch.set_default_dtype(torch.float32)
    set_recompute(model, variant.get("recompute", False))
    if variant.get("compiled"):
        for module in model.modules():
            if type(module).__name__ in DenoiseTask.block_names:
                module.compile()
    optim = OptimConfig(learning_rate=1e-5, kind=variant.get("optimizer", "adamw"))
    optimizer = average = None
    if not options.no_optimizer:
        optimizer = build_optimizer(model, optim)
        average = MovingAverage(model, 0.999, variant.get("ema"))
    batch = random_batch(model.config, options, device, own_dtype)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(options.repeats):
        _wait(device)
        started_s = time.perf_counter()
        step(model, batch, optimizer, average, dtype)
        _wait(device)
        seconds.append(time.perf_counter() - started_s)
    result = {
        "step_s": min(seconds),
        "peak_memory_gb": peak_memory_gb(device),
        "matmul_peak_tflops": peak_flops / 1e12,
        "parameters_million": sum(p.numel() for p in model.parameters()) / 1e6,
    }
    if options.no_count:
        return result
    # After the memory was read: counting keeps tensors alive.
    with FlopCounterMode(display=False) as counter:
        step(model, batch, optimizer, average, dtype)
    flops = counter.get_total_flops()
    return result | {
        "tflop_per_step": flops / 1e12,
        "share_of_matmul_peak": flops / min(seconds) / peak_flops,
    }


def step(
    model: LoopyModel,
    batch: ClipBatch,
    optimizer: torch.optim.Optimizer | None,
    average: MovingAverage | None,
    dtype: torch.dtype,
) -> None:
    """Forward, backward and, where there is one, the optimizer."""
    device = batch.latents.device
    draws = Draws(0, 0, len(batch.latents), range(len(batch.latents)))
    is_mixed = next(model.parameters()).dtype != dtype
    with torch.autocast(device.type, dtype, enabled=is_mixed):
        conditions = clip_conditions(model, batch, StageConfig(number=2, batch_size=1), draws)
        t = torch.full((len(batch.latents),), 500, device=device)
        predicted = model.denoiser(batch.latents, t, conditions)
        loss = denoising_loss(predicted, torch.zeros_like(predicted), torch.ones_like(t, dtype=torch.float32))
    loss.backward()
    if optimizer is not None:
        optimizer.step()
        average.update(0)
    for parameter in model.parameters():
        parameter.grad = None


def config_of(options: argparse.Namespace) -> LoopyConfig:
    return {"sd15": sd15, "tiny": tiny}[options.model].loopy_config()


def random_batch(
    config: LoopyConfig, options: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> ClipBatch:
    """One clip with all of its past."""
    unet, audio, side = config.denoiser.unet, config.denoiser.audio, options.size // 8

    def noise(*shape: int) -> Tensor:
        return torch.randn(1, *shape, device=device, dtype=dtype)

    return ClipBatch(
        latents=noise(options.frames, unet.in_channels, side, side),
        history=noise(config.segments.span, unet.in_channels, side, side),
        history_mask=torch.ones(1, config.segments.span, device=device),
        reference=noise(unet.in_channels, side, side),
        audio=noise(options.frames + 2 * audio.margin, audio.num_layers, audio.layer_width),
        points68=torch.rand(1, options.frames, 68, 2, device=device, dtype=dtype),
        head_motion_variance=torch.rand(1, device=device, dtype=dtype),
        expression_variance=torch.rand(1, device=device, dtype=dtype),
        region_weight=torch.ones(1, options.frames, 1, side, side, device=device),
    )


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second that large matrix products reach, the best of several."""
    n = MATMUL_SIDE[device.type]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(6):
        _wait(device)
        started_s = time.perf_counter()
        a @ b
        _wait(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - started_s))
    return best


def peak_memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sd15", choices=("sd15", "tiny"))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--variants", default="plain,recompute", help=", ".join(VARIANTS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--no-count", action="store_true", help="do not count operations, which takes a step more"
    )
    parser.add_argument("--no-optimizer", action="store_true")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
