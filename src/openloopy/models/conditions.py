"""What the denoiser is told besides the noisy latents, as frozen types.

The tensor legend of the project: `b` batch, `f` frames of the clip, `m` history frames, `s` kept motion frames,
`c h w` latents, `H W` pixels, `n` tokens (latent positions, h * w), `d` width, `k` audio tokens per frame;
`t` is always the diffusion timestep.

Source: Loopy (arXiv:2409.02634), sec. 3.2 (reference and motion features), 3.3 (audio), 3.4 (masks and dropout).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

TensorRecord = TypeVar("TensorRecord")


@dataclass(frozen=True)
class LayerFeatures:
    """What the reference net saw at one attention layer.

    Attributes:
        reference: tokens that enter the layer's self-attention (normalised), `b n d`.
        motion: the motion frames' features entering the layer, `b s n d`; zero where a frame is missing.
    """

    reference: Tensor
    motion: Tensor


@dataclass(frozen=True)
class ReferenceFeatures:
    """One entry per attention layer, in the order of execution; `motion_mask` is `b s`, 1 = present."""

    layers: tuple[LayerFeatures, ...]
    motion_mask: Tensor


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, projected once per clip by the denoiser.

    Attributes:
        reference_k, reference_v: `b heads n dh`.
        motion_k, motion_v: `(b n) heads s dh`; None in a denoiser without temporal layers.
    """

    reference_k: Tensor
    reference_v: Tensor
    motion_k: Tensor | None
    motion_v: Tensor | None


@dataclass(frozen=True)
class ReferenceCache:
    """One entry per attention layer, in the order of execution; `motion_mask` is `b s`, 1 = present."""

    layers: tuple[LayerCache, ...]
    motion_mask: Tensor


@dataclass(frozen=True)
class LayerAudio:
    """Keys and values of a clip's audio tokens in one layer, projected once per clip: `b f heads k dh` each."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class AudioCache:
    """One entry per attention layer, in the order of execution. The projections have no bias: zero = no audio."""

    layers: tuple[LayerAudio, ...]

    def scaled(self, keep: Tensor) -> AudioCache:
        """Each sample times its entry of `b`."""
        return AudioCache(
            tuple(
                LayerAudio(*(scale_samples(part, keep) for part in (layer.k, layer.v)))
                for layer in self.layers
            )
        )


@dataclass(frozen=True)
class Conditions:
    """Everything that conditions one denoising call.

    Attributes:
        reference: features of the reference picture and the motion frames, of batch `b` or of a divisor of it: several
            guidance branches of the same samples share one (see `cat`). None: no reference at all.
        reference_latents: `b c h w`, for denoisers that also see them at the input.
        audio_tokens: `b f k d`, zero = no audio, or what each layer makes of them; None for a denoiser without audio
            layers.
        motion_latents: `b f d` (`b 1 d` when equal for all frames), added to the timestep embedding; None: nothing is.
        keep_reference: `b`, 1 or 0; 0 hides the reference tokens from self-attention.
        keep_motion: `b`, 1 or 0; 0 hides the motion tokens from the inter-clip layers. (A missing motion frame is not
            hidden: it is seen as zeros.)
        last_frames: `b 2c+1 h w`, see `LoopyModel.last_frames`; zero = there is none; None where the denoiser has no
            such input.
    """

    reference: ReferenceFeatures | ReferenceCache | None
    reference_latents: Tensor
    audio_tokens: Tensor | AudioCache | None
    motion_latents: Tensor | None
    keep_reference: Tensor
    keep_motion: Tensor
    last_frames: Tensor | None = None

    def drop(self, *, keep_audio: Tensor, keep_motion_latents: Tensor, keep_reference: Tensor) -> Conditions:
        """Training dropout (Loopy sec. 3.4): each mask is `b`, 1 or 0. Without the reference the motion goes as well.

        Motion frames that are to be zeroed on their own are masked before the reference net (`motion_mask`).
        """
        audio = self.audio_tokens
        is_cached = isinstance(audio, AudioCache)
        return replace(
            self,
            reference_latents=scale_samples(self.reference_latents, keep_reference),
            audio_tokens=audio.scaled(keep_audio) if is_cached else scale_samples(audio, keep_audio),
            motion_latents=scale_samples(self.motion_latents, keep_motion_latents),
            keep_reference=self.keep_reference * keep_reference,
            keep_motion=self.keep_motion * keep_reference,
            last_frames=scale_samples(self.last_frames, keep_reference),
        )

    def without_audio(self) -> Conditions:
        """The `e_ref` branch of guidance: audio tokens and motion latents are zero."""
        keep, drop = torch.ones_like(self.keep_reference), torch.zeros_like(self.keep_reference)
        return self.drop(keep_audio=drop, keep_motion_latents=drop, keep_reference=keep)

    def without_reference(self) -> Conditions:
        """The `e_base` branch of guidance: neither audio, nor reference, nor motion frames."""
        drop = torch.zeros_like(self.keep_reference)
        return self.drop(keep_audio=drop, keep_motion_latents=drop, keep_reference=drop)

    @staticmethod
    def cat(branches: Sequence[Conditions]) -> Conditions:
        """Several conditions as one batch, one after the other.

        Branches that hold the very same `reference` object go on sharing it: it is not copied.
        """
        reference = branches[0].reference
        if any(branch.reference is not reference for branch in branches):
            reference = cat_records([branch.reference for branch in branches])
        audio = [branch.audio_tokens for branch in branches]
        is_cached = any(isinstance(part, AudioCache) for part in audio)
        return Conditions(
            reference=reference,
            audio_tokens=cat_records(audio) if is_cached else cat_tensors(audio),
            **{
                field.name: cat_tensors([getattr(branch, field.name) for branch in branches])
                for field in fields(Conditions)
                if field.name not in ("reference", "audio_tokens")
            },
        )


def scale_samples(x: Tensor | None, keep: Tensor) -> Tensor | None:
    """Multiply each sample of `b ...` by its entry of `b`; None stays None."""
    return None if x is None else x * keep.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def cat_tensors(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate along the batch; absent in one branch must be absent in all."""
    if all(tensor is None for tensor in tensors):
        return None
    if any(tensor is None for tensor in tensors):
        raise ValueError(
            "some of the conditions have a part that others lack (None); give all of them the same parts"
        )
    return torch.cat(list(tensors))


def cat_records(records: Sequence[TensorRecord]) -> TensorRecord:
    """Concatenate dataclasses of tensors (features or caches) along the batch, field by field."""
    first = records[0]
    if any(type(record) is not type(first) for record in records):
        raise ValueError(
            f"cannot join {[type(record).__name__ for record in records]}; give all branches the same kind"
        )
    values = {}
    for field in fields(first):
        parts = [getattr(record, field.name) for record in records]
        is_layers = isinstance(parts[0], tuple)
        values[field.name] = (
            tuple(map(cat_records, zip(*parts, strict=True))) if is_layers else cat_tensors(parts)
        )
    return type(first)(**values)
