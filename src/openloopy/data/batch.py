"""Training batches out of a latent cache: pure sampling, decided by (seed, step) and a sample's
number in the batch alone.

Source: Loopy (arXiv:2409.02634), sec. 3.2-3.4: clips of 12 frames with up to 124 frames before them, the reference
being a random frame of the same video. A resumed run sees the batches it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from openloopy.data.cache import AUDIO_MARGIN, LatentCache, sampling_weights
from openloopy.data.regions import region_weights
from openloopy.face.movement import expression_variance, head_motion_variance
from openloopy.rig.state import PARTS


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Lengths of what a batch holds, and where the loss looks closer."""

    num_frames: int = 12
    num_history: int = 124
    """Frames before the clip that are given, where they exist."""
    audio_margin: int = 2
    """Frames of sound before and after the clip."""
    start_share: float = 0.07
    """Share of clips that are the beginning of their video: no history, as every video begins when it is generated. By
    chance long clips would hardly ever show it."""
    mouth_weight: float = 6.0
    eye_weight: float = 3.0
    """Loss weights of latents that touch the mouth's or an eye's box; 1 elsewhere."""
    footage_share: float = 0.1
    """Share of clips drawn from footage, where there is some beside puppets."""
    footage_parts: tuple[str, ...] = tuple(PARTS)
    """Parts of the face that footage teaches: its others do not count in the loss. People who were asked to hold still
    teach lips only. Of face states; with pictures there is no choice."""

    def __post_init__(self) -> None:
        if self.num_frames < 1 or min(self.num_history, self.audio_margin) < 0:
            raise ValueError(f"expected at least one frame and no negative lengths, got {self}")
        if self.audio_margin > AUDIO_MARGIN:
            raise ValueError(
                f"audio features reach {AUDIO_MARGIN} frames beyond a clip, audio_margin asks for {self.audio_margin}; "
                "take a shorter audio window"
            )
        if not 0 <= self.start_share <= 1:
            raise ValueError(f"start_share must be in [0, 1], got {self.start_share}")
        if not self.footage_parts or not set(self.footage_parts) <= set(PARTS):
            raise ValueError(f"footage_parts are some of {', '.join(PARTS)}, got {self.footage_parts}")


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Clips with their past, their reference and their sound (stage 2). All float32."""

    latents: Tensor
    """`b f c h w`."""
    history: Tensor
    """`b m c h w`: the latents before the clip, oldest first; missing ones are 0."""
    history_mask: Tensor
    """`b m`: 1 where the history frame exists."""
    reference: Tensor
    """`b c h w`: a random frame of the same video."""
    audio: Tensor
    """`b (f + 2 margin) layers width`: hidden states per frame; those of silence beyond the ends of the sound."""
    points68: Tensor
    """`b f 68 2` in [0, 1] of the crop."""
    reference_points68: Tensor
    """`b 68 2`: the reference's."""
    head_motion_variance: Tensor
    """`b`, see face.movement."""
    expression_variance: Tensor
    """`b`, see face.movement."""
    region_weight: Tensor
    """`b f 1 h w`; `b f c h w` where some values of a clip are not known and weigh 0."""

    def to(self, device: torch.device | str) -> ClipBatch:
        return _moved(self, device)


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Single frames with a reference (stage 1). All float32."""

    latents: Tensor
    """`b c h w`."""
    reference: Tensor
    """`b c h w`: another random frame of the same video."""
    points68: Tensor
    """`b 68 2` in [0, 1] of the crop."""
    region_weight: Tensor
    """`b 1 h w`; `b c h w` as in `ClipBatch`."""

    def to(self, device: torch.device | str) -> FrameBatch:
        return _moved(self, device)


def sample_clip_batch(
    cache: LatentCache,
    *,
    seed: int,
    step: int,
    batch_size: int,
    config: BatchConfig = BatchConfig(),
    samples: range | None = None,
) -> ClipBatch:
    """A batch of random clips of random videos; the longer a video, the likelier.

    samples: which of the batch are wanted (all unless given): what several processes take between them is one batch.
    """
    long_enough = _clips_of_at_least(cache, config.num_frames)
    shares = sampling_weights([cache.records[i] for i in long_enough], config.footage_share)
    drawn = np.random.default_rng([seed, step]).choice(long_enough, size=batch_size, p=shares)
    wanted = range(batch_size) if samples is None else samples
    items = [_draw_clip(cache, int(drawn[n]), np.random.default_rng([seed, step, n]), config) for n in wanted]
    values = _stacked(items)
    weights = _weights(values["points68"].flatten(0, 1), values["latents"], config)
    weights = weights.unflatten(0, (len(wanted), config.num_frames))
    seen = _seen(cache, [int(drawn[n]) for n in wanted], config)
    return ClipBatch(**values, region_weight=weights if seen is None else weights * seen[:, None])


def sample_frame_batch(
    cache: LatentCache,
    *,
    seed: int,
    step: int,
    batch_size: int,
    config: BatchConfig = BatchConfig(),
    samples: range | None = None,
) -> FrameBatch:
    """A batch of random frames, each with another random frame of its video as the reference.

    samples: as in `sample_clip_batch`.
    """
    shares = sampling_weights(cache.records, config.footage_share)
    drawn = np.random.default_rng([seed, step]).choice(len(cache), size=batch_size, p=shares)
    wanted = range(batch_size) if samples is None else samples
    items = [
        _draw_frame(cache, int(drawn[n]), np.random.default_rng([seed, step, n]), config) for n in wanted
    ]
    values = _stacked(items)
    weights = _weights(values["points68"], values["latents"], config)
    seen = _seen(cache, [int(drawn[n]) for n in wanted], config)
    return FrameBatch(**values, region_weight=weights if seen is None else weights * seen)


def _seen(cache: LatentCache, clips: list[int], config: BatchConfig) -> Tensor | None:
    """Which values of these clips' latents count, `b c h w` of 0 and 1; None in a cache where all do."""
    taught = np.array([part in config.footage_parts for part in PARTS])
    if "seen" not in cache.names:
        if not taught.all():
            raise ValueError(
                f"{cache.folder} holds latents of pictures, which have no parts; leave footage_parts as it is"
            )
        return None
    known = [cache.rows("seen", i)[0] * (taught | (not cache.records[i].is_footage)) for i in clips]
    return torch.from_numpy(np.stack(known)).float()


