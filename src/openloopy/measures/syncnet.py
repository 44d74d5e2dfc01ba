"""Sync-C and Sync-D by SyncNet: how well lips and sound fit, judged by a network with public weights.

Source: Chung & Zisserman, "Out of time: automated lip sync in the wild" (2016). The protocol is that of
https://github.com/joonson/syncnet_python (`run_pipeline.py`, `SyncNetInstance.py`), which published numbers
come from; its `syncnet_v2.model` is read by `load_syncnet`. No weights come with this package.

Time: 25 frames and 16 000 samples a second, so that a frame spans 640 samples and 4 MFCC steps. A window is
5 frames and 20 MFCC steps; windows start a frame apart.

We differ: the face box comes from landmarks, not from the S3FD detector; pictures and sound are not compressed
on the way (the script stores its crops as MPEG-4 and JPEG); tracks of 100 frames or fewer, and faces under
100 px, are scored and not dropped. Short clips do score differently: see `pairwise_distances`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from openloopy.measures.checkpoints import load_checkpoint, read_checkpoint
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.files import atomic_write

FPS = 25
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
FACE_PX = 224
FEATURE_WIDTH = 1024
WINDOW_FRAMES = 5
MAX_SHIFT = 15
"""The public script's `vshift`, in frames to either side."""
MAX_LENGTH_DIFFERENCE_S = 0.2
"""Sound and picture may differ by what encoders leave over; the rest is cut, as the public script does."""

NUM_CEPSTRA = 13
MFCC_STEP_SAMPLES = SAMPLE_RATE_HZ // 100
MFCC_WINDOW_SAMPLES = SAMPLE_RATE_HZ // 40
MFCC_PER_FRAME = SAMPLES_PER_FRAME // MFCC_STEP_SAMPLES
WINDOW_MFCC = WINDOW_FRAMES * MFCC_PER_FRAME
FFT_SAMPLES = 512
NUM_MEL_FILTERS = 26
LIFTER = 22
PREEMPHASIS = 0.97
INT16_SCALE = 1 << 15
"""The script computes MFCC of 16-bit integers: the log energy depends on their scale, silence on their zeros."""

VIDEO_BATCH = 16
"""Picture windows at a time: 200 to 300 MB of activations, however long the clip is."""
AUDIO_BATCH = 256

BOX_HALF_SIDE = 0.86
BOX_CENTRE = 0.16
"""The box of a face in distances from between the eyes to the chin: half its side, and how far its centre lies below
the eyes. Measured with our landmarks on the 90 frontal faces that https://github.com/yxlijun/S3FD.pytorch, the
origin of the script's detector, shows in their boxes: medians .86 (deciles .79 to .90) and .16 (.11 to .21)."""
CROP_SCALE = 0.40
SMOOTHING_FRAMES = 13
PAD_VALUE = 110
MAX_GAP_FRAMES = 25
"""A face may be lost for this long within a track."""


class SyncScore(NamedTuple):
    """How well lips and sound fit, and where they fit best."""

    confidence: float
    """Sync-C: median over the shifts of the mean distance, minus the smallest. Higher is better."""
    distance: float
    """Sync-D: the smallest mean distance. Lower is better."""
    offset_frames: int
    """The shift with the smallest mean distance. Positive: the sound is late relative to the picture.

    The public script prints the negative, "AV offset": there positive means early sound. That follows from its
    code, and from its issue 2, where delaying the sound by 6 frames lowers the offset by 6 (the answer in issue
    65 says the opposite)."""


