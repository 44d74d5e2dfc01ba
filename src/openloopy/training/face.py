"""Training of the face networks (`face.networks`) on a bank of labelled views and scenes.

The mesh network sees one face in a square that lies as badly as the finder and the tracker may place it; the finder
sees scenes composed of several pictures on backgrounds without faces; the mask sees scenes with their teacher's mask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

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
    FINDER_STRIDE,
    MASK_PX,
    MESH_PX,
    VIEW_FACE_HEIGHTS,
    FaceFinder,
    FaceNetworks,
    FinderOutput,
    MeshNet,
    PersonMaskNet,
    find_peaks,
    to_input,
)
from openloopy.models.weight_files import save_weights
from openloopy.training.face_pictures import change_light, cover_part, spoil
from openloopy.training.loop import step_generator

STEP_WEIGHTS = "weights.safetensors"
KINDS = ("portrait", "puppet", "footage", "drawn")
RIGHT_ERROR = 0.08
"""A face counts as right when its 68 points are off by less than this on average (outer-eye distances)."""
IRISES = tuple(range(468, MESH_POINTS))

Background = Callable[[np.random.Generator, int], np.ndarray]
"""A picture `size size 3` uint8 without any face; given by the recipe."""


@dataclass(frozen=True)
class FaceView:
    """A square about one face, `S S 3` uint8, and its mesh in px of it, `478 3` (depth NaN where unknown)."""

    picture: np.ndarray
    mesh: np.ndarray
    split: str
    kind: str
    person: str


@dataclass(frozen=True, kw_only=True)
class FaceBank:
    """Labelled views and scenes on disk, memory-mapped. Coordinates: px, the first pixel covers 0..1."""

    INDEX = "index.json"

    views: np.ndarray
    """`n S S 3` uint8."""
    meshes: np.ndarray
    """`n 478 3` px of the view."""
    view_split: np.ndarray
    view_kind: np.ndarray
    scenes: np.ndarray
    """`m T T 3` uint8; pictures lie at the top left."""
    scene_masks: np.ndarray
    """`m T T` uint8, 255 on the person."""
    scene_sizes: np.ndarray
    """`m 2`: width and height of the picture."""
    scene_split: np.ndarray
    scene_faces: tuple[np.ndarray, ...]
    """Per scene `k 478 3` px."""
    sha256: str

    @staticmethod
    def write_part(file: IO[bytes], views: list[FaceView], scenes: list[dict], reason: str) -> None:
        """One source's labels as .npz; `reason`: why there are none."""
        arrays = {
            "views": np.stack([v.picture for v in views]) if views else np.zeros((0, 1, 1, 3), np.uint8),
            "meshes": np.stack([v.mesh for v in views]) if views else np.zeros((0, MESH_POINTS, 3)),
            "about": np.array([[v.split, v.kind, v.person] for v in views], dtype=str).reshape(-1, 3),
            "scenes": np.stack([s["picture"] for s in scenes])
            if scenes
            else np.zeros((0, 1, 1, 3), np.uint8),
            "scene_masks": np.stack([s["mask"] for s in scenes]) if scenes else np.zeros((0, 1, 1), np.uint8),
            "scene_sizes": np.array([s["size"] for s in scenes], np.int64).reshape(-1, 2),
            "scene_split": np.array([s["split"] for s in scenes], dtype=str),
            "scene_counts": np.array([len(s["meshes"]) for s in scenes], np.int64),
            "scene_meshes": np.concatenate([s["meshes"] for s in scenes])
            if scenes
            else np.zeros((0, MESH_POINTS, 3)),
            "reason": np.array(reason),
        }
        np.savez(file, **arrays)

    @classmethod
    def write(cls, folder: Path, parts: list[Path]) -> None:
        """Joins the parts into arrays that can be memory-mapped."""
        small: dict[str, list] = {}
        counts = {"views": 0, "scenes": 0}
        sides = {}
        for path in parts:
            with np.load(path) as part:
                for name in counts:
                    counts[name] += len(part[name])
                    if len(part[name]):
                        sides[name] = part[name].shape[1]
                for name in ("meshes", "about", "scene_sizes", "scene_split", "scene_counts", "scene_meshes"):
                    small.setdefault(name, []).append(part[name])
                small.setdefault("reasons", []).append(np.array([str(part["reason"])]))
        if not counts["views"] or not counts["scenes"]:
            raise ValueError(f"not one face was found in {len(parts)} sources; look at the pictures")
        open_map = np.lib.format.open_memmap
        shapes = {
            "views": (counts["views"], sides["views"], sides["views"], 3),
            "scenes": (counts["scenes"], sides["scenes"], sides["scenes"], 3),
            "scene_masks": (counts["scenes"], sides["scenes"], sides["scenes"]),
        }
        for name, shape in shapes.items():
            stored = open_map(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
            at = 0
            for path in parts:
                with np.load(path) as part:
                    rows = part[name]
                if len(rows):
                    stored[at : at + len(rows)] = rows
                at += len(rows)
            stored.flush()
        np.savez(folder / "labels.npz", **{name: np.concatenate(rows) for name, rows in small.items()})
        (folder / cls.INDEX).write_text(json.dumps(counts | {"sources": len(parts)}) + "\n")

    @classmethod
    def open(cls, folder: Path) -> FaceBank:
        """Open what `write` made."""
        if not (folder / cls.INDEX).exists():
            raise ValueError(f"{folder} holds no finished face bank; make one with `openloopy label`")
        with np.load(folder / "labels.npz") as labels:
            about, counts = labels["about"], labels["scene_counts"]
            faces = np.split(labels["scene_meshes"], np.cumsum(counts)[:-1])
            digest = _digest(labels["meshes"])
            arrays = {
                "meshes": labels["meshes"].astype(np.float32),
                "scene_sizes": labels["scene_sizes"],
                "scene_split": labels["scene_split"],
            }
        maps = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("views", "scenes", "scene_masks")
        }
        return cls(
            **arrays,
            **maps,
            view_split=about[:, 0],
            view_kind=about[:, 1],
            scene_faces=tuple(faces),
            sha256=digest,
        )

    def views_of(self, split: str) -> dict[str, np.ndarray]:
        """Indices of the views of a split, by kind."""
        found = {
            kind: np.flatnonzero((self.view_split == split) & (self.view_kind == kind)) for kind in KINDS
        }
        return {kind: indices for kind, indices in found.items() if len(indices)}

    def scenes_of(self, split: str) -> np.ndarray:
        """Indices of the scenes of a split."""
        return np.flatnonzero(self.scene_split == split)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------------------------------
