"""What one clip leaves to the next, and which frames of the last one are shown. The clips are drawn, not sampled."""

from itertools import chain

import pytest
import torch

from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline
from openloopy.models.codec import KLCodec
from openloopy.models.loopy import LoopyModel
from openloopy.models.rig_codec import Portrait
from tests.tiny import tiny_model, tiny_portrait, tiny_sound

CLIP = 12


@pytest.fixture(name="drawn")
def draw_clips(monkeypatch) -> list[torch.Tensor]:
    """The clips that stand for sampled ones, `1 f c h w` each; more come with every clip that is generated."""
    clips, generator = [], torch.Generator().manual_seed(0)

    def draw(denoise, noise, **settings):
        clips.append(torch.randn(noise.shape, generator=generator))
        return clips[-1]

    monkeypatch.setattr("openloopy.inference.pipeline.sample", draw)
    return clips


@pytest.fixture(name="pasts")
def record_pasts(monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """History and mask that each clip was given."""
    given, read = [], LoopyModel.read_reference

    def record(self, reference, history, history_mask, generator):
        given.append((history.clone(), history_mask.clone()))
        return read(self, reference, history, history_mask, generator)

    monkeypatch.setattr(LoopyModel, "read_reference", record)
    return given


def generate(pipeline: LoopyPipeline, num_frames: int) -> list:
    sound = tiny_sound(num_frames / 25)
    return list(
        pipeline.generate(Portrait(tiny_portrait()), (sound, 16_000), options=GenerationOptions(steps=1))
    )


def test_finished_latents_are_the_next_clips_history_bit_by_bit(drawn, pasts):
    generate(LoopyPipeline(tiny_model()), 3 * CLIP)
    clips = torch.cat(drawn, dim=1)
    assert len(pasts) == 3
    for index, (history, mask) in enumerate(pasts):
        missing = history.shape[1] - index * CLIP
        assert torch.equal(history[:, missing:], clips[:, : index * CLIP])
        assert mask[0].tolist() == [0.0] * missing + [1.0] * index * CLIP
        assert not history[:, :missing].any()


def test_of_the_last_clip_the_first_frames_are_shown(drawn, monkeypatch):
    monkeypatch.setattr(KLCodec, "decode", lambda self, clips, prepared, at_once: chain.from_iterable(clips))
    shown = generate(LoopyPipeline(tiny_model()), CLIP + 5)
    assert torch.equal(torch.stack(shown), torch.cat(drawn, dim=1)[0, : CLIP + 5])