class SyncNet(nn.Module):
    """Two streams into one space: 5 frames of a face, and the .2 s of sound that go with them.

    Names and shapes of the parameters are those of `syncnet_v2.model`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv_2d(1, 64, 3, padding=1),
            nn.Identity(),  # a pooling of size 1 in the original; keeps the numbers of the layers
            *_conv_2d(64, 192, 3, padding=1),
            nn.MaxPool2d(3, stride=(1, 2)),
            *_conv_2d(192, 384, 3, padding=1),
            *_conv_2d(384, 256, 3, padding=1),
            *_conv_2d(256, 256, 3, padding=1),
            nn.MaxPool2d(3, stride=2),
            *_conv_2d(256, 512, (5, 4)),
        )
        self.netcnnlip = nn.Sequential(
            *_conv_3d(3, 96, (WINDOW_FRAMES, 7, 7), stride=2),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_conv_3d(96, 256, (1, 5, 5), stride=2, padding=1),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            *_conv_3d(256, 256, (1, 3, 3), padding=1),
            *_conv_3d(256, 256, (1, 3, 3), padding=1),
            *_conv_3d(256, 256, (1, 3, 3), padding=1),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_conv_3d(256, 512, (1, 6, 6)),
        )
        self.netfcaud = _head()
        self.netfclip = _head()

    def video(self, frames: Tensor) -> Tensor:
        """Features of every window of consecutive frames.

        Only the first layer looks across time, and without padding, so that a run of frames gives the same as
        its windows one by one.

        Args:
            frames: `b 3 f 224 224`, BGR, 0..255.

        Returns:
            `b f-4 1024`.
        """
        maps = self.netcnnlip(frames)
        features = self.netfclip(rearrange(maps, "b d w 1 1 -> (b w) d"))
        return rearrange(features, "(b w) d -> b w d", b=len(frames))

    def audio(self, cepstra: Tensor) -> Tensor:
        """Features of windows of sound: `b 1 13 20` MFCC -> `b 1024`."""
        return self.netfcaud(rearrange(self.netcnnaud(cepstra), "b d 1 1 -> b d"))


def load_syncnet(path: Path | str) -> SyncNet:
    """The network with the weights of a file, on the CPU, ready to score.

    Args:
        path: `syncnet_v2.model`, or what `convert_syncnet` made of it.

    Raises:
        ValueError: the file is missing, cut short, or holds Python objects or other weights; says which.
    """
    return load_checkpoint(SyncNet(), read_checkpoint(path, "SyncNet"), path, "SyncNet")


def convert_syncnet(source: Path | str, out: Path | str) -> Path:
    """Rewrite `syncnet_v2.model` as safetensors, whole or not at all; returns the new path.

    Raises:
        ValueError: as `load_syncnet`, or `out` does not end in .safetensors or cannot be written.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"expected a name that ends in .safetensors, got {out}")
    tensors = load_syncnet(source).state_dict()
    with atomic_write(out) as temporary:
        save_file(tensors, temporary)
    return out


def syncnet_score(
    network: SyncNet, frames: np.ndarray, waveform: np.ndarray, max_shift: int = MAX_SHIFT
) -> SyncScore:
    """Sync-C, Sync-D and the offset of a talking face.

    Args:
        network: from `load_syncnet`, on the device that shall compute.
        frames: the face track at 25 fps, `f 224 224 3` uint8 RGB, as `syncnet_crop` makes it.
        waveform: its sound, `(samples,)` float, mono, 16 kHz, full scale 1.
        max_shift: largest shift tried, in frames, in both directions.

    Raises:
        ValueError: wrong shapes; lengths that differ by more than `MAX_LENGTH_DIFFERENCE_S`; fewer than
            `max_shift + 6` frames, with which some shift would have no window of sound to compare.
    """
    num_windows = _num_windows(frames, waveform, max_shift)
    video = video_features(network, frames[: num_windows + WINDOW_FRAMES - 1])
    audio = audio_features(network, waveform)[:num_windows]
    return score_of_distances(pairwise_distances(video, audio, max_shift))


def video_features(network: SyncNet, frames: np.ndarray) -> Tensor:
    """Features of all windows of a face track, `f 224 224 3` uint8 RGB -> `f-4 1024`, on the CPU."""
    _check_frames(frames)
    _check_network(network)
    num_windows, device = len(frames) - WINDOW_FRAMES + 1, next(network.parameters()).device
    features = []
    with torch.inference_mode():
        for start in range(0, num_windows, VIDEO_BATCH):
            end = min(start + VIDEO_BATCH, num_windows)
            bgr = np.ascontiguousarray(frames[start : end + WINDOW_FRAMES - 1, ..., ::-1])
            clip = rearrange(torch.from_numpy(bgr).to(device), "f h w c -> 1 c f h w").float()
            features.append(network.video(clip)[0].cpu())
    return torch.cat(features)


