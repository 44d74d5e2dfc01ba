"""AMT-S: the public checkpoint's names, values of the public code, warps and look-ups by hand, wrong files."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from openloopy.measures.amt import (
    CORRELATION_RADIUS,
    MIN_PX,
    NUM_FIELDS,
    AmtS,
    correlate,
    halfway,
    load_amt,
    look_up,
    look_up_both,
    warp,
)

SIDE_BLOCK = ("conv1", "conv2", "conv3", "conv4")
WINDOW = (2 * CORRELATION_RADIUS + 1) ** 2

GOLDEN_PIXELS = {
    (0, 44, 122): 0.502739,
    (1, 57, 126): 0.438891,
    (1, 81, 69): 0.388708,
    (1, 116, 41): 0.618755,
    (2, 21, 36): 0.533321,
    (2, 25, 71): 0.624928,
    (2, 33, 41): 0.472440,
    (2, 46, 14): 0.420545,
}
"""Values at (channel, y, x) that the code of MCG-NKU/AMT gives with `_golden_weights` and `_golden_pictures`."""


@pytest.fixture(scope="module")
def network() -> AmtS:
    torch.manual_seed(0)
    return AmtS().eval().requires_grad_(False)


@pytest.fixture
def still() -> AmtS:
    """A network whose last layers are zero: no motion, masks of one half."""
    torch.manual_seed(0)
    network = AmtS().eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if re.search(r"(convblock|head|comb_block)\.2\.", name):
            value.zero_()
    return network


def _public_shapes() -> dict[str, tuple[int, ...]]:
    """By the public source: what holds weights in `networks/AMT-S.py` and its blocks."""
    shapes = {}

    def conv(name: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, kernel, kernel), (outputs,)

    def conv_prelu(name: str, outputs: int, inputs: int) -> None:
        conv(f"{name}.0", outputs, inputs, 3)
        shapes[f"{name}.1.weight"] = (outputs,)

    _correlation_encoder(conv)
    for level, (inputs, outputs) in enumerate([(3, 20), (20, 32), (32, 44), (44, 56)], 1):
        conv_prelu(f"encoder.pyramid{level}.0", outputs, inputs)
        conv_prelu(f"encoder.pyramid{level}.1", outputs, outputs)
    widths = {4: (113, 112, 48), 3: (136, 132, 36), 2: (100, 96, 24), 1: (64, 60, 24)}
    for level, (inputs, width, outputs) in widths.items():
        block = f"decoder{level}.convblock"
        conv_prelu(f"{block}.0", width, inputs)
        for part in SIDE_BLOCK:
            side = width if part in ("conv1", "conv3") else 20
            conv_prelu(f"{block}.1.{part}", side, side)
        conv(f"{block}.1.conv5", width, width, 3)
        shapes[f"{block}.1.prelu.weight"] = (width,)
        shapes |= {f"{block}.2.weight": (width, outputs, 4, 4), f"{block}.2.bias": (outputs,)}
    for level, content in {4: 44, 3: 32, 2: 20}.items():
        _update(conv, f"update{level}", content)
    conv_prelu("comb_block", 18, 9)
    conv("comb_block.2", 3, 18, 3)
    return shapes


def _correlation_encoder(conv: Callable[[str, int, int, int], None]) -> None:
    conv("feat_encoder.conv1", 32, 3, 7)
    for level, (inputs, outputs) in enumerate([(32, 32), (32, 64), (64, 96)], 1):
        for block, before in ((0, inputs), (1, outputs)):
            name = f"feat_encoder.layer{level}.{block}"
            conv(f"{name}.conv1", outputs // 4, before, 1)
            conv(f"{name}.conv2", outputs // 4, outputs // 4, 3)
            conv(f"{name}.conv3", outputs, outputs // 4, 1)
        if level > 1:
            conv(f"feat_encoder.layer{level}.0.downsample.0", outputs, inputs, 1)
    conv("feat_encoder.conv2", 84, 96, 1)


def _update(conv: Callable[[str, int, int, int], None], name: str, content: int) -> None:
    conv(f"{name}.convc1", 64, 2 * 4 * 49, 1)
    conv(f"{name}.convf1", 40, 4, 7)
    conv(f"{name}.convf2", 20, 40, 3)
    conv(f"{name}.conv", 68, 84, 3)
    for part, inputs, outputs in (
        ("gru", 72 + content, 76),
        ("feat_head", 76, content),
        ("flow_head", 76, 4),
    ):
        conv(f"{name}.{part}.0", 76, inputs, 3)
        conv(f"{name}.{part}.2", outputs, 76, 3)


def _numbers(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """-1..1, made of integers alone."""
    n = torch.arange(int(np.prod(shape)), dtype=torch.int64) + 101 * seed
    return ((7 * n * n + 13 * n) % 20011 / 10005 - 1).float().reshape(shape)


def _golden_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    weights = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        numbers = _numbers(shape, seed)
        scale = 1.5 / np.prod(shape[1:]) ** 0.5 if len(shape) > 1 else 0.1
        weights[name] = scale * numbers + (0.2 if len(shape) == 1 and name.endswith("weight") else 0)
    return weights


def _golden_pictures() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(144.0), indexing="ij")
    first = torch.stack([torch.sin(x / 9 + y / 17), torch.cos(x / 13 - y / 7), torch.sin(x * y / 900)])
    second = torch.stack(
        [torch.sin((x - 3) / 9 + y / 17), torch.cos((x - 3) / 13 - y / 7), torch.sin(x * y / 950)]
    )
    return (0.5 + 0.45 * first)[None], (0.5 + 0.45 * second)[None]


def _frame(seed: int, size: tuple[int, int] = (120, 130)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _shifted_left(pictures: Tensor, px: int) -> Tensor:
    """As drawn from places `px` further right, the last column repeated."""
    columns = (torch.arange(pictures.shape[-1]) + px).clamp(0, pictures.shape[-1] - 1)
    return pictures[..., columns]


def test_names_and_shapes_are_those_of_the_public_checkpoint(network):
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == _public_shapes()
    assert len(shapes) == 213


def test_it_has_the_published_number_of_parameters(network):
    """3.0 M in the paper. The public file has 12 038 359 bytes: 4 a parameter, 358 a tensor for its name and place."""
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_990_543


def test_values_are_those_of_the_public_code():
    network = AmtS().eval()
    network.load_state_dict(_golden_weights(_public_shapes()))
    with torch.no_grad():
        drawn = network(*_golden_pictures())[0]
    for place, value in GOLDEN_PIXELS.items():
        assert float(drawn[place]) == pytest.approx(value, abs=2e-4)


def test_it_draws_the_same_twice(network):
    first, second = _frame(0), _frame(1)
    np.testing.assert_array_equal(halfway(network, first, second), halfway(network, first, second))


def test_pictures_of_a_batch_do_not_mix(network):
    before, after = torch.rand(2, 2, 3, MIN_PX, MIN_PX, generator=torch.Generator().manual_seed(0))
    together = network(before, after)
    torch.testing.assert_close(together[1:], network(before[1:], after[1:]), atol=1e-5, rtol=0)


def test_without_motion_it_draws_the_mean(still):
    before, after = torch.rand(2, 1, 3, MIN_PX, MIN_PX, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(still(before, after), (before + after) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(128, 128), (120, 130), (113, 141)])
def test_a_still_video_stays_as_it_is_whatever_its_size(still, size):
    """Up to the cut to whole numbers, which may take 1 off."""
    frame = _frame(0, size)
    difference = frame.astype(int) - halfway(still, frame, frame)
    assert difference.min() >= 0
    assert difference.max() <= 1


@pytest.mark.parametrize("name", ["before", "after"])
def test_fields_move_the_frame_that_the_mask_chooses(still, name):
    """Biases of the last decoder: flows into both frames, masks, residuals."""
    bias = still.decoder1.convblock[2].bias
    first_x = 0 if name == "before" else 2 * NUM_FIELDS
    bias[first_x : first_x + 2 * NUM_FIELDS : 2] = 5
    bias[4 * NUM_FIELDS : 5 * NUM_FIELDS] = 50 if name == "before" else -50
    before, after = torch.rand(2, 1, 3, MIN_PX, 144, generator=torch.Generator().manual_seed(0))
    expected = _shifted_left(before if name == "before" else after, 5)
    torch.testing.assert_close(still(before, after), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("update", ["update4", "update3", "update2"])
def test_a_pixel_of_every_update_is_eight_in_the_picture(still, update):
    """All of them work at 1/8 of the size."""
    getattr(still, update).flow_head[2].bias[:] = torch.tensor([1.0, 0, -1, 0])
    before = torch.rand(1, 3, MIN_PX, 144, generator=torch.Generator().manual_seed(0))
    expected = (_shifted_left(before, 8) + _shifted_left(before, -8)) / 2
    torch.testing.assert_close(still(before, before), expected, atol=2e-5, rtol=0)


def test_warp_by_hand():
    picture = torch.tensor([[0.0, 10, 20], [30, 40, 50]])[None, None]
    right_half = torch.stack([torch.full((2, 3), 0.5), torch.zeros(2, 3)])[None]
    assert warp(picture, right_half)[0, 0].tolist() == [[5, 15, 20], [35, 45, 50]]
    up_one = torch.stack([torch.zeros(2, 3), torch.full((2, 3), -1.0)])[None]
    assert warp(picture, up_one)[0, 0].tolist() == [[0, 10, 20], [0, 10, 20]]


def test_correlation_by_hand():
    """One feature channel, a single 1 in each frame: one pair of positions is alike."""
    before, after = torch.zeros(2, 1, 4, 16, 16)
    before[0, :, 2, 3], after[0, :, 6, 9] = 1, 1
    correlation = correlate(before, after)
    assert float(correlation.forward[0][2 * 16 + 3, 0, 6, 9]) == 2  # 4 products of 1 over the root of 4
    assert float(correlation.backward[0][6 * 16 + 9, 0, 2, 3]) == 2
    assert float(correlation.forward[1][2 * 16 + 3, 0, 3, 4]) == 0.5
    assert [maps.shape[-1] for maps in correlation.forward] == [16, 8, 4, 2]
    assert all(
        float(maps.sum()) == pytest.approx(2 / 4**level) for level, maps in enumerate(correlation.backward)
    )


def test_look_up_by_hand():
    """A map whose value tells the place: 100 y + x. The offset in x changes slowest; outside is zero."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    maps = (100 * y + x)[None, None].repeat(256, 1, 1, 1)
    places = torch.tensor([8.0, 5.0])[None, :, None, None].repeat(1, 1, 16, 16)
    window = look_up([maps], places)[0, :, 0, 0].reshape(7, 7)
    torch.testing.assert_close(
        window, 100 * (5 + torch.arange(-3.0, 4))[None] + 8 + torch.arange(-3.0, 4)[:, None]
    )
    beside = look_up([maps], places.flip(1) - 5)[0, :, 0, 0].reshape(7, 7)  # x = 0
    assert float(beside[:3].abs().max()) < 1e-3
    coarse = look_up([maps, maps], places)[0, WINDOW:, 0, 0].reshape(7, 7)
    assert float(coarse[3, 3]) == pytest.approx(100 * 2.5 + 4, abs=1e-3)


