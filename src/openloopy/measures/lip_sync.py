"""Lip synchrony by a small network of our own: do lips and sound belong together, and which of them is late?

Own design: SyncNet (Chung & Zisserman 2016) compares pixels of the mouth with the sound; this one compares
landmarks, so that it can learn from puppets without learning what puppets look like. One tower sees mouth and chin in
the head's own frame, the other a log-mel spectrogram; each gives a vector per video frame. Their mean product over the
frames, at every shift of the sound, is the evidence. The shift is told to a fraction of a frame, with its error.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from openloopy.face.movement import OUTER_EYE_CORNERS
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.video import FPS

WEIGHTS_NAME = "lip_sync.safetensors"
RIGID_POINTS = np.array([27, 28, 29, 30, 33, 36, 39, 42, 45])
"""Nose and eye corners: they move with the head alone."""
MOVING_POINTS = np.array([*range(6, 11), *range(48, 68)])
"""Chin and mouth."""
LIP_WIDTH = 2 * len(MOVING_POINTS)
LIP_UNIT = 0.04
"""Eye distances; about how far lips move in speech."""
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
MEL_PER_FRAME, MEL_BANDS = 4, 40
WINDOW_SAMPLES, FFT_SAMPLES = 400, 512
FLOOR = 1e-3
"""Of the sound's own rms: quieter parts of the spectrogram are all the same."""
WIDTH, EMBEDDING = 96, 64
MAX_SHIFT_FRAMES = 15
NEAR_FRAMES = 2
"""Lips lead or follow the sound by so much without anything being wrong."""
MIN_FRAMES = 20
ZERO_FRAMES = -0.52
"""Where the curve of a clip in step has its peak: mean of 120 puppets of 5 s (unseen drawn faces, voices, sentences),
whose frame i shows the moment i / 25 s exactly, with landmarks as a tracker gives them; standard deviation .24. It is
half a frame since the network learned from puppets that showed the middle of a frame's time. Others need another."""
PEOPLE_FRAMES = 0.2
"""Standard deviation of the peak over puppets that the error of one clip does not explain: lips lead by a habit."""
STRETCH_FRAMES = 15
"""Stretches of about this length are left out in turn to find the error of the peak; three at least."""
FAR_FRAMES = 3
"""From here on a shift is another one than the peak's: the peak itself is as wide as that."""
CHANCE_LAGS = 2
"""Frames over which neighbours say the same, when it is asked what chance gives."""
MIN_CHANCE = 3.0
"""Standard error of one frame's product by chance, at least: below lie lips that hardly move (1 % of filmed clips of
3 s are below 3.8), whose evidence would count for more the less they show."""
SURE_SCORE, SURE_HEIGHT, SURE_ERROR_FRAMES = 3.0, 1.0, 0.6
"""What a peak needs so that its place can be trusted; see docs/data.md for where they come from."""
SIGNIFICANT = 2.0
"""Errors of the offset; a smaller offset may as well be none."""


class LipSync(NamedTuple):
    """How lips and sound agree."""

    score: float
    """Evidence near no shift (up to NEAR_FRAMES) above the median of all shifts: what to judge a clip by."""
    offset_frames: float
    """By how much the sound is late; negative: early. Positive n: the sound of frame i + n belongs to the lips of i."""
    best_score: float
    """As `score`, at the shift that is best of all."""
    offset_error: float
    """Standard error of the offset, frames: from stretches of the clip left out in turn, and from people's habits."""
    height: float
    """Evidence of the best shift above that of every shift FAR_FRAMES or more away."""
    in_step: float
    """Evidence above the median as things are: at no shift at all, between the two shifts that were tried."""
    chance: float
    """Standard error that evidence has where lips and sound have nothing in common: short clips have a large one."""

    @property
    def strength(self) -> float:
        """The score in units of what chance gives, which means the same for clips of any length."""
        return self.score / self.chance

    @property
    def best_strength(self) -> float:
        """As `strength`, at the shift that is best of all."""
        return self.best_score / self.chance

    @property
    def is_sure(self) -> bool:
        """Whether the offset can be trusted."""
        return (
            self.best_score >= SURE_SCORE
            and self.height >= SURE_HEIGHT
            and self.offset_error <= SURE_ERROR_FRAMES
        )

    @property
    def is_off(self) -> bool:
        """Whether the sound is surely late or early, by more than chance and habit explain."""
        return self.is_sure and abs(self.offset_frames) > SIGNIFICANT * self.offset_error


