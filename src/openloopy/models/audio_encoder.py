"""Audio encoder: a network on sound whose hidden states of all layers become features at 25 fps.

Source: Loopy sec. 3.3 (wav2vec 2.0, multi-scale features: the hidden states of all layers together). The paper's
size uses wav2vec2-base-960h (12 layers x 768); `mini` uses a small conformer under the same interface, trained on
speech with known phonemes and frozen afterwards.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from openloopy.models.conformer import MODEL_TYPE as CONFORMER_TYPE
from openloopy.models.conformer import Conformer, ConformerConfig
from openloopy.models.foreign_files import read_folder_tensors, read_settings
from openloopy.models.wav2vec2 import Wav2Vec2, Wav2Vec2Config, from_transformers_names
from openloopy.models.weight_files import buildable, mismatch_report, replacing, save_weights

SAMPLE_RATE_HZ = 16_000
VIDEO_FPS = 25
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // VIDEO_FPS
STEPS_PER_FRAME = 2
"""wav2vec 2.0 makes 50 steps a second."""
TAIL_SAMPLES = 80
"""Zeros appended so that n video frames of sound give exactly 2 n steps (receptive field 400, stride 320)."""
CHUNK_FRAMES = 500
CONTEXT_FRAMES = 25
"""Long sounds are encoded in chunks of 20 s with context at both sides: bounded memory. A conformer gets as much
context as it can hear; wav2vec 2.0, which hears without limit, 1 s."""
LEVEL_RMS = 0.1
"""Of the loud parts of a levelled sound."""
LOWEST_RMS = 1e-4
"""A sound whose loud parts are quieter than this (-80 dB) is made no louder than if they had it."""
SILENCE_FRAMES = 25
"""The silence that is heard before and after a sound, 1 s."""
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
LOUDNESS_FILE = "preprocessor_config.json"
Loudness = Literal["as_is", "normalised", "levelled"]


@dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig:
    """What the encoder hears."""

    loudness: Loudness = "as_is"
    """'normalised': zero mean and unit variance over the whole sound, as wav2vec2-base-960h expects; 'levelled': the
    loud parts of the whole sound have LEVEL_RMS, however much silence lies between them (`speech_level`)."""
    network: Wav2Vec2Config | ConformerConfig = Wav2Vec2Config()

    def __post_init__(self) -> None:
        if self.loudness not in get_args(Loudness):
            raise ValueError(f"loudness must be one of {get_args(Loudness)}, got {self.loudness!r}")


class AudioEncoder(nn.Module):
    """Mono 16 kHz sound -> hidden states of all transformer layers, per video frame."""

    def __init__(self, config: AudioEncoderConfig):
        super().__init__()
        self.config = config
        is_conformer = isinstance(config.network, ConformerConfig)
        self.network = (Conformer if is_conformer else Wav2Vec2)(config.network)

    @property
    def num_layers(self) -> int:
        return self.config.network.num_hidden_layers

    @property
    def width(self) -> int:
        return self.config.network.hidden_size

    @property
    def context_frames(self) -> int:
        """Frames to each side of a chunk that are heard with it."""
        if isinstance(self.config.network, ConformerConfig):
            return -(-self.config.network.context_steps // STEPS_PER_FRAME)
        return CONTEXT_FRAMES

    def hidden_states(self, waveform: Tensor) -> Tensor:
        """waveform: `b samples` -> hidden states at 50 Hz, `b steps layers width`."""
        return torch.stack(self.network(waveform), dim=2)

    def frame_states(self, waveform: Tensor) -> Tensor:
        """waveform: `b f*640` (whole video frames of sound) -> `b f layers width`, the mean of two steps a frame."""
        if waveform.ndim != 2 or waveform.shape[1] % SAMPLES_PER_FRAME:
            raise ValueError(
                f"expected sound of shape (b, frames * {SAMPLES_PER_FRAME}), got {tuple(waveform.shape)}; pad it"
            )
        states = self.hidden_states(F.pad(waveform, (0, TAIL_SAMPLES)))
        return reduce(states, "b (f two) l w -> b f l w", "mean", two=STEPS_PER_FRAME)


class AudioFeatureReader:
    """Hidden states of a sound of any length, read window by window with bounded memory.

    Before and after the sound there is silence, which is heard like any other sound. Chunks lie at fixed places, so a
    frame's features do not depend on the order of reading.
    """

    def __init__(self, encoder: AudioEncoder, waveform: np.ndarray):
        if waveform.ndim != 1:
            raise ValueError(
                f"expected mono sound of shape (samples,), got {waveform.shape}; call media.audio.to_mono first"
            )
        self.encoder, self.waveform = encoder, waveform
        self.num_frames = -(-len(waveform) // SAMPLES_PER_FRAME)
        self._chunk_index, self._chunk = -1, torch.empty(0)
        self._mean, self._scale = self._loudness()

    @torch.inference_mode()
    def window(self, start_frame: int, num_frames: int) -> Tensor:
        """Frames start_frame .. start_frame + num_frames - 1, `f layers width`; silence before and after the sound.

        Further than SILENCE_FRAMES away from the sound, silence goes on as it is heard there.
        """
        if num_frames < 1:
            raise ValueError(f"a window holds at least one frame, got {num_frames}; is the sound empty?")
        frames = np.arange(start_frame, start_frame + num_frames)
        places = frames.clip(-SILENCE_FRAMES, self.num_frames + SILENCE_FRAMES - 1) + SILENCE_FRAMES
        chunks = range(places[0] // CHUNK_FRAMES, places[-1] // CHUNK_FRAMES + 1)
        return torch.cat([self._from_chunk(index, places) for index in chunks])

    def _from_chunk(self, index: int, places: np.ndarray) -> Tensor:
        """Those of the frames that lie in a chunk; places count from the first frame of the silence before."""
        if index != self._chunk_index:
            self._chunk, self._chunk_index = self._encode(index), index
        return self._chunk[places[places // CHUNK_FRAMES == index] - index * CHUNK_FRAMES]

    def _encode(self, index: int) -> Tensor:
        first = index * CHUNK_FRAMES - SILENCE_FRAMES
        context = self.encoder.context_frames
        begin = max(first - context, -SILENCE_FRAMES)
        end = min(first + CHUNK_FRAMES + context, self.num_frames + SILENCE_FRAMES)
        parameter = next(self.encoder.parameters())
        piece = (self._with_silence(begin, end) - self._mean) * self._scale
        sound = torch.from_numpy(piece)[None].to(parameter.device, parameter.dtype)
        return self.encoder.frame_states(sound)[0, first - begin :][:CHUNK_FRAMES]

    def _with_silence(self, begin: int, end: int) -> np.ndarray:
        """The samples of frames begin .. end - 1, float32; zeros where there is no sound."""
        piece = np.zeros((end - begin) * SAMPLES_PER_FRAME, np.float32)
        samples = self.waveform[max(begin, 0) * SAMPLES_PER_FRAME : max(end, 0) * SAMPLES_PER_FRAME]
        offset = max(-begin, 0) * SAMPLES_PER_FRAME
        piece[offset : offset + len(samples)] = samples
        _give_back_pages(self.waveform)
        return piece

    def _loudness(self) -> tuple[float, float]:
        """Mean and scale over the whole sound, read in pieces."""
        if self.encoder.config.loudness == "as_is" or not len(self.waveform):
            return 0.0, 1.0
        starts = range(0, len(self.waveform), SAMPLE_RATE_HZ * 60)
        pieces = (self.waveform[i : i + SAMPLE_RATE_HZ * 60] for i in starts)
        if self.encoder.config.loudness == "levelled":
            scale = LEVEL_RMS / speech_level(pieces)
            _give_back_pages(self.waveform)
            return 0.0, scale
        sums = np.array([_moments(piece) for piece in pieces]).sum(0)
        _give_back_pages(self.waveform)
        mean = sums[0] / len(self.waveform)
        variance = max(sums[1] / len(self.waveform) - mean**2, 0.0)
        return float(mean), float(1 / np.sqrt(variance + 1e-7))


def speech_level(pieces: Iterable[np.ndarray]) -> float:
    """Loudness (RMS) of the loud parts of a sound that comes in pieces of whole frames; at least LOWEST_RMS.

    It is the mean power of its frames of 40 ms, each weighted with its own power: silence between the words, however
    long, does not count, and sound at twice the amplitude has twice the level. [D]
    """
    weighted = total = 0.0
    for piece in pieces:
        whole = np.asarray(piece[: len(piece) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME], np.float64)
        power = (whole.reshape(-1, SAMPLES_PER_FRAME) ** 2).mean(1)
        weighted, total = weighted + float((power**2).sum()), total + float(power.sum())
    return max(float(np.sqrt(weighted / total)) if total > 0 else 0.0, LOWEST_RMS)


def _give_back_pages(waveform: np.ndarray) -> None:
    """What was read of a memory map stays in this process' memory otherwise: 38 MB of ten minutes of sound."""
    if isinstance(waveform.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        waveform.base.madvise(mmap.MADV_DONTNEED)


def _moments(piece: np.ndarray) -> tuple[float, float]:
    piece = np.asarray(piece, dtype=np.float64)
    return float(piece.sum()), float((piece**2).sum())


def save_audio_encoder(folder: Path, encoder: AudioEncoder) -> None:
    """Write a folder in transformers' format; the loudness setting goes into its preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(encoder.network, folder / WEIGHTS_FILE)
    settings: dict[str, Any] = {"sampling_rate": SAMPLE_RATE_HZ, "loudness": encoder.config.loudness}
    if isinstance(encoder.config.network, ConformerConfig):
        network = encoder.config.network.to_json()
    else:
        network = encoder.config.network.to_transformers()
        settings["feature_extractor_type"] = "Wav2Vec2FeatureExtractor"
        settings["do_normalize"] = encoder.config.loudness == "normalised"
    _write_json(folder / LOUDNESS_FILE, settings)
    # Last: without it nothing is read, and without the loudness something else would be heard.
    _write_json(folder / CONFIG_FILE, network)


def load_audio_encoder(folder: Path) -> AudioEncoder:
    """Load what `save_audio_encoder` wrote, or any wav2vec 2.0 folder of transformers, in float32.

    Raises:
        ValueError: the folder holds no such network, one with other parts, or not all of its tensors.
    """
    if not (folder / CONFIG_FILE).exists():
        raise ValueError(f"{folder} holds no audio encoder: {CONFIG_FILE} is missing")
    settings = read_settings(folder / CONFIG_FILE)
    loudness = read_settings(folder / LOUDNESS_FILE) if (folder / LOUDNESS_FILE).exists() else {}
    is_conformer = settings.get("model_type") == CONFORMER_TYPE
    # transformers' folders tell only whether it is normalised, and mean that it is where they do not.
    manner = loudness.get("loudness") or ("normalised" if loudness.get("do_normalize", True) else "as_is")
    try:
        read = ConformerConfig.from_json if is_conformer else Wav2Vec2Config.from_transformers
        config = AudioEncoderConfig(loudness=manner, network=read(settings))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
    stem = "model" if list(folder.glob("model*")) else "pytorch_model"
    tensors = read_folder_tensors(folder, stem)
    return _filled(config, tensors if is_conformer else from_transformers_names(tensors), folder).eval()


def _filled(config: AudioEncoderConfig, tensors: dict[str, Tensor], folder: Path) -> AudioEncoder:
    """Heads for other tasks, which files for speech recognition have besides, are left out."""
    # Sizes that nobody has are seen before any memory is taken for them.
    with buildable(folder / CONFIG_FILE), torch.device("meta"):
        wanted = AudioEncoder(config).network.state_dict()
    found = {name: tensor for name, tensor in tensors.items() if name in wanted}
    report = mismatch_report(_shapes(found), _shapes(wanted))
    if report:
        raise ValueError(f"{folder}: the weights do not fit {CONFIG_FILE}:\n{report}")
    encoder = AudioEncoder(config)
    encoder.network.load_state_dict(found)
    return encoder


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _write_json(path: Path, settings: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(settings, indent=1) + "\n")