# the mesh


@dataclass(frozen=True, kw_only=True)
class MeshTrainingConfig:
    """How the mesh network is trained."""

    batch_size: int = 64
    seed: int = 0
    kind_shares: tuple[float, float, float, float] = (0.42, 0.36, 0.12, 0.1)
    """Of portraits, puppets, footage, drawn faces, where there are some."""
    faceless_share: float = 0.08
    """Views without a face; they train the confidence alone."""
    max_roll_deg: float = 35.0
    zoom_sd: float = 0.14
    shift_sd: float = 0.06
    """Of the view's side."""
    covered_share: float = 0.3
    mouth_weight: float = 4.0
    eye_weight: float = 4.0
    depth_weight: float = 0.3
    opening_weight: float = 2.0
    sure_weight: float = 0.05


class MeshTask:
    """`TrainTask` of the mesh network."""

    def __init__(self, network: MeshNet, bank: FaceBank, config: MeshTrainingConfig, background: Background):
        self.network: nn.Module = network.to(memory_format=torch.channels_last)
        self.bank, self.config, self.background = bank, config, background
        self.point_weights = mesh_point_weights(config)

    def describe(self) -> dict:
        return {"stage": "face.mesh", "config": asdict(self.config), "data": self.bank.sha256}

    def losses(self, network: MeshNet, step: int) -> dict[str, Tensor]:
        rng = _rng(self.config.seed, step)
        pictures, meshes, has_face = draw_views(self.bank, self.config, rng, self.background)
        device = next(network.parameters()).device
        found, sure = network(to_input(pictures).to(device))
        return mesh_losses(
            found.float(),
            sure.float(),
            meshes.to(device),
            has_face.to(device),
            self.point_weights,
            self.config,
        )

    def sample(self, network: MeshNet, path: Path) -> None:
        path.with_suffix(".json").write_text(json.dumps(self.evaluate(network), indent=1) + "\n")
        rng, config = _rng(self.config.seed, 10**9), replace(self.config, batch_size=24)
        pictures, _, _ = draw_views(self.bank, config, rng, self.background, "val")
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
    """Fit slope and offset of the confidence on held-out people, so that it is a frequency (Platt 1999)."""
    networks.mesh.eval()
    logits, rights = [], []
    for number in range(batches):
        pictures, meshes, has_face = draw_views(
            bank, config, _rng(config.seed, 10**8 + number), background, "val"
        )
        found, sure = networks.mesh(to_input(pictures))
        logits.append(sure.float())
        rights.append(has_face & (off_68(found.float(), meshes) < RIGHT_ERROR))
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


