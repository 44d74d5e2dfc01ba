"""The face state: what a face does in one frame, by name, with units; not who it is.

A state of zeros is a neutral face that looks ahead with closed lips and open eyes. "Left" and "right" are the
picture's. States of a clip are an array `f n`, in the order of NAMES; a codec shows them to a denoiser as tokens, one
for each part of the face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

STATE_VERSION = 1
"""Of the list below. Weights, shards and caches that hold states say which they were made with."""


@dataclass(frozen=True)
class StateValue:
    """One number of the face state."""

    name: str
    unit: str
    low: float
    high: float
    """Plausible range; fitting keeps within it."""


MOUTH = (
    StateValue("jaw", "lower lip's drop, 1.55 cm", 0.0, 1.2),
    StateValue("wide", "corners apart (1) or rounded (-1)", -1.2, 1.2),
    StateValue("upper_lip", "raised, .56 cm", -0.2, 1.5),
    StateValue("lower_lip", "lowered beyond the jaw, .3 cm", -0.2, 1.5),
    StateValue("tongue_tip", "behind the teeth (0) to between them (1)", 0.0, 1.0),
    StateValue("tongue", "low (0) to high (1)", 0.0, 1.0),
    StateValue("close", "lips apart as the jaw says (0) to together (1)", 0.0, 1.0),
    StateValue("tuck", "lower lip under the upper teeth", 0.0, 1.0),
    StateValue("press", "lips rolled in", 0.0, 1.0),
)
HEAD = (
    StateValue("yaw", "degrees, nose to the right", -45.0, 45.0),
    StateValue("pitch", "degrees, nose down", -35.0, 35.0),
    StateValue("roll", "degrees, clockwise", -35.0, 35.0),
    StateValue("shift_x", "cm to the right", -6.0, 6.0),
    StateValue("shift_y", "cm down", -6.0, 6.0),
    StateValue("nearness", "share by which it is larger", -0.25, 0.25),
    StateValue("breath", "cm by which the shoulders sink", -0.3, 0.3),
)
EYES = (
    StateValue("gaze_x", "degrees to the right, in the head", -25.0, 25.0),
    StateValue("gaze_y", "degrees down, in the head", -20.0, 20.0),
    StateValue("blink_left", "open (0) to shut (1)", 0.0, 1.0),
    StateValue("blink_right", "open (0) to shut (1)", 0.0, 1.0),
    StateValue("squint", "narrowed (1) or widened (-1)", -0.5, 1.0),
    StateValue("brow_left", "raised, .42 cm", -1.0, 1.5),
    StateValue("brow_right", "raised, .42 cm", -1.0, 1.5),
    StateValue("frown", "brows drawn together", 0.0, 1.0),
    StateValue("smile_left", "corner raised, .3 cm", -0.8, 1.2),
    StateValue("smile_right", "corner raised, .3 cm", -0.8, 1.2),
)
PARTS: dict[str, tuple[StateValue, ...]] = {"mouth": MOUTH, "head": HEAD, "eyes": EYES}
"""The parts of the face, each of which is one token of a denoiser."""
VALUES = tuple(value for part in PARTS.values() for value in part)
NAMES = tuple(value.name for value in VALUES)
INDEX = {name: i for i, name in enumerate(NAMES)}
TOKEN_WIDTH = max(map(len, PARTS.values()))
"""Values of the largest part; smaller ones are filled up with zeros."""
LOW = np.array([value.low for value in VALUES], np.float32)
HIGH = np.array([value.high for value in VALUES], np.float32)

State = Mapping[str, float]
"""One frame's state, by name."""
NEUTRAL: dict[str, float] = dict.fromkeys(NAMES, 0.0)


def mean_of(state: State, name: str) -> float:
    """The mean of a value that both sides of the face have."""
    return (state[f"{name}_left"] + state[f"{name}_right"]) / 2


@dataclass(frozen=True, eq=False)
class States:
    """The states of a clip."""

    values: np.ndarray
    """`f n` float32, in the order of NAMES."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(NAMES):
            raise ValueError(f"expected states of shape (frames, {len(NAMES)}), got {self.values.shape}")

    @classmethod
    def of(cls, tracks: Mapping[str, np.ndarray]) -> States:
        """From one array `f` for each name; missing and unknown names are an error."""
        if set(tracks) != set(NAMES):
            raise ValueError(
                f"a state needs {', '.join(NAMES)}; missing {sorted(set(NAMES) - set(tracks))}, "
                f"unknown {sorted(set(tracks) - set(NAMES))}"
            )
        return cls(np.stack([tracks[name] for name in NAMES], 1).astype(np.float32))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> np.ndarray:
        """One value over time, `f`."""
        return self.values[:, INDEX[name]]

    def frame(self, i: int) -> dict[str, float]:
        """All values of one frame."""
        return dict(zip(NAMES, map(float, self.values[i]), strict=True))


def to_tokens(states: np.ndarray) -> np.ndarray:
    """States `... n` -> `... TOKEN_WIDTH 1 parts`: channels and a grid of one row, as a denoiser takes them."""
    tokens = np.zeros((*states.shape[:-1], TOKEN_WIDTH, 1, len(PARTS)), states.dtype)
    first = 0
    for token, part in enumerate(PARTS.values()):
        tokens[..., : len(part), 0, token] = states[..., first : first + len(part)]
        first += len(part)
    return tokens


def from_tokens(tokens: np.ndarray) -> np.ndarray:
    """The inverse of `to_tokens`; what fills up the smaller parts is left out."""
    parts = [tokens[..., : len(part), 0, token] for token, part in enumerate(PARTS.values())]
    return np.concatenate(parts, -1)
