"""A small network that reads lip gap and eye opening from latents, and the loss that it gives the denoiser.

Own design [D]: squared error on latents spreads its care over all appearance; whether the lips are open is a small part
of it. With the probe, stage 2 is also told how far the state of mouth and eyes in its x_0 is from the true one
(compare the sync losses of Wav2Lip, Prajwal et al. 2020). The probe is trained before, on true latents with noise, and
frozen; it is not part of the model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openloopy.data.batch import BatchConfig, sample_frame_batch
from openloopy.data.cache import LatentCache
from openloopy.models.weight_files import save_weights
from openloopy.training.loop import step_generator

PROBE_WEIGHTS = "probe.safetensors"
NUM_STATES = 2
"""Lip gap and eye opening, in outer-eye distances."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How the probe is built and trained."""

    width: int = 32
    batch_size: int = 64
    noise_max: float = 0.5
    """Noise on the latents it learns from, in standard deviations, drawn uniformly up to this."""
    seed: int = 0
    batch: BatchConfig = BatchConfig()


class StateProbe(nn.Module):
    """Latents `n c h w` -> lip gap and eye opening `n 2`, in units of their standard deviation over the data."""

    def __init__(self, latent_channels: int, width: int, side: int):
        """side: of the latents' grid."""
        super().__init__()
        coarse = (side + 3) // 4  # two strided convolutions, each rounding up
        self.layers = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * coarse**2, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, NUM_STATES),
        )
        self.register_buffer("mean", torch.zeros(NUM_STATES))
        self.register_buffer("sd", torch.ones(NUM_STATES))

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)

    def standardised(self, states: Tensor) -> Tensor:
        """True states `... 2` in the units that the probe answers in."""
        return (states - self.mean) / self.sd


class ProbeTask:
    """`TrainTask` of the probe."""

    def __init__(self, cache: LatentCache, held_out: LatentCache, config: ProbeConfig):
        channels, side = cache.arrays["latents"].shape[1:3]
        probe = StateProbe(channels, config.width, side)
        states = sample_frame_batch(cache, seed=0, step=0, batch_size=512, config=config.batch).states
        probe.mean.copy_(states.mean(0))
        probe.sd.copy_(states.std(0) + 1e-6)
        self.network: nn.Module = probe
        self.cache, self.held_out, self.config = cache, held_out, config

    def describe(self) -> dict:
        return {"stage": "probe", "config": asdict(self.config), "data": asdict(self.cache.info)}

    def losses(self, network: StateProbe, step: int) -> dict[str, Tensor]:
        config, generator = self.config, step_generator(self.config.seed, step)
        batch = sample_frame_batch(
            self.cache, seed=config.seed, step=step, batch_size=config.batch_size, config=config.batch
        ).to(next(network.parameters()).device)
        scale = torch.rand(len(batch.latents), 1, 1, 1, generator=generator) * config.noise_max
        noise = torch.randn(batch.latents.shape, generator=generator) * scale
        read = network(batch.latents + noise.to(batch.latents.device)).float()
        return {"loss": F.smooth_l1_loss(read, network.standardised(batch.states))}

    def sample(self, network: StateProbe, path: Path) -> None:
        """Correlation of what is read with the truth, on held-out people."""
        path.with_suffix(".json").write_text(json.dumps(self.evaluate(network), indent=1) + "\n")

    def export(self, network: StateProbe, folder: Path) -> None:
        save_weights(network, folder / PROBE_WEIGHTS)

    @torch.inference_mode()
    def evaluate(self, network: StateProbe) -> dict[str, float]:
        batch = sample_frame_batch(self.held_out, seed=1, step=0, batch_size=512, config=self.config.batch)
        device = next(network.parameters()).device
        read, true = network(batch.latents.to(device)).float().cpu().numpy(), batch.states.numpy()
        names = ("lip_gap_correlation", "eye_opening_correlation")
        return {name: float(np.corrcoef(read[:, i], true[:, i])[0, 1]) for i, name in enumerate(names)}


def state_loss(probe: StateProbe, x_0: Tensor, states: Tensor) -> Tensor:
    """Mean error of the states that the probe reads from predicted latents, per sample: `b f c h w`, `b f 2` -> `b`."""
    read = probe(x_0.float().flatten(0, 1)).unflatten(0, x_0.shape[:2])
    return F.smooth_l1_loss(read.float(), probe.standardised(states), reduction="none").flatten(1).mean(1)
