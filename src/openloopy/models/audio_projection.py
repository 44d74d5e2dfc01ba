"""From the audio encoder's hidden states to the audio tokens of each video frame.

Source: Loopy (arXiv:2409.02634), sec. 3.3: hidden states of all layers are concatenated, and the features of two
frames before and two after join each frame's own. Our choice: each of the five becomes one token, by a small MLP
shared by all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from openloopy.models.initial import normal_parameter


@dataclass(frozen=True, kw_only=True)
class AudioProjectionConfig:
    """What comes from the audio encoder; the defaults are wav2vec2-base."""

    num_layers: int = 12
    layer_width: int = 768
    window: int = 5
    """Frames per window, odd: the frame itself in the middle of its neighbours."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"the audio window must be an odd number of frames, got {self.window}")

    @property
    def margin(self) -> int:
        """Frames of sound needed before the first and after the last frame of a clip."""
        return self.window // 2


class AudioProjection(nn.Module):
    """LayerNorm and a two-layer MLP per frame, then windows with learnable position embeddings."""

    def __init__(self, config: AudioProjectionConfig, context_dim: int) -> None:
        super().__init__()
        self.config = config
        in_width = config.num_layers * config.layer_width
        self.norm = nn.LayerNorm(in_width)
        self.linear_1 = nn.Linear(in_width, context_dim)
        self.linear_2 = nn.Linear(context_dim, context_dim)
        self.window_embedding = normal_parameter(config.window, context_dim, std=0.02)
        self.norm_out = nn.LayerNorm(context_dim)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`b (f + 2 margin) l w` -> audio tokens `b f window d`, oldest neighbour first."""
        expected = (self.config.num_layers, self.config.layer_width)
        if hidden_states.shape[2:] != expected or hidden_states.shape[1] < self.config.window:
            raise ValueError(
                f"expected hidden states `b (f + {2 * self.config.margin}) {expected[0]} {expected[1]}` (the clip's "
                f"frames with {self.config.margin} more on each side), got {tuple(hidden_states.shape)}"
            )
        x = self.norm(hidden_states.flatten(2).to(self.norm.weight.dtype))
        x = self.linear_2(F.gelu(self.linear_1(x)))
        windows = x.unfold(1, self.config.window, 1).transpose(2, 3)
        return self.norm_out(windows + self.window_embedding)
