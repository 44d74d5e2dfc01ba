"""FVD's networks: names of the public checkpoints, values of the public code, padding and shortcuts by hand."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from openloopy.measures.video_networks import (
    MIXED_WIDTHS,
    Bottleneck,
    ConvNorm3d,
    I3d,
    ResNet3d50,
    load_i3d,
    load_resnet3d50,
    max_pool_same,
    resize_frames,
    same_padding,
)
from tests.measures.pattern import pattern_pixels, pattern_weights

NUM_RESNET_PARAMETERS = {400: 47_018_576, 700: 47_633_276}
"""Counted in the public code."""
NUM_I3D_PARAMETERS = 12_697_264
"""As published."""

GOLDEN_RESNET = {
    400: {386: 90450.804688, 677: 20064.085938, 739: 9536.022461, 1300: 13930.060547, 1702: 29895.900391},
    700: {10: 136.51857, 25: 85.912094, 386: 1289.463989, 516: 423.424652, 689: 284.847717, 1976: 198.210831},
}
"""Of kenshohara/3D-ResNets-PyTorch at 540a0ea with its mean and deviation, `pattern_weights` and pixels."""
GOLDEN_I3D = {8: 10.757584, 28: -3.043252, 88: 1.34967, 156: -2.113267, 248: -5.339424, 300: -4.117128}
"""Of piergiaj/pytorch-i3d at 05783d1 with `pattern_weights` and pixels."""

NORM_NAMES = ("weight", "bias", "running_mean", "running_var")


def _network(network: torch.nn.Module) -> torch.nn.Module:
    network.load_state_dict(pattern_weights(network))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def resnet() -> ResNet3d50:
    return _network(ResNet3d50())


@pytest.fixture(scope="module")
def i3d() -> I3d:
    return _network(I3d())


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (width,) for part in NORM_NAMES} | {f"{name}.num_batches_tracked": ()}


def _resnet_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    shapes = {"conv1.weight": (64, 3, 7, 7, 7), **_norm_shapes("bn1", 64)}
    inputs = 64
    for stage, (width, num_blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(num_blocks):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, inputs, 1, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * width, width, 1, 1, 1)
            for number, outputs in ((1, width), (2, width), (3, 4 * width)):
                shapes |= _norm_shapes(f"{name}.bn{number}", outputs)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1, 1)
                shapes |= _norm_shapes(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes | {"fc.weight": (num_classes, 2048), "fc.bias": (num_classes,)}


def _i3d_shapes() -> dict[str, tuple[int, ...]]:
    convolutions = {
        "Conv3d_1a_7x7": (64, 3, 7, 7, 7),
        "Conv3d_2b_1x1": (64, 64, 1, 1, 1),
        "Conv3d_2c_3x3": (192, 64, 3, 3, 3),
    }
    inputs = (192, 256, 480, 512, 512, 512, 528, 832, 832)
    for (name, widths), width in zip(MIXED_WIDTHS.items(), inputs, strict=True):
        b0, b1a, b1b, b2a, b2b, b3b = widths
        convolutions[f"{name}.b0"] = (b0, width, 1, 1, 1)
        convolutions[f"{name}.b1a"] = (b1a, width, 1, 1, 1)
        convolutions[f"{name}.b1b"] = (b1b, b1a, 3, 3, 3)
        convolutions[f"{name}.b2a"] = (b2a, width, 1, 1, 1)
        convolutions[f"{name}.b2b"] = (b2b, b2a, 3, 3, 3)
        convolutions[f"{name}.b3b"] = (b3b, width, 1, 1, 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in convolutions.items():
        shapes |= {f"{name}.conv3d.weight": shape, **_norm_shapes(f"{name}.bn", shape[0])}
    return shapes | {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}


def _shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _num_parameters(network: torch.nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize("num_classes", [400, 700])
def test_resnet_has_the_names_and_shapes_of_the_public_checkpoints(num_classes):
    with torch.device("meta"):
        network = ResNet3d50(num_classes)
    assert _shapes(network) == _resnet_shapes(num_classes)
    assert _num_parameters(network) == NUM_RESNET_PARAMETERS[num_classes]


def test_i3d_has_the_names_and_shapes_of_the_public_checkpoint(i3d):
    assert _shapes(i3d) == _i3d_shapes()
    assert _num_parameters(i3d) == NUM_I3D_PARAMETERS


@pytest.mark.parametrize("num_classes", [400, 700])
def test_resnet_features_are_those_of_the_public_code(resnet, num_classes):
    network = resnet if num_classes == 400 else _network(ResNet3d50(700))
    features = network.embed(pattern_pixels(1, 3, 16, 112, 112))
    assert features.shape == (1, 2048)
    for index, value in GOLDEN_RESNET[num_classes].items():
        assert float(features[0, index]) == pytest.approx(value, rel=1e-3)


def test_i3d_logits_are_those_of_the_public_code(i3d):
    logits = i3d.embed(pattern_pixels(1, 3, 16, 224, 224))
    assert logits.shape == (1, 400)
    for index, value in GOLDEN_I3D.items():
        assert float(logits[0, index]) == pytest.approx(value, rel=1e-3)


def test_the_old_files_see_pixels_minus_a_mean_and_the_new_ones_standard_scores():
    class Seen(ResNet3d50):
        def forward(self, x: Tensor) -> Tensor:
            return x[0, :, 0, 0, 0]

    grey = torch.full((1, 3, 1, 1, 1), 127.5)
    torch.testing.assert_close(Seen(400).embed(grey), torch.tensor([12.7252, 19.7646, 28.025]))
    expected = (0.5 - torch.tensor([0.4345, 0.4051, 0.3775])) / torch.tensor([0.2768, 0.2713, 0.2737])
    torch.testing.assert_close(Seen(700).embed(grey), expected)
    with pytest.raises(ValueError, match="Kinetics classes, got 101"):
        ResNet3d50(101)


def test_clips_of_a_batch_do_not_meet_and_time_matters(resnet, i3d):
    clips = pattern_pixels(2, 3, 16, 32, 32)
    for network in (resnet, i3d):
        together = network.embed(clips)
        alone, rounding = network.embed(clips[1:]), 1e-4 * float(together.abs().max())
        torch.testing.assert_close(alone, together[1:], rtol=0, atol=rounding)
        mixed = network.embed(clips[:, :, torch.arange(16).roll(5)])
        assert (mixed - together).abs().max() > 1e-2 * together.abs().max()


@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_gives_the_rounded_up_size_with_the_odd_place_at_the_end(kernel, stride):
    for size in range(1, 30):
        before, after = same_padding((size,), (kernel,), (stride,))
        num_places = -(-size // stride)
        assert (size + before + after - kernel) // stride + 1 == num_places
        assert after - before in (0, 1)
        # The least that is needed: one place of padding less, and the last window would not fit.
        assert before + after == 0 or (size + before + after - 1 - kernel) // stride + 1 < num_places


def test_same_padding_lists_the_last_dimension_first():
    # TensorFlow pads 2 before and 3 after an even size under a kernel of 7 and stride 2; 3 and 3 an odd one.
    assert same_padding((16, 224, 15), (7, 7, 7), (2, 2, 2)) == (3, 3, 2, 3, 2, 3)
    assert same_padding((8, 56, 56), (1, 3, 3), (1, 2, 2)) == (0, 1, 0, 1, 0, 0)


def _slow_convolution(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """One channel in, one out, place by place: output i looks at inputs from i * stride - before."""
    width = weight.shape[0]
    before = [max((-(-n // stride) - 1) * stride + width - n, 0) // 2 for n in x.shape]
    out = np.zeros([-(-n // stride) for n in x.shape])
    for place in np.ndindex(*out.shape):
        for offset in np.ndindex(*weight.shape):
            at = [p * stride - b + o for p, b, o in zip(place, before, offset, strict=True)]
            if all(0 <= a < n for a, n in zip(at, x.shape, strict=True)):
                out[place] += weight[offset] * x[tuple(at)]
    return out


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (7, 2), (3, 2)])
def test_convolutions_agree_with_a_slow_restatement(kernel, stride):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((4, 5, 6)), rng.standard_normal((kernel, kernel, kernel))
    unit = ConvNorm3d(1, 1, kernel, stride=stride).eval()
    unit.conv3d.weight.data = torch.from_numpy(weight).float()[None, None]
    unit.bn.running_mean.data.fill_(-100)  # keeps the ReLU open
    with torch.inference_mode():
        result = unit(torch.from_numpy(x).float()[None, None])[0, 0]
    expected = (_slow_convolution(x, weight, stride) + 100) / np.sqrt(1.001)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4)


def test_pooling_takes_the_windows_that_tensorflow_takes():
    x = torch.arange(1.0, 7).view(1, 1, 1, 1, 6)
    pooled = max_pool_same(x, (1, 1, 3), (1, 1, 2))  # windows (1 2 3) (3 4 5) (5 6 .)
    assert pooled.flatten().tolist() == [3, 5, 6]
    odd = max_pool_same(x[..., :5], (1, 1, 3), (1, 1, 2))  # (. 1 2) (2 3 4) (4 5 .)
    assert odd.flatten().tolist() == [2, 4, 5]


def test_shortcuts_of_type_b_project_where_the_size_changes_and_else_do_nothing():
    x = torch.rand(1, 8, 4, 6, 6) + 0.1
    changes, keeps = Bottleneck(8, 4, stride=2).eval(), Bottleneck(16, 4, stride=1).eval()
    for block in (changes, keeps):
        block.bn3.weight.data.zero_()
    assert not list(keeps.downsample.parameters())
    same = torch.rand(1, 16, 2, 3, 3)
    torch.testing.assert_close(keeps(same), same)
    projection = changes.downsample[0].weight[:, :, 0, 0, 0]
    expected = torch.einsum("oi,bifhw->bofhw", projection, x[:, :, ::2, ::2, ::2]) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(changes(x), expected.relu(), rtol=1e-4, atol=1e-6)
    assert changes(x).shape == (1, 16, 2, 3, 3)


def test_sizes_halve_as_published(resnet, i3d):
    """16 frames of 112 px end as 1 x 4 x 4 in the ResNet; 16 of 224 px as 2 x 7 x 7 in I3D."""
    seen = {}
    for network, name in ((resnet, "layer4"), (i3d, "Mixed_5c")):
        handle = network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
        network.embed(pattern_pixels(1, 3, 16, network.size_px, network.size_px))
        handle.remove()
    assert seen == {"layer4": (2048, 1, 4, 4), "Mixed_5c": (1024, 2, 7, 7)}


@pytest.mark.parametrize("size", [(90, 150), (300, 200), (112, 112)])
def test_resizing_is_that_of_pillow(size):
    frames = pattern_pixels(2, 3, *size)
    resized = resize_frames(frames, 112)
    assert resized.shape == (2, 3, 112, 112)
    for channel in range(3):
        picture = Image.fromarray(frames[1, channel].numpy())
        expected = np.asarray(picture.resize((112, 112), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(resized[1, channel].numpy(), expected, rtol=0, atol=0.02)


def test_a_training_checkpoint_of_2017_loads(resnet, tmp_path):
    weights = resnet.state_dict()
    old = OrderedDict((f"module.{n}", v) for n, v in weights.items() if not n.endswith("num_batches_tracked"))
    momentum = {
        "state": {0: {"momentum_buffer": torch.zeros(2)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    content = {"epoch": 91, "arch": "resnet-50", "state_dict": old, "optimizer": momentum}
    torch.save(content, tmp_path / "resnet-50-kinetics.pth", _use_new_zipfile_serialization=False)
    loaded = load_resnet3d50(tmp_path / "resnet-50-kinetics.pth")
    assert not loaded.training and loaded.deviation.unique().tolist() == [1]
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in weights.items())


def test_a_file_of_700_classes_brings_its_normalisation(resnet, tmp_path):
    weights = resnet.state_dict() | {"fc.weight": torch.zeros(700, 2048), "fc.bias": torch.zeros(700)}
    torch.save({"epoch": 200, "state_dict": weights}, tmp_path / "r3d50_K_200ep.pth")
    loaded = load_resnet3d50(tmp_path / "r3d50_K_200ep.pth")
    torch.testing.assert_close(loaded.deviation.flatten(), torch.tensor([0.2768, 0.2713, 0.2737]) * 255)
    torch.save({"state_dict": weights | {"fc.bias": torch.zeros(1039)}}, tmp_path / "r3d50_KM_200ep.pth")
    with pytest.raises(ValueError, match="1039 classes.*400 and 700"):
        load_resnet3d50(tmp_path / "r3d50_KM_200ep.pth")


def test_i3d_loads_a_file_of_an_old_pytorch_and_refuses_others(i3d, tmp_path):
    weights = {n: v for n, v in i3d.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(OrderedDict(weights), tmp_path / "rgb_imagenet.pt", _use_new_zipfile_serialization=False)
    loaded = load_i3d(tmp_path / "rgb_imagenet.pt")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in weights.items())
    torch.save(weights | {"Conv3d_1a_7x7.conv3d.weight": torch.zeros(64, 2, 7, 7, 7)}, tmp_path / "flow.pt")
    with pytest.raises(ValueError, match=r"\(64, 2, 7, 7, 7\) instead of \(64, 3, 7, 7, 7\)"):
        load_i3d(tmp_path / "flow.pt")
    with pytest.raises(ValueError, match="does not hold the weights of a 3D ResNet-50"):
        load_resnet3d50(tmp_path / "flow.pt")
