import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from openloopy.diffusion.guidance import Guidance
from openloopy.inference.pipeline import (
    GenerationOptions,
    LoopyPipeline,
    MotionHistory,
    clip_generator,
    denoise_batched,
    denoise_in_turn,
    fits_batched,
    guidance_branches,
    one_ahead,
    one_thread,
    plan_clips,
)
from openloopy.inference.windows import ClipWindow
from openloopy.media.audio import AudioError, SoundArray
from openloopy.models.audio_encoder import AudioFeatureReader
from openloopy.models.codec import KLCodec
from openloopy.models.denoiser import Denoiser
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.reference_net import ReferenceNet
from openloopy.models.rig_codec import Portrait
from tests.tiny import tiny_config, tiny_model, tiny_portrait, tiny_sound

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipeline():
    return LoopyPipeline(tiny_model())


def run(pipeline, duration_s=1.1, *, sound_seed=0, portrait_seed=0, **options):
    frames = pipeline.generate(
        Portrait(tiny_portrait(portrait_seed)),
        (tiny_sound(duration_s, sound_seed), 16_000),
        options=GenerationOptions(**options),
    )
    return np.stack(list(frames))


def count_calls(monkeypatch, kind):
    calls = []
    forward = kind.forward
    monkeypatch.setattr(
        kind, "forward", lambda self, *args, **kwargs: calls.append(args) or forward(self, *args, **kwargs)
    )
    return calls


@pytest.mark.parametrize(
    "duration_s, expected", [(0.1, 2), (0.11, 3), (0.48, 12), (0.52, 13), (0.97, 24), (1.0, 25)]
)
def test_exactly_as_many_frames_as_the_sound_lasts(pipeline, duration_s, expected):
    frames = run(pipeline, duration_s, steps=1)
    assert frames.shape == (expected, 32, 32, 3) and frames.dtype == np.uint8
    assert pipeline.num_frames(tiny_sound(duration_s)) == expected


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(pipeline):
    first = run(pipeline, seed=3)
    assert np.array_equal(first, run(pipeline, seed=3))
    assert not np.array_equal(first, run(pipeline, seed=4))


def test_sound_and_portrait_make_a_difference(pipeline):
    first = run(pipeline)
    assert not np.array_equal(first, run(pipeline, sound_seed=1))
    assert not np.array_equal(first, run(pipeline, portrait_seed=1))


def test_an_earlier_clip_changes_the_next_through_the_history(pipeline):
    latents = torch.randn(12, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    sound, portrait = clip_inputs(pipeline)
    window = ClipWindow(1, 12, 12)
    plan = plan_clips(pipeline.model.config, GenerationOptions(), CPU)
    results = []
    for past in (None, latents, latents + 1):
        history = MotionHistory(124, (4, 4, 4), CPU)
        if past is not None:
            history.append(past)
        with torch.inference_mode():
            results.append(pipeline._clip_latents(portrait, sound, history, window, plan))
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[1], results[2])


def clip_inputs(pipeline):
    with torch.inference_mode():
        portrait = pipeline.model.codec.prepare(Portrait(tiny_portrait()), 32)
    return AudioFeatureReader(pipeline.model.audio_encoder, tiny_sound(1.0)), portrait


@pytest.fixture(scope="module")
def conditions(pipeline):
    sound, portrait = clip_inputs(pipeline)
    history = MotionHistory(124, (4, 4, 4), CPU)
    history.append(torch.randn(30, 4, 4, 4, generator=torch.Generator().manual_seed(1)))
    with torch.inference_mode():
        return pipeline._conditions(portrait, sound, history, ClipWindow(0, 0, 12), torch.Generator())


