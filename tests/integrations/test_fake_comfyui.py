"""What stands in for ComfyUI in these tests takes nothing that ComfyUI itself does not take.

Needs ComfyUI: run it in its environment, with its folder on PYTHONPATH. Seen to pass with the version and commit that
`fake_comfyui` names.
"""

from __future__ import annotations

import importlib
import inspect

import pytest

from tests.integrations.fake_comfyui import FOLDER_PATHS, MODEL_MANAGEMENT, FakeComfyUI


def test_the_stand_in_takes_nothing_that_comfyui_does_not_take(tmp_path):
    real = pytest.importorskip("comfy_api.latest", reason="ComfyUI cannot be imported here")
    # Otherwise ComfyUI looks for a GPU when it is imported, and fails where there is none.
    importlib.import_module("comfy.cli_args").args.cpu = True
    management = importlib.import_module("comfy.model_management")
    paths = importlib.import_module("folder_paths")
    bar = importlib.import_module("comfy.utils").ProgressBar
    fake = FakeComfyUI(tmp_path)
    pairs = [(getattr(fake, name), getattr(management, name)) for name in MODEL_MANAGEMENT]
    pairs += [(getattr(fake, name), getattr(paths, name)) for name in FOLDER_PATHS]
    pairs += [(fake.ProgressBar, bar), (fake.ProgressBar.update_absolute, bar.update_absolute)]
    pairs += [(getattr(fake.ui, name), getattr(real.ui, name)) for name in vars(fake.ui)]
    pairs += [(fake.InputImpl.VideoFromFile, real.InputImpl.VideoFromFile)]
    pairs += [(getattr(fake.io, name), getattr(real.io, name)) for name in ("Schema", "NodeOutput")]
    kinds = ["Image", "Audio", "Video", "String", "Int", "Float", "Combo", "Boolean"]
    for kind in kinds:
        ours, theirs = getattr(fake.io, kind), getattr(real.io, kind)
        assert ours.Input.io_type == theirs.io_type
        pairs += [(ours.Input, theirs.Input), (ours.Output, theirs.Output)]
    for ours, theirs in pairs:
        assert inspect.signature(ours).parameters.keys() <= inspect.signature(theirs).parameters.keys(), ours
    assert real.io.FolderType.output.value == fake.io.FolderType.output.value
    assert issubclass(management.InterruptProcessingException, Exception)
    assert {"io", "ui", "InputImpl", "ComfyExtension"} <= set(vars(real))