def pad_rows(rows: np.ndarray, start: int, stop: int) -> np.ndarray:
    """`rows[start:stop]` where indices outside of `rows` give zeros; `n ...` -> `(stop - start) ...`."""
    present = rows[max(start, 0) : max(stop, 0)]
    padded = np.zeros((stop - start, *rows.shape[1:]), rows.dtype)
    offset = max(-start, 0)
    padded[offset : offset + len(present)] = present
    return padded


def _audio_rows(rows: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Audio features of frames start .. stop - 1; rows begin AUDIO_MARGIN frames before the clip."""
    return rows[start + AUDIO_MARGIN : stop + AUDIO_MARGIN]


def _draw_clip(
    cache: LatentCache, i: int, rng: np.random.Generator, config: BatchConfig
) -> dict[str, np.ndarray]:
    latents = cache.rows("latents", i)
    is_start = rng.random() < config.start_share
    start = 0 if is_start else int(rng.integers(len(latents) - config.num_frames + 1))
    stop, m = start + config.num_frames, config.num_history
    reference = int(rng.integers(len(latents)))
    all_points = cache.rows("points68", i)
    points = all_points[start:stop] / cache.info.size_px
    mask = np.arange(start - m, start) >= 0
    return dict(
        latents=latents[start:stop],
        history=pad_rows(latents, start - m, start),
        history_mask=mask,
        reference=latents[reference],
        audio=_audio_rows(cache.rows("audio", i), start - config.audio_margin, stop + config.audio_margin),
        points68=points,
        reference_points68=all_points[reference] / cache.info.size_px,
        head_motion_variance=head_motion_variance(points),
        expression_variance=expression_variance(points),
    )


def _draw_frame(
    cache: LatentCache, i: int, rng: np.random.Generator, config: BatchConfig
) -> dict[str, np.ndarray]:
    latents = cache.rows("latents", i)
    target, reference = rng.choice(len(latents), 2, replace=len(latents) < 2)
    points = cache.rows("points68", i)[target] / cache.info.size_px
    return dict(
        latents=latents[target],
        reference=latents[reference],
        points68=points,
    )


def _stacked(items: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """One float32 tensor per name; stacked first, for torch widens half precision much faster than numpy."""
    return {name: torch.from_numpy(np.stack([item[name] for item in items])).float() for name in items[0]}


def _weights(points: Tensor, latents: Tensor, config: BatchConfig) -> Tensor:
    """Loss weights `n 1 h w` of `n` frames."""
    if config.mouth_weight == config.eye_weight == 1.0:
        return torch.ones(len(points), 1, *latents.shape[-2:])
    return region_weights(points, latents.shape[-1], mouth=config.mouth_weight, eyes=config.eye_weight)


def _moved(batch, device: torch.device | str):
    values = {f.name: getattr(batch, f.name).to(device, non_blocking=True) for f in fields(batch)}
    return type(batch)(**values)


def _clips_of_at_least(cache: LatentCache, num_frames: int) -> np.ndarray:
    lengths = np.diff(cache.offsets["latents"])
    if not np.any(lengths >= num_frames):
        raise ValueError(
            f"no clip of {cache.folder} has {num_frames} frames, the longest has {lengths.max()}"
        )
    return np.flatnonzero(lengths >= num_frames)
