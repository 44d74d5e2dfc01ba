"""Memory tiers of generation: what a model of the paper's size needs, which tier fits, and how each is laid out.

    full     all weights on the device, guidance branches as one batch, four frames decoded at a time
    slim     the same weights; branches in turn, one frame decoded at a time, in tiles
    int8     as slim, and the weights of linear layers in 8 bits (torchao must be installed)
    offload  as slim; a net's blocks lie in main memory and are copied to the GPU one ahead of the one that computes

Every tier computes the same function; slim and full differ in the last bits, int8 is close to them. What "auto" picks
depends on the memory that is free; the video's sidecar names it, and `--memory` with that name repeats the video.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from openloopy.inference.options import GenerationOptions
from openloopy.inference.pipeline import LoopyPipeline, batched_bytes, one_branch_bytes
from openloopy.media.machine import cpu_cores, cpu_quota, free_memory_bytes
from openloopy.models.attention import GatedLinear
from openloopy.models.codec import KLCodec
from openloopy.models.folder import (
    AUDIO_ENCODER_FOLDER,
    CODEC_FOLDER,
    LOOPY_FILE,
    LoadedModel,
    load_config,
    load_model,
)
from openloopy.models.loopy import LoopyConfig
from openloopy.models.weight_files import tensor_shapes

Tier = Literal["full", "slim", "int8", "offload"]
TIERS: tuple[Tier, ...] = get_args(Tier)
DECODER_BYTES_PER_PIXEL = 4_500
"""Of a frame that Stable Diffusion's decoder works on, roughly, in 16 bits."""
RIG_BYTES_PER_PIXEL = 500
"""Of a frame that is drawn by moving the portrait, roughly, in whatever numbers the networks compute."""
INT8_SHARE = 0.9
"""Of 16-bit weights' bytes that remain in int8, counted on `sd15`: convolutions and gated layers stay as they are."""
OFFLOAD_SHARE = 0.31
"""Of the weights that lie on the device at a time, counted on `sd15`: what stays, and the two largest neighbours."""
USABLE_SHARE = 0.9
"""Of the free memory; allocators need some room."""
RESIDENT = (
    *("attn1.to_k.", "attn1.to_v.", "inter.norm.", "motion_embedding"),
    *("inter.attention.to_k.", "inter.attention.to_v."),
)
"""Parameters that project reference and motion keys once per clip, outside of their blocks: they stay on the device."""


@dataclass(frozen=True)
class TierChoice:
    """needed, free: bytes on the device; free is None where it is not known."""

    tier: Tier
    needed: dict[Tier, int]
    free: int | None

    def __str__(self) -> str:
        gb = {tier: f"{size / 2**30:.1f} GB" for tier, size in self.needed.items()}
        free = "an unknown amount" if self.free is None else f"{self.free / 2**30:.1f} GB"
        wanted = ", ".join(f"{tier} {size}" for tier, size in gb.items())
        return f"memory tier {self.tier}: {free} is free, needed are about {wanted}"


def choose_tier(folder: Path, device: torch.device, dtype: torch.dtype, asked: str = "auto") -> TierChoice:
    """The first tier that fits the device's free memory, or the one that is asked for."""
    if asked not in ("auto", *TIERS):
        raise ValueError(f"unknown memory tier {asked!r}; choose one of auto, {', '.join(TIERS)}")
    needed = needed_bytes(load_config(folder), *counts_of(folder), dtype=dtype, device=device)
    if asked == "auto":
        return pick_tier(needed, device)
    if asked not in needed:
        raise ValueError(f"memory tier {asked} is not possible here: {_why_not(asked, device)}")
    return TierChoice(asked, needed, free_bytes(device))


def pick_tier(needed: dict[Tier, int], device: torch.device) -> TierChoice:
    """The fastest tier that fits; where none does, the smallest."""
    free = free_bytes(device)
    fitting = [tier for tier, size in needed.items() if free is None or size < USABLE_SHARE * free]
    return TierChoice(fitting[0] if fitting else list(needed)[-1], needed, free)


def counts_of(folder: Path) -> tuple[int, int]:
    """Numbers in a model folder's weights: of denoiser and reference net, and of codec and audio encoder."""
    others = [
        f for part in (CODEC_FOLDER, AUDIO_ENCODER_FOLDER) for f in (folder / part).glob("*.safetensors")
    ]
    return _count(folder / LOOPY_FILE), sum(_count(path) for path in others)