def test_swapping_the_frames_swaps_the_directions():
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 1, 84, 16, 16, generator=generator)
    flows = torch.randn(1, 4, 16, 16, generator=generator)
    there = look_up_both(correlate(before, after), flows)
    back = look_up_both(correlate(after, before), flows.roll(2, 1))
    torch.testing.assert_close(back.roll(4 * WINDOW, 1), there)


def test_even_motion_is_found_where_it_leads():
    """Half of it leads into either frame, so that all of it leads from one to the other."""
    before = torch.randn(1, 84, 16, 16, generator=torch.Generator().manual_seed(0))
    after = before.roll(4, -1)
    flows = torch.tensor([-2.0, 0, 2, 0])[None, :, None, None].repeat(1, 1, 16, 16)
    windows = look_up_both(correlate(before, after), flows)[0, :, 8, 7].reshape(2, 4, 7, 7)
    for direction in (0, 1):
        assert int(windows[direction, 0].argmax()) == WINDOW // 2


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_saved_network_loads_as_it_was(network, tmp_path, is_wrapped):
    weights = network.state_dict()
    torch.save({"epoch": 300, "state_dict": weights} if is_wrapped else weights, tmp_path / "amt-s.pth")
    loaded = load_amt(tmp_path / "amt-s.pth")
    assert not loaded.training
    for name, value in weights.items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


