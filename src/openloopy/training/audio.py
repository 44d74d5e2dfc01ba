"""Training of the audio encoder on speech with known phonemes and on filmed lips; it is frozen afterwards.

Own design [D]: the paper uses a public wav2vec 2.0. A small one that knows mouth shapes is worth more here than one
trained for transcription: it must tell the visemes (mouth shape classes) of 20 ms steps, how the lips of an average
speaker would move, and how far filmed lips were apart, under noise, echo and other distortions; and hear that nobody
speaks. An encoder that was trained before may be given to go on from; the heads begin anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from PIL import Image
from torch import Tensor, nn

from openloopy.models.audio_encoder import (
    LEVEL_RMS,
    SAMPLES_PER_FRAME,
    STEPS_PER_FRAME,
    TAIL_SAMPLES,
    AudioEncoder,
    save_audio_encoder,
    speech_level,
)
from openloopy.training.loop import step_generator
from openloopy.training.stats import write_numbers

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Background = Callable[[int, np.random.Generator], np.ndarray]
"""So many samples without a voice, of unit power."""
UNKNOWN = -1
"""Label of a step whose viseme nobody knows; unknown curves are NaN."""
LEVEL_DB = (-6.0, 6.0)
"""How far a crop's level strays from that of its whole sound."""
QUIET_DB = (-40.0, 0.0)
"""How quiet a recording was before it was levelled: 16 bits leave the quiet ones coarse."""
BACKGROUND_DB = (-60.0, 0.0)


