"""DWPose: a second source of the 68 face points, through its public ONNX files and onnxruntime.

Source: DWPose (Yang et al. 2023, arXiv:2307.15880; IDEA-Research/DWPose, Apache-2.0): an RTMPose network that gives
COCO-WholeBody's 133 points of one person as SimCC (Li et al. 2022, arXiv:2107.03332), after a YOLOX person detector
(Ge et al. 2021, arXiv:2107.08430). The networks see pictures as they did in training:
- YOLOX: BGR, 0..255 (its authors, Megvii-BaseDetection/YOLOX issue 1492);
- DWPose: RGB, less mean, by deviation (its configuration, `bgr_to_rgb=True`; its author, IDEA-Research/DWPose
  issue 25). The public demo feeds both the same array; we differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openloopy.face.landmarks import check_picture
from openloopy.face.movement import eye_distance

SOURCE = "https://huggingface.co/yzd-v/DWPose"
DETECTOR_PX = 640
DETECTOR_STRIDES_PX = (8, 16, 32)
PADDING_GREY = 114
PERSON = 5
"""The column of YOLOX's output with the first COCO class; four for the box and one for `object` come before."""
MIN_PERSON = 0.3
"""Least confidence of a person's box, and ..."""
MAX_OVERLAP = 0.45
"""... most intersection over union with a surer one: both as in the public demo."""
POSE_SIZE_PX = (288, 384)
"""Width and height of the pose network's input."""
BOX_PADDING = 1.25
"""The pose network sees this many times the person's box, as in training."""
BINS_PER_PX = 2
"""SimCC's resolution: bins of an axis per pixel of the pose network's input."""
MEAN_RGB, STD_RGB = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
FACE = slice(23, 91)
"""The 68 iBUG points within COCO-WholeBody's 133: body 0-16, feet 17-22, face 23-90, hands 91-132."""
INNER_FACE = slice(17, 68)
"""Brows, nose, eyes and mouth: what two landmarkers agree on. The jaw line of a turned head they define differently."""
MAX_RELABEL_DISTANCE = 0.5
"""Two sets of points are of one face up to this distance, mean over the inner face, in eye distances."""


class DWPoseLandmarker:
    """The 68 face points of all people in a picture, by DWPose. Make one per process.

    Scores are the peaks of SimCC's raw outputs, cut to 0..1. They order faces, but are no probabilities
    (open-mmlab/mmpose issue 3207).
    """

    def __init__(self, folder: Path, *, min_score: float = 0.3, num_threads: int = 1) -> None:
        """Opens both networks: on the GPU where onnxruntime has CUDA, else on the CPU.

        Args:
            folder: with `yolox_l.onnx` and `dw-ll_ucoco_384.onnx` of huggingface.co/yzd-v/DWPose.
            min_score: people whose face has less are left out.
            num_threads: of each network on the CPU; one, since videos are worked on side by side.

        Raises:
            ImportError: onnxruntime is not installed.
            FileNotFoundError: a file is missing.
            ValueError: a file is no ONNX model, or another one; a number out of range.
        """
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be in 0..1, got {min_score}")
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        _require_files(Path(folder))
        self.min_score = min_score
        self._detector = _Network(Path(folder), DETECTOR, num_threads)
        self._pose = _Network(Path(folder), POSE, num_threads)

    def points68(self, rgb: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """The faces of a picture, `H W 3` uint8, largest first; none where no person is found.

        Returns:
            For each: the iBUG points, `68 2` float32 px (the first pixel covers 0..1), and the mean of their scores.

        Raises:
            ValueError: not an RGB picture; a network gives arrays of another shape than DWPose's.
        """
        check_picture(rgb)
        faces = [self._face(rgb, box) for box in self._people(rgb)]
        faces = [(points, score) for points, score in faces if score >= self.min_score]
        return sorted(faces, key=lambda face: -np.linalg.norm(np.ptp(face[0], axis=0)))

    def relabel(self, rgb: np.ndarray, points68: np.ndarray) -> np.ndarray | None:
        """DWPose's points of a face that another landmarker has found.

        The nearest face counts, by the mean distance of brows, nose, eyes and mouth, if this is at most half the
        distance between the outer eye corners of the smaller face; so one of another size or way up does not.

        Args:
            rgb: `H W 3` uint8.
            points68: the face's iBUG points, `68 2` px.

        Returns:
            `68 2` float32 px, or None where DWPose sees no such face.

        Raises:
            ValueError: not an RGB picture, or not the points of a face; as `points68`.
        """
        _check_points(points68)
        faces = [points for points, _ in self.points68(rgb)]
        distances = [_face_distance(points, points68) for points in faces]
        if not faces or min(distances) > MAX_RELABEL_DISTANCE:
            return None
        return faces[int(np.argmin(distances))]

    def _people(self, rgb: np.ndarray) -> np.ndarray:
        """Boxes of the people, `n 4` px: x0 y0 x1 y1."""
        picture, scale = _letterbox(rgb)
        (raw,) = self._detector.run(picture)
        return _person_boxes(raw) / np.tile(scale, 2)

    def _face(self, rgb: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float]:
        """Points `68 2` px and score of the person in the box."""
        scale, offset = _crop_of(box)
        points, scores = _decode_simcc(*self._pose.run(_cut(rgb, scale, offset)))
        # The network, as OpenCV's warp, counts from pixel centres.
        points = (points - offset) / scale + 0.5
        return points.astype(np.float32), float(scores.mean())


@dataclass(frozen=True)
class _Signature:
    """A network's file, and the shapes of what goes in and comes out."""

    file: str
    input_shape: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]


