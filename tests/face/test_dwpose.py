"""DWPose's decoding, against small ONNX models with the real files' signatures that find coloured shapes.

The painted world: on black, each person is a rectangle of a dark colour with one bright spot, the face. The detector
finds the rectangles, the pose network finds the spot and puts each of its 133 points at a known distance from it, so
that letterbox, grid, crop and back-projection show in the result.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx, which writes the test's models, is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime, which DWPose runs in, is not installed")

from openloopy.face.dwpose import DWPoseLandmarker  # noqa: E402
from openloopy.face.mesh import MESH_TO_68, canonical_mesh  # noqa: E402

DETECTOR_FILE, POSE_FILE = "yolox_l.onnx", "dw-ll_ucoco_384.onnx"
POSE_SHAPES = {"input": (1, 3, 384, 288), "simcc_x": (1, 133, 576), "simcc_y": (1, 133, 768)}
RED, GREEN = (40, 0, 0), (0, 40, 0)
SPOT = (250, 150, 50)
"""All three channels differ, so that a swap of them shows."""
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
PEAK = 0.8
"""Height of the pose network's peaks on a spot of exactly the right colour."""


def face_bins() -> np.ndarray:
    """Distances of the 133 points from the spot, `133 2` SimCC bins: the mean face, 60 bins from eye to eye."""
    face = canonical_mesh().vertices[MESH_TO_68, :2]
    bins = np.full((133, 2), (150, -150))  # where body and hands are, far off
    bins[23:91] = np.round(60 * (face - face[30]) / np.ptp(face[[36, 45], 0]))
    return bins


FACE_BINS = face_bins()[23:91]
EYES = [36, 45]
"""Outer corners."""


class Graph:
    """A graph under construction: call it with an operator and its inputs, get the output's name."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []

    def __call__(self, operator: str, *inputs: str | np.ndarray, **attributes) -> str:
        names = [name if isinstance(name, str) else self._constant(name) for name in inputs]
        output = attributes.pop("output", f"t{len(self.nodes)}")
        self.nodes.append(onnx.helper.make_node(operator, names, [output], **attributes))
        return output

    def _constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def save(self, path: Path, dtype: int = onnx.TensorProto.FLOAT, **shapes: tuple) -> None:
        """shapes: of the input, first, and of the outputs, by name."""
        infos = [onnx.helper.make_tensor_value_info(name, dtype, shape) for name, shape in shapes.items()]
        graph = onnx.helper.make_graph(self.nodes, "painted", infos[:1], infos[1:], self.constants)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))


def f32(value) -> np.ndarray:
    return np.asarray(value, dtype=np.float32)


def extent(graph: Graph, mask: str, axis: int) -> tuple[str, str]:
    """First and last index along axis (1 down, 2 right) of a mask `1 H W`, each `1 1` float."""
    line = graph("ReduceMax", mask, axes=[3 - axis], keepdims=0)
    ends = [graph("ArgMax", line, axis=1, select_last_index=last) for last in (0, 1)]
    return tuple(graph("Cast", end, to=1) for end in ends)


def raw_row(graph: Graph, mask: str, level: tuple[int, int, int], score: float) -> str:
    """YOLOX's row `1 85` for the bounds of a mask, seen from the cell at column, row of a stride."""
    stride, *cell = level
    row = []
    spans = [extent(graph, mask, axis) for axis in (2, 1)]
    for (first, last), corner in zip(spans, cell, strict=True):
        middle = graph("Mul", graph("Add", graph("Add", first, last), f32(1)), f32(0.5 / stride))
        row.append(graph("Sub", middle, f32(corner)))
    for first, last in spans:
        size = graph("Add", graph("Sub", last, first), f32(1))
        row.append(graph("Log", graph("Div", size, f32(stride))))
    present = graph("ReduceMax", mask, axes=[1, 2], keepdims=0)
    row.append(graph("Reshape", present, np.array([1, 1])))
    classes = np.zeros((1, 80))
    classes[0, :2] = score, 0.95  # the second class is surer, and none of our business
    return graph("Concat", *row, f32(classes), axis=1)


