"""The paper map names real code: every `file::name` of docs/paper_map.md exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPER_MAP = ROOT / "docs" / "paper_map.md"
PACKAGE = ROOT / "src" / "openloopy"
MENTION = re.compile(r"`([\w/]+\.py)::([\w.]+)`")


def mentions() -> list[tuple[str, str]]:
    return sorted(set(MENTION.findall(PAPER_MAP.read_text("utf-8"))))


def names_in(path: Path) -> set[str]:
    """Functions, classes and constants of a file; methods and fields as `Class.name`."""
    tree = ast.parse(path.read_text("utf-8"))
    found = set(_names(tree.body))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for name in _names(node.body)}
    return found


def _names(body: list[ast.stmt]) -> list[str]:
    found = []
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.append(node.name)
        elif isinstance(node, ast.AnnAssign):
            found.append(node.target.id)
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return found


def test_the_map_mentions_code():
    assert len(mentions()) > 60


@pytest.mark.parametrize(("file", "name"), mentions())
def test_named_code_exists(file, name):
    assert name in names_in(PACKAGE / file)


def test_every_room_of_the_model_is_on_the_map():
    """A model file that no row mentions is either not the paper's (listed here) or was forgotten."""
    not_the_papers = {
        "__init__",
        "config_json",
        "weight_files",
        "folder",
        "foreign_files",
        "recompute",
        "initial",
    }
    files = {path.stem for path in (PACKAGE / "models").glob("*.py")} - not_the_papers
    mapped = {Path(file).stem for file, _ in mentions() if file.startswith("models/")}
    assert files <= mapped
