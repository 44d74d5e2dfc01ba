"""Audio-to-latents: sound, landmarks or a measure of movement become one kind of motion latent.

Source: Loopy (arXiv:2409.02634), sec. 3.3. A set of learnable embeddings serves as keys and values; each condition
passes its own fully connected layers to become the query; the attended result is the motion latent, and a last layer
maps it to the width of the timestep embedding, to which it is added. Training draws the condition; generation uses the
sound. The paper gives no sizes. Ours, the units of the conditions, the norm of the query and the temperature of the
attention are our choice: with none of these the attention is nearly uniform, and all conditions give the same latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openloopy.models.attention import attend
from openloopy.models.config_json import divides
from openloopy.models.initial import normal_parameter

NUM_LANDMARK_VALUES = 136  # 68 points, x and y
OUTER_EYE_CORNERS = (36, 45)
LANDMARK_SPREAD = 0.07
"""Root mean square of landmarks less the portrait's, outer-eye distances: .04 on puppets, .07 on filmed people (median
of 26 clips)."""
HEAD_LOG_VARIANCE = (-7.5, 1.7)
EXPRESSION_LOG_VARIANCE = (-8.8, 1.3)
"""Mean and standard deviation of the logarithms of the variances of 12 frames; between those of puppets (-8.3, 1.3;
-9.1, 1.0) and of filmed people (-7.0, 2.0; -8.5, 1.4), both by this project's landmarks."""
VARIANCE_FLOOR = 1e-5
"""Squared outer-eye distances; of the 26 filmed clips' variances one in a hundred is smaller (9e-6 head, 5e-6 face)."""
START_TEMPERATURE = 0.5
"""Of the attention when training begins: low enough that different queries pick different embeddings."""


@dataclass(frozen=True, kw_only=True)
class A2LConfig:
    """Sizes of the audio-to-latents module."""

    num_embeddings: int = 32
    width: int = 512
    num_heads: int = 8

    def __post_init__(self) -> None:
        if not divides(self.num_heads, self.width):
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")


@dataclass(frozen=True)
class AudioCondition:
    """Audio tokens, `b f k d`."""

    tokens: Tensor


@dataclass(frozen=True)
class LandmarkCondition:
    """68 points per frame relative to the portrait's, `b f 136` (x, y, x, y, ...); see `relative_landmarks`."""

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
    """Motion latents `b f d`, d the width of the timestep embedding. Starts neutral: its last layer is zero.

    Before that layer different conditions give different latents from the start on: the query is normalised, and the
    attention's temperature (one per head, learned) starts low.
    """

    def __init__(self, config: A2LConfig, *, audio_width: int, time_dim: int) -> None:
        """audio_width: values per frame of the audio tokens, k * d; time_dim: width of the timestep embedding."""
        super().__init__()
        self.config = config
        self.embeddings = normal_parameter(config.num_embeddings, config.width, std=1.0)
        self.audio_query = _query_layers(audio_width, config.width)
        self.landmark_query = _query_layers(NUM_LANDMARK_VALUES, config.width)
        self.head_query = _query_layers(1, config.width)
        self.expression_query = _query_layers(1, config.width)
        self.query_norm = nn.LayerNorm(config.width)
        self.log_temperature = nn.Parameter(torch.full((config.num_heads,), math.log(START_TEMPERATURE)))
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
        return self.out(self.attend_embeddings(query))

    def query(self, condition: SingleCondition) -> Tensor:
        """`b f width` (`b 1 width` for a variance)."""
        if isinstance(condition, AudioCondition):
            return self.audio_query(condition.tokens.flatten(2))
        if isinstance(condition, LandmarkCondition):
            return self.landmark_query(condition.points)
        if isinstance(condition, HeadVariance):
            return self.head_query(scaled_log_variance(condition.variance, *HEAD_LOG_VARIANCE)[:, None, None])
        if isinstance(condition, ExpressionVariance):
            scaled = scaled_log_variance(condition.variance, *EXPRESSION_LOG_VARIANCE)
            return self.expression_query(scaled[:, None, None])
        raise ValueError(f"expected a motion condition of this file, got {type(condition).__name__}")

    def attend_embeddings(self, query: Tensor) -> Tensor:
        """What the queries `b f width` find among the embeddings, `b f width`: the paper's motion latent."""
        heads = self.config.num_heads
        query = self.query_norm(query)
        keys = self.embeddings.unflatten(1, (heads, -1)).transpose(0, 1).to(query.dtype)
        q = query.unflatten(-1, (heads, -1)).transpose(-2, -3)
        q = q * torch.exp(-self.log_temperature).to(q.dtype)[:, None, None]
        keys = keys.expand(len(query), -1, -1, -1)
        return attend(q, keys, keys).transpose(-2, -3).flatten(-2)


def relative_landmarks(points: Tensor, portrait: Tensor) -> Tensor:
    """Landmarks as `LandmarkCondition` wants them: what differs from the portrait's, about 1 in size.

    Args:
        points: 68 points of every frame, `b f 68 2`, in any unit of length.
        portrait: those of the portrait, `b 68 2`, in the same unit and the same crop.

    Returns:
        `b f 136`.
    """
    left, right = OUTER_EYE_CORNERS
    eye_distance = (portrait[:, left] - portrait[:, right]).norm(dim=-1)[:, None, None, None]
    return ((points - portrait[:, None]) / (eye_distance * LANDMARK_SPREAD)).flatten(2)


def scaled_log_variance(variance: Tensor, mean: float, spread: float) -> Tensor:
    """Variances of moving faces, squared outer-eye distances (0: still), on a log scale about 0 and 1 in size."""
    return ((variance + VARIANCE_FLOOR).log() - mean) / spread


def _query_layers(in_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_width, width), nn.SiLU(), nn.Linear(width, width))
