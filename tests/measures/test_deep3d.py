"""Deep3DFaceRecon with random weights: the public checkpoint's names, another ResNet-50, the public alignment."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import ResNetConfig, ResNetModel

from openloopy.face.mesh import MESH_TO_68, Pose, canonical_mesh, rotation_of
from openloopy.measures.deep3d import (
    EXPRESSION,
    FACE_PX,
    NUM_COEFFICIENTS,
    NUM_EXPRESSION,
    Deep3D,
    align_face,
    coefficients,
    expression_coefficients,
    five_points,
    load_deep3d,
    published_deep3d,
)
from openloopy.measures.outside_weights import FOLDER_VARIABLE, WeightsMissing

SIZE = (180, 240)
"""Height and width of the test pictures."""


@pytest.fixture(scope="module")
def network() -> Deep3D:
    torch.manual_seed(0)
    return Deep3D().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    """As the public code saves it: the network beside its optimizer and schedule."""
    path = tmp_path_factory.mktemp("weights") / "epoch_20.pth"
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    content = {"net_recon": network.state_dict(), "opt_00": optimizer.state_dict()}
    torch.save(content | {"sched_00": schedule.state_dict()}, path)
    return path


def _public_shapes() -> dict[str, tuple[int, ...]]:
    """ResNet-50 as torchvision names it, its classifier replaced by seven heads of 1x1 convolutions."""
    convolutions = {"conv1": (64, 3, 7, 7)}
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            convolutions[f"{name}.conv1"] = (width, inputs, 1, 1)
            convolutions[f"{name}.conv2"] = (width, width, 3, 3)
            convolutions[f"{name}.conv3"] = (4 * width, width, 1, 1)
            if block == 0:
                convolutions[f"{name}.downsample.0"] = (4 * width, inputs, 1, 1)
            inputs = 4 * width
    shapes = {}
    for name, shape in convolutions.items():
        norm = "backbone." + name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        shapes[f"backbone.{name}.weight"] = shape
        shapes |= {f"{norm}.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{norm}.num_batches_tracked"] = ()
    for head, width in enumerate((80, 64, 80, 3, 27, 2, 1)):
        shapes[f"final_layers.{head}.weight"] = (width, 2048, 1, 1)
        shapes[f"final_layers.{head}.bias"] = (width,)
    return shapes


def _as_transformers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's weights under the names of `transformers.ResNetModel`."""
    renamed = {}
    for name, value in weights.items():
        if not name.startswith("backbone."):
            continue
        *place, part, kind = name.removeprefix("backbone.").split(".")
        if not place:
            renamed[f"embedder.embedder.{'convolution' if part == 'conv1' else 'normalization'}.{kind}"] = (
                value
            )
            continue
        layer = f"encoder.stages.{int(place[0][-1]) - 1}.layers.{place[1]}"
        if place[2:] == ["downsample"]:
            inside = f"shortcut.{'convolution' if part == '0' else 'normalization'}"
        else:
            inside = f"layer.{int(part[-1]) - 1}.{'convolution' if part[:-1] == 'conv' else 'normalization'}"
        renamed[f"{layer}.{inside}.{kind}"] = value
    return renamed


