"""The denoiser: which condition reaches what, and the ways of computing the same thing."""

from dataclasses import replace

import pytest
import torch

from openloopy.models.conditions import Conditions, cat_records
from openloopy.models.denoiser import Denoiser
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import attention_layers
from tests.models.tiny_nets import (
    BATCH,
    CHANNELS,
    MOTION,
    clip_config,
    noisy_clip,
    tiny_conditions,
    tiny_denoiser,
    tiny_features,
    tiny_unet,
)

CONFIGS = {
    "paper": clip_config(),
    "concatenated": clip_config(reference_input="attention+concat"),
    "single": clip_config(temporal=TemporalConfig(kind="single", num_heads=2, max_motion_frames=MOTION)),
}


@pytest.fixture(params=CONFIGS, name="denoiser")
def make_denoiser(request) -> Denoiser:
    return tiny_denoiser(CONFIGS[request.param])


@torch.no_grad()
def test_cached_equals_uncached(denoiser):
    x_t, t = noisy_clip()
    conditions = tiny_conditions(tiny_features())
    cached = replace(conditions, reference=denoiser.cache_reference(conditions.reference))
    assert torch.equal(denoiser(x_t, t, conditions), denoiser(x_t, t, cached))


@torch.no_grad()
@pytest.mark.parametrize("is_cached", [False, True])
def test_guidance_in_one_batch_equals_in_turn(denoiser, is_cached):
    x_t, t = noisy_clip()
    conditions = tiny_conditions(tiny_features())
    if is_cached:
        conditions = replace(conditions, reference=denoiser.cache_reference(conditions.reference))
    branches = [conditions, conditions.without_audio(), conditions.without_reference()]
    in_turn = torch.cat([denoiser(x_t, t, branch) for branch in branches])
    together = Conditions.cat(branches)
    assert together.reference is conditions.reference
    in_one = denoiser(x_t.repeat(3, 1, 1, 1, 1), t.repeat(3), together)
    assert torch.allclose(in_one, in_turn, atol=1e-5)
    assert min((in_turn[:2] - in_turn[2:4]).std(), (in_turn[2:4] - in_turn[4:]).std()) > 1e-3


@torch.no_grad()
def test_cached_audio_equals_its_tokens_in_every_branch(denoiser):
    x_t, t = noisy_clip()
    conditions = tiny_conditions(tiny_features())
    cached = replace(conditions, audio_tokens=denoiser.cache_audio(conditions.audio_tokens))
    first = torch.tensor([0.0, 1.0])
    drop = {"keep_audio": first, "keep_motion_latents": first, "keep_reference": torch.ones(BATCH)}
    for change in (
        lambda c: c,
        Conditions.without_audio,
        Conditions.without_reference,
        lambda c: c.drop(**drop),
    ):
        wanted, got = (denoiser(x_t, t, change(c)) for c in (conditions, cached))
        assert torch.allclose(got, wanted, atol=1e-5)
    branches = [[c, c.without_audio()] for c in (conditions, cached)]
    wanted, got = (
        denoiser(x_t.repeat(2, 1, 1, 1, 1), t.repeat(2), Conditions.cat(pair)) for pair in branches
    )
    assert torch.allclose(got, wanted, atol=1e-5)
    assert (got[:BATCH] - got[BATCH:]).std() > 1e-3


@torch.no_grad()
def test_branches_with_references_of_their_own(denoiser):
    x_t, t = noisy_clip()
    one, other = tiny_conditions(tiny_features()), tiny_conditions(tiny_features(torch.zeros(BATCH, MOTION)))
    other = replace(other, reference_latents=-other.reference_latents)
    in_turn = torch.cat([denoiser(x_t, t, one), denoiser(x_t, t, other)])
    in_one = denoiser(x_t.repeat(2, 1, 1, 1, 1), t.repeat(2), Conditions.cat([one, other]))
    assert torch.allclose(in_one, in_turn, atol=1e-5)


@torch.no_grad()
def test_hidden_reference_equals_absent_reference(denoiser):
    x_t, t = noisy_clip()
    conditions = tiny_conditions(tiny_features()).without_reference()
    absent = replace(conditions, reference=None)
    assert torch.allclose(denoiser(x_t, t, conditions), denoiser(x_t, t, absent), atol=1e-5)


@torch.no_grad()
def test_samples_are_dropped_one_by_one(denoiser):
    """Dropping the first sample's conditions leaves the second one as it was."""
    x_t, t = noisy_clip()
    conditions = tiny_conditions(tiny_features())
    first = torch.tensor([0.0, 1.0])
    dropped = conditions.drop(keep_audio=first, keep_motion_latents=first, keep_reference=first)
    out, full = denoiser(x_t, t, dropped), denoiser(x_t, t, conditions)
    base = denoiser(x_t, t, conditions.without_reference())
    assert torch.allclose(out[1], full[1], atol=1e-5) and torch.allclose(out[0], base[0], atol=1e-5)
    assert (out[0] - full[0]).std() > 1e-3