def draw_views(
    bank: FaceBank,
    config: MeshTrainingConfig,
    rng: np.random.Generator,
    background: Background,
    split: str = "train",
) -> tuple[np.ndarray, Tensor, Tensor]:
    """Pictures `n 128 128 3` uint8, meshes `n 478 3` in view sides from the centre, whether a face is there `n`."""
    kinds = bank.views_of(split)
    shares = np.array([config.kind_shares[KINDS.index(kind)] for kind in kinds])
    pictures, meshes, has_face = [], [], []
    for _ in range(config.batch_size):
        if rng.random() < config.faceless_share:
            picture, mesh = _faceless_view(bank, rng, background, split), np.full((MESH_POINTS, 3), np.nan)
            has_face.append(False)
        else:
            kind = list(kinds)[rng.choice(len(kinds), p=shares / shares.sum())]
            picture, mesh = place_view(bank, int(rng.choice(kinds[kind])), _draw_place(config, rng))
            has_face.append(True)
        if rng.random() < config.covered_share:
            picture = cover_part(picture, bank.scenes[rng.integers(len(bank.scenes))], rng)
        pictures.append(spoil(change_light(picture, rng), rng))
        meshes.append(mesh)
    return (
        np.stack(pictures),
        torch.from_numpy(np.stack(meshes)).float(),
        torch.tensor(has_face),
    )


def _draw_place(config: MeshTrainingConfig, rng: np.random.Generator) -> ViewPlace:
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


def _faceless_view(
    bank: FaceBank, rng: np.random.Generator, background: Background, split: str
) -> np.ndarray:
    if rng.random() < 0.3:
        return background(rng, MESH_PX)
    picture = faceless_part(bank, rng, split)
    side = min(picture.shape[:2])
    return cv2.resize(picture[:side, :side], (MESH_PX, MESH_PX), interpolation=cv2.INTER_AREA)


