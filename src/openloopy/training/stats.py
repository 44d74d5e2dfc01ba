"""The run's log: one JSON object a line in stats.jsonl, and the same to TensorBoard where it is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openloopy.models.weight_files import replacing

STATS_NAME = "stats.jsonl"


class StatsWriter:
    """Appends rows; on resume, rows of steps that will be done again are dropped first."""

    def __init__(self, run_dir: Path, first_step: int):
        self.path = run_dir / STATS_NAME
        kept = [row for row in read_stats(run_dir) if row["step"] < first_step]
        # Whoever is killed now has lost no row.
        with replacing(self.path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._board = _tensorboard(run_dir, first_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        row: dict[str, Any] = {"step": step} | {k: round(float(v), 7) for k, v in values.items()}
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def write_numbers(path: Path, numbers: Mapping[str, float | str]) -> None:
    """What was measured of a network, by name; null: it could not be (JSON has no NaN)."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }
    path.write_text(json.dumps(finite, indent=1) + "\n")


def read_stats(run_dir: Path) -> list[dict[str, Any]]:
    """All complete rows of a run; a half-written last line is ignored.

    Raises:
        ValueError: a line that no run has written.
    """
    path = run_dir / STATS_NAME
    if not path.exists():
        return []
    lines = path.read_text("utf-8", "replace").split("\n")
    return [_row(line, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line.endswith("}")]


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if type(row["step"]) is int:
            return row
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{place} is no row of a run's statistics: {line[:200]!r}; correct or remove it")


def _tensorboard(run_dir: Path, first_step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)