DETECTOR = _Signature("yolox_l.onnx", (1, 3, DETECTOR_PX, DETECTOR_PX), ((1, 8400, 85),))
POSE = _Signature("dw-ll_ucoco_384.onnx", (1, 3, 384, 288), ((1, 133, 576), (1, 133, 768)))


class _Network:
    """One of the two files, opened and checked."""

    def __init__(self, folder: Path, signature: _Signature, num_threads: int) -> None:
        self._path = folder / signature.file
        self._signature = signature
        self._session = _open_session(self._path, num_threads)
        self._check_declaration()

    def run(self, picture: np.ndarray) -> list[np.ndarray]:
        """`3 H W` float32 -> the outputs, without the batch axis."""
        outputs = self._session.run(None, {self._session.get_inputs()[0].name: picture[None]})
        shapes = tuple(output.shape for output in outputs)
        if shapes != self._signature.output_shapes:  # axes that the file leaves open
            raise ValueError(
                f"{self._path} gave arrays of shapes {shapes}, expected {self._signature.output_shapes}; "
                f"use the file of {SOURCE}"
            )
        return [output[0] for output in outputs]

    def _check_declaration(self) -> None:
        """That the file declares what we expect of it; names do not matter, nor axes without a number."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        expected = [self._signature.input_shape, *self._signature.output_shapes]
        fits = len(inputs) == 1 and len(outputs) == len(expected) - 1
        fits = fits and all(
            _may_have(value, shape) for value, shape in zip(inputs + outputs, expected, strict=True)
        )
        if not fits:
            found = [f"{value.name} {value.shape} {value.type}" for value in inputs + outputs]
            raise ValueError(
                f"{self._path} is another model: expected float32 input {expected[0]} and outputs {expected[1:]}, "
                f"found {', '.join(found)}; use the file of {SOURCE}"
            )


def _may_have(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a declared input or output, whose axes may be open, can be float32 of this shape."""
    axes_fit = [
        not isinstance(axis, int) or axis == size for axis, size in zip(value.shape, shape, strict=False)
    ]
    return value.type == "tensor(float)" and len(value.shape) == len(shape) and all(axes_fit)


def _require_files(folder: Path) -> None:
    names = (DETECTOR.file, POSE.file)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"DWPose needs {' and '.join(names)}; {folder} lacks {' and '.join(missing)}. "
            f"Download them from {SOURCE}"
        )


def _open_session(path: Path, num_threads: int) -> Any:
    """An onnxruntime session, or a ValueError that names the file."""
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3  # errors; its warnings are about the machine and of no use here
    available = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be opened as an ONNX model: {error}. "
            f"Download it again from {SOURCE}"
        ) from error


