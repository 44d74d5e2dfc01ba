"""Other projects' layouts of weights, made from diffusers' by renaming: what the importers have to undo."""

from __future__ import annotations

import re

import torch

Tensors = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_unet(tensors: Tensors, depth: int = 2) -> Tensors:
    """A diffusers U-Net under the names of the original Stable Diffusion files."""
    with_attention = {m[1] for m in (re.match(r"(up_blocks\.\d+)\.attentions", n) for n in tensors) if m}
    renamed = {}
    for name, value in tensors.items():
        module, _, kind = name.rpartition(".")
        if module in UNET_ENDS:
            new = f"{UNET_ENDS[module]}.{kind}"
        elif match := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
            new = _block_name(*match.groups(), depth, f"{match[1]}_blocks.{match[2]}" in with_attention)
        else:
            match = re.match(r"mid_block\.(\w+)\.(\d+)\.(.+)", name)
            place = 1 if match[1] == "attentions" else 2 * int(match[2])
            new = f"middle_block.{place}.{_inner(match[1], match[3])}"
        renamed["model.diffusion_model." + new] = value
    return renamed


def _block_name(way: str, level: str, kind: str, number: str, inner: str, depth: int, attends: bool) -> str:
    if kind == "downsamplers":
        return f"input_blocks.{(int(level) + 1) * (depth + 1)}.0.op.{inner.removeprefix('conv.')}"
    if kind == "upsamplers":
        block = int(level) * (depth + 1) + depth
        return f"output_blocks.{block}.{2 if attends else 1}.{inner}"
    first, name = (1, "input_blocks") if way == "down" else (0, "output_blocks")
    block = first + int(level) * (depth + 1) + int(number)
    return f"{name}.{block}.{1 if kind == 'attentions' else 0}.{_inner(kind, inner)}"


def _inner(kind: str, inner: str) -> str:
    if kind == "attentions":
        return inner
    part, _, rest = inner.partition(".")
    return f"{RESNET[part]}.{rest}"


def original_vae(tensors: Tensors, levels: int) -> Tensors:
    """A diffusers autoencoder under the names of the original files, attention as 1x1 convolutions."""
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    renamed = {}
    for name, value in tensors.items():
        new = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", new)
        new = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", new
        )
        if match := re.match(r"(.+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", new):
            new = f"{match[1]}.mid.attn_1.{attention[match[2]]}.{match[3]}"
            value = value[:, :, None, None] if value.ndim == 2 else value
        renamed["first_stage_model." + new] = value
    return renamed


def original_motion(module: Tensors, place: str) -> Tensors:
    """One of diffusers' motion modules under AnimateDiff's own names."""
    renamed = {}
    for name, value in module.items():
        new = name.replace("attn1.", "attention_blocks.0.").replace("attn2.", "attention_blocks.1.")
        for i, ours in enumerate(("norms.0", "norms.1", "ff_norm"), start=1):
            new = new.replace(f"0.norm{i}.", f"0.{ours}.")
        if new.endswith("pos_embed.pe"):
            for k in (0, 1):
                table = (
                    f"{place}.temporal_transformer.transformer_blocks.0.attention_blocks.{k}.pos_encoder.pe"
                )
                renamed[table] = value
        else:
            renamed[f"{place}.temporal_transformer.{new}"] = value
    return renamed