@dataclass(frozen=True)
class SpeechBank:
    """Sounds of any length, one after another, with what is known of them.

    waveforms: `samples` int16 at 16 kHz; visemes: `steps` integer classes at 50 Hz, UNKNOWN where nobody knows;
    curves: `frames curves` float at 25 fps, NaN where unknown (jaw, width, lip closure of a neutral speaker in 0 ..
    about 1; the gap of filmed lips in units of the person's own spread); starts: `sounds + 1` first frame of each;
    shares: `sounds`, how often each is drawn, of sum 1.
    """

    waveforms: np.ndarray
    visemes: np.ndarray
    curves: np.ndarray
    starts: np.ndarray
    shares: np.ndarray

    def __post_init__(self) -> None:
        frames = len(self.curves)
        if len(self.visemes) != frames * STEPS_PER_FRAME or len(self.waveforms) != frames * SAMPLES_PER_FRAME:
            raise ValueError(
                "a speech bank needs 640 samples and 2 viseme steps per frame, got "
                f"{self.waveforms.shape}, {self.visemes.shape} and {self.curves.shape}"
            )
        if len(self.starts) != len(self.shares) + 1 or self.starts[-1] != frames:
            raise ValueError(
                f"a speech bank of {frames} frames needs a start for each of its {len(self.shares)} sounds and its "
                f"end, got {len(self.starts)} that end at {self.starts[-1] if len(self.starts) else None}"
            )

    @property
    def num_sounds(self) -> int:
        return len(self.shares)

    def piece(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames of the bank: sound `samples` float32, visemes `steps` int64, curves `frames curves` float32."""
        samples = slice(first * SAMPLES_PER_FRAME, (first + count) * SAMPLES_PER_FRAME)
        steps = slice(first * STEPS_PER_FRAME, (first + count) * STEPS_PER_FRAME)
        return (
            self.waveforms[samples].astype(np.float32) / 32768,
            self.visemes[steps].astype(np.int64),
            self.curves[first : first + count].astype(np.float32),
        )


@dataclass(frozen=True, kw_only=True)
class AudioTrainingConfig:
    """Batches and losses of the audio encoder."""

    batch_size: int = 12
    crop_frames: int = 100
    seed: int = 0
    num_visemes: int = 28
    augment_share: float = 0.8
    background_share: float = 0.06
    """Crops in which nobody speaks: noise, hum, music."""
    own_level_share: float = 0.3
    """Crops that are levelled by themselves, as short sounds are; the others by the whole of their sound."""
    middle_weight: float = 0.3
    """Weight of the same loss on the middle layer: all layers are used as features."""
    sure_enough: float = 0.85
    """Where nobody knows the viseme, the network's own guess on the undistorted sound counts as the truth if it is as
    sure as this (self-training on unlabelled speech: FixMatch, Sohn et al. 2020, arXiv 2001.07685)."""
    curves_weight: float = 2.0
    """Weight of the curves, which each count in units of their own spread over the bank."""


class ListeningHeads(nn.Module):
    """The encoder with what it is trained through; only the encoder is exported."""

    def __init__(self, encoder: AudioEncoder, num_visemes: int, num_curves: int):
        super().__init__()
        self.encoder = encoder
        self.middle = max(encoder.num_layers // 2 - 1, 0)
        self.viseme = nn.Linear(encoder.width, num_visemes)
        self.viseme_middle = nn.Linear(encoder.width, num_visemes)
        self.curves = nn.Linear(encoder.width, num_curves)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """waveform `b f*640` -> viseme logits (last, middle layer) `b 2f classes`, curves `b f curves`."""
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
        background: Background,
        rest: Sequence[float],
    ):
        """rest: the curves when nobody speaks; NaN where that is not known."""
        self.network: nn.Module = ListeningHeads(encoder, config.num_visemes, train.curves.shape[1])
        self.train_bank, self.held_out, self.config = train, held_out, config
        self.augment, self.background, self.rest = augment, background, np.array(rest, np.float32)
        self.spreads = curve_spreads(train.curves)
        whole = (train.piece(a, b - a)[0] for a, b in zip(train.starts[:-1], train.starts[1:], strict=True))
        self.levels = [speech_level([sound]) for sound in whole]

    def describe(self) -> dict:
        return {
            "stage": "audio",
            "config": asdict(self.config),
            "encoder": asdict(self.network.encoder.config),
            "sounds": self.train_bank.num_sounds,
        }

    def losses(self, network: nn.Module, step: int) -> dict[str, Tensor]:
        generator = step_generator(self.config.seed, step)
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        batch = self.draw(rng)
        device = next(network.parameters()).device
        sound, clean, visemes, curves = (part.to(device) for part in batch)
        visemes = guessed(network, clean, visemes, self.config.sure_enough)
        last, middle, moved = network(sound)
        spreads = self.spreads.to(device)
        moved, curves = moved.float() / spreads, curves / spreads
        return listening_losses(last, middle, moved, curves, visemes, config=self.config)

    def sample(self, network: nn.Module, path: Path) -> None:
        """Score unseen voices and sentences; draw true over heard curves of one of them."""
        scores, true, heard = self.evaluate(network)
        write_numbers(path.with_suffix(".json"), _rounded(scores))
        Image.fromarray(_curve_picture(true, heard)).save(path.with_suffix(".png"))

    def export(self, network: nn.Module, folder: Path) -> None:
        save_audio_encoder(folder / "audio_encoder", network.encoder)
        write_numbers(folder / "held_out.json", _rounded(self.evaluate(network)[0]))

    @torch.inference_mode()
    def evaluate(self, network: nn.Module) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        """Accuracy of visemes and correlation of each curve on the held-out bank (clean), where they are known."""
        bank, device = self.held_out, next(network.parameters()).device
        hits, trues, heards = [], [], []
        for first, end in zip(bank.starts[:-1], bank.starts[1:], strict=True):
            sound, visemes, curves = bank.piece(first, end - first)
            sound = sound * np.float32(LEVEL_RMS / speech_level([sound]))
            logits, _, moved = network(torch.from_numpy(sound)[None].to(device))
            known = visemes != UNKNOWN
            hits.append(logits[0].argmax(-1).cpu().numpy()[known] == visemes[known])
            trues.append(curves)
            heards.append(moved[0].float().cpu().numpy())
        true, heard = np.concatenate(trues), np.concatenate(heards)
        scores = {"viseme_accuracy": float(np.concatenate(hits).mean())}
        for k in range(true.shape[1]):
            known = np.isfinite(true[:, k])
            if known.sum() > 1 and true[known, k].std() > 0:
                scores[f"curve_{k}_correlation"] = float(np.corrcoef(true[known, k], heard[known, k])[0, 1])
        return scores, trues[0], heards[0]

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A batch: sound and the same undistorted, `b samples` each, visemes `b steps`, curves `b frames curves`."""
        crops = [self._draw_crop(rng) for _ in range(self.config.batch_size)]
        sounds, clean, visemes, curves = (np.stack(part) for part in zip(*crops, strict=True))
        return (
            torch.from_numpy(sounds).float(),
            torch.from_numpy(clean).float(),
            torch.from_numpy(visemes).long(),
            torch.from_numpy(curves).float(),
        )

    def _draw_crop(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        frames = self.config.crop_frames
        silence = np.zeros(frames * STEPS_PER_FRAME, np.int64)
        if rng.random() < self.config.background_share:
            sound = self.background(frames * SAMPLES_PER_FRAME, rng).astype(np.float32)
            sound = sound * np.float32(LEVEL_RMS * 10 ** (rng.uniform(*BACKGROUND_DB) / 20))
            sound = self._levelled(sound, None, rng)
            return sound, sound, silence, np.tile(self.rest, (frames, 1))
        bank = self.train_bank
        index = rng.choice(bank.num_sounds, p=bank.shares)
        first, end = bank.starts[index], bank.starts[index + 1]
        count = min(frames, end - first)
        # A short sound lies anywhere in the crop; around it there is silence.
        lead = rng.integers(frames - count + 1)
        start = first + rng.integers(end - first - count + 1)
        sound = np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
        visemes, curves = silence, np.tile(self.rest, (frames, 1))
        spoken = bank.piece(start, count)
        sound[lead * SAMPLES_PER_FRAME : (lead + count) * SAMPLES_PER_FRAME] = spoken[0]
        visemes[lead * STEPS_PER_FRAME : (lead + count) * STEPS_PER_FRAME] = spoken[1]
        curves[lead : lead + count] = spoken[2]
        clean = sound * np.float32(LEVEL_RMS / self.levels[index])
        loudness = float(np.sqrt((sound**2).mean()))
        if rng.random() < self.config.augment_share and loudness > 0:
            sound = np.asarray(self.augment(sound, rng), np.float32)
            sound = sound * np.float32(loudness / max(float(np.sqrt((sound**2).mean())), 1e-6))
        return self._levelled(sound, self.levels[index], rng), clean, visemes, curves

    def _levelled(self, sound: np.ndarray, level: float | None, rng: np.random.Generator) -> np.ndarray:
        """As the encoder is given it (`AudioFeatureReader`), after a recording that was perhaps quiet."""
        peak = max(float(np.abs(sound).max()), 1e-6)
        gain = min(10 ** (rng.uniform(*QUIET_DB) / 20) / peak, 1e3) * 32767
        sound = (np.round(sound * gain) / gain).astype(np.float32)
        if level is None or rng.random() < self.config.own_level_share:
            return sound * np.float32(LEVEL_RMS / speech_level([sound]))
        return sound * np.float32(LEVEL_RMS / level * 10 ** (rng.uniform(*LEVEL_DB) / 20))


@torch.no_grad()
def guessed(network: nn.Module, clean: Tensor, visemes: Tensor, sure_enough: float) -> Tensor:
    """Labels `b steps` in which sure guesses stand where nobody knows; `clean`: the sound, `b samples`."""
    rows = (visemes == UNKNOWN).any(1)
    if not rows.any():
        return visemes
    was_training = network.training
    network.eval()
    chance, guess = network(clean[rows])[0].float().softmax(-1).max(-1)
    network.train(was_training)
    filled = visemes.clone()
    filled[rows] = torch.where((visemes[rows] == UNKNOWN) & (chance >= sure_enough), guess, visemes[rows])
    return filled


def curve_spreads(curves: np.ndarray) -> Tensor:
    """Standard deviation of each curve over a bank where it is known, `frames curves` -> `curves`; never near 0."""
    spreads = [
        curve[np.isfinite(curve)].std() if np.isfinite(curve).any() else 1.0
        for curve in curves.T.astype(float)
    ]
    return torch.tensor(spreads).float().clamp_min(0.02)


def listening_losses(
    last: Tensor,
    middle: Tensor,
    moved: Tensor,
    curves: Tensor,
    visemes: Tensor,
    *,
    config: AudioTrainingConfig,
) -> dict[str, Tensor]:
    """Viseme logits `b steps classes` against `visemes`, heard against true curves `b frames curves`, where known.

    Each curve counts as the share of the frames in which it is known.
    """
    labels = visemes.flatten()
    viseme, viseme_middle = (
        F.cross_entropy(logits.float().flatten(0, 1), labels, ignore_index=UNKNOWN, reduction="sum")
        / (labels != UNKNOWN).sum().clamp_min(1)
        for logits in (last, middle)
    )
    known = torch.isfinite(curves)
    curve = F.smooth_l1_loss(moved, curves.nan_to_num(), reduction="none") * known
    articulation = curve.sum() / known.sum().clamp_min(1)
    accuracy = ((last.argmax(-1) == visemes) & (visemes != UNKNOWN)).sum() / (
        visemes != UNKNOWN
    ).sum().clamp_min(1)
    loss = viseme + config.middle_weight * viseme_middle + config.curves_weight * articulation
    return {"loss": loss, "viseme": viseme, "curves": articulation, "accuracy": accuracy.detach()}


def _curve_picture(true: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Each curve as a strip, true in black and heard in red: `H W 3` uint8."""
    frames, num_curves = true.shape
    height = 100
    canvas = np.full((height * num_curves, frames * 4, 3), 255, np.uint8)
    for k in range(num_curves):
        for values, colour in ((true[:, k], (0, 0, 0)), (heard[:, k], (220, 30, 30))):
            rows = (height * (k + 1) - 8 - np.clip(np.nan_to_num(values), -0.5, 1.3) * 50 - 25).astype(int)
            for x in range(frames * 4):
                canvas[np.clip(rows[x // 4], 0, len(canvas) - 1), x] = colour
    return canvas


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
