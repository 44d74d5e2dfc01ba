"""Convolution blocks and the timestep embedding of the U-Nets, with the names of diffusers' SD 1.5 parts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openloopy.models.recompute import recomputable

if TYPE_CHECKING:
    from openloopy.models.unet import UNetConfig


class ResnetBlock(nn.Module):
    """Two convolutions, each after GroupNorm and SiLU, with the timestep embedding added in between.

    time_width: None in a net that knows one timestep only; what it would add is then part of the first bias.
    """

    def __init__(self, unet: UNetConfig, in_channels: int, out_channels: int, time_width: int | None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(unet.norm_groups, in_channels, eps=1e-5)
        self.conv1 = unet.conv(in_channels, out_channels)
        self.time_emb_proj = None if time_width is None else nn.Linear(time_width, out_channels)
        self.norm2 = nn.GroupNorm(unet.norm_groups, out_channels, eps=1e-5)
        self.conv2 = unet.conv(out_channels, out_channels)
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    @recomputable
    def forward(self, x: Tensor, time_features: Tensor | None) -> Tensor:
        """x: `b c h w`; time_features: SiLU of the timestep embedding, `b d`; None without a time width."""
        hidden = convolve(self.conv1, F.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            hidden = hidden + self.time_emb_proj(time_features)[:, :, None, None]
        hidden = convolve(self.conv2, F.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else convolve(self.conv_shortcut, x))


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution that keeps the size of its map.

    Of one row on the CPU, and where no gradient is asked for, it is a matrix product: oneDNN's way takes longer to set
    up than to compute.
    """
    is_row = conv.kernel_size[0] == x.shape[2] == 1 and x.device.type == "cpu"
    if not is_row or torch.is_grad_enabled():
        return conv(x)
    tokens, taps = x[:, :, 0].transpose(1, 2), conv.kernel_size[1]
    if taps > 1:
        tokens = F.pad(tokens, (0, 0, taps // 2, taps // 2)).unfold(1, taps, 1).flatten(2)
    return F.linear(tokens, conv.weight.flatten(1), conv.bias).transpose(1, 2).unsqueeze(2)


class Downsample(nn.Module):
    """Halve the resolution with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`b c h w` -> `b c h/2 w/2`."""
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to a given size, then a convolution."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """`b c h w` -> `b c *size`."""
        return self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))


def timestep_features(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of a timestep (diffusers with `flip_sin_to_cos=True`, `freq_shift=0`): `b` -> `b width`."""
    half = width // 2
    frequencies = torch.exp(
        torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(max_period) / half)
    )
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Two linear layers over the timestep features."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.in_width = in_width
        self.linear_1 = nn.Linear(in_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Timesteps `b` -> embeddings `b d`."""
        features = timestep_features(t, self.in_width).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(features)))
