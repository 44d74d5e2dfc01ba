"""The whole line from shards to a model folder, as one configuration and steps that resume.

    codec -> audio -> stage 1 -> stage 2 -> model folder

Each step finds what it builds on in the same run folder, and says which command is missing if it is not there. Frames
are face states (`RigCodec`, whose mean and scale the first step measures) or image latents of a small autoencoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from openloopy.data.cache import (
    CACHE_NAME,
    LatentCache,
    PixelCache,
    build_pixel_cache,
    clip_sound,
    shards_sha256,
)
from openloopy.data.records import Split
from openloopy.data.shards import read_shards
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.files import make_folder
from openloopy.models.audio_encoder import AudioEncoder, AudioEncoderConfig, load_audio_encoder
from openloopy.models.codec import KLCodec, load_codec, save_codec
from openloopy.models.folder import AUDIO_ENCODER_FOLDER, CODEC_FOLDER, Codec, load_config, save_model
from openloopy.models.foreign_files import read_settings
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.rig_codec import RigCodec
from openloopy.models.segments import SegmentConfig
from openloopy.models.weight_files import load_weights, mismatch_report, replacing
from openloopy.puppet.augment import augment, background
from openloopy.recipes.preview import clip_preview, frame_preview, state_preview
from openloopy.recipes.speech_bank import REST, SpeechBankConfig, build_speech_bank
from openloopy.training.audio import AudioTask, AudioTrainingConfig
from openloopy.training.denoise import WEIGHTS_NAME, DenoiseTask, Preview, load_stage1
from openloopy.training.features import build_latent_cache
from openloopy.training.hama import hama_file, start_from_hama
from openloopy.training.loop import LoopConfig, train
from openloopy.training.new_hearing import hears_like, refit_projection
from openloopy.training.processes import is_distributed, is_main
from openloopy.training.stages import StageConfig
from openloopy.training.state_features import build_state_cache, measure_scales

CACHE_WORKERS = 2
PROJECTION = "audio_projection."
REFIT_S = 1200
"""Speech on which the audio projection is fitted to another audio encoder."""


@dataclass(frozen=True, kw_only=True)
class CodecRecipe:
    """What a frame's latents are."""

    autoencoder: dict[str, Any] | None = None
    """Settings of a diffusers AutoencoderKL with fresh weights, for latents of images; None: face states."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class AudioRecipe:
    """The audio encoder and the speech it learns from."""

    model: AudioEncoderConfig
    bank: SpeechBankConfig
    held_out: SpeechBankConfig
    training: AudioTrainingConfig
    loop: LoopConfig
    begins_with: Literal["nothing", "hama"] = "nothing"
    """"hama": the weights of an installed phoneme recogniser (`training.hama`), for a conformer of its size."""


@dataclass(frozen=True, kw_only=True)
class DenoiseRecipe:
    """One stage of the denoiser."""

    training: StageConfig
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    """All steps; `model` is the finished model's configuration."""

    codec: CodecRecipe
    audio: AudioRecipe
    model: LoopyConfig
    stage1: DenoiseRecipe
    """With `training.number` 2 its frames are clips without layers along time, which hear (see `hearing_model`)."""
    stage2: DenoiseRecipe
    variant: str = ""
    """Stage 2 and the model lie in a folder of this name, so that several share the other steps; "": in the run's."""

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps of this line, in order."""
        return tuple(STEPS)


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes.

    data: folders of shards; run: the run folder, with one subfolder per step;
    start: a model folder to go on from; None: from nothing; speech: speech folders, for the audio encoder.
    """

    data: tuple[Path, ...]
    run: Path
    start: Path | None = None
    speech: tuple[Path, ...] = ()

    @property
    def data_hash(self) -> str:
        """Eight digits that stand for the data."""
        return shards_sha256(self.data)[:8]

    def pixels(self, size_px: int, split: Split) -> PixelCache:
        """Decoded frames at a size, made on first use; other data get another cache."""
        out = self.run / "cache" / f"pixels-{split}-{size_px}-{self.data_hash}"
        return build_pixel_cache(self.data, out, size_px=size_px, split=split, workers=CACHE_WORKERS)


def make_codec(line: LineConfig, place: Place) -> None:
    """Step 1: mean and scale of the face states, or a fresh autoencoder -> run/codec/vae."""
    out = place.run / "codec" / CODEC_FOLDER
    if (out / "config.json").exists():
        print(f"the codec is in {out}; nothing to do")
        return
    if place.start is not None:
        save_codec(out, load_codec(place.start / CODEC_FOLDER, line.model.size_px))
    elif line.codec.autoencoder is None:
        save_codec(out, measure_scales(place.data))
    else:
        from diffusers import AutoencoderKL

        torch.manual_seed(line.codec.seed)
        save_codec(out, KLCodec(AutoencoderKL(**line.codec.autoencoder), line.model.size_px))


