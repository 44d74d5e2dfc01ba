"""Atomic checkpoints: everything that the same command needs to go on as if it had never stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_NAME = "checkpoint.pt"


@dataclass(frozen=True)
class Checkpoint:
    """step: steps done; the rest are state dicts."""

    step: int
    network: dict[str, Any]
    average: dict[str, Any]
    optimizer: dict[str, Any]


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint) -> None:
    """Write under a temporary name, flush to disk, then rename: the last good one is never lost."""
    temporary = run_dir / (CHECKPOINT_NAME + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(vars(checkpoint), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, run_dir / CHECKPOINT_NAME)


def load_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The last checkpoint of this run, or None if there is none yet."""
    path = run_dir / CHECKPOINT_NAME
    if not path.exists():
        return None
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({error}); move it away to start this stage anew"
        ) from error