def faceless_part(bank: FaceBank, rng: np.random.Generator, split: str) -> np.ndarray:
    """A part of a scene that holds no face (clothes, hair, hands, walls), `h w 3` uint8."""
    scenes = bank.scenes_of(split)
    for _ in range(20):
        i = int(rng.choice(scenes))
        width, height = bank.scene_sizes[i]
        side = int(rng.uniform(0.12, 0.5) * min(width, height))
        x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        boxes = [(*m[:, :2].min(0), *m[:, :2].max(0)) for m in bank.scene_faces[i]]
        if all(x > x1 or x + side < x0 or y > y1 or y + side < y0 for x0, y0, x1, y1 in boxes):
            return np.ascontiguousarray(bank.scenes[i][y : y + side, x : x + side])
    return np.full((64, 64, 3), rng.integers(256), np.uint8)


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
    meshes: Tensor,
    has_face: Tensor,
    point_weights: Tensor,
    config: MeshTrainingConfig,
) -> dict[str, Tensor]:
    """Errors in outer-eye distances: points, depth where it is known, openings of lips and lids; confidence."""
    true = torch.nan_to_num(meshes)
    outer = MESH_TO_68[list(OUTER_EYE_CORNERS)]
    unit = torch.linalg.vector_norm(true[:, outer[0], :2] - true[:, outer[1], :2], dim=-1).clamp(min=0.05)
    error = (found - true) / unit[:, None, None]
    weights = point_weights.to(found) / point_weights.mean()
    count = has_face.sum().clamp(min=1)
    points = _per_face(_robust(error[..., :2]).sum(-1) * weights) * has_face
    known = has_face & torch.isfinite(meshes[..., 2]).all(1)
    depth = _per_face(_robust(error[..., 2])) * known
    openings = _per_face(_robust(_pair_vectors(error[..., :2])).sum(-1)) * has_face
    off = off_68(found, meshes).detach()
    right = (has_face & (off < RIGHT_ERROR)).float()
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


def _robust(error: Tensor) -> Tensor:
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


# --------------------------------------------------------------------------------------------------------------------
# the finder


@dataclass(frozen=True, kw_only=True)
class FinderTrainingConfig:
    """How the finder is trained."""

    batch_size: int = 24
    seed: int = 0
    max_faces: int = 3
    faceless_share: float = 0.15
    full_share: float = 0.3
    """Scenes that are one picture as it is, over the whole input."""
    face_height: tuple[float, float] = (0.05, 0.9)
    """Of pasted faces, as a share of the input's side; drawn uniformly in the logarithm."""
    max_roll_deg: float = 45.0
    parts: int = 3
    """Parts of pictures without a face strewn over a scene, at most."""
    geometry_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SceneFace:
    """A face in a composed scene: centre `2` and height as shares of the side, tilt in radians."""

    centre: np.ndarray
    height: float
    roll: float


