"""Expression coefficients of a face, as E-FID compares them: the network of Deep3DFaceRecon.

Source: Deng et al., "Accurate 3D Face Reconstruction with Weakly-Supervised Learning" (2019), arXiv:1903.08527. Names
and shapes of the parameters, and the alignment of faces, are those of
https://github.com/sicxu/Deep3DFaceRecon_pytorch (`models/networks.py`, `util/preprocess.py`). The network turns
a face of 224x224 px into 257 numbers: 80 of shape, 64 of expression, 80 of texture, 3 angles, 27 of light,
3 of place. No weights come with this package.

We differ: the public alignment fits five landmarks to five points of the Basel Face Model 2009
(`similarity_Lm3D_all.mat`), which nobody may pass on. Ours are those of our own mean face, whose size and centre
are set such that its crops fall on the public ones: on 57 frames of 20 faces, turned by up to 25 degrees,
the scale differs by .2 % (at most .6 %) and the place by .3 px (at most .5 px) of 224. Whoever has the file gives
its points as `standard`. The landmarks are ours too, not those of MTCNN or dlib. The publishers have put more than
one `epoch_20.pth` into their folder over time: numbers compare only between videos measured with one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from openloopy.face.landmarks import check_picture
from openloopy.face.mesh import MESH_TO_68, canonical_mesh
from openloopy.measures.checkpoints import load_checkpoint, read_checkpoint
from openloopy.measures.outside_weights import weights_path

FACE_PX = 224
HEAD_WIDTHS = (80, 64, 80, 3, 27, 2, 1)
"""Shape, expression, texture, angles, light, place across, place in depth: one head each."""
NUM_COEFFICIENTS = sum(HEAD_WIDTHS)
EXPRESSION = slice(80, 144)
NUM_EXPRESSION = 64
WHAT = "Deep3DFaceRecon"
CHECKPOINT_KEY = "net_recon"
"""Where `epoch_20.pth` keeps the network, beside the state of its optimizer."""
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""ResNet-50: blocks, width and stride of each stage."""
EXPANSION = 4

PX_PER_DM = 102.0
"""Pixels of the crop for 10 cm of the standard face (`rescale_factor` of the public code)."""
STANDARD_SIZE = 0.954
"""Our mean face is larger than the public one."""
STANDARD_SHIFT_DM = (0.0, -0.018, 0.224)
"""Where its centre lies from the public one's: x right, y up, z to the viewer. Fitted, like the size."""
BATCH = 16


class Deep3D(nn.Module):
    """ResNet-50 with a linear head for each kind of coefficient. Parameters are named as in `epoch_20.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _ResNet50()
        width = EXPANSION * STAGES[-1][1]
        self.final_layers = nn.ModuleList(nn.Conv2d(width, outputs, 1) for outputs in HEAD_WIDTHS)

    def forward(self, faces: Tensor) -> Tensor:
        """Faces `b 3 224 224`, RGB, 0..1 -> coefficients `b 257`."""
        features = self.backbone(faces)
        return torch.cat([head(features) for head in self.final_layers], dim=1).flatten(1)


class _Bottleneck(nn.Module):
    """`b inputs h w` -> `b 4*width h/stride w/stride`; the 3x3 convolution has the stride."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.bn1(self.conv1(x)).relu()
        hidden = self.bn2(self.conv2(hidden)).relu()
        shortcut = x if self.downsample is None else self.downsample(x)
        return (self.bn3(self.conv3(hidden)) + shortcut).relu()


class _ResNet50(nn.Module):
    """He et al. 2015 without the classifier: `b 3 h w` -> `b 2048 1 1`, the mean over the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for number, (blocks, width, stride) in enumerate(STAGES, start=1):
            rest = [_Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(_Bottleneck(inputs, width, stride), *rest))
            inputs = EXPANSION * width

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for number in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x.mean((2, 3), keepdim=True)


def load_deep3d(path: Path | str) -> Deep3D:
    """The network with the weights of a file, on the CPU, ready for use.

    Args:
        path: `epoch_20.pth`, or its network alone as .pth or .safetensors.

    Raises:
        ValueError: the file is missing, cut short, or holds Python objects or other weights; says which.
    """
    return load_checkpoint(Deep3D(), read_checkpoint(path, WHAT, CHECKPOINT_KEY), path, WHAT)


@lru_cache(maxsize=1)
def published_deep3d() -> Deep3D:
    """The network of the weights folder, read once.

    Raises:
        WeightsMissing: the file is not there.
    """
    return load_deep3d(weights_path("deep3d"))


def expression_coefficients(
    frames: Iterable[np.ndarray],
    points68: np.ndarray,
    *,
    network: Deep3D | None = None,
    standard: np.ndarray | None = None,
) -> np.ndarray:
    """The expression of one face in every frame.

    Args:
        frames: pictures, each `H W 3` uint8; read one by one.
        points68: the face's landmarks in each, `f 68 2` px; NaN where it was lost.
        network: from `load_deep3d`, on the device that shall compute; None: that of the weights folder.
        standard: see `align_face`.

    Returns:
        `f 64` float32: multiples of the standard deviations of the model's expression basis; NaN where the face was
        lost.

    Raises:
        WeightsMissing: no network was given and none is in the weights folder.
        ValueError: a frame more or less than landmarks, or a face outside its picture.
    """
    if points68.ndim != 3 or points68.shape[1:] != (68, 2):
        raise ValueError(f"expected landmarks of shape (frames, 68, 2), got {points68.shape}")
    network = network or published_deep3d()
    if network.training:
        raise ValueError("the network is in training mode, where faces change each other; call its eval()")
    found = np.full((len(points68), NUM_EXPRESSION), np.nan, np.float32)
    for places, faces in _batches(frames, points68, standard):
        found[places] = coefficients(network, np.stack(faces))[:, EXPRESSION]
    return found


def coefficients(network: Deep3D, faces: np.ndarray) -> np.ndarray:
    """All coefficients of aligned faces, `b 224 224 3` uint8 RGB -> `b 257` float32."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        pictures = torch.from_numpy(faces).to(device).permute(0, 3, 1, 2).float() / 255
        return network(pictures).float().cpu().numpy()