def row_index(stride: int, column: int, row: int) -> int:
    """Of a cell in YOLOX's output: all rows of stride 8 first, then 16, then 32."""
    return {8: 0, 16: 6400, 32: 8000}[stride] + row * (640 // stride) + column


def save_rows(graph: Graph, folder: Path, rows: dict[int, str | np.ndarray]) -> None:
    """A detector that gives these rows, and zeros else."""
    zeros = graph("ConstantOfShape", np.array([8400, 85]))
    indices = np.array(list(rows), dtype=np.int64)[:, None]
    updates = graph("Concat", *rows.values(), axis=0)
    graph("Unsqueeze", graph("ScatterND", zeros, indices, updates), np.array([0]), output="output")
    graph.save(folder / DETECTOR_FILE, images=(1, 3, 640, 640), output=(1, 8400, 85))


def save_detector(folder: Path) -> None:
    """Finds the red and the green rectangle in a BGR picture, each from two cells."""
    graph = Graph()
    green, red = (graph("Gather", "images", np.array(channel), axis=1) for channel in (1, 2))
    rows = {}
    for strong, other, levels in (
        (red, green, ((8, 70, 3), (32, 5, 17))),
        (green, red, ((16, 12, 39), (32, 0, 2))),
    ):
        lit = graph("And", graph("Greater", strong, f32(20)), graph("Less", strong, f32(60)))
        mask = graph("Cast", graph("And", lit, graph("Less", other, f32(10))), to=1)
        for level, score in zip(levels, (0.9, 0.7), strict=True):
            rows[row_index(*level)] = raw_row(graph, mask, level, score)
    save_rows(graph, folder, rows)


def save_pose(folder: Path, **changes) -> None:
    """Finds the spot in a normalised RGB picture; the further its colour is off, the lower the peaks."""
    graph = Graph()
    colour = f32(((np.array(SPOT) - MEAN) / STD)[None, :, None, None])
    off = graph("ReduceSum", graph("Abs", graph("Sub", "input", colour)), np.array([1]), keepdims=0)
    spot = graph("Cast", graph("Less", off, f32(0.6)), to=1)
    peak = graph("Sub", f32(PEAK), graph("ReduceMin", off, axes=[0, 1, 2], keepdims=0))
    for (name, size), axis in (("simcc_x", 576), 0), (("simcc_y", 768), 1):
        twice_middle = graph("Add", *extent(graph, spot, 2 - axis))
        bins = graph("Add", twice_middle, f32(face_bins()[None, :, axis, None]))
        away = graph("Abs", graph("Sub", f32(np.arange(size)[None, None]), bins))
        graph("Sub", peak, graph("Mul", away, f32(0.001)), output=name)
    graph.save(folder / POSE_FILE, **(POSE_SHAPES | changes))


@pytest.fixture(scope="module")
def painted_files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dwpose")
    save_detector(folder)
    save_pose(folder)
    return folder


@pytest.fixture(scope="module")
def dwpose(painted_files) -> DWPoseLandmarker:
    return DWPoseLandmarker(painted_files)


def paint(height: int, width: int, *people: tuple, spot: tuple = SPOT) -> np.ndarray:
    """people: (colour, x0, y0, x1, y1, spot's x0, y0, x1, y1), whole px."""
    rgb = np.zeros((height, width, 3), np.uint8)
    for colour, x0, y0, x1, y1, *bounds in people:
        rgb[y0:y1, x0:x1] = colour
        rgb[bounds[1] : bounds[3], bounds[0] : bounds[2]] = spot
    return rgb


def expected_points(person: tuple) -> np.ndarray:
    """Where the painted person's 68 points are in the picture, by hand."""
    _, x0, y0, x1, y1, *bounds = person
    px_per_bin = max(1.25 * (x1 - x0) / 288, 1.25 * (y1 - y0) / 384) / 2
    middle = np.array([bounds[0] + bounds[2], bounds[1] + bounds[3]]) / 2
    return middle + FACE_BINS * px_per_bin


PEOPLE = [
    pytest.param(480, 640, (RED, 200, 100, 380, 460, 270, 130, 290, 150), id="fits"),
    pytest.param(640, 640, (GREEN, 50, 60, 590, 600, 300, 200, 340, 240), id="square, wide person"),
    pytest.param(
        1080, 1920, (GREEN, 900, 80, 1500, 1080, 1150, 200, 1230, 280), id="large, at the lower border"
    ),
    pytest.param(1281, 719, (RED, 0, 301, 300, 1001, 10, 400, 50, 440), id="upright, at the left border"),
    pytest.param(97, 131, (RED, 60, 10, 131, 97, 100, 20, 110, 30), id="small, odd, in the corner"),
    pytest.param(256, 256, (GREEN, 0, 0, 256, 256, 100, 90, 120, 110), id="all person"),
    pytest.param(90, 1200, (RED, 1100, 10, 1160, 80, 1120, 20, 1132, 32), id="panorama"),
]


@pytest.mark.parametrize("height, width, person", PEOPLE)
def test_points_lie_where_they_were_painted(dwpose, height, width, person):
    ((points, score),) = dwpose.points68(paint(height, width, person))
    expected = expected_points(person)
    crop_px = np.ptp(expected[EYES, 0]) / 30  # one px of the pose network's input, in px of the picture
    assert points.shape == (68, 2) and points.dtype == np.float32
    # The spot is found to half a px of that input, which is more than one of the picture where that is shrunk much.
    assert np.abs(points - expected).max() < max(1.0, crop_px / 2)
    assert score == pytest.approx(PEAK, abs=0.01)


def test_a_view_of_the_picture_will_do(dwpose):
    person = (RED, 200, 100, 380, 460, 270, 130, 290, 150)
    mirrored = paint(480, 640, (RED, 260, 100, 440, 460, 350, 130, 370, 150))[:, ::-1]
    ((points, _),) = dwpose.points68(mirrored)
    assert np.abs(points - expected_points(person)).max() < 1


SMALL = (RED, 40, 100, 140, 260, 80, 120, 96, 136)
LARGE = (GREEN, 340, 60, 580, 440, 430, 100, 460, 130)


def test_two_people_largest_first(dwpose):
    (first, _), (second, _) = dwpose.points68(paint(480, 640, SMALL, LARGE))
    assert np.abs(first - expected_points(LARGE)).max() < 1
    assert np.abs(second - expected_points(SMALL)).max() < 1


def test_nobody(dwpose):
    empty = np.zeros((120, 160, 3), np.uint8)
    assert dwpose.points68(empty) == []
    assert dwpose.relabel(empty, expected_points(SMALL)) is None


def test_the_picture_is_padded_with_grey(tmp_path):
    """A detector that sees someone only if the lower half of its view is 114 all over."""
    graph = Graph()
    lower = graph("Slice", "images", np.array([320]), np.array([640]), np.array([2]))
    off = graph("ReduceMax", graph("Abs", graph("Sub", lower, f32(114))), axes=[0, 1, 2, 3], keepdims=0)
    confidence = graph("Reshape", graph("Cast", graph("Equal", off, f32(0)), to=1), np.array([1, 1]))
    rest = np.zeros((1, 80))
    rest[0, 0] = 1
    row = graph("Concat", f32(np.ones((1, 4))), confidence, f32(rest), axis=1)
    save_rows(graph, tmp_path, {row_index(32, 5, 5): row})
    save_constant_pose(tmp_path, bins=(200, 300), peaks=(1.0, 1.0))
    dwpose = DWPoseLandmarker(tmp_path)
    assert len(dwpose.points68(np.full((100, 200, 3), 255, np.uint8))) == 1
    assert dwpose.points68(np.full((101, 200, 3), 255, np.uint8)) == []


def test_unsure_faces_are_left_out(painted_files):
    rgb = paint(480, 640, LARGE, spot=(250, 150, 70))  # 20 / 57.375 off
    ((_, score),) = DWPoseLandmarker(painted_files).points68(rgb)
    assert score == pytest.approx(PEAK - 20 / 57.375, abs=0.01)
    assert DWPoseLandmarker(painted_files, min_score=0.5).points68(rgb) == []


def test_a_known_box_and_known_bins_by_hand(tmp_path):
    """The box (100, 50, 340, 370) of a 640 x 480 picture is seen at 0.96 px per px, from (70, 10) on."""
    graph = Graph()
    row = np.zeros((1, 85))
    row[0, :6] = 220 / 8 - 3, 210 / 8 - 77, np.log(240 / 8), np.log(320 / 8), 0.5, 0.7
    elsewhere, unsure = row.copy(), row.copy()
    elsewhere[0, 0] += 1  # 8 px to the right: the same person, less sure
    elsewhere[0, 5] = 0.65
    unsure[0, 0] += 35
    unsure[0, 5] = 0.55  # times 0.5 is below 0.3
    rows = {
        row_index(8, 3, 77): f32(row),
        row_index(8, 4, 77): f32(elsewhere),
        row_index(8, 5, 77): f32(unsure),
    }
    save_rows(graph, tmp_path, rows)
    save_constant_pose(tmp_path, bins=(200, 300), peaks=(7.0, 0.25))
    ((points, score),) = DWPoseLandmarker(tmp_path, min_score=0).points68(np.zeros((480, 640, 3), np.uint8))
    np.testing.assert_allclose(points, [[70 + 100 / 0.96 + 0.5, 10 + 150 / 0.96 + 0.5]] * 68, atol=1e-3)
    assert score == pytest.approx(0.25)  # the lower of the two axes


def save_constant_pose(folder: Path, bins: tuple[int, int], peaks: tuple[float, float]) -> None:
    """A pose network that does not look; all 133 points have their peaks in these bins."""
    graph = Graph()
    for name, size, place, peak in zip(("simcc_x", "simcc_y"), (576, 768), bins, peaks, strict=True):
        simcc = np.zeros((1, 133, size))
        simcc[..., place] = peak
        graph("Identity", f32(simcc), output=name)
    graph.save(folder / POSE_FILE, **POSE_SHAPES)


def test_scores_are_cut_to_one(tmp_path):
    save_detector(tmp_path)
    save_constant_pose(tmp_path, bins=(200, 300), peaks=(7.0, 3.0))
    ((_, score),) = DWPoseLandmarker(tmp_path).points68(paint(480, 640, LARGE))
    assert score == 1.0


def test_relabel_gives_the_nearest_face(dwpose):
    rgb = paint(480, 640, SMALL, LARGE)
    large, small = (points for points, _ in dwpose.points68(rgb))
    for person, points in ((SMALL, small), (LARGE, large)):
        eyes_px = np.ptp(points[EYES, 0])
        for shift in ([0.0, 0.0], [0.4, 0.0], [-0.3, 0.3]):
            found = dwpose.relabel(rgb, expected_points(person) + eyes_px * np.array(shift))
            np.testing.assert_array_equal(found, points)
        assert dwpose.relabel(rgb, points + [0.6 * eyes_px, 0]) is None


def test_relabel_needs_a_face_of_the_same_size_and_way_up(dwpose):
    rgb = paint(480, 640, LARGE)
    points = expected_points(LARGE)
    middle = points.mean(0)
    assert dwpose.relabel(rgb, middle + 3 * (points - middle)) is None
    assert dwpose.relabel(rgb, 2 * middle - points) is None
    points[:17] += 500  # the jaw line is the landmarkers' own affair
    assert dwpose.relabel(rgb, points) is not None


def test_wrong_pictures_and_points_are_refused(dwpose):
    rgb = paint(480, 640, LARGE)
    for wrong in (np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3))):
        with pytest.raises(ValueError, match="RGB picture"):
            dwpose.points68(wrong)
    with pytest.raises(ValueError, match=r"\(68, 2\), got \(478, 3\)"):
        dwpose.relabel(rgb, np.zeros((478, 3)))
    with pytest.raises(ValueError, match="finite"):
        dwpose.relabel(rgb, np.full((68, 2), np.nan))
    with pytest.raises(ValueError, match="eye corners coincide"):
        dwpose.relabel(rgb, np.zeros((68, 2)))


