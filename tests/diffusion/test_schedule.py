import pytest
import torch

from openloopy.diffusion.schedule import ScheduleConfig, alpha_bars


def test_two_step_schedule_by_hand():
    bars = alpha_bars(ScheduleConfig(kind="linear", beta_start=0.1, beta_end=0.5, num_timesteps=2))
    torch.testing.assert_close(bars, torch.tensor([0.9, 0.45]))


def test_scaled_linear_spaces_the_roots():
    bars = alpha_bars(ScheduleConfig(beta_start=0.01, beta_end=0.09, num_timesteps=3))
    torch.testing.assert_close(bars, torch.tensor([0.99, 0.99 * 0.96, 0.99 * 0.96 * 0.91]))


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_falls_monotonically(zero_terminal_snr):
    bars = alpha_bars(ScheduleConfig(zero_terminal_snr=zero_terminal_snr))
    assert bars.dtype == torch.float32 and bars.shape == (1000,)
    assert (bars.diff() < 0).all()


def test_zero_terminal_snr_ends_at_nothing_and_keeps_the_start():
    plain, zero = alpha_bars(ScheduleConfig()), alpha_bars(ScheduleConfig(zero_terminal_snr=True))
    assert plain[-1] > 0.004
    assert zero[-1] == 0
    torch.testing.assert_close(zero[0], plain[0])


@pytest.mark.parametrize(
    "wrong", [{"kind": "cosine"}, {"beta_start": 0.0}, {"beta_end": 1e-5}, {"num_timesteps": 1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"got"):
        ScheduleConfig(**wrong)
