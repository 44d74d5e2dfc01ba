"""A stage of the tiny model on a synthetic cache, as a program: what the tests of several processes start.

torchrun --nproc-per-node 2 -m tests.training.tiny_stage CACHE RUN '{"stage": 2, ...}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from openloopy.data.batch import BatchConfig
from openloopy.data.cache import AUDIO_MARGIN, LatentCache, latent_cache_writer, open_latent_cache
from openloopy.models.loopy import LoopyModel
from openloopy.recipes.line import picture_model
from openloopy.recipes.tiny import loopy_config
from openloopy.training.denoise import DenoiseTask
from openloopy.training.loop import LoopConfig, train
from openloopy.training.optim import OptimConfig
from openloopy.training.stages import DropoutConfig, StageConfig
from tests.data.synthetic import make_sample

BATCH, STEPS = 4, 6


def write_cache(folder: Path) -> LatentCache:
    """Three clips of noise that the tiny model fits."""
    rng = np.random.default_rng(0)
    with latent_cache_writer(folder, size_px=64, source_sha256="") as writer:
        for i, n in enumerate((40, 150, 60)):
            arrays = {
                "latents": rng.normal(size=(n, 4, 8, 8)).astype(np.float16),
                "audio": rng.normal(size=(n + 2 * AUDIO_MARGIN, 2, 32)).astype(np.float16),
                "points68": rng.uniform(16, 48, (n, 68, 2)).astype(np.float32),
                "lip_gap": np.zeros(n, np.float32),
            }
            writer.add_clip(make_sample(f"clip-{i}", num_frames=n).record, arrays)
    return open_latent_cache(folder)


class DyingTask(DenoiseTask):
    """Kills its process, as a machine does that fails."""

    dies_at: tuple[int, int] | None = None
    """Step and rank."""

    def losses(self, network, step, *piece):
        if self.dies_at == (step, int(os.environ.get("RANK", "0"))):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().losses(network, step, *piece)


def run_stage(cache: LatentCache, run: Path, settings: dict) -> None:
    """settings: `stage`, `dies_at` and fields of LoopConfig."""
    torch.manual_seed(0)
    stage, dies_at = settings.pop("stage", 2), settings.pop("dies_at", None)
    network = LoopyModel(loopy_config() if stage == 2 else picture_model(loopy_config()))
    # So often that a process now and then sees no reference at all while the other one does.
    dropout = DropoutConfig(reference=0.5)
    config = StageConfig(number=stage, batch_size=BATCH, batch=BatchConfig(), dropout=dropout)
    task = DyingTask(network, cache, config, preview=lambda net, path: path.with_suffix(".txt").touch())
    task.dies_at = tuple(dies_at) if dies_at else None
    loop = LoopConfig(
        num_steps=STEPS,
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2, ema_decay=0.9),
        log_every=1,
        checkpoint_every=2,
        sample_every=STEPS,
        precision="float32",
    )
    train(task, replace(loop, **settings), run)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_stage(open_latent_cache(Path(sys.argv[1])), Path(sys.argv[2]), json.loads(sys.argv[3]))
