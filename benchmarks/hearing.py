"""Judges an audio encoder on human speech: talking heads whose words are aligned with the sound.

    python benchmarks/hearing.py --videos DIR [--encoder DIR] [--utterances 40] [--out DIR]

DIR holds clips of the GRID corpus, SPEAKER_sentence.mpg (3 s, 25 fps), and alignments/SPEAKER_sentence.align with
lines `start end word` in 1/25000 s; a clip without one counts for the correlation alone. A ridge regression from
the encoder's hidden states to jaw, width and lip closure is fitted on synthetic speech of unseen voices and then
reads human speech: does the jaw follow the lips of the video, are closures heard at b, m, p, is silence heard as
a mouth at rest? `--out` keeps the lip gaps found in the videos, which take most of the time. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from identity import area_under_curve
from provenance import ROOT, folder_hash, provenance, rounded, save_result

from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.movement import lip_gap
from openloopy.measures.sync import lip_gap_correlation, pearson
from openloopy.media.audio import open_waveform
from openloopy.media.video import FPS, read_frames
from openloopy.models.audio_encoder import (
    SAMPLES_PER_FRAME,
    AudioEncoder,
    AudioFeatureReader,
    load_audio_encoder,
)
from openloopy.recipes.speech_bank import ARTICULATION, SpeechBankConfig, make_utterance

SHIPPED = ROOT / "src" / "openloopy" / "weights" / "mini" / "audio_encoder"
ALIGN_UNITS_PER_S = 25_000
CONTEXT_FRAMES = 2
RIDGE = 0.03
"""Penalty relative to the variance of a feature."""
MARGIN_S = 0.06
MAX_LAG = 5
SILENCE = "sil"
OPEN_WORDS = frozenset("at a i r o now nine five white".split())
"""Words whose middle is an open vowel."""
JAW, CLOSE = ARTICULATION.index("jaw"), ARTICULATION.index("close")


@dataclass(frozen=True)
class Word:
    """One word of an alignment, or silence."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, kw_only=True)
class HumanClip:
    """A talking head: what is said when, how far the lips are apart, how the mouth is heard to move."""

    name: str
    words: list[Word]
    gap: np.ndarray
    """`frames`, in eye distances; NaN where no face was found."""
    heard: np.ndarray
    """`frames curves`, as `ARTICULATION`."""

    @property
    def speaker(self) -> str:
        """Named speakers have several clips (grid_s1_...); of the others each clip is a person."""
        prefix = self.name.rsplit("_", 1)[0]
        return self.name if prefix.endswith(("_f", "_m")) else prefix


@dataclass(frozen=True)
class Readout:
    """Linear map from stacked hidden states to articulation."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """states `frames features` -> `frames curves`."""
        return (states - self.mean) / self.scale @ self.weight + self.bias


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    encoder = load_audio_encoder(options.encoder).float()
    readout, synthetic = fit_on_synthetic(encoder, options.utterances)
    gaps = measure_gaps(options.videos, options.out)
    clips = [hear_clip(path, gaps[path.stem], encoder, readout) for path in _clip_paths(options.videos)]
    result = {
        "benchmark": "hearing",
        "encoder": folder_hash(options.encoder),
        "clips": len(clips),
        "aligned_clips": sum(bool(clip.words) for clip in clips),
        "synthetic": synthetic,
        **judge(clips),
    }
    result = rounded({**result, **provenance()})
    save_result("hearing", result)
    print(json.dumps(result))


def fit_on_synthetic(encoder: AudioEncoder, num_utterances: int) -> tuple[Readout, dict[str, float]]:
    """A readout from validation speech, and its correlation on the last fifth, on which it was not fitted."""
    config = SpeechBankConfig(num_utterances=num_utterances, seed=7)
    made = [make_utterance(config, "val", i) for i in range(num_utterances)]
    states = [stacked_states(encoder, sound.astype(np.float32) / 32768) for sound, _, _ in made]
    curves = [articulation.astype(np.float32) for _, _, articulation in made]
    num_fit = max(1, num_utterances * 4 // 5)
    readout = fit_ridge(np.concatenate(states[:num_fit]), np.concatenate(curves[:num_fit]))
    true, heard = np.concatenate(curves[num_fit:]), readout(np.concatenate(states[num_fit:]))
    return readout, {name: pearson(true[:, k], heard[:, k]) for k, name in enumerate(ARTICULATION)}


def fit_ridge(states: np.ndarray, curves: np.ndarray) -> Readout:
    """Least squares with a penalty on the weights of standardised features."""
    mean, scale = states.mean(0), states.std(0) + 1e-5
    x, bias = (states - mean) / scale, curves.mean(0)
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1], dtype=x.dtype)
    return Readout(mean, scale, np.linalg.solve(gram, x.T @ (curves - bias)), bias)


def stacked_states(encoder: AudioEncoder, waveform: np.ndarray) -> np.ndarray:
    """Hidden states of all layers of each frame and its neighbours, `frames features`."""
    reader = AudioFeatureReader(encoder, waveform)
    states = reader.window(0, reader.num_frames).flatten(1).float().numpy()
    padded = np.pad(states, ((CONTEXT_FRAMES, CONTEXT_FRAMES), (0, 0)), mode="edge")
    return np.concatenate([padded[k : k + len(states)] for k in range(2 * CONTEXT_FRAMES + 1)], axis=1)


def measure_gaps(videos: Path, out: Path | None) -> dict[str, np.ndarray]:
    """Lip gap of every clip, `frames`; read from `out` where it was measured before."""
    kept = out / "lip_gaps.npz" if out else None
    if kept and kept.exists():
        with np.load(kept) as arrays:
            return dict(arrays)
    landmarker = NetworkLandmarker()
    gaps = {path.stem: _gap_of_video(path, landmarker) for path in _clip_paths(videos)}
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **gaps)
    return gaps


def hear_clip(path: Path, gap: np.ndarray, encoder: AudioEncoder, readout: Readout) -> HumanClip:
    """What the encoder hears in a clip, for as many frames as the video has."""
    waveform = np.asarray(open_waveform(path), np.float32)
    num_samples = len(gap) * SAMPLES_PER_FRAME
    waveform = np.pad(waveform, (0, max(0, num_samples - len(waveform))))[:num_samples]
    words = read_alignment(path.parent / "alignments" / f"{path.stem}.align")
    return HumanClip(name=path.stem, words=words, gap=gap, heard=readout(stacked_states(encoder, waveform)))


def read_alignment(path: Path) -> list[Word]:
    """Lines `start end word`, in 1/25000 s; no words where there is no such file."""
    if not path.exists():
        return []
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return [
        Word(int(start) / ALIGN_UNITS_PER_S, int(end) / ALIGN_UNITS_PER_S, text) for start, end, text in rows
    ]


def judge(clips: list[HumanClip]) -> dict:
    """All measures of the heard mouths; the video's own lip gap stands beside them as the attainable."""
    synced = [lip_gap_correlation(clip.heard[:, JAW], clip.gap, MAX_LAG) for clip in clips]
    in_step = {clip.name: score.r for clip, score in zip(clips, synced, strict=True)}
    speakers = {clip.speaker for clip in clips}
    return {
        "jaw_correlation": float(np.median([score.r for score in synced])),
        "jaw_correlation_best_lag": float(np.median([score.best_r for score in synced])),
        "best_lag_frames": float(np.median([score.best_lag for score in synced])),
        "jaw_correlation_of_speaker": {
            speaker: float(np.median([in_step[clip.name] for clip in clips if clip.speaker == speaker]))
            for speaker in sorted(speakers)
        },
        "closure_auc": {
            "heard_close": closure_auc(clips, [clip.heard[:, CLOSE] for clip in clips]),
            "heard_jaw": closure_auc(clips, [-clip.heard[:, JAW] for clip in clips]),
            "seen_gap": closure_auc(clips, [-clip.gap for clip in clips]),
        },
        "silence": judge_silence(clips),
    }