class FinderTask:
    """`TrainTask` of the finder."""

    def __init__(
        self, network: FaceFinder, bank: FaceBank, config: FinderTrainingConfig, background: Background
    ):
        self.network: nn.Module = network.to(memory_format=torch.channels_last)
        self.bank, self.config, self.background = bank, config, background

    def describe(self) -> dict:
        return {"stage": "face.finder", "config": asdict(self.config), "data": self.bank.sha256}

    def losses(self, network: FaceFinder, step: int) -> dict[str, Tensor]:
        rng = _rng(self.config.seed, step)
        scenes = [
            compose(self.bank, self.config, rng, self.background) for _ in range(self.config.batch_size)
        ]
        device = next(network.parameters()).device
        found = network(to_input(np.stack([picture for picture, _ in scenes])).to(device))
        targets = [x.to(device) for x in finder_targets([faces for _, faces in scenes])]
        return finder_losses(found, *targets, config=self.config)

    def sample(self, network: FaceFinder, path: Path) -> None:
        path.with_suffix(".json").write_text(json.dumps(self.evaluate(network), indent=1) + "\n")
        rng = _rng(self.config.seed, 10**9)
        scenes = [compose(self.bank, self.config, rng, self.background, "val") for _ in range(12)]
        with torch.inference_mode():
            device = next(network.parameters()).device
            found = network(to_input(np.stack([picture for picture, _ in scenes])).to(device))
        drawn = []
        for i, (picture, _) in enumerate(scenes):
            shown = picture.copy()
            for centre, height, roll, _ in find_peaks(found, i, 0.4):
                along = np.array([np.sin(roll), -np.cos(roll)]) * height / 2
                ends = [tuple(np.round((centre + side * along) * FINDER_PX).astype(int)) for side in (-1, 1)]
                cv2.line(shown, *(tuple(int(v) for v in end) for end in ends), (0, 255, 0), 2)
            drawn.append(shown)
        rows = [np.concatenate(drawn[i : i + 6], 1) for i in (0, 6)]
        Image.fromarray(np.concatenate(rows)).save(path.with_suffix(".png"))

    def export(self, network: FaceFinder, folder: Path) -> None:
        save_weights(network, folder / STEP_WEIGHTS)

    @torch.inference_mode()
    def evaluate(self, network: FaceFinder, count: int = 192) -> dict[str, float]:
        """On composed scenes of held-out people: faces found, false ones per scene, errors of place and size."""
        rng, device = _rng(self.config.seed, 10**9 + 1), next(network.parameters()).device
        hits = num_faces = false = 0
        errors = []
        for _ in range(count // 16):
            scenes = [compose(self.bank, self.config, rng, self.background, "val") for _ in range(16)]
            found = network(to_input(np.stack([picture for picture, _ in scenes])).to(device))
            for i, (_, faces) in enumerate(scenes):
                left = find_peaks(found, i, 0.5)
                for face in faces:
                    near = [
                        j
                        for j, (centre, height, _, _) in enumerate(left)
                        if np.linalg.norm(centre - face.centre) < 0.4 * face.height
                        and 0.6 < height / face.height < 1.6
                    ]
                    num_faces += 1
                    if near:
                        centre, height, roll, _ = left.pop(near[0])
                        hits += 1
                        turn = np.rad2deg(abs((roll - face.roll + np.pi) % (2 * np.pi) - np.pi))
                        away = np.linalg.norm(centre - face.centre) / face.height
                        errors.append((away, abs(np.log(height / face.height)), turn))
                false += len(left)
        place, size, roll = np.median(errors, axis=0) if errors else (np.nan,) * 3
        return {
            "found": hits / max(num_faces, 1),
            "false_per_scene": false / (count // 16 * 16),
            "place_error": float(place),
            "log_size_error": float(size),
            "roll_error_deg": float(roll),
        }


def compose(
    bank: FaceBank,
    config: FinderTrainingConfig,
    rng: np.random.Generator,
    background: Background,
    split: str = "train",
) -> tuple[np.ndarray, list[SceneFace]]:
    """A scene `256 256 3` uint8 and the faces that can be seen in it."""
    scenes = bank.scenes_of(split)
    if rng.random() < config.full_share:
        picture, owner, placed = _full_scene(bank, int(rng.choice(scenes)), rng)
    else:
        picture = background(rng, FINDER_PX)
        owner = np.full((FINDER_PX, FINDER_PX), -1)
        for _ in range(rng.integers(config.parts + 1)):
            picture = _strew(picture, faceless_part(bank, rng, split), rng)
        count = 0 if rng.random() < config.faceless_share else rng.integers(1, config.max_faces + 1)
        placed = []
        for number in range(count):
            placed += _paste(bank, int(rng.choice(scenes)), picture, owner, number, config, rng)
    faces = [face for number, face in placed if _is_seen(face, owner, number)]
    return spoil(change_light(picture, rng), rng), faces


def _full_scene(
    bank: FaceBank, i: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, SceneFace]]]:
    width, height = bank.scene_sizes[i]
    scale = FINDER_PX / max(width, height) * rng.uniform(0.75, 1.3)
    linear = np.diag([scale * (-1 if rng.random() < 0.5 else 1), scale])
    angle = np.deg2rad(rng.normal(0, 8))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ linear
    offset = FINDER_PX / 2 - linear @ [width / 2, height / 2]
    picture = warp(np.ascontiguousarray(bank.scenes[i][:height, :width]), linear, offset, FINDER_PX)
    owner = np.zeros((FINDER_PX, FINDER_PX), int)
    return picture, owner, [(0, _moved_face(mesh, linear, offset)) for mesh in bank.scene_faces[i]]