class ResidualBlock(nn.Module):
    """Two convolutions over time, `b c t` -> `b c t`."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.out = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return x + self.out(F.gelu(self.wide(normal)))


class LipSyncNetwork(nn.Module):
    """Vectors of lips and of sound, whose product says whether they belong together."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.lips = nn.Sequential(
            nn.Conv1d(LIP_WIDTH, width, 3, padding=1),
            *(ResidualBlock(width, dilation) for dilation in (1, 2, 3, 1)),
            nn.Conv1d(width, EMBEDDING, 1),
        )
        self.sound = nn.Sequential(
            nn.Conv1d(MEL_BANDS, width, 5, padding=2),
            ResidualBlock(width, 1),
            nn.Conv1d(width, width, 2, stride=2),
            ResidualBlock(width, 1),
            nn.Conv1d(width, width, 2, stride=2),
            *(ResidualBlock(width, dilation) for dilation in (1, 2, 3, 1)),
            nn.Conv1d(width, EMBEDDING, 1),
        )
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, lips: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """lips `b f 50`, mel `b 4g 40` -> vectors `b f 64` and `b g 64`."""
        return self.see(lips), self.hear(mel)

    def see(self, lips: Tensor) -> Tensor:
        """lips `b f 50` -> vectors `b f 64`."""
        return self.lips(lips.transpose(1, 2)).transpose(1, 2)

    def hear(self, mel: Tensor) -> Tensor:
        """mel `b 4g 40` -> vectors `b g 64`."""
        return self.sound(mel.transpose(1, 2)).transpose(1, 2)


