"""Training of the mesh network: it sees one face in a square that lies as badly as finder and tracker may place it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from openloopy.face.crop import warp
from openloopy.face.mesh import CHIN, FOREHEAD, MESH_POINTS, MESH_TO_68, canonical_mesh
from openloopy.face.movement import (
    EYE_LID_PAIRS,
    INNER_LIP_PAIRS,
    OUTER_EYE_CORNERS,
    eye_opening,
    lip_gap,
)
from openloopy.face.networks import (
    FINDER_PX,
    MESH_PX,
    VIEW_FACE_HEIGHTS,
    FaceFinder,
    FaceNetworks,
    MeshNet,
    find_peaks,
    to_input,
)
from openloopy.face.parts import refine_parts
from openloopy.face.square import FaceSquare
from openloopy.models.weight_files import save_weights
from openloopy.training.covers import cover_mouth
from openloopy.training.face_bank import KINDS, STEP_WEIGHTS, Background, FaceBank, faceless_part, step_rng
from openloopy.training.face_pictures import change_light, cover_part, spoil
from openloopy.training.stats import write_numbers

RIGHT_ERROR, RIGHT_DRAWN_ERROR = 0.08, 0.16
"""A face counts as right when its 68 points are off by less than this on average (outer-eye distances); what is drawn
has no truth to a hair."""
MIN_PROPOSED_HEAT = 0.1
"""Of the finder's mistakes that the confidence learns from."""
CALIBRATION_FACELESS_SHARE = 0.25
DRAWN_KINDS = frozenset({"drawn", "toon", "cartoon"})
IRISES = tuple(range(468, MESH_POINTS))


@dataclass(frozen=True, kw_only=True)
class MeshTrainingConfig:
    """How the mesh network is trained."""

    batch_size: int = 64
    seed: int = 0
    kind_shares: tuple[float, ...] = (0.34, 0.26, 0.1, 0.06, 0.14, 0.1)
    """Of portraits, puppets, footage, drawn faces, toons and cartoons, where there are some."""
    faceless_share: float = 0.2
    """Views without a face that stands; they train the confidence alone."""
    overturned_share: float = 0.35
    """Of these, those of faces that lie or stand on their heads: which way a picture is up, the confidence tells."""
    proposed_share: float = 0.6
    """Of the others, where there is a finder, those that it takes for a face."""
    max_roll_deg: float = 35.0
    zoom_sd: float = 0.14
    shift_sd: float = 0.06
    """Of the view's side."""
    covered_share: float = 0.3
    mouth_covered_share: float = 0.06
    """Faces with a mask, a microphone, a hand over the mouth."""
    mouth_weight: float = 4.0
    eye_weight: float = 4.0
    depth_weight: float = 0.3
    opening_weight: float = 2.0
    sure_weight: float = 0.05


class MeshTask:
    """`TrainTask` of the mesh network."""

    def __init__(
        self,
        network: MeshNet,
        bank: FaceBank,
        config: MeshTrainingConfig,
        background: Background,
        finder: FaceFinder | None = None,
    ):
        """
        Args:
            finder: a finished one, whose mistakes the confidence should know.
        """
        self.network: nn.Module = network.to(memory_format=torch.channels_last)
        self.bank, self.config, self.background = bank, config, background
        self.finder = None if finder is None else finder.eval()
        self.point_weights = mesh_point_weights(config)

    def describe(self) -> dict:
        return {"stage": "face.mesh", "config": asdict(self.config), "data": self.bank.sha256}

    def losses(self, network: MeshNet, step: int) -> dict[str, Tensor]:
        rng = step_rng(self.config.seed, step)
        views = draw_views(self.bank, self.config, rng, self.background, finder=self.finder)
        device = next(network.parameters()).device
        found, sure = network(to_input(views.pictures).to(device))
        return mesh_losses(found.float(), sure.float(), views.to(device), self.point_weights, self.config)

    def sample(self, network: MeshNet, path: Path) -> None:
        write_numbers(path.with_suffix(".json"), self.evaluate(network))
        rng, config = step_rng(self.config.seed, 10**9), replace(self.config, batch_size=24)
        pictures = draw_views(self.bank, config, rng, self.background, "val").pictures
        with torch.inference_mode():
            found, _ = network(to_input(pictures).to(next(network.parameters()).device))
        drawn = [
            draw_points(picture, (mesh[MESH_TO_68, :2] + 0.5) * MESH_PX)
            for picture, mesh in zip(pictures, found.cpu().numpy(), strict=True)
        ]
        rows = [np.concatenate(drawn[i : i + 8], 1) for i in range(0, len(drawn), 8)]
        Image.fromarray(np.concatenate(rows)).save(path.with_suffix(".png"))

    def export(self, network: MeshNet, folder: Path) -> None:
        save_weights(network, folder / STEP_WEIGHTS)

    @torch.inference_mode()
    def evaluate(self, network: MeshNet, count: int = 384) -> dict[str, float]:
        """Errors on held-out people in well-placed views, as shares of the outer-eye distance, and of openings."""
        device, results = next(network.parameters()).device, {}
        for kind, indices in self.bank.views_of("val").items():
            chosen = indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)]
            placed = [place_view(self.bank, int(i), ViewPlace()) for i in chosen]
            pictures, meshes = (np.stack(part) for part in zip(*placed, strict=True))
            found = [
                network(to_input(part).to(device))[0].cpu()
                for part in np.array_split(pictures, min(8, len(pictures)))
            ]
            results |= {f"{kind}_{k}": v for k, v in mesh_errors(torch.cat(found).numpy(), meshes).items()}
        return results