@torch.no_grad()
def test_motion_latents_are_added_to_the_timestep_embedding():
    """The difference between two timesteps' embeddings turns one timestep into the other."""
    denoiser, (x_t, t), conditions = tiny_denoiser(), noisy_clip(), tiny_conditions(tiny_features())
    later = t + 100
    difference = (denoiser.time_embedding(later) - denoiser.time_embedding(t))[:, None]
    moved = denoiser(x_t, t, replace(conditions, motion_latents=difference))
    there = denoiser(x_t, later, replace(conditions, motion_latents=None))
    assert torch.allclose(moved, there, atol=1e-5)
    assert (there - denoiser(x_t, t, replace(conditions, motion_latents=None))).std() > 1e-3


def test_every_mask_drops_its_own_part():
    conditions = tiny_conditions(None)
    first, second, both = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.ones(BATCH)
    heard = conditions.drop(keep_audio=first, keep_motion_latents=second, keep_reference=both)
    for part, kept in (("audio_tokens", 0), ("motion_latents", 1)):
        assert torch.equal(getattr(heard, part)[kept], getattr(conditions, part)[kept])
        assert not getattr(heard, part)[1 - kept].any()
    assert torch.equal(heard.reference_latents, conditions.reference_latents)
    hidden = conditions.drop(keep_audio=both, keep_motion_latents=both, keep_reference=second)
    assert hidden.keep_reference.tolist() == hidden.keep_motion.tolist() == [0.0, 1.0]
    assert not hidden.reference_latents[0].any()
    assert torch.equal(hidden.reference_latents[1], conditions.reference_latents[1])
    assert torch.equal(hidden.audio_tokens, conditions.audio_tokens)


@torch.no_grad()
@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("part", ["audio_tokens", "motion_latents", "keep_reference", "keep_motion"])
def test_every_condition_matters(part, is_cached):
    denoiser, (x_t, t) = tiny_denoiser(), noisy_clip()
    conditions = tiny_conditions(tiny_features())
    if is_cached:
        conditions = replace(conditions, reference=denoiser.cache_reference(conditions.reference))
    changed = replace(conditions, **{part: torch.zeros_like(getattr(conditions, part))})
    assert (denoiser(x_t, t, conditions) - denoiser(x_t, t, changed)).std() > 1e-3


@torch.no_grad()
def test_reference_latents_matter_only_where_concatenated():
    (x_t, t), conditions = noisy_clip(), tiny_conditions(tiny_features())
    changed = replace(conditions, reference_latents=conditions.reference_latents + 1)
    paper, concatenated = tiny_denoiser(), tiny_denoiser(CONFIGS["concatenated"])
    assert torch.equal(paper(x_t, t, conditions), paper(x_t, t, changed))
    assert (concatenated(x_t, t, conditions) - concatenated(x_t, t, changed)).std() > 1e-3


@torch.no_grad()
def test_reference_latents_are_stacked_behind_the_noisy_ones():
    """Imported weights of `conv_in` act on the first channels: without those of the others the portrait is not seen."""
    (x_t, t), conditions = noisy_clip(), tiny_conditions(tiny_features())
    denoiser = tiny_denoiser(CONFIGS["concatenated"])
    denoiser.conv_in.weight[:, CHANNELS:] = 0
    changed = replace(conditions, reference_latents=conditions.reference_latents + 1)
    assert torch.equal(denoiser(x_t, t, conditions), denoiser(x_t, t, changed))
    assert (denoiser(x_t, t, conditions) - denoiser(x_t + 1, t, conditions)).std() > 1e-3


@torch.no_grad()
def test_layers_along_time_follow_the_spatial_transformer():
    denoiser, (x_t, t) = tiny_denoiser(), noisy_clip()
    calls = []

    def record(module, given, made):
        calls.append((module, given[0], made))

    layers = attention_layers(denoiser)
    for module in sum(layers, ()):
        module.register_forward_hook(record)
    denoiser(x_t, t, tiny_conditions(tiny_features()))
    pairs = list(zip(calls[::2], calls[1::2], strict=True))
    assert [(spatial[0], temporal[0]) for spatial, temporal in pairs] == layers
    assert all(spatial[2] is temporal[1] for spatial, temporal in pairs)


@torch.no_grad()
def test_audio_of_a_frame_reaches_other_frames_only_through_time():
    """With temporal layers, sound at one frame moves the others; without, it does not."""
    x_t, t = noisy_clip()
    for temporal, reaches in [(clip_config().temporal, True), (None, False)]:
        denoiser = tiny_denoiser(clip_config(temporal=temporal))
        conditions = tiny_conditions(tiny_features())
        tokens = conditions.audio_tokens.clone()
        tokens[:, 0] += 1
        change = denoiser(x_t, t, conditions) - denoiser(x_t, t, replace(conditions, audio_tokens=tokens))
        assert change[:, 0].std() > 1e-3
        assert (change[:, 1:].abs().max() > 1e-4) == reaches


