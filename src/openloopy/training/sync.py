"""Training of the lip-sync network: of many sounds at many shifts, lips must find their own.

Source: contrastive learning over shifts and other clips (InfoNCE, van den Oord et al. 2018); SyncNet (Chung & Zisserman
2016) learned from pairs. Lips are spoilt as trackers spoil them, sounds as recordings do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from openloopy.measures.lip_sync import (
    MAX_SHIFT_FRAMES,
    SAMPLES_PER_FRAME,
    WEIGHTS_NAME,
    LipSyncNetwork,
    evidence,
    lip_features,
    lip_sync,
    log_mel,
    save_lip_sync,
)
from openloopy.training.loop import step_generator
from openloopy.training.stats import write_numbers

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class SyncBank:
    """Clips of equal length. waveforms: `num f*640` int16 at 16 kHz; points: `num f 68 2` px."""

    waveforms: np.ndarray
    points: np.ndarray

    def __post_init__(self) -> None:
        if self.waveforms.shape != (len(self.points), self.points.shape[1] * SAMPLES_PER_FRAME):
            raise ValueError(
                f"a sync bank needs 640 samples per frame, got {self.waveforms.shape} and {self.points.shape}"
            )

    def sound(self, i: int) -> np.ndarray:
        """`f*640` float32."""
        return self.waveforms[i].astype(np.float32) / 32768


@dataclass(frozen=True)
class FilmedClip:
    """points: `f 68 2` px; waveform: `f*640` float32."""

    points: np.ndarray
    waveform: np.ndarray


@dataclass(frozen=True, kw_only=True)
class SyncTrainingConfig:
    """Batches, and how they are spoilt."""

    batch_size: int = 32
    frames: tuple[int, int] = (25, 45)
    """Frames of lips that must do, drawn for each batch."""
    filmed_share: float = 0.3
    """Of each batch, where there is footage."""
    seed: int = 0
    augment_share: float = 0.8
    neighbour_share: float = 0.1
    """Of the target that each frame beside the true shift gets: nobody's lips are exact to a frame."""
    jitter: tuple[float, float] = (0.002, 0.015)
    """Tracker's noise, eye distances, rms."""
    gain: tuple[float, float] = (0.35, 1.4)


