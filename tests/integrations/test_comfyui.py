"""The ComfyUI nodes, run as ComfyUI runs them: found by their entry point, called by keyword with their schema's names.

ComfyUI itself is not needed: `fake_comfyui` stands in for it, and says which version and commit it stands for.
`test_fake_comfyui.py` compares the two where ComfyUI can be imported.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch
from skimage import data

import openloopy
from openloopy.apps.generate import AI_TAG, ModelChoice, Studio
from openloopy.apps.settings import VideoSettings
from openloopy.media.audio import AudioError
from openloopy.media.image import ImageError
from openloopy.media.mark import find_mark
from tests.integrations.fake_comfyui import (
    ComfyExtension,
    FakeComfyUI,
    InterruptProcessingException,
    WidgetInput,
)
from tests.media.sounds import speechlike

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
WORKFLOW = json.loads((FOLDER / "example_workflows" / "openloopy.json").read_text())
RATE_HZ, DURATION_S, NUM_FRAMES = 22_050, 0.52, 13
SIZE_PX = 128


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[tuple[FakeComfyUI, ModuleType]]:
    """A ComfyUI, and the nodes' module as it loads it: from the folder, under a name of its own."""
    fake, name = FakeComfyUI(tmp_path_factory.mktemp("comfyui")), "custom_nodes_openloopy"
    with pytest.MonkeyPatch.context() as patch:
        for module_name, module in fake.modules().items():
            patch.setitem(sys.modules, module_name, module)
        spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
        package = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, name, package)
        spec.loader.exec_module(package)
        patch.setitem(sys.modules, f"{name}.nodes", sys.modules[f"{name}.nodes"])
        yield fake, sys.modules[f"{name}.nodes"]


@pytest.fixture
def nodes(running) -> ModuleType:
    return running[1]


@pytest.fixture
def comfyui(running, tmp_path) -> FakeComfyUI:
    """With an empty output folder, nothing cancelled, and much memory."""
    fake = running[0]
    fake.output_folder, fake.device, fake.free_bytes = tmp_path, torch.device("cpu"), 2**40
    fake.cancelled_after, fake.progress = None, []
    return fake


@pytest.fixture(scope="module")
def portrait() -> torch.Tensor:
    """An IMAGE: `1 H W 3`."""
    return torch.from_numpy(data.astronaut())[None] / 255


@pytest.fixture(scope="module")
def audio() -> dict[str, Any]:
    """An AUDIO: stereo."""
    waveform = torch.from_numpy(speechlike(DURATION_S, RATE_HZ, channels=2))
    return {"waveform": waveform[None], "sample_rate": RATE_HZ}


def run(node: Any, portrait: Any, audio: Any, **widgets: Any) -> Any:
    """Call a node with its defaults, a small size, and what is given: by keyword, as ComfyUI does."""
    values = defaults(node) | {"size": SIZE_PX} | widgets
    assert values.keys() == defaults(node).keys(), "the editor has no such field"
    return node.execute(portrait=portrait, audio=audio, **values)


def defaults(node: Any) -> dict[str, Any]:
    """What a new node in the editor asks for."""
    inputs = node.define_schema().inputs
    return {entry.id: entry.default for entry in inputs if isinstance(entry, WidgetInput)}


def test_comfyui_finds_both_nodes(comfyui, nodes):
    extension = asyncio.run(sys.modules["custom_nodes_openloopy"].comfy_entrypoint())
    assert isinstance(extension, ComfyExtension)
    schemas = [node.define_schema() for node in asyncio.run(extension.get_node_list())]
    assert [schema.node_id for schema in schemas] == ["OpenLoopyTalkingPortrait", "OpenLoopyFrames"]
    assert [[output.io_type for output in schema.outputs] for schema in schemas] == [
        ["VIDEO", "AUDIO"],
        ["IMAGE", "AUDIO", "FLOAT"],
    ]
    for schema in schemas:
        names = [entry.id for entry in schema.inputs]
        assert names[:2] == ["portrait", "audio"] and len(set(names)) == len(names)
    assert schemas[0].is_output_node, "otherwise ComfyUI refuses a graph that ends here"


