"""Training of the part networks: eyes and mouth, cut out of views where the mesh network roughly has them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from openloopy.face.mesh import MESH_TO_68
from openloopy.face.movement import EYE_LID_PAIRS, INNER_LIP_PAIRS, OUTER_EYE_CORNERS
from openloopy.face.networks import MESH_PX, PART_PX, FaceParts, to_input
from openloopy.face.parts import Part, face_parts, refine_parts
from openloopy.face.square import FaceSquare
from openloopy.models.weight_files import save_weights
from openloopy.training.face_bank import STEP_WEIGHTS, Background, FaceBank, step_rng
from openloopy.training.face_mesh import (
    MeshTrainingConfig,
    ViewPlace,
    draw_points,
    draw_views,
    mesh_errors,
    place_view,
    robust,
)
from openloopy.training.stats import write_numbers


@dataclass(frozen=True, kw_only=True)
class PartsTrainingConfig:
    """How the part networks are trained."""

    views: MeshTrainingConfig = MeshTrainingConfig(faceless_share=0.0, mouth_covered_share=0.0)
    """Views and how they are spoilt; seed and batch size (of views) are theirs."""
    shift_sd: float = 0.07
    """How far off a part's square lies, in its sides, and how much too large or tilted it is."""
    zoom_sd: float = 0.08
    roll_sd_deg: float = 4.0
    opening_weight: float = 2.0

    @property
    def seed(self) -> int:
        return self.views.seed


class PartsTask:
    """`TrainTask` of both part networks."""

    def __init__(
        self, networks: FaceParts, bank: FaceBank, config: PartsTrainingConfig, background: Background
    ):
        self.network: nn.Module = networks.to(memory_format=torch.channels_last)
        self.bank, self.config, self.background = bank, config, background

    def describe(self) -> dict:
        return {"stage": "face.parts", "config": asdict(self.config), "data": self.bank.sha256}

    def losses(self, network: FaceParts, step: int) -> dict[str, Tensor]:
        rng, device = step_rng(self.config.seed, step), next(network.parameters()).device
        drawn = draw_views(self.bank, self.config.views, rng, self.background)
        views, in_px = drawn.pictures, (drawn.meshes.numpy()[..., :2] + 0.5) * MESH_PX
        losses = {}
        for name in ("eye", "mouth"):
            cuts, wanted, units = cut_parts(views, in_px, name, self.config, rng)
            found = getattr(network, name)(to_input(cuts).to(device)).float()
            error = (found - torch.from_numpy(wanted).to(device)) / torch.from_numpy(units).to(device)
            losses[name] = robust(error).sum(-1).mean()
            upper, lower = opening_pairs(name)
            losses[f"{name}_opening"] = robust(error[:, upper] - error[:, lower]).sum(-1).mean()
        opening = self.config.opening_weight * (losses["eye_opening"] + losses["mouth_opening"])
        return {"loss": losses["eye"] + losses["mouth"] + opening} | losses

    def sample(self, network: FaceParts, path: Path) -> None:
        write_numbers(path.with_suffix(".json"), self.evaluate(network))
        rng = step_rng(self.config.seed, 10**9)
        views = replace(self.config.views, batch_size=12)
        drawn = draw_views(self.bank, views, rng, self.background, "val")
        pictures, meshes = drawn.pictures, drawn.meshes
        rows = []
        for name in ("eye", "mouth"):
            in_px = (meshes.numpy()[..., :2] + 0.5) * MESH_PX
            cuts, _, _ = cut_parts(pictures, in_px, name, self.config, rng)
            with torch.inference_mode():
                found = getattr(network, name)(to_input(cuts).to(next(network.parameters()).device)).cpu()
            large = cuts[:12].repeat(2, axis=1).repeat(2, axis=2)
            drawn = [
                draw_points(cut, (points + 0.5) * 2 * PART_PX)
                for cut, points in zip(large, found.numpy(), strict=False)
            ]
            rows.append(np.concatenate(drawn, 1))
        Image.fromarray(np.concatenate(rows)).save(path.with_suffix(".png"))

    def export(self, network: FaceParts, folder: Path) -> None:
        save_weights(network, folder / STEP_WEIGHTS)

    @torch.inference_mode()
    def evaluate(self, network: FaceParts, count: int = 384) -> dict[str, float]:
        """Errors on held-out people in well-placed views, from meshes that are off as the mesh network's are."""
        results, rng = {}, step_rng(self.config.seed, 10**9 + 1)
        network = network.cpu()
        for kind, indices in self.bank.views_of("val").items():
            chosen = indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)]
            placed = [place_view(self.bank, int(i), ViewPlace()) for i in chosen]
            views, meshes = (np.stack(part) for part in zip(*placed, strict=True))
            start = meshes + rng.normal(0, 0.01, (len(meshes), 1, 3))
            found = refine_parts(network, views, start)
            errors = mesh_errors(found, meshes)
            results |= {f"{kind}_{k}": v for k, v in errors.items() if k != "error_all68"}
        return results


def cut_parts(
    views: np.ndarray, meshes: np.ndarray, network: str, config: PartsTrainingConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parts of views whose squares are a little off.

    Args:
        views: `n 128 128 3`; meshes: `n 478 2` px of them.

    Returns:
        Pictures `m 48 48 3`, points `m p 2` in sides from the centre, outer-eye distance `m 1 1` in sides; float32.
    """
    cuts, points, units = [], [], []
    for part in (part for part in face_parts() if part.network == network):
        for view, mesh in zip(views, meshes, strict=True):
            square = misplaced(part, mesh, config, rng)
            cuts.append(square.cut(view, PART_PX))
            points.append(square.points_in_cut(mesh[part.points]))
            left, right = MESH_TO_68[list(OUTER_EYE_CORNERS)]
            units.append(max(np.linalg.norm(mesh[left] - mesh[right]), 1.0) / square.side)
    return np.stack(cuts), np.float32(points), np.float32(units)[:, None, None]


def misplaced(
    part: Part, mesh: np.ndarray, config: PartsTrainingConfig, rng: np.random.Generator
) -> FaceSquare:
    """A part's square as it lies about a mesh that is not quite right."""
    true = part.square(mesh)
    return FaceSquare(
        centre=true.centre + rng.normal(0, config.shift_sd, 2) * true.side,
        side=float(true.side * np.exp(rng.normal(0, config.zoom_sd))),
        roll=true.roll + float(np.deg2rad(rng.normal(0, config.roll_sd_deg))),
        is_mirrored=true.is_mirrored,
    )


def opening_pairs(network: str) -> tuple[list[int], list[int]]:
    """Upper and lower lid or lip points, as places in the network's output."""
    part = next(part for part in face_parts() if part.network == network)
    places = {int(point): place for place, point in enumerate(part.points)}
    pairs = EYE_LID_PAIRS if network == "eye" else INNER_LIP_PAIRS
    both = [(int(MESH_TO_68[upper]), int(MESH_TO_68[lower])) for upper, lower in pairs]
    inside = [(places[upper], places[lower]) for upper, lower in both if upper in places and lower in places]
    upper, lower = zip(*inside, strict=True)
    return list(upper), list(lower)
