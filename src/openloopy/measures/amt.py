"""AMT-S: the picture halfway between two frames, drawn by a network with public weights.

Source: Li et al., "AMT: All-Pairs Multi-Field Transforms for Efficient Frame Interpolation" (CVPR 2023): correlation
of all pairs of positions, flows refined at three scales by looking it up, several flows per pixel at the end. Names
and shapes of the parameters are those of `amt-s.pth` of https://github.com/MCG-NKU/AMT, which `load_amt` reads. Its
licence, CC BY-NC, keeps it from commercial use; no weights come with this package.

Flows are in pixels of their own scale and point from the halfway picture into a frame: where its content lies there.
The pair of them is kept as `b 4 h w`: x and y into the frame before, x and y into the frame after.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from openloopy.measures.checkpoints import load_checkpoint, read_checkpoint

TIME = 0.5
"""Where the drawn picture lies between the two frames. The network takes any time; the measure needs the middle."""
CHANNELS = (20, 32, 44, 56)
"""Of the context features at 1/2, 1/4, 1/8 and 1/16 of the size."""
SIDE_CHANNELS = 20
NUM_FIELDS = 3
"""Flows, masks and residuals per pixel of the final picture."""
CORRELATION_WIDTH = 84
CORRELATION_STRIDE = 8
CORRELATION_LEVELS = 4
CORRELATION_RADIUS = 3
UPDATE_WIDTH = 76

SIZE_MULTIPLE = 16
MIN_PX = 2 * CORRELATION_STRIDE * 2 ** (CORRELATION_LEVELS - 1)
"""Below this side, padding included, the coarsest correlation is one position wide; the public network then divides
by zero."""


class Fields(NamedTuple):
    """What the final picture is put together from, `NUM_FIELDS` times."""

    flow_before: Tensor
    """`b n 2 h w` px."""
    flow_after: Tensor
    """`b n 2 h w` px."""
    mask: Tensor
    """How much the frame before counts, `b n 1 h w`, 0..1."""
    residual: Tensor
    """Added to the blend, `b n 3 h w`."""


class Correlation(NamedTuple):
    """How alike all pairs of positions are, at several scales of the position looked up."""

    forward: list[Tensor]
    """For each position of the frame before, a map over the frame after: each `(b h w) 1 i j`."""
    backward: list[Tensor]
    """For each position of the frame after, a map over the frame before."""


class AmtS(nn.Module):
    """AMT in its small size: 3 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = CHANNELS
        self.feat_encoder = CorrelationEncoder()
        self.encoder = ContextEncoder()
        self.decoder4 = Decoder(2 * sixteenth + 1, 2 * sixteenth, 4 + eighth)
        self.decoder3 = Decoder(3 * eighth + 4, 3 * eighth, 4 + quarter)
        self.decoder2 = Decoder(3 * quarter + 4, 3 * quarter, 4 + half)
        self.decoder1 = Decoder(3 * half + 4, 3 * half, 8 * NUM_FIELDS)
        self.update4 = Update(eighth)
        self.update3 = Update(quarter)
        self.update2 = Update(half)
        self.comb_block = nn.Sequential(
            nn.Conv2d(3 * NUM_FIELDS, 6 * NUM_FIELDS, 3, padding=1),
            nn.PReLU(6 * NUM_FIELDS),
            nn.Conv2d(6 * NUM_FIELDS, 3, 3, padding=1),
        )

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """The picture halfway.

        Args:
            before, after: `b 3 h w` RGB, 0..1; sides are multiples of 16 and at least 128 px.

        Returns:
            `b 3 h w`, 0..1.
        """
        _check_pictures(before, after)
        mean = torch.cat([before, after], 2).mean((1, 2, 3), keepdim=True)
        before, after = before - mean, after - mean
        correlation = correlate(*self.feat_encoder(torch.cat([before, after])).chunk(2))
        features = list(zip(self.encoder(before), self.encoder(after), strict=True))

        flows, content = self._start(*features[3])
        flows, content = self._refined(self.update4, 1, correlation, flows, content)
        flows, content = self._finer(self.decoder3, content, *features[2], flows)
        flows, content = self._refined(self.update3, 2, correlation, flows, content)
        flows, content = self._finer(self.decoder2, content, *features[1], flows)
        flows, content = self._refined(self.update2, 4, correlation, flows, content)
        fields = self._fields(content, *features[0], flows)
        return self._combined(before, after, mean, fields).clamp(0, 1)

    def _start(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """First flows and content, at 1/8, from features at 1/16 `b 56 h w`."""
        time = torch.full_like(before[:, :1], TIME)
        out = self.decoder4(torch.cat([before, after, time], 1))
        return out[:, :4], out[:, 4:]

    def _finer(
        self, decoder: Decoder, content: Tensor, before: Tensor, after: Tensor, flows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flows and content at twice the size."""
        out = decoder(_aligned(content, before, after, flows))
        return out[:, :4] + 2 * _resized(flows, 2), out[:, 4:]

    def _refined(
        self, update: Update, scale: int, correlation: Correlation, flows: Tensor, content: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flows and content, corrected by what lies where they point, at `scale` times the size of the correlation."""
        coarse = _resized(flows, 1 / scale) / scale
        flow_change, content_change = update(
            _resized(content, 1 / scale), coarse, look_up_both(correlation, coarse)
        )
        return flows + scale * _resized(flow_change, scale), content + _resized(content_change, scale)

    def _fields(self, content: Tensor, before: Tensor, after: Tensor, flows: Tensor) -> Fields:
        """Everything at full size, from features at 1/2."""
        out = self.decoder1(_aligned(content, before, after, flows))
        sizes = [2 * NUM_FIELDS, 2 * NUM_FIELDS, NUM_FIELDS, 3 * NUM_FIELDS]
        parts = [rearrange(x, "b (n c) h w -> b n c h w", n=NUM_FIELDS) for x in out.split(sizes, 1)]
        shared = (2 * _resized(flows, 2))[:, None]
        return Fields(
            flow_before=parts[0] + shared[:, :, :2],
            flow_after=parts[1] + shared[:, :, 2:],
            mask=parts[2].sigmoid(),
            residual=parts[3],
        )

    def _combined(self, before: Tensor, after: Tensor, mean: Tensor, fields: Fields) -> Tensor:
        """The mean of the candidates and what a small network makes of them ("multi-field refinement")."""
        moved_before = _warped_by_each(before, fields.flow_before)
        moved_after = _warped_by_each(after, fields.flow_after)
        blended = fields.mask * moved_before + (1 - fields.mask) * moved_after
        candidates = blended + mean[:, None] + fields.residual
        return candidates.mean(1) + self.comb_block(rearrange(candidates, "b n c h w -> b (n c) h w"))


class CorrelationEncoder(nn.Module):
    """Features whose products say how alike two positions are: `b 3 h w` -> `b 84 h/8 w/8`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, stride=2, padding=3)
        self.layer1 = nn.Sequential(Bottleneck(32, 32), Bottleneck(32, 32))
        self.layer2 = nn.Sequential(Bottleneck(32, 64, stride=2), Bottleneck(64, 64))
        self.layer3 = nn.Sequential(Bottleneck(64, 96, stride=2), Bottleneck(96, 96))
        self.conv2 = nn.Conv2d(96, CORRELATION_WIDTH, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.relu(F.instance_norm(self.conv1(pictures)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class Bottleneck(nn.Module):
    """A residual block of 1x1, 3x3 and 1x1 convolutions, each normalised per picture and channel."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        narrow = outputs // 4
        self.conv1 = nn.Conv2d(inputs, narrow, 1)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride=stride, padding=1)
        self.conv3 = nn.Conv2d(narrow, outputs, 1)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride), nn.InstanceNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu(F.instance_norm(conv(x)))
        return F.relu(shortcut + x)


