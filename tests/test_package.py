"""What the package says of itself agrees: versions, extras, files and the container, wherever they are named."""

from __future__ import annotations

import ast
import glob
import json
import re
import sys
from pathlib import Path

import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import openloopy
from openloopy.apps.cli import app

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "openloopy"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()

NOT_IN_ALL = {"all", "dev", "iqa", "teacher"}
"""Itself, work on this repository, and what wants older packages than the rest."""
OTHER_NAMES = {
    "PIL": "pillow",
    "c2pa": "c2pa-python",
    "cv2": "opencv-python-headless",
    "pillow_jxl": "pillow-jxl-plugin",
    "scenedetect": "scenedetect-headless",
    "skimage": "scikit-image",
    "pydantic": "fastapi",
    "starlette": "fastapi",
}
"""What is imported by another name than it is installed by; FastAPI brings two that it is made of."""
UNLISTED = {"bitsandbytes"}
"""In place of torchao (extra `quant`), where somebody has it."""
INSTALLED = r"(?:\bopenloopy|['\"]\.)\[([a-z0-9,-]+)\]"
"""`pip install 'openloopy[puppet]'` and `-e '.[train,dev]'`."""
NAMED = r"\bextras?,? ((?:(?:, | and | or )?`[\w-]+`)+)|((?:`[\w-]+`(?:, | and | or )?)+) extras?\b"
"""The extras `voices` and `speech`; the `demo` extra."""
WITH_EXTRAS = (
    "*.md",
    "Dockerfile",
    "Makefile",
    "docs/*.md",
    "runs/*.sh",
    "benchmarks/**/*",
    "examples/*",
    "tests/**/*.py",
)


def extras_named(text: str) -> set[str]:
    """The extras that commands and sentences of a text ask for."""
    text = " ".join(text.split())
    found = {name for names in re.findall(INSTALLED, text) for name in names.split(",")}
    for groups in re.findall(NAMED, text):
        found |= set(re.findall(r"`([\w-]+)`", " ".join(groups)))
    return found


def requirements(names: set[str]) -> list[Requirement]:
    """What the package needs with these extras; not the package itself, of which some extras are made."""
    lines = [*PROJECT["dependencies"], *(line for name in sorted(names) for line in EXTRAS[name])]
    return [needed for needed in map(Requirement, lines) if needed.name != PROJECT["name"]]


def imported_packages(source: str) -> set[str]:
    """The packages of others that a source imports, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    return {module.split(".")[0] for module in modules} - sys.stdlib_module_names - {PROJECT["name"]}


def pins() -> dict[str, list[str]]:
    """The versions in constraints.txt; some packages have one for older Pythons too."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (specifier,) = pin.specifier
            assert specifier.operator == "==", line
            found.setdefault(canonicalize_name(pin.name), []).append(specifier.version)
    return found


def test_one_version():
    newest = re.search(r"^## (\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert PROJECT["version"] == openloopy.__version__ == newest[1]


def test_extras_that_code_and_documents_name_exist():
    paths = {path for pattern in WITH_EXTRAS for path in ROOT.glob(pattern) if path.is_file()}
    paths |= set(PACKAGE.rglob("*.py"))
    paths -= {Path(__file__)}
    texts = {path: path.read_text() for path in paths if path.suffix in ("", ".md", ".py", ".sh")}
    named = {path: extras_named(text) for path, text in texts.items()}
    assert {"teacher", "speech", "data", "ray", "demo", "dev"} <= set().union(*named.values())
    unknown = {str(path.relative_to(ROOT)): names - set(EXTRAS) for path, names in named.items()}
    assert not {path: names for path, names in unknown.items() if names}


def test_the_search_for_extras_sees_each_way_of_naming_them():
    assert extras_named("pip install 'openloopy[a,b]' -e '.[c]'") == {"a", "b", "c"}
    assert extras_named("the extra `a`; extras `b`, `c` and `d-e`; (needs the `f` extra)") == set("abcf") | {
        "d-e"
    }
    assert extras_named("items[0], an extra frame, [README](README.md), `x` is no extra") == set()


def test_all_is_every_extra_that_installs_with_the_others():
    wanted = [Requirement(line) for line in EXTRAS["all"]]
    assert {needed.name for needed in wanted} == {PROJECT["name"]}
    assert set().union(*(needed.extras for needed in wanted)) == set(EXTRAS) - NOT_IN_ALL


def test_pinned_versions_are_in_their_ranges():
    known = pins()
    for needed in requirements(set(EXTRAS) - {"teacher"}):
        for version in known.get(canonicalize_name(needed.name), []):
            assert needed.specifier.contains(version), f"constraints.txt: {version}; pyproject.toml: {needed}"


@pytest.mark.parametrize("text", [MAKEFILE, DOCKERFILE], ids=["Makefile", "Dockerfile"])
def test_what_is_installed_by_a_file_of_ours_is_pinned(text):
    extras = extras_named(text)
    assert extras, "it installs the package with extras"
    assert not {
        str(needed) for needed in requirements(extras) if canonicalize_name(needed.name) not in pins()
    }


def test_every_imported_package_is_required():
    imported = {module for path in PACKAGE.rglob("*.py") for module in imported_packages(path.read_text())}
    assert {"torch", "PIL", "ray"} <= imported
    required = {canonicalize_name(needed.name) for needed in requirements(set(EXTRAS))} | UNLISTED
    assert not {name for name in imported if canonicalize_name(OTHER_NAMES.get(name, name)) not in required}


def test_classifiers_name_the_pythons_that_are_supported():
    names = re.findall(
        r"^Programming Language :: Python :: 3\.(\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE
    )
    minors = [int(name) for name in names]
    first, last = minors[0], minors[-1]
    assert minors == list(range(first, last + 1))
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(f">=3.{first}")
    assert SETTINGS["tool"]["ruff"]["target-version"] == f"py3{first}"
    assert f"Python 3.{first} to 3.{last}" in README


def test_each_file_beside_the_code_is_packaged_and_each_pattern_finds_one():
    matched = set()
    for pattern in SETTINGS["tool"]["setuptools"]["package-data"][PROJECT["name"]]:
        # As setuptools reads it: `**` is files as well, which it is not yet for pathlib.
        files = {
            Path(name) for name in glob.glob(str(PACKAGE / pattern), recursive=True) if Path(name).is_file()
        }
        assert files, f"{pattern} matches no file of {PACKAGE}"
        matched |= files
    present = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert not {path for path in present - matched if path.suffix != ".py"}


def test_the_container_is_built_from_files_that_reach_it():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for name in line.split()
    }
    assert copied == let_through and "*" in ignore
    assert all((ROOT / name).exists() for name in copied)
    assert len(pins()["torch"]) == 1, "the Dockerfile takes the line `torch==` of constraints.txt"


def test_the_container_starts_the_service_and_asks_it_how_it_is():
    command = json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])
    assert json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)[1]) == list(
        PROJECT["scripts"]
    )
    parameters = typer.main.get_command(app).commands[command[0]].params
    options = {name: parameter for parameter in parameters for name in parameter.opts}
    assert {word for word in command if word.startswith("--")} <= set(options)
    port = options["--port"].default
    assert re.search(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)[1] == str(port)
    assert f"HTTPConnection('127.0.0.1', {port}," in DOCKERFILE and "'/healthz'" in DOCKERFILE
