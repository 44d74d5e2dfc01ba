"""Our own networks for faces: a finder, a mesh regressor, a person mask; small, plain PyTorch, float in [-1, 1].

Sources: the finder is a heatmap of centres with geometry beside it (CenterNet, Zhou et al. 2019); the mesh is regressed
from an aligned square view, as in Kartynnik et al. 2019 (whose 478-point topology with irises it keeps); the mask is a
small U-Net (Ronneberger et al. 2015). Trained by `openloopy train face` (docs/face.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from openloopy.face.mesh import CHIN, FOREHEAD, MESH_POINTS, canonical_mesh

FINDER_PX, MESH_PX, MASK_PX = 256, 128, 192
FINDER_STRIDE = 8
VIEW_FACE_HEIGHTS = 1.6
"""Side of the mesh network's view, in face heights."""
PART_PX = 48
EYE_SIDE, MOUTH_SIDE = 0.35, 0.55
"""Sides of the part networks' views, in face heights."""
COVER_SIDE = 0.8
"""Of the view that tells whether the mouth is covered, in face heights."""
EYE_CORNERS, MOUTH_ANCHORS = (33, 133), (61, 291, 0, 17)
"""Mesh points whose mean is the centre of such a view."""
WEIGHTS_NAME = "face.safetensors"


@dataclass(frozen=True)
class FinderOutput:
    """Maps of `n ... 32 32` cells, a face being the cell that its centre falls in.

    heat: logits of a centre, `n 1`; offset: of the centre from the cell's middle, in cells, `n 2`; log_size: of the
    face height as a share of the picture's side, `n 1`; roll: cosine and sine, not normalised, `n 2`.
    """

    heat: Tensor
    offset: Tensor
    log_size: Tensor
    roll: Tensor