def train_audio(line: LineConfig, place: Place) -> None:
    """Step 2: the audio encoder -> run/audio/audio_encoder. Needs no pictures; may run beside step 1."""
    recipe, folder = line.audio, place.run / "audio"
    torch.manual_seed(recipe.training.seed)
    encoder = AudioEncoder(recipe.model)
    known = None if place.start is None else load_audio_encoder(place.start / AUDIO_ENCODER_FOLDER)
    if known is not None and known.config == recipe.model:
        encoder.load_state_dict(known.state_dict())
    else:
        if known is not None:
            print(
                f"the audio encoder of {place.start} has other settings; this one begins with {recipe.begins_with}"
            )
        if recipe.begins_with == "hama":
            start_from_hama(encoder.network, hama_file())
    bank = partial(build_speech_bank, speech=place.speech, film=place.data)
    task = AudioTask(
        encoder,
        bank(recipe.bank, "train", folder / "speech-train.npz"),
        bank(recipe.held_out, "val", folder / "speech-val.npz"),
        config=recipe.training,
        augment=augment,
        background=background,
        rest=REST,
    )
    train(task, recipe.loop, folder)


def train_stage1(line: LineConfig, place: Place) -> None:
    """Step 3: denoiser and reference net on single frames -> run/stage1. With a start, that is stage 1 already."""
    if place.start is not None:
        print(f"stage 1 is in {place.start}; nothing to do")
        return
    recipe = line.stage1
    codec = _load_codec(line, place)
    cache = _latents(line, place, codec, "train")
    torch.manual_seed(recipe.training.seed)
    hears = recipe.training.number == 2
    model = hearing_model(line.model) if hears else picture_model(line.model)
    task = DenoiseTask(
        LoopyModel(model), cache, recipe.training, preview=_preview(line, place, codec, recipe, is_clip=hears)
    )
    train(task, recipe.loop, place.run / "stage1")


def train_stage2(line: LineConfig, place: Place) -> None:
    """Step 4: everything on clips -> run/[variant/]stage2, and the finished model folder run/[variant/]model."""
    recipe, out = line.stage2, place.run / line.variant
    codec, audio_encoder = _load_codec(line, place), _load_audio(place)
    cache = _latents(line, place, codec, "train")
    torch.manual_seed(recipe.training.seed)
    loopy = LoopyModel(line.model)
    if place.start is None:
        new = load_stage1(loopy, place.run / "stage1" / WEIGHTS_NAME)
        said = f"stage 2 starts from stage 1 with {len(new)} new tensors"
    else:
        said = _go_on(loopy, place, place.start, audio_encoder)
    if is_main():
        print(said)
    preview = _preview(line, place, codec, recipe, is_clip=True)
    network = train(DenoiseTask(loopy, cache, recipe.training, preview=preview), recipe.loop, out / "stage2")
    if not is_main():
        return
    folder = out / "model"
    save_model(folder, network.cpu(), codec, audio_encoder.cpu(), line.model, storage=torch.float16)
    print(f"model folder: {folder}")


def prepare_latents(line: LineConfig, place: Place) -> LatentCache:
    """The latents that stage 1 and 2 make on first use. For runs side by side."""
    codec = _load_codec(line, place)
    if isinstance(codec, KLCodec):
        place.pixels(codec.size_px, "val")
    return _latents(line, place, codec, "train")


def start_loopy(loopy: LoopyModel, path: Path, but: tuple[str, ...] = ()) -> None:
    """Fill denoiser and reference net from a trained model of the same size; what begins with `but` stays as it is."""
    weights, wanted = load_file(path), loopy.state_dict()
    kept, expected = (
        {name: w for name, w in each.items() if not name.startswith(but)} for each in (weights, wanted)
    )
    shapes = [{name: tuple(w.shape) for name, w in each.items()} for each in (kept, expected)]
    report = mismatch_report(*shapes)
    if report:
        raise ValueError(f"{path} is not a model of this recipe's size:\n{report}")
    loopy.load_state_dict(wanted | kept)


def _go_on(loopy: LoopyModel, place: Place, start: Path, audio_encoder: AudioEncoder) -> str:
    """Fill a model from a model folder; returns what there is to say of it.

    Where the audio encoder is not the folder's own, the audio projection is fitted to it on speech of the data.
    """
    known = _frozen(load_audio_encoder(start / AUDIO_ENCODER_FOLDER))
    said = f"stage 2 goes on from {start}"
    if hears_like(known, audio_encoder):
        start_loopy(loopy, start / WEIGHTS_NAME)
        return said
    start_loopy(loopy, start / WEIGHTS_NAME, but=(PROJECTION,))
    old = load_weights(LoopyModel(load_config(start)), start / WEIGHTS_NAME)
    speech = (clip_sound(sample) for folder in place.data for sample in read_shards(folder, "train"))
    unexplained = refit_projection(
        loopy.audio_projection,
        old.audio_projection,
        new_encoder=audio_encoder,
        old_encoder=known,
        sounds=_first_minutes(speech),
    )
    return f"{said}, with another audio encoder ({unexplained:.1%} of what the old one said is not explained)"


