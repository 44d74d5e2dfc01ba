"""Attention over latent positions: within a frame, to the reference picture, and to the audio.

Sources: Loopy (arXiv:2409.02634) sec. 3.1 (reference tokens join the keys and values of self-attention) and 3.3 (audio
cross-attention); names and sizes of the parts as in diffusers' `BasicTransformerBlock`, so that SD 1.5 weights load.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from openloopy.models.config_json import divides
from openloopy.models.recompute import recomputable

BLOCK_LOGITS = 2**18
"""Logits computed at a time on the CPU: 1 MB in float32, about what a core keeps at hand. Four times as many took twice
as long in the backward pass on a core with 512 KB of second-level cache."""
MAX_FUSED_BATCH = 2**15
"""Entries (times heads) that one fused kernel takes: CUDA grids end at 65535."""


@dataclass(frozen=True)
class SharedKeys:
    """Keys and values that all frames of a sample attend to, next to their own.

    Attributes:
        k, v: `b heads m dh`.
        seen: for each sample whether it sees these keys; None = all do. Hidden keys cost nothing.
    """

    k: Tensor
    v: Tensor
    seen: tuple[bool, ...] | None


@dataclass(frozen=True)
class SharedTokens:
    """What `SharedKeys` are projected from, by the layer that uses them: in training, once per step anyhow.

    Attributes:
        tokens: of the reference `b m d`, or of the motion frames `b s n d`.
        seen: as there.
    """

    tokens: Tensor
    seen: tuple[bool, ...] | None


AudioContext = Tensor | tuple[Tensor, Tensor] | None
"""What cross-attention reads: audio tokens `(b f) k d`, or their keys and values, `(b f) heads k dh` each."""


def seen_by(keep: Tensor) -> tuple[bool, ...] | None:
    """`b` of ones and zeros -> whether each sample sees, or None when all do."""
    seen = tuple(bool(value) for value in keep.tolist())
    return None if all(seen) else seen


def runs(seen: tuple[bool, ...] | None, batch: int) -> list[tuple[slice, bool]]:
    """Neighbouring samples that agree, as slices of the batch, and whether they see."""
    if seen is None:
        return [(slice(0, batch), True)]
    starts = [i for i in range(batch) if i == 0 or seen[i] != seen[i - 1]]
    return [(slice(i, j), seen[i]) for i, j in zip(starts, [*starts[1:], batch], strict=True)]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(dh)) v, by whichever way is fast on the device; the numbers agree up to rounding.

    Args:
        q: `... heads n dh`, with at least one dimension in front of the heads.
        k, v: `... heads m dh`.
    """
    k, v = k.to(q.dtype), v.to(q.dtype)
    if q.device.type != "cpu" or _is_small(q, k):
        return attend_fused(q, k, v)
    return attend_blocked(q, k, v)


def _is_small(q: Tensor, k: Tensor) -> bool:
    """Whether one fused kernel is faster on the CPU as well: few logits, and no gradient is asked for."""
    return not torch.is_grad_enabled() and q.shape[:-1].numel() * k.shape[-2] <= BLOCK_LOGITS


def attend_blocked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` by `BlockedAttention`."""
    scaled = q * q.shape[-1] ** -0.5
    mixed = BlockedAttention.apply(scaled.flatten(0, -3), k.flatten(0, -3), v.flatten(0, -3))
    return mixed.unflatten(0, q.shape[:-2])


def attend_fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` by PyTorch's `scaled_dot_product_attention`, in parts small enough for a CUDA grid."""
    flat = [part.flatten(0, -4) for part in (q, k, v)]
    if len(flat[0]) <= MAX_FUSED_BATCH:
        return F.scaled_dot_product_attention(*flat).view(q.shape)
    parts = zip(*(part.split(MAX_FUSED_BATCH) for part in flat), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts]).view(q.shape)


def attend_shared(q: Tensor, k: Tensor, v: Tensor, shared: SharedKeys) -> Tensor:
    """Attention of each frame's tokens to its own keys and to those that its sample shares.

    Args:
        q, k, v: `b heads f n dh`.
        shared: keys and values, `b heads m dh`. They are repeated for every frame: the logits are so much larger that a
            second matrix product, joined to the first, costs more than the copy.

    Returns:
        `b heads f n dh`.
    """
    parts = []
    for samples, sees in runs(shared.seen, len(q)):
        own_k, own_v = k[samples], v[samples]
        if sees:
            own_k = torch.cat([own_k, _for_frames(shared.k[samples], own_k)], dim=-2)
            own_v = torch.cat([own_v, _for_frames(shared.v[samples], own_v)], dim=-2)
        else:
            own_k, own_v = tied(own_k, shared.k[samples]), tied(own_v, shared.v[samples])
        parts.append(attend(q[samples], own_k, own_v))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def tied(own: Tensor, hidden: Tensor) -> Tensor:
    """The same numbers, with the hidden keys in their history: in training these have gradients of zero, not none.

    Processes that train together must all have a gradient for the same parameters.
    """
    return own + 0 * hidden.sum().to(own.dtype) if torch.is_grad_enabled() and hidden.requires_grad else own


def _for_frames(shared: Tensor, own: Tensor) -> Tensor:
    """`b heads m dh` -> `b heads f m dh`, as many frames as `b heads f n dh` has."""
    return shared.to(own.dtype).unsqueeze(2).expand(-1, -1, own.shape[2], -1, -1)


