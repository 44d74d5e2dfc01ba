"""A small conformer on a log-mel spectrum, whose steps hear a limited stretch of sound: the audio encoder of `mini`.

Source: Gulati et al. 2020, arXiv 2005.08100 (feed-forward halves around attention and convolution); without relative
positions, as in hama 1.7.0 (Apache-2.0), a phoneme recogniser whose weights this network takes (`training/hama.py`).
Attention reaches `reach` steps to each side, so that a sound in chunks is heard like the whole sound.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from openloopy.models.config_json import check_num_layers, divides, from_json_dict

MODEL_TYPE = "conformer"
SAMPLE_RATE_HZ = 16_000
FFT, HOP = 400, 160
"""25 ms every 10 ms."""
MARGIN = 200
"""Zeros before the sound: window k has its middle at sample 160 k, and `640 n + 80` samples give 4 n windows."""
FLOOR = 1e-10
"""Power below which all is silence."""
MAX_REACH = 4096
"""Of attention: 82 s to each side, all of which is read and computed for each chunk."""


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """Sizes of the network."""

    bands: int = 80
    hidden_size: int = 144
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 576
    kernel: int = 31
    """Steps that a convolution hears."""
    reach: int = 32
    """Steps of 20 ms that attention reaches to each side."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_num_layers(self.num_hidden_layers)
        if not divides(self.num_attention_heads, self.hidden_size):
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} attention heads"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that a step lies in its middle, got {self.kernel}")
        if not 1 <= self.reach <= MAX_REACH:
            raise ValueError(f"reach must be 1 to {MAX_REACH} steps, got {self.reach}")

    @property
    def context_steps(self) -> int:
        """Steps to each side that can change a step."""
        return self.num_hidden_layers * (self.reach + self.kernel // 2) + 2

    @staticmethod
    def from_json(settings: dict[str, Any]) -> ConformerConfig:
        names = {field.name for field in fields(ConformerConfig)}
        known = {name: value for name, value in settings.items() if name in names}
        return from_json_dict(ConformerConfig, known, place=MODEL_TYPE)

    def to_json(self) -> dict[str, Any]:
        return {"model_type": MODEL_TYPE, **asdict(self)}


class Conformer(nn.Module):
    """Sound -> hidden states of all layers, 50 steps a second."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.config = config
        self.spectrum = LogMel(config.bands)
        self.stem = nn.Conv1d(config.bands, config.hidden_size, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, waveform: Tensor) -> list[Tensor]:
        """waveform: `b 640n+80` samples -> what each layer gives, first layer first, each `b 2n width`."""
        bands = self.spectrum(waveform).to(self.stem.weight.dtype)
        x = F.silu(self.stem(bands.transpose(1, 2))).transpose(1, 2)
        states = []
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        return states


class LogMel(nn.Module):
    """Sound -> log power in bands, 100 windows a second; in float32 whatever the network computes in."""

    def __init__(self, bands: int):
        super().__init__()
        # Stored with the weights: a network hears with the filters it was trained with.
        self.register_buffer("filters", torch.from_numpy(mel_filters(bands)).float())
        with torch.device(
            "cpu"
        ):  # without storage it would be computed by torch's compiler, which takes long to import
            window = torch.hann_window(FFT)
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """`b samples` -> `b windows bands`."""
        with torch.autocast(waveform.device.type, enabled=False):
            windows = F.pad(waveform.float(), (MARGIN, 0)).unfold(-1, FFT, HOP) * self.window.float()
            power = torch.view_as_real(torch.fft.rfft(windows)).square().sum(-1)
            return torch.log((power @ self.filters.float()).clamp_min(FLOOR))


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, the other half; each added to what came in."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        width = config.hidden_size
        self.feed_forward1 = FeedForward(config)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = NearAttention(config)
        self.convolution = ConvolutionModule(config)
        self.feed_forward2 = FeedForward(config)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.feed_forward1(x)
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        x = x + self.convolution(x)
        x = x + 0.5 * self.feed_forward2(x)
        return self.norm(x)


class FeedForward(nn.Module):
    """Norm and two layers with SiLU between."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size)
        self.outer = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.outer(self.dropout(F.silu(self.inner(self.norm(x))))))


class NearAttention(nn.Module):
    """Self-attention with several heads over the steps within reach."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.num_heads, self.reach = config.num_attention_heads, config.reach
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Blocks of `reach` steps look at their own and at both neighbours: cost grows with the length alone."""
        steps, reach = x.shape[1], min(self.reach, x.shape[1])
        num_blocks = -(-steps // reach)
        padded = F.pad(x, (0, 0, 0, num_blocks * reach - steps))
        q, k, v = rearrange(
            self.qkv(padded), "b (n r) (three h d) -> three b n h r d", r=reach, three=3, h=self.num_heads
        )
        position = torch.arange(num_blocks * reach, device=x.device).view(num_blocks, reach)
        seen_position = _with_neighbours(position[None, :, None, :, None], -(10**9))[0, :, 0, :, 0]
        is_near = (seen_position[:, None, :] - position[:, :, None]).abs() <= reach
        is_near &= (seen_position < steps)[:, None, :]
        # Steps of the padding see themselves alone, so that no row is empty; what they give is cut off.
        is_near |= seen_position[:, None, :] == position[:, :, None]
        attended = F.scaled_dot_product_attention(
            q, _with_neighbours(k, 0), _with_neighbours(v, 0), attn_mask=is_near[None, :, None]
        )
        return self.out(rearrange(attended, "b n h r d -> b (n r) (h d)")[:, :steps])


class ConvolutionModule(nn.Module):
    """Norm, a gated layer, a convolution over time for each channel, SiLU, a layer."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        width = config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2, groups=width)
        self.outer = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.gated(self.norm(x)), dim=-1)
        x = F.silu(self.depthwise(x.transpose(1, 2))).transpose(1, 2)
        return self.dropout(self.outer(x))


def mel_filters(bands: int) -> np.ndarray:
    """Triangles that overlap by half on the mel scale, each of sum 1: `frequencies bands`."""
    corners = _hz(np.linspace(_mel(20.0), _mel(SAMPLE_RATE_HZ / 2), bands + 2))
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    frequencies = np.linspace(0, SAMPLE_RATE_HZ / 2, FFT // 2 + 1)[:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    filters = np.minimum(rising, falling).clip(0)
    return filters / filters.sum(0).clip(1e-8)


def _with_neighbours(x: Tensor, fill: int) -> Tensor:
    """`b blocks h reach d` -> each block between the ones before and after it, `b blocks h 3*reach d`."""
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1), value=fill)
    return torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=3)


def _mel(hz: float) -> float:
    return 2595 * np.log10(1 + hz / 700)


def _hz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)
