"""The whole line from shards to a model folder, as one configuration and steps that resume.

    codec -> audio -> stage 1 -> decoder, stage 2 -> model folder

Each step finds what it builds on in the same run folder, and says which command is missing if it is not there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from openloopy.data.cache import LatentCache, PixelCache, build_pixel_cache, shards_sha256
from openloopy.models.audio_encoder import AudioEncoder, AudioEncoderConfig, load_audio_encoder
from openloopy.models.folder import find_model_folder, save_model
from openloopy.models.growth import fold_reference_net, grow_codec
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.reference_decoder import ReferenceCodecConfig
from openloopy.models.segments import SegmentConfig
from openloopy.models.vae import CODEC_WEIGHTS, FIRST_CODEC_KIND, ReferenceCodec, load_codec
from openloopy.models.weight_files import load_weights, mismatch_report
from openloopy.puppet.augment import augment
from openloopy.recipes.preview import clip_preview, frame_preview
from openloopy.recipes.speech_bank import SpeechBankConfig, build_speech_bank
from openloopy.training.audio import AudioTask, AudioTrainingConfig
from openloopy.training.codec import CodecTask, CodecTrainingConfig
from openloopy.training.denoise import WEIGHTS_NAME, DenoiseTask, load_stage1
from openloopy.training.features import build_latent_cache
from openloopy.training.loop import LoopConfig, train
from openloopy.training.probe import ProbeConfig, ProbeTask, StateProbe
from openloopy.training.stages import StageConfig

CACHE_WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class CodecRecipe:
    """The picture autoencoder."""

    model: ReferenceCodecConfig
    training: CodecTrainingConfig
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class AudioRecipe:
    """The audio encoder and the speech it learns from."""

    model: AudioEncoderConfig
    bank: SpeechBankConfig
    held_out: SpeechBankConfig
    training: AudioTrainingConfig
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class DenoiseRecipe:
    """One stage of the denoiser."""

    training: StageConfig
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe:
    """What reads lip gap and eye opening from latents, for stage 2's state loss."""

    training: ProbeConfig
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    """All steps; `model` is the finished model's configuration."""

    codec: CodecRecipe
    decoder: CodecRecipe | None
    """The codec's training goes on with its encoder frozen; the same model. None: it does not."""
    audio: AudioRecipe | None
    """None: the lender's audio encoder is used as it is."""
    model: LoopyConfig
    stage1: DenoiseRecipe
    """With `training.number` 2 its frames are clips without layers along time, which hear (see `hearing_model`)."""
    stage2: DenoiseRecipe
    probe: ProbeRecipe
    variant: str = ""
    """Stage 2 and the model lie in a folder of this name, so that several share the other steps; "": in the run's."""
    lender: str = ""
    """A model from whose codec this line's grows, and whose audio encoder it uses; "": nothing is lent."""

    def __post_init__(self) -> None:
        if self.audio is None and not self.lender:
            raise ValueError("a line without audio training needs a lender for its audio encoder")

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps of this line, in order."""
        absent = {name for name in ("decoder", "audio") if getattr(self, name) is None}
        return tuple(name for name in STEPS if name not in absent)


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes.

    data: folders of shards; run: the run folder, with one subfolder per step;
    start: a model folder to go on from; None: from nothing.
    """

    data: tuple[Path, ...]
    run: Path
    start: Path | None = None

    @property
    def data_hash(self) -> str:
        """Eight digits that stand for the data."""
        return shards_sha256(self.data)[:8]

    def pixels(self, size_px: int, split: str) -> PixelCache:
        """Decoded frames at the codec's size, made on first use; other data get another cache."""
        out = self.run / "cache" / f"pixels-{split}-{size_px}-{self.data_hash}"
        return build_pixel_cache(self.data, out, size_px=size_px, split=split, workers=CACHE_WORKERS)