@pytest.mark.parametrize("audio, reference", [(5.0, 3.0), (1.0, 1.0), (4.0, 1.0), (2.0, 2.0)])
def test_guidance_in_one_batch_equals_guidance_in_turn(pipeline, conditions, audio, reference):
    guidance = Guidance(audio=audio, reference=reference)
    branches = guidance_branches(conditions, guidance)
    x_t = torch.randn(1, 12, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([500])
    with torch.inference_mode():
        batched = denoise_batched(pipeline.model.loopy.denoiser, branches, guidance)(x_t, t)
        in_turn = denoise_in_turn(pipeline.model.loopy.denoiser, branches, guidance)(x_t, t)
    torch.testing.assert_close(batched, in_turn, atol=1e-4, rtol=1e-4)


def test_guidance_in_one_batch_equals_guidance_in_turn_over_a_whole_video(pipeline):
    batched, in_turn = run(pipeline, branches="batched"), run(pipeline, branches="in_turn")
    assert np.abs(batched.astype(int) - in_turn).max() <= 1


def test_every_branch_differs(pipeline, conditions):
    x_t, t = torch.zeros(1, 12, 4, 4, 4), torch.tensor([500])
    branches = guidance_branches(conditions, Guidance())
    with torch.inference_mode():
        audio, reference, base = (pipeline.model.loopy.denoiser(x_t, t, c) for c in branches.values())
    for one, other in ((audio, reference), (reference, base), (audio, base)):
        assert (one - other).abs().max() > 1e-3


def test_a_cached_reference_equals_an_uncached_one(pipeline, monkeypatch):
    cached, project, uncached_features = run(pipeline), Denoiser.cache_reference, []

    def project_late(self, features):
        """The pipeline gets its features back as they are; the denoiser projects them in every call."""
        if any(features is known for known in uncached_features):
            return project(self, features)
        uncached_features.append(features)
        return features

    monkeypatch.setattr(Denoiser, "cache_reference", project_late)
    assert np.array_equal(cached, run(pipeline))
    assert len(uncached_features) == 3


def test_the_reference_is_read_and_projected_once_per_clip(pipeline, monkeypatch):
    reads, calls = count_calls(monkeypatch, ReferenceNet), count_calls(monkeypatch, Denoiser)
    run(pipeline, 1.1, steps=4, branches="batched")
    assert len(reads) == 3
    assert len(calls) == 3 * 4


@pytest.mark.parametrize("audio, reference, passes", [(3.0, 2.0, 3), (1.0, 1.0, 1), (3.0, 1.0, 2)])
def test_only_needed_branches_are_computed(pipeline, monkeypatch, audio, reference, passes):
    calls = count_calls(monkeypatch, Denoiser)
    run(pipeline, 0.4, steps=1, audio_guidance=audio, reference_guidance=reference, branches="in_turn")
    assert len(calls) == passes


def test_first_frames_come_after_the_first_clip(pipeline, monkeypatch):
    reads = count_calls(monkeypatch, ReferenceNet)
    frames = pipeline.generate(Portrait(tiny_portrait()), (tiny_sound(60.0), 16_000))
    assert reads == []
    next(frames)
    assert len(reads) == 1
    assert torch.is_inference_mode_enabled() is False


def test_every_clip_sees_the_latents_before_it_and_the_sound_around_it(pipeline, monkeypatch):
    presents, windows, histories = [], [], []
    read, hear = LoopyModel.read_reference, AudioFeatureReader.window

    def read_and_note(self, reference, history, history_mask, generator):
        presents.append(int(history_mask.sum()))
        histories.append(history)
        return read(self, reference, history, history_mask, generator)

    def hear_and_note(self, start_frame, num_frames):
        windows.append((start_frame, num_frames))
        return hear(self, start_frame, num_frames)

    monkeypatch.setattr(LoopyModel, "read_reference", read_and_note)
    monkeypatch.setattr(AudioFeatureReader, "window", hear_and_note)
    run(pipeline, 1.3, steps=1)
    assert presents == [0, 12, 24]
    assert torch.equal(histories[2][:, -24:-12], histories[1][:, -12:]) and histories[1][:, -12:].any()
    assert windows == [(-2, 16), (10, 16), (22, 16)]


def test_one_ahead_keeps_the_order_and_makes_one_more_than_was_asked_for():
    made, may_go_on = [], threading.Event()

    def numbers():
        for number in range(5):
            made.append((number, threading.get_ident()))
            if number == 2:
                may_go_on.wait(10)
            yield number

    ahead = one_ahead(numbers())
    assert made == []
    assert [next(ahead), next(ahead)] == [0, 1]
    latest = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < latest:
        time.sleep(0.001)
    time.sleep(0.05)
    assert [number for number, _ in made] == [0, 1, 2]  # the next one, and not the one after it
    may_go_on.set()
    assert list(ahead) == [2, 3, 4]
    assert threading.get_ident() not in {thread for _, thread in made}


def test_one_ahead_passes_an_error_on_after_what_came_before_it():
    def fails():
        yield from (1, 2)
        raise RuntimeError("no third one")

    ahead = one_ahead(fails())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(RuntimeError, match="no third one"):
        next(ahead)


def test_one_ahead_that_is_closed_early_makes_no_more():
    made = []
    ahead = one_ahead(made.append(number) or number for number in range(1000))
    assert next(ahead) == 0
    ahead.close()
    assert 1 <= len(made) <= 2
    assert list(ahead) == []


def test_a_codec_that_computes_apart_gives_the_same_frames(pipeline, monkeypatch):
    with one_thread(if_true=True):  # sums in another order round another way
        expected = run(pipeline, 1.1)
        monkeypatch.setattr(KLCodec, "computes_apart", True)
        assert np.array_equal(run(pipeline, 1.1), expected)


@pytest.mark.parametrize("apart", [True, False])
def test_beside_a_codec_that_computes_apart_clips_are_sampled_in_one_thread(pipeline, monkeypatch, apart):
    seen, sample_clip = [], LoopyPipeline._clip_latents
    monkeypatch.setattr(KLCodec, "computes_apart", apart)

    def listening(*args):
        seen.append(torch.get_num_threads())
        return sample_clip(*args)

    monkeypatch.setattr(LoopyPipeline, "_clip_latents", listening)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(pipeline, 0.6)
        assert set(seen) == {1 if apart else 3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_what_a_portrait_s_user_should_know_is_said_before_the_first_frame(pipeline, monkeypatch):
    prepare = KLCodec.prepare
    monkeypatch.setattr(
        KLCodec, "prepare", lambda self, *a: replace(prepare(self, *a), notes=("the eyes are shut",))
    )
    said = []
    scene = pipeline.open_scene(Portrait(tiny_portrait()))
    for _ in range(2):  # of each video of it
        pipeline.generate(scene, (tiny_sound(0.5), 16_000), say=said.append)
    assert said == ["the eyes are shut"] * 2
    voice = tiny_sound(0.5)
    pipeline.generate(scene, (np.stack([voice, -voice]), 16_000), say=said.append)
    assert len(said) == 4 and "channels of the sound are out of phase" in said[2]
    next(pipeline.generate(Portrait(tiny_portrait()), (tiny_sound(0.5), 16_000)))  # nobody to tell


def test_history_keeps_the_last_frames_oldest_first():
    history = MotionHistory(5, (1, 1, 1), CPU)
    latents, mask = history.as_batch()
    assert latents.shape == (1, 5, 1, 1, 1) and mask.tolist() == [[0.0] * 5] and not latents.any()
    history.append(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1))
    latents, mask = history.as_batch()
    assert latents.flatten().tolist() == [0, 0, 1, 2, 3] and mask.tolist() == [[0, 0, 1, 1, 1]]
    history.append(torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1, 1))
    latents, mask = history.as_batch()
    assert latents.flatten().tolist() == [2, 3, 4, 5, 6] and mask.tolist() == [[1.0] * 5]