@torch.no_grad()
def test_a_shorter_clip_works():
    denoiser, (x_t, t) = tiny_denoiser(), noisy_clip()
    conditions = tiny_conditions(tiny_features())
    short = replace(
        conditions,
        audio_tokens=conditions.audio_tokens[:, :2],
        motion_latents=conditions.motion_latents[:, :2],
    )
    assert denoiser(x_t[:, :2], t, short).shape == x_t[:, :2].shape
    with pytest.raises(ValueError, match="clip of 4 frames"):
        denoiser(torch.cat([x_t, x_t[:, :1]], dim=1), t, widened(conditions))


def widened(conditions: Conditions) -> Conditions:
    """One frame more than the model has room for."""
    tokens, latents = conditions.audio_tokens, conditions.motion_latents
    return replace(
        conditions,
        audio_tokens=torch.cat([tokens, tokens[:, :1]], dim=1),
        motion_latents=torch.cat([latents, latents[:, :1]], dim=1),
    )


def test_stage_1_is_a_subset_of_stage_2():
    stage_1 = Denoiser(clip_config(temporal=None, audio=None)).state_dict()
    stage_2 = Denoiser(clip_config()).state_dict()
    new = set(stage_2) - set(stage_1)
    assert set(stage_1) < set(stage_2)
    assert all(".temporal." in name or ".attn2." in name or ".norm2." in name for name in new)
    assert all(stage_1[name].shape == stage_2[name].shape for name in stage_1)


@torch.no_grad()
def test_fresh_stage_2_layers_change_nothing():
    """Loaded with stage 1's weights, a new stage 2 denoiser gives what stage 1 gave for each frame, sound or not."""
    torch.manual_seed(0)
    stage_1, stage_2 = Denoiser(clip_config(temporal=None, audio=None)), Denoiser(clip_config())
    stage_2.load_state_dict({**stage_2.state_dict(), **stage_1.state_dict()})
    (x_t, t), conditions = noisy_clip(), tiny_conditions(tiny_features())
    silent = replace(conditions, audio_tokens=None)
    assert torch.allclose(stage_2(x_t, t, conditions), stage_1(x_t, t, silent), atol=1e-5)


def test_gradients_reach_every_parameter():
    denoiser, (x_t, t) = tiny_denoiser(), noisy_clip()
    conditions = tiny_conditions(tiny_features(torch.tensor([[0.0, 0, 1, 1], [1, 1, 1, 1]])))
    drop = torch.tensor([0.0, 1.0])
    conditions = conditions.drop(keep_audio=1 - drop, keep_motion_latents=1 - drop, keep_reference=drop)
    denoiser(x_t, t, conditions).square().mean().backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_audio_must_fit_the_denoiser():
    (x_t, t), conditions = noisy_clip(), tiny_conditions(tiny_features())
    with pytest.raises(ValueError, match="has no audio layers"):
        tiny_denoiser(clip_config(audio=None))(x_t, t, conditions)
    with pytest.raises(ValueError, match="has audio layers.*none"):
        tiny_denoiser()(x_t, t, replace(conditions, audio_tokens=None))


def test_conditions_with_different_parts_do_not_join():
    conditions = tiny_conditions(None)
    with pytest.raises(ValueError, match="others lack"):
        Conditions.cat([conditions, replace(conditions, audio_tokens=None)])
    with pytest.raises(ValueError, match="same kind"):
        cat_records([tiny_features(), tiny_denoiser().cache_reference(tiny_features())])


def test_config_rejects_what_cannot_be_built():
    with pytest.raises(ValueError, match="unknown reference_input"):
        clip_config(reference_input="concat")
    with pytest.raises(ValueError, match="multiples of norm_groups"):
        type(tiny_unet())(block_channels=(20, 30), attention_levels=(True, True), norm_groups=8)


@torch.no_grad()
def test_half_precision_weights_work_throughout():
    x_t, t = noisy_clip()
    conditions = tiny_conditions(tiny_features()).drop(
        keep_audio=torch.ones(BATCH),
        keep_motion_latents=torch.ones(BATCH),
        keep_reference=torch.tensor([0.0, 1.0]),
    )
    exact = tiny_denoiser(CONFIGS["concatenated"])(x_t, t, conditions)
    denoiser = tiny_denoiser(CONFIGS["concatenated"]).bfloat16()
    out = denoiser(x_t.bfloat16(), t, half_conditions(conditions))
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


def half_conditions(conditions: Conditions) -> Conditions:
    features = conditions.reference
    layers = tuple(type(x)(x.reference.bfloat16(), x.motion.bfloat16()) for x in features.layers)
    return replace(
        conditions,
        reference=replace(features, layers=layers),
        audio_tokens=conditions.audio_tokens.bfloat16(),
        motion_latents=conditions.motion_latents.bfloat16(),
    )