def _paste(
    bank: FaceBank,
    i: int,
    picture: np.ndarray,
    owner: np.ndarray,
    number: int,
    config: FinderTrainingConfig,
    rng: np.random.Generator,
) -> list[tuple[int, SceneFace]]:
    """Draws scene i into the picture, whole or its person alone; returns its faces, with their number."""
    faces = bank.scene_faces[i]
    width, height = bank.scene_sizes[i]
    heights = [np.linalg.norm(m[FOREHEAD, :2] - m[CHIN, :2]) for m in faces]
    largest = max(heights, default=0.4 * min(width, height))
    wanted = np.exp(rng.uniform(*np.log(config.face_height))) * FINDER_PX
    angle = np.deg2rad(rng.uniform(-1, 1) * config.max_roll_deg * (rng.random() < 0.6))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.diag([-1 if rng.random() < 0.5 else 1, 1])
    linear = wanted / largest * turn @ mirror
    anchor = faces[0][:, :2].mean(0) if len(faces) else np.array([width, height]) / 2
    place = (
        rng.uniform(-0.02, 1.02, 2) * FINDER_PX
        if rng.random() < 0.5
        else rng.uniform(0.2, 0.8, 2) * FINDER_PX
    )
    offset = place - linear @ anchor
    source = np.ascontiguousarray(bank.scenes[i][:height, :width])
    cut_out = rng.random() < 0.5
    mask = (
        np.asarray(bank.scene_masks[i][:height, :width])
        if cut_out
        else np.full((height, width), 255, np.uint8)
    )
    if min(wanted, FINDER_PX) < 0.6 * largest:
        source = cv2.GaussianBlur(source, (0, 0), 0.35 * largest / wanted)
    centre = offset + linear @ [0.5, 0.5] - 0.5
    matrix = np.concatenate([linear, centre[:, None]], 1)
    size = (FINDER_PX, FINDER_PX)
    drawn = cv2.warpAffine(source, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR)[..., None].astype(np.float32) / 255
    picture[:] = np.round(drawn * alpha + picture * (1 - alpha)).astype(np.uint8)
    owner[alpha[..., 0] > 0.5] = number
    return [(number, _moved_face(mesh, linear, offset)) for mesh in faces]


def _strew(picture: np.ndarray, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = int(np.exp(rng.uniform(np.log(16), np.log(FINDER_PX))))
    part = cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR)
    x, y = rng.integers(-side // 2, FINDER_PX - side // 2, 2)
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + side, FINDER_PX), min(y + side, FINDER_PX)
    picture = picture.copy()
    picture[y0:y1, x0:x1] = part[y0 - y : y1 - y, x0 - x : x1 - x]
    return picture


def _moved_face(mesh: np.ndarray, linear: np.ndarray, offset: np.ndarray) -> SceneFace:
    points = (mesh[:, :2] @ linear.T + offset) / FINDER_PX
    down = points[CHIN] - points[FOREHEAD]
    return SceneFace(
        centre=(points[CHIN] + points[FOREHEAD]) / 2,
        height=float(np.linalg.norm(down)),
        roll=float(np.arctan2(-down[0], down[1])),
    )


def _is_seen(face: SceneFace, owner: np.ndarray, number: int) -> bool:
    """Whether most of a face lies in the scene and uncovered."""
    reach = 0.4 * face.height
    grid = np.linspace(-reach, reach, 7)
    x, y = (np.add.outer(grid, np.zeros(7)) + c for c in face.centre)
    cells = np.floor(np.stack([x, y.T], -1).reshape(-1, 2) * FINDER_PX).astype(int)
    inside = ((cells >= 0) & (cells < FINDER_PX)).all(1)
    cells = cells.clip(0, FINDER_PX - 1)
    return bool((inside & (owner[cells[:, 1], cells[:, 0]] == number)).mean() > 0.6)