def lip_features(points: np.ndarray) -> np.ndarray:
    """Mouth and chin in the head's frame, about their mean over the clip.

    Args:
        points: landmarks of every frame, `f 68 2`; NaN where no face was found (the neighbours' are taken).

    Returns:
        `f 50` float32.
    """
    aligned = in_head_frame(_filled(points))
    moving = aligned[:, MOVING_POINTS]
    moving = (moving - moving.mean(0)) / LIP_UNIT
    return moving.reshape(len(points), LIP_WIDTH).astype(np.float32)


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Log-mel at 100 Hz, loudness and timbre of the whole taken out: `samples` -> `samples//160 40` float32."""
    sound = waveform.astype(np.float32) / max(float(np.sqrt(np.mean(waveform**2))), 1e-5)
    hop = SAMPLES_PER_FRAME // MEL_PER_FRAME
    count = len(sound) // hop
    side = (WINDOW_SAMPLES - hop) // 2
    padded = np.pad(sound, (side, WINDOW_SAMPLES))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[: count * hop : hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW_SAMPLES), FFT_SAMPLES)) ** 2 / WINDOW_SAMPLES
    mel = np.log(power @ _mel_filters().T + FLOOR)
    return ((mel - mel.mean(0)) / 2).astype(np.float32)


def evidence(seen: Tensor, heard: Tensor, max_shift: int) -> Tensor:
    """Mean product of the vectors at every shift of the sound.

    Args:
        seen: vectors of lips, `b f d`.
        heard: vectors of sound, `c f+2m d`: from `max_shift` frames before the lips to as many after.

    Returns:
        `b c 2m+1`: every video with every sound; the middle one is without a shift.
    """
    frames = seen.shape[1]
    shifts = [
        torch.einsum("bfd,cfd->bc", seen, heard[:, k : k + frames]) / frames for k in range(2 * max_shift + 1)
    ]
    return torch.stack(shifts, dim=-1)


def lip_sync(
    points: np.ndarray,
    waveform: np.ndarray,
    *,
    network: LipSyncNetwork | None = None,
    max_shift: int = MAX_SHIFT_FRAMES,
) -> LipSync:
    """Whether the lips of a clip follow its sound, by the network that comes with the package.

    Args:
        points: landmarks, `f 68 2` px at 25 fps; NaN where no face was found.
        waveform: `f*640` float32, 16 kHz; a little more or less does no harm.
        max_shift: shifts of the sound that are tried, frames to either side.

    Raises:
        ValueError: fewer than MIN_FRAMES frames, or none with a face.
    """
    if points.ndim != 3 or points.shape[1:] != (68, 2):
        raise ValueError(f"expected landmarks of shape (frames, 68, 2), got {points.shape}")
    if len(points) < MIN_FRAMES:
        raise ValueError(
            f"{len(points)} frames are too few to judge synchrony; at least {MIN_FRAMES} are needed"
        )
    network = network or shipped_lip_sync()
    return agreement(
        lip_vectors(points, network), sound_vectors(_fitted(waveform, len(points)), network), max_shift
    )


def lip_vectors(points: np.ndarray, network: LipSyncNetwork) -> np.ndarray:
    """What the network makes of lips: landmarks `f 68 2` -> `f 64` float64."""
    with torch.inference_mode():
        lips = torch.from_numpy(lip_features(points))[None]
        return network.see(lips)[0].double().numpy()


def sound_vectors(waveform: np.ndarray, network: LipSyncNetwork) -> np.ndarray:
    """What it makes of a sound: `f*640` -> `f 64` float64."""
    with torch.inference_mode():
        mel = torch.from_numpy(log_mel(waveform))[None]
        return network.hear(mel)[0].double().numpy()


def agreement(seen: np.ndarray, heard: np.ndarray, max_shift: int = MAX_SHIFT_FRAMES) -> LipSync:
    """How vectors of lips and sound agree, `f 64` each."""
    products = shift_products(seen, heard, max_shift)
    curve = mean_curve(products)
    best, median = int(curve.argmax()), float(np.median(curve))
    shifts = np.arange(-max_shift, max_shift + 1)
    far = curve[abs(shifts - shifts[best]) >= FAR_FRAMES]
    return LipSync(
        score=float(curve[abs(shifts) <= NEAR_FRAMES].max() - median),
        offset_frames=peak_of(curve, best) - max_shift - ZERO_FRAMES,
        best_score=float(curve[best] - median),
        offset_error=float(np.hypot(peak_error(products), PEOPLE_FRAMES)),
        height=float(curve[best] - far.max(initial=curve.min())),
        in_step=float(np.interp(ZERO_FRAMES, shifts, curve) - median),
        chance=chance_error(seen, heard),
    )


def in_head_frame(points: np.ndarray) -> np.ndarray:
    """Every frame turned, moved and scaled so that its rigid points lie on their mean, level; unit: the eye distance.

    points: `f 68 2` -> `f 68 2`.
    """
    left, right = OUTER_EYE_CORNERS
    z = points[..., 0] + 1j * points[..., 1]
    z = z - z[:, RIGID_POINTS].mean(1, keepdims=True)
    mean = z[0]
    for _ in range(2):
        rigid, wanted = z[:, RIGID_POINTS], mean[RIGID_POINTS]
        turn = (rigid.conj() * wanted).sum(1) / (np.abs(rigid) ** 2).sum(1)
        z = z * turn[:, None]
        mean = z.mean(0)
    z = z / (mean[right] - mean[left])  # the eyes' line becomes level and of length 1
    return np.stack([z.real, z.imag], -1)


def shift_products(seen: np.ndarray, heard: np.ndarray, max_shift: int) -> np.ndarray:
    """Products of every frame's lips with the sound at shifts -m..m: `f d`, `f d` -> `f 2m+1`; NaN without sound.

    At most half of the frames may fall out of the comparison, so a short clip is tried with fewer shifts; the others
    are NaN throughout.
    """
    frames, products = len(seen), seen @ heard.T
    found = np.full((frames, 2 * max_shift + 1), np.nan)
    for shift in range(-max_shift, max_shift + 1):
        if frames - abs(shift) >= frames / 2:
            first = max(-shift, 0)
            diagonal = np.diagonal(products, shift)
            found[first : first + len(diagonal), shift + max_shift] = diagonal
    return found


def mean_curve(products: np.ndarray) -> np.ndarray:
    """Evidence at every shift: `f 2m+1` -> `2m+1`. Shifts that no frame was tried with are given the lowest value."""
    known = np.isfinite(products)
    count = known.sum(0)
    curve = np.where(known, products, 0).sum(0) / np.maximum(count, 1)
    return np.where(count > 0, curve, curve[count > 0].min())


def shift_curve(seen: np.ndarray, heard: np.ndarray, max_shift: int) -> np.ndarray:
    """Evidence at shifts -m..m from the frames that both have: `f d`, `f d` -> `2m+1`."""
    return mean_curve(shift_products(seen, heard, max_shift))


def peak_of(curve: np.ndarray, near: int) -> float:
    """Where the peak next to this index lies: the vertex of the parabola through it and its neighbours."""
    while 0 < near < len(curve) - 1 and curve[near] < max(curve[near - 1], curve[near + 1]):
        near += 1 if curve[near + 1] > curve[near - 1] else -1
    if not 0 < near < len(curve) - 1:
        return float(near)
    before, at, after = curve[near - 1 : near + 2]
    bend = before - 2 * at + after
    return float(near + (0.5 * (before - after) / bend if bend < 0 else 0.0))


def peak_error(products: np.ndarray) -> float:
    """Standard error of the peak's place, in shifts, from `f 2m+1` products: the jackknife over stretches of frames.

    Neighbouring frames say the same, hence stretches. (Efron & Tibshirani 1993, chapter 11.)
    """
    best = int(mean_curve(products).argmax())
    stretches = np.array_split(np.arange(len(products)), max(round(len(products) / STRETCH_FRAMES), 3))
    places = [peak_of(mean_curve(np.delete(products, stretch, 0)), best) for stretch in stretches]
    return float(np.std(places) * np.sqrt(len(places) - 1))


def chance_error(seen: np.ndarray, heard: np.ndarray) -> float:
    """Standard error of the mean product of vectors `f d`, `f d` that have nothing to do with one another.

    The variance of a mean of products of two independent series is the sum, over lags, of the products of their
    autocovariances (Bartlett 1935), here with the weights of Newey & West (1987).
    """
    frames = len(seen)
    seen, heard = seen - seen.mean(0), heard - heard.mean(0)
    variance = 0.0
    for lag in range(CHANCE_LAGS + 1):
        ours = seen[: frames - lag].T @ seen[lag:] / frames
        theirs = heard[: frames - lag].T @ heard[lag:] / frames
        weight = 1 if lag == 0 else 2 * (1 - lag / (CHANCE_LAGS + 1))
        variance += weight * float((ours * theirs).sum())
    return float(np.sqrt(max(variance, MIN_CHANCE**2) / frames))


def save_lip_sync(network: LipSyncNetwork, path: Path) -> None:
    """Writes the weights in half precision, under their final name only when complete."""
    from safetensors.torch import save_file

    from openloopy.media.files import atomic_write

    half = {name: value.detach().half().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_write(path) as partial_path:
        save_file(half, partial_path, metadata={"format": "pt"})


def load_lip_sync(path: Path) -> LipSyncNetwork:
    """The network of a file, ready for use, in float32."""
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); install the package again, or copy it again"
        ) from error
    network = LipSyncNetwork()
    try:
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the lip-sync network of this version: {error}") from error
    return network.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def shipped_lip_sync() -> LipSyncNetwork:
    """The network that comes with the package, read once."""
    return load_lip_sync(Path(str(resources.files("openloopy") / "weights" / "sync" / WEIGHTS_NAME)))


def _filled(points: np.ndarray) -> np.ndarray:
    """Frames without a face take the landmarks of the nearest that has one."""
    known = np.flatnonzero(np.isfinite(points).all((1, 2)))
    if not len(known):
        raise ValueError(f"no face was found in any of {len(points)} frames; there are no lips to compare")
    nearest = known[np.abs(np.arange(len(points))[:, None] - known).argmin(1)]
    return points[nearest].astype(np.float64)


def _fitted(waveform: np.ndarray, num_frames: int) -> np.ndarray:
    """Exactly num_frames * 640 samples."""
    wanted = num_frames * SAMPLES_PER_FRAME
    return np.pad(waveform[:wanted], (0, max(wanted - len(waveform), 0)))


@lru_cache(maxsize=1)
def _mel_filters() -> np.ndarray:
    """Triangles from 60 Hz to 7.6 kHz, even on the mel scale, `40 257`."""
    mel = np.linspace(_to_mel(60.0), _to_mel(7600.0), MEL_BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.fft.rfftfreq(FFT_SAMPLES, 1 / SAMPLE_RATE_HZ)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


def _to_mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))
