"""What a guided step costs at the paper's widths, against the way it is usually written.

    python benchmarks/denoiser.py [--size 128] [--frames 12] [--device cpu] [--repeats 2] [--compile]

Both ways run the same random weights on the same input, in one process, in turn, and must give the same output. The
usual way, as published two-net models do it: guidance branches one after the other; the reference's tokens repeated
for every frame and projected to keys and values again in every branch at every step, the motion frames' too; without
reference, attention computed twice, with it and without. Ours: keys once per clip, branches in one batch. The cost of
our cache is shared out over the steps of a clip. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from provenance import provenance, rounded, save_result
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from openloopy.diffusion.guidance import Guidance, combine
from openloopy.inference.pipeline import denoise_batched, guidance_branches
from openloopy.models.attention import SharedTokens, SpatialTransformer, enter_transformer, seen_by
from openloopy.models.conditions import Conditions, ReferenceFeatures
from openloopy.models.loopy import LoopyModel
from openloopy.models.temporal import TemporalLayers
from openloopy.models.unet import run_blocks
from openloopy.recipes.sd15 import loopy_config

GUIDANCE = Guidance(audio=5.0, reference=3.0)
STEPS_PER_CLIP = 25
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    options = _parse()
    torch.manual_seed(0)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    model = random_model(device, dtype)
    conditions, features = make_conditions(model, options, device, dtype)
    x_t = torch.randn(1, options.frames, 4, options.size // 8, options.size // 8, device=device, dtype=dtype)
    t = torch.tensor([500], device=device)
    with torch.inference_mode():
        cache_s, cache = timed(lambda: model.denoiser.cache_reference(features), device)
        branches = guidance_branches(replace(conditions, reference=cache), GUIDANCE)
        ways: dict[str, Callable[[], Tensor]] = {
            "usual": lambda: usual_step(model, conditions, features, x_t, t),
            "ours": lambda: denoise_batched(model.denoiser, branches, GUIDANCE)(x_t, t),
        }
        outputs, operations = {}, {}
        for name, way in ways.items():
            with FlopCounterMode(display=False) as counter:
                outputs[name] = way()
            operations[name] = counter.get_total_flops() / 1e12
        seconds = compare(ways, options.repeats, device)
        if options.compile:
            compile_blocks(model.denoiser)
            outputs["compiled"] = ways["ours"]()
            seconds |= compare({"compiled": ways["ours"]}, options.repeats, device)
    result = {
        "benchmark": "denoiser",
        **{name: getattr(options, name) for name in ("size", "frames", "device", "dtype")},
        "threads": torch.get_num_threads(),
        "parameters_million": sum(p.numel() for p in model.denoiser.parameters()) / 1e6,
        "usual_step_s": seconds["usual"],
        "our_step_s": seconds["ours"],
        "our_cache_s": cache_s,
        "ratio": seconds["usual"] / (seconds["ours"] + cache_s / STEPS_PER_CLIP),
        "usual_step_tflop": operations["usual"],
        "our_step_tflop": operations["ours"],
        "operations_ratio": operations["usual"] / operations["ours"],
        "difference": relative_difference(outputs["usual"], outputs["ours"]),
    }
    if options.compile:
        result["compiled_step_s"] = seconds["compiled"]
        result["compiled_ratio"] = seconds["usual"] / (seconds["compiled"] + cache_s / STEPS_PER_CLIP)
        result["compiled_difference"] = relative_difference(outputs["usual"], outputs["compiled"])
    result = rounded({**result, **provenance()})
    save_result("denoiser", result)
    print(json.dumps(result))


def random_model(device: torch.device, dtype: torch.dtype) -> LoopyModel:
    """The paper's size with random weights; parts that start at zero get some too, so that all have an effect."""
    torch.set_default_dtype(dtype)
    model = LoopyModel(loopy_config())
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model.to(device).eval().requires_grad_(False)


