"""The denoising U-Net of Loopy, for single frames (stage 1) and for clips with sound (stage 2).

Source: Loopy (arXiv:2409.02634), sec. 3.1 to 3.3. Every layer: convolutions, self-attention over the frame's own tokens
and the reference's, cross-attention to the audio, inter-clip attention to the motion frames, intra-clip attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openloopy.models.attention import AudioContext, SharedKeys, SharedTokens, SpatialTransformer, seen_by
from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.conditions import (
    AudioCache,
    Conditions,
    LayerAudio,
    LayerCache,
    ReferenceCache,
    ReferenceFeatures,
)
from openloopy.models.resnet import TimeEmbedding
from openloopy.models.temporal import TemporalConfig, TemporalLayers
from openloopy.models.unet import (
    Anatomy,
    AttentionStep,
    MidBlock,
    UNetConfig,
    attention_layers,
    down_blocks,
    run_blocks,
    up_blocks,
)

Shared = SharedKeys | SharedTokens | None
ReferenceInput = Literal["attention", "attention+concat"]
PastInput = Literal["last_frames"]


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """The denoiser: a U-Net and the parts that Loopy adds to it."""

    unet: UNetConfig = UNetConfig()
    temporal: TemporalConfig | None = TemporalConfig()
    """None: single frames (stage 1)."""
    audio: AudioProjectionConfig | None = AudioProjectionConfig()
    """What the audio tokens are made of; None: no audio cross-attention (stage 1)."""
    reference_input: ReferenceInput = "attention"
    """Where the reference enters; with "attention+concat" its latents are also stacked on the noisy ones."""
    past_input: PastInput | None = None
    """None: the past enters through attention alone (the paper). "last_frames": the frame before the clip and how it
    changed are also given at the input, and reach the output, as the noisy frame does, each times a factor that the
    layers give. A small model else reads its past as an average, and does not go on from where a head was."""

    def __post_init__(self) -> None:
        if self.past_input not in (None, *get_args(PastInput)):
            raise ValueError(
                f"unknown past_input {self.past_input!r}; choose None or one of {get_args(PastInput)}"
            )
        if self.past_input is not None and self.temporal is None:
            raise ValueError(
                "past_input continues a video; single frames (temporal=None) have no past, set it to None"
            )
        if self.reference_input not in get_args(ReferenceInput):
            raise ValueError(
                f"unknown reference_input {self.reference_input!r}; choose one of {get_args(ReferenceInput)}"
            )


class Denoiser(nn.Module):
    """Parameter names are SD 1.5's, plus `temporal`."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        unet = config.unet
        context_width = None if config.audio is None else unet.context_dim
        anatomy = Anatomy(
            unet=unet, context_width=context_width, temporal=config.temporal, time_width=unet.time_dim
        )
        in_channels = unet.in_channels * (2 if config.reference_input == "attention+concat" else 1)
        self.config = config
        self.conv_in = unet.conv(in_channels, unet.block_channels[0])
        self.last_frames_in = None
        if config.past_input == "last_frames":
            # A convolution of its own, added to conv_in's: as if these were further channels of the input.
            self.last_frames_in = unet.conv(2 * unet.in_channels + 1, unet.block_channels[0], bias=False)
            nn.init.zeros_(self.last_frames_in.weight)
        self.time_embedding = TimeEmbedding(unet.block_channels[0], unet.time_dim)
        self.down_blocks = down_blocks(anatomy)
        self.mid_block = MidBlock(anatomy)
        self.up_blocks = up_blocks(anatomy)
        self.conv_norm_out = nn.GroupNorm(unet.norm_groups, unet.block_channels[0], eps=1e-5)
        self.conv_out = unet.conv(unet.block_channels[0], unet.out_channels)
        self.last_frames_out = None
        if config.past_input == "last_frames":
            self.last_frames_out = unet.conv(unet.block_channels[0], 3 * unet.out_channels)
            nn.init.zeros_(self.last_frames_out.weight)
            nn.init.zeros_(self.last_frames_out.bias)
        silence_audio(self)

    def forward(self, x_t: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Predict noise, v or x_0 (whatever it was trained for).

        Args:
            x_t: noisy latents, `b f c h w`.
            t: timesteps, `b`.
            conditions: of the same batch; their reference may be shared by several branches (see `Conditions`).

        Returns:
            `b f c h w`.
        """
        self._check(conditions)
        batch, num_frames = x_t.shape[:2]
        step = self._attention_step(conditions, num_frames)
        x = self._stack_reference(x_t, conditions).flatten(0, 1)
        x = self._add_last_frames(self.conv_in(x), conditions, num_frames)
        x = run_blocks(self, x, self._time_features(t, num_frames, conditions), step)
        x = F.silu(self.conv_norm_out(x))
        output = self.conv_out(x).unflatten(0, (batch, num_frames))
        return output if self.last_frames_out is None else output + self._kept(x, x_t, conditions)

    def cache_reference(self, features: ReferenceFeatures) -> ReferenceCache:
        """Project the reference's and the motion frames' keys and values of every layer, once per clip."""
        layers = []
        for (attention, temporal), layer in zip(attention_layers(self), features.layers, strict=True):
            reference_k, reference_v = attention.transformer_blocks[0].attn1.project_keys(layer.reference)
            motion_k, motion_v = (None, None) if temporal is None else temporal.motion_keys(layer.motion)
            layers.append(LayerCache(reference_k, reference_v, motion_k, motion_v))
        return ReferenceCache(tuple(layers), features.motion_mask)

    def cache_audio(self, tokens: Tensor) -> AudioCache:
        """Project the keys and values of audio tokens `b f k d` in every layer, once per clip."""
        blocks = (attention.transformer_blocks[0] for attention, _ in attention_layers(self))
        return AudioCache(tuple(LayerAudio(*block.attn2.project_keys(tokens)) for block in blocks))

    def _check(self, conditions: Conditions) -> None:
        audio = conditions.audio_tokens
        if (audio is None) != (self.config.audio is None):
            has = "has no" if self.config.audio is None else "has"
            got = "none" if audio is None else tuple(getattr(audio, "shape", ("keys of each layer",)))
            raise ValueError(f"this denoiser {has} audio layers, but the conditions' audio_tokens are {got}")
        if (conditions.last_frames is None) != (self.last_frames_in is None):
            has = "no input" if self.last_frames_in is None else "an input"
            got = "None" if conditions.last_frames is None else tuple(conditions.last_frames.shape)
            raise ValueError(
                f"this denoiser has {has} for the last frames, but the conditions' last_frames is {got}"
            )

    def _stack_reference(self, x_t: Tensor, conditions: Conditions) -> Tensor:
        if self.config.reference_input == "attention":
            return x_t
        reference = conditions.reference_latents.to(x_t.dtype)[:, None].expand(-1, x_t.shape[1], -1, -1, -1)
        return torch.cat([x_t, reference], dim=2)

    def _add_last_frames(self, x: Tensor, conditions: Conditions, num_frames: int) -> Tensor:
        """x: `(b f) d h w`; every frame of the clip is given the same."""
        if self.last_frames_in is None:
            return x
        last = self.last_frames_in(conditions.last_frames.to(x.dtype))
        return x + last.repeat_interleave(num_frames, dim=0)

    def _kept(self, x: Tensor, x_t: Tensor, conditions: Conditions) -> Tensor:
        """The noisy frames, the frame before the clip and its change, each times its factor: `b f c h w` float32.

        x: what the output is made of, `(b f) d h w`. Before the beginning of a video is the portrait.
        """
        factors = self.last_frames_out(x).float().unflatten(0, x_t.shape[:2]).chunk(3, dim=2)
        newest, change = conditions.last_frames[:, :-1].chunk(2, dim=1)
        newest = conditions.reference_latents + newest
        return sum(
            factor * part
            for factor, part in zip(factors, (x_t, newest[:, None], change[:, None]), strict=True)
        )

    def _time_features(self, t: Tensor, num_frames: int, conditions: Conditions) -> Tensor:
        """SiLU of timestep embedding plus motion latents, `(b f) d`."""
        embedding = self.time_embedding(t)[:, None]
        if conditions.motion_latents is not None:
            embedding = embedding + conditions.motion_latents
        return F.silu(embedding).expand(-1, num_frames, -1).flatten(0, 1)

    def _attention_step(self, conditions: Conditions, num_frames: int) -> AttentionStep:
        """What happens at each attention layer, in order of execution."""
        layers = iter(self._layer_keys(conditions))
        contexts = iter(self._layer_contexts(conditions))

        def step(x: Tensor, attention: SpatialTransformer, temporal: TemporalLayers | None) -> Tensor:
            (reference, motion), context = next(layers), next(contexts)
            x = attention(x, reference, context)
            return x if temporal is None else temporal(x, num_frames, motion)

        return step

    def _layer_contexts(self, conditions: Conditions) -> list[AudioContext]:
        """The audio as every layer is given it, for all frames of the batch."""
        audio = conditions.audio_tokens
        if isinstance(audio, AudioCache):
            return [(layer.k.flatten(0, 1), layer.v.flatten(0, 1)) for layer in audio.layers]
        return [None if audio is None else audio.flatten(0, 1)] * len(attention_layers(self))

    def _layer_keys(self, conditions: Conditions) -> list[tuple[Shared, Shared]]:
        """Reference and motion keys of every layer, for the batch of the conditions; or what to project them from."""
        given = conditions.reference
        if given is None:
            return [(None, None)] * len(attention_layers(self))
        branches = len(conditions.keep_reference) // len(given.motion_mask)
        reference, motion = seen_by(conditions.keep_reference), seen_by(conditions.keep_motion)
        if isinstance(given, ReferenceFeatures):
            return [
                (
                    SharedTokens(_repeated(layer.reference, branches), reference),
                    SharedTokens(_repeated(layer.motion, branches), motion),
                )
                for layer in given.layers
            ]
        return [
            (
                _shared_keys(layer.reference_k, layer.reference_v, reference, branches),
                _shared_keys(layer.motion_k, layer.motion_v, motion, branches),
            )
            for layer in given.layers
        ]


def _shared_keys(
    k: Tensor | None, v: Tensor | None, seen: tuple[bool, ...] | None, branches: int
) -> SharedKeys | None:
    """Keys for all guidance branches, which follow one another in the batch."""
    return None if k is None else SharedKeys(_repeated(k, branches), _repeated(v, branches), seen)


def _repeated(x: Tensor, branches: int) -> Tensor:
    return x if branches == 1 else x.repeat(branches, *[1] * (x.ndim - 1))


def silence_audio(denoiser: Denoiser) -> None:
    """Zero the output projections of a denoiser's audio layers: fresh ones change nothing, and sound fades in.

    Done when built; loaded weights take their place.
    """
    for attention, _ in attention_layers(denoiser):
        block = attention.transformer_blocks[0]
        if block.has_context:
            nn.init.zeros_(block.attn2.to_out[0].weight)
            nn.init.zeros_(block.attn2.to_out[0].bias)