def _import_onnxruntime() -> Any:
    """The onnxruntime package, or an ImportError that says how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{error}; DWPose runs in onnxruntime: pip install 'openloopy[data]'") from error
    return onnxruntime


def _letterbox(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The detector's view: the picture in the upper left corner, grey beside it.

    Returns:
        `3 640 640` float32, BGR 0..255, and its pixels per pixel of the picture, `2` (x, y).
    """
    size = np.array(rgb.shape[1::-1])
    shrunk = np.maximum(np.round(size * (DETECTOR_PX / size.max())), 1).astype(int)
    view = np.full((DETECTOR_PX, DETECTOR_PX, 3), PADDING_GREY, np.uint8)
    view[: shrunk[1], : shrunk[0]] = cv2.resize(rgb, shrunk.tolist(), interpolation=cv2.INTER_LINEAR)
    bgr = view[..., ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(bgr, dtype=np.float32), shrunk / size


def _person_boxes(raw: np.ndarray) -> np.ndarray:
    """The people in YOLOX's output (Ge et al. 2021, sec. 2.1): `8400 85` -> `n 4` px of its input, x0 y0 x1 y1."""
    scores = raw[:, 4] * raw[:, PERSON]
    likely = np.flatnonzero(scores > MIN_PERSON)
    corners, strides_px = (array[likely] for array in _grid())
    centres = corners + raw[likely, :2] * strides_px
    sizes = np.exp(raw[likely, 2:4]) * strides_px
    boxes = np.concatenate([centres - sizes / 2, sizes], axis=1)
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores[likely].tolist(), MIN_PERSON, MAX_OVERLAP)
    boxes = boxes[np.asarray(kept, dtype=int)]
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


@lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Of each row of YOLOX's output: the upper left corner of its cell, `8400 2` px, and its stride, `8400 1` px."""
    corners, strides_px = [], []
    for stride_px in DETECTOR_STRIDES_PX:
        rows, columns = np.indices((DETECTOR_PX // stride_px,) * 2).reshape(2, -1)
        corners.append(np.stack([columns, rows], axis=1) * stride_px)
        strides_px.append(np.full((len(rows), 1), stride_px))
    return np.concatenate(corners), np.concatenate(strides_px)


def _crop_of(box: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and offset `2` px that take the picture to the pose network's input: the padded box just fits in."""
    size = BOX_PADDING * (box[2:] - box[:2])
    scale = float(np.min(POSE_SIZE_PX / size))
    return scale, np.array(POSE_SIZE_PX) / 2 - scale * (box[:2] + box[2:]) / 2


def _cut(rgb: np.ndarray, scale: float, offset: np.ndarray) -> np.ndarray:
    """The pose network's view: x -> scale x + offset, black outside the picture, `3 384 288` float32."""
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    # Plain bilinear, however much it shrinks: so the network has seen its pictures in training.
    view = cv2.warpAffine(rgb, matrix, POSE_SIZE_PX, flags=cv2.INTER_LINEAR)
    return np.ascontiguousarray(((view - MEAN_RGB) / STD_RGB).transpose(2, 0, 1))


def _decode_simcc(simcc_x: np.ndarray, simcc_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face in SimCC (Li et al. 2022, sec. 3.1): the bin with the peak, on each axis by itself.

    Args:
        simcc_x, simcc_y: `133 576` and `133 768`.

    Returns:
        Points `68 2` px of the pose network's input, and the lower of their two peaks, `68` in 0..1.
    """
    axes = (simcc_x[FACE], simcc_y[FACE])
    points = np.stack([axis.argmax(axis=1) for axis in axes], axis=1) / BINS_PER_PX
    peaks = np.minimum(*(axis.max(axis=1) for axis in axes))
    return points, np.clip(peaks, 0, 1)


def _check_points(points68: np.ndarray) -> None:
    if points68.shape != (68, 2) or not np.isfinite(points68).all():
        raise ValueError(f"expected 68 finite points of shape (68, 2), got {points68.shape}")
    if eye_distance(points68) == 0:
        raise ValueError("the outer eye corners coincide; drop lost frames, do not fill them")


def _face_distance(points: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of the inner faces' points, both `68 2`, in eye distances of the smaller face."""
    unit_px = min(eye_distance(points), eye_distance(other))
    distance_px = np.linalg.norm((points - other)[INNER_FACE], axis=1).mean()
    # A landmarker that has lost a face may put both its eyes in one place.
    return float(distance_px / unit_px) if unit_px > 0 else np.inf
