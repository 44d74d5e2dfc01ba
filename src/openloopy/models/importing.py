"""A model folder out of other projects' weights, with a report of every tensor: where it went, or why it did not.

The denoiser's convolutions, self-attention and feed-forward come from a U-Net of Stable Diffusion 1.x; so does the
reference net, whose timestep becomes part of its biases (Loopy sec. 3.1: both start from Stable Diffusion). Its
cross-attention to text has no place here: cross-attention to audio, audio-to-latents and the inter-clip layers are new.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openloopy.diffusion.schedule import ScheduleConfig
from openloopy.models.audio_encoder import AudioEncoder
from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.codec import KLCodec
from openloopy.models.denoiser import DenoiserConfig
from openloopy.models.folder import save_model
from openloopy.models.import_sources import Source, Tensors, read_source
from openloopy.models.loopy import GenerationDefaults, LoopyConfig, LoopyModel
from openloopy.models.reference_net import fold_timestep
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import UNetConfig

REPORT_FILE = "import.json"
TEXT = "cross-attention to text or to a face"
AFTER_LAST = "after the reference net's last self-attention"
NO_LAYER = "for a layer that this model has not"
FOLDED = "the timestep, folded into biases"


@dataclass
class Coverage:
    """What became of one source's tensors in one part of the model. Names are the model's, where it has them."""

    source: str
    taken: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    """Not kept as tensors, but in others' values; exact."""
    left: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> names."""

    def leave(self, reason: str, name: str) -> None:
        self.left.setdefault(reason, []).append(name)


@dataclass(frozen=True)
class ImportReport:
    """Part -> coverage, and the model's tensors that no source filled."""

    parts: dict[str, Coverage]
    new: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {"parts": {part: vars(coverage) for part, coverage in self.parts.items()}, "new": self.new}

    def summary(self) -> str:
        """A line per part and reason, without names."""
        lines = []
        for part, coverage in self.parts.items():
            counts = {"taken": coverage.taken, "reshaped": coverage.reshaped, "folded": coverage.folded}
            shown = ", ".join(f"{len(names)} {what}" for what, names in counts.items() if names)
            lines.append(f"{part}, from {coverage.source}: {shown}")
            lines += [f"    left {len(names)}: {reason}" for reason, names in coverage.left.items()]
        groups = _grouped(self.new)
        lines.append(f"new, to be trained: {len(self.new)} tensors")
        lines += [f"    {count} of {group}" for group, count in groups.items()]
        return "\n".join(lines)