def finder_targets(scenes: list[list[SceneFace]]) -> tuple[Tensor, Tensor, Tensor]:
    """Heat `n 1 c c`, geometry `n 5 c c` (offset, log size, cosine and sine of roll), weight of geometry `n 1 c c`."""
    cells = FINDER_PX // FINDER_STRIDE
    heat = np.zeros((len(scenes), 1, cells, cells), np.float32)
    geometry = np.zeros((len(scenes), 5, cells, cells), np.float32)
    weight = np.zeros_like(heat)
    rows, columns = np.mgrid[:cells, :cells]
    for n, faces in enumerate(scenes):
        for face in sorted(faces, key=lambda face: -face.height):
            x, y = face.centre * cells - 0.5
            spread = max(0.08 * face.height * cells, 0.6)
            distance = (columns - x) ** 2 + (rows - y) ** 2
            heat[n, 0] = np.maximum(heat[n, 0], np.exp(-distance / (2 * spread**2)))
            column, row = (int(np.clip(round(v), 0, cells - 1)) for v in (x, y))
            heat[n, 0, row, column] = 1
            near = (abs(columns - column) <= 1) & (abs(rows - row) <= 1)
            values = (x - columns, y - rows, np.log(face.height), np.cos(face.roll), np.sin(face.roll))
            for channel, value in enumerate(values):
                geometry[n, channel][near] = np.broadcast_to(value, near.shape)[near]
            weight[n, 0][near] = 0.3
            weight[n, 0, row, column] = 1
    return torch.from_numpy(heat), torch.from_numpy(geometry), torch.from_numpy(weight)


def finder_losses(
    found: FinderOutput, heat: Tensor, geometry: Tensor, weight: Tensor, *, config: FinderTrainingConfig
) -> dict[str, Tensor]:
    """Focal loss of the centres (CenterNet, eq. 1) and L1 of the geometry at them."""
    logits = found.heat
    p = torch.sigmoid(logits).clamp(1e-4, 1 - 1e-4)
    is_centre = heat.eq(1)
    focal = torch.where(is_centre, (1 - p) ** 2 * p.log(), (1 - heat) ** 4 * p**2 * (1 - p).log())
    centres = -focal.sum() / is_centre.sum().clamp(min=1)
    predicted = torch.cat([found.offset, found.log_size, found.roll], 1)
    scale = torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0], device=heat.device).reshape(1, 5, 1, 1)
    error = ((predicted - geometry).abs() * scale * weight).sum() / weight.sum().clamp(min=1)
    return {"loss": centres + config.geometry_weight * error, "centres": centres, "geometry": error}


# --------------------------------------------------------------------------------------------------------------------
# the mask


@dataclass(frozen=True, kw_only=True)
class MaskTrainingConfig:
    """How the mask network is trained."""

    batch_size: int = 24
    seed: int = 0
    new_background_share: float = 0.4
    edge_weight: float = 3.0
    """Weight of pixels that the teacher is unsure of or that lie at the outline."""


