"""Attention over latent positions: within a frame, to the reference picture, and to the audio.

Sources: Loopy (arXiv:2409.02634) sec. 3.1 (reference tokens join the keys and values of self-attention) and 3.3 (audio
cross-attention); names and sizes of the parts as in diffusers' `BasicTransformerBlock`, so that SD 1.5 weights load.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SharedKeys:
    """Keys and values that all frames of a sample attend to, next to their own.

    Attributes:
        k, v: `b heads m dh`.
        bias: `b`, added to the logits of these keys: 0 = seen, -inf = hidden; None = seen by every sample.
    """

    k: Tensor
    v: Tensor
    bias: Tensor | None


def hiding_bias(keep: Tensor) -> Tensor | None:
    """`b` of ones and zeros -> `b` of 0 and -inf, or None when nothing is hidden.

    Whether nothing is hidden is looked up on the CPU only: elsewhere it would stall the device.
    """
    if keep.device.type == "cpu" and bool(keep.all()):
        return None
    return keep.log()


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(dh) + bias) v for q `... n dh`, k and v `... m dh`, bias broadcastable to `... n m`.

    On the CPU, plain matrix products with the softmax in the input's dtype are several times faster than
    `scaled_dot_product_attention`; both give the same numbers up to rounding.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return logits.softmax(dim=-1) @ v


def attend_shared(q: Tensor, k: Tensor, v: Tensor, shared: SharedKeys) -> Tensor:
    """Attention of each frame's tokens to its own keys and to those that its sample shares.

    Args:
        q, k, v: `b heads f n dh`.
        shared: keys and values, `b heads m dh`.

    Returns:
        `b heads f n dh`.
    """
    bias = None if shared.bias is None else shared.bias.reshape(-1, 1, 1, 1, 1)
    if q.device.type != "cpu":
        return _attend_expanded(q, k, v, shared, bias)
    num_own, q = k.shape[-2], q * q.shape[-1] ** -0.5
    own = q @ k.transpose(-1, -2)
    common = (q.flatten(2, 3) @ shared.k.transpose(-1, -2)).unflatten(2, q.shape[2:4])
    if bias is not None:
        common = common + bias.to(common.dtype)
    weights = torch.cat([own, common], dim=-1).softmax(dim=-1)
    mixed = weights[..., num_own:].flatten(2, 3) @ shared.v
    return weights[..., :num_own] @ v + mixed.unflatten(2, q.shape[2:4])


def _attend_expanded(q: Tensor, k: Tensor, v: Tensor, shared: SharedKeys, bias: Tensor | None) -> Tensor:
    """The same through `scaled_dot_product_attention`, with the shared keys repeated for every frame."""
    frames = q.shape[2]
    keys = torch.cat([k, shared.k.unsqueeze(2).expand(-1, -1, frames, -1, -1)], dim=-2)
    values = torch.cat([v, shared.v.unsqueeze(2).expand(-1, -1, frames, -1, -1)], dim=-2)
    if bias is not None:
        own = torch.zeros_like(bias).expand(-1, -1, -1, -1, k.shape[-2])
        bias = torch.cat([own, bias.expand(-1, -1, -1, -1, shared.k.shape[-2])], dim=-1)
        bias = bias.expand(-1, q.shape[1], frames, q.shape[3], -1).flatten(0, 1)
    mixed = attend(q.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), bias)
    return mixed.unflatten(0, q.shape[:2])


class Attention(nn.Module):
    """Multi-head attention with diffusers' parameter names; keys from the tokens themselves or from a context."""

    def __init__(self, width: int, num_heads: int, context_width: int | None = None) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"attention width {width} is not a multiple of its {num_heads} heads; change one of them"
            )
        self.num_heads = num_heads
        context_width = width if context_width is None else context_width
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def project_keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """`... n d` -> keys and values, each `... heads n dh`."""
        return self.split_heads(self.to_k(context)), self.split_heads(self.to_v(context))

    def split_heads(self, x: Tensor) -> Tensor:
        """`... n d` -> `... heads n dh`."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

    def merge_heads(self, x: Tensor) -> Tensor:
        """`... heads n dh` -> `... n d`, through the output projection."""
        return self.to_out[0](x.transpose(-2, -3).flatten(-2))

    def forward(self, x: Tensor, shared: SharedKeys | None = None) -> Tensor:
        """Self-attention, `(b f) n d` -> `(b f) n d`; with `shared`, also to the keys that the sample's frames share."""
        q, (k, v) = self.split_heads(self.to_q(x)), self.project_keys(x)
        if shared is None:
            return self.merge_heads(attend(q, k, v))
        q, k, v = (part.unflatten(0, (shared.k.shape[0], -1)).transpose(1, 2) for part in (q, k, v))
        return self.merge_heads(attend_shared(q, k, v, shared).transpose(1, 2).flatten(0, 1))

    def cross(self, x: Tensor, context: Tensor) -> Tensor:
        """Cross-attention of `(b f) n d` to the tokens `(b f) k d` of its frame."""
        return self.merge_heads(attend(self.split_heads(self.to_q(x)), *self.project_keys(context)))