def train_codec(line: LineConfig, place: Place) -> None:
    """Step 1: the autoencoder -> run/codec/vae."""
    recipe = line.codec
    torch.manual_seed(recipe.training.seed)
    codec = ReferenceCodec(recipe.model)
    if place.start is not None:
        start_codec(codec, place.start / "vae")
    elif line.lender:
        start_codec(codec, find_model_folder(line.lender) / "vae")
    pixels = place.pixels(recipe.model.size_px, "train")
    train(CodecTask(codec, pixels, recipe.training), recipe.loop, place.run / "codec")


def train_decoder(line: LineConfig, place: Place) -> None:
    """Between steps 3 and 4, or beside step 4: the autoencoder's decoder goes on learning -> run/decoder/vae."""
    recipe = line.decoder
    torch.manual_seed(recipe.training.seed)
    codec = load_codec(_codec_folder(place), recipe.model.size_px)
    pixels = place.pixels(recipe.model.size_px, "train")
    train(CodecTask(codec, pixels, recipe.training), recipe.loop, place.run / "decoder")


def train_audio(line: LineConfig, place: Place) -> None:
    """Step 2: the audio encoder -> run/audio/audio_encoder. Needs no pictures; may run beside step 1."""
    recipe, folder = line.audio, place.run / "audio"
    torch.manual_seed(recipe.training.seed)
    encoder = AudioEncoder(recipe.model)
    if place.start is not None:
        encoder.load_state_dict(load_audio_encoder(place.start / "audio_encoder").state_dict())
    task = AudioTask(
        encoder,
        build_speech_bank(recipe.bank, "train", folder / "speech-train.npz"),
        build_speech_bank(recipe.held_out, "val", folder / "speech-val.npz"),
        config=recipe.training,
        augment=augment,
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
    hears, pixels = recipe.training.number == 2, place.pixels(codec.size_px, "val")
    task = DenoiseTask(
        LoopyModel(hearing_model(line.model) if hears else picture_model(line.model)),
        cache,
        recipe.training,
        preview=clip_preview(codec, _load_audio(line, place), pixels)
        if hears
        else frame_preview(codec, pixels),
        probe=_probe(line, place, codec) if recipe.training.state_weight else None,
    )
    train(task, recipe.loop, place.run / "stage1")


def train_stage2(line: LineConfig, place: Place) -> None:
    """Step 4: everything on clips -> run/[variant/]stage2, and the finished model folder run/[variant/]model."""
    recipe, out = line.stage2, place.run / line.variant
    codec, audio_encoder = _load_codec(line, place), _load_audio(line, place)
    cache = _latents(line, place, codec, "train")
    torch.manual_seed(recipe.training.seed)
    loopy = LoopyModel(line.model)
    if place.start is None:
        new = load_stage1(loopy, place.run / "stage1" / WEIGHTS_NAME)
        print(f"stage 2 starts from stage 1 with {len(new)} new tensors")
    else:
        start_loopy(loopy, place.start / WEIGHTS_NAME)
        print(f"stage 2 goes on from {place.start}")
    task = DenoiseTask(
        loopy,
        cache,
        recipe.training,
        preview=clip_preview(codec, audio_encoder, place.pixels(codec.size_px, "val")),
        probe=_probe(line, place, codec) if recipe.training.state_weight else None,
    )
    network = train(task, recipe.loop, out / "stage2")
    codec = _frozen(load_codec(_finished_codec(place), codec.size_px))
    folder = out / "model"
    save_model(folder, network.cpu(), codec, audio_encoder.cpu(), line.model, storage=torch.float16)
    print(f"model folder: {folder}")


def prepare_latents(line: LineConfig, place: Place) -> LatentCache:
    """What stage 1 and 2 make on first use: latents and, where they need one, the probe. For runs side by side."""
    codec = _load_codec(line, place)
    cache = _latents(line, place, codec, "train")
    place.pixels(codec.size_px, "val")
    if line.stage1.training.state_weight or line.stage2.training.state_weight:
        _probe(line, place, codec)
    return cache


def start_codec(codec: ReferenceCodec, folder: Path) -> None:
    """Fill a codec from a trained one of the same size, or grow it from one of the first version."""
    settings = json.loads((folder / "config.json").read_text())
    if settings.get("kind") == FIRST_CODEC_KIND:
        new = grow_codec(codec, folder / CODEC_WEIGHTS)
        print(f"the autoencoder grows from {folder}: {len(new)} new tensors")
    else:
        load_weights(codec, folder / CODEC_WEIGHTS)


def start_loopy(loopy: LoopyModel, path: Path) -> None:
    """Fill denoiser and reference net from a trained model of the same size, older forms included.

    What older forms lack begins anew: audio-to-latents of before its query was normalised, the last frame's input.
    """
    weights, wanted = fold_reference_net(load_file(path)), loopy.state_dict()
    new = {name for name in wanted if name.startswith("denoiser.last_frame_in.") and name not in weights}
    if "a2l.log_temperature" in wanted and "a2l.log_temperature" not in weights:
        weights = {name: value for name, value in weights.items() if not name.startswith("a2l.")}
        new |= {name for name in wanted if name.startswith("a2l.")}
    expected = {name: tuple(value.shape) for name, value in wanted.items() if name not in new}
    report = mismatch_report({name: tuple(value.shape) for name, value in weights.items()}, expected)
    if report:
        raise ValueError(f"{path} is not a model of this recipe's size:\n{report}")
    loopy.load_state_dict(wanted | weights)


def remember_start(place: Place) -> None:
    """A run keeps to the model it started from; another one (or none) on resuming is an error."""
    path = place.run / "start.json"
    start = None if place.start is None else _fingerprint(place.start)
    if not path.exists():
        place.run.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"start": start}) + "\n")
    known = json.loads(path.read_text())["start"]
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


