"""The face state as latents: the codec of models whose portrait itself moves (`rig`).

A frame's latents are its face state, normalised, as one token for each part of the face: `c 1 3` (`rig.state`). The
slots that the smaller parts leave free say who it is: the shape of the person, the same in all frames. The head's pose
is that about the middle of the clip, or about the portrait's own: people move about where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openloopy.rig.drawing import Drawing
from openloopy.rig.field import NOTHING_OUTSIDE
from openloopy.rig.from_picture import rig_of
from openloopy.rig.portrait_rig import PortraitRig
from openloopy.rig.state import INDEX, NAMES, PARTS, STATE_VERSION, TOKEN_WIDTH, State, from_tokens, to_tokens

HEAD = [INDEX[value.name] for value in PARTS["head"]]
SHAPE_NAMES = ("face_width", "mouth_width", "nose_length", "lip_height")
"""What is said of a person's shape; see `person_shape`."""
SHAPE_SLOTS = tuple(
    (slot, token) for token, part in enumerate(PARTS.values()) for slot in range(len(part), TOKEN_WIDTH)
)
"""Channel and token of each of SHAPE_NAMES: the free slots, in order."""
MAX_DEVIATION = 4.0
"""A portrait's own state and shape are kept within so many standard deviations of the training data."""
SOURCE_SHARE = 1.5
"""Pixels of the portrait along each side, per pixel of the pictures: what is enlarged a little stays sharp."""


@dataclass(frozen=True, eq=False)
class Portrait:
    """The square picture that is animated.

    Attributes:
        rgb: `S S 3` uint8, the crop about the face (`face.crop`).
        mesh: its face mesh in px of rgb, `478 3`; None: it is looked for, where it is needed.
        still_sides: sides at which nothing moves, of "left", "top", "right", "bottom": where the picture goes on, a
            seam would show.
        outside: how much of the square lies beyond the picture that it was cut from (`Crop.outside`).
    """

    rgb: np.ndarray
    mesh: np.ndarray | None = None
    still_sides: tuple[str, ...] = ()
    outside: tuple[float, float, float, float] = NOTHING_OUTSIDE

    def __post_init__(self) -> None:
        side = self.rgb.shape[0]
        if self.rgb.ndim != 3 or self.rgb.shape != (side, side, 3) or self.rgb.dtype != np.uint8:
            raise ValueError(
                f"expected a square portrait `S S 3` of uint8, got {self.rgb.shape} {self.rgb.dtype}; "
                "crop it with face.crop.portrait_crop and apply_crop"
            )


