"""Autoencoder whose decoder also sees the reference picture: the codec of the small models.

A small latent grid cannot carry hair, skin and glasses, but the portrait already holds them. So the decoder predicts
from the latents a flow that moves the reference picture and its features to the target, and draws from the latents
what the reference cannot give. The known trap: a mouth or an eye whose state differs from the reference tends to
stay as the reference had it; `training.codec` therefore hides these boxes of the reference part of the time and
samples references of another state.

Our own design (no counterpart in the Loopy paper, which uses the plain Stable Diffusion autoencoder). Related:
first-order-motion style warping decoders (Siarohin et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

LATENT_LIMIT = 3.0
"""Latents are squashed softly to this many standard deviations before decoding, so that outliers stay drawable."""
FLOW_SCALE = 0.2
"""Flow heads are scaled by this, in units of half a picture, so that training starts near the identity."""


@dataclass(frozen=True, kw_only=True)
class ReferenceCodecConfig:
    """Sizes of the reference autoencoder (downsampling factor 8)."""

    size_px: int = 128
    """Side of the picture that is encoded and drawn."""
    output_px: int = 256
    """Side of the decoded picture: flow and mask are enlarged and the reference is warped at this size."""
    latent_channels: int = 8
    encoder_channels: tuple[int, int, int] = (24, 64, 128)
    """Encoder widths at 1/2, 1/4 and 1/8 of the picture."""
    reference_channels: tuple[int, int, int] = (16, 40, 64)
    """Widths of the reference picture's features at 1/2, 1/4 and 1/8."""
    decoder_channels: tuple[int, int, int] = (32, 64, 128)
    """Decoder widths at 1/2, 1/4 and 1/8."""

    def __post_init__(self) -> None:
        if self.size_px % 8 or self.output_px % self.size_px:
            raise ValueError(
                f"size_px must be a multiple of 8, output_px one of size_px; got {self.size_px}, {self.output_px}"
            )


@dataclass(frozen=True)
class ReferencePicture:
    """All that the decoder needs to know of the reference; computed once per video.

    picture: `b 3 H W` in [-1, 1] at the output size; latents: `b c h w`;
    features: reference features at 1/2, 1/4 and 1/8 of the working size.
    An autoencoder without a reference uses `ReferencePicture.empty()`.
    """

    picture: Tensor | None
    latents: Tensor | None
    features: tuple[Tensor, ...]

    @staticmethod
    def empty() -> ReferencePicture:
        return ReferencePicture(None, None, ())

    def expand(self, num: int) -> ReferencePicture:
        """Repeat each of the `b` references for `num / b` consecutive pictures; views where b is 1."""

        def repeat(x: Tensor) -> Tensor:
            return x.expand(num, -1, -1, -1) if x.shape[0] == 1 else x.repeat_interleave(num // x.shape[0], 0)

        if self.picture is None:
            return self
        return ReferencePicture(
            repeat(self.picture), repeat(self.latents), tuple(repeat(f) for f in self.features)
        )


@dataclass(frozen=True)
class Decoded:
    """A decoded picture and what it was made of; all at the working size unless noted.

    image: `n 3 H W` at the output size; drawn: the picture drawn from the latents alone `n 3 h w`;
    mask: share taken from the reference `n 1 h w`; flow: `n 2 h w`, offsets to the reference in half pictures.
    """

    image: Tensor
    drawn: Tensor
    mask: Tensor
    flow: Tensor


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions without normalisation; the second starts small."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.3)
            self.conv2.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


def _conv_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())


def _pyramid(channels: tuple[int, int, int]) -> nn.ModuleList:
    """Three stages from a picture folded 2x2: features at 1/2, 1/4 and 1/8."""
    c2, c4, c8 = channels
    return nn.ModuleList(
        [
            nn.Sequential(nn.PixelUnshuffle(2), _conv_relu(12, c2), ResidualBlock(c2)),
            nn.Sequential(_conv_relu(c2, c4, 2), ResidualBlock(c4)),
            nn.Sequential(_conv_relu(c4, c8, 2), ResidualBlock(c8)),
        ]
    )


def _enlarge(x: Tensor, factor: int = 2) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample `x` `n c h w` at each pixel's place plus `flow` `n 2 H W` (units: half pictures; x right, y down)."""
    n, _, height, width = flow.shape
    ys = (torch.arange(height, device=flow.device, dtype=torch.float32) + 0.5) * 2 / height - 1
    xs = (torch.arange(width, device=flow.device, dtype=torch.float32) + 0.5) * 2 / width - 1
    identity = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)], -1)
    grid = identity + rearrange(flow.float(), "n c h w -> n h w c")
    # bfloat16 grids are too coarse for a position in the picture.
    with torch.autocast(flow.device.type, enabled=False):
        moved = F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
    return moved.to(x.dtype).contiguous(memory_format=torch.channels_last)