class GatedLinear(nn.Module):
    """GEGLU (Shazeer 2020): half of the projection gates the other half."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden * 2)

    def forward(self, x: Tensor) -> Tensor:
        """`... d` -> `... hidden`."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU feed-forward; `net.1` is diffusers' dropout, which SD 1.5 does not use."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = width * expansion
        self.net = nn.Sequential(GatedLinear(width, hidden), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """`... d` -> `... d`."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, audio cross-attention and feed-forward, each added to its input.

    Without a context width the block has no cross-attention (`norm2`, `attn2`).
    """

    def __init__(self, width: int, num_heads: int, context_width: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, num_heads)
        self.has_context = context_width is not None
        if context_width is not None:
            self.norm2 = nn.LayerNorm(width)
            self.attn2 = Attention(width, num_heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, normed: Tensor, shared: SharedKeys | None, context: Tensor | None) -> Tensor:
        """x: `(b f) n d`; normed: `norm1(x)`; context: `(b f) k d`, present exactly if the block has cross-attention."""
        x = x + self.attn1(normed, shared)
        if self.has_context:
            x = x + self.attn2.cross(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class TransformerEntry(nn.Module):
    """The part of a spatial transformer that reads a picture: its tokens as they enter self-attention, no more.

    The last layer of the reference net is one: nothing of what would follow is ever used.
    """

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, kernel_size=1)
        self.transformer_blocks = nn.ModuleList([nn.ModuleDict({"norm1": nn.LayerNorm(channels)})])

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(b f) d h w` -> tokens and tokens as self-attention reads them, both `(b f) n d`."""
        tokens = project_tokens(to_tokens(self.norm(x)), self.proj_in)
        return tokens, self.transformer_blocks[0]["norm1"](tokens)


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of each frame, between 1x1 projections (diffusers: Transformer2DModel)."""

    def __init__(self, channels: int, num_heads: int, norm_groups: int, context_width: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, kernel_size=1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, num_heads, context_width)])
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(b f) d h w` -> tokens and tokens as self-attention reads them, both `(b f) n d`."""
        tokens = project_tokens(to_tokens(self.norm(x)), self.proj_in)
        return tokens, self.transformer_blocks[0].norm1(tokens)

    def finish(self, x: Tensor, tokens: Tensor, normed: Tensor) -> Tensor:
        """The rest of the layer for a picture on its own, after `enter`."""
        return self._leave(x, self.transformer_blocks[0](tokens, normed, None, None))

    def forward(self, x: Tensor, shared: SharedKeys | None, context: Tensor | None) -> Tensor:
        """x: `(b f) d h w` -> the same shape; shared: the reference's keys; context: audio tokens, `(b f) k d`."""
        tokens, normed = self.enter(x)
        return self._leave(x, self.transformer_blocks[0](tokens, normed, shared, context))

    def _leave(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + to_map(project_tokens(tokens, self.proj_out), x.shape[-2:])


def to_tokens(x: Tensor) -> Tensor:
    """`b d h w` -> `b (h w) d`; a view, not a copy, of a channels-last tensor."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """`b (h w) d` -> `b d h w`, channels last in memory."""
    return tokens.unflatten(1, tuple(size)).permute(0, 3, 1, 2)


def project_tokens(tokens: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution applied to tokens `b n d`: its weights keep SD 1.5's shape, its work is a matrix product."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)