class MaskTask:
    """`TrainTask` of the person mask."""

    def __init__(
        self, network: PersonMaskNet, bank: FaceBank, config: MaskTrainingConfig, background: Background
    ):
        self.network: nn.Module = network.to(memory_format=torch.channels_last)
        self.bank, self.config, self.background = bank, config, background

    def describe(self) -> dict:
        return {"stage": "face.mask", "config": asdict(self.config), "data": self.bank.sha256}

    def losses(self, network: PersonMaskNet, step: int) -> dict[str, Tensor]:
        rng = _rng(self.config.seed, step)
        pairs = [self._draw(rng, "train") for _ in range(self.config.batch_size)]
        pictures, masks = (np.stack(part) for part in zip(*pairs, strict=True))
        device = next(network.parameters()).device
        logits = network(to_input(pictures).to(device))
        wanted = torch.from_numpy(masks)[:, None].to(device).float() / 255
        edge = F.max_pool2d(wanted, 7, 1, 3) + F.max_pool2d(-wanted, 7, 1, 3)
        weight = 1 + (self.config.edge_weight - 1) * edge
        loss = (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).mean()
        off = (torch.sigmoid(logits) - wanted).abs().mean().detach()
        return {"loss": loss, "off": off}

    def sample(self, network: PersonMaskNet, path: Path) -> None:
        path.with_suffix(".json").write_text(json.dumps(self.evaluate(network), indent=1) + "\n")
        rng = _rng(self.config.seed, 10**9)
        pictures, masks = (
            np.stack(part) for part in zip(*(self._draw(rng, "val") for _ in range(8)), strict=True)
        )
        with torch.inference_mode():
            found = torch.sigmoid(network(to_input(pictures).to(next(network.parameters()).device)))
        shown = [(255 * found[:, 0].cpu().numpy()).astype(np.uint8), masks]
        rows = [pictures, *(np.repeat(part[..., None], 3, -1) for part in shown)]
        Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows])).save(
            path.with_suffix(".png")
        )

    def export(self, network: PersonMaskNet, folder: Path) -> None:
        save_weights(network, folder / STEP_WEIGHTS)

    @torch.inference_mode()
    def evaluate(self, network: PersonMaskNet, count: int = 96) -> dict[str, float]:
        """Against the teacher on held-out people: intersection over union, mean difference."""
        rng, device = _rng(self.config.seed, 10**9 + 1), next(network.parameters()).device
        overlaps, off = [], []
        for _ in range(count // 8):
            pairs = [self._draw(rng, "val") for _ in range(8)]
            pictures, masks = (np.stack(part) for part in zip(*pairs, strict=True))
            found = torch.sigmoid(network(to_input(pictures).to(device)))[:, 0].cpu().numpy()
            for ours, true in zip(found, masks / 255, strict=True):
                both, either = (ours > 0.5) & (true > 0.5), (ours > 0.5) | (true > 0.5)
                overlaps.append(both.sum() / max(either.sum(), 1))
                off.append(abs(ours - true).mean())
        return {"iou": float(np.median(overlaps)), "difference": float(np.mean(off))}

    def _draw(self, rng: np.random.Generator, split: str) -> tuple[np.ndarray, np.ndarray]:
        """A square part of a scene about its person, and the teacher's mask of it."""
        i = int(rng.choice(self.bank.scenes_of(split)))
        width, height = self.bank.scene_sizes[i]
        faces = self.bank.scene_faces[i]
        if len(faces):
            tall = np.linalg.norm(faces[0][FOREHEAD, :2] - faces[0][CHIN, :2])
            side, centre = rng.uniform(1.6, 2.6) * tall, faces[0][:, :2].mean(0)
        else:
            side, centre = rng.uniform(0.7, 1.0) * min(width, height), np.array([width, height]) / 2
        centre = centre + rng.normal(0, 0.04, 2) * side
        scale = MASK_PX / side
        angle = np.deg2rad(rng.normal(0, 6))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = scale * turn @ np.diag([-1 if rng.random() < 0.5 else 1, 1])
        offset = MASK_PX / 2 - linear @ centre
        picture = warp(np.ascontiguousarray(self.bank.scenes[i][:height, :width]), linear, offset, MASK_PX)
        mask = warp(np.ascontiguousarray(self.bank.scene_masks[i][:height, :width]), linear, offset, MASK_PX)
        if split == "train" and rng.random() < self.config.new_background_share:
            alpha = mask[..., None].astype(np.float32) / 255
            picture = np.round(picture * alpha + self.background(rng, MASK_PX) * (1 - alpha)).astype(np.uint8)
        return (spoil(change_light(picture, rng), rng) if split == "train" else picture), mask


def draw_points(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A copy of the picture with its points marked."""
    shown = picture.copy()
    for x, y in np.round(points - 0.5).astype(int):
        cv2.circle(shown, (int(x), int(y)), 1, (0, 255, 0), -1)
    return shown


def _rng(seed: int, step: int) -> np.random.Generator:
    generator = step_generator(seed, step)
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