def test_video_lies_in_the_output_folder_tagged_and_marked(comfyui, nodes, portrait, audio):
    output = run(nodes.TalkingPortrait, portrait, audio, filename_prefix="clips/me_%width%", seed=3)
    video, passed = output.args
    path = comfyui.output_folder / "clips" / f"me_{SIZE_PX}_00001_.mp4"
    assert Path(video.file) == path and passed is audio
    assert output.ui.values == [{"filename": path.name, "subfolder": "clips", "type": "output"}]
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == AI_TAG
        assert sum(1 for _ in container.decode(video=0)) == NUM_FRAMES
        assert container.streams.audio[0].channels == 2
    assert find_mark(path).is_marked
    assert json.loads(path.with_suffix(".json").read_text())["settings"]["seed"] == 3


def test_the_next_video_has_the_next_name_and_the_portrait_is_kept(
    comfyui, nodes, portrait, audio, monkeypatch
):
    run(nodes.TalkingPortrait, portrait, audio)
    studio = nodes.studio_of(nodes.choice_of("mini"))
    monkeypatch.setattr(studio.pipeline, "open_scene", None)  # called again, it would fail
    run(nodes.TalkingPortrait, portrait, audio, seed=1)
    assert nodes.studio_of(nodes.choice_of(" mini ")) is studio
    names = sorted(path.name for path in (comfyui.output_folder / "video").glob("*.mp4"))
    assert names == ["OpenLoopy_00001_.mp4", "OpenLoopy_00002_.mp4"]


def test_progress_counts_every_frame_and_shows_some(comfyui, nodes, portrait, audio):
    run(nodes.TalkingPortrait, portrait, audio)
    assert [(value, total) for value, total, _ in comfyui.progress] == [
        (done, NUM_FRAMES) for done in range(1, NUM_FRAMES + 1)
    ]
    shown = {value: preview for value, _, preview in comfyui.progress if preview}
    assert sorted(shown) == [1, 1 + nodes.PREVIEW_EVERY_FRAMES]
    form, picture, _ = shown[1]
    assert form == "JPEG" and picture.size == (SIZE_PX, SIZE_PX) and np.asarray(picture).std() > 20


@pytest.mark.parametrize("name", ["TalkingPortrait", "Frames"])
def test_cancel_ends_it_between_two_frames_and_leaves_nothing(comfyui, nodes, portrait, audio, name):
    comfyui.cancelled_after = 3
    with pytest.raises(InterruptProcessingException):
        run(getattr(nodes, name), portrait, audio)
    assert len(comfyui.progress) == 3
    assert not [path for path in comfyui.output_folder.rglob("*") if path.is_file()]
    run(getattr(nodes, name), portrait, audio)
    assert len(comfyui.progress) == 3 + NUM_FRAMES, "the next run is a whole one"


def test_frames_are_those_of_the_python_interface(comfyui, nodes, portrait, audio):
    images, passed, fps = run(nodes.Frames, portrait, audio, seed=5, label=True).args
    settings = VideoSettings(seed=5, size=SIZE_PX, label=True)
    studio = Studio(ModelChoice(device="cpu"))
    scene = studio.scene(data.astronaut(), settings)
    expected = np.stack(list(studio.frames(scene, (audio["waveform"][0], RATE_HZ), settings)))
    assert images.dtype == torch.float32 and images.shape == (NUM_FRAMES, SIZE_PX, SIZE_PX, 3)
    np.testing.assert_array_equal(torch.round(images * 255).numpy(), expected)
    assert passed is audio and fps == 25.0


def test_frames_that_do_not_fit_into_memory_are_refused_before_work(comfyui, nodes, portrait, audio):
    comfyui.free_bytes = NUM_FRAMES * SIZE_PX**2 * 12 - 1
    with pytest.raises(ValueError, match=r"13 frames of 128x128 need 0\.0 GB .* talking portrait"):
        run(nodes.Frames, portrait, audio)
    assert not comfyui.progress
    comfyui.free_bytes += 1
    run(nodes.Frames, portrait, audio)


