"""Complete named configurations in Python: `openloopy train RECIPE` runs one.

A recipe's name is `LINE.STEP`, such as `mini.codec`; `LINE` alone runs all its steps in order. `LINE-VARIANT` is the
line with one of the ablations of `recipes.ablations`, such as `ablation-single4.stage2`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openloopy.media.files import only_maker

LINES = ("mini", "tiny", "ablation")
SHARED_STEPS = ("stage1", "stage2")
"""Of LINES: several processes can share them, once one has made their cache."""
SD15_STEPS = ("features", "stage1", "stage2")
FACE_STEPS = ("mesh", "finder", "mask", "parts", "cover")
"""Of the recipe `face`, which learns from a bank (`openloopy label`), not from shards."""


def recipe_names() -> list[str]:
    """All names that `run_recipe` takes."""
    from openloopy.recipes.ablations import VARIANTS

    with_variants = [
        name for line in LINES for name in (line, *(f"{line}-{variant}" for variant in VARIANTS))
    ]
    lines = [
        n for name in with_variants for n in (name, *(f"{name}.{step}" for step in load_line(name).steps))
    ]
    others = {"sd15": SD15_STEPS, "face": FACE_STEPS}
    many = (n for name, steps in others.items() for n in (name, *(f"{name}.{s}" for s in steps)))
    return [*lines, *many, "sync"]


def load_line(name: str):
    """The configuration of a line or of a variant of it, such as `mini-single4` (`LineConfig`)."""
    from openloopy.recipes.ablation import ablation
    from openloopy.recipes.ablations import vary
    from openloopy.recipes.mini import mini
    from openloopy.recipes.tiny import tiny

    base, _, variant = name.partition("-")
    line = {"mini": mini, "tiny": tiny, "ablation": ablation}[base]()
    return vary(line, variant) if variant else line


def run_recipe(
    name: str,
    data: Path | Sequence[Path],
    run: Path,
    settings: Mapping[str, str] | None = None,
    start: Path | None = None,
) -> None:
    """Run a recipe on a corpus of shards; the same call resumes.

    Args:
        name: see `recipe_names`.
        data: folder or folders of shards (from `openloopy puppet` or `openloopy prepare`), and of speech (from
            `openloopy speech`), which only the audio encoder hears; for `face` one bank; for `sync` a puppet corpus,
            whose faces it takes, and shards of footage.
        run: the line's run folder; each step has a subfolder.
        start: a model folder to go on from, instead of from nothing; its stage 1 is not repeated. For `face` a folder
            of face networks.
        settings: overrides for a single step such as {"loop.num_steps": "2000"}; values are JSON.
    """
    from openloopy.puppet.speech_folder import INDEX_NAME as SPEECH_INDEX
    from openloopy.recipes.ablations import VARIANTS
    from openloopy.recipes.line import STEPS, Place, remember_start
    from openloopy.training.processes import is_distributed, is_main

    if name not in recipe_names():
        plain = ", ".join(known for known in recipe_names() if "-" not in known)
        raise ValueError(
            f"unknown recipe {name!r}; there are: {plain}; and variants of {', '.join(LINES)} such as "
            f"ablation-single4.stage2, with one of {', '.join(VARIANTS)}"
        )
    line_name, _, only = name.partition(".")
    folders = (Path(data),) if isinstance(data, (str, Path)) else tuple(Path(folder) for folder in data)
    can_share = only in SHARED_STEPS and line_name.partition("-")[0] in LINES
    if is_distributed() and line_name != "sd15" and not can_share:
        raise ValueError(
            f"{name} trains in one process; start it without torchrun (several can share "
            f"{' or '.join(SHARED_STEPS)} of {', '.join(LINES)}, by name)"
        )
    if line_name in ("face", "sync"):
        if line_name == "face" and len(folders) != 1:
            raise ValueError(f"the recipe face takes one bank as --data, got {len(folders)} folders")
        if line_name == "sync" and start is not None:
            raise ValueError("the recipe sync takes no --start")
        if line_name == "face":
            _run_face(only, folders[0], Path(run), settings or {}, start)
        else:
            _run_sync(folders, Path(run), settings or {})
        return
    speech = tuple(folder for folder in folders if (folder / SPEECH_INDEX).exists())
    place = Place(tuple(folder for folder in folders if folder not in speech), Path(run), start, speech)
    line, line_steps = _load_sd15() if line_name == "sd15" else (load_line(line_name), STEPS)
    if is_main():
        remember_start(place)
    if settings:
        if not only:
            raise ValueError(f"settings belong to one step; name it, for example {line_name}.stage1")
        line = overridden(line, only, settings)
    for step, run_step in line_steps.items():
        if only in ("", step) and (line_name == "sd15" or step in line.steps):
            if is_main():
                print(f"{line_name}.{step}")
            # Steps that do not build on one another may run side by side; the same one twice would spoil both.
            name = "-".join(filter(None, (getattr(line, "variant", ""), step)))
            with only_maker(place.run / name) if is_main() else contextlib.nullcontext():
                run_step(line, place)


def _load_sd15():
    from openloopy.recipes.sd15 import STEPS, sd15

    return sd15(), STEPS


def _run_face(only: str, bank: Path, run: Path, settings: Mapping[str, str], start: Path | None) -> None:
    from openloopy.recipes.face import face, train_face

    if settings and not only:
        raise ValueError("settings belong to one step; name it, for example face.mesh")
    config = overridden(face(), only, settings) if settings else face()
    train_face(config, bank, run, (only,) if only else FACE_STEPS, start)


def _run_sync(folders: tuple[Path, ...], run: Path, settings: Mapping[str, str]) -> None:
    from openloopy.recipes.sync import SyncLine, sync, train_sync

    line = overridden(SyncLine(sync=sync()), "sync", settings) if settings else SyncLine(sync=sync())
    train_sync(line.sync, folders, run)


def overridden(line: Any, step: str, settings: Mapping[str, str]) -> Any:
    """`line` with some settings of one step replaced; names and types are checked, unknown ones refused."""
    from openloopy.models.config_json import from_json_dict, to_json_dict

    values = to_json_dict(line)
    for key, text in settings.items():
        place, *path = values[step], *key.split(".")
        for part in path[:-1]:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or path[-1] not in place:
            raise ValueError(
                f"no setting {key!r} in step {step!r}; there are: {', '.join(_leaves(values[step]))}"
            )
        place[path[-1]] = value = _parsed(text)
        if path[-1] == "batch_size" and isinstance(value, int) and value < 1:
            raise ValueError(f"{key} must be at least 1, got {text}")
    return from_json_dict(type(line), values, place="recipe")


def _leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        names += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return names


def _parsed(text: str) -> Any:
    """JSON where it is JSON (numbers, lists, null), else the text itself.

    Raises:
        ValueError: a number that is not finite.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"expected a finite number, got {text}")
    return value