class ConvNorm(nn.Sequential):
    """3x3 convolution (or 1x1), batch norm, ReLU."""

    def __init__(self, into: int, out: int, stride: int = 1, size: int = 3):
        super().__init__(
            nn.Conv2d(into, out, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two convolutions added to their input."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


class FaceFinder(nn.Module):
    """Pictures `n 3 256 256` -> where faces are, how large and how tilted."""

    def __init__(self, channels: tuple[int, int, int, int, int] = (16, 24, 48, 64, 80)):
        super().__init__()
        c2, c4, c8, c16, c32 = channels
        self.to_8 = nn.Sequential(ConvNorm(3, c2, 2), ConvNorm(c2, c4, 2), ConvNorm(c4, c8, 2), Residual(c8))
        self.to_16 = nn.Sequential(ConvNorm(c8, c16, 2), Residual(c16))
        self.to_32 = nn.Sequential(ConvNorm(c16, c32, 2), Residual(c32))
        self.to_64 = nn.Sequential(ConvNorm(c32, c32, 2), Residual(c32))
        self.from_64 = ConvNorm(c32, c32, size=1)
        self.from_32 = ConvNorm(c32, c16, size=1)
        self.from_16 = ConvNorm(c16, c8, size=1)
        self.head = nn.Sequential(ConvNorm(c8, c8), nn.Conv2d(c8, 6, 1))
        nn.init.constant_(self.head[-1].bias[:1], -4.0)  # faces are rare

    def forward(self, pictures: Tensor) -> FinderOutput:
        x8 = self.to_8(pictures)
        x16 = self.to_16(x8)
        x32 = self.to_32(x16)
        x32 = x32 + _twice(self.from_64(self.to_64(x32)))
        x16 = x16 + _twice(self.from_32(x32))
        x8 = x8 + _twice(self.from_16(x16))
        heat, offset, log_size, roll = self.head(x8).float().split((1, 2, 1, 2), dim=1)
        return FinderOutput(heat, offset, log_size - 1.5, roll)


class MeshNet(nn.Module):
    """Views `n 3 128 128` of one face -> its mesh, and how sure it is."""

    def __init__(self, channels: tuple[int, int, int, int, int] = (20, 40, 72, 112, 128), width: int = 256):
        super().__init__()
        c2, c4, c8, c16, c32 = channels
        self.features = nn.Sequential(
            ConvNorm(3, c2, 2),
            ConvNorm(c2, c4, 2),
            Residual(c4),
            ConvNorm(c4, c8, 2),
            Residual(c8),
            Residual(c8),
            ConvNorm(c8, c16, 2),
            Residual(c16),
            ConvNorm(c16, c32, 2),
            nn.Flatten(),
        )
        cells = (MESH_PX // 32) ** 2
        self.hidden = nn.Sequential(nn.Linear(c32 * cells, width), nn.ReLU(inplace=True))
        self.mesh = nn.Linear(width, MESH_POINTS * 3)
        self.sure = nn.Linear(width, 1)
        nn.init.normal_(self.mesh.weight, std=1e-3)
        with torch.no_grad():
            self.mesh.bias.copy_(_mean_mesh().flatten())

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """-> mesh `n 478 3` in sides of the view from its centre (z to the viewer), logit of being right `n`."""
        hidden = self.hidden(self.features(views).float())
        return self.mesh(hidden).unflatten(1, (MESH_POINTS, 3)), self.sure(hidden)[:, 0]


class PartNet(nn.Module):
    """Views `n 3 48 48` of an eye or a mouth -> its mesh points `n p 2`, in sides of the view from its centre."""

    def __init__(
        self,
        points: np.ndarray,
        anchors: tuple[int, ...],
        side: float,
        channels: tuple[int, int, int, int] = (16, 32, 48, 64),
        width: int = 128,
    ):
        """points: mesh points that it finds; anchors, side: as of `face.parts.Part`."""
        super().__init__()
        c2, c4, c8, c16 = channels
        self.features = nn.Sequential(
            ConvNorm(3, c2, 2),
            ConvNorm(c2, c4, 2),
            Residual(c4),
            ConvNorm(c4, c8, 2),
            Residual(c8),
            ConvNorm(c8, c16, 2),
            nn.Flatten(),
        )
        self.hidden = nn.Sequential(nn.Linear(c16 * (PART_PX // 16) ** 2, width), nn.ReLU(inplace=True))
        self.points = nn.Linear(width, len(points) * 2)
        nn.init.normal_(self.points.weight, std=1e-3)
        vertices = canonical_mesh().vertices
        mean = (vertices[points] - vertices[list(anchors)].mean(0))[:, :2]
        face_height = np.linalg.norm(vertices[CHIN, :2] - vertices[FOREHEAD, :2])
        with torch.no_grad():
            self.points.bias.copy_(torch.from_numpy(mean / (side * face_height)).flatten())

    def forward(self, views: Tensor) -> Tensor:
        return self.points(self.hidden(self.features(views).float())).unflatten(1, (-1, 2))


class FaceParts(nn.Module):
    """The networks of eyes (one for both, the right one in a mirror) and mouth."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = PartNet(eye_points(), EYE_CORNERS, EYE_SIDE)
        self.mouth = PartNet(mouth_points(), MOUTH_ANCHORS, MOUTH_SIDE)


@lru_cache(maxsize=1)
def eye_points() -> np.ndarray:
    """Mesh points of the left eye of the picture: lids, their folds, iris."""
    return _points_near(EYE_CORNERS, (2.0, 1.25))


@lru_cache(maxsize=1)
def mouth_points() -> np.ndarray:
    """Mesh points of the mouth: lips and what moves with them."""
    return _points_near(MOUTH_ANCHORS, (3.3, 2.3))


def _points_near(anchors: tuple[int, ...], reach_cm: tuple[float, float]) -> np.ndarray:
    """Mesh points in an ellipse about some of them, on the mean face."""
    vertices = canonical_mesh().vertices
    offset = (vertices - vertices[list(anchors)].mean(0))[:, :2] / reach_cm
    return np.flatnonzero((offset**2).sum(1) < 1)


class CoverNet(nn.Sequential):
    """Views `n 3 48 48` about a mouth -> logit that something covers it, `n`."""

    def __init__(self, channels: tuple[int, int, int, int] = (12, 24, 40, 56), width: int = 48):
        c2, c4, c8, c16 = channels
        super().__init__(
            ConvNorm(3, c2, 2),
            ConvNorm(c2, c4, 2),
            Residual(c4),
            ConvNorm(c4, c8, 2),
            Residual(c8),
            ConvNorm(c8, c16, 2),
            nn.Flatten(),
            nn.Linear(c16 * (PART_PX // 16) ** 2, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, 1),
            nn.Flatten(0),
        )


class PersonMaskNet(nn.Module):
    """Pictures `n 3 192 192` -> logits that a pixel belongs to the person, `n 1 192 192`."""

    def __init__(self, channels: tuple[int, int, int, int] = (12, 24, 40, 64)):
        super().__init__()
        c2, c4, c8, c16 = channels
        self.to_2 = ConvNorm(3, c2, 2)
        self.to_4 = nn.Sequential(ConvNorm(c2, c4, 2), Residual(c4))
        self.to_8 = nn.Sequential(ConvNorm(c4, c8, 2), Residual(c8))
        self.to_16 = nn.Sequential(ConvNorm(c8, c16, 2), Residual(c16), Residual(c16))
        self.from_16 = ConvNorm(c16, c8, size=1)
        self.from_8 = nn.Sequential(ConvNorm(c8, c8), ConvNorm(c8, c4, size=1))
        self.from_4 = nn.Sequential(ConvNorm(c4, c4), ConvNorm(c4, c2, size=1))
        self.head = nn.Sequential(ConvNorm(c2, c2), nn.Conv2d(c2, 4, 1), nn.PixelShuffle(2))

    def forward(self, pictures: Tensor) -> Tensor:
        x2 = self.to_2(pictures)
        x4 = self.to_4(x2)
        x8 = self.to_8(x4)
        x8 = x8 + _twice(self.from_16(self.to_16(x8)))
        x4 = x4 + _twice(self.from_8(x8))
        return self.head(x2 + _twice(self.from_4(x4))).float()


class FaceNetworks(nn.Module):
    """All networks and the calibration of the mesh network's confidence."""

    def __init__(self) -> None:
        super().__init__()
        self.finder, self.mesh, self.parts = FaceFinder(), MeshNet(), FaceParts()
        self.mask = PersonMaskNet()
        self.cover: CoverNet | None = CoverNet()
        """None in networks that were trained before there was one."""
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        """Slope and offset put on the mesh network's logit (Platt 1999)."""

    def confidence(self, logit: Tensor) -> Tensor:
        """Chance that a face is there and its landmarks lie right."""
        slope, offset = self.calibration
        return torch.sigmoid(slope * logit + offset)


def to_input(pictures: np.ndarray) -> Tensor:
    """`n H W 3` uint8 -> `n 3 H W` float32 in [-1, 1], channels last."""
    return (
        torch.from_numpy(np.require(pictures, requirements=("C", "W"))).permute(0, 3, 1, 2).float() / 127.5
        - 1
    )


def find_peaks(found: FinderOutput, index: int, least: float) -> list[tuple[np.ndarray, float, float, float]]:
    """Faces of one picture: centre `2` and height as shares of the side, roll in radians, score; surest first."""
    heat = torch.sigmoid(found.heat[index, 0])
    is_peak = (nn.functional.max_pool2d(heat[None], 3, 1, 1)[0] == heat) & (heat >= least)
    cells = heat.shape[-1]
    faces = []
    for row, column in torch.nonzero(is_peak).tolist():
        dx, dy = found.offset[index, :, row, column].tolist()
        cosine, sine = found.roll[index, :, row, column].tolist()
        centre = (np.array([column + dx, row + dy]) + 0.5) / cells
        height = float(np.exp(found.log_size[index, 0, row, column].item()))
        faces.append((centre, height, float(np.arctan2(sine, cosine)), heat[row, column].item()))
    return sorted(faces, key=lambda face: -face[3])


def save_face_networks(networks: FaceNetworks, folder: Path) -> None:
    """Writes the weights in half precision, under their final name only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in networks.state_dict().items()
    }
    partial = folder / f".{WEIGHTS_NAME}.partial"
    save_file(half, partial, metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS_NAME)


def load_step(network: nn.Module, path: Path) -> None:
    """Fill one network from what its training wrote."""
    network.load_state_dict(load_file(path))


def load_unfolded(folder: Path) -> FaceNetworks:
    """The networks of a folder as they were trained, to go on from; what an older folder lacks is new."""
    networks = FaceNetworks()
    networks.load_state_dict(networks.state_dict() | load_file(folder / WEIGHTS_NAME))
    return networks


def load_face_networks(folder: Path | None = None, dtype: torch.dtype = torch.float32) -> FaceNetworks:
    """The networks of a folder (default: those that come with the package), ready for use: norms folded, frozen."""
    folder = shipped_folder() if folder is None else Path(folder)
    networks = FaceNetworks()
    path = folder / WEIGHTS_NAME
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); install the package again, or copy it again"
        ) from error
    if not any(name.startswith("cover.") for name in state):
        networks.cover = None  # as before version 0.3
    try:
        networks.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the face networks of this version: {error}") from error
    networks = networks.eval().requires_grad_(False)
    fold_norms(networks)
    return networks.to(dtype, memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def shipped_networks() -> FaceNetworks:
    """The networks that come with the package, read once."""
    return load_face_networks()


def shipped_folder() -> Path:
    """Where the package keeps its face weights."""
    return Path(str(resources.files("openloopy") / "weights" / "face"))


def fold_norms(module: nn.Module) -> None:
    """Put every batch norm that follows a convolution into it; the same function, fewer passes over memory."""
    for child in module.children():
        if isinstance(child, nn.Sequential):
            for i in range(len(child) - 1):
                if isinstance(child[i], nn.Conv2d) and isinstance(child[i + 1], nn.BatchNorm2d):
                    child[i], child[i + 1] = fuse_conv_bn_eval(child[i], child[i + 1]), nn.Identity()
        fold_norms(child)


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _mean_mesh() -> Tensor:
    """The mean face as it lies in a centred view: `478 3`."""
    vertices = canonical_mesh().vertices
    height = abs(vertices[CHIN, 1] - vertices[FOREHEAD, 1])
    middle = (vertices[FOREHEAD] + vertices[CHIN]) / 2
    return torch.from_numpy((vertices - [0, middle[1], 0]) / (height * VIEW_FACE_HEIGHTS)).float()