def align_face(rgb: np.ndarray, points68: np.ndarray, standard: np.ndarray | None = None) -> np.ndarray:
    """The crop that the network looks at: the face in the middle, 102 px to 10 cm, never turned.

    As in the public code: an affine camera is fitted from five standard points to five landmarks; the mean length of
    its two rows is the face's size, and the image of the origin its place. The picture is resized as a whole
    (bicubic, size rounded down), then cut at whole pixels; what lies outside is black.

    Args:
        rgb: a picture, `H W 3` uint8.
        points68: its landmarks, `68 2` px.
        standard: eyes (left, right in the picture), nose tip and mouth corners of a face that looks at the viewer,
            `5 3` dm, y up; None: those of our mean face.

    Returns:
        `224 224 3` uint8.

    Raises:
        ValueError: landmarks without extent, or a face outside its picture.
    """
    check_picture(rgb)
    height, width = rgb.shape[:2]
    origin, scale = _camera(five_points(points68), height, _standard_face() if standard is None else standard)
    size = int(width * scale), int(height * scale)
    left = int(size[0] / 2 - FACE_PX / 2 + (origin[0] - width / 2) * scale)
    top = int(size[1] / 2 - FACE_PX / 2 + (height / 2 - origin[1]) * scale)
    return _cut_resized(rgb, size, left, top)


def five_points(points68: np.ndarray) -> np.ndarray:
    """Eyes, nose tip and mouth corners of `68 n` -> `5 n`; an eye is the middle of two of its points."""
    pairs = ((36, 39), (42, 45), (30, 30), (48, 48), (54, 54))
    return np.stack([(points68[a] + points68[b]) / 2 for a, b in pairs])


@lru_cache(maxsize=1)
def _standard_face() -> np.ndarray:
    """Five points of our mean face, `5 3` dm, y up, of the public one's size and about its centre."""
    points = five_points(canonical_mesh().vertices[MESH_TO_68]) * (1, -1, 1) / 10
    return STANDARD_SIZE * points + STANDARD_SHIFT_DM


def _camera(points5: np.ndarray, height: int, standard: np.ndarray) -> tuple[np.ndarray, float]:
    """Where the origin of the standard face lies, `2` px, y up, and how much larger the crop is than the picture."""
    # The public code counts pixels from 0 at the centre of the first, upwards from the last row.
    seen = np.stack([points5[:, 0] - 0.5, height - 0.5 - points5[:, 1]], axis=1)
    known = np.column_stack([standard, np.ones(len(standard))])
    rows = np.linalg.lstsq(known, seen, rcond=None)[0]
    px_per_dm = float(np.linalg.norm(rows[:3], axis=0).mean())
    if not px_per_dm > 1e-6:
        raise ValueError(
            f"the landmarks of a face have no extent ({px_per_dm}); drop lost frames, do not fill them"
        )
    return rows[3], PX_PER_DM / px_per_dm


def _cut_resized(rgb: np.ndarray, size: tuple[int, int], left: int, top: int) -> np.ndarray:
    """What `left top` and `FACE_PX` cut out of the picture brought to `size`, of which only that part is made."""
    start_x, start_y = max(left, 0), max(top, 0)
    end_x, end_y = min(left + FACE_PX, size[0]), min(top + FACE_PX, size[1])
    height, width = rgb.shape[:2]
    if end_x <= start_x or end_y <= start_y:
        raise ValueError(f"the face lies outside its {width}x{height} picture; check its landmarks")
    x, y = width / size[0], height / size[1]
    box = start_x * x, start_y * y, min(end_x * x, width), min(end_y * y, height)
    part = Image.fromarray(rgb).resize((end_x - start_x, end_y - start_y), Image.Resampling.BICUBIC, box)
    face = np.zeros((FACE_PX, FACE_PX, 3), np.uint8)
    face[start_y - top : end_y - top, start_x - left : end_x - left] = part
    return face


def _batches(
    frames: Iterable[np.ndarray], points68: np.ndarray, standard: np.ndarray | None
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Numbers of frames with a face and these faces, `BATCH` at a time."""
    places, faces = [], []
    for place, (frame, points) in enumerate(zip_longest(frames, points68)):
        if frame is None or points is None:
            raise ValueError(f"expected a picture for each of {len(points68)} landmarks, no more and no less")
        if np.isfinite(points).all():
            places.append(place)
            faces.append(align_face(frame, points, standard))
        if len(faces) == BATCH:
            yield places, faces
            places, faces = [], []
    if faces:
        yield places, faces
