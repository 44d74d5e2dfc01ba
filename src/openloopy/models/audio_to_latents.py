"""Audio-to-latents: sound, landmarks or a measure of movement become one kind of motion latent.

Source: Loopy (arXiv:2409.02634), sec. 3.3. A set of learnable embeddings serves as keys and values; each condition
passes its own fully connected layers to become the query; the attended result is the motion latent, and a last layer
maps it to the width of the timestep embedding, to which it is added. Training draws the condition; generation uses the
sound. The paper gives no sizes; ours, and the logarithm of the variances, are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openloopy.models.attention import attend

NUM_LANDMARK_VALUES = 136  # 68 points, x and y


@dataclass(frozen=True, kw_only=True)
class A2LConfig:
    """Sizes of the audio-to-latents module."""

    num_embeddings: int = 32
    width: int = 512
    num_heads: int = 8

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")


@dataclass(frozen=True)
class AudioCondition:
    """Audio tokens, `b f k d`."""

    tokens: Tensor


@dataclass(frozen=True)
class LandmarkCondition:
    """68 points per frame in [0, 1] of the crop, `b f 136` (x, y, x, y, ...)."""

    points: Tensor


@dataclass(frozen=True)
class HeadVariance:
    """Head-motion variance of the clip, `b`: of the nose tip, in squared inter-ocular distances."""

    variance: Tensor


@dataclass(frozen=True)
class ExpressionVariance:
    """Expression variance of the clip, `b`: of the upper face relative to the nose tip, in the same unit."""

    variance: Tensor


@dataclass(frozen=True)
class DrawnCondition:
    """For each sample one of several conditions; `choice` is `b`, an index into `conditions`."""

    conditions: tuple[AudioCondition, LandmarkCondition, HeadVariance, ExpressionVariance]
    choice: Tensor


SingleCondition = AudioCondition | LandmarkCondition | HeadVariance | ExpressionVariance
MotionCondition = SingleCondition | DrawnCondition


class AudioToLatents(nn.Module):
    """Motion latents `b f d`, d the width of the timestep embedding. Starts neutral: its last layer is zero."""

    def __init__(self, config: A2LConfig, *, audio_width: int, time_dim: int) -> None:
        """audio_width: values per frame of the audio tokens, k * d; time_dim: width of the timestep embedding."""
        super().__init__()
        self.config = config
        self.embeddings = nn.Parameter(torch.randn(config.num_embeddings, config.width))
        self.audio_query = _query_layers(audio_width, config.width)
        self.landmark_query = _query_layers(NUM_LANDMARK_VALUES, config.width)
        self.head_query = _query_layers(1, config.width)
        self.expression_query = _query_layers(1, config.width)
        self.out = nn.Linear(config.width, time_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, condition: MotionCondition) -> Tensor:
        """Motion latents `b f d`; `b 1 d` for a variance alone, which is the same for all frames."""
        if isinstance(condition, DrawnCondition):
            queries = torch.broadcast_tensors(*[self.query(part) for part in condition.conditions])
            query = torch.stack(queries)[condition.choice, torch.arange(len(condition.choice))]
        else:
            query = self.query(condition)
        return self.out(self._attend_embeddings(query))

    def query(self, condition: SingleCondition) -> Tensor:
        """`b f width` (`b 1 width` for a variance)."""
        if isinstance(condition, AudioCondition):
            return self.audio_query(condition.tokens.flatten(2))
        if isinstance(condition, LandmarkCondition):
            return self.landmark_query(condition.points * 2 - 1)
        if isinstance(condition, HeadVariance):
            return self.head_query(scaled_log_variance(condition.variance)[:, None, None])
        if isinstance(condition, ExpressionVariance):
            return self.expression_query(scaled_log_variance(condition.variance)[:, None, None])
        raise ValueError(f"expected a motion condition of this file, got {type(condition).__name__}")

    def _attend_embeddings(self, query: Tensor) -> Tensor:
        heads = self.config.num_heads
        keys = self.embeddings.unflatten(1, (heads, -1)).transpose(0, 1).to(query.dtype)
        q = query.unflatten(-1, (heads, -1)).transpose(-2, -3)
        keys = keys.expand(len(query), -1, -1, -1)
        return attend(q, keys, keys).transpose(-2, -3).flatten(-2)


def scaled_log_variance(variance: Tensor) -> Tensor:
    """Variances of moving faces (1e-4 to 1e-1 squared inter-ocular distances; 0 for a still one) to about [-2, 2]."""
    return ((variance + 1e-5).log() + 7.0) / 2.0


def _query_layers(in_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_width, width), nn.SiLU(), nn.Linear(width, width))
