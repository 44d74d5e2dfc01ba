import pytest
import torch

from openloopy.diffusion.loss import denoising_loss, per_sample_weight, step_loss
from openloopy.diffusion.prediction import add_noise, to_x_0


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_min_snr_by_hand():
    # SNR of these: 9 (above gamma 5), 1, .25
    alpha_bar = torch.tensor([0.9, 0.5, 0.2])
    expected = {"epsilon": [5 / 9, 1.0, 1.0], "v": [5 / 10, 1 / 2, 0.25 / 1.25], "x0": [5.0, 1.0, 0.25]}
    for prediction, weights in expected.items():
        got = per_sample_weight(prediction, alpha_bar, "min_snr", gamma=5)
        torch.testing.assert_close(got, torch.tensor(weights))
        assert per_sample_weight(prediction, alpha_bar, "uniform").tolist() == [1.0] * 3


def test_min_snr_means_the_same_error_of_x_0_for_every_prediction():
    x_0, eps, alpha_bar = draw(0, 4, 1, 4, 4, 4), draw(1, 4, 1, 4, 4, 4), torch.tensor([0.95, 0.7, 0.3, 0.05])
    x_t = add_noise(x_0, eps, alpha_bar)
    for prediction in ("epsilon", "v", "x0"):
        # Outputs that differ by one: the error in x_0, times min(SNR, gamma), is the weight.
        off = (to_x_0(prediction, x_0 + 1, x_t, alpha_bar) - to_x_0(prediction, x_0, x_t, alpha_bar))[
            :, 0, 0, 0, 0
        ]
        snr = alpha_bar / (1 - alpha_bar)
        torch.testing.assert_close(
            per_sample_weight(prediction, alpha_bar, "min_snr", gamma=5), off**2 * snr.clamp(max=5)
        )


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_min_snr_is_finite_at_both_ends(prediction):
    assert per_sample_weight(prediction, torch.tensor([0.0, 1.0]), "min_snr").isfinite().all()


def test_weights_act_on_samples_not_on_the_average():
    prediction, target = torch.zeros(2, 1, 1, 2, 2), torch.ones(2, 1, 1, 2, 2)
    target[1] = 3.0
    loss = denoising_loss(prediction, target, torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(loss, torch.tensor((2 * 1 + 0.5 * 9) / 2))


def test_a_uniform_region_map_changes_nothing():
    prediction, target, weight = draw(0, 2, 3, 4, 5, 5), draw(1, 2, 3, 4, 5, 5), torch.tensor([1.0, 0.3])
    plain = denoising_loss(prediction, target, weight)
    for value in (0.2, 7.0):
        mapped = denoising_loss(prediction, target, weight, torch.full((2, 3, 1, 5, 5), value))
        torch.testing.assert_close(mapped, plain)


def test_region_map_by_hand():
    prediction, target = torch.zeros(1, 1, 2, 1, 2), torch.tensor([1.0, 2.0]).expand(1, 1, 2, 1, 2)
    loss = denoising_loss(prediction, target, torch.ones(1), torch.tensor([1.0, 3.0]).view(1, 1, 1, 1, 2))
    torch.testing.assert_close(loss, torch.tensor((1 * 1 + 3 * 4) / 4))


def test_a_sample_with_a_large_mouth_does_not_drown_the_others():
    """Errors of 1 and 9: each sample counts once, however large its map is as a whole."""
    prediction, target = torch.zeros(2, 1, 1, 1, 2), torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1)
    region = torch.tensor([[1.0, 1.0], [100.0, 100.0]]).view(2, 1, 1, 1, 2)
    loss = denoising_loss(prediction, target.expand(2, 1, 1, 1, 2), torch.ones(2), region)
    torch.testing.assert_close(loss, torch.tensor((1.0 + 9.0) / 2))


def test_a_frame_with_a_large_mouth_counts_more_than_the_others_of_its_sample():
    prediction, target = torch.zeros(1, 2, 1, 1, 2), torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
    region = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 2)
    loss = denoising_loss(prediction, target.expand(1, 2, 1, 1, 2), torch.ones(1), region)
    torch.testing.assert_close(loss, torch.tensor((1 * 1 + 3 * 4) / 4))


def test_steps_by_hand():
    """Errors 1, 1, 3 of two values whose mean squared steps are .5 and 0: only the first counts, from a true past."""
    error = torch.tensor([1.0, 1.0, 3.0]).view(1, 3, 1, 1, 1).expand(1, 3, 2, 1, 1)
    variance = torch.tensor([0.5, 0.0]).view(2, 1, 1)
    known, unknown = (step_loss(error, variance, torch.tensor([is_known])) for is_known in (1.0, 0.0))
    torch.testing.assert_close(known, torch.tensor((1.0 + 0 + 4) / 6))
    torch.testing.assert_close(unknown, torch.tensor((0.0 + 0 + 4) / 6))


def test_an_error_that_stays_is_no_wrong_step():
    error = torch.full((2, 4, 3, 1, 3), 0.7)
    assert step_loss(error, torch.ones(3, 1, 3), torch.zeros(2)) == 0
    assert step_loss(error, torch.ones(3, 1, 3), torch.tensor([0.0, 1.0])) > 0


def test_values_that_are_not_known_make_no_wrong_steps():
    error, variance = draw(0, 1, 4, 2, 1, 1), torch.ones(2, 1, 1)
    seen = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1, 1).expand(1, 4, 2, 1, 1)
    first = step_loss(error[:, :, :1], variance[:1], torch.ones(1))
    torch.testing.assert_close(step_loss(error, variance, torch.ones(1), seen), first)


def test_what_hardly_changes_is_held_to_no_more_than_the_least_step():
    error = draw(1, 1, 4, 1, 1, 1)
    least = step_loss(error, torch.full((1, 1, 1), 0.01), torch.ones(1))
    assert step_loss(error, torch.full((1, 1, 1), 1e-6), torch.ones(1)) == least


def test_wrong_shapes_and_names_are_refused():
    x = torch.zeros(2, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="differ in shape"):
        denoising_loss(x, x[:1], torch.ones(2))
    with pytest.raises(ValueError, match="one weight per sample"):
        denoising_loss(x, x, torch.ones(3))
    with pytest.raises(ValueError, match="got 'snr'"):
        per_sample_weight("v", torch.ones(2), "snr")
