"""Attention along time at each latent position: inter-clip, then intra-clip.

Source: Loopy (arXiv:2409.02634), sec. 3.2. Output projections start at zero, so that fresh layers are the identity (as
in AnimateDiff, arXiv:2307.04725). The paper does not say which features of the reference net stand for the motion
frames; ours are the maps that enter the same layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from openloopy.models.attention import (
    Attention,
    FeedForward,
    SharedKeys,
    SharedTokens,
    attend,
    runs,
    tied,
    to_map,
    to_tokens,
)
from openloopy.models.initial import normal_parameter
from openloopy.models.recompute import recomputable

TemporalKind = Literal["dual", "single"]
IntraKind = Literal["attention", "transformer"]


@dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """Which layers run along time, and how far their embeddings reach."""

    kind: TemporalKind = "dual"
    """"dual": inter-clip, then intra-clip; "single": the inter-clip layer alone (as EMO and Hallo; an ablation)."""
    intra: IntraKind = "attention"
    """The intra-clip layer: one attention, or a transformer of AnimateDiff's form, which its weights fit."""
    num_heads: int = 8
    max_clip_frames: int = 12
    max_motion_frames: int = 20
    relative_motion: bool = False
    """False: the layers see the motion frames' features as they are (the paper). True: less the portrait's, each
    normalised before: what moved is all that is left, and a small model finds it sooner (`docs/log.md`, entry 27)."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(TemporalKind):
            raise ValueError(f"unknown temporal kind {self.kind!r}; choose one of {get_args(TemporalKind)}")
        if self.intra not in get_args(IntraKind):
            raise ValueError(f"unknown intra-clip layer {self.intra!r}; choose one of {get_args(IntraKind)}")


class ClipAttention(nn.Module):
    """Attention over time among the frames of a clip and, optionally, keys of earlier frames."""

    def __init__(self, width: int, config: TemporalConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.num_heads)
        self.frame_embedding = normal_parameter(config.max_clip_frames, width, std=0.02)
        nn.init.zeros_(self.attention.to_out[0].weight)
        nn.init.zeros_(self.attention.to_out[0].bias)

    def forward(self, x: Tensor, earlier: SharedKeys | None = None) -> Tensor:
        """x: `b f n d` -> what to add to it; earlier: keys and values of motion frames, `(b n) heads s dh`."""
        if x.shape[1] > len(self.frame_embedding):
            raise ValueError(
                f"got a clip of {x.shape[1]} frames, this model has {len(self.frame_embedding)} at most"
            )
        tokens = self.norm(x) + self.frame_embedding[: x.shape[1], None]
        q, k, v = (
            self._over_time(to(tokens))
            for to in (self.attention.to_q, self.attention.to_k, self.attention.to_v)
        )
        mixed = _attend_earlier(q, k, v, earlier, len(x)).unflatten(0, (x.shape[0], -1))
        return self.attention.to_out[0](mixed.permute(0, 3, 1, 2, 4).flatten(3))

    def _over_time(self, x: Tensor) -> Tensor:
        """`b f n d` -> `(b n) heads f dh`."""
        num_heads = self.attention.num_heads
        heads = x.view(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)
        return heads.permute(0, 2, 3, 1, 4).flatten(0, 1)


def _attend_earlier(q: Tensor, k: Tensor, v: Tensor, earlier: SharedKeys | None, batch: int) -> Tensor:
    """Attention over the clip's keys and, for samples that see them, the earlier frames'. All `(b n) heads f dh`."""
    if earlier is None:
        return attend(q, k, v)
    num_positions, parts = len(q) // batch, []
    for samples, sees in runs(earlier.seen, batch):
        rows = slice(samples.start * num_positions, samples.stop * num_positions)
        own_k, own_v = k[rows], v[rows]
        if sees:
            own_k = torch.cat([earlier.k[rows].to(k.dtype), own_k], dim=-2)
            own_v = torch.cat([earlier.v[rows].to(v.dtype), own_v], dim=-2)
        else:
            own_k, own_v = tied(own_k, earlier.k[rows]), tied(own_v, earlier.v[rows])
        parts.append(attend(q[rows], own_k, own_v))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class MotionTransformer(nn.Module):
    """Two attentions over time and a feed-forward between projections: AnimateDiff's motion module (its fig. 3).

    Each frame is normalised by itself, as there (diffusers' copy normalises over all frames of a clip together).
    """

    def __init__(self, width: int, config: TemporalConfig, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.attentions = nn.ModuleList(ClipAttention(width, config) for _ in range(2))
        self.ff_norm = nn.LayerNorm(width)
        self.ff = FeedForward(width)
        self.proj_out = nn.Linear(width, width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: `b f n d` -> what to add to it."""
        normed = self.norm(x.flatten(0, 1).transpose(1, 2)).transpose(1, 2).unflatten(0, x.shape[:2])
        x = self.proj_in(normed)
        for attention in self.attentions:
            x = x + attention(x)
        x = x + self.ff(self.ff_norm(x))
        return self.proj_out(x)


class TemporalLayers(nn.Module):
    """The layers along time that follow one spatial transformer. Start as the identity."""

    def __init__(self, width: int, config: TemporalConfig, norm_groups: int) -> None:
        super().__init__()
        self.inter = ClipAttention(width, config)
        self.relative_motion = config.relative_motion
        self.motion_embedding = normal_parameter(config.max_motion_frames, width, std=0.02)
        self.intra = None
        if config.kind == "dual":
            is_attention = config.intra == "attention"
            self.intra = (
                ClipAttention(width, config)
                if is_attention
                else MotionTransformer(width, config, norm_groups)
            )

    def motion_keys(self, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the motion features `b s n d`, oldest first: `(b n) heads s dh` each."""
        num_frames = motion.shape[1]
        if num_frames > len(self.motion_embedding):
            raise ValueError(
                f"got {num_frames} motion frames, this model has {len(self.motion_embedding)} at most"
            )
        # The newest frame always has the last embedding, however many there are.
        embedding = self.motion_embedding[len(self.motion_embedding) - num_frames :]
        # Differences are normalised already; once more, and how large they are would be lost.
        normed = motion if self.relative_motion else self.inter.norm(motion)
        tokens = (normed + embedding[:, None]).transpose(1, 2).flatten(0, 1)
        return self.inter.attention.project_keys(tokens)

    @recomputable
    def forward(self, x: Tensor, num_frames: int, motion: SharedKeys | SharedTokens | None) -> Tensor:
        """x: `(b f) d h w` -> the same shape; motion: keys and values `(b n) heads s dh`, or features `b s n d`."""
        if isinstance(motion, SharedTokens):
            motion = SharedKeys(*self.motion_keys(motion.tokens), motion.seen)
        x = x + self._as_map(self.inter(self._as_clips(x, num_frames), motion), x)
        if self.intra is None:
            return x
        return x + self._as_map(self.intra(self._as_clips(x, num_frames)), x)

    @staticmethod
    def _as_clips(x: Tensor, num_frames: int) -> Tensor:
        """`(b f) d h w` -> `b f n d`."""
        return to_tokens(x).unflatten(0, (-1, num_frames))

    @staticmethod
    def _as_map(clips: Tensor, like: Tensor) -> Tensor:
        """`b f n d` -> `(b f) d h w`, with the height and width of `like`."""
        return to_map(clips.flatten(0, 1), like.shape[-2:])
