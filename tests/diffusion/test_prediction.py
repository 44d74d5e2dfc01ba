import pytest
import torch

from openloopy.diffusion.prediction import add_noise, target, to_eps, to_x_0

PREDICTIONS = ["epsilon", "v", "x0"]


def draw(seed):
    return torch.randn(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(seed))


def test_numbers_by_hand():
    x_0, eps, alpha_bar = torch.tensor([[2.0]]), torch.tensor([[1.0]]), torch.tensor(0.64)
    x_t = add_noise(x_0, eps, alpha_bar)
    torch.testing.assert_close(x_t, torch.tensor([[0.8 * 2 + 0.6 * 1]]))
    torch.testing.assert_close(target("v", x_0, eps, alpha_bar), torch.tensor([[0.8 * 1 - 0.6 * 2]]))
    assert target("epsilon", x_0, eps, alpha_bar) == 1.0
    assert target("x0", x_0, eps, alpha_bar) == 2.0


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_gives_back_both(prediction):
    x_0, eps, alpha_bar = draw(0), draw(1), torch.tensor([0.9, 0.5, 0.05])
    x_t = add_noise(x_0, eps, alpha_bar)
    output = target(prediction, x_0, eps, alpha_bar)
    torch.testing.assert_close(to_x_0(prediction, output, x_t, alpha_bar), x_0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(to_eps(prediction, output, x_t, alpha_bar), eps, atol=1e-5, rtol=1e-5)


def test_each_sample_has_its_own_level():
    x_0, eps = draw(0), draw(1)
    x_t = add_noise(x_0, eps, torch.tensor([1.0, 0.0, 0.25]))
    torch.testing.assert_close(x_t[0], x_0[0])
    torch.testing.assert_close(x_t[1], eps[1])
    torch.testing.assert_close(x_t[2], 0.5 * x_0[2] + 0.75**0.5 * eps[2])


def test_v_is_defined_where_nothing_of_the_signal_is_left():
    x_0, eps, nothing = draw(0), draw(1), torch.zeros(3)
    output = target("v", x_0, eps, nothing)
    torch.testing.assert_close(to_x_0("v", output, eps, nothing), x_0)


def test_keeps_the_dtype():
    assert add_noise(draw(0).bfloat16(), draw(1).bfloat16(), torch.full((3,), 0.5)).dtype == torch.bfloat16


def test_wrong_number_of_levels_and_wrong_name():
    with pytest.raises(ValueError, match=r"one per sample \(3,\), got shape \(2,\)"):
        add_noise(draw(0), draw(1), torch.ones(2))
    with pytest.raises(ValueError, match="got 'eps'"):
        target("eps", draw(0), draw(1), torch.ones(3))
