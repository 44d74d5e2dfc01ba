import pytest
import torch

from openloopy.diffusion.prediction import add_noise, target
from openloopy.diffusion.sampler import SamplerConfig, ddim_step, sample, timesteps
from openloopy.diffusion.schedule import ScheduleConfig, alpha_bars


def test_timesteps_by_hand():
    assert timesteps(SamplerConfig(steps=4, spacing="leading"), ScheduleConfig()) == [751, 501, 251, 1]
    assert timesteps(SamplerConfig(steps=4, spacing="trailing"), ScheduleConfig()) == [999, 749, 499, 249]


@pytest.mark.parametrize("zero_terminal_snr", [True, False])
def test_steps_of_the_same_angle(zero_terminal_snr):
    schedule = ScheduleConfig(zero_terminal_snr=zero_terminal_snr)
    visited = timesteps(SamplerConfig(steps=6, spacing="angle"), schedule)
    angles = alpha_bars(schedule)[visited].sqrt().acos()
    assert visited[0] == 999
    torch.testing.assert_close(angles, angles[0] * torch.arange(6, 0, -1) / 6, atol=2e-3, rtol=0)


def shrunk(config: SamplerConfig, std: float) -> float:
    """What becomes of the standard deviation of normally distributed data, whose best denoiser is known."""
    schedule = ScheduleConfig(zero_terminal_snr=True)
    levels = alpha_bars(schedule)

    def denoise(x_t, t):
        signal, noise = levels[t].sqrt(), (1 - levels[t]).sqrt()
        return x_t * signal * std**2 / (signal**2 * std**2 + noise**2)

    made = sample(denoise, torch.ones(1), config=config, schedule=schedule, prediction="x0")
    return made.item() / std


@pytest.mark.parametrize(("std", "left"), [(1.0, 1.0), (0.7, 1.0), (0.5, 0.98), (0.3, 0.91)])
def test_second_order_keeps_the_spread_of_what_is_left_open(std, left):
    assert shrunk(SamplerConfig(steps=8, spacing="angle", order=2), std) == pytest.approx(left, abs=0.01)
    assert shrunk(SamplerConfig(steps=8, spacing="angle"), std) < left - 0.14
    assert shrunk(SamplerConfig(steps=8, spacing="trailing"), std) < left - 0.16


def test_the_last_two_predictions_are_carried_on_to_the_middle_of_the_step():
    """By hand: three equal angles; what is predicted grows by 1 each time."""
    schedule, predictions = ScheduleConfig(zero_terminal_snr=True), iter([1.0, 2.0, 3.0])
    config = SamplerConfig(steps=3, spacing="angle", order=2)
    made = sample(
        lambda x_t, t: torch.full_like(x_t, next(predictions)),
        torch.zeros(1),
        config=config,
        schedule=schedule,
        prediction="x0",
    )
    # the last step ends without noise: in the prediction, carried on by half of what it grew by
    torch.testing.assert_close(made, torch.tensor([3.5]), atol=5e-3, rtol=0)


def test_ddim_step_by_hand():
    stepped = ddim_step(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor(0.64))
    torch.testing.assert_close(stepped, torch.tensor([0.8 * 2 + 0.6 * 1]))


@pytest.mark.parametrize("prediction", ["v", "x0"])
@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize(("spacing", "order"), [("trailing", 1), ("angle", 1), ("trailing", 2), ("angle", 2)])
def test_a_perfect_denoiser_arrives_at_the_truth(prediction, steps, spacing, order):
    schedule = ScheduleConfig(zero_terminal_snr=True)
    levels = alpha_bars(schedule)
    x_0, noise = torch.randn(2, 2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def denoise(x_t, t):
        level = levels[t]
        signal, spread = (a.sqrt().view(-1, 1, 1, 1, 1) for a in (level, 1 - level))
        return target(prediction, x_0, (x_t - signal * x_0) / spread, level)

    got = sample(
        denoise,
        noise,
        config=SamplerConfig(steps=steps, spacing=spacing, order=order),
        schedule=schedule,
        prediction=prediction,
    )
    torch.testing.assert_close(got, x_0, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("spacing, leaves_noise", [("leading", True), ("trailing", False)])
def test_leading_ends_at_timestep_0_and_trailing_without_noise(prediction, spacing, leaves_noise):
    """A denoiser that knows picture and noise stays on the line between them, at the last level of the sampler."""
    levels, config = alpha_bars(ScheduleConfig()), SamplerConfig(steps=4, spacing=spacing)
    x_0, eps = torch.randn(2, 2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    got = sample(
        lambda x_t, t: target(prediction, x_0, eps, levels[t]),
        add_noise(x_0, eps, levels[timesteps(config, ScheduleConfig())[0]]),
        config=config,
        schedule=ScheduleConfig(),
        prediction=prediction,
    )
    expected = add_noise(x_0, eps, levels[0]) if leaves_noise else x_0
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_the_denoiser_gets_one_timestep_per_sample_and_may_answer_in_half_precision():
    seen = []

    def denoise(x_t, t):
        seen.append(t)
        return x_t.bfloat16()

    got = sample(
        denoise,
        torch.ones(3, 1, 1, 2, 2),
        config=SamplerConfig(steps=2),
        schedule=ScheduleConfig(),
        prediction="v",
    )
    assert [t.tolist() for t in seen] == [[501] * 3, [1] * 3]
    assert got.dtype == torch.float32


def test_epsilon_with_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match="use v or x0"):
        sample(
            lambda x_t, t: x_t,
            torch.ones(1, 1, 1, 2, 2),
            config=SamplerConfig(steps=2),
            schedule=ScheduleConfig(zero_terminal_snr=True),
            prediction="epsilon",
        )


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(ValueError, match="take fewer"):
        timesteps(SamplerConfig(steps=11, spacing="trailing"), ScheduleConfig(num_timesteps=10))
    with pytest.raises(ValueError, match="take fewer"):
        timesteps(SamplerConfig(steps=10, spacing="leading"), ScheduleConfig(num_timesteps=10))
    with pytest.raises(ValueError, match="at least 1 step"):
        SamplerConfig(steps=0)
    with pytest.raises(ValueError, match="spacing must be one of"):
        SamplerConfig(spacing="log")
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        SamplerConfig(order=3)
    with pytest.raises(ValueError, match="do not fit"):
        timesteps(SamplerConfig(steps=400, spacing="angle"), ScheduleConfig())
