"""Rooms import one way, as the table of docs/architecture.md says; nobody imports `apps`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "openloopy"

MAY_IMPORT = {
    "media": set(),
    "diffusion": set(),
    "face": {"media"},
    "rig": {"media", "face"},
    "models": {"diffusion", "rig"},
    "measures": {"media", "face"},
    "data": {"media", "face", "rig", "measures"},
    "puppet": {"media", "face", "rig", "data"},
    "inference": {"models", "diffusion", "media", "face", "rig"},
    "training": {"models", "diffusion", "media", "data", "face", "measures"},
}
MAY_IMPORT["recipes"] = set(MAY_IMPORT)
MAY_IMPORT["apps"] = set(MAY_IMPORT)


def imported_modules(source: str) -> set[str]:
    """Full names of all modules that the source imports, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the full name"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def rooms_of(modules: set[str]) -> set[str]:
    """The rooms that module names such as "openloopy.media.audio" belong to."""
    parts = [module.split(".") for module in modules]
    return {part[1] for part in parts if part[0] == "openloopy" and len(part) > 1 and part[1] in MAY_IMPORT}


def test_every_folder_is_a_known_room():
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    allowed = MAY_IMPORT[room] | {room}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        forbidden = rooms_of(imported_modules(path.read_text())) - allowed
        assert not forbidden, (
            f"{path.relative_to(PACKAGE)} imports {sorted(forbidden)}, may only {sorted(allowed)}"
        )


def test_diffusion_needs_torch_alone():
    allowed = {"torch", "openloopy", "__future__", "dataclasses", "math", "typing", "collections"}
    for path in (PACKAGE / "diffusion").glob("*.py"):
        tops = {module.split(".")[0] for module in imported_modules(path.read_text())}
        assert tops <= allowed, f"{path.name} imports {sorted(tops - allowed)}"


def test_the_table_has_no_way_back():
    remaining = dict(MAY_IMPORT)
    while remaining:
        free = {room for room, needed in remaining.items() if not needed & set(remaining) - {room}}
        assert free, f"rooms import in a circle: {sorted(remaining)}"
        remaining = {room: needed for room, needed in remaining.items() if room not in free}


def test_the_check_sees_imports_inside_functions_and_of_rooms():
    source = "def f():\n    from openloopy.models import unet\nfrom openloopy import training\n"
    assert rooms_of(imported_modules(source)) == {"models", "training"}
