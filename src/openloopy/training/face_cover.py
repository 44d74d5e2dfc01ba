"""Training of the network that tells whether something lies over a mouth: masks, microphones, scarves, hands.

What covers them is drawn over faces whose landmarks are known (`training.covers`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from openloopy.face.covered import mouth_square
from openloopy.face.mesh import MESH_TO_68
from openloopy.face.networks import MESH_PX, PART_PX, CoverNet, to_input
from openloopy.face.square import FaceSquare
from openloopy.models.weight_files import save_weights
from openloopy.training.covers import cover_mouth
from openloopy.training.face_bank import STEP_WEIGHTS, Background, FaceBank, step_rng
from openloopy.training.face_mesh import MeshTrainingConfig, draw_kind, draw_place, place_view
from openloopy.training.face_pictures import change_light, cover_part, spoil
from openloopy.training.stats import write_numbers


@dataclass(frozen=True, kw_only=True)
class CoverTrainingConfig:
    """How the network is trained."""

    batch_size: int = 64
    seed: int = 0
    covered_share: float = 0.4
    elsewhere_share: float = 0.25
    """Views in which something lies anywhere else, or cuts the mouth's square a little."""
    views: MeshTrainingConfig = MeshTrainingConfig()
    """Of which kinds faces are, and how they lie."""
    shift_sd: float = 0.06
    zoom_sd: float = 0.1
    roll_sd_deg: float = 5.0


class CoverTask:
    """`TrainTask` of the network."""

    def __init__(
        self, network: CoverNet, bank: FaceBank, config: CoverTrainingConfig, background: Background
    ):
        self.network: nn.Module = network.to(memory_format=torch.channels_last)
        self.bank, self.config = bank, config

    def describe(self) -> dict:
        return {"stage": "face.cover", "config": asdict(self.config), "data": self.bank.sha256}

    def losses(self, network: CoverNet, step: int) -> dict[str, Tensor]:
        rng, device = step_rng(self.config.seed, step), next(network.parameters()).device
        cuts, is_covered = self._draw(rng, "train", self.config.batch_size)
        logits = network(to_input(cuts).to(device))
        wanted = torch.from_numpy(is_covered).float().to(device)
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
        return {"loss": loss, "right": ((logits > 0) == (wanted > 0.5)).float().mean().detach()}

    def sample(self, network: CoverNet, path: Path) -> None:
        write_numbers(path.with_suffix(".json"), self.evaluate(network))
        cuts, is_covered = self._draw(step_rng(self.config.seed, 10**9), "val", 48)
        cuts = np.concatenate([cuts[is_covered], cuts[~is_covered]])
        rows = [np.concatenate(part, 1) for part in np.array_split(cuts, 4)]
        Image.fromarray(np.concatenate(rows)).save(path.with_suffix(".png"))

    def export(self, network: CoverNet, folder: Path) -> None:
        save_weights(network, folder / STEP_WEIGHTS)

    @torch.inference_mode()
    def evaluate(self, network: CoverNet, count: int = 1024) -> dict[str, float]:
        """On held-out people: shares of covered mouths that are told, and of bare ones that pass for covered."""
        cuts, is_covered = self._draw(step_rng(self.config.seed, 10**9 + 1), "val", count)
        device = next(network.parameters()).device
        found = torch.cat([network(to_input(part).to(device)) for part in np.array_split(cuts, 8)])
        said = found.cpu().numpy() > 0
        return {"told": float(said[is_covered].mean()), "false": float(said[~is_covered].mean())}

    def _draw(self, rng: np.random.Generator, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Mouths `n 48 48 3` uint8, and which of them are covered, `n` bool."""
        cuts, is_covered = [], []
        for _ in range(count):
            index = draw_kind(self.bank, self.config.views, rng, split)
            picture, mesh = place_view(self.bank, index, draw_place(self.config.views, rng))
            mesh = (mesh[:, :2] + 0.5) * MESH_PX
            other = self.bank.scenes[rng.integers(len(self.bank.scenes))]
            is_covered.append(bool(rng.random() < self.config.covered_share))
            if is_covered[-1]:
                picture = cover_mouth(picture, mesh, other, rng)
            elif rng.random() < self.config.elsewhere_share:
                picture = _cover_elsewhere(picture, mesh, other, rng)
            picture = spoil(change_light(picture, rng), rng)
            cuts.append(self._misplaced(mesh, rng).cut(picture, PART_PX))
        return np.stack(cuts), np.array(is_covered)

    def _misplaced(self, mesh: np.ndarray, rng: np.random.Generator) -> FaceSquare:
        true, config = mouth_square(mesh), self.config
        return FaceSquare(
            centre=true.centre + rng.normal(0, config.shift_sd, 2) * true.side,
            side=float(true.side * np.exp(rng.normal(0, config.zoom_sd))),
            roll=true.roll + float(np.deg2rad(rng.normal(0, config.roll_sd_deg))),
            is_mirrored=bool(rng.random() < 0.5),
        )


def _cover_elsewhere(
    picture: np.ndarray, mesh: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Something that leaves the mouth bare."""
    covered = cover_part(picture, other, rng)
    lips = mesh[MESH_TO_68[48:]]
    x, y = np.clip(np.round(lips).astype(int), 0, len(picture) - 1).T
    is_over = np.abs(covered[y, x].astype(int) - picture[y, x]).sum(-1) > 12
    return picture if is_over.any() else covered
