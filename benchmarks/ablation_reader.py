"""Eyes for the ablation's latents: lip gap, eye opening and place of the nose, read without drawing pictures.

The small codec's decoder hardly moves lids, and to draw every frame of an hour of video takes long; the latents hold
what is asked. So a network of its own, which no denoiser has learned from, reads them beside the portrait's. How well
it reads people's minutes of other speech is part of the result (`accuracy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from openloopy.data.cache import LatentCache
from openloopy.face.movement import NOSE_TIP, eye_distance, eye_opening, lip_gap
from openloopy.measures.motion import blinks
from openloopy.measures.sync import pearson
from openloopy.media.video import FPS
from openloopy.models.weight_files import save_weights

NAMES = ("lip_gap", "eye_opening", "nose_x", "nose_y")
"""In outer-eye distances: lip gap and lids in the clip's mean one, the nose's place in the portrait's."""
WIDTH = 48
STEPS, BATCH = 3000, 96
LEARNING_RATE = 2e-3
NOISE_MAX = 0.3
SHUT_SHARE = 0.25
"""Of the frames of a batch, drawn from the tenth of their clip with the most closed eyes: blinks are rare."""


class LatentReader(nn.Module):
    """A frame's latents and the portrait's, each `n c h w` -> `NAMES`, `n 4`, in standard deviations of the data."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * channels, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * WIDTH * ((side + 1) // 2) ** 2, 4 * WIDTH),
            nn.SiLU(),
            nn.Linear(4 * WIDTH, len(NAMES)),
        )
        self.register_buffer("mean", torch.zeros(len(NAMES)))
        self.register_buffer("sd", torch.ones(len(NAMES)))

    def forward(self, latents: Tensor, portrait: Tensor) -> Tensor:
        return self.layers(torch.cat([latents, portrait], 1))

    @torch.inference_mode()
    def read(self, latents: Tensor, portrait: Tensor) -> np.ndarray:
        """A video's latents `f c h w`, the portrait's `1 c h w` -> `f 4`, in eye distances."""
        parts = [self(few, portrait.expand(len(few), -1, -1, -1)) for few in latents.split(256)]
        return (torch.cat(parts) * self.sd + self.mean).cpu().numpy()


@dataclass(frozen=True)
class Clip:
    """A clip that the reader learns from: latents `f c h w`, and what is true of it, `f 4`."""

    latents: np.ndarray
    states: np.ndarray


def true_states(points: np.ndarray) -> np.ndarray:
    """`NAMES` of landmarks `f 68 2`, the first being the portrait's: `f 4`."""
    nose = points[:, NOSE_TIP] / eye_distance(points[:1])
    return np.concatenate([np.stack([lip_gap(points), eye_opening(points)], -1), nose], -1)


def reader(cache: LatentCache, folder: Path) -> LatentReader:
    """The reader of a cache's latents: trained on first use -> folder/reader.safetensors."""
    channels, side = cache.arrays["latents"].shape[1:3]
    torch.manual_seed(0)
    network, path = LatentReader(channels, side), folder / "reader.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval().requires_grad_(False)
    clips = [
        Clip(cache.rows("latents", i), true_states(cache.rows("points68", i))) for i in range(len(cache))
    ]
    every = np.concatenate([clip.states for clip in clips])
    network.mean.copy_(torch.from_numpy(every.mean(0)))
    network.sd.copy_(torch.from_numpy(every.std(0)))
    _train(network, clips)
    save_weights(network, path)
    return network.eval().requires_grad_(False)


def accuracy(network: LatentReader, cache: LatentCache) -> dict[str, dict[str, float]]:
    """How well it reads true latents of a cache's people, by person: correlations, and blinks beside the true ones."""
    found = {}
    for i, record in enumerate(cache.records):
        latents = torch.from_numpy(np.array(cache.rows("latents", i))).float()
        read, true = network.read(latents, latents[:1]), true_states(cache.rows("points68", i))
        found[record.person_id] = {
            **{name: pearson(read[:, k], true[:, k]) for k, name in enumerate(NAMES)},
            "blinks": float(len(blinks(read[:, 1], FPS))),
            "blinks_truth": float(len(blinks(true[:, 1], FPS))),
        }
    return found


def _train(network: LatentReader, clips: Sequence[Clip]) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    shut = [np.argsort(clip.states[:, 1])[: max(len(clip.states) // 10, 1)] for clip in clips]
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - step / STEPS))
        rng = np.random.default_rng([0, step])
        chosen = rng.integers(len(clips), size=BATCH)
        frames = [
            rng.choice(shut[i]) if rng.random() < SHUT_SHARE else rng.integers(len(clips[i].states))
            for i in chosen
        ]
        drawn = [(clips[i], frame) for i, frame in zip(chosen, frames, strict=True)]
        latents = torch.from_numpy(np.stack([clip.latents[frame] for clip, frame in drawn])).float()
        portraits = torch.from_numpy(np.stack([clip.latents[0] for clip, _ in drawn])).float()
        states = torch.from_numpy(np.stack([clip.states[frame] for clip, frame in drawn])).float()
        generator = torch.Generator().manual_seed(step)
        scale = NOISE_MAX * torch.rand(BATCH, 1, 1, 1, generator=generator)
        noisy = latents + scale * torch.randn(latents.shape, generator=generator)
        loss = F.smooth_l1_loss(network(noisy, portraits), (states - network.mean) / network.sd)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 500 == 0:
            print(f"reader: step {step}, loss {loss.item():.4f}", flush=True)
