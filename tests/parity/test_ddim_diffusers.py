"""Our schedule and sampler against diffusers' DDIMScheduler."""

import pytest
import torch
from diffusers import DDIMScheduler

from openloopy.diffusion.sampler import SamplerConfig, sample, timesteps
from openloopy.diffusion.schedule import ScheduleConfig, alpha_bars

DIFFUSERS_NAMES = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


def theirs(schedule, sampler, prediction):
    scheduler = DDIMScheduler(
        num_train_timesteps=schedule.num_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.kind,
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=sampler.spacing == "trailing",
        prediction_type=DIFFUSERS_NAMES[prediction],
        timestep_spacing=sampler.spacing,
        rescale_betas_zero_snr=schedule.zero_terminal_snr,
    )
    scheduler.set_timesteps(sampler.steps)
    return scheduler


def denoise(x_t, t):
    return torch.tanh(0.7 * x_t + 0.1) * (1 + t.view(-1, 1, 1, 1, 1) / 2000)


@pytest.mark.parametrize("kind", ["scaled_linear", "linear"])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_alpha_bars(kind, zero_terminal_snr):
    schedule = ScheduleConfig(kind=kind, zero_terminal_snr=zero_terminal_snr)
    expected = theirs(schedule, SamplerConfig(), "v").alphas_cumprod
    torch.testing.assert_close(alpha_bars(schedule), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 4, 7, 25, 30, 100])
def test_timesteps(spacing, steps):
    sampler = SamplerConfig(steps=steps, spacing=spacing)
    expected = theirs(ScheduleConfig(), sampler, "v").timesteps.tolist()
    assert timesteps(sampler, ScheduleConfig()) == expected


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [4, 25])
@pytest.mark.parametrize(
    "prediction, zero_terminal_snr",
    [("epsilon", False), ("v", False), ("v", True), ("x0", False), ("x0", True)],
)
def test_sampling(spacing, steps, prediction, zero_terminal_snr):
    schedule = ScheduleConfig(zero_terminal_snr=zero_terminal_snr)
    sampler = SamplerConfig(steps=steps, spacing=spacing)
    noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    scheduler = theirs(schedule, sampler, prediction)
    expected = noise
    for t in scheduler.timesteps:
        expected = scheduler.step(denoise(expected, t.expand(2)), t, expected).prev_sample

    got = sample(denoise, noise, config=sampler, schedule=schedule, prediction=prediction)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_leading_sampling_for_a_step_count_that_does_not_divide_the_schedule():
    sampler, noise = SamplerConfig(steps=30), torch.ones(1, 1, 1, 2, 2)
    scheduler, expected = theirs(ScheduleConfig(), sampler, "v"), noise
    for t in scheduler.timesteps:
        expected = scheduler.step(denoise(expected, t.expand(1)), t, expected).prev_sample
    got = sample(denoise, noise, config=sampler, schedule=ScheduleConfig(), prediction="v")
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
