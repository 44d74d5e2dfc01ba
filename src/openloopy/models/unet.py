"""The blocks that both nets, in both sizes, are built from.

Parameter names and order of operations are those of diffusers' `UNet2DConditionModel` for SD 1.5, so that its weights
load by name; layers along time are added as `down_blocks.i.temporal.j`, `mid_block.temporal.0`,
`up_blocks.i.temporal.j`, one after each spatial transformer (Loopy sec. 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from openloopy.models.attention import SpatialTransformer
from openloopy.models.config_json import check_num_layers, divides
from openloopy.models.resnet import Downsample, ResnetBlock, Upsample
from openloopy.models.temporal import TemporalConfig, TemporalLayers

AttentionStep = Callable[[Tensor, nn.Module, TemporalLayers | None], Tensor]
"""What a net does at an attention layer: (map `(b f) d h w`, spatial transformer, layers along time) -> map."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Shape of a U-Net; the defaults are SD 1.5."""

    in_channels: int = 4
    out_channels: int = 4
    block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    """Whether a level has transformers, finest first."""
    num_heads: int = 8
    norm_groups: int = 32
    context_dim: int = 768
    """Width of the audio tokens."""
    time_multiplier: int = 4
    """Width of the timestep embedding in units of the first block's channels."""
    kernel_size: tuple[int, int] = (3, 3)
    """Height and width, both odd, of all convolutions but those that halve: (1, 3) for latents of one row, whose upper
    and lower taps would only ever see padding."""

    def __post_init__(self) -> None:
        check_num_layers(self.layers_per_block)
        if not self.block_channels or min(self.block_channels) < 1:
            raise ValueError(f"every level needs channels, and one there must be, got {self.block_channels}")
        if len(self.attention_levels) != len(self.block_channels):
            raise ValueError(
                "expected one entry of attention_levels per level, "
                f"got {self.attention_levels} for {self.block_channels}"
            )
        if any(size < 1 or size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"kernel_size must be two odd numbers, got {self.kernel_size}")
        if not self.attention_levels[0]:
            raise ValueError(
                "the finest level needs attention: the reference net ends at its last attention layer"
            )
        for channels in self.block_channels:
            if not (divides(self.norm_groups, channels) and divides(self.num_heads, channels)):
                raise ValueError(
                    f"block_channels must be multiples of norm_groups ({self.norm_groups}) and num_heads "
                    f"({self.num_heads}), got {self.block_channels}"
                )

    @property
    def time_dim(self) -> int:
        """Width of the timestep embedding."""
        return self.block_channels[0] * self.time_multiplier

    def conv(self, in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Conv2d:
        """A convolution that keeps the size of its map."""
        padding = tuple(size // 2 for size in self.kernel_size)
        return nn.Conv2d(in_channels, out_channels, self.kernel_size, padding=padding, bias=bias)

    @property
    def num_levels(self) -> int:
        """Resolutions, finest to coarsest."""
        return len(self.block_channels)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What a net is made of: its shape, and which parts its attention layers have."""

    unet: UNetConfig
    context_width: int | None
    """Width of the tokens of cross-attention; None: no cross-attention."""
    temporal: TemporalConfig | None
    """None: no layers along time."""
    time_width: int | None
    """Width of the timestep embedding; None: the net knows one timestep only."""

    def resnet(self, in_channels: int, out_channels: int) -> ResnetBlock:
        """A convolution block of this net."""
        return ResnetBlock(self.unet, in_channels, out_channels, self.time_width)

    def transformers(self, channels: int, count: int) -> nn.ModuleList:
        """Spatial transformers of this net."""
        unet = self.unet
        return nn.ModuleList(
            SpatialTransformer(channels, unet.num_heads, unet.norm_groups, self.context_width)
            for _ in range(count)
        )

    def temporals(self, channels: int, count: int) -> nn.ModuleList:
        """Layers along time, as many as there are spatial transformers; none in a net without them."""
        count = 0 if self.temporal is None else count
        groups = self.unet.norm_groups
        return nn.ModuleList(TemporalLayers(channels, self.temporal, groups) for _ in range(count))


class DownBlock(nn.Module):
    """One level on the way down."""

    def __init__(self, anatomy: Anatomy, level: int) -> None:
        super().__init__()
        unet = anatomy.unet
        channels, depth = unet.block_channels[level], unet.layers_per_block
        entering = [unet.block_channels[max(level - 1, 0)]] + [channels] * (depth - 1)
        num_attentions = depth if unet.attention_levels[level] else 0
        self.resnets = nn.ModuleList(anatomy.resnet(width, channels) for width in entering)
        self.attentions = anatomy.transformers(channels, num_attentions)
        self.temporal = anatomy.temporals(channels, num_attentions)
        is_last = level == unet.num_levels - 1
        self.downsamplers = nn.ModuleList([] if is_last else [Downsample(channels)])

    def forward(
        self, x: Tensor, time_features: Tensor | None, step: AttentionStep
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns the map for the next level, and the maps that skip to the way up."""
        skips = []
        for resnet, attention, temporal in zip_longest(self.resnets, self.attentions, self.temporal):
            x = resnet(x, time_features)
            if attention is not None:
                x = step(x, attention, temporal)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """The coarsest level: convolutions around one attention layer."""

    def __init__(self, anatomy: Anatomy) -> None:
        super().__init__()
        channels = anatomy.unet.block_channels[-1]
        self.resnets = nn.ModuleList(anatomy.resnet(channels, channels) for _ in range(2))
        self.attentions = anatomy.transformers(channels, 1)
        self.temporal = anatomy.temporals(channels, 1)

    def forward(self, x: Tensor, time_features: Tensor | None, step: AttentionStep) -> Tensor:
        """`(b f) d h w` -> the same shape."""
        x = self.resnets[0](x, time_features)
        x = step(x, self.attentions[0], self.temporal[0] if self.temporal else None)
        return self.resnets[1](x, time_features)


class UpBlock(nn.Module):
    """One level on the way up; each convolution block also takes a map that skipped from the way down."""

    def __init__(self, anatomy: Anatomy, level: int) -> None:
        super().__init__()
        unet = anatomy.unet
        channels, depth = unet.block_channels[level], unet.layers_per_block + 1
        below = unet.block_channels[min(level + 1, unet.num_levels - 1)]
        skipping = [channels] * (depth - 1) + [unet.block_channels[max(level - 1, 0)]]
        entering = [below] + [channels] * (depth - 1)
        num_attentions = depth if unet.attention_levels[level] else 0
        widths = zip(entering, skipping, strict=True)
        self.resnets = nn.ModuleList(anatomy.resnet(main + skip, channels) for main, skip in widths)
        self.attentions = anatomy.transformers(channels, num_attentions)
        self.temporal = anatomy.temporals(channels, num_attentions)
        self.upsamplers = nn.ModuleList([Upsample(unet.conv(channels, channels))] if level > 0 else [])

    def forward(
        self, x: Tensor, time_features: Tensor | None, skips: list[Tensor], step: AttentionStep
    ) -> Tensor:
        """Takes its maps from the end of `skips`."""
        for resnet, attention, temporal in zip_longest(self.resnets, self.attentions, self.temporal):
            x = resnet(torch.cat([x, skips.pop()], dim=1), time_features)
            if attention is not None:
                x = step(x, attention, temporal)
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[-2:])
        return x


def down_blocks(anatomy: Anatomy) -> nn.ModuleList:
    """The way down, finest level first."""
    return nn.ModuleList(DownBlock(anatomy, level) for level in range(anatomy.unet.num_levels))


def up_blocks(anatomy: Anatomy) -> nn.ModuleList:
    """The way up, coarsest level first."""
    return nn.ModuleList(UpBlock(anatomy, level) for level in reversed(range(anatomy.unet.num_levels)))


def run_blocks(net: nn.Module, x: Tensor, time_features: Tensor | None, step: AttentionStep) -> Tensor:
    """Down, middle and up through `net.down_blocks`, `net.mid_block` and `net.up_blocks`.

    Args:
        x: output of the first convolution, `(b f) d h w`.
        time_features: SiLU of the timestep embedding, `(b f) d`; None in a net that knows one timestep only.
        step: called at every attention layer, in order of execution.
    """
    skips = [x]
    for block in net.down_blocks:
        x, new_skips = block(x, time_features, step)
        skips += new_skips
    x = net.mid_block(x, time_features, step)
    for block in net.up_blocks:
        x = block(x, time_features, skips, step)
    return x


def attention_layers(net: nn.Module) -> list[tuple[nn.Module, TemporalLayers | None]]:
    """Every spatial transformer with the layers along time that follow it, in order of execution."""
    layers = []
    for block in [*net.down_blocks, net.mid_block, *net.up_blocks]:
        layers += zip_longest(block.attentions, block.temporal)
    return layers
