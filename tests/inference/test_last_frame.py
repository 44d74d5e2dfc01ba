"""Generation goes on from the last frame, where the model has an input for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline
from openloopy.models.rig_codec import Portrait
from tests.tiny import tiny_config, tiny_model, tiny_portrait, tiny_sound


def continuing_pipeline() -> LoopyPipeline:
    denoiser = replace(tiny_config().denoiser, past_input="last_frames")
    return LoopyPipeline(tiny_model(denoiser=denoiser))


def test_each_clip_is_given_the_frame_before_it(monkeypatch):
    pipeline, given, made = continuing_pipeline(), [], []
    clip_latents, forward = LoopyPipeline._clip_latents, pipeline.model.loopy.denoiser.forward

    def note_latents(self, portrait, *args):
        latents = clip_latents(self, portrait, *args)
        made.append((portrait.latents[0], latents))
        return latents

    def note_conditions(x_t, t, conditions):
        given.append(conditions.last_frames)
        return forward(x_t, t, conditions)

    monkeypatch.setattr(LoopyPipeline, "_clip_latents", note_latents)
    monkeypatch.setattr(pipeline.model.loopy.denoiser, "forward", note_conditions)
    options = GenerationOptions(steps=1, branches="batched")
    frames = list(pipeline.generate(Portrait(tiny_portrait()), (tiny_sound(1.1), 16_000), options=options))
    assert len(frames) == 28 and len(given) == len(made) == 3
    assert not given[0].any()
    for clip in (1, 2):
        portrait, before = made[clip - 1]
        everything, without_sound, base = given[clip]
        torch.testing.assert_close(everything[:4], before[-1] - portrait)
        torch.testing.assert_close(everything[4:8], before[-1] - before[-2])
        assert (everything[8] == 1).all()
        assert torch.equal(without_sound, everything) and not base.any()


def test_another_last_frame_gives_another_clip(monkeypatch):
    """The control: the same model with the input closed makes other frames from the second clip on."""
    options = GenerationOptions(steps=1)
    pipeline = continuing_pipeline()
    frames = np.stack(
        list(pipeline.generate(Portrait(tiny_portrait()), (tiny_sound(0.9), 16_000), options=options))
    )
    torch.nn.init.zeros_(pipeline.model.loopy.denoiser.last_frames_in.weight)
    closed = np.stack(
        list(pipeline.generate(Portrait(tiny_portrait()), (tiny_sound(0.9), 16_000), options=options))
    )
    assert np.array_equal(frames[:12], closed[:12]) and not np.array_equal(frames[12:], closed[12:])
