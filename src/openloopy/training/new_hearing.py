"""A trained model gets another audio encoder: the first layer of its audio projection is fitted again.

Not in the paper. The encoder is frozen while the denoiser learns, so the denoiser knows its hidden states only through
that layer; a linear one that gives from the new states what it gave from the old is where training goes on from.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from openloopy.models.audio_encoder import AudioEncoder, AudioFeatureReader
from openloopy.models.audio_projection import AudioProjection

RIDGE = 1e-3
"""Penalty, relative to the mean variance of a feature."""


def hears_like(a: AudioEncoder, b: AudioEncoder) -> bool:
    """Whether two encoders have the same settings and, in the half precision of model folders, the same weights."""
    if a.config != b.config:
        return False
    theirs = b.state_dict()
    return all(torch.equal(value.half(), theirs[name].half()) for name, value in a.state_dict().items())


@torch.inference_mode()
def refit_projection(
    new: AudioProjection,
    old: AudioProjection,
    *,
    new_encoder: AudioEncoder,
    old_encoder: AudioEncoder,
    sounds: Iterable[np.ndarray],
) -> float:
    """Fill `new` so that it makes of the new encoder's hidden states what `old` makes of the old one's.

    Args:
        sounds: `samples` each, 16 kHz; some ten minutes of speech in all.

    Returns:
        The share of the variance after the first layer that is not explained.

    Raises:
        ValueError: no sound, or tokens of another width or window.
    """
    own = new.state_dict()
    kept = {name: value for name, value in old.state_dict().items() if name not in _FIRST_LAYER}
    if any(own[name].shape != value.shape for name, value in kept.items()):
        raise ValueError(
            "the audio tokens of the two models differ in width or window; only the audio encoder may change"
        )
    pairs = [(_heard(new_encoder, sound), _heard(old_encoder, sound)) for sound in sounds]
    if not pairs:
        raise ValueError("no sound to fit the audio projection on; give data with speech")
    states, before = (torch.cat(part) for part in zip(*pairs, strict=True))
    wanted = old.linear_1(old.norm(before)).double()
    given = torch.nn.functional.layer_norm(states, states.shape[-1:]).double()
    weight, bias = _ridge(given, wanted)
    first = {
        "norm.weight": torch.ones_like(own["norm.weight"]),
        "norm.bias": torch.zeros_like(own["norm.bias"]),
        "linear_1.weight": weight.T.to(own["linear_1.weight"]),
        "linear_1.bias": bias.to(own["linear_1.bias"]),
    }
    new.load_state_dict(kept | first)
    rest = wanted - given @ weight - bias
    return float(rest.var(0).sum() / wanted.var(0).sum())


_FIRST_LAYER = ("norm.weight", "norm.bias", "linear_1.weight", "linear_1.bias")


def _heard(encoder: AudioEncoder, sound: np.ndarray) -> Tensor:
    """Hidden states of all frames, `f l*w`."""
    reader = AudioFeatureReader(encoder, sound)
    return reader.window(0, reader.num_frames).flatten(1).float()


def _ridge(given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `i o` and bias `o` of the best linear map."""
    mean_in, mean_out = given.mean(0), wanted.mean(0)
    centred = given - mean_in
    square = centred.T @ centred
    penalty = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    weight = torch.linalg.solve(square + penalty, centred.T @ (wanted - mean_out))
    return weight, mean_out - mean_in @ weight
