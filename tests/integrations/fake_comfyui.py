"""A stand-in for the part of ComfyUI that the nodes call. It takes no parameter that ComfyUI does not take.

The real source: github.com/Comfy-Org/ComfyUI, version 0.3.64, commit a125cd84b054a57729b5eecab930ca9408719832, in
`comfy_api/latest/_io.py`, `_ui.py` and `_input_impl/video_types.py`, `comfy/utils.py`, `comfy/model_management.py` and
`folder_paths.py`. `test_fake_comfyui.py` compares the two where ComfyUI can be imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


@dataclass(kw_only=True)
class Input:
    """A socket: IMAGE, AUDIO."""

    id: str = field(kw_only=False)
    tooltip: str | None = None


@dataclass(kw_only=True)
class WidgetInput(Input):
    """What the editor has a field for."""

    default: Any


@dataclass(kw_only=True)
class NumberInput(WidgetInput):
    """A float."""

    min: float
    max: float
    step: float | None = None


@dataclass(kw_only=True)
class IntInput(NumberInput):
    """A whole number; a seed has a second field, for what becomes of it after the run."""

    control_after_generate: bool = False


@dataclass(kw_only=True)
class ComboInput(WidgetInput):
    """One of several."""

    options: list[str]


@dataclass(kw_only=True)
class Output:
    """A socket on the other side."""

    display_name: str | None = None
    tooltip: str | None = None


@dataclass(kw_only=True)
class Schema:
    """What a node says of itself."""

    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list[Input]
    outputs: list[Output]
    is_output_node: bool = False


class NodeOutput:
    """What a node gives."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class FolderType(str, Enum):
    """Where the editor looks for a file."""

    output = "output"


class SavedResult(dict):
    """How the editor finds a file."""

    def __init__(self, filename: str, subfolder: str, type: FolderType) -> None:
        super().__init__(filename=filename, subfolder=subfolder, type=type.value)


@dataclass
class PreviewVideo:
    """Files that the editor plays in the node."""

    values: list[SavedResult]


@dataclass
class VideoFromFile:
    """A VIDEO that lies in a file."""

    file: str


class InterruptProcessingException(Exception):
    """The user has pressed cancel."""


class ComfyNode:
    """Base of nodes."""


class ComfyExtension:
    """Base of what a custom node's folder gives."""


def _kind(name: str, takes: type[Input], gives: type[Output] = Output) -> SimpleNamespace:
    """One type of `io`: its input and output classes carry its name."""
    facts = {"io_type": name}
    return SimpleNamespace(Input=type(name, (takes,), facts), Output=type(name, (gives,), facts))


class FakeComfyUI:
    """The modules, by name, and what a test sets or reads."""

    def __init__(self, output_folder: Path) -> None:
        self.output_folder = output_folder
        self.device, self.free_bytes = torch.device("cpu"), 2**40
        self.cancelled_after: int | None = None
        """Frames of progress after which the user presses cancel."""
        self.progress: list[tuple[int, int, Any]] = []
        """Value, total and preview of each report."""
        fake = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
                fake.progress.append((value, total or self.total, preview))

        self.ProgressBar = ProgressBar
        self.io = SimpleNamespace(
            **{"ComfyNode": ComfyNode, "Schema": Schema, "NodeOutput": NodeOutput, "FolderType": FolderType},
            **{"Input": Input, "Image": _kind("IMAGE", Input), "Audio": _kind("AUDIO", Input)},
            **{"Video": _kind("VIDEO", Input), "String": _kind("STRING", WidgetInput)},
            **{"Int": _kind("INT", IntInput), "Float": _kind("FLOAT", NumberInput)},
            **{"Combo": _kind("COMBO", ComboInput), "Boolean": _kind("BOOLEAN", WidgetInput)},
        )
        self.ui = SimpleNamespace(PreviewVideo=PreviewVideo, SavedResult=SavedResult)
        self.InputImpl = SimpleNamespace(VideoFromFile=VideoFromFile)

    def modules(self) -> dict[str, ModuleType]:
        """For `sys.modules`."""
        latest = dict(ComfyExtension=ComfyExtension, InputImpl=self.InputImpl, io=self.io, ui=self.ui)
        contents = {
            "comfy": {},
            "comfy.model_management": {name: getattr(self, name) for name in MODEL_MANAGEMENT},
            "comfy.utils": {"ProgressBar": self.ProgressBar},
            "comfy_api": {},
            "comfy_api.latest": latest,
            "folder_paths": {name: getattr(self, name) for name in FOLDER_PATHS},
        }
        made = {name: ModuleType(name) for name in contents}
        for name, content in contents.items():
            vars(made[name]).update(content)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(made[parent], child, made[name])
        return made

    def throw_exception_if_processing_interrupted(self) -> None:
        if self.cancelled_after is not None and len(self.progress) >= self.cancelled_after:
            self.cancelled_after = None
            raise InterruptProcessingException

    def get_torch_device(self) -> torch.device:
        return self.device

    def get_free_memory(self, dev: torch.device) -> int:
        assert dev == torch.device("cpu"), "IMAGEs lie in main memory"
        return self.free_bytes

    def get_output_directory(self) -> str:
        return str(self.output_folder)

    def get_save_image_path(
        self, filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
    ) -> tuple[str, str, int, str, str]:
        """Folder, name, the number after the last one there, folder below the output folder, prefix."""
        prefix = filename_prefix.replace("%width%", str(image_width)).replace("%height%", str(image_height))
        subfolder, name = str(Path(prefix).parent), Path(prefix).name
        folder = Path(output_dir) / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem.removeprefix(f"{name}_").split("_")[0]) for path in folder.glob(f"{name}_*")]
        return str(folder), name, max(numbers, default=0) + 1, subfolder, prefix


MODEL_MANAGEMENT = ("throw_exception_if_processing_interrupted", "get_torch_device", "get_free_memory")
FOLDER_PATHS = ("get_output_directory", "get_save_image_path")