def test_weights_of_another_network_are_named(network, tmp_path):
    weights = dict(network.state_dict())
    weights["comb_block.3.weight"] = weights.pop("comb_block.2.weight")
    weights["encoder.pyramid1.0.0.weight"] = torch.zeros(48, 3, 7, 7)
    torch.save({"state_dict": weights}, tmp_path / "amt-l.pth")
    with pytest.raises(
        ValueError, match=r"AMT-S .*missing: comb_block\.2.*unexpected: comb_block\.3.*\(48, 3, 7, 7\)"
    ):
        load_amt(tmp_path / "amt-l.pth")


def test_files_that_are_no_weights_are_refused(network, tmp_path):
    path = tmp_path / "amt-s.pth"
    with pytest.raises(ValueError, match="does not exist"):
        load_amt(path)
    torch.save(network, path)
    with pytest.raises(ValueError, match="Python objects"):
        load_amt(path)
    torch.save({"state_dict": network.state_dict()}, path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="cut short"):
        load_amt(path)


def test_frames_that_do_not_fit_are_refused(network):
    with pytest.raises(ValueError, match="113 px or more"):
        halfway(network, _frame(0, (112, 200)), _frame(1, (112, 200)))
    with pytest.raises(ValueError, match="one shape"):
        halfway(network, _frame(0), _frame(1, (130, 120)))
    with pytest.raises(ValueError, match="multiples of 16"):
        network(torch.zeros(1, 3, 130, 130), torch.zeros(1, 3, 130, 130))
