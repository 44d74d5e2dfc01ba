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
FLOW_SCALES = (0.05, 0.1, 0.2)
"""Flow heads, finest first, are scaled by this in units of half a picture (the last for all coarser ones, too):
training starts near the identity, and the fine levels only correct."""
WINDOW_LEVEL = 2
"""Levels 1/2 and 1/4 can be computed in a window alone; those at 1/8 and coarser always see the whole picture."""


@dataclass(frozen=True, kw_only=True)
class ReferenceCodecConfig:
    """Sizes of the reference autoencoder; the downsampling factor is 2 to the number of decoder widths."""

    size_px: int = 256
    """Side of the picture that is encoded and drawn."""
    output_px: int = 256
    """Side of the decoded picture: flow and mask are enlarged and the reference is warped at this size."""
    latent_channels: int = 8
    encoder_channels: tuple[int, ...] = (24, 64, 128)
    """Encoder widths, fine to coarse; the last belongs to the latents' grid. With fewer widths than the decoder has,
    the encoder starts by folding larger blocks of pixels."""
    reference_channels: tuple[int, ...] = (8, 16, 40, 64)
    """Widths of the reference picture's features at 1/2, 1/4, ... of the picture."""
    decoder_channels: tuple[int, ...] = (16, 32, 64, 128)
    """Decoder widths at 1/2, 1/4, ... of the picture."""

    def __post_init__(self) -> None:
        levels = len(self.decoder_channels)
        if len(self.reference_channels) != levels or levels < 3:
            raise ValueError(
                "decoder_channels and reference_channels must be equally long, at least 3 widths, got "
                f"{self.decoder_channels} and {self.reference_channels}"
            )
        if not 1 <= len(self.encoder_channels) <= levels:
            raise ValueError(f"expected 1 to {levels} encoder_channels, got {self.encoder_channels}")
        if self.size_px % self.downsample or self.output_px % self.size_px:
            raise ValueError(
                f"size_px must be a multiple of {self.downsample}, output_px one of size_px; "
                f"got {self.size_px}, {self.output_px}"
            )

    @property
    def downsample(self) -> int:
        """Pixels per latent, each way."""
        return 2 ** len(self.decoder_channels)


@dataclass(frozen=True)
class ReferencePicture:
    """All that the decoder needs to know of the reference; computed once per video.

    picture: `b 3 H W` in [-1, 1] at the output size; latents: `b c h w`;
    features: reference features at 1/2, 1/4, ... of the working size.
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
class Window:
    """A square part of each of `n` pictures, in which the fine levels are computed: training sees faces closer.

    top, left: `n` integers; side: all in cells of 8 working pixels.
    """

    top: tuple[int, ...]
    left: tuple[int, ...]
    side: int

    def cut(self, x: Tensor, cell: int) -> Tensor:
        """The windows of maps `n c h w` that have `cell` entries per window cell."""
        size = self.side * cell
        parts = [
            x[i, :, top * cell : top * cell + size, left * cell : left * cell + size]
            for i, (top, left) in enumerate(zip(self.top, self.left, strict=True))
        ]
        return torch.stack(parts).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Decoded:
    """A decoded picture and what it was made of; all at the working size and in the window unless noted.

    image: `n 3 H W` at the output size; drawn: what was drawn, before the reference joins, `n 3 h w`;
    mask: share taken from the reference `n 1 h w`; flow: `n 2 h w`, offsets to the reference in half pictures;
    coarse_flow: the same for the whole picture, at a quarter of the working size.
    """

    image: Tensor
    drawn: Tensor
    mask: Tensor
    flow: Tensor
    coarse_flow: Tensor


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


def _pyramid(channels: tuple[int, ...], fold: int) -> nn.ModuleList:
    """Stages from a picture folded `fold` x `fold`, each half as fine as the one before."""
    first = nn.Sequential(
        nn.PixelUnshuffle(fold), _conv_relu(3 * fold**2, channels[0]), ResidualBlock(channels[0])
    )
    others = [
        nn.Sequential(_conv_relu(fine, coarse, 2), ResidualBlock(coarse))
        for fine, coarse in zip(channels, channels[1:], strict=False)
    ]
    return nn.ModuleList([first, *others])


def _enlarge(x: Tensor, factor: int = 2) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def identity_flow(height: int, width: int, device: torch.device) -> Tensor:
    """The place of each pixel's middle in half pictures, `1 2 height width` (x, y in -1 .. 1)."""
    ys = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * 2 / height - 1
    xs = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * 2 / width - 1
    return torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)])[None]