@dataclass(frozen=True, kw_only=True)
class ViewPlace:
    """How a view lies about its face; the default is the ideal view."""

    roll_deg: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False
    squeeze: float = 1.0
    """Width over height of what is shown, relative to the truth."""


@torch.inference_mode()
def calibrate(
    networks: FaceNetworks,
    bank: FaceBank,
    config: MeshTrainingConfig,
    background: Background,
    batches: int = 12,
) -> None:
    """Fit slope and offset of the confidence, so that it is a frequency (Platt 1999).

    On held-out people, and on what the finder proposes where there is no face.
    """
    networks.eval()
    config = replace(config, faceless_share=CALIBRATION_FACELESS_SHARE)
    logits, rights = [], []
    for number in range(batches):
        rng = step_rng(config.seed, 10**8 + number)
        views = draw_views(bank, config, rng, background, "val", networks.finder)
        found, sure = networks.mesh(to_input(views.pictures))
        refined = torch.from_numpy(refine_parts(networks.parts, views.pictures, found.float().numpy()))
        logits.append(sure.float())
        rights.append(views.are_right(refined))
    slope, offset = fit_platt(torch.cat(logits).double(), torch.cat(rights).double())
    networks.calibration.copy_(torch.tensor([slope, offset]))


@torch.inference_mode(False)
def fit_platt(logits: Tensor, rights: Tensor) -> tuple[float, float]:
    """The slope and offset under which sigmoid(slope * logit + offset) fits the outcomes best."""
    logits, rights = logits.clone(), rights.clone()
    values = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(values[0] * logits + values[1], rights)
        loss.backward()
        return loss

    optimizer.step(closure)
    return tuple(values.detach().tolist())


def off_68(found: Tensor, meshes: Tensor) -> Tensor:
    """Mean error of the 68 points in outer-eye distances, `n`."""
    true = torch.nan_to_num(meshes)
    outer = MESH_TO_68[list(OUTER_EYE_CORNERS)]
    unit = torch.linalg.vector_norm(true[:, outer[0], :2] - true[:, outer[1], :2], dim=-1).clamp(min=0.05)
    off = torch.linalg.vector_norm((found - true)[:, MESH_TO_68, :2], dim=-1).mean(1)
    return off / unit


@dataclass(frozen=True)
class DrawnViews:
    """What the network is asked, and what it should answer.

    pictures: `n 128 128 3` uint8; meshes: `n 478 3` in view sides from the centre; has_face: `n` bool;
    right_error: `n`, up to which error of the 68 points an answer counts as right.
    """

    pictures: np.ndarray
    meshes: Tensor
    has_face: Tensor
    right_error: Tensor

    def to(self, device: torch.device) -> DrawnViews:
        """The answers on a device."""
        return replace(
            self, **{name: getattr(self, name).to(device) for name in ("meshes", "has_face", "right_error")}
        )

    def are_right(self, found: Tensor) -> Tensor:
        """Which answers count as right, `n` bool; found: meshes `n 478 3`."""
        return self.has_face & (off_68(found, self.meshes) < self.right_error)


