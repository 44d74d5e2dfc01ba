"""Training of the person mask: parts of scenes about their person, with the teacher's mask."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from openloopy.face.crop import warp
from openloopy.face.mesh import CHIN, FOREHEAD
from openloopy.face.networks import MASK_PX, PersonMaskNet, to_input
from openloopy.models.weight_files import save_weights
from openloopy.training.face_bank import STEP_WEIGHTS, Background, FaceBank, step_rng
from openloopy.training.face_pictures import change_light, spoil
from openloopy.training.stats import write_numbers


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
        rng = step_rng(self.config.seed, step)
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
        write_numbers(path.with_suffix(".json"), self.evaluate(network))
        rng = step_rng(self.config.seed, 10**9)
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
        rng, device = step_rng(self.config.seed, 10**9 + 1), next(network.parameters()).device
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
