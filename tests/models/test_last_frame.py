"""Going on from the last frame: an input of the denoiser that changes nothing until it is trained."""

from dataclasses import replace

import pytest
import torch

from openloopy.models.denoiser import Denoiser, DenoiserConfig
from openloopy.models.loopy import LoopyModel
from openloopy.models.weight_files import save_weights
from openloopy.recipes.line import hearing_model, picture_model, start_loopy
from openloopy.recipes.tiny import loopy_config
from openloopy.training.denoise import load_stage1
from openloopy.training.stages import part_of
from tests.models.tiny_nets import (
    BATCH,
    CHANNELS,
    FRAMES,
    SIZE,
    awake,
    clip_config,
    noisy_clip,
    tiny_conditions,
    tiny_features,
)


def with_last_frame(**changes):
    config = loopy_config()
    return replace(config, denoiser=replace(config.denoiser, past_input="last_frames"), **changes)


def conditions(last_frames: torch.Tensor | None):
    return replace(tiny_conditions(tiny_features()), last_frames=last_frames)


def some_frame() -> torch.Tensor:
    return torch.randn(BATCH, 2 * CHANNELS + 1, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


def denoisers() -> tuple[Denoiser, Denoiser]:
    """The same weights without and with the input."""
    torch.manual_seed(0)
    plain = awake(Denoiser(clip_config())).eval()
    continued = Denoiser(clip_config(past_input="last_frames")).eval()
    left = continued.load_state_dict(plain.state_dict(), strict=False)
    new = ["last_frames_in.weight", "last_frames_out.weight", "last_frames_out.bias"]
    assert sorted(left.missing_keys) == sorted(new) and not left.unexpected_keys
    return plain, continued


@torch.inference_mode()
def test_a_fresh_input_changes_nothing():
    plain, continued = denoisers()
    expected = plain(*noisy_clip(), conditions(None))
    torch.testing.assert_close(continued(*noisy_clip(), conditions(some_frame())), expected, rtol=0, atol=0)


@torch.inference_mode()
def test_it_is_further_channels_of_the_input():
    """As if the frame had been stacked on each noisy frame and conv_in had these channels."""
    torch.manual_seed(1)
    _, continued = denoisers()
    awake(continued)
    wide = torch.nn.Conv2d(3 * CHANNELS + 1, continued.conv_in.out_channels, 3, padding=1)
    wide.weight.copy_(torch.cat([continued.conv_in.weight, continued.last_frames_in.weight], 1))
    wide.bias.copy_(continued.conv_in.bias)
    (x_t, _), last = noisy_clip(), some_frame()
    stacked = torch.cat([x_t, last[:, None].expand(-1, FRAMES, -1, -1, -1)], 2).flatten(0, 1)
    given = continued._add_last_frames(continued.conv_in(x_t.flatten(0, 1)), conditions(last), FRAMES)
    torch.testing.assert_close(given, wide(stacked), rtol=1e-4, atol=1e-5)


def test_a_trained_input_changes_every_frame_and_learns_from_all():
    _, continued = denoisers()
    last = some_frame()
    before = continued(*noisy_clip(), conditions(last))
    before.square().sum().backward()
    assert continued.last_frames_in.weight.grad.any()
    awake(continued)
    assert ((continued(*noisy_clip(), conditions(last)) - before).abs().amax((0, 2, 3, 4)) > 1e-4).all()


def test_the_input_and_the_conditions_belong_together():
    plain, continued = denoisers()
    with pytest.raises(
        ValueError, match="has an input for the last frames, but the conditions' last_frames is None"
    ):
        continued(*noisy_clip(), conditions(None))
    with pytest.raises(ValueError, match="has no input for the last frames"):
        plain(*noisy_clip(), conditions(some_frame()))


def test_single_frames_have_no_past():
    with pytest.raises(ValueError, match="single frames"):
        DenoiserConfig(temporal=None, past_input="last_frames")
    with pytest.raises(ValueError, match="unknown past_input 'tomorrow'"):
        DenoiserConfig(past_input="tomorrow")


@torch.inference_mode()
def test_what_is_kept_reaches_the_output_times_its_factor():
    """With factors of its own choice: minus the noisy frame, half the frame before the clip, twice its change."""
    plain, continued = denoisers()
    factors = torch.tensor([-1.0, 0.5, 2.0]).repeat_interleave(CHANNELS)
    continued.last_frames_out.bias.copy_(factors)
    (x_t, t), last = noisy_clip(), some_frame()
    told = conditions(last)
    newest = told.reference_latents + last[:, :CHANNELS]
    kept = -x_t + 0.5 * newest[:, None] + 2 * last[:, None, CHANNELS:-1]
    torch.testing.assert_close(
        continued(x_t, t, told), plain(x_t, t, conditions(None)) + kept, rtol=1e-4, atol=1e-5
    )


def test_factors_are_learned():
    _, continued = denoisers()
    continued(*noisy_clip(), conditions(some_frame())).square().sum().backward()
    assert continued.last_frames_out.weight.grad.any() and continued.last_frames_out.bias.grad.any()


def test_they_are_the_newest_frame_less_the_portrait_and_its_change():
    torch.manual_seed(0)
    model = LoopyModel(with_last_frame())
    portrait, past = torch.randn(3, 4, 8, 8), torch.randn(3, 5, 4, 8, 8)
    mask = torch.tensor([[0.0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    given = model.last_frames(portrait, past, mask)
    assert given.shape == (3, 9, 8, 8)
    for sample in (0, 1):
        torch.testing.assert_close(given[sample, :4], past[sample, -1] - portrait[sample])
    torch.testing.assert_close(given[0, 4:8], past[0, -1] - past[0, -2])
    assert not given[1, 4:8].any()
    assert (given[:2, 8] == 1).all() and not given[2].any()
    # A frame that equals the portrait is not the same as none.
    still = model.last_frames(portrait, portrait[:, None].expand(-1, 2, -1, -1, -1), torch.ones(3, 2))
    assert not still[:, :8].any() and (still[:, 8] == 1).all()


def test_the_paper_s_form_has_no_such_input():
    model = LoopyModel(loopy_config())
    frame = torch.zeros(1, 4, 8, 8)
    assert model.last_frames(frame, frame[:, None], torch.ones(1, 1)) is None
    assert not any("last_frames" in name for name in model.state_dict())


def test_guidance_without_the_reference_loses_it_and_without_sound_keeps_it():
    told = conditions(some_frame())
    assert not told.without_reference().last_frames.any()
    assert torch.equal(told.without_audio().last_frames, told.last_frames)
    both = type(told).cat([told, told.without_reference()])
    assert both.last_frames.shape[0] == 2 * BATCH and not both.last_frames[BATCH:].any()


def test_it_is_new_in_stage_2(tmp_path):
    config, path = with_last_frame(), tmp_path / "loopy.safetensors"
    save_weights(LoopyModel(picture_model(config)), path)
    new = load_stage1(LoopyModel(config), path)
    assert "denoiser.last_frames_in.weight" in new
    assert part_of("denoiser.last_frames_in.weight") == "temporal"
    assert hearing_model(config).denoiser.past_input is None


def test_a_model_of_the_same_size_can_be_gone_on_from_and_no_other(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "loopy.safetensors"
    old, model = awake(LoopyModel(with_last_frame())), LoopyModel(with_last_frame())
    save_weights(old, path)
    start_loopy(model, path)
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in model.state_dict().items())
    save_weights(LoopyModel(loopy_config()), path)
    with pytest.raises(
        ValueError, match=r"is not a model of this recipe's size:\s+3 missing:\s+denoiser.last_frames"
    ):
        start_loopy(model, path)