class SlimEncoder(nn.Module):
    """Picture `n 3 H W` -> latents `n c H/8 W/8` with zero mean and unit variance per channel."""

    def __init__(self, config: ReferenceCodecConfig):
        super().__init__()
        self.stages = _pyramid(config.encoder_channels)
        self.head = nn.Conv2d(config.encoder_channels[2], config.latent_channels, 3, padding=1)
        # Normalised latents are what a diffusion model expects, and the flow heads did not train without them.
        self.norm = nn.BatchNorm2d(config.latent_channels, affine=False, momentum=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
        return self.norm(self.head(x).float())


class ReferenceDecoder(nn.Module):
    """Latents and a reference picture -> picture, coarse to fine, with a flow refined at each of three scales."""

    def __init__(self, config: ReferenceCodecConfig):
        super().__init__()
        self.config = config
        r2, r4, r8 = config.reference_channels
        d2, d4, d8 = config.decoder_channels
        self.reference_stages = _pyramid(config.reference_channels)
        self.coarse = nn.Sequential(
            _conv_relu(2 * config.latent_channels + r8, d8), ResidualBlock(d8), ResidualBlock(d8)
        )
        self.middle = nn.Sequential(_conv_relu(d8 + r4, d4), ResidualBlock(d4), ResidualBlock(d4))
        self.fine = nn.Sequential(_conv_relu(d4 + r2 + 12, d2), ResidualBlock(d2), ResidualBlock(d2))
        self.flow_coarse = nn.Conv2d(d8, 2, 3, padding=1)
        self.flow_middle = nn.Conv2d(d4, 2, 3, padding=1)
        self.flow_fine = nn.Conv2d(d2, 2, 3, padding=1)
        self.draw = nn.Conv2d(d2, 12, 3, padding=1)
        self.mask = nn.Conv2d(d2, 4, 3, padding=1)
        with torch.no_grad():
            for head in (self.flow_coarse, self.flow_middle, self.flow_fine):
                head.weight.mul_(0.1)
                head.bias.zero_()
            self.mask.bias.zero_()

    def reference_features(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """picture: `b 3 h w` at the working size -> features at 1/2, 1/4, 1/8."""
        x = picture.contiguous(memory_format=torch.channels_last)
        half = self.reference_stages[0](x)
        quarter = self.reference_stages[1](half)
        return half, quarter, self.reference_stages[2](quarter)

    def forward(self, latents: Tensor, reference: ReferencePicture) -> Decoded:
        """latents: `n c h w`; reference: `n` of them (see `ReferencePicture.expand`)."""
        half, quarter, eighth = reference.features
        squashed = [LATENT_LIMIT * torch.tanh(z / LATENT_LIMIT) for z in (latents, reference.latents)]
        x = self.coarse(torch.cat([*squashed, eighth], 1))
        flow = _enlarge(self.flow_coarse(x).float() * FLOW_SCALE)
        x = self.middle(torch.cat([_enlarge(x), warp(quarter, flow)], 1))
        flow = _enlarge(flow + self.flow_middle(x).float() * FLOW_SCALE)
        folded = F.pixel_unshuffle(warp(self._working_size(reference.picture), _enlarge(flow)), 2)
        x = self.fine(torch.cat([_enlarge(x), warp(half, flow), folded], 1))
        flow = _enlarge(flow + self.flow_fine(x).float() * FLOW_SCALE * 0.5)
        drawn = F.pixel_shuffle(self.draw(x).float(), 2)
        mask = torch.sigmoid(F.pixel_shuffle(self.mask(x).float(), 2))
        return Decoded(_blend(drawn, mask, flow, reference.picture), drawn, mask, flow)

    def _working_size(self, picture: Tensor) -> Tensor:
        factor = picture.shape[-1] // self.config.size_px
        return picture if factor == 1 else F.avg_pool2d(picture, factor)


def _blend(drawn: Tensor, mask: Tensor, flow: Tensor, picture: Tensor) -> Tensor:
    """Reference detail at the size of `picture`, the rest enlarged from the working size."""
    factor = picture.shape[-1] // drawn.shape[-1]
    if factor > 1:
        drawn = F.interpolate(drawn, scale_factor=factor, mode="bicubic", align_corners=False)
        mask, flow = _enlarge(mask, factor), _enlarge(flow, factor)
    return mask * warp(picture.float(), flow) + (1 - mask) * drawn