def test_fields_left_alone_leave_all_to_the_model(nodes):
    widgets = defaults(nodes.Frames)
    assert widgets.pop("model") == "mini"
    assert nodes.settings_of(**widgets) == VideoSettings()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"seed": 2**53 - 1}, {"seed": 2**53 - 1}),
        ({"size": 640}, {"size": 640}),
        ({"frame": "full"}, {"frame": "full"}),
        ({"face": 0}, {"face": 0}),
        ({"face": 2}, {"face": 2}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"temperature": -0.05}, {}),
        ({"audio_guidance": 0.0}, {"audio_guidance": 0.0}),
        ({"audio_guidance": 2.5}, {"audio_guidance": 2.5}),
        ({"steps": 8}, {"steps": 8}),
        ({"label": True}, {"label": True}),
    ],
)
def test_fields_mean_what_the_settings_of_that_name_mean(nodes, given, expected):
    widgets = defaults(nodes.Frames) | given
    del widgets["model"]
    assert nodes.settings_of(**widgets) == VideoSettings(**expected)


def test_several_pictures_or_sounds_are_refused(comfyui, nodes, portrait, audio):
    with pytest.raises(ImageError, match="a batch of 2 pictures; choose one with ImageFromBatch"):
        run(nodes.TalkingPortrait, portrait.repeat(2, 1, 1, 1), audio)
    with pytest.raises(AudioError, match="a batch of 3"):
        run(nodes.TalkingPortrait, portrait, audio | {"waveform": audio["waveform"].repeat(3, 1, 1)})
    with pytest.raises(AudioError, match="there is no sound"):
        run(nodes.TalkingPortrait, portrait, None)
    assert not list(comfyui.output_folder.iterdir())


def test_no_face_and_settings_that_exclude_each_other_are_said_in_words(comfyui, nodes, portrait, audio):
    with pytest.raises(ValueError, match="the portrait: found no face in the 512x512 picture"):
        run(nodes.TalkingPortrait, torch.full_like(portrait, 0.5), audio)
    with pytest.raises(ValueError, match="a size goes with frame crop"):
        run(nodes.TalkingPortrait, portrait, audio, frame="full")


def test_a_picture_that_overshoots_is_clipped(nodes, portrait):
    overshooting = torch.where(portrait == 1, 1.02, portrait)
    assert overshooting.max() > 1.01
    np.testing.assert_array_equal(nodes.one_picture(overshooting), nodes.one_picture(portrait))


def test_what_a_user_should_know_is_logged(nodes, caplog):
    nodes.say("the eyes are shut")
    assert caplog.messages == ["OpenLoopy: the eyes are shut"]


@pytest.mark.parametrize(("device", "expected"), [("cpu", "cpu"), ("cuda", "auto"), ("xpu", "auto")])
def test_a_gpu_that_comfyui_leaves_alone_is_left_alone(comfyui, nodes, device, expected):
    comfyui.device = torch.device(device)
    assert nodes.choice_of(" mini") == ModelChoice(model="mini", device=expected)


def test_the_example_workflow_fits_the_nodes(nodes):
    by_id = {node["id"]: node for node in WORKFLOW["nodes"]}
    (ours,) = (node for node in WORKFLOW["nodes"] if node["type"].startswith("OpenLoopy"))
    schema = nodes.TalkingPortrait.define_schema()
    assert ours["type"] == schema.node_id
    assert [entry["type"] for entry in ours["outputs"]] == [output.io_type for output in schema.outputs]
    assert [entry["name"] for entry in ours["inputs"]] == ["portrait", "audio"]
    fields = []
    for entry in (entry for entry in schema.inputs if isinstance(entry, WidgetInput)):
        fields += [entry.default, *["fixed"] * getattr(entry, "control_after_generate", False)]
    assert ours["widgets_values"] == fields
    for link, source, slot, target, socket, kind in WORKFLOW["links"]:
        assert link in by_id[source]["outputs"][slot]["links"]
        assert by_id[source]["outputs"][slot]["type"] == kind == by_id[target]["inputs"][socket]["type"]
        assert by_id[target]["inputs"][socket]["link"] == link


def test_the_registry_reads_what_is_true():
    settings = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert settings["project"]["version"] == openloopy.__version__
    assert settings["project"]["dependencies"] == (FOLDER / "requirements.txt").read_text().split()
    assert settings["tool"]["comfy"].keys() >= {"PublisherId", "DisplayName"}