def _first_minutes(sounds: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The first sounds, REFIT_S in all."""
    total = 0
    for sound in sounds:
        yield sound
        total += len(sound)
        if total >= REFIT_S * SAMPLE_RATE_HZ:
            return


def remember_start(place: Place) -> None:
    """A run keeps to the model it started from; another one (or none) on resuming is an error."""
    path = place.run / "start.json"
    start = None if place.start is None else _fingerprint(place.start)
    if not path.exists():
        make_folder(place.run)
        with replacing(path) as partial:
            partial.write_text(json.dumps({"start": start}) + "\n")
    known = read_settings(path).get("start")
    if known != start:
        raise ValueError(
            f"{place.run} was begun from {known or 'nothing'}, now from {start or 'nothing'}; "
            "give the same --start, or another --run folder"
        )


def _fingerprint(folder: Path) -> str:
    """The hash of a model folder's weights; an error where there is no model."""
    if not (folder / WEIGHTS_NAME).is_file():
        raise ValueError(f"{folder} is no model folder to start from: {WEIGHTS_NAME} is missing")
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return f"model {digest.hexdigest()[:16]}"


STEPS: dict[str, Callable[[LineConfig, Place], None]] = {
    "codec": make_codec,
    "audio": train_audio,
    "stage1": train_stage1,
    "stage2": train_stage2,
}
"""In the order in which they build on one another."""


def picture_model(config: LoopyConfig) -> LoopyConfig:
    """The stage-1 form of a model: single frames, no audio, no temporal layers (Loopy sec. 3.4)."""
    denoiser = replace(config.denoiser, temporal=None, audio=None, past_input=None)
    return replace(config, denoiser=denoiser, a2l=None)


def hearing_model(config: LoopyConfig) -> LoopyConfig:
    """A model of frames that hear, each by itself: what all variants of a stage 2 along time can start from.

    Not in the paper, whose stage 1 is `picture_model`. Without audio-to-latents, so that it favours nobody.
    """
    one = SegmentConfig(stride=1, expand_ratio=1, num_segments=1)
    denoiser = replace(config.denoiser, temporal=None, past_input=None)
    return replace(config, denoiser=denoiser, a2l=None, segments=one)


def _preview(
    line: LineConfig, place: Place, codec: Codec, recipe: DenoiseRecipe, *, is_clip: bool
) -> Preview:
    """Pictures or a video of held-out people; of face states the loss on held-out clips."""
    if isinstance(codec, RigCodec):
        return state_preview(_latents(line, place, codec, "val"), recipe.training, recipe.loop.precision)
    pixels = place.pixels(codec.size_px, "val")
    return clip_preview(codec, _load_audio(place), pixels) if is_clip else frame_preview(codec, pixels)


def _latents(line: LineConfig, place: Place, codec: Codec, split: Split) -> LatentCache:
    """Latents and audio features, made on first use on the device that trains."""
    device = torch.device(line.stage2.loop.device)
    out = place.run / "cache" / f"latents-{split}-{place.data_hash}"
    if is_distributed() and not (out / CACHE_NAME).exists():
        raise ValueError(
            f"{out} is made on first use, by one process: start this step once without torchrun, stop it when it "
            "trains, and start it with torchrun"
        )
    audio_encoder = _load_audio(place).to(device)
    if isinstance(codec, RigCodec):
        return build_state_cache(place.data, codec, audio_encoder, out, split=split, workers=CACHE_WORKERS)
    cache = build_latent_cache(place.pixels(codec.size_px, split), codec.to(device), audio_encoder, out)
    codec.cpu()
    return cache


def _load_codec(line: LineConfig, place: Place) -> Codec:
    return _frozen(load_codec(_trained(place, "codec", CODEC_FOLDER), line.model.size_px))


def _load_audio(place: Place) -> AudioEncoder:
    return _frozen(load_audio_encoder(_trained(place, "audio", AUDIO_ENCODER_FOLDER)))


def _trained(place: Place, step: str, part: str) -> Path:
    """A part that a step of this run made; where the run has no such step, the start's as it is."""
    own = place.run / step
    if place.start is not None and not own.exists() and (place.start / part).exists():
        return place.start / part
    if not (own / part).exists():
        raise ValueError(f"{own / part} is missing: run the '{step}' step in the same --run folder first")
    return own / part


def _frozen(network: nn.Module):
    return network.eval().requires_grad_(False)
