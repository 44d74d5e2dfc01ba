"""Training of the audio encoder on synthetic speech with known phonemes; it is frozen afterwards.

Own design [D]: the paper uses a public wav2vec 2.0. A small one that knows mouth shapes is worth more here than one
trained for transcription: it must tell the visemes (mouth shape classes) of 20 ms steps and how the lips of an
average speaker would move, under noise, echo and other distortions. An encoder that was trained before may be
given to go on from; the heads begin anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from PIL import Image
from torch import Tensor, nn

from openloopy.models.audio_encoder import (
    SAMPLES_PER_FRAME,
    STEPS_PER_FRAME,
    TAIL_SAMPLES,
    AudioEncoder,
    save_audio_encoder,
)
from openloopy.training.loop import step_generator

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class SpeechBank:
    """Utterances of equal length with what is known of them.

    waveforms: `num samples` int16 at 16 kHz; visemes: `num steps` integer classes at 50 Hz;
    articulation: `num frames curves` float at 25 fps, in 0 .. about 1 (jaw, width, lip closure of a neutral speaker).
    """

    waveforms: np.ndarray
    visemes: np.ndarray
    articulation: np.ndarray

    def __post_init__(self) -> None:
        frames = self.articulation.shape[1]
        if (
            self.visemes.shape[1] != frames * STEPS_PER_FRAME
            or self.waveforms.shape[1] != frames * SAMPLES_PER_FRAME
        ):
            raise ValueError(
                "a speech bank needs 640 samples and 2 viseme steps per frame, got "
                f"{self.waveforms.shape}, {self.visemes.shape} and {self.articulation.shape}"
            )


@dataclass(frozen=True, kw_only=True)
class AudioTrainingConfig:
    """Batches and losses of the audio encoder."""

    batch_size: int = 16
    crop_frames: int = 75
    seed: int = 0
    num_visemes: int = 28
    augment_share: float = 0.85
    middle_weight: float = 0.3
    """Weight of the same loss on the middle layer: all layers are used as features."""
    articulation_weight: float = 2.0
    """Weight of the articulation, whose curves each count in units of their own spread over the bank."""


class ListeningHeads(nn.Module):
    """The encoder with what it is trained through; only the encoder is exported."""

    def __init__(self, encoder: AudioEncoder, num_visemes: int, num_curves: int):
        super().__init__()
        self.encoder = encoder
        self.middle = encoder.num_layers // 2 - 1
        self.viseme = nn.Linear(encoder.width, num_visemes)
        self.viseme_middle = nn.Linear(encoder.width, num_visemes)
        self.curves = nn.Linear(encoder.width, num_curves)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """waveform `b f*640` -> viseme logits (last, middle layer) `b 2f classes`, articulation `b f curves`."""
        states = self.encoder.hidden_states(F.pad(waveform, (0, TAIL_SAMPLES)))
        frames = reduce(states[:, :, -1], "b (f two) w -> b f w", "mean", two=STEPS_PER_FRAME)
        return (
            self.viseme(states[:, :, -1]),
            self.viseme_middle(states[:, :, self.middle]),
            self.curves(frames),
        )


class AudioTask:
    """`TrainTask` of the audio encoder."""

    def __init__(
        self,
        encoder: AudioEncoder,
        train: SpeechBank,
        held_out: SpeechBank,
        *,
        config: AudioTrainingConfig,
        augment: Augment,
    ):
        self.network: nn.Module = ListeningHeads(encoder, config.num_visemes, train.articulation.shape[2])
        self.train_bank, self.held_out, self.config, self.augment = train, held_out, config, augment
        self.spreads = curve_spreads(train.articulation)

    def describe(self) -> dict:
        return {
            "stage": "audio",
            "config": asdict(self.config),
            "encoder": asdict(self.network.encoder.config),
            "utterances": len(self.train_bank.waveforms),
        }

    def losses(self, network: nn.Module, step: int) -> dict[str, Tensor]:
        generator = step_generator(self.config.seed, step)
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        sound, visemes, curves = self._draw(rng)
        device = next(network.parameters()).device
        last, middle, moved = network(sound.to(device))
        spreads = self.spreads.to(device)
        moved, curves = moved.float() / spreads, curves.to(device) / spreads
        return _listening_losses(last, middle, moved, curves, visemes.to(device), config=self.config)

    def sample(self, network: nn.Module, path: Path) -> None:
        """Score unseen voices and sentences; draw true over heard articulation of one of them."""
        scores, true, heard = self.evaluate(network)
        path.with_suffix(".json").write_text(_json(scores))
        Image.fromarray(_curve_picture(true, heard)).save(path.with_suffix(".png"))

    def export(self, network: nn.Module, folder: Path) -> None:
        save_audio_encoder(folder / "audio_encoder", network.encoder)
        (folder / "held_out.json").write_text(_json(self.evaluate(network)[0]))

    @torch.inference_mode()
    def evaluate(self, network: nn.Module) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        """Accuracy of visemes and correlation of each articulation curve on the held-out bank (clean)."""
        device = next(network.parameters()).device
        hits, trues, heards = [], [], []
        for i in range(len(self.held_out.waveforms)):
            sound = torch.from_numpy(self.held_out.waveforms[i].astype(np.float32) / 32768)[None].to(device)
            logits, _, curves = network(sound)
            hits.append((logits[0].argmax(-1).cpu().numpy() == self.held_out.visemes[i]).mean())
            trues.append(self.held_out.articulation[i])
            heards.append(curves[0].float().cpu().numpy())
        true, heard = np.concatenate(trues), np.concatenate(heards)
        correlations = [np.corrcoef(true[:, k], heard[:, k])[0, 1] for k in range(true.shape[1])]
        scores = {"viseme_accuracy": float(np.mean(hits))}
        scores |= {f"articulation_{k}_correlation": float(r) for k, r in enumerate(correlations)}
        return scores, trues[0], heards[0]

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        bank, length = self.train_bank, self.config.crop_frames
        sounds, visemes, curves = [], [], []
        for _ in range(self.config.batch_size):
            i = rng.integers(len(bank.waveforms))
            start = rng.integers(bank.articulation.shape[1] - length + 1)
            samples = slice(start * SAMPLES_PER_FRAME, (start + length) * SAMPLES_PER_FRAME)
            sound = bank.waveforms[i, samples].astype(np.float32) / 32768
            sounds.append(self.augment(sound, rng) if rng.random() < self.config.augment_share else sound)
            visemes.append(bank.visemes[i, start * STEPS_PER_FRAME : (start + length) * STEPS_PER_FRAME])
            curves.append(bank.articulation[i, start : start + length])
        return (
            torch.from_numpy(np.stack(sounds)).float(),
            torch.from_numpy(np.stack(visemes)).long(),
            torch.from_numpy(np.stack(curves)).float(),
        )


def curve_spreads(articulation: np.ndarray) -> Tensor:
    """Standard deviation of each curve over a bank, `num frames curves` -> `curves`; never near 0."""
    return torch.from_numpy(articulation.std((0, 1), dtype=np.float64)).float().clamp_min(0.02)


def _listening_losses(
    last: Tensor,
    middle: Tensor,
    moved: Tensor,
    curves: Tensor,
    visemes: Tensor,
    *,
    config: AudioTrainingConfig,
) -> dict[str, Tensor]:
    """Viseme logits `b steps classes` against `visemes`, heard against true articulation `b frames curves`."""
    viseme = F.cross_entropy(last.float().flatten(0, 1), visemes.flatten())
    viseme_middle = F.cross_entropy(middle.float().flatten(0, 1), visemes.flatten())
    articulation = F.smooth_l1_loss(moved, curves)
    accuracy = (last.argmax(-1) == visemes).float().mean()
    loss = viseme + config.middle_weight * viseme_middle + config.articulation_weight * articulation
    return {"loss": loss, "viseme": viseme, "articulation": articulation, "accuracy": accuracy.detach()}


def _curve_picture(true: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Each articulation curve as a strip, true in black and heard in red: `H W 3` uint8."""
    frames, num_curves = true.shape
    height = 100
    canvas = np.full((height * num_curves, frames * 4, 3), 255, np.uint8)
    for k in range(num_curves):
        for values, colour in ((true[:, k], (0, 0, 0)), (heard[:, k], (220, 30, 30))):
            rows = (height * (k + 1) - 8 - np.clip(values, -0.5, 1.3) * 50 - 25).astype(int)
            for x in range(frames * 4):
                canvas[np.clip(rows[x // 4], 0, len(canvas) - 1), x] = colour
    return canvas


def _json(values: dict[str, float]) -> str:
    import json

    return json.dumps({k: round(v, 4) for k, v in values.items()}, indent=1) + "\n"