STEPS = {
    "codec": train_codec,
    "audio": train_audio,
    "stage1": train_stage1,
    "decoder": train_decoder,
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


def _probe(line: LineConfig, place: Place, codec: ReferenceCodec) -> StateProbe:
    """The state probe of this run's latents, trained on first use."""
    recipe = replace(line.probe, loop=replace(line.probe.loop, device=line.stage2.loop.device))
    torch.manual_seed(recipe.training.seed)
    caches = [_latents(line, place, codec, split) for split in ("train", "val")]
    return _frozen(train(ProbeTask(*caches, recipe.training), recipe.loop, place.run / "probe"))


def _latents(line: LineConfig, place: Place, codec: ReferenceCodec, split: str) -> LatentCache:
    """Latents and audio features, made on first use on the device that trains."""
    device = torch.device(line.stage2.loop.device)
    out = place.run / "cache" / f"latents-{split}-{place.data_hash}"
    audio_encoder = _load_audio(line, place).to(device)
    cache = build_latent_cache(place.pixels(codec.size_px, split), codec.to(device), audio_encoder, out)
    codec.cpu()
    return cache


def _finished_codec(place: Place) -> Path:
    """The codec with the decoder that learned longest; the latents are the same."""
    better = place.run / "decoder" / "vae"
    return better if better.exists() else _codec_folder(place)


def _load_codec(line: LineConfig, place: Place) -> ReferenceCodec:
    return _frozen(load_codec(_codec_folder(place), line.codec.model.size_px))


def _load_audio(line: LineConfig, place: Place) -> AudioEncoder:
    if line.audio is None:
        return _frozen(load_audio_encoder(find_model_folder(line.lender) / "audio_encoder"))
    return _frozen(load_audio_encoder(_trained(place, "audio", "audio_encoder")))


def _codec_folder(place: Place) -> Path:
    return _trained(place, "codec", "vae")


def _trained(place: Place, step: str, part: str) -> Path:
    """A part that a step of this run trained; where the run has no such step, the start's as it is."""
    own = place.run / step
    if place.start is not None and not own.exists() and (place.start / part).exists():
        return place.start / part
    if not (own / part).exists():
        raise ValueError(f"{own / part} is missing: train the '{step}' step in the same --run folder first")
    return own / part


def _frozen(network: nn.Module):
    return network.eval().requires_grad_(False)