def closure_auc(clips: list[HumanClip], tracks: list[np.ndarray]) -> float:
    """The chance that a track's highest value around a b, m or p exceeds that around an open vowel."""
    closed, opened = [], []
    for clip, track in zip(clips, tracks, strict=True):
        closed += [_highest_around(track, time_s) for time_s in closure_times_s(clip.words)]
        opened += [_highest_around(track, time_s) for time_s in opening_times_s(clip.words)]
    known = [np.array(values)[np.isfinite(values)] for values in (closed, opened)]
    return area_under_curve(known[0], known[1])


def closure_times_s(words: list[Word]) -> list[float]:
    """When the lips meet: at the start of words with b, m or p, and at the end of the letter m."""
    starts = [word.start_s for word in words if word.text[0] in "bp"]
    return starts + [word.end_s for word in words if word.text == "m"]


def opening_times_s(words: list[Word]) -> list[float]:
    """Middles of open vowels."""
    return [(word.start_s + word.end_s) / 2 for word in words if word.text in OPEN_WORDS]


def judge_silence(clips: list[HumanClip]) -> dict[str, float]:
    """Median of the heard mouth in silence and in words: at rest it is closed and its jaw is up."""
    aligned = [clip for clip in clips if clip.words]
    heard = np.concatenate([clip.heard for clip in aligned])
    silent = np.concatenate([_is_silent(clip) for clip in aligned])
    return {
        "close_in_silence": float(np.median(heard[silent, CLOSE])),
        "close_in_words": float(np.median(heard[~silent, CLOSE])),
        "jaw_in_silence": float(np.median(heard[silent, JAW])),
        "jaw_in_words": float(np.median(heard[~silent, JAW])),
        "auc_close": area_under_curve(heard[silent, CLOSE], heard[~silent, CLOSE]),
    }


def _is_silent(clip: HumanClip) -> np.ndarray:
    """Frames inside `sil`, a margin away from the words; bool `frames`."""
    time_s = np.arange(len(clip.heard)) / FPS
    said = [word for word in clip.words if word.text != SILENCE]
    inside = [(time_s > word.start_s - 2 * MARGIN_S) & (time_s < word.end_s + 2 * MARGIN_S) for word in said]
    return ~np.any(inside, axis=0)


def _highest_around(track: np.ndarray, time_s: float) -> float:
    """The highest known value within the margin; NaN if there is none."""
    first, last = (round(t * FPS) for t in (time_s - MARGIN_S, time_s + MARGIN_S))
    values = track[max(first, 0) : last + 1]
    values = values[np.isfinite(values)]
    return float(values.max()) if len(values) else float("nan")


def _gap_of_video(path: Path, landmarker: NetworkLandmarker) -> np.ndarray:
    faces = landmarker.track(read_frames(path))
    gap = np.full(len(faces), np.nan, np.float32)
    found = [i for i, face in enumerate(faces) if face is not None]
    if found:
        gap[found] = lip_gap(np.stack([faces[i].points68 for i in found]))
    return gap


def _clip_paths(videos: Path) -> list[Path]:
    paths = sorted(videos.glob("*.mpg"))
    if not paths:
        raise ValueError(f"{videos} holds no *.mpg")
    return paths


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, default=SHIPPED)
    parser.add_argument("--utterances", type=int, default=40, help="synthetic ones, to fit the readout")
    parser.add_argument("--out", type=Path, help="keeps the lip gaps for the next encoder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