def import_model(
    sources: list[Path],
    out: Path,
    *,
    size_px: int = 512,
    storage: torch.dtype = torch.float16,
    seed: int = 0,
) -> ImportReport:
    """Write a model folder from other projects' weights; it appears at `out` only when it is whole.

    Args:
        sources: files and folders, see `import_sources`; of two that hold the same part, the later one wins.
        size_px: side of the pictures.
        storage: dtype of the weights on disk.
        seed: of the parts that no source has.

    Raises:
        ValueError: a source cannot be read, or the sources together lack a part.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; give the name of a new folder")
    read = [read_source(Path(path), size_px) for path in sources]
    unet = _last(read, "denoiser", "Stable Diffusion 1.x (or Hallo, or Moore-AnimateAnyone)")
    codec = _last(read, "codec", "sd-vae-ft-mse, or Stable Diffusion with its vae/").codec
    audio = _last(read, "audio", "wav2vec2-base-960h, a folder in transformers' format").audio
    motion = next((source for source in reversed(read) if source.motion), None)
    config = model_config(out.name, unet, motion, codec, audio, size_px)
    # At once in the dtype of the file: the paper's size takes 9 GB in float32.
    default = torch.get_default_dtype()
    torch.set_default_dtype(storage)
    try:
        torch.manual_seed(seed)
        loopy = LoopyModel(config)
    finally:
        torch.set_default_dtype(default)
    report = _fill(loopy, unet, motion)
    _write(out, loopy, codec, audio, storage=storage, report=report)
    return report


def model_config(
    name: str,
    unet: Source,
    motion: Source | None,
    codec: KLCodec,
    audio: AudioEncoder,
    size_px: int,
) -> LoopyConfig:
    """The settings that fit the weights: sizes from their shapes, prediction and schedule from their kind."""
    schedule = {}
    if unet.is_zero_snr:
        schedule = dict(
            prediction="v",
            schedule=ScheduleConfig(kind="linear", zero_terminal_snr=True),
            defaults=GenerationDefaults(spacing="trailing"),
        )
    shape = unet_config(unet.denoiser)
    if codec.latent_channels != shape.in_channels:
        raise ValueError(
            f"the autoencoder has {codec.latent_channels} latent channels, the U-Net {shape.in_channels}; "
            "they belong to different models"
        )
    temporal = TemporalConfig(intra="attention" if motion is None else "transformer")
    sound = AudioProjectionConfig(num_layers=audio.num_layers, layer_width=audio.width)
    denoiser = DenoiserConfig(unet=shape, temporal=temporal, audio=sound)
    return LoopyConfig(name=name, size_px=size_px, denoiser=denoiser, **schedule)


def unet_config(tensors: Tensors) -> UNetConfig:
    """The shape of a Stable Diffusion 1.x U-Net from its tensors; heads and norm groups are always 8 and 32."""
    levels = 1 + max(int(m[1]) for m in (re.match(r"down_blocks\.(\d+)\.", name) for name in tensors) if m)
    first = [tensors[f"down_blocks.{i}.resnets.0.conv1.weight"] for i in range(levels)]
    depth = {m[1] for m in (re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name) for name in tensors) if m}
    context = [w for n, w in tensors.items() if n.endswith("transformer_blocks.0.attn2.to_k.weight")]
    time_dim = len(tensors["time_embedding.linear_1.weight"])
    return UNetConfig(
        block_channels=tuple(len(w) for w in first),
        layers_per_block=len(depth),
        attention_levels=tuple(
            any(name.startswith(f"down_blocks.{i}.attentions.") for name in tensors) for i in range(levels)
        ),
        context_dim=context[0].shape[1] if context else 768,
        time_multiplier=time_dim // len(first[0]),
    )


def _last(sources: list[Source], part: str, what: str) -> Source:
    having = [source for source in sources if getattr(source, part) is not None]
    if not having:
        given = ", ".join(f"{source.path} ({source.kind})" for source in sources)
        names = {"denoiser": "U-Net", "codec": "autoencoder", "audio": "audio encoder"}
        raise ValueError(f"no {names[part]} among the sources ({given}); add {what}")
    return having[-1]


def _fill(loopy: LoopyModel, unet: Source, motion: Source | None) -> ImportReport:
    state = loopy.state_dict()
    parts = {
        "denoiser": _fill_part(state, "denoiser.", unet.denoiser, Coverage(f"{unet.path} ({unet.kind})")),
        "reference_net": _fill_reference(state, unet),
    }
    if motion is not None:
        coverage = Coverage(f"{motion.path} ({motion.kind})")
        parts["intra-clip layers"] = _fill_part(state, "denoiser.", motion.motion, coverage)
    for name in unet.others:
        parts["denoiser"].leave("other networks in the same file", name)
    filled = {name for coverage in parts.values() for name in (*coverage.taken, *coverage.reshaped)}
    return ImportReport(parts, [name for name in state if name not in filled])


def _fill_part(state: Tensors, prefix: str, tensors: Tensors, coverage: Coverage) -> Coverage:
    """Copy tensors into those of the model, in place."""
    for name, value in tensors.items():
        ours = prefix + name
        if _is_text(name):
            coverage.leave(TEXT, name)
        elif ours not in state:
            coverage.leave(AFTER_LAST if prefix == "reference_net." else NO_LAYER, name)
        else:
            fitted = _fitted(value, state[ours], ours)
            state[ours].copy_(fitted)
            (coverage.taken if fitted is value else coverage.reshaped).append(ours)
    return coverage


def _fill_reference(state: Tensors, unet: Source) -> Coverage:
    coverage = Coverage(f"{unet.path} ({unet.kind})")
    folded = fold_timestep(unet.reference)
    coverage.folded = [name for name in unet.reference if name not in folded]
    return _fill_part(state, "reference_net.", folded, coverage)


def _fitted(value: Tensor, wanted: Tensor, name: str) -> Tensor:
    """The tensor in the model's shape: 1x1 convolutions kept as matrices, position tables longer than needed."""
    if value.shape == wanted.shape:
        return value
    if wanted.ndim == 4 and value.shape == wanted.shape[:2] and wanted.shape[2:] == (1, 1):
        return value[:, :, None, None]
    is_table = name.endswith("frame_embedding")
    if is_table and value.shape[1:] == wanted.shape[1:] and len(value) > len(wanted):
        return value[: len(wanted)]
    raise ValueError(
        f"{name}: the source's shape is {tuple(value.shape)}, expected {tuple(wanted.shape)}; "
        "the weights belong to another model"
    )


def _is_text(name: str) -> bool:
    return ".temporal." not in name and (
        ".transformer_blocks.0.attn2." in name or ".transformer_blocks.0.norm2." in name
    )


def _write(
    out: Path,
    loopy: LoopyModel,
    codec: KLCodec,
    audio: AudioEncoder,
    *,
    storage: torch.dtype,
    report: ImportReport,
) -> None:
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_model(partial, loopy, codec, audio, loopy.config, storage=storage)
        (partial / REPORT_FILE).write_text(json.dumps(report.to_dict(), indent=1) + "\n", "utf-8")
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _grouped(names: list[str]) -> dict[str, int]:
    """How many of the new tensors belong to what."""
    groups: dict[str, int] = {}
    for name in names:
        group = next((label for key, label in _NEW_GROUPS.items() if key in name), "others")
        groups[group] = groups.get(group, 0) + 1
    return groups


_NEW_GROUPS = {
    ".attn2.": "cross-attention to audio",
    ".transformer_blocks.0.norm2.": "cross-attention to audio",
    ".intra.": "the intra-clip layers",
    ".temporal.": "the inter-clip layers",
    "audio_projection.": "the audio projection",
    "a2l.": "audio-to-latents",
}
