"""A small network that reads lip gap and eye opening from a picture's pixels, and what it makes the decoder do.

Own design [D]: an L1 loss is content with half-shut lids; a reader that has learnt on true pictures what opening means
is not. Decoded mouths and eyes must give the readers the same features and the same opening as the true ones (a
perceptual loss, Johnson et al. 2016, with a network of our own). It learns beside the decoder, from true pictures only,
and is not part of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from openloopy.data.regions import EYE_POINTS, MOUTH_POINTS

MOUTH_VIEW, EYES_VIEW = (1.0, 0.8), (1.4, 0.5)
"""Width and height of what is looked at, in distances between the outer eye corners."""
CELLS_PER_EYE_DISTANCE = 40
OUTER_EYE_CORNERS = (36, 45)


@dataclass(frozen=True)
class Placed:
    """Pictures and where they lie: places are `b ...` in [0, 1] of the whole picture.

    pixels: `b 3 h w` in [-1, 1]; origin: `b 2`, top left of the pixels; size: their side.
    """

    pixels: Tensor
    origin: Tensor
    size: float


class OpeningReader(nn.Module):
    """Views `n 3 h w` -> opening `n` in standard deviations, and the features on the way."""

    def __init__(self, view: tuple[int, int], width: int = 24):
        """view: height and width of what it sees, in pixels."""
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.third = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        height, wide = ((side + 3) // 4 for side in view)
        self.answer = nn.Sequential(
            nn.Flatten(), nn.Linear(2 * width * height * wide, 64), nn.SiLU(), nn.Linear(64, 1)
        )

    def forward(self, views: Tensor) -> tuple[Tensor, list[Tensor]]:
        # Light and contrast say nothing about the opening.
        mean, sd = views.mean((1, 2, 3), keepdim=True), views.std((1, 2, 3), keepdim=True)
        first = F.silu(self.first((views - mean) / (sd + 0.05)))
        second = F.silu(self.second(first))
        third = F.silu(self.third(second))
        return self.answer(third)[:, 0], [second, third]


class FaceReader(nn.Module):
    """Reads the lip gap from the mouth and the eye opening from both eyes."""

    def __init__(self) -> None:
        super().__init__()
        self.mouth = OpeningReader(_cells(MOUTH_VIEW))
        self.eyes = OpeningReader(_cells(EYES_VIEW))

    def forward(self, mouths: Tensor, eyes: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Views of both -> openings `n 2` (lip gap, eye opening) and all features."""
        gap, of_mouth = self.mouth(mouths)
        opening, of_eyes = self.eyes(eyes)
        return torch.stack([gap, opening], 1), of_mouth + of_eyes


def reader_losses(
    reader: FaceReader, decoded: Placed, true: Placed, points: Tensor, states: Tensor
) -> tuple[Tensor, Tensor]:
    """What the reader gets wrong on true pictures, and by how much decoded pictures read differently.

    points: `b 68 2` in [0, 1] of the whole picture; states: lip gap and eye opening in standard deviations, `b 2`.
    The first loss trains the reader alone, the second the decoder alone. Faces outside the pixels do not count.
    """
    wanted, features = reader(*face_views(true, points))
    seen = _is_inside(true, points)
    reading = (F.smooth_l1_loss(wanted.float(), states, reduction="none").mean(1) * seen).sum()
    fixed = {name: parameter.detach() for name, parameter in reader.named_parameters()}
    got, imitated = functional_call(reader, fixed, face_views(decoded, points))
    error = F.smooth_l1_loss(got.float(), wanted.detach().float(), reduction="none").mean(1)
    for ours, theirs in zip(imitated, features, strict=True):
        theirs = theirs.detach()
        error = error + (ours - theirs).abs().mean((1, 2, 3)) / (theirs.abs().mean() + 1e-6)
    count = seen.sum().clamp(min=1)
    return reading / count, (error * seen).sum() / count


def face_views(picture: Placed, points: Tensor) -> tuple[Tensor, Tensor]:
    """Upright views of mouth and eyes, `b 3 h w` each; what lies outside the pixels repeats their border."""
    left, right = OUTER_EYE_CORNERS
    unit = torch.linalg.vector_norm(points[:, left] - points[:, right], dim=-1)
    mouth = points[:, MOUTH_POINTS].mean(1)
    eyes = torch.cat([points[:, part] for part in EYE_POINTS], 1).mean(1)
    return _view(picture, mouth, unit, MOUTH_VIEW), _view(picture, eyes, unit, EYES_VIEW)


def _view(picture: Placed, centre: Tensor, unit: Tensor, extent: tuple[float, float]) -> Tensor:
    height, width = _cells(extent)
    y = (torch.arange(height, device=centre.device) + 0.5) / height - 0.5
    x = (torch.arange(width, device=centre.device) + 0.5) / width - 0.5
    offsets = torch.stack(torch.meshgrid(x * extent[0], y * extent[1], indexing="xy"), -1)
    places = centre[:, None, None] + unit[:, None, None, None] * offsets
    inside = (places - picture.origin[:, None, None]) / picture.size * 2 - 1
    return F.grid_sample(picture.pixels.float(), inside, padding_mode="border", align_corners=False)


def _is_inside(picture: Placed, points: Tensor) -> Tensor:
    """1 where mouth and eyes lie in the pixels, `b`."""
    inner = torch.cat([points[:, MOUTH_POINTS], *(points[:, part] for part in EYE_POINTS)], 1)
    place = (inner - picture.origin[:, None]) / picture.size
    return ((place > 0.03) & (place < 0.97)).flatten(1).all(1).float()


def _cells(extent: tuple[float, float]) -> tuple[int, int]:
    """Height and width of a view in pixels."""
    return round(extent[1] * CELLS_PER_EYE_DISTANCE), round(extent[0] * CELLS_PER_EYE_DISTANCE)
