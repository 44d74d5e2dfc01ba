"""Videos of several people in step: one batch for all, since small models keep a processor busy only together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openloopy.diffusion.sampler import sample
from openloopy.inference.pipeline import (
    ClipPlan,
    GenerationOptions,
    clip_generator,
    denoise_batched,
    guidance_branches,
    plan_clips,
)
from openloopy.inference.windows import clip_windows, num_frames
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.models.audio_encoder import AudioFeatureReader
from openloopy.models.audio_to_latents import AudioCondition
from openloopy.models.conditions import Conditions, ReferenceFeatures
from openloopy.models.folder import LoadedModel
from openloopy.models.loopy import LoopyModel
from openloopy.models.reference_decoder import ReferencePicture
from openloopy.models.segments import gather_segments

DECODED_AT_ONCE = 12


@dataclass(frozen=True)
class People:
    """What is known before the first clip: latents `p c h w`, pictures for the decoder, sounds, frames to make."""

    latents: Tensor
    pictures: list[ReferencePicture]
    sounds: list[AudioFeatureReader]
    num_frames: int


@torch.inference_mode()
def latents_in_step(model: LoadedModel, people: People, options: GenerationOptions) -> Iterator[Tensor]:
    """Clip by clip, everybody's frames as latents `p f c h w`: what `LoopyPipeline.generate` makes of each alone.

    Equal but for the last bits; person n has the seed `options.seed + n`. For models with sound.
    """
    plan, count = plan_clips(model.config, options, model.device), len(people.latents)
    span, shape = model.config.segments.span, people.latents.shape[1:]
    history = torch.zeros(count, span, *shape, device=model.device)
    mask = torch.zeros(count, span, device=model.device)
    for window in clip_windows(people.num_frames, clip_frames=model.config.clip_frames):
        latents = _clip(model, people, history, mask, plan, (window.index, window.start_frame))
        history = torch.cat([history, latents], 1)[:, -span:]
        mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], 1)[:, -span:]
        yield latents[:, : window.num_kept]


@torch.inference_mode()
def meet(model: LoadedModel, portraits: Sequence[np.ndarray], waveforms: Sequence[np.ndarray]) -> People:
    """Portraits `H W 3` uint8 and sounds at 16 kHz as the model wants them.

    Raises:
        ValueError: sounds of different lengths.
    """
    lengths = {num_frames(len(waveform) / SAMPLE_RATE_HZ) for waveform in waveforms}
    if len(lengths) != 1 or len(portraits) != len(waveforms):
        raise ValueError(f"people in step need sounds of one length, got {sorted(lengths)} frames")
    pixels = torch.from_numpy(np.stack(portraits)).permute(0, 3, 1, 2).to(model.device) / 127.5 - 1
    return People(
        torch.cat([model.codec.encode(each[None]) for each in pixels]),
        [model.codec.prepare_reference(each[None]) for each in pixels],
        [AudioFeatureReader(model.audio_encoder, waveform) for waveform in waveforms],
        lengths.pop(),
    )


@torch.inference_mode()
def draw(model: LoadedModel, latents: Tensor, picture: ReferencePicture) -> np.ndarray:
    """`f c h w` -> `f H W 3` uint8."""
    pixels = torch.cat([model.codec.decode(few, picture) for few in latents.split(DECODED_AT_ONCE)]).float()
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def told(loopy: LoopyModel, features: ReferenceFeatures, portraits: Tensor, tokens: Tensor) -> Conditions:
    """All that a denoiser is told in generation: portraits `p c h w`, what was read of them and the past, the sound."""
    keep = torch.ones(len(portraits), device=portraits.device)
    return Conditions(
        reference=loopy.denoiser.cache_reference(features),
        reference_latents=portraits,
        audio_tokens=tokens,
        motion_latents=None if loopy.a2l is None else loopy.a2l(AudioCondition(tokens)),
        keep_reference=keep,
        keep_motion=keep,
    )


def _clip(
    model: LoadedModel,
    people: People,
    history: Tensor,
    mask: Tensor,
    plan: ClipPlan,
    place: tuple[int, int],
) -> Tensor:
    """One clip of all, `p f c h w`; place: number and first frame of the clip."""
    loopy, config, count = model.loopy, model.config, len(people.latents)
    noise, fractions = [], []
    for number in range(count):
        generator = clip_generator(plan.seed + number, place[0])
        noise.append(torch.randn(1, config.clip_frames, *people.latents.shape[1:], generator=generator))
        fractions.append(torch.rand(1, config.segments.num_kept, generator=generator))
    motion, motion_mask = gather_segments(history, mask, config.segments, torch.cat(fractions))
    features = loopy.reference_net(people.latents, motion, motion_mask)
    margin = loopy.audio_projection.config.margin
    states = [
        sound.window(place[1] - margin, config.clip_frames + 2 * margin)[None] for sound in people.sounds
    ]
    tokens = loopy.audio_projection(torch.cat(states))
    branches = guidance_branches(told(loopy, features, people.latents, tokens), plan.guidance)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return denoise_batched(loopy.denoiser, branches, plan.guidance, x_t, t)

    made = sample(
        denoise,
        torch.cat(noise).to(model.device) * plan.temperature,
        config=plan.sampler,
        schedule=config.schedule,
        prediction=config.prediction,
    )
    return config.from_residual(made, people.latents)