def test_history_does_not_grow():
    history = MotionHistory(124, (2, 2, 2), CPU)
    for _ in range(1000):
        history.append(torch.zeros(12, 2, 2, 2))
    latents, _ = history.as_batch()
    assert latents.shape[1] == 124
    assert latents.untyped_storage().nbytes() <= (124 + 12) * 8 * 4


def test_each_clip_has_its_own_noise():
    draws = [
        torch.randn(4, generator=clip_generator(seed, clip)).tolist()
        for seed, clip in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len({tuple(draw) for draw in draws}) == 4
    assert draws[1] == torch.randn(4, generator=clip_generator(0, 1)).tolist()


def test_every_clip_starts_from_the_noise_of_its_index(pipeline, monkeypatch):
    noises = []

    def sample_and_note(denoise, noise, **settings):
        noises.append(noise)
        return noise

    monkeypatch.setattr("openloopy.inference.pipeline.sample", sample_and_note)
    run(pipeline, 0.9, seed=5)
    assert len(noises) == 2
    for index, noise in enumerate(noises):
        assert torch.equal(noise, torch.randn(1, 12, 4, 4, 4, generator=clip_generator(5, index)))


def test_options_override_the_models_defaults():
    config = tiny_config()
    plan = plan_clips(config, GenerationOptions(seed=7), CPU)
    assert (plan.seed, plan.sampler.steps, plan.sampler.spacing) == (7, 2, "trailing")
    assert plan.guidance == Guidance(audio=3.0, reference=2.0) and plan.temperature == 1.0
    asked = GenerationOptions(
        steps=5, audio_guidance=1.5, reference_guidance=0.0, temperature=0.5, branches="batched"
    )
    plan = plan_clips(config, asked, CPU)
    assert plan.temperature == 0.5
    assert plan.sampler.steps == 5 and plan.is_batched
    assert plan.guidance == Guidance(audio=1.5, reference=0.0)


def test_the_temperature_scales_the_noise_and_must_not_be_negative(monkeypatch):
    started_from = []

    def remember(denoise, noise, **settings):
        started_from.append(noise)
        return noise

    monkeypatch.setattr("openloopy.inference.pipeline.sample", remember)
    pipeline = LoopyPipeline(tiny_model())
    for temperature in (1.0, 0.5):
        run(pipeline, 0.2, steps=1, temperature=temperature)
    assert torch.equal(started_from[1], started_from[0] * 0.5)
    with pytest.raises(ValueError, match="temperature"):
        GenerationOptions(temperature=-0.1)
    parts = (0.5, 1.0, 1.5, 0.0)
    model = replace(
        pipeline.model,
        config=replace(
            pipeline.model.config, defaults=replace(pipeline.model.config.defaults, part_temperatures=parts)
        ),
    )
    run(LoopyPipeline(model), 0.2, steps=1, temperature=0.5)
    assert torch.equal(started_from[2], started_from[0] * 0.5 * torch.tensor(parts))


def test_branches_are_batched_where_the_device_is_large(monkeypatch):
    def device_of(gib):
        return lambda _: type("Properties", (), {"total_memory": gib * 2**30})()

    config, gpu = LoopyConfig(name="paper"), torch.device("cuda")
    assert fits_batched(tiny_config(), 3, CPU)
    assert not fits_batched(config, 3, CPU)
    monkeypatch.setattr(torch.cuda, "get_device_properties", device_of(139))
    assert fits_batched(config, 3, gpu)
    monkeypatch.setattr(torch.cuda, "get_device_properties", device_of(16))
    assert not fits_batched(config, 3, gpu)


def test_a_model_without_sound_and_time_makes_single_frames():
    config = tiny_config(a2l=None)
    config = replace(config, denoiser=replace(config.denoiser, audio=None, temporal=None))
    pipeline = LoopyPipeline(tiny_model(denoiser=config.denoiser, a2l=None))
    assert run(pipeline, 0.12, steps=1).shape[0] == 3


@pytest.mark.parametrize("form", ["a tuple", "an object", "a waveform"])
@pytest.mark.parametrize(("change", "message"), [(np.int16, "got int16"), (np.log, "not numbers")])
def test_sound_that_is_none_is_refused_in_every_form(pipeline, form, change, message):
    with np.errstate(invalid="ignore", divide="ignore"):
        samples = change(tiny_sound(0.5))
    with pytest.raises(AudioError, match=message):
        if form == "a waveform":
            scene = pipeline.open_scene(Portrait(tiny_portrait()))
            plan = plan_clips(pipeline.model.config, GenerationOptions(), pipeline.model.device)
            pipeline.clips(scene.prepared, samples, 12, plan)
        elif form == "a tuple":
            pipeline.generate(Portrait(tiny_portrait()), (samples, 16_000))
        else:
            pipeline.generate(Portrait(tiny_portrait()), SoundArray(samples, 16_000))


def test_wrong_inputs_are_refused_at_once(pipeline):
    rgb, sound = tiny_portrait(), (tiny_sound(0.5), 16_000)
    with pytest.raises(ValueError, match=r"expected a square portrait .*got \(16, 32, 3\) uint8; crop it"):
        Portrait(rgb[:16])
    with pytest.raises(ValueError, match="got .* float32; crop it"):
        Portrait(rgb.astype(np.float32))
    with pytest.raises(ValueError, match=r"expected a portrait of shape \(32, 32, 3\), got \(16, 16, 3\)"):
        pipeline.generate(Portrait(rgb[:16, :16]), sound)
    portrait = Portrait(rgb)
    with pytest.raises(ValueError, match=r"expected a sound as a path or as \(samples, rate\)"):
        pipeline.generate(portrait, sound[0])
    with pytest.raises(ValueError, match="lasts 0.019 s; at least 0.1 s"):
        pipeline.generate(portrait, (sound[0][:300], 16_000))
    for seed in (-1, 0.5, True):
        with pytest.raises(ValueError, match="seed must be a whole number and not negative"):
            GenerationOptions(seed=seed)
    for steps in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"steps must be a whole number, at least 1, got {steps}"):
            GenerationOptions(steps=steps)
    for name in ("audio_guidance", "reference_guidance", "temperature"):
        for value in (-0.1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"{name} must lie in 0 to 100, got {value}"):
                GenerationOptions(**{name: value})
    for size_px in (62, 65):
        with pytest.raises(ValueError, match=f"size must be even and at least 64 px, got {size_px}"):
            GenerationOptions(size_px=size_px)
    with pytest.raises(ValueError, match="tiny makes pictures of 32 px, not of 64; leave the size out"):
        pipeline.generate(portrait, sound, options=GenerationOptions(size_px=64))
    with pytest.raises(ValueError, match="got 'parallel'"):
        GenerationOptions(branches="parallel")