def audio_features(network: SyncNet, waveform: np.ndarray) -> Tensor:
    """Features of all windows of sound, one per frame: `(samples,)` at 16 kHz -> `w 1024`, on the CPU."""
    _check_network(network)
    cepstra = torch.from_numpy(mfcc(waveform)).float()
    if len(cepstra) < WINDOW_MFCC:
        raise ValueError(f"{len(waveform)} samples are too few for a window of {WINDOW_FRAMES} frames")
    windows = cepstra.unfold(0, WINDOW_MFCC, MFCC_PER_FRAME)[:, None]
    device = next(network.parameters()).device
    with torch.inference_mode():
        return torch.cat([network.audio(batch.to(device)).cpu() for batch in windows.split(AUDIO_BATCH)])


def pairwise_distances(video: Tensor, audio: Tensor, max_shift: int = MAX_SHIFT) -> Tensor:
    """Distance of each picture window from the sound at each shift.

    Args:
        video, audio: features, `w d`, window by window.
        max_shift: largest shift, in frames.

    Returns:
        `w 2*max_shift+1`: in column `max_shift + s` the distance of picture window i from sound window i + s.
        Past the ends of the sound the public script compares with zeros, which enter its means; so do we,
        to be comparable. In a clip with few more windows than shifts they weigh heavily: compare clips of
        one length.
    """
    if video.ndim != 2 or video.shape != audio.shape:
        raise ValueError(
            f"expected two sets of features `w d` of one shape, got {tuple(video.shape)} and {tuple(audio.shape)}"
        )
    padded = F.pad(audio, (0, 0, max_shift, max_shift))
    shifted = (padded[start : start + len(video)] for start in range(2 * max_shift + 1))
    return torch.stack([F.pairwise_distance(video, sound) for sound in shifted], dim=1)


def score_of_distances(distances: Tensor) -> SyncScore:
    """Sync-C, Sync-D and the offset from a table of distances, `w 2*max_shift+1`, as `pairwise_distances` gives."""
    if distances.ndim != 2 or not len(distances) or distances.shape[1] % 2 == 0:
        raise ValueError(f"expected distances of windows x (2 max_shift + 1), got {tuple(distances.shape)}")
    mean = distances.mean(0)
    if not mean.isfinite().all():
        raise ValueError("distances are not finite numbers; check the weights, frames and sound")
    smallest, index = mean.min(0)
    offset = int(index) - distances.shape[1] // 2
    return SyncScore(float(mean.median() - smallest), float(smallest), offset)


def mfcc(waveform: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstra as `python_speech_features.mfcc` computes them by default from 16-bit sound.

    Args:
        waveform: `(samples,)` float, mono, 16 kHz, full scale 1.

    Returns:
        `m 13` float64, one row every 10 ms; the last one may reach into zeros past the end.
    """
    signal = _as_int16(waveform).astype(np.float64)
    signal[1:] -= PREEMPHASIS * signal[:-1]
    power = np.abs(np.fft.rfft(_mfcc_frames(signal), FFT_SAMPLES)) ** 2 / FFT_SAMPLES
    cepstra = _log(power @ _mel_filters().T) @ _liftered_dct().T
    cepstra[:, 0] = _log(power.sum(1))
    return cepstra


def syncnet_crop(frames: Iterable[np.ndarray], points68: np.ndarray) -> np.ndarray:
    """The face track that SyncNet looks at, cut as the public script cuts it.

    The face's box (from landmarks here, from S3FD there) is smoothed over 13 frames and widened by .4 of its half
    side to the left and right and .8 below, not above; what lies outside the picture is grey.

    Args:
        frames: pictures at 25 fps, each `H W 3` uint8; read one by one.
        points68: the face's landmarks in each, `f 68 2` px; NaN where it was lost, for up to 25 frames between
            others, which are bridged by straight lines.

    Returns:
        `f 224 224 3` uint8.

    Raises:
        ValueError: a frame more or less than landmarks; a face lost for longer, at the start or the end, or
            outside its picture.
    """
    centres, half_sides = face_boxes(_without_gaps(points68))
    centres, half_sides = median_filter(centres), median_filter(half_sides[:, None])[:, 0]
    track = []
    for frame, centre, half_side in zip_longest(frames, centres, half_sides):
        if frame is None or centre is None:
            raise ValueError(f"expected a picture for each of {len(points68)} landmarks, no more and no less")
        track.append(_cut(frame, centre, half_side))
    return np.stack(track)


def face_boxes(points68: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square boxes about as S3FD would draw them, from `f 68 2` px: centres `f 2` and half sides `f`, px."""
    eyes = points68[:, 36:48].mean(1)
    down = points68[:, 8] - eyes
    return eyes + BOX_CENTRE * down, BOX_HALF_SIDE * np.linalg.norm(down, axis=1)


def median_filter(tracks: np.ndarray) -> np.ndarray:
    """Running median of each column of `f n` over `SMOOTHING_FRAMES`, like `scipy.signal.medfilt`.

    That one counts zeros beyond the ends, which makes an end the smallest of the nearest 7 values. In tracks
    shorter than the window zeros would win, so there the first and last values are repeated instead.
    """
    reach = SMOOTHING_FRAMES // 2
    mode = "edge" if len(tracks) < SMOOTHING_FRAMES else "constant"
    padded = np.pad(tracks, ((reach, reach), (0, 0)), mode=mode)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING_FRAMES, axis=0), axis=-1)