@dataclass(frozen=True, eq=False)
class PreparedRig:
    """A portrait, ready to be moved; latents: its own state, `1 c 1 3`."""

    latents: Tensor
    rig: PortraitRig
    size_px: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of this portrait."""
        return self.rig.notes


class RigCodec(nn.Module):
    """Face states <-> latents of about unit variance; pictures are the portrait, moved."""

    latent_channels = TOKEN_WIDTH
    latent_shape = (TOKEN_WIDTH, 1, len(PARTS))
    makes_any_size, computes_apart = True, True

    def __init__(self, size_px: int = 512) -> None:
        super().__init__()
        self.size_px = size_px
        for name, count in (("state", len(NAMES)), ("shape", len(SHAPE_NAMES))):
            self.register_buffer(f"{name}_mean", torch.zeros(count))
            self.register_buffer(f"{name}_scale", torch.ones(count))

    def settings(self) -> dict[str, Any]:
        """What its numbers refer to, for JSON."""
        return {"state_version": STATE_VERSION, "states": list(NAMES), "shape": list(SHAPE_NAMES)}

    @staticmethod
    def check_settings(settings: dict[str, Any], place: Path) -> None:
        """Refuse numbers that refer to another list of states."""
        ours = RigCodec().settings()
        if settings != ours:
            raise ValueError(
                f"{place} is of face states version {settings.get('state_version')}, of other names or order than "
                f"version {STATE_VERSION} that this openloopy has; use the openloopy that made it"
            )

    def encode_states(self, states: np.ndarray, shape: np.ndarray) -> np.ndarray:
        """States `f n`, the head's pose about its middle, and the person's shape `4` -> latents `f c 1 3`."""
        tokens = to_tokens((states - _array(self.state_mean)) / _array(self.state_scale)).astype(np.float32)
        person = (shape - _array(self.shape_mean)) / _array(self.shape_scale)
        for value, (slot, token) in zip(person, SHAPE_SLOTS, strict=True):
            tokens[..., slot, 0, token] = np.clip(value, -MAX_DEVIATION, MAX_DEVIATION)
        return tokens

    def decode_states(self, latents: Tensor) -> np.ndarray:
        """Latents `f c 1 3` -> states `f n` float32."""
        normalised = from_tokens(latents.detach().float().cpu().numpy())
        return normalised * _array(self.state_scale) + _array(self.state_mean)

    @staticmethod
    def seen_slots(seen: np.ndarray) -> np.ndarray:
        """Which slots of latents say something, `c 1 3` of 0 and 1, where `n` bool of the states are known."""
        slots = to_tokens(seen.astype(np.uint8))
        for slot, token in SHAPE_SLOTS:
            slots[slot, 0, token] = 1
        return slots

    def source_px(self, size_px: int) -> int:
        """Side of the portrait that is wanted for pictures of a size."""
        return round(SOURCE_SHARE * size_px)

    def prepare(self, portrait: Portrait, size_px: int) -> PreparedRig:
        """The portrait's rig, and its own state as the reference, the head in its middle."""
        rig = rig_of(portrait.rgb, portrait.mesh, still_sides=portrait.still_sides, outside=portrait.outside)
        own = np.array([[rig.own[name] for name in NAMES]], np.float32)
        own[:, HEAD] = 0
        deviation = (own - _array(self.state_mean)) / _array(self.state_scale)
        own = np.clip(deviation, -MAX_DEVIATION, MAX_DEVIATION) * _array(self.state_scale) + _array(
            self.state_mean
        )
        latents = torch.from_numpy(self.encode_states(own, person_shape(rig.neutral_points68[None])))
        return PreparedRig(latents.to(self.state_mean.device), rig, size_px)

    def decode(self, clips: Iterable[Tensor], prepared: PreparedRig, at_once: int) -> Iterator[np.ndarray]:
        """Pictures `size size 3` uint8 of clips of latents `f c 1 3`; up to at_once are drawn side by side.

        After a clip without frames none waits for the next.
        """
        with Drawing(prepared.rig, prepared.size_px, at_once) as drawing:
            yield from drawing.frames(self._states_of(clips, prepared))

    def _states_of(self, clips: Iterable[Tensor], prepared: PreparedRig) -> Iterator[State | None]:
        for latents in clips:
            yield from self._states(latents, prepared) if len(latents) else (None,)

    def _states(self, latents: Tensor, prepared: PreparedRig) -> Iterator[State]:
        """The states of latents `f c 1 3`, the head's pose about the portrait's own."""
        states = self.decode_states(latents)
        states[:, HEAD] += np.array([prepared.rig.own[name] for name in NAMES], np.float32)[HEAD]
        for values in states:
            yield dict(zip(NAMES, map(float, values), strict=True))


def person_shape(points68: np.ndarray) -> np.ndarray:
    """The shape of a person from landmarks of a face that looks ahead, on average: `f 68 2` -> `4`, ratios.

    Face's width to height, mouth's width to the outer-eye distance, nose's length to the same, lips' height (without
    the gap between them) to the mouth's width.
    """
    points = np.asarray(points68, np.float64)

    def distance(a: int, b: int) -> float:
        return float(np.median(np.linalg.norm(points[:, a] - points[:, b], axis=-1)))

    eyes, mouth = distance(36, 45), distance(48, 54)
    gap = np.linalg.norm(points[:, 62] - points[:, 66], axis=-1)
    lips = float(np.median(np.linalg.norm(points[:, 51] - points[:, 57], axis=-1) - gap))
    return np.array([distance(0, 16) / distance(27, 8), mouth / eyes, distance(27, 33) / eyes, lips / mouth])


def about_middle(states: np.ndarray) -> np.ndarray:
    """States `f n` of one clip with the head's pose about its mean over the clip."""
    moved = states.copy()
    moved[:, HEAD] -= moved[:, HEAD].mean(0)
    return moved


def _array(buffer: Tensor) -> np.ndarray:
    return buffer.detach().float().cpu().numpy()