class ContextEncoder(nn.Module):
    """What is where, at 1/2, 1/4, 1/8 and 1/16 of the size: `b 3 h w` -> four of `b c h w`."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = CHANNELS
        self.pyramid1 = _halving(3, half)
        self.pyramid2 = _halving(half, quarter)
        self.pyramid3 = _halving(quarter, eighth)
        self.pyramid4 = _halving(eighth, sixteenth)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        levels = [pictures]
        for halving in (self.pyramid1, self.pyramid2, self.pyramid3, self.pyramid4):
            levels.append(halving(levels[-1]))
        return levels[1:]


class Decoder(nn.Module):
    """`b inputs h w` -> `b outputs 2h 2w`."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.convblock = nn.Sequential(
            _conv(inputs, width), SideBlock(width), nn.ConvTranspose2d(width, outputs, 4, stride=2, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convblock(x)


class SideBlock(nn.Module):
    """A residual block, of which the last `SIDE_CHANNELS` channels get two convolutions of their own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(width, width)
        self.conv2 = _conv(SIDE_CHANNELS, SIDE_CHANNELS)
        self.conv3 = _conv(width, width)
        self.conv4 = _conv(SIDE_CHANNELS, SIDE_CHANNELS)
        self.conv5 = nn.Conv2d(width, width, 3, padding=1)
        self.prelu = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        out = _on_side(self.conv2, self.conv1(x))
        out = _on_side(self.conv4, self.conv3(out))
        return self.prelu(x + self.conv5(out))


class Update(nn.Module):
    """Corrections of flows and content by the correlation that was looked up."""

    def __init__(self, content: int) -> None:
        super().__init__()
        looked_up = 2 * CORRELATION_LEVELS * (2 * CORRELATION_RADIUS + 1) ** 2
        self.convc1 = nn.Conv2d(looked_up, 64, 1)
        self.convf1 = nn.Conv2d(4, 40, 7, padding=3)
        self.convf2 = nn.Conv2d(40, 20, 3, padding=1)
        self.conv = nn.Conv2d(64 + 20, 68, 3, padding=1)
        self.gru = _two_convs(68 + 4 + content, UPDATE_WIDTH)
        self.feat_head = _two_convs(UPDATE_WIDTH, content)
        self.flow_head = _two_convs(UPDATE_WIDTH, 4)

    def forward(self, content: Tensor, flows: Tensor, looked_up: Tensor) -> tuple[Tensor, Tensor]:
        """`b c h w`, `b 4 h w` and `b 392 h w` -> changes of the flows and of the content."""
        correlation = _leaky(self.convc1(looked_up))
        motion = _leaky(self.convf2(_leaky(self.convf1(flows))))
        both = _leaky(self.conv(torch.cat([correlation, motion], 1)))
        state = self.gru(torch.cat([both, flows, content], 1))
        return self.flow_head(state), self.feat_head(state)


def load_amt(path: Path | str) -> AmtS:
    """The network with the weights of a file, on the CPU, ready to draw.

    Args:
        path: `amt-s.pth`, or another file with the same tensors by name.

    Raises:
        ValueError: the file is missing, cut short, or holds Python objects or other weights; says which.
    """
    tensors = read_checkpoint(path, "AMT-S")
    return load_checkpoint(AmtS(), tensors, path, "AMT-S")


def halfway(network: AmtS, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The frame between two, as the public script draws and stores it.

    Sides are filled up to multiples of 16 by repeating the outermost pixels on both sides; brightness is cut down,
    not rounded, to whole numbers. Memory grows with the square of the area: about 0.4 GB at 512 x 512 px.

    Args:
        network: from `load_amt`, on the device that shall compute.
        before, after: frames, `H W 3` uint8 RGB.

    Returns:
        `H W 3` uint8 RGB.
    """
    if before.shape != after.shape or before.ndim != 3 or before.shape[2] != 3:
        raise ValueError(f"expected two frames of one shape H W 3, got {before.shape} and {after.shape}")
    device = next(network.parameters()).device
    pictures = rearrange(torch.from_numpy(np.stack([before, after])), "f h w c -> f c h w").to(device) / 255
    height, width = before.shape[:2]
    left, right, top, bottom = padding = _padding(height, width)
    padded = F.pad(pictures, padding, mode="replicate")
    with torch.inference_mode():
        drawn = network(padded[:1], padded[1:])[0, :, top : top + height, left : left + width]
    return rearrange(drawn * 255, "c h w -> h w c").clamp(0, 255).cpu().numpy().astype(np.uint8)


def correlate(before: Tensor, after: Tensor) -> Correlation:
    """Products of all pairs of features `b c h w`, over the root of c, and means over 2x2, 4x4 and 8x8."""
    products = torch.einsum("bchw,bcij->bhwij", before, after) / before.shape[1] ** 0.5
    forward = rearrange(products, "b h w i j -> (b h w) 1 i j")
    backward = rearrange(products, "b h w i j -> (b i j) 1 h w")
    return Correlation(_pooled(forward), _pooled(backward))


def look_up_both(correlation: Correlation, flows: Tensor) -> Tensor:
    """What the correlation says around the places that flows `b 4 h w` point at: `b 392 h w`.

    Motion is taken for even: from the frame before to the frame after it is the flow from halfway, over the time
    that this one covers.
    """
    places = _grid(flows.shape[-2], flows.shape[-1], flows)
    flow_before, flow_after = flows.chunk(2, 1)
    return torch.cat(
        [
            look_up(correlation.forward, places + flow_after / (1 - TIME)),
            look_up(correlation.backward, places + flow_before / TIME),
        ],
        1,
    )


def look_up(levels: list[Tensor], places: Tensor) -> Tensor:
    """A window of every map around a place.

    Args:
        levels: maps for each position, `(b h w) 1 i j`, each level half as large as the one before.
        places: one per position, x and y in px of the first level, `b 2 h w`.

    Returns:
        `b levels*49 h w`; within a window the offset in x changes slowest, as in RAFT. Zero outside the maps.
    """
    batch, _, height, width = places.shape
    steps = torch.arange(
        -CORRELATION_RADIUS, CORRELATION_RADIUS + 1, dtype=places.dtype, device=places.device
    )
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)
    centres = rearrange(places, "b c h w -> (b h w) 1 1 c")
    windows = [
        _sampled(maps, centres / 2**level + offsets, padding="zeros") for level, maps in enumerate(levels)
    ]
    return rearrange(torch.cat(windows, 1), "(b h w) l x y -> b (l x y) h w", b=batch, h=height, w=width)