class SyncTask:
    """`TrainTask` of the lip-sync network."""

    def __init__(
        self,
        train: SyncBank,
        held_out: SyncBank,
        filmed: Sequence[FilmedClip],
        *,
        config: SyncTrainingConfig,
        augment: Augment,
    ) -> None:
        """filmed: real clips that are mixed in; those too short for `config.frames` are left out."""
        self.network: nn.Module = LipSyncNetwork()
        least = config.frames[1] + 2 * MAX_SHIFT_FRAMES
        self.filmed = [clip for clip in filmed if len(clip.points) >= least]
        self.train_bank, self.held_out, self.config, self.augment = train, held_out, config, augment

    def describe(self) -> dict:
        counts = {"utterances": len(self.train_bank.points), "filmed": len(self.filmed)}
        return {"stage": "sync", "config": asdict(self.config)} | counts

    def losses(self, network: nn.Module, step: int) -> dict[str, Tensor]:
        generator = step_generator(self.config.seed, step)
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        lips, mel = self._draw(rng)
        device = next(network.parameters()).device
        seen, heard = network(lips.to(device), mel.to(device))
        logits = network.scale * evidence(seen, heard, MAX_SHIFT_FRAMES).float()
        return contrastive_losses(logits, self.config.neighbour_share)

    def sample(self, network: nn.Module, path: Path) -> None:
        write_numbers(path.with_suffix(".json"), self.evaluate(network))

    def export(self, network: nn.Module, folder: Path) -> None:
        save_lip_sync(network, folder / WEIGHTS_NAME)
        write_numbers(folder / "held_out.json", self.evaluate(network))

    def evaluate(self, network: nn.Module, seconds: float = 3.0) -> dict[str, float]:
        """Unseen people, voices and sentences, spoilt: shifts found, and true pairs told from swapped ones."""
        network, rng = network.cpu().eval(), np.random.default_rng(self.config.seed)
        frames, count = round(25 * seconds), len(self.held_out.points)
        points = [spoil_points(p[:frames], self.config, rng) for p in self.held_out.points]
        sounds = [self.held_out.sound(i)[: frames * SAMPLES_PER_FRAME] for i in range(count)]
        true = [lip_sync(points[i], sounds[i], network=network) for i in range(count)]
        swapped = [lip_sync(points[i], sounds[i - 1], network=network) for i in range(count)]
        wins = [t.score > s.score for t in true for s in swapped]
        return {
            "offset_within_1": float(np.mean([abs(t.offset_frames) <= 1 for t in true])),
            "true_above_swapped": float(np.mean(wins)),
            "score_true": float(np.median([t.score for t in true])),
            "score_swapped": float(np.median([s.score for s in swapped])),
        }

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Lips `b f 50`, and the sound from MAX_SHIFT_FRAMES before to as many after, `b 4(f+30) 40`."""
        frames = int(rng.integers(self.config.frames[0], self.config.frames[1] + 1))
        lips, mels = [], []
        for clip in self._draw_clips(rng):
            first = int(rng.integers(MAX_SHIFT_FRAMES, len(clip.points) - MAX_SHIFT_FRAMES - frames + 1))
            start, stop = first - MAX_SHIFT_FRAMES, first + frames + MAX_SHIFT_FRAMES
            sound = clip.waveform[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
            if rng.random() < self.config.augment_share:
                sound = self.augment(sound, rng)
            mels.append(log_mel(sound))
            points = spoil_points(clip.points[first : first + frames], self.config, rng)
            lips.append(lip_features(points) * np.float32(rng.uniform(*self.config.gain)))
        return torch.from_numpy(np.stack(lips)), torch.from_numpy(np.stack(mels))

    def _draw_clips(self, rng: np.random.Generator) -> list[FilmedClip]:
        """Different ones, puppets and filmed."""
        num_filmed = min(round(self.config.filmed_share * self.config.batch_size), len(self.filmed))
        num_puppets = self.config.batch_size - num_filmed
        puppets = rng.choice(len(self.train_bank.points), num_puppets, replace=False)
        drawn = [FilmedClip(self.train_bank.points[i], self.train_bank.sound(i)) for i in puppets]
        return drawn + [self.filmed[i] for i in rng.permutation(len(self.filmed))[:num_filmed]]


def contrastive_losses(logits: Tensor, neighbour_share: float) -> dict[str, Tensor]:
    """Cross-entropy over all sounds and shifts for each video, and over all videos and shifts for each sound.

    logits: `b b s`, video by sound by shift; the diagonal's middle is true.
    """
    batch, _, shifts = logits.shape
    target = torch.zeros_like(logits)
    own, middle = torch.arange(batch), shifts // 2
    target[own, own, middle] = 1 - 2 * neighbour_share
    target[own, own, middle - 1] = target[own, own, middle + 1] = neighbour_share
    loss = sum(F.cross_entropy(x.flatten(1), t.flatten(1)) for x, t in _both_ways(logits, target)) / 2
    best = logits.flatten(1).argmax(1)
    truth = own.to(best.device) * shifts + middle
    return {"loss": loss, "found": ((best - truth).abs() <= 1).float().mean()}


def spoil_points(points: np.ndarray, config: SyncTrainingConfig, rng: np.random.Generator) -> np.ndarray:
    """Landmarks `f 68 2` as a tracker gives them of another camera: sheared, trembling, drifting, smoothed."""
    unit = float(np.linalg.norm(points[0, 36] - points[0, 45]))
    view = np.eye(2) + rng.normal(0, 0.06, (2, 2))
    jitter = np.exp(rng.uniform(*np.log(config.jitter))) * unit
    noise = rng.normal(0, jitter, points.shape)
    drift = gaussian_filter1d(rng.normal(0, 1, points.shape), 12, axis=0)
    noise += drift * (rng.uniform(0, 0.012) * unit / max(float(drift.std()), 1e-6))
    moved = points @ view + noise
    if rng.random() < 0.4:
        moved = gaussian_filter1d(moved, rng.uniform(0.4, 0.9), axis=0)
    if rng.random() < 0.15:
        repeated = rng.random(len(points)) < rng.uniform(0.02, 0.2)
        moved = moved[np.maximum(np.arange(len(points)) - repeated, 0)]
    return moved


def _both_ways(logits: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(logits, target), (logits.transpose(0, 1), target.transpose(0, 1))]