class BlockedAttention(torch.autograd.Function):
    """Attention on the CPU: plain matrix products, a block at a time, so that the logits stay in the core's cache.

    The softmax is in the input's dtype, and the backward pass computes the weights again instead of keeping them.
    In bf16, forward and backward take two thirds of the time of `scaled_dot_product_attention` and half that of the
    same products in one piece, which spend most of it on fresh memory for the logits.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: `b n dh`, already scaled; k, v: `b m dh`."""
        out = torch.empty_like(q)
        for block in _blocks(q, k):
            torch.bmm(_weights(q, k, block), v[block], out=out[block])
        ctx.save_for_backward(q, k, v)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        grad = grad.contiguous()
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for block in _blocks(q, k):
            weights = _weights(q, k, block)
            torch.bmm(weights.transpose(1, 2), grad[block], out=grad_v[block])
            grad_weights = torch.bmm(grad[block], v[block].transpose(1, 2))
            grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            torch.bmm(grad_logits, k[block], out=grad_q[block])
            torch.bmm(grad_logits.transpose(1, 2), q[block], out=grad_k[block])
        return grad_q, grad_k, grad_v


def _blocks(q: Tensor, k: Tensor) -> list[slice]:
    """Slices of the batch with at most `BLOCK_LOGITS` logits each, or one entry."""
    size = max(1, BLOCK_LOGITS // (q.shape[1] * k.shape[1]))
    return [slice(start, start + size) for start in range(0, len(q), size)]


def _weights(q: Tensor, k: Tensor, block: slice) -> Tensor:
    """Attention weights of one block, `b n m`."""
    logits = torch.bmm(q[block], k[block].transpose(1, 2))
    return torch.softmax(logits, dim=-1, out=logits)


class Attention(nn.Module):
    """Multi-head attention with diffusers' parameter names; keys from the tokens themselves or from a context."""

    def __init__(self, width: int, num_heads: int, context_width: int | None = None) -> None:
        super().__init__()
        if not divides(num_heads, width):
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
        return x.view(*x.shape[:-1], self.num_heads, x.shape[-1] // self.num_heads).transpose(-2, -3)

    def merge_heads(self, x: Tensor) -> Tensor:
        """`... heads n dh` -> `... n d`, through the output projection."""
        return self.to_out[0](x.transpose(-2, -3).flatten(-2))

    def forward(self, x: Tensor, shared: SharedKeys | None = None) -> Tensor:
        """Self-attention, `(b f) n d` -> the same; with `shared`, also to the keys that a sample's frames share."""
        q, (k, v) = self.split_heads(self.to_q(x)), self.project_keys(x)
        if shared is None:
            return self.merge_heads(attend(q, k, v))
        q, k, v = (part.unflatten(0, (shared.k.shape[0], -1)).transpose(1, 2) for part in (q, k, v))
        return self.merge_heads(attend_shared(q, k, v, shared).transpose(1, 2).flatten(0, 1))

    def cross(self, x: Tensor, context: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Cross-attention of `(b f) n d` to the tokens `(b f) k d` of its frame, or to their keys and values."""
        k, v = context if isinstance(context, tuple) else self.project_keys(context)
        return self.merge_heads(attend(self.split_heads(self.to_q(x)), k, v))


class GatedLinear(nn.Module):
    """GEGLU (Shazeer 2020): half of the projection gates the other half."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden * 2)

    def forward(self, x: Tensor) -> Tensor:
        """`... d` -> `... hidden`."""
        # Two products, not one that is cut: the halves stay contiguous, which on the CPU saves a third of the layer.
        weights, biases = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
        value, gate = (F.linear(x, *half) for half in zip(weights, biases, strict=True))
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

    def forward(self, x: Tensor, normed: Tensor, shared: SharedKeys | None, context: AudioContext) -> Tensor:
        """x: `(b f) n d`; normed: `norm1(x)`; context: there exactly if the block has cross-attention."""
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


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of each frame, between 1x1 projections (diffusers: Transformer2DModel)."""

    def __init__(self, channels: int, num_heads: int, norm_groups: int, context_width: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, kernel_size=1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, num_heads, context_width)])
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)

    @recomputable
    def finish(self, x: Tensor, tokens: Tensor, normed: Tensor) -> Tensor:
        """The rest of the layer for a picture on its own, after `enter_transformer`."""
        return self._leave(x, self.transformer_blocks[0](tokens, normed, None, None))

    @recomputable
    def forward(self, x: Tensor, shared: SharedKeys | SharedTokens | None, context: AudioContext) -> Tensor:
        """x: `(b f) d h w` -> the same shape; shared: the reference's; context: of the audio."""
        tokens, normed = enter_transformer(self, x)
        if isinstance(shared, SharedTokens):
            shared = SharedKeys(*self.transformer_blocks[0].attn1.project_keys(shared.tokens), shared.seen)
        return self._leave(x, self.transformer_blocks[0](tokens, normed, shared, context))

    def _leave(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + to_map(project_tokens(tokens, self.proj_out), x.shape[-2:])


def enter_transformer(layer: SpatialTransformer | TransformerEntry, x: Tensor) -> tuple[Tensor, Tensor]:
    """`(b f) d h w` -> tokens, and tokens as self-attention reads them, both `(b f) n d`."""
    tokens = project_tokens(to_tokens(layer.norm(x)), layer.proj_in)
    return tokens, layer.transformer_blocks[0].norm1(tokens)


def to_tokens(x: Tensor) -> Tensor:
    """`b d h w` -> `b (h w) d`, a view."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """`b (h w) d` -> `b d h w`, a view (channels last in memory; added to a map, the sum has the map's layout)."""
    return tokens.unflatten(1, tuple(size)).permute(0, 3, 1, 2)


def project_tokens(tokens: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution applied to tokens `b n d`: its weights keep SD 1.5's shape, its work is a matrix product."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)
