"""One portrait, many sounds: a scene is opened once, from whatever holds the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from openloopy.face.landmarks import NetworkLandmarker
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline
from openloopy.models.rig_codec import Portrait
from tests.tiny import tiny_model, tiny_rig_model, tiny_sound

ASTRONAUT = data.astronaut()
SOUND = (tiny_sound(0.3), 16_000)
OPTIONS = GenerationOptions(seed=3, steps=1)


@pytest.fixture(scope="module")
def pipeline() -> LoopyPipeline:
    return LoopyPipeline(tiny_rig_model(), landmarker=NetworkLandmarker())


def frames(pipeline, portrait, sound=SOUND, **settings) -> np.ndarray:
    return np.stack(list(pipeline.generate(portrait, sound, options=OPTIONS, **settings)))


def test_paths_images_and_arrays_are_the_same_portrait(pipeline, tmp_path):
    path = tmp_path / "me.png"
    Image.fromarray(ASTRONAUT).save(path)
    wanted = frames(pipeline, path)
    for portrait in (str(path), Image.open(path), ASTRONAUT, torch.from_numpy(ASTRONAUT) / 255):
        assert np.array_equal(frames(pipeline, portrait), wanted)


def test_a_scene_is_as_good_as_its_portrait_and_is_searched_once(pipeline, monkeypatch):
    wanted = frames(pipeline, ASTRONAUT)
    scene = pipeline.open_scene(ASTRONAUT, options=OPTIONS)
    assert scene.size == (64, 64) and scene.chosen.num_faces == 1
    monkeypatch.setattr(NetworkLandmarker, "detect", lambda *args: pytest.fail("looked again"))
    assert np.array_equal(frames(pipeline, scene), wanted)
    assert np.array_equal(frames(pipeline, scene), wanted)


def test_the_whole_picture_is_a_frame_kind(pipeline):
    made = frames(pipeline, np.ascontiguousarray(ASTRONAUT[:, :400]), frame="full")
    assert made.shape[1:] == (512, 400, 3)


def test_what_contradicts_itself_is_refused(pipeline):
    scene = pipeline.open_scene(ASTRONAUT, options=OPTIONS)
    with pytest.raises(ValueError, match="this scene is drawn with 64 px, asked for were 96"):
        pipeline.generate(scene, SOUND, options=GenerationOptions(size_px=96))
    with pytest.raises(ValueError, match="frame must be one of crop, full, got 'half'"):
        pipeline.generate(ASTRONAUT, SOUND, frame="half")
    with pytest.raises(ValueError, match="asked for face 2"):
        pipeline.generate(ASTRONAUT, SOUND, face=2)
    with pytest.raises(ValueError, match="the portrait: found no face"):
        pipeline.generate(np.full((200, 200, 3), 90, np.uint8), SOUND)
    with pytest.raises(ValueError, match="in px: found no face"):
        pipeline.open_scene(np.full((200, 200, 3), 90, np.uint8), name="in px")
    with pytest.raises(
        ValueError, match="crop it with face.crop.portrait_crop and apply_crop, or give the whole"
    ):
        LoopyPipeline(tiny_model()).generate(Portrait(ASTRONAUT), SOUND)
    with pytest.raises(ValueError, match="frame full needs a model whose portrait itself moves"):
        LoopyPipeline(tiny_model()).generate(ASTRONAUT, SOUND, frame="full")


def test_a_turned_picture_is_turned_and_said_so(pipeline):
    said, lying = [], np.rot90(ASTRONAUT)
    scene = pipeline.open_scene(lying, options=OPTIONS, say=said.append, name="a.jpg")
    upright = pipeline.open_scene(ASTRONAUT, options=OPTIONS)
    assert scene.chosen.quarter_turns == 3
    assert np.array_equal(scene.layout.portrait.rgb, upright.layout.portrait.rgb)
    assert said == ["a.jpg is turned by 90 degrees the other way, so that the face stands upright"]


def test_a_face_at_the_edge_is_warned_of_and_gets_no_streaks(pipeline):
    face = pipeline.open_scene(ASTRONAUT, options=OPTIONS).chosen.face
    left, top, right, bottom = np.round(face.box).astype(int)
    tight, said = ASTRONAUT[top:bottom, left:right], []
    layout = pipeline.open_scene(tight, options=OPTIONS, say=said.append).layout
    assert "ends so close to the face (left, top, right, bottom)" in said[0]
    assert max(layout.portrait.outside) < 0.1
    roomy = []
    pipeline.open_scene(ASTRONAUT, options=OPTIONS, say=roomy.append)
    assert roomy == []


def test_several_faces_are_said_aloud(pipeline):
    small = np.asarray(Image.fromarray(ASTRONAUT).resize((320, 320)))
    pair = np.full((520, 900, 3), 200, np.uint8)
    pair[:512, :512], pair[100:420, 560:880] = ASTRONAUT, small
    said = []
    scene = pipeline.open_scene(pair, options=OPTIONS, say=said.append)
    assert len(said) == 1 and "shows 2 faces: using the largest" in said[0]
    other = pipeline.open_scene(pair, options=OPTIONS, face=1, say=said.append)
    assert len(said) == 1
    assert other.layout.crop.x0 > scene.layout.crop.x0 + 200