def test_numbers_out_of_range_are_refused(painted_files):
    with pytest.raises(ValueError, match=r"min_score must be in 0\.\.1, got 1\.5"):
        DWPoseLandmarker(painted_files, min_score=1.5)
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        DWPoseLandmarker(painted_files, num_threads=0)


def test_missing_files_are_named_with_their_source(tmp_path, painted_files):
    both = f"needs {DETECTOR_FILE} and {POSE_FILE}; "
    with pytest.raises(FileNotFoundError, match=both + f".*absent lacks {DETECTOR_FILE} and {POSE_FILE}"):
        DWPoseLandmarker(tmp_path / "absent")
    (tmp_path / DETECTOR_FILE).write_bytes((painted_files / DETECTOR_FILE).read_bytes())
    with pytest.raises(FileNotFoundError, match=f"lacks {POSE_FILE}.*huggingface.co/yzd-v/DWPose"):
        DWPoseLandmarker(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x08\x08\x3a\xff"]
)
def test_a_file_that_is_no_onnx_model(tmp_path, content):
    save_detector(tmp_path)
    (tmp_path / POSE_FILE).write_bytes(content)
    message = rf"{POSE_FILE} \({len(content)} bytes\) cannot be opened as an ONNX model: .*yzd-v/DWPose"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        DWPoseLandmarker(tmp_path)


