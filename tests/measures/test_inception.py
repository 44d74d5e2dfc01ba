"""FID's Inception-v3: names of the public checkpoint, values of the public code, its differences, wrong files."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from openloopy.measures.inception import (
    BlockA,
    BlockE,
    InceptionV3,
    LastBlockE,
    average_pool,
    load_inception,
)
from openloopy.measures.outside_weights import REGISTRY
from tests.measures.pattern import pattern_pixels, pattern_weights

NUM_PARAMETERS = 23_850_960
"""As published of the network with 1008 classes; 23,834,568 with 1000."""

GOLDEN_FEATURES = {16: 0.283174, 69: 0.027943, 281: 0.600984, 459: 5.030047, 640: 1.102502, 689: 0.10421}
"""Of pytorch-fid 0.3.0 with torchvision 0.29.1, `pattern_weights` and `pattern_pixels(1, 3, 80, 120)`."""

STEM = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
}


def _block_a(inputs: int, num_pooled: int) -> dict[str, tuple[int, ...]]:
    return {
        "branch1x1": (64, inputs, 1, 1),
        "branch5x5_1": (48, inputs, 1, 1),
        "branch5x5_2": (64, 48, 5, 5),
        "branch3x3dbl_1": (64, inputs, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
        "branch_pool": (num_pooled, inputs, 1, 1),
    }


def _block_c(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "branch1x1": (192, 768, 1, 1),
        "branch7x7_1": (width, 768, 1, 1),
        "branch7x7_2": (width, width, 1, 7),
        "branch7x7_3": (192, width, 7, 1),
        "branch7x7dbl_1": (width, 768, 1, 1),
        "branch7x7dbl_2": (width, width, 7, 1),
        "branch7x7dbl_3": (width, width, 1, 7),
        "branch7x7dbl_4": (width, width, 7, 1),
        "branch7x7dbl_5": (192, width, 1, 7),
        "branch_pool": (192, 768, 1, 1),
    }


def _block_e(inputs: int) -> dict[str, tuple[int, ...]]:
    return {
        "branch1x1": (320, inputs, 1, 1),
        "branch3x3_1": (384, inputs, 1, 1),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (448, inputs, 1, 1),
        "branch3x3dbl_2": (384, 448, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (192, inputs, 1, 1),
    }


BLOCKS = {
    "Mixed_5b": _block_a(192, 32),
    "Mixed_5c": _block_a(256, 64),
    "Mixed_5d": _block_a(288, 64),
    "Mixed_6a": {
        "branch3x3": (384, 288, 3, 3),
        "branch3x3dbl_1": (64, 288, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    },
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": {
        "branch3x3_1": (192, 768, 1, 1),
        "branch3x3_2": (320, 192, 3, 3),
        "branch7x7x3_1": (192, 768, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    },
    "Mixed_7b": _block_e(1280),
    "Mixed_7c": _block_e(2048),
}


def _public_shapes() -> dict[str, tuple[int, ...]]:
    layers = STEM | {
        f"{block}.{name}": shape for block, names in BLOCKS.items() for name, shape in names.items()
    }
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for layer, shape in layers.items():
        shapes[f"{layer}.conv.weight"] = shape
        shapes |= {
            f"{layer}.bn.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")
        }
        shapes[f"{layer}.bn.num_batches_tracked"] = ()
    return shapes


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    network = InceptionV3()
    network.load_state_dict(pattern_weights(network))
    return network.eval().requires_grad_(False)


def test_names_and_shapes_are_those_of_the_public_checkpoint(network):
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == _public_shapes()
    assert len(shapes) == 566
    assert sum(value.numel() for value in network.parameters()) == NUM_PARAMETERS


def test_features_are_those_of_the_public_code(network):
    features = network.embed(pattern_pixels(1, 3, 80, 120))
    assert features.shape == (1, 2048)
    for index, value in GOLDEN_FEATURES.items():
        assert float(features[0, index]) == pytest.approx(value, rel=1e-3, abs=1e-4)


def test_pictures_of_a_batch_do_not_meet(network):
    pictures = pattern_pixels(2, 3, 90, 90) / 127.5 - 1
    together = network(pictures)
    torch.testing.assert_close(network(pictures[1:]), together[1:], rtol=1e-4, atol=1e-5)


def test_resizing_is_bilinear_without_antialiasing_and_ends_at_one():
    class Seen(InceptionV3):
        def forward(self, x: Tensor) -> Tensor:
            return x

    network = Seen()
    pictures = torch.zeros(1, 3, 598, 598)
    pictures[..., ::2] = 255  # at half the size each place lies between two columns: their mean
    assert (network.embed(pictures) == 0).all()
    pictures[..., ::2, :], pictures[..., 1::2, :] = 255, 0
    pictures[..., 250:, :] = 255
    resized = network.embed(pictures)
    assert resized.shape == (1, 3, 299, 299) and resized.max() == 1
    tall = torch.zeros(1, 3, 4 * 299, 299)
    tall[:, :, 1::4] = 255  # of four rows the middle two count; antialiasing would give 255 / 4
    torch.testing.assert_close(network.embed(tall), torch.zeros(1, 3, 299, 299), rtol=0, atol=1e-5)


def test_average_pooling_does_not_count_the_padding():
    ones = torch.ones(1, 1, 4, 5)
    torch.testing.assert_close(average_pool(ones), ones)
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert average_pool(x)[0, 0, 0, 0] == (0 + 1 + 4 + 5) / 4
    assert average_pool(x)[0, 0, 1, 1] == x[..., :3].mean()


def _only_pooling(block: nn.Module, inputs: int) -> nn.Module:
    """The block with a pooling branch that hands on the first channel."""
    block.branch_pool.conv.weight.data.zero_()
    block.branch_pool.conv.weight.data[0, 0] = 1
    return block.eval()


def test_blocks_pool_by_mean_and_the_last_one_by_maximum():
    x = torch.zeros(1, 16, 5, 5)
    x[0, 0, 0, 0] = 36
    scale = 1.001**-0.5  # of the batch norm
    for block, peak, beside, apart in (
        (_only_pooling(BlockA(16, 32), 16), 36 / 4, 36 / 6, 36 / 9),
        (_only_pooling(BlockE(16), 16), 36 / 4, 36 / 6, 36 / 9),
        (_only_pooling(LastBlockE(16), 16), 36, 36, 36),
    ):
        pooled = block(x)[0, -block.branch_pool.conv.out_channels]
        expected = torch.zeros(5, 5)
        expected[0, 0], expected[0, 1], expected[1, 0], expected[1, 1] = peak, beside, beside, apart
        torch.testing.assert_close(pooled, expected * scale, rtol=1e-5, atol=1e-5)


def test_only_the_last_block_pools_by_maximum(network):
    assert [name for name, module in network.named_modules() if isinstance(module, LastBlockE)] == [
        "Mixed_7c"
    ]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_saved_network_loads_as_it_was(network, tmp_path, suffix):
    path = tmp_path / f"inception.{suffix}"
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    (save_file if suffix == "safetensors" else torch.save)(weights, path)
    loaded = load_inception(path)
    assert not loaded.training and not any(value.requires_grad for value in loaded.parameters())
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in weights.items())


def test_other_files_are_refused_and_say_why(network, tmp_path):
    weights = network.state_dict()
    lacking = {name: value for name, value in weights.items() if name != "Mixed_7c.branch1x1.conv.weight"}
    torch.save(lacking | {"AuxLogits.fc.bias": torch.zeros(2)}, tmp_path / "usual.pth")
    torch.save(weights | {"fc.bias": torch.zeros(1000)}, tmp_path / "classes.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "object.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "usual.pth").read_bytes()[:10_000])
    (tmp_path / "page.pth").write_text("<html>")
    (tmp_path / "page.safetensors").write_text("<html>404 not found</html>")
    for name, reason in {
        "usual.pth": r"missing: Mixed_7c.branch1x1.conv.weight; unexpected: AuxLogits.fc.bias",
        "classes.pth": r"fc.bias \(1000,\) instead of \(1008,\)",
        "object.pth": "Python objects",
        "list.pth": "no tensors by name",
        "cut.pth": "cut short",
        "page.pth": "no PyTorch file",
        "page.safetensors": "no safetensors file",
        "none.pth": "does not exist",
    }.items():
        with pytest.raises(ValueError, match=reason):
            load_inception(tmp_path / name)


def test_the_registered_hash_is_the_one_in_the_file_name():
    weights = REGISTRY["fid_inception"]
    assert weights.sha256 == weights.file.removesuffix(".pth").rsplit("-", 1)[1]
    assert weights.source.endswith(weights.file)