def _conv_2d(
    inputs: int, outputs: int, kernel: int | tuple[int, int], *, padding: int = 0
) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, kernel, padding=padding)
    yield nn.BatchNorm2d(outputs)
    yield nn.ReLU(inplace=True)


def _conv_3d(
    inputs: int, outputs: int, kernel: tuple[int, int, int], *, stride: int = 1, padding: int = 0
) -> Iterator[nn.Module]:
    """Stride and padding are of the picture; time has neither."""
    yield nn.Conv3d(inputs, outputs, kernel, stride=(1, stride, stride), padding=(0, padding, padding))
    yield nn.BatchNorm3d(outputs)
    yield nn.ReLU(inplace=True)


def _head() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, FEATURE_WIDTH)
    )


def _num_windows(frames: np.ndarray, waveform: np.ndarray, max_shift: int) -> int:
    """One window less than the frames have room for, as in the public script: the last would lack MFCC."""
    _check_frames(frames)
    _check_waveform(waveform)
    video_s, audio_s = len(frames) / FPS, len(waveform) / SAMPLE_RATE_HZ
    if abs(video_s - audio_s) > MAX_LENGTH_DIFFERENCE_S:
        raise ValueError(
            f"picture ({video_s:.2f} s at {FPS} fps) and sound ({audio_s:.2f} s at {SAMPLE_RATE_HZ} Hz) differ in "
            "length; convert both to these rates and cut them to the span they share"
        )
    shared, needed = min(len(frames), len(waveform) // SAMPLES_PER_FRAME), WINDOW_FRAMES + 1 + max_shift
    if shared < needed:
        raise ValueError(
            f"{shared} frames with sound are too few to try shifts of {max_shift}; "
            f"give at least {needed} frames ({needed / FPS:.2f} s) or a smaller max_shift"
        )
    return shared - WINDOW_FRAMES


def _check_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.shape[1:] != (FACE_PX, FACE_PX, 3) or len(frames) < WINDOW_FRAMES:
        raise ValueError(
            f"expected at least {WINDOW_FRAMES} frames, f {FACE_PX} {FACE_PX} 3 uint8 RGB, got {frames.shape} "
            f"{frames.dtype}; syncnet_crop makes them"
        )


def _check_network(network: SyncNet) -> None:
    if network.training:
        raise ValueError("the network is in training mode, where windows change each other; call its eval()")


def _check_waveform(waveform: np.ndarray) -> None:
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating) or not len(waveform):
        raise ValueError(
            f"expected mono sound (samples,), float with full scale 1, got {waveform.shape} {waveform.dtype}; "
            "media.audio.open_waveform reads it so"
        )


