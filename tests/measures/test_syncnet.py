"""SyncNet with random weights: the public checkpoint's names, its MFCC, distances done by hand, known shifts, crops."""

import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from openloopy.measures.syncnet import (
    BOX_CENTRE,
    BOX_HALF_SIDE,
    FACE_PX,
    PAD_VALUE,
    SAMPLES_PER_FRAME,
    VIDEO_BATCH,
    SyncNet,
    SyncScore,
    audio_features,
    convert_syncnet,
    face_boxes,
    load_syncnet,
    median_filter,
    mfcc,
    pairwise_distances,
    score_of_distances,
    syncnet_crop,
    syncnet_score,
    video_features,
)

LAYER_SHAPES = {
    "netcnnaud.0": (64, 1, 3, 3),
    "netcnnaud.4": (192, 64, 3, 3),
    "netcnnaud.8": (384, 192, 3, 3),
    "netcnnaud.11": (256, 384, 3, 3),
    "netcnnaud.14": (256, 256, 3, 3),
    "netcnnaud.18": (512, 256, 5, 4),
    "netcnnlip.0": (96, 3, 5, 7, 7),
    "netcnnlip.4": (256, 96, 1, 5, 5),
    "netcnnlip.8": (256, 256, 1, 3, 3),
    "netcnnlip.11": (256, 256, 1, 3, 3),
    "netcnnlip.14": (256, 256, 1, 3, 3),
    "netcnnlip.18": (512, 256, 1, 6, 6),
    "netfcaud.0": (512, 512),
    "netfcaud.3": (1024, 512),
    "netfclip.0": (512, 512),
    "netfclip.3": (1024, 512),
}
"""The convolutions and linear layers of syncnet_v2.model; all but the last of each head are normalised."""

GOLDEN_MFCC = {
    0: (22.89232807, -30.77290935, -12.56283191, -2.22973589, -3.40699589, 0.45990762, 4.51121345)
    + (-7.10143602, 1.97882993, -8.12538980, -5.37149139, -7.13685920, -8.04998928),
    3: (22.41892769, -37.31455744, 4.13372411, -5.34389337, -6.27083960, -10.47647230, -4.36612878)
    + (12.57218324, 9.65739390, 8.94785260, -22.15388938, 6.72717500, -3.91011053),
    4: (-36.04365339, *([0.0] * 12)),
}
"""Rows of python_speech_features 0.6, `mfcc(samples, 16000)`, of the samples of `_golden_samples`."""


@pytest.fixture(scope="module")
def network() -> SyncNet:
    torch.manual_seed(0)
    return SyncNet().eval().requires_grad_(False)


def _weights(network: SyncNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _public_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {}
    for layer, shape in LAYER_SHAPES.items():
        shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
        part, number = layer.split(".")
        norm = f"{part}.{int(number) + 1}"
        if not layer.startswith("netfc") or number == "0":
            shapes |= {
                f"{norm}.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")
            }
            shapes[f"{norm}.num_batches_tracked"] = ()
    return shapes