@torch.inference_mode()
def make_conditions(
    model: LoopyModel, options: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> tuple[Conditions, ReferenceFeatures]:
    """Random reference, full history, random sound."""
    side, segments = options.size // 8, model.config.segments
    reference = torch.randn(1, 4, side, side, device=device, dtype=dtype)
    history = torch.randn(1, segments.span, 4, side, side, device=device, dtype=dtype)
    features = model.read_reference(reference, history, torch.ones(1, segments.span, device=device))
    width = model.config.denoiser.unet.context_dim
    keep = torch.ones(1, device=device)
    conditions = Conditions(
        reference=features,
        reference_latents=reference,
        audio_tokens=torch.randn(1, options.frames, 5, width, device=device, dtype=dtype),
        motion_latents=torch.randn(
            1, options.frames, model.config.denoiser.unet.time_dim, device=device, dtype=dtype
        ),
        keep_reference=keep,
        keep_motion=keep,
    )
    return conditions, features


def usual_step(
    model: LoopyModel, conditions: Conditions, features: ReferenceFeatures, x_t: Tensor, t: Tensor
) -> Tensor:
    """A guided step without caches and batches: three branches in turn, everything projected again in each."""
    views = {
        "audio": conditions,
        "reference": conditions.without_audio(),
        "base": conditions.without_reference(),
    }
    outputs = {
        name: usual_call(model.denoiser, x_t, t, view, features).float() for name, view in views.items()
    }
    return combine(outputs["audio"], outputs["reference"], outputs["base"], GUIDANCE)


def usual_call(
    denoiser: nn.Module, x_t: Tensor, t: Tensor, conditions: Conditions, features: ReferenceFeatures
) -> Tensor:
    """One branch."""
    frames = x_t.shape[1]
    layers = iter(features.layers)
    context = conditions.audio_tokens.flatten(0, 1)
    is_hidden = not bool(conditions.keep_reference.all())
    seen = seen_by(conditions.keep_motion)

    def step(x: Tensor, attention: SpatialTransformer, temporal: TemporalLayers) -> Tensor:
        layer = next(layers)
        x = usual_attention(attention, x, layer.reference.repeat_interleave(frames, 0), context, is_hidden)
        return temporal(x, frames, SharedTokens(layer.motion, seen))

    x = denoiser.conv_in(x_t.flatten(0, 1))
    x = run_blocks(denoiser, x, denoiser._time_features(t, frames, conditions), step)
    x = denoiser.conv_out(F.silu(denoiser.conv_norm_out(x)))
    return x.unflatten(0, x_t.shape[:2])


def usual_attention(
    layer: SpatialTransformer, x: Tensor, reference: Tensor, context: Tensor, is_hidden: bool
) -> Tensor:
    """A spatial transformer whose self-attention also sees the reference's tokens, given once per frame."""
    block = layer.transformer_blocks[0]
    tokens, normed = enter_transformer(layer, x)
    attended = block.attn1.cross(normed, torch.cat([normed, reference], dim=1))
    if is_hidden:
        attended = block.attn1.cross(normed, normed)
    tokens = tokens + attended
    tokens = tokens + block.attn2.cross(block.norm2(tokens), context)
    tokens = tokens + block.ff(block.norm3(tokens))
    return layer._leave(x, tokens)


def compile_blocks(denoiser: nn.Module) -> None:
    for block in (*denoiser.down_blocks, denoiser.mid_block, *denoiser.up_blocks):
        for part in (*block.resnets, *block.attentions, *block.temporal):
            part.compile()


def compare(ways: dict[str, Callable[[], Tensor]], repeats: int, device: torch.device) -> dict[str, float]:
    """The best time of each way, taken in turn."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            best[name] = min(best[name], timed(way, device)[0])
    return best


def timed(work: Callable, device: torch.device) -> tuple[float, object]:
    _wait(device)
    started_s = time.perf_counter()
    made = work()
    _wait(device)
    return time.perf_counter() - started_s, made


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, in standard deviations of the output."""
    return float((a.float() - b.float()).abs().max() / a.float().std())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="side of the pictures, px; a multiple of 64")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    return parser.parse_args()


if __name__ == "__main__":
    main()
