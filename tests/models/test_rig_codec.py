"""Face states as latents, and pictures that are the portrait, moved. On a drawn face, whose mesh is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openloopy.face.crop import NoFaceError
from openloopy.models.rig_codec import (
    HEAD,
    MAX_DEVIATION,
    SHAPE_NAMES,
    SHAPE_SLOTS,
    Portrait,
    PreparedRig,
    RigCodec,
    about_middle,
    person_shape,
)
from openloopy.puppet.drawn import draw_face
from openloopy.rig.state import HIGH, INDEX, LOW, NAMES, PARTS, TOKEN_WIDTH

SIZE_PX = 64


def measured_codec() -> RigCodec:
    """With a mean and scale that differ from value to value; a drawn face is within their range."""
    codec = RigCodec(SIZE_PX)
    generator = torch.Generator().manual_seed(0)
    spread = {"state": torch.from_numpy(0.2 * (HIGH - LOW)), "shape": torch.ones(len(SHAPE_NAMES))}
    for name, buffer in codec.named_buffers():
        drawn = torch.rand(buffer.shape, generator=generator) + (0.5 if name.endswith("scale") else -0.5)
        buffer.copy_(drawn * spread[name.split("_")[0]])
    return codec


def random_states(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(LOW, HIGH, (count, len(NAMES))).astype(np.float32)


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    face = draw_face(np.random.default_rng(5), size_px=192)
    return Portrait(face.rgb, face.mesh)


@pytest.fixture(scope="module")
def prepared(portrait) -> PreparedRig:
    return measured_codec().prepare(portrait, SIZE_PX)


def test_states_come_back_and_the_person_does_not_show_in_them():
    codec, states = measured_codec(), random_states(7)
    latents = codec.encode_states(states, np.array([0.1, 0.2, 0.3, 0.4]))
    assert latents.shape == (7, *RigCodec.latent_shape) and latents.dtype == np.float32
    np.testing.assert_allclose(codec.decode_states(torch.from_numpy(latents)), states, atol=2e-5)
    other = codec.encode_states(states, np.zeros(4))
    assert not np.array_equal(latents, other)
    assert np.array_equal(*(codec.decode_states(torch.from_numpy(each)) for each in (latents, other)))


def test_latents_are_states_in_standard_deviations():
    codec = measured_codec()
    mean, scale = (getattr(codec, f"state_{name}").numpy() for name in ("mean", "scale"))
    latents = codec.encode_states((mean + 2 * scale)[None], codec.shape_mean.numpy())
    used = np.zeros((TOKEN_WIDTH, 1, len(PARTS)), bool)
    for token, part in enumerate(PARTS.values()):
        used[: len(part), 0, token] = True
    np.testing.assert_allclose(latents[0][used], 2, atol=1e-5)
    np.testing.assert_allclose(latents[0][~used], 0, atol=1e-6)


def test_each_value_of_the_shape_has_a_free_slot_and_is_kept_near_the_training_data():
    codec = measured_codec()
    assert len(SHAPE_SLOTS) == len(SHAPE_NAMES) == len(set(SHAPE_SLOTS))
    mean, scale = codec.shape_mean.numpy(), codec.shape_scale.numpy()
    for number, (slot, token) in enumerate(SHAPE_SLOTS):
        assert slot >= len(list(PARTS.values())[token])
        for deviation, shown in ((1.5, 1.5), (100, MAX_DEVIATION), (-100, -MAX_DEVIATION)):
            latents = codec.encode_states(random_states(2), mean + deviation * scale * np.eye(4)[number])
            values = [latents[1, s, 0, t] for s, t in SHAPE_SLOTS]
            assert values == pytest.approx(list(shown * np.eye(4)[number]), abs=1e-5)


def test_a_person_s_shape_is_the_same_at_any_size_and_place_and_with_open_lips():
    points = np.random.default_rng(0).uniform(0, 100, (3, 68, 2))
    shape = person_shape(points)
    np.testing.assert_allclose(person_shape(2.5 * points + [30, -7]), shape)
    wide = points.copy()
    wide[:, 16] += 3 * (points[:, 16] - points[:, 0])  # four times as wide a face
    np.testing.assert_allclose(person_shape(wide), shape * [4, 1, 1, 1])
    mouth = np.zeros((1, 68, 2))
    mouth[0, [36, 45, 48, 54, 27, 8, 33, 16]] = np.random.default_rng(1).uniform(0, 100, (8, 2))
    mouth[0, [51, 62, 66, 57], 1] = (50, 54, 54, 60)
    shut = person_shape(mouth)
    mouth[0, [66, 57], 1] += 20  # the lower lip sinks; the lips are as thick as before
    np.testing.assert_allclose(person_shape(mouth), shut)


def test_the_head_is_where_it_is_on_average_and_nothing_else_is():
    states = random_states(9)
    moved = about_middle(states)
    np.testing.assert_allclose(moved[:, HEAD].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.diff(moved, axis=0), np.diff(states, axis=0), atol=1e-5)
    others = [i for i in range(len(NAMES)) if i not in HEAD]
    assert np.array_equal(moved[:, others], states[:, others])
    assert not np.array_equal(states[:, HEAD], moved[:, HEAD])  # a copy


def test_a_portrait_s_reference_is_its_own_state_with_the_head_in_the_middle(prepared):
    codec = measured_codec()
    assert prepared.latents.shape == (1, *RigCodec.latent_shape) and prepared.latents.dtype == torch.float32
    assert prepared.notes == prepared.rig.notes
    states = codec.decode_states(prepared.latents)[0]
    own = np.array([prepared.rig.own[name] for name in NAMES])
    own[HEAD] = 0
    np.testing.assert_allclose(states, own, atol=1e-4)
    shape = [prepared.latents[0, slot, 0, token].item() for slot, token in SHAPE_SLOTS]
    wanted = (person_shape(prepared.rig.neutral_points68[None]) - codec.shape_mean.numpy()) / (
        codec.shape_scale.numpy()
    )
    np.testing.assert_allclose(shape, wanted.clip(-MAX_DEVIATION, MAX_DEVIATION), atol=1e-4)


def test_a_portrait_unlike_all_training_data_is_shown_as_the_nearest_that_is_like_it(portrait):
    codec = RigCodec(SIZE_PX)
    codec.state_mean.fill_(3.0)
    codec.state_scale.fill_(0.1)  # all faces of the training data have about 3 everywhere, no portrait has
    latents = codec.prepare(portrait, SIZE_PX).latents
    for token, part in enumerate(PARTS.values()):
        assert latents[0, : len(part), 0, token].abs().max() <= MAX_DEVIATION + 1e-4
        assert (latents[0, : len(part), 0, token] < 0).all()


def test_without_a_face_there_is_no_rig():
    with pytest.raises(NoFaceError):
        RigCodec().prepare(Portrait(np.full((64, 64, 3), 127, np.uint8)), SIZE_PX)


def test_the_portrait_s_own_latents_give_its_picture_back(portrait, prepared):
    codec = measured_codec()
    (frame,) = codec.decode([prepared.latents], prepared, 1)
    own = prepared.rig.render(prepared.rig.own, SIZE_PX)
    assert frame.shape == (SIZE_PX, SIZE_PX, 3) and frame.dtype == np.uint8
    assert np.abs(frame.astype(int) - own).max() <= 1
    shown = portrait.rgb.reshape(SIZE_PX, 3, SIZE_PX, 3, 3).mean((1, 3))
    assert np.abs(frame - shown).mean() < 4


@pytest.mark.parametrize("size_px", [64, 90])
def test_pictures_have_the_size_asked_for_and_are_the_rig_s(portrait, size_px):
    codec = measured_codec()
    prepared = codec.prepare(portrait, size_px)
    frames = list(codec.decode([prepared.latents.repeat(2, 1, 1, 1)], prepared, 4))
    assert [frame.shape for frame in frames] == [(size_px, size_px, 3)] * 2
    assert codec.source_px(size_px) == round(1.5 * size_px)


def test_frames_do_not_depend_on_the_clips_they_come_in(prepared):
    codec = measured_codec()
    states = codec.decode_states(prepared.latents).repeat(5, 0)
    states[:, INDEX["jaw"]] = np.linspace(0, 1, 5)
    states[:, INDEX["yaw"]] = np.linspace(-8, 8, 5)
    latents = torch.from_numpy(codec.encode_states(states, np.zeros(4)))
    one, three = (list(codec.decode(clips, prepared, 4)) for clips in ([latents], latents.split(2)))
    assert len(one) == 5 and all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))
    assert all(np.abs(a.astype(int) - b).mean() > 0.3 for a, b in zip(one, one[1:], strict=False))
    # Asked for in another order, each state gives the same picture.
    backwards = list(codec.decode([latents.flip(0)], prepared, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, backwards[::-1], strict=True))


def test_the_head_moves_about_the_portrait_s_own_pose(prepared):
    """A pose of zero is the portrait's, not a head that looks ahead."""
    codec, rig = measured_codec(), prepared.rig
    states = codec.decode_states(prepared.latents)
    states[:, INDEX["yaw"]] = 6.0
    (frame,) = codec.decode([torch.from_numpy(codec.encode_states(states, np.zeros(4)))], prepared, 1)
    wanted = rig.render({**rig.own, "yaw": rig.own["yaw"] + 6.0}, SIZE_PX)
    assert np.abs(frame.astype(int) - wanted).max() <= 1
