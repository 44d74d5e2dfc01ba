"""Training of the finder: scenes composed of several pictures on backgrounds without faces."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from openloopy.face.crop import warp
from openloopy.face.mesh import CHIN, FOREHEAD
from openloopy.face.networks import (
    FINDER_PX,
    FINDER_STRIDE,
    FaceFinder,
    FinderOutput,
    find_peaks,
    to_input,
)
from openloopy.models.weight_files import save_weights
from openloopy.training.covers import cover_mouth
from openloopy.training.face_bank import STEP_WEIGHTS, Background, FaceBank, faceless_part, step_rng
from openloopy.training.face_pictures import change_light, spoil
from openloopy.training.stats import write_numbers


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
    mouth_covered_share: float = 0.06
    """Of pasted and whole pictures, those whose faces wear a mask or have something else over the mouth."""
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
        rng = step_rng(self.config.seed, step)
        scenes = [
            compose(self.bank, self.config, rng, self.background) for _ in range(self.config.batch_size)
        ]
        device = next(network.parameters()).device
        found = network(to_input(np.stack([picture for picture, _ in scenes])).to(device))
        targets = [x.to(device) for x in finder_targets([faces for _, faces in scenes])]
        return finder_losses(found, *targets, config=self.config)

    def sample(self, network: FaceFinder, path: Path) -> None:
        write_numbers(path.with_suffix(".json"), self.evaluate(network))
        rng = step_rng(self.config.seed, 10**9)
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
        rng, device = step_rng(self.config.seed, 10**9 + 1), next(network.parameters()).device
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
        picture, owner, placed = _full_scene(bank, int(rng.choice(scenes)), config, rng)
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
    bank: FaceBank, i: int, config: FinderTrainingConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, SceneFace]]]:
    width, height = bank.scene_sizes[i]
    scale = FINDER_PX / max(width, height) * rng.uniform(0.75, 1.3)
    linear = np.diag([scale * (-1 if rng.random() < 0.5 else 1), scale])
    angle = np.deg2rad(rng.normal(0, 8))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ linear
    offset = FINDER_PX / 2 - linear @ [width / 2, height / 2]
    picture = warp(_source(bank, i, config, rng), linear, offset, FINDER_PX)
    owner = np.zeros((FINDER_PX, FINDER_PX), int)
    return picture, owner, [(0, _moved_face(mesh, linear, offset)) for mesh in bank.scene_faces[i]]


def _source(bank: FaceBank, i: int, config: FinderTrainingConfig, rng: np.random.Generator) -> np.ndarray:
    """A scene's picture; at times something lies over its mouths."""
    width, height = bank.scene_sizes[i]
    picture = np.ascontiguousarray(bank.scenes[i][:height, :width])
    if rng.random() < config.mouth_covered_share:
        for mesh in bank.scene_faces[i]:
            other = bank.scenes[rng.integers(len(bank.scenes))]
            picture = cover_mouth(picture, mesh[:, :2], other, rng)
    return picture


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
    source = _source(bank, i, config, rng)
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