def _picture(seed: int = 0) -> np.ndarray:
    """Smooth colours."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return np.array(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC))


def _points(centre=(120.0, 90.0), px_per_cm: float = 8.0, yaw: float = 0.0) -> np.ndarray:
    """The 68 points of the mean face, turned, `68 2` px."""
    turned = canonical_mesh().vertices[MESH_TO_68] @ rotation_of(Pose(yaw, 0, 0)).T
    return turned[:, :2] * px_per_cm + centre


def _aligned_as_published(rgb: np.ndarray, points68: np.ndarray, standard: np.ndarray) -> np.ndarray:
    """Step by step, with the whole picture resized before it is cut."""
    height, width = rgb.shape[:2]
    left_eye, right_eye = points68[[36, 39]].mean(0), points68[[42, 45]].mean(0)
    landmarks = np.stack([left_eye, right_eye, points68[30], points68[48], points68[54]]) - 0.5
    landmarks[:, 1] = height - 1 - landmarks[:, 1]
    system, wanted = np.zeros((10, 8)), landmarks.ravel()
    system[0::2, :3], system[0::2, 3] = standard, 1
    system[1::2, 4:7], system[1::2, 7] = standard, 1
    solution = np.linalg.lstsq(system, wanted, rcond=None)[0]
    scale = 102 / ((np.linalg.norm(solution[:3]) + np.linalg.norm(solution[4:7])) / 2)
    x, y = solution[3], solution[7]
    w, h = int(width * scale), int(height * scale)
    left = int(w / 2 - 112 + (x - width / 2) * scale)
    top = int(h / 2 - 112 + (height / 2 - y) * scale)
    whole = Image.fromarray(rgb).resize((w, h), Image.Resampling.BICUBIC)
    return np.array(whole.crop((left, top, left + 224, top + 224)))


def test_names_and_shapes_are_those_of_the_public_checkpoint(network):
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == _public_shapes()
    assert NUM_COEFFICIENTS == 257 and EXPRESSION.stop - EXPRESSION.start == NUM_EXPRESSION == 64


def test_the_backbone_is_resnet_50_as_transformers_has_it(network):
    other = ResNetModel(ResNetConfig()).eval()
    other.load_state_dict(_as_transformers(network.state_dict()))
    faces = torch.rand(1, 3, FACE_PX, FACE_PX, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = other(faces).pooler_output
        torch.testing.assert_close(network.backbone(faces), expected, rtol=1e-4, atol=1e-4)


def test_heads_follow_in_the_order_of_the_public_code(network):
    with torch.inference_mode():
        faces = torch.zeros(2, 3, FACE_PX, FACE_PX)
        found, features = network(faces), network.backbone(faces)
    assert found.shape == (2, 257)
    torch.testing.assert_close(found[:, EXPRESSION], network.final_layers[1](features).flatten(1))


def test_a_published_checkpoint_loads(network, checkpoint):
    loaded = load_deep3d(checkpoint)
    assert not loaded.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


def test_the_network_alone_loads_as_safetensors(network, tmp_path):
    path = tmp_path / "deep3d.safetensors"
    save_file({name: value.clone() for name, value in network.state_dict().items()}, path)
    weight = "final_layers.1.weight"
    torch.testing.assert_close(load_deep3d(path).state_dict()[weight], network.state_dict()[weight])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"net_recon": {"final_layers.0.bias": torch.zeros(80)}},
            "weights of Deep3DFaceRecon .missing: backbone.conv1.weight",
        ),
        ({"net_recon": [1, 2]}, "no tensors by name"),
        ([torch.zeros(1)], "no tensors by name"),
    ],
)
def test_other_weights_are_refused(tmp_path, content, message):
    path = tmp_path / "epoch_20.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_deep3d(path)


def test_a_file_with_python_objects_is_refused(network, tmp_path):
    path = tmp_path / "epoch_20.pth"
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match="never run here"):
        load_deep3d(path)


@pytest.mark.parametrize("name", ["epoch_20.pth", "deep3d.safetensors"])
def test_a_damaged_file_is_refused(checkpoint, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="cut short"):
        load_deep3d(path)


def test_without_the_file_it_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    published_deep3d.cache_clear()
    with pytest.raises(WeightsMissing, match="E-FID needs epoch_20.pth"):
        expression_coefficients([_picture()], _points()[None])


@pytest.mark.parametrize("centre", [(120.0, 90.0), (31.3, 20.7), (230.2, 171.9)])
@pytest.mark.parametrize(("px_per_cm", "yaw"), [(8.0, 0.0), (3.3, 25.0), (23.0, -40.0)])
def test_the_crop_is_the_published_one(centre, px_per_cm, yaw):
    standard = np.random.default_rng(1).normal(0, 0.4, (5, 3))
    rgb, points = _picture(), _points(centre, px_per_cm, yaw)
    expected = _aligned_as_published(rgb, points, standard).astype(int)
    assert np.abs(align_face(rgb, points, standard).astype(int) - expected).max() <= 2


def test_the_mean_face_lies_where_the_public_network_expects_it():
    """Eyes 6.2 cm apart and 2.9 cm above the centre, mouth 3.8 cm below: the public standard face, rounded."""
    picture, points = np.zeros((*SIZE, 3), np.uint8), _points()
    for x, y in five_points(points).astype(int):
        picture[y, x] = 255
    face = align_face(picture, points)[..., 0]
    wanted = 112 + 10.2 * np.array([[-3.1, -2.9], [3.1, -2.9], [0.0, 0.5], [-2.4, 3.8], [2.4, 3.8]])
    for x, y in np.rint(wanted).astype(int):
        assert face[y - 3 : y + 4, x - 3 : x + 4].max() > 60


def test_a_turned_picture_gives_a_turned_face():
    """The alignment moves and scales; it does not level a tilted head."""
    rgb, points = _picture(), _points((120.0, 90.0))
    tilt = np.deg2rad(20)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    tilted = (points - (120, 90)) @ turn.T + (120, 90)
    before, after = align_face(rgb, points), align_face(rgb, tilted)
    assert np.abs(before.astype(int) - after.astype(int)).mean() < 12


def test_what_lies_outside_the_picture_is_black():
    face = align_face(np.full((*SIZE, 3), 200, np.uint8), _points((5.0, 90.0)))
    assert (face[:, :60] == 0).all() and (face[60:160, -60:] == 200).all()


@pytest.mark.parametrize(
    ("points", "message"),
    [(np.full((68, 2), 50.0), "no extent"), (_points((-400.0, 90.0)), "outside its 240x180 picture")],
)
def test_impossible_landmarks_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        align_face(_picture(), points)


def test_expression_of_a_track_with_lost_frames(network):
    frames = [_picture(seed) for seed in range(3)]
    points = np.stack([_points(), np.full((68, 2), np.nan), _points((118.0, 92.0))])
    found = expression_coefficients(iter(frames), points, network=network)
    assert found.shape == (3, 64) and found.dtype == np.float32
    assert np.isnan(found[1]).all()
    faces = np.stack([align_face(frames[0], points[0]), align_face(frames[2], points[2])])
    np.testing.assert_allclose(found[[0, 2]], coefficients(network, faces)[:, 80:144], rtol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 0


def test_frames_and_landmarks_must_agree(network):
    with pytest.raises(ValueError, match="no more and no less"):
        expression_coefficients([_picture()] * 2, _points()[None], network=network)
    with pytest.raises(ValueError, match="no more and no less"):
        expression_coefficients([_picture()], np.stack([_points()] * 2), network=network)
    with pytest.raises(ValueError, match=r"\(frames, 68, 2\)"):
        expression_coefficients([_picture()], _points(), network=network)
    with pytest.raises(ValueError, match="training mode"):
        expression_coefficients([_picture()], _points()[None], network=Deep3D())
