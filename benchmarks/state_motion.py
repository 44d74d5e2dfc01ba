"""Motion on face states, without pictures: what a model is told of a batch, and videos of several people in step.

Several at once, since small models keep a processor busy only together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from openloopy.data.batch import ClipBatch
from openloopy.data.cache import AUDIO_MARGIN, LatentCache
from openloopy.diffusion.guidance import Guidance
from openloopy.diffusion.sampler import SamplerConfig, sample
from openloopy.inference.pipeline import clip_generator, denoise_batched, guidance_branches
from openloopy.models.audio_to_latents import MotionCondition
from openloopy.models.conditions import Conditions
from openloopy.models.loopy import LoopyModel
from openloopy.models.segments import gather_segments

Asked = Callable[[ClipBatch, Tensor], MotionCondition | None]
"""From a batch and its audio tokens to what audio-to-latents is given; None: motion latents of zero."""


@dataclass(frozen=True, kw_only=True)
class People:
    """Clips of a cache, of which the model makes so many clips of its own, in step.

    Attributes:
        cache: face states, sound and landmarks.
        numbers: which of its clips.
        num_clips: clips that are made.
        clip_frames: frames of each.
        seen_clips: true clips before the first that is made: the past that the model is given.
    """

    cache: LatentCache
    numbers: tuple[int, ...]
    num_clips: int
    clip_frames: int = 12
    seen_clips: int = 0

    @property
    def made(self) -> slice:
        """The frames that are made."""
        start = self.seen_clips * self.clip_frames
        return slice(start, start + self.num_clips * self.clip_frames)

    def portraits(self) -> Tensor:
        """`p c h w`: a frame of each."""
        return self._rows("latents", lambda rows: rows[len(rows) // 2])

    def past(self, span: int) -> tuple[Tensor, Tensor]:
        """True latents of the last frames before the first that is made, `p m c h w`, and their mask, `p m`."""
        start = self.made.start
        true = self._rows("latents", lambda rows: rows[max(start - span, 0) : start])
        history = true.new_zeros(len(true), span, *true.shape[2:])
        mask = true.new_zeros(len(true), span)
        if true.shape[1]:
            history[:, -true.shape[1] :], mask[:, -true.shape[1] :] = true, 1
        return history, mask

    def audio(self, start: int, stop: int) -> Tensor:
        """Features of frames start .. stop - 1, `p f layers width`."""
        return self._rows("audio", lambda rows: rows[start + AUDIO_MARGIN : stop + AUDIO_MARGIN])

    def true_latents(self) -> Tensor:
        """Of the frames that are made, `p f c h w`."""
        return self._rows("latents", lambda rows: rows[self.made])

    def true_points(self) -> np.ndarray:
        """`p f 68 2`, as the cache has them."""
        return self._rows("points68", lambda rows: rows[self.made]).numpy()

    def _rows(self, name: str, pick: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        rows = [pick(self.cache.rows(name, i)) for i in self.numbers]
        return torch.from_numpy(np.stack(rows)).float()


def told(
    network: LoopyModel,
    batch: ClipBatch,
    ask: Asked,
    *,
    hears: bool = True,
    generator: torch.Generator | None = None,
) -> Conditions:
    """Conditions of a batch with its past; `ask` says what audio-to-latents is given."""
    tokens = network.audio_projection(batch.audio)
    features = network.read_reference(batch.reference, batch.history, batch.history_mask, generator)
    ones = torch.ones(len(tokens), device=tokens.device)
    return Conditions(
        reference=features,
        reference_latents=batch.reference,
        audio_tokens=tokens * hears,
        motion_latents=motion_latents(network, ask(batch, tokens), len(tokens)),
        keep_reference=ones,
        keep_motion=ones,
        last_frames=network.last_frames(batch.reference, batch.history, batch.history_mask),
    )


def motion_latents(network: LoopyModel, condition: MotionCondition | None, count: int) -> Tensor | None:
    """What audio-to-latents makes of a condition; zeros of none; None without audio-to-latents."""
    if network.a2l is None:
        return None
    if condition is None:
        device = network.denoiser.conv_in.weight.device
        return torch.zeros(count, 1, network.config.denoiser.unet.time_dim, device=device)
    return network.a2l(condition)


def shown(batch: ClipBatch, past_frames: int) -> ClipBatch:
    """The batch with the nearest frames of its past alone."""
    mask = batch.history_mask.clone()
    mask[:, : max(mask.shape[1] - past_frames, 0)] = 0
    return replace(batch, history_mask=mask)


@torch.inference_mode()
def generate_latents(
    network: LoopyModel,
    people: People,
    condition: Callable[[Tensor], MotionCondition | None],
    *,
    sampler: SamplerConfig,
    guidance: Guidance,
    noise_scale: Tensor | float = 1.0,
    seed: int = 0,
) -> Tensor:
    """What `LoopyPipeline` makes for each alone, `p f c h w` on the CPU; person n has the seed `seed + n`.

    condition: from audio tokens to what audio-to-latents is given.
    noise_scale: `ClipPlan.noise_scale`.
    """
    device = network.denoiser.conv_in.weight.device
    portraits, margin = people.portraits().to(device), network.config.denoiser.audio.margin
    history, mask = (part.to(device) for part in people.past(network.config.segments.span))
    frames, numbers, made = people.clip_frames, range(len(portraits)), []
    for index in range(people.num_clips):
        start = people.made.start + frames * index
        tokens = network.audio_projection(people.audio(start - margin, start + frames + margin).to(device))
        ones = torch.ones(len(portraits), device=device)
        noise, fractions = _drawn(network, portraits, [clip_generator(seed + n, index) for n in numbers])
        motion, motion_mask = gather_segments(history, mask, network.config.segments, fractions)
        features = network.reference_net(portraits, motion, motion_mask)
        conditions = Conditions(
            reference=network.denoiser.cache_reference(features),
            reference_latents=portraits,
            audio_tokens=tokens,
            motion_latents=motion_latents(network, condition(tokens), len(portraits)),
            keep_reference=ones,
            keep_motion=ones,
            last_frames=network.last_frames(portraits, history, mask),
        )
        latents = _sampled(network, conditions, (noise * noise_scale).to(device), sampler, guidance)
        history = torch.cat([history, latents], 1)[:, -history.shape[1] :]
        mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], 1)[:, -history.shape[1] :]
        made.append(latents.cpu())
    return torch.cat(made, 1)


def _drawn(
    network: LoopyModel, portraits: Tensor, generators: list[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Noise of a clip, `p f c h w`, and where in its intervals each motion frame lies, `p s`, as the pipeline draws."""
    config = network.config
    drawn = [
        (
            torch.randn(1, config.clip_frames, *portraits.shape[1:], generator=generator),
            torch.rand(1, config.segments.num_kept, generator=generator),
        )
        for generator in generators
    ]
    return torch.cat([noise for noise, _ in drawn]), torch.cat([fractions for _, fractions in drawn])


def _sampled(
    network: LoopyModel, conditions: Conditions, noise: Tensor, sampler: SamplerConfig, guidance: Guidance
) -> Tensor:
    """One clip of all, `p f c h w`."""
    branches = guidance_branches(conditions, guidance)
    return sample(
        denoise_batched(network.denoiser, branches, guidance),
        noise,
        config=sampler,
        schedule=network.config.schedule,
        prediction=network.config.prediction,
    )