def draw_views(
    bank: FaceBank,
    config: MeshTrainingConfig,
    rng: np.random.Generator,
    background: Background,
    split: str = "train",
    finder: FaceFinder | None = None,
) -> DrawnViews:
    """A batch of views, placed and spoilt as they may come; finder: whose proposals are among those without a face."""
    pictures, meshes, has_face, right_error = [], [], [], []
    for _ in range(config.batch_size):
        has_face.append(bool(rng.random() >= config.faceless_share))
        right_error.append(RIGHT_ERROR)
        if not has_face[-1] and rng.random() < config.overturned_share:
            place = replace(draw_place(config, rng), roll_deg=rng.uniform(90, 270))
            picture, _ = place_view(bank, draw_kind(bank, config, rng, split), place)
            mesh = np.full((MESH_POINTS, 3), np.nan)
        elif not has_face[-1]:
            picture = _faceless_picture(bank, rng, background, split, FINDER_PX)
            if finder is not None and rng.random() < config.proposed_share:
                picture = _proposed_view(picture, finder, config, rng)
            picture = cv2.resize(picture, (MESH_PX, MESH_PX), interpolation=cv2.INTER_AREA)
            mesh = np.full((MESH_POINTS, 3), np.nan)
        else:
            index = draw_kind(bank, config, rng, split)
            picture, mesh = place_view(bank, index, draw_place(config, rng))
            if bank.view_kind[index] in DRAWN_KINDS:
                right_error[-1] = RIGHT_DRAWN_ERROR
        other = bank.scenes[rng.integers(len(bank.scenes))]
        if has_face[-1] and rng.random() < config.mouth_covered_share:
            picture = cover_mouth(picture, (mesh[:, :2] + 0.5) * MESH_PX, other, rng)
        elif rng.random() < config.covered_share:
            picture = cover_part(picture, other, rng)
        pictures.append(spoil(change_light(picture, rng), rng))
        meshes.append(mesh)
    return DrawnViews(
        np.stack(pictures),
        torch.from_numpy(np.stack(meshes)).float(),
        torch.tensor(has_face),
        torch.tensor(right_error),
    )


def draw_kind(bank: FaceBank, config: MeshTrainingConfig, rng: np.random.Generator, split: str) -> int:
    """Index of a view of a kind that is drawn by its share."""
    kinds = bank.views_of(split)
    shares = np.array([config.kind_shares[KINDS.index(kind)] for kind in kinds])
    kind = list(kinds)[rng.choice(len(kinds), p=shares / shares.sum())]
    return int(rng.choice(kinds[kind]))


def draw_place(config: MeshTrainingConfig, rng: np.random.Generator) -> ViewPlace:
    roll = rng.normal(0, 10) if rng.random() < 0.6 else rng.uniform(-1, 1) * config.max_roll_deg
    return ViewPlace(
        roll_deg=float(np.clip(roll, -config.max_roll_deg, config.max_roll_deg)),
        zoom=float(np.exp(rng.normal(0, config.zoom_sd))),
        shift=tuple(rng.normal(0, config.shift_sd, 2).tolist()),
        mirrored=bool(rng.random() < 0.5),
        squeeze=float(np.exp(rng.normal(0, 0.05))),
    )