def _as_int16(waveform: np.ndarray) -> np.ndarray:
    """The integers that FFmpeg writes for a float sound."""
    _check_waveform(waveform)
    if not np.isfinite(waveform).all():
        raise ValueError("the sound holds samples that are not finite numbers")
    return np.clip(np.rint(waveform * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1)


def _mfcc_frames(signal: np.ndarray) -> np.ndarray:
    """`(samples,)` -> `m MFCC_WINDOW_SAMPLES`: unwindowed; zeros fill the last one."""
    num_steps = max(-(-(len(signal) - MFCC_WINDOW_SAMPLES) // MFCC_STEP_SAMPLES), 0)
    length = num_steps * MFCC_STEP_SAMPLES + MFCC_WINDOW_SAMPLES
    padded = np.pad(signal, (0, length - len(signal)))
    return np.lib.stride_tricks.sliding_window_view(padded, MFCC_WINDOW_SAMPLES)[::MFCC_STEP_SAMPLES]


@cache
def _mel_filters() -> np.ndarray:
    """Triangles between whole FFT bins, equally spaced in mel from 0 to half the sample rate: `26 257`."""
    top_mel = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top_mel, NUM_MEL_FILTERS + 2) / 2595) - 1)
    edges = np.floor((FFT_SAMPLES + 1) * edges_hz / SAMPLE_RATE_HZ)[:, None]
    bins = np.arange(FFT_SAMPLES // 2 + 1)
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(np.minimum(rise, fall), 0)


@cache
def _liftered_dct() -> np.ndarray:
    """The first rows of the orthonormal DCT-II, times the sine lifter: `13 26`."""
    order = np.arange(NUM_CEPSTRA)[:, None]
    phases = np.pi * order * (np.arange(NUM_MEL_FILTERS) + 0.5) / NUM_MEL_FILTERS
    norms = np.sqrt(np.where(order == 0, 1, 2) / NUM_MEL_FILTERS)
    return (1 + LIFTER / 2 * np.sin(np.pi * order / LIFTER)) * norms * np.cos(phases)


def _log(power: np.ndarray) -> np.ndarray:
    return np.log(np.where(power == 0, np.finfo(np.float64).eps, power))


def _without_gaps(points68: np.ndarray) -> np.ndarray:
    """Landmarks `f 68 2` with lost frames bridged by straight lines."""
    if points68.ndim != 3 or points68.shape[1:] != (68, 2) or not len(points68):
        raise ValueError(f"expected landmarks f 68 2, got {points68.shape}")
    found = np.flatnonzero(np.isfinite(points68).all((1, 2)))
    if len(found) == 0 or found[0] > 0 or found[-1] < len(points68) - 1:
        raise ValueError(
            "a track must begin and end with a face; cut frames, landmarks and sound to the span that has one"
        )
    gap = int(np.diff(found, prepend=0).max()) - 1
    if gap > MAX_GAP_FRAMES:
        raise ValueError(
            f"the face is lost for {gap} frames, at most {MAX_GAP_FRAMES} are bridged; cut there"
        )
    columns = points68.reshape(len(points68), -1).T
    bridged = [np.interp(np.arange(len(points68)), found, column[found]) for column in columns]
    return np.stack(bridged, -1).reshape(points68.shape)


def _cut(frame: np.ndarray, centre: np.ndarray, half_side: float) -> np.ndarray:
    """One picture of the track. Bounds are rounded down and drawn bilinearly, as in the public script."""
    x, y = centre
    side, below = half_side * (1 + CROP_SCALE), half_side * (1 + 2 * CROP_SCALE)
    left, top, right, bottom = (int(np.floor(v)) for v in (x - side, y - half_side, x + side, y + below))
    inside = frame[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if inside.size == 0:
        height, width = frame.shape[:2]
        raise ValueError(f"the face at ({x:.0f}, {y:.0f}) lies outside its {width}x{height} picture")
    face = np.full((bottom - top, right - left, 3), PAD_VALUE, np.uint8)
    start_y, start_x = max(-top, 0), max(-left, 0)
    face[start_y : start_y + inside.shape[0], start_x : start_x + inside.shape[1]] = inside
    return cv2.resize(face, (FACE_PX, FACE_PX))