def needed_bytes(
    config: LoopyConfig, num_loopy: int, num_others: int, *, dtype: torch.dtype, device: torch.device
) -> dict[Tier, int]:
    """Estimates for the tiers that are possible on this device, fastest first."""
    size = torch.tensor([], dtype=dtype).element_size()
    loopy, others = num_loopy * size, num_others * size
    per_pixel = DECODER_BYTES_PER_PIXEL * size // 2 if config.latent_size is None else RIG_BYTES_PER_PIXEL
    decoded = config.size_px**2 * per_pixel
    once = one_branch_bytes(config) * size // 2 + keys_bytes(config, size)
    slim = max(once, decoded)
    needed: dict[Tier, int] = {
        "full": loopy
        + others
        + max(batched_bytes(config, 3) * size // 2 + keys_bytes(config, size), 4 * decoded),
        "slim": loopy + others + slim,
        "int8": int(loopy * INT8_SHARE) + others + slim,
        "offload": int(loopy * OFFLOAD_SHARE) + others + slim,
    }
    return {tier: amount for tier, amount in needed.items() if not _why_not(tier, device)}


def keys_bytes(config: LoopyConfig, element_size: int) -> int:
    """Keys and values of the reference and the motion frames in all layers, and the features they are made of."""
    unet = config.denoiser.unet
    tokens = sum(
        (2 * unet.layers_per_block + 1) * channels * config.num_positions // 4**level
        for level, channels in enumerate(unet.block_channels)
        if unet.attention_levels[level]
    )
    return tokens * (1 + config.segments.num_kept) * 3 * element_size


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device, within what a container allows; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory_bytes() if device.type == "cpu" else None


def open_pipeline(
    folder: Path, *, device: torch.device, dtype: torch.dtype, tier: Tier = "full"
) -> LoopyPipeline:
    """A pipeline whose weights lie as the tier says."""
    if reason := _why_not(tier, device):
        raise ValueError(f"memory tier {tier} is not possible here: {reason}")
    _fit_threads()
    home = "cpu" if tier in ("int8", "offload") else device
    model = load_model(folder, device=home, dtype=dtype)
    if tier == "int8":
        quantize_linears(model.loopy.denoiser)
        quantize_linears(model.loopy.reference_net)
    if tier == "offload":
        offload(model.loopy.denoiser, device)
        offload(model.loopy.reference_net, device)
    if tier != "full" and isinstance(model.codec, KLCodec):
        model.codec.vae.enable_slicing()
        model.codec.vae.enable_tiling()
    return LoopyPipeline(_moved(model, device, tier), decoded_at_once=4 if tier == "full" else 1)


def _fit_threads() -> None:
    """No more threads than a container's share of time: they would only wait for one another."""
    if cpu_quota() is not None:
        torch.set_num_threads(min(torch.get_num_threads(), cpu_cores()))


def tier_options(options: GenerationOptions, tier: Tier) -> GenerationOptions:
    """Generation options with the branches that a tier can afford, unless they are asked for."""
    return options if tier == "full" or options.branches != "auto" else replace(options, branches="in_turn")


def quantize_linears(network: nn.Module) -> None:
    """Weights of linear layers to int8, one scale per row; gated ones stay as they are: they are cut in two."""
    # It warns of every kernel that it has no use for here.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    gated = {id(m.proj) for m in network.modules() if isinstance(m, GatedLinear)}
    quantize_(
        network,
        Int8WeightOnlyConfig(),
        filter_fn=lambda module, name: isinstance(module, nn.Linear) and id(module) not in gated,
    )


class BlockOffload:
    """Keeps a net's blocks in main memory, and on the device only the one that computes and the next.

    Copies run on a stream of their own, from pinned memory, while the block before computes.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self.blocks, self.device = list(blocks), device
        self.is_cuda = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.is_cuda else None
        self.homes = [self._homes(block) for block in self.blocks]
        self.present: dict[int, object] = {}
        """Number of each block that lies on the device -> event after its copy."""
        for i, block in enumerate(self.blocks):
            block.register_forward_pre_hook(lambda module, args, i=i: self._enter(i))
            block.register_forward_hook(lambda module, args, out, i=i: self._leave(i))

    def _homes(self, block: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Parameters and their place in main memory; those that stay on the device go there."""
        homes = []
        for name, parameter in block.named_parameters():
            if any(part in name for part in RESIDENT):
                parameter.data = parameter.data.to(self.device)
            else:
                home = parameter.data.pin_memory() if self.is_cuda else parameter.data
                homes.append((parameter, home))
                parameter.data = home
        return homes

    def _enter(self, i: int) -> None:
        self._fetch(i)
        event = self.present[i]
        if self.is_cuda:
            torch.cuda.current_stream(self.device).wait_event(event)
        # Steps go round: after the last block comes the first again.
        self._fetch((i + 1) % len(self.blocks))

    def _fetch(self, i: int) -> None:
        if i in self.present:
            return
        if not self.is_cuda:
            for parameter, home in self.homes[i]:
                parameter.data = home.to(self.device, copy=True)
            self.present[i] = None
            return
        with torch.cuda.stream(self.stream):
            for parameter, home in self.homes[i]:
                parameter.data = home.to(self.device, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self.stream)
        self.present[i] = event

    def _leave(self, i: int) -> None:
        compute = torch.cuda.current_stream(self.device) if self.is_cuda else None
        for parameter, home in self.homes[i]:
            if compute is not None:
                parameter.data.record_stream(compute)
            parameter.data = home
        del self.present[i]


def offload(net: nn.Module, device: torch.device) -> BlockOffload:
    """Keep the blocks of a U-Net in main memory; everything else of it goes to the device."""
    blocks = [*net.down_blocks, net.mid_block, *net.up_blocks]
    kept = BlockOffload(blocks, device)
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    for parameter in net.parameters():
        if id(parameter) not in inside:
            parameter.data = parameter.data.to(device)
    return kept


def _moved(model: LoadedModel, device: torch.device, tier: Tier) -> LoadedModel:
    """The model with everything on the device but what is offloaded."""
    if tier == "offload":
        for part in (model.loopy.audio_projection, model.loopy.a2l):
            if part is not None:
                part.to(device)
    else:
        model.loopy.to(device)
    return replace(
        model, codec=model.codec.to(device), audio_encoder=model.audio_encoder.to(device), device=device
    )


def _why_not(tier: str, device: torch.device) -> str:
    """Why a tier is impossible here; empty where it is possible."""
    if tier == "int8" and importlib.util.find_spec("torchao") is None:
        return "torchao is not installed (pip install torchao)"
    if tier == "offload" and device.type != "cuda":
        return "there is no other memory to offload to; it is for GPUs"
    return ""


def _count(path: Path) -> int:
    """Numbers in a safetensors file."""
    return sum(math.prod(shape) for shape in tensor_shapes(path).values())