def _noise(num_frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames and sound of the same length."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_frames, FACE_PX, FACE_PX, 3), dtype=np.uint8)
    return frames, (0.1 * rng.standard_normal(num_frames * SAMPLES_PER_FRAME)).astype(np.float32)


def _golden_samples() -> np.ndarray:
    """Made of integers alone, and silent from sample 600 on."""
    n = np.arange(1000)
    samples = 7 * n * n % 20011 - 10005
    samples[600:] = 0
    return samples / 32768


def test_names_and_shapes_are_those_of_the_public_checkpoint(network):
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == _public_shapes()
    assert len(shapes) == 102


@pytest.mark.parametrize("suffix", ["model", "safetensors"])
def test_a_saved_network_loads_as_it_was(network, tmp_path, suffix):
    path = tmp_path / f"syncnet.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(_weights(network), path)
    loaded = load_syncnet(path)
    assert not loaded.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


def test_a_file_of_an_old_pytorch_loads(network, tmp_path):
    weights = {n: v for n, v in _weights(network).items() if not n.endswith("num_batches_tracked")}
    path = tmp_path / "syncnet_v2.model"
    torch.save(OrderedDict(weights), path, _use_new_zipfile_serialization=False)
    loaded = load_syncnet(path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_conversion_writes_the_same_weights_or_nothing(network, tmp_path):
    torch.save(_weights(network), tmp_path / "syncnet_v2.model")
    out = convert_syncnet(tmp_path / "syncnet_v2.model", tmp_path / "syncnet.safetensors")
    written = load_file(out)
    assert all(torch.equal(written[name], value) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match="ends in .safetensors"):
        convert_syncnet(out, tmp_path / "syncnet.pt")
    (tmp_path / "bad.model").write_text("not weights")
    with pytest.raises(ValueError, match="cannot be read"):
        convert_syncnet(tmp_path / "bad.model", tmp_path / "bad.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "bad.model",
        "syncnet.safetensors",
        "syncnet_v2.model",
    ]


def test_other_weights_are_refused_by_name(network, tmp_path):
    path = tmp_path / "other.model"
    weights = _weights(network)
    weights["netextra.weight"] = weights.pop("netfcaud.3.bias")
    weights["netfclip.0.bias"] = torch.zeros(3)
    torch.save(weights, path)
    with pytest.raises(ValueError) as error:
        load_syncnet(path)
    for part in (
        "missing: netfcaud.3.bias",
        "unexpected: netextra.weight",
        "netfclip.0.bias (3,) instead of (512,)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickled_network_is_not_run_and_the_error_says_what_to_do(tmp_path, is_zip):
    path = tmp_path / "whole.model"
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"Linear.*torch.save\(net.state_dict\(\)"):
        load_syncnet(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_truncated_files_are_refused(network, tmp_path, is_zip):
    path = tmp_path / "cut.model"
    torch.save(_weights(network), path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    for num_bytes in (10, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:num_bytes])
        with pytest.raises(ValueError, match="cut short"):
            load_syncnet(path)


def test_files_of_other_kinds_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.model")
    (tmp_path / "page.model").write_text("<html>404</html>")
    (tmp_path / "bad.safetensors").write_bytes(b"0123456789abcdef")
    (tmp_path / "empty.model").touch()
    reasons = {
        "list.model": "holds a list",
        "page.model": "no PyTorch file",
        "bad.safetensors": "no safetensors file",
        "empty.model": "is empty",
        "none.model": "does not exist",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=reason):
            load_syncnet(tmp_path / name)


@pytest.mark.parametrize("row", GOLDEN_MFCC)
def test_mfcc_is_that_of_python_speech_features(row):
    np.testing.assert_allclose(mfcc(_golden_samples())[row], GOLDEN_MFCC[row], rtol=0, atol=2e-8)


def test_mfcc_has_a_row_every_ten_milliseconds_and_none_is_lost():
    rows = {1: 1, 400: 1, 401: 2, 560: 2, 561: 3, 640 * 25: 99}
    assert {samples: len(mfcc(np.zeros(samples, np.float32))) for samples in rows} == rows


def test_mfcc_refuses_what_is_not_mono_float_sound():
    for wrong in (np.zeros((2, 1000), np.float32), np.zeros(1000, np.int16), np.zeros(0, np.float32)):
        with pytest.raises(ValueError, match="mono sound"):
            mfcc(wrong)
    with pytest.raises(ValueError, match="finite"):
        mfcc(np.full(1000, np.nan))


def test_a_run_of_frames_gives_the_features_of_its_windows(network):
    frames, _ = _noise(7)
    features = video_features(network, frames)
    assert features.shape == (3, 1024)
    bgr = torch.from_numpy(frames[2:7, ..., ::-1].copy()).permute(3, 0, 1, 2)[None].float()
    torch.testing.assert_close(network.video(bgr)[0], features[2:], rtol=1e-4, atol=1e-5)


def test_sound_windows_start_a_frame_apart(network):
    _, waveform = _noise(12)
    features = audio_features(network, waveform)
    assert features.shape == (7, 1024)  # frames - 5: the MFCC of the last possible window are not all there
    window = torch.from_numpy(mfcc(waveform)[8:28].T.copy())[None, None].float()
    torch.testing.assert_close(network.audio(window)[0], features[2], rtol=1e-4, atol=1e-5)


def test_networks_in_training_are_refused():
    with pytest.raises(ValueError, match="eval"):
        video_features(SyncNet(), _noise(5)[0])


def test_distances_by_hand():
    video, audio = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    expected = [[0.0, 0.0, 10.0], [5.0, 5.0, 5.0]]  # sound window i - 1, i, i + 1; zeros past the ends
    distances = pairwise_distances(video, audio, max_shift=1)
    torch.testing.assert_close(distances, torch.tensor(expected), rtol=0, atol=1e-5)


def test_score_by_hand():
    distances = torch.tensor([[7.0, 4.0, 9.0, 1.0, 8.0], [9.0, 8.0, 7.0, 3.0, 6.0]])
    # Means 8, 6, 8, 2, 7: the smallest at shift +1, the median 7.
    assert score_of_distances(distances) == SyncScore(confidence=5.0, distance=2.0, offset_frames=1)


def test_tables_that_are_no_distances_are_refused():
    for wrong in (torch.zeros(3), torch.zeros(0, 5), torch.zeros(3, 4)):
        with pytest.raises(ValueError, match="windows x"):
            score_of_distances(wrong)
    with pytest.raises(ValueError, match="finite"):
        score_of_distances(torch.full((2, 3), torch.nan))
    with pytest.raises(ValueError, match="one shape"):
        pairwise_distances(torch.zeros(3, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_the_shift_of_the_features_is_found_with_its_sign(late):
    events = torch.from_numpy(np.random.default_rng(1).standard_normal((80, 8)).astype(np.float32))
    video, audio = events[10:70], events[10 - late : 70 - late]
    score = score_of_distances(pairwise_distances(video, audio, max_shift=6))
    assert score.offset_frames == late
    assert score.confidence > 2


class _FlashAndClap(SyncNet):
    """Sees how bright each frame is and hears how loud it is, instead of lips and speech."""

    def video(self, frames: Tensor) -> Tensor:
        bright = (frames.mean((1, 3, 4)) > 100).float()
        return bright.unfold(1, 5, 1)

    def audio(self, cepstra: Tensor) -> Tensor:
        loud = cepstra[:, 0, 0].unfold(1, 4, 4).amax(-1)
        return (loud > 0).float()


@pytest.mark.parametrize("late", [-3, 0, 2])
def test_a_clap_after_its_flash_is_late_sound(late):
    frames, waveform = np.zeros((40, FACE_PX, FACE_PX, 3), np.uint8), np.zeros(40 * SAMPLES_PER_FRAME)
    for flash in (12, 15, 23):
        frames[flash] = 255
        start = (flash + late) * SAMPLES_PER_FRAME
        # Within the frame, where no MFCC window of the frame before reaches.
        waveform[start + 300 : start + 600] = 0.1 * np.sin(np.arange(300))
    score = syncnet_score(_FlashAndClap().eval(), frames, waveform, max_shift=5)
    assert score.offset_frames == late
    assert score.distance < 0.1


def test_short_clips_are_scored_and_too_short_ones_say_what_is_needed(network):
    frames, waveform = _noise(8)
    score = syncnet_score(network, frames, waveform, max_shift=2)
    assert np.isfinite(score).all() and abs(score.offset_frames) <= 2 and score.confidence >= 0
    with pytest.raises(ValueError, match="8 frames with sound are too few.*at least 21 frames"):
        syncnet_score(network, frames, waveform)


def test_the_score_has_one_window_less_than_the_frames_have_room_for(network):
    frames, waveform = _noise(8)
    distances = pairwise_distances(
        video_features(network, frames)[:3], audio_features(network, waveform), max_shift=1
    )
    expected = score_of_distances(distances)
    assert syncnet_score(network, frames, waveform, max_shift=1) == pytest.approx(expected, abs=1e-5)


def test_picture_and_sound_that_do_not_belong_together_are_refused(network):
    frames, waveform = _noise(40)
    with pytest.raises(ValueError, match="differ in length"):
        syncnet_score(network, frames, waveform[: 34 * SAMPLES_PER_FRAME])
    for wrong in (frames[:, :200], frames.astype(np.float32), frames[:4]):
        with pytest.raises(ValueError, match="uint8 RGB"):
            syncnet_score(network, wrong, waveform)


def test_batches_are_bounded_and_their_seams_do_not_show(monkeypatch):
    network, sizes = _FlashAndClap().eval(), []
    video = network.video
    monkeypatch.setattr(network, "video", lambda frames: sizes.append(frames.shape[2]) or video(frames))
    frames = np.zeros((2 * VIDEO_BATCH + 9, FACE_PX, FACE_PX, 3), np.uint8)
    frames[::3] = 255
    features = video_features(network, frames)
    assert sizes == [VIDEO_BATCH + 4, VIDEO_BATCH + 4, 9]
    assert torch.equal(
        features, torch.from_numpy((frames[:, 0, 0, 0] > 0).astype(np.float32)).unfold(0, 5, 1)
    )


def _landmarks(centre: tuple[float, float], eye_to_chin_px: float) -> np.ndarray:
    """68 points of which only eyes and chin are in place; the box of the face has its centre there."""
    points = np.full((68, 2), 1e4)
    x, y = centre[0], centre[1] - BOX_CENTRE * eye_to_chin_px
    points[36:42], points[42:48] = (x - 0.3 * eye_to_chin_px, y), (x + 0.3 * eye_to_chin_px, y)
    points[8] = (x, y + eye_to_chin_px)
    return points


def test_boxes_follow_the_landmarks():
    points = np.stack([_landmarks((100, 80), 40), _landmarks((50, 60), 10)])
    centres, half_sides = face_boxes(points)
    np.testing.assert_allclose(centres, [[100, 80], [50, 60]])
    np.testing.assert_allclose(half_sides, [40 * BOX_HALF_SIDE, 10 * BOX_HALF_SIDE])


def test_the_crop_spans_the_box_and_its_margins():
    points = np.stack([_landmarks((200, 200), 100.5 / BOX_HALF_SIDE)] * 15)
    picture = np.zeros((400, 400, 3), np.uint8)
    picture[99:380, 59:340] = 200  # half sides of 100.5: one above, 1.8 below, 1.4 to both sides
    picture[240:250, 200:210] = (250, 20, 20)
    track = syncnet_crop([picture] * 15, points)
    assert track.shape == (15, FACE_PX, FACE_PX, 3) and track.dtype == np.uint8
    middle = track[7]
    assert (middle[[0, 0, -1, -1], [0, -1, 0, -1]] == 200).all()
    assert (middle == 200).mean() > 0.99
    red = np.argwhere((middle[..., 0] > 240) & (middle[..., 1] < 30))
    scale = FACE_PX / 281
    np.testing.assert_allclose(red.mean(0), [146 * scale - 0.5, 146 * scale - 0.5], atol=0.6)


def test_outside_the_picture_the_crop_is_grey():
    points = np.stack([_landmarks((10, 60), 50.5 / BOX_HALF_SIDE)] * 13)
    middle = syncnet_crop([np.full((120, 120, 3), 255, np.uint8)] * 13, points)[6]
    # 141 px across, 61 of them left of the picture and 30 below it.
    assert (middle[:, :95] == PAD_VALUE).all() and (middle[180:] == PAD_VALUE).all()
    assert (middle[:175, 100:] == 255).all()


def test_the_smoothing_is_a_median_of_thirteen():
    track = np.arange(20.0)[:, None]
    track[10] = 1000
    smooth = median_filter(track)[:, 0]
    np.testing.assert_array_equal(smooth[6:9], [6, 7, 8])
    assert smooth.max() < 20
    assert smooth[0] == 0 and smooth[-1] == 13  # beyond the ends scipy.signal.medfilt counts zeros
    assert (median_filter(np.full((5, 1), 7.0)) == 7).all()


def test_lost_faces_are_bridged_within_a_track_only():
    points = np.stack([_landmarks((100.0 + frame, 80), 40) for frame in range(40)])
    pictures = [np.random.default_rng(0).integers(0, 256, (160, 240, 3), dtype=np.uint8)] * 40
    whole = syncnet_crop(pictures, points)
    points[5:20] = np.nan
    np.testing.assert_array_equal(syncnet_crop(pictures, points), whole)
    points[20:35] = np.nan
    with pytest.raises(ValueError, match="lost for 30 frames"):
        syncnet_crop(pictures, points)
    with pytest.raises(ValueError, match="begin and end with a face"):
        syncnet_crop(pictures[5:], points[5:])


def test_crops_refuse_what_does_not_fit():
    picture, points = np.zeros((100, 100, 3), np.uint8), np.stack([_landmarks((50, 50), 20)] * 3)
    for num_pictures in (2, 4):
        with pytest.raises(ValueError, match="a picture for each"):
            syncnet_crop([picture] * num_pictures, points)
    with pytest.raises(ValueError, match=re.escape("landmarks f 68 2")):
        syncnet_crop([picture], points[0])
    with pytest.raises(ValueError, match="outside its 100x100 picture"):
        syncnet_crop([picture] * 3, points + 1000)
