"""FID's Inception-v3: the network of 2015 whose 2048 pooled numbers every published FID is computed from.

Source: Szegedy et al. 2016, "Rethinking the Inception Architecture"; Heusel et al. 2017 for its use. The weights are
TensorFlow's of 2015-12-05, ported by https://github.com/mseitzer/pytorch-fid; `load_inception` reads that file.

It differs from the usual Inception-v3 in three places: average pooling does not count the padding; the last block
pools by maximum; the classifier has 1008 outputs. Values agree with pytorch-fid, whose bilinear resizing is not
TensorFlow's to the last digit.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openloopy.measures.checkpoints import load_checkpoint, read_checkpoint

SIZE_PX = 299
FEATURE_WIDTH = 2048
NUM_CLASSES = 1008
BATCH_NORM_EPS = 1e-3


class InceptionV3(nn.Module):
    """Pictures to pooled features. Names and shapes of the parameters are those of the public checkpoint."""

    feature_width = FEATURE_WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = BlockA(192, num_pooled=32)
        self.Mixed_5c = BlockA(256, num_pooled=64)
        self.Mixed_5d = BlockA(288, num_pooled=64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, width=128)
        self.Mixed_6c = BlockC(768, width=160)
        self.Mixed_6d = BlockC(768, width=160)
        self.Mixed_6e = BlockC(768, width=192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280)
        self.Mixed_7c = LastBlockE(2048)
        self.fc = nn.Linear(FEATURE_WIDTH, NUM_CLASSES)  # not used; with it the public file loads whole

    def embed(self, pictures: Tensor) -> Tensor:
        """`b 3 h w` RGB, 0..255, of any size -> `b 2048`: resized bilinearly without antialiasing, to -1..1."""
        resized = F.interpolate(pictures / 255, size=(SIZE_PX, SIZE_PX), mode="bilinear", align_corners=False)
        return self(2 * resized - 1)

    def forward(self, x: Tensor) -> Tensor:
        """`b 3 h w`, -1..1, at least 75 px -> `b 2048`."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6a(x)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def load_inception(path: Path | str) -> InceptionV3:
    """The network with the weights of `pt_inception-2015-12-05-6726825d.pth`, on the CPU, ready to measure.

    Raises:
        ValueError: the file is missing, cut short, or holds Python objects or other weights; says which.
    """
    what = "FID's Inception-v3"
    return load_checkpoint(InceptionV3(), read_checkpoint(path, what), path, what)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class BlockA(nn.Module):
    """35x35: 1x1, 5x5, twice 3x3, and pooling, side by side."""

    def __init__(self, inputs: int, num_pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, 64, 1)
        self.branch5x5_1 = ConvNorm(inputs, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(inputs, num_pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`b c h w` -> `b 224+num_pooled h w`."""
        by_5 = self.branch5x5_2(self.branch5x5_1(x))
        by_3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), by_5, by_3, self.branch_pool(average_pool(x))], dim=1)


class BlockB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`b c h w` -> `b 480+c (h-1)//2 (w-1)//2`."""
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), twice, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockC(nn.Module):
    """17x17: 7x7 as rows and columns, once and twice, beside 1x1 and pooling."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, 192, 1)
        self.branch7x7_1 = ConvNorm(inputs, width, 1)
        self.branch7x7_2 = _row(width, width, 7)
        self.branch7x7_3 = _column(width, 192, 7)
        self.branch7x7dbl_1 = ConvNorm(inputs, width, 1)
        self.branch7x7dbl_2 = _column(width, width, 7)
        self.branch7x7dbl_3 = _row(width, width, 7)
        self.branch7x7dbl_4 = _column(width, width, 7)
        self.branch7x7dbl_5 = _row(width, 192, 7)
        self.branch_pool = ConvNorm(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`b c h w` -> `b 768 h w`."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(average_pool(x))], dim=1)


class BlockD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNorm(inputs, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(inputs, 192, 1)
        self.branch7x7x3_2 = _row(192, 192, 7)
        self.branch7x7x3_3 = _column(192, 192, 7)
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`b c h w` -> `b 512+c (h-1)//2 (w-1)//2`."""
        by_3 = self.branch3x3_2(self.branch3x3_1(x))
        by_7 = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([by_3, self.branch7x7x3_4(by_7), F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockE(nn.Module):
    """8x8: 3x3 whose rows and columns stand side by side."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, 320, 1)
        self.branch3x3_1 = ConvNorm(inputs, 384, 1)
        self.branch3x3_2a = _row(384, 384, 3)
        self.branch3x3_2b = _column(384, 384, 3)
        self.branch3x3dbl_1 = ConvNorm(inputs, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _row(384, 384, 3)
        self.branch3x3dbl_3b = _column(384, 384, 3)
        self.branch_pool = ConvNorm(inputs, 192, 1)

    def pool(self, x: Tensor) -> Tensor:
        return average_pool(x)

    def forward(self, x: Tensor) -> Tensor:
        """`b c h w` -> `b 2048 h w`."""
        once = self.branch3x3_1(x)
        once = [self.branch3x3_2a(once), self.branch3x3_2b(once)]
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        twice = [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([self.branch1x1(x), *once, *twice, self.branch_pool(self.pool(x))], dim=1)


class LastBlockE(BlockE):
    """The network of 2015 pools by maximum here, unlike the paper."""

    def pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=1, padding=1)


def average_pool(x: Tensor) -> Tensor:
    """3x3 mean of what lies inside the picture, `b c h w`; the padding is not counted (as in TensorFlow)."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _row(inputs: int, outputs: int, kernel: int) -> ConvNorm:
    return ConvNorm(inputs, outputs, (1, kernel), padding=(0, kernel // 2))


def _column(inputs: int, outputs: int, kernel: int) -> ConvNorm:
    return ConvNorm(inputs, outputs, (kernel, 1), padding=(kernel // 2, 0))