def warp(pictures: Tensor, flows: Tensor) -> Tensor:
    """Pictures drawn from where flows point, bilinearly; outside, from the nearest pixel.

    Args:
        pictures: `b c h w`.
        flows: x and y, `b 2 h w` px.

    Returns:
        `b c h w`.
    """
    places = _grid(flows.shape[-2], flows.shape[-1], flows) + flows
    return _sampled(pictures, rearrange(places, "b c h w -> b h w c"), padding="border")


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.PReLU(outputs))


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, stride=2), _conv(outputs, outputs))


def _two_convs(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, UPDATE_WIDTH, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(UPDATE_WIDTH, outputs, 3, padding=1),
    )


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def _on_side(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([x[:, :-SIDE_CHANNELS], layer(x[:, -SIDE_CHANNELS:])], 1)


def _aligned(content: Tensor, before: Tensor, after: Tensor, flows: Tensor) -> Tensor:
    """Content, the features of both frames brought to where they lie halfway, and the flows, as channels."""
    flow_before, flow_after = flows.chunk(2, 1)
    return torch.cat([content, warp(before, flow_before), warp(after, flow_after), flows], 1)


def _warped_by_each(pictures: Tensor, flows: Tensor) -> Tensor:
    """`b c h w` and `b n 2 h w` -> `b n c h w`."""
    repeated = pictures.repeat_interleave(flows.shape[1], 0)
    return rearrange(warp(repeated, flows.flatten(0, 1)), "(b n) c h w -> b n c h w", n=flows.shape[1])


def _pooled(maps: Tensor) -> list[Tensor]:
    levels = [maps]
    for _ in range(CORRELATION_LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _resized(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _grid(height: int, width: int, like: Tensor) -> Tensor:
    """x and y of each position, px: `1 2 h w`."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack([x, y])[None]


def _sampled(maps: Tensor, places: Tensor, *, padding: str) -> Tensor:
    """`b c h w` at places `b i j 2` (x and y, px) -> `b c i j`, bilinearly."""
    last = torch.tensor([maps.shape[-1] - 1, maps.shape[-2] - 1], dtype=places.dtype, device=places.device)
    return F.grid_sample(maps, 2 * places / last - 1, padding_mode=padding, align_corners=True)


def _padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels to add at the left, right, top and bottom; the odd one goes to the right and bottom."""
    columns, rows = -width % SIZE_MULTIPLE, -height % SIZE_MULTIPLE
    if min(width + columns, height + rows) < MIN_PX:
        needed = MIN_PX - SIZE_MULTIPLE + 1
        raise ValueError(
            f"a frame of {width}x{height} px is too small for AMT: give sides of {needed} px or more"
        )
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


def _check_pictures(before: Tensor, after: Tensor) -> None:
    height, width = before.shape[-2:]
    is_fit = height % SIZE_MULTIPLE == width % SIZE_MULTIPLE == 0 and min(height, width) >= MIN_PX
    if before.shape != after.shape or before.ndim != 4 or before.shape[1] != 3 or not is_fit:
        raise ValueError(
            f"expected two times b 3 h w, sides multiples of {SIZE_MULTIPLE} from {MIN_PX} px on, got "
            f"{tuple(before.shape)} and {tuple(after.shape)}; halfway fills frames up"
        )
