"""`sync`: the lip-sync network that comes with the package, trained on puppets' landmarks and synthetic speech.

    openloopy puppet --portraits DIR CORPUS --num-clips 1   # its gate finds the face meshes; drawn faces do too
    openloopy prepare FOOTAGE SHARDS                        # optional: filmed speakers, the `train` split
    openloopy train sync --data CORPUS --data SHARDS --run runs/sync   # writes runs/sync/lip_sync.safetensors

Hardware: two CPU cores (about half an hour, two thirds of it for the bank), or any GPU (`--set loop.device=cuda`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from openloopy.data.clips import decode_sound
from openloopy.data.shards import read_shards
from openloopy.media.files import only_maker
from openloopy.puppet.augment import augment
from openloopy.recipes.sync_bank import SyncBankConfig, build_sync_bank, corpus_meshes
from openloopy.training.loop import LoopConfig, train
from openloopy.training.optim import OptimConfig
from openloopy.training.sync import FilmedClip, SyncTask, SyncTrainingConfig


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """The bank, the batches and the loop."""

    bank: SyncBankConfig = SyncBankConfig(num_utterances=2000)
    held_out: SyncBankConfig = SyncBankConfig(num_utterances=100)
    training: SyncTrainingConfig = SyncTrainingConfig()
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            # With 1500 steps it had learned its clips by heart (docs/log.md, entry 23).
            num_steps=600,
            optim=OptimConfig(learning_rate=1e-3, ema_decay=0.995, decay_fraction=0.0, max_grad_norm=5.0),
            checkpoint_every=200,
            sample_every=200,
        )
    )


@dataclass(frozen=True, kw_only=True)
class SyncLine:
    """The one step of this line."""

    sync: SyncConfig


def sync() -> SyncConfig:
    """The configuration of the network that comes with the package."""
    return SyncConfig()


def train_sync(config: SyncConfig, folders: Sequence[Path], run: Path) -> None:
    """Banks from the people of the first folder (a puppet corpus), training on them and on the other folders' clips."""
    corpus, *footage = folders
    banks = {
        split: build_sync_bank(bank, corpus_meshes(corpus, bank, split), split, run / f"bank-{split}.npz")
        for split, bank in (("train", config.bank), ("val", config.held_out))
    }
    filmed = [
        FilmedClip(sample.arrays["points68"], decode_sound(sample.flac))
        for folder in footage
        for sample in read_shards(folder, "train")
        if sample.record.is_footage
    ]
    torch.manual_seed(config.training.seed)
    task = SyncTask(banks["train"], banks["val"], filmed, config=config.training, augment=augment)
    with only_maker(run):
        train(task, config.loop, run)