def place_view(bank: FaceBank, index: int, place: ViewPlace) -> tuple[np.ndarray, np.ndarray]:
    """A stored view as the network sees it: `128 128 3` uint8, and the mesh in view sides from the centre."""
    picture, mesh = np.asarray(bank.views[index]), bank.meshes[index].astype(np.float64)
    if place.mirrored:
        picture = np.ascontiguousarray(picture[:, ::-1])
        mesh = mesh[canonical_mesh().mirror] * [-1, 1, 1] + [picture.shape[1], 0, 0]
    height = np.linalg.norm(mesh[FOREHEAD, :2] - mesh[CHIN, :2])
    scale = MESH_PX / (VIEW_FACE_HEIGHTS * height * place.zoom)
    middle = (mesh[:, :2].min(0) + mesh[:, :2].max(0)) / 2
    angle = np.deg2rad(place.roll_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * turn @ np.diag([np.sqrt(place.squeeze), 1 / np.sqrt(place.squeeze)])
    offset = MESH_PX * (0.5 + np.array(place.shift)) - linear @ middle
    warped = warp(picture, linear, offset, MESH_PX)
    moved = mesh[:, :2] @ linear.T + offset
    return warped, np.concatenate([moved / MESH_PX - 0.5, mesh[:, 2:] * scale / MESH_PX], 1)


def _faceless_picture(
    bank: FaceBank, rng: np.random.Generator, background: Background, split: str, size_px: int
) -> np.ndarray:
    if rng.random() < 0.3:
        return background(rng, size_px)
    picture = faceless_part(bank, rng, split)
    side = min(picture.shape[:2])
    return cv2.resize(picture[:side, :side], (size_px, size_px), interpolation=cv2.INTER_LINEAR)


@torch.inference_mode()
def _proposed_view(
    picture: np.ndarray, finder: FaceFinder, config: MeshTrainingConfig, rng: np.random.Generator
) -> np.ndarray:
    """What the finder takes for a face in a picture without one; the whole picture where it takes nothing for one."""
    found = finder(to_input(picture[None]).to(next(finder.parameters()).device))
    peaks = find_peaks(found, 0, MIN_PROPOSED_HEAT)
    if not peaks:
        return picture
    centre, height, roll, _ = peaks[rng.integers(len(peaks))]
    place, side = draw_place(config, rng), VIEW_FACE_HEIGHTS * height * len(picture)
    square = FaceSquare(
        centre * len(picture) + np.array(place.shift) * side,
        side * place.zoom,
        roll + float(np.deg2rad(0.3 * place.roll_deg)),
        place.mirrored,
    )
    return square.cut(picture)


def mesh_point_weights(config: MeshTrainingConfig) -> Tensor:
    """Weight of each mesh point in the loss, `478`."""
    weights = torch.full((MESH_POINTS,), 0.6)
    weights[torch.from_numpy(MESH_TO_68)] = 2.0
    weights[torch.from_numpy(MESH_TO_68[36:48])] = config.eye_weight
    weights[list(IRISES)] = config.eye_weight
    weights[torch.from_numpy(MESH_TO_68[48:])] = config.mouth_weight
    return weights


def mesh_losses(
    found: Tensor,
    sure: Tensor,
    views: DrawnViews,
    point_weights: Tensor,
    config: MeshTrainingConfig,
) -> dict[str, Tensor]:
    """Errors in outer-eye distances: points, depth where it is known, openings of lips and lids; confidence."""
    meshes, has_face = views.meshes, views.has_face
    true = torch.nan_to_num(meshes)
    outer = MESH_TO_68[list(OUTER_EYE_CORNERS)]
    unit = torch.linalg.vector_norm(true[:, outer[0], :2] - true[:, outer[1], :2], dim=-1).clamp(min=0.05)
    error = (found - true) / unit[:, None, None]
    weights = point_weights.to(found) / point_weights.mean()
    count = has_face.sum().clamp(min=1)
    points = _per_face(robust(error[..., :2]).sum(-1) * weights) * has_face
    known = has_face & torch.isfinite(meshes[..., 2]).all(1)
    depth = _per_face(robust(error[..., 2])) * known
    openings = _per_face(robust(_pair_vectors(error[..., :2])).sum(-1)) * has_face
    off = off_68(found, meshes).detach()
    right = views.are_right(found).float()
    confidence = F.binary_cross_entropy_with_logits(sure, right)
    losses = {
        "points": points.sum() / count,
        "depth": depth.sum() / known.sum().clamp(min=1),
        "openings": openings.sum() / count,
        "sure": confidence,
        "off68": (off * has_face).sum() / count,
    }
    total = losses["points"] + config.depth_weight * losses["depth"]
    total = total + config.opening_weight * losses["openings"] + config.sure_weight * confidence
    return {"loss": total} | losses


def robust(error: Tensor) -> Tensor:
    """Smooth L1: square below 2 % of the eye distance."""
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.02, reduction="none")


def _per_face(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def _pair_vectors(points: Tensor) -> Tensor:
    """Differences between upper and lower lip and lid points, `n 478 2` -> `n 7 2`."""
    upper, lower = MESH_TO_68[np.array(INNER_LIP_PAIRS + EYE_LID_PAIRS)].T
    return points[:, upper] - points[:, lower]


def mesh_errors(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Median error of the 68 points, mouth, eyes, irises (outer-eye distances); correlation of openings."""
    outer = MESH_TO_68[list(OUTER_EYE_CORNERS)]
    unit = np.linalg.norm(true[:, outer[0], :2] - true[:, outer[1], :2], axis=-1)
    off = np.linalg.norm(found[..., :2] - true[..., :2], axis=-1) / unit[:, None]
    parts = {"all68": MESH_TO_68, "mouth": MESH_TO_68[48:], "eyes": MESH_TO_68[36:48], "iris": list(IRISES)}
    errors = {f"error_{name}": float(np.median(off[:, index].mean(1))) for name, index in parts.items()}
    for name, opening in {"lip_gap": lip_gap, "eye_opening": eye_opening}.items():
        pairs = [opening(mesh[:, None, MESH_TO_68, :2])[:, 0] for mesh in (found, true)]
        if len(true) > 2:
            errors[f"{name}_r"] = float(np.corrcoef(*pairs)[0, 1])
    return errors


def draw_points(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A copy of the picture with its points marked."""
    shown = picture.copy()
    for x, y in np.round(points - 0.5).astype(int):
        cv2.circle(shown, (int(x), int(y)), 1, (0, 255, 0), -1)
    return shown