def test_another_model_is_refused(tmp_path, painted_files):
    """The two files, swapped."""
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for name, other in ((DETECTOR_FILE, POSE_FILE), (POSE_FILE, DETECTOR_FILE)):
        (swapped / name).write_bytes((painted_files / other).read_bytes())
    with pytest.raises(
        ValueError,
        match=rf"{DETECTOR_FILE} is another model: expected float32 input \(1, 3, 640, 640\) .*"
        r"found input \[1, 3, 384, 288\] tensor\(float\), simcc_x .*yzd-v/DWPose",
    ):
        DWPoseLandmarker(swapped)


@pytest.mark.parametrize(
    "shapes",
    [
        {"input": (1, 3, 384, 288), "simcc_x": (1, 17, 576), "simcc_y": (1, 17, 768)},  # COCO's body alone
        {"input": (1, 3, 256, 192), "simcc_x": (1, 133, 384), "simcc_y": (1, 133, 512)},  # a smaller DWPose
        {"input": (1, 3, 384, 288), "simcc_x": (1, 133, 576)},
        {"input": (1, 3, 384, 288), "simcc_x": (1, 133, 576), "simcc_y": (133, 768)},
    ],
)
def test_another_pose_model_is_refused(tmp_path, shapes):
    save_detector(tmp_path)
    graph = Graph()
    for name in list(shapes)[1:]:
        graph("Identity", f32(np.zeros(shapes[name])), output=name)
    graph.save(tmp_path / POSE_FILE, **shapes)
    with pytest.raises(ValueError, match=rf"{POSE_FILE} is another model: expected float32 input .*simcc_x"):
        DWPoseLandmarker(tmp_path)


