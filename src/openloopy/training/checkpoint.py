"""Atomic checkpoints: everything that the same command needs to go on as if it had never stopped."""

from __future__ import annotations

import os
import shutil
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


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint, keep: int = 1) -> None:
    """Write under a temporary name, flush to disk, then rename: the last good one is never lost.

    keep: how many there are in all; the older ones are named checkpoint-STEP.pt.
    """
    path = run_dir / CHECKPOINT_NAME
    temporary = path.with_name(CHECKPOINT_NAME + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(vars(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        last = "the last checkpoint is whole" if path.exists() else "there is no earlier one"
        raise OSError(
            f"the checkpoint of step {checkpoint.step} could not be written to {run_dir} ({error}); {last}. "
            "Make room on the disk, then the same command goes on"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    if keep > 1:
        _link(path, run_dir / f"checkpoint-{checkpoint.step:06d}.pt")
    kept = sorted(run_dir.glob("checkpoint-*.pt"))
    for old in kept[: len(kept) - keep if keep > 1 else len(kept)]:
        old.unlink()


def _link(path: Path, name: Path) -> None:
    """A second name for the file, or a copy where the file system knows no links."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)


def load_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The last checkpoint of this run, or None if there is none yet."""
    path = run_dir / CHECKPOINT_NAME
    if not path.exists():
        return None
    try:
        checkpoint = Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
        if type(checkpoint.step) is not int or checkpoint.step < 0:
            raise ValueError(f"step {checkpoint.step!r}")
        return checkpoint
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({error}); move it away to start this stage anew"
        ) from error