def warp(x: Tensor, flow: Tensor, places: Tensor | None = None, *, mode: str = "bilinear") -> Tensor:
    """Sample `x` `n c h w` at each pixel's place plus `flow` `n 2 H W` (units: half pictures; x right, y down).

    places: where the pixels of `flow` lie, `n 2 H W`; None: they fill the picture.
    """
    if places is None:
        places = identity_flow(*flow.shape[-2:], flow.device)
    grid = rearrange(places + flow.float(), "n c h w -> n h w c")
    # bfloat16 grids are too coarse for a position in the picture.
    with torch.autocast(flow.device.type, enabled=False):
        moved = F.grid_sample(x.float(), grid, mode=mode, padding_mode="border", align_corners=False)
    return moved.to(x.dtype).contiguous(memory_format=torch.channels_last)


class SlimEncoder(nn.Module):
    """Picture `n 3 H W` -> latents `n c h w` with zero mean and unit variance per channel."""

    def __init__(self, config: ReferenceCodecConfig):
        super().__init__()
        channels = config.encoder_channels
        self.stages = _pyramid(channels, config.downsample // 2 ** (len(channels) - 1))
        self.head = nn.Conv2d(channels[-1], config.latent_channels, 3, padding=1)
        # Normalised latents are what a diffusion model expects, and the flow heads did not train without them.
        self.norm = nn.BatchNorm2d(config.latent_channels, affine=False, momentum=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
        return self.norm(self.head(x).float())


class DecoderLevel(nn.Module):
    """One scale of the decoder: what came from below and the reference's moved features -> features and a flow."""

    def __init__(self, inputs: int, channels: int, flow_scale: float):
        super().__init__()
        self.merge = _conv_relu(inputs, channels)
        self.blocks = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))
        self.flow = nn.Conv2d(channels, 2, 3, padding=1)
        self.flow_scale = flow_scale
        with torch.no_grad():
            self.flow.weight.mul_(0.1)
            self.flow.bias.zero_()

    def forward(self, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps of this scale -> features `n d h w`, and what to add to the flow, `n 2 h w` float32."""
        x = self.blocks(self.merge(torch.cat(parts, 1)))
        return x, self.flow(x).float() * self.flow_scale


class ReferenceDecoder(nn.Module):
    """Latents and a reference picture -> picture, coarse to fine, with a flow refined at each scale."""

    def __init__(self, config: ReferenceCodecConfig):
        super().__init__()
        self.config = config
        reference, widths = config.reference_channels, config.decoder_channels
        # The finest features stand alone: the others start from larger folds, which costs much less.
        self.reference_detail = _pyramid(reference[:1], 2)
        self.reference_stages = _pyramid(reference[1:], 4)
        levels = []
        for i, width in enumerate(widths):
            below = 2 * config.latent_channels if i == len(widths) - 1 else widths[i + 1]
            # The picture as it is so far: the moved reference, folded, and what the level below has drawn.
            picture = 12 * (i < WINDOW_LEVEL) + 4 * (i == 0)
            inputs = below + reference[i] + picture
            levels.append(DecoderLevel(inputs, width, FLOW_SCALES[min(i, len(FLOW_SCALES) - 1)]))
        self.levels = nn.ModuleList(levels)
        """Finest first, as the widths are."""
        # The second level draws at half size, the finest corrects it; it starts by changing nothing.
        self.draw = nn.ModuleList(nn.Conv2d(width, 12, 3, padding=1) for width in widths[:WINDOW_LEVEL])
        self.mask = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in widths[:WINDOW_LEVEL])
        with torch.no_grad():
            self.mask[1].bias.zero_()
            for fine in (self.draw[0], self.mask[0], self.levels[0].flow):
                fine.weight.zero_()
                fine.bias.zero_()

    def reference_features(self, picture: Tensor) -> tuple[Tensor, ...]:
        """picture: `b 3 h w` at the working size -> features at 1/2, 1/4, ..."""
        x = picture.contiguous(memory_format=torch.channels_last)
        features = [self.reference_detail[0](x)]
        for stage in self.reference_stages:
            x = stage(x)
            features.append(x)
        return tuple(features)

    def forward(self, latents: Tensor, reference: ReferencePicture, window: Window | None = None) -> Decoded:
        """latents: `n c h w`; reference: `n` of them (see `ReferencePicture.expand`)."""
        x, flow = self._coarse_levels(latents, reference)
        x, coarse_flow = _enlarge(x), flow
        places = identity_flow(*flow.shape[-2:], flow.device)
        if window is not None:
            cell = 8 * flow.shape[-1] // self.config.size_px
            x, flow, places = (window.cut(y, cell) for y in (x, flow, places.expand(len(x), -1, -1, -1)))
        x, flow, places, drawn, logit = self._half_size(x, flow, places, reference)
        parts = [x, warp(reference.features[0], flow, places), self._folded(reference, flow, places, 0)]
        x, step = self.levels[0]([*parts, drawn.to(x.dtype), logit.to(x.dtype)])
        flow, places = _enlarge(flow + step), _refined(places)
        drawn = F.interpolate(drawn, scale_factor=2, mode="bicubic", align_corners=False)
        drawn = drawn + F.pixel_shuffle(self.draw[0](x).float(), 2)
        mask = torch.sigmoid(_enlarge(logit) + F.pixel_shuffle(self.mask[0](x).float(), 2))
        image = _blend(drawn, mask, flow, reference.picture, places, self.config)
        return Decoded(image, drawn, mask, flow, coarse_flow)

    def _half_size(
        self, x: Tensor, flow: Tensor, places: Tensor, reference: ReferencePicture
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Features, flow and places for the finest level; what is drawn at half size and the logit of its mask."""
        parts = [x, warp(reference.features[1], flow, places), self._folded(reference, flow, places, 1)]
        x, step = self.levels[1](parts)
        drawn, logit = (F.pixel_shuffle(head[1](x).float(), 2) for head in (self.draw, self.mask))
        return _enlarge(x), _enlarge(flow + step), _refined(places), drawn, logit

    def _coarse_levels(self, latents: Tensor, reference: ReferencePicture) -> tuple[Tensor, Tensor]:
        """Features at 1/8 of the picture, and the flow at 1/4."""
        squashed = [LATENT_LIMIT * torch.tanh(z / LATENT_LIMIT) for z in (latents, reference.latents)]
        coarsest = len(self.levels) - 1
        x, flow = self.levels[coarsest]([*squashed, reference.features[coarsest]])
        flow = _enlarge(flow)
        for i in reversed(range(WINDOW_LEVEL, coarsest)):
            x, step = self.levels[i]([_enlarge(x), warp(reference.features[i], flow)])
            flow = _enlarge(flow + step)
        return x, flow

    def _folded(self, reference: ReferencePicture, flow: Tensor, places: Tensor, level: int) -> Tensor:
        """The moved reference picture at twice a level's resolution, folded 2x2: `n 12 h w`."""
        factor = reference.picture.shape[-1] // self.config.size_px * 2**level
        picture = reference.picture if factor == 1 else F.avg_pool2d(reference.picture, factor)
        return F.pixel_unshuffle(warp(picture, _enlarge(flow), _refined(places)), 2)


def _refined(places: Tensor, factor: int = 2) -> Tensor:
    """The places of pixels `factor` times as fine, in the same window: `n 2 h w` -> `n 2 (factor h) (factor w)`."""
    step = (places[:, :, 1:2, 1:2] - places[:, :, :1, :1]) / factor
    first = places[:, :, :1, :1] - step * (factor - 1) / 2
    index = torch.arange(places.shape[-1] * factor, device=places.device, dtype=places.dtype)
    xs = first[:, :1] + step[:, :1] * index
    ys = first[:, 1:] + step[:, 1:] * index[:, None]
    size = (-1, -1, len(index), len(index))
    return torch.cat([xs.expand(size), ys.expand(size)], 1)


def _blend(
    drawn: Tensor,
    mask: Tensor,
    flow: Tensor,
    picture: Tensor,
    places: Tensor,
    config: ReferenceCodecConfig,
) -> Tensor:
    """Reference detail at the size of `picture`, the rest enlarged from the working size."""
    factor = picture.shape[-1] // config.size_px
    if factor > 1:
        drawn = F.interpolate(drawn, scale_factor=factor, mode="bicubic", align_corners=False)
        mask, flow, places = _enlarge(mask, factor), _enlarge(flow, factor), _refined(places, factor)
    return mask * warp(picture.float(), flow, places) + (1 - mask) * drawn