def test_half_precision_is_refused(tmp_path):
    """Else it would fail with the first picture, in onnxruntime's words."""
    save_detector(tmp_path)
    graph = Graph()
    for name in ("simcc_x", "simcc_y"):
        graph("Identity", np.zeros(POSE_SHAPES[name], np.float16), output=name)
    graph.save(tmp_path / POSE_FILE, onnx.TensorProto.FLOAT16, **POSE_SHAPES)
    with pytest.raises(ValueError, match=r"expected float32 .*tensor\(float16\)"):
        DWPoseLandmarker(tmp_path)


def test_open_axes_are_allowed(tmp_path):
    save_detector(tmp_path)
    save_pose(
        tmp_path, input=("batch", 3, 384, 288), simcc_x=("batch", 133, "x"), simcc_y=("batch", 133, "y")
    )
    ((points, _),) = DWPoseLandmarker(tmp_path).points68(paint(480, 640, LARGE))
    assert np.abs(points - expected_points(LARGE)).max() < 1


def test_open_axes_are_checked_when_the_arrays_come(tmp_path):
    """A pose network whose outputs come the wrong way round, and whose file does not say so."""
    save_detector(tmp_path)
    graph = Graph()
    for name, size in (("simcc_x", 768), ("simcc_y", 576)):
        shape = graph("Mul", graph("Shape", "input", end=1), np.array([1, 133, size]))
        graph("ConstantOfShape", shape, output=name)
    graph.save(
        tmp_path / POSE_FILE, input=("n", 3, 384, 288), simcc_x=("n", "p", "x"), simcc_y=("n", "p", "y")
    )
    with pytest.raises(ValueError, match=rf"{POSE_FILE} gave arrays of shapes \(\(1, 133, 768\), .*expected"):
        DWPoseLandmarker(tmp_path).points68(paint(480, 640, LARGE))


def test_missing_onnxruntime_says_how_to_install_it(monkeypatch, painted_files):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'openloopy\[data\]'"):
        DWPoseLandmarker(painted_files)


@pytest.mark.parametrize(
    "available, used",
    [
        (["AzureExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]),
        (
            ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ),
    ],
)
def test_cuda_where_there_is_cuda_and_one_thread(monkeypatch, painted_files, available, used):
    opened = []
    real = onnxruntime.InferenceSession

    def session(path, options, providers):
        opened.append(SimpleNamespace(options=options, providers=providers))
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    DWPoseLandmarker(painted_files)
    assert [one.providers for one in opened] == [used, used]
    assert [one.options.intra_op_num_threads for one in opened] == [1, 1]


def test_it_is_quiet(capfd, painted_files):
    DWPoseLandmarker(painted_files).points68(paint(480, 640, LARGE))
    assert capfd.readouterr() == ("", "")
