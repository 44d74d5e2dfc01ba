"""The README tells the truth: its commands exist, its links lead somewhere, its Python imports work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from PIL import Image
from skimage import data

from openloopy.apps.cli import app
from openloopy.media.video import probe_video
from openloopy.recipes import recipe_names
from tests.media.sounds import speechlike, write_sound

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
FIRST_COMMANDS_BEFORE_LINE = 25


def blocks(*languages: str) -> list[str]:
    """The fenced code blocks marked with one of these languages; "" for no mark."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in fenced if language in languages]


def shell_lines() -> list[list[str]]:
    """The commands in the README's shell blocks as words; without comments, continued lines joined, pipes apart."""
    text = "\n".join(blocks("", "bash", "sh")).replace("\\\n", " ")
    parts = (part for line in text.splitlines() for part in re.split(r" (?:\||&&) ", line))
    lines = (shlex.split(part, comments=True) for part in parts)
    return [line for line in lines if line]


def test_both_set_up_commands_come_first():
    head = README.splitlines()[: FIRST_COMMANDS_BEFORE_LINE - 1]
    for command in ("make demo", "make test"):
        assert any(line.strip().startswith(command) for line in head), command


def test_make_targets_exist():
    targets = {line[1] for line in shell_lines() if line[0] == "make"}
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE), target


def test_openloopy_commands_and_their_options_exist():
    commands = typer.main.get_command(app).commands
    lines = [line for line in shell_lines() if line[0] == "openloopy" and not line[1].startswith("-")]
    assert {"generate", "puppet", "train"} <= {line[1] for line in lines}
    for line in lines:
        assert line[1] in commands, line
        known = {name for parameter in commands[line[1]].params for name in parameter.opts}
        options = {word.split("=")[0] for word in line[2:] if re.match(r"--?[a-z]", word)}
        assert options - {"--help"} <= known, f"{' '.join(line)}: unknown {sorted(options - known)}"


def test_recipes_exist():
    recipes = {line[2] for line in shell_lines() if line[:2] == ["openloopy", "train"]}
    assert recipes and recipes <= set(recipe_names())


def test_links_pictures_and_named_files_lead_somewhere():
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", README) + re.findall(r'src="([^"]+)"', README)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    local += re.findall(r"`((?:docs|runs|benchmarks)/[\w./]+\.\w+|[A-Z]+\.md)`", README)
    assert len(local) > 3, "the README has a picture and points to the docs"
    assert not [target for target in local if not (ROOT / target).exists()]


def test_the_first_line_is_a_title_and_there_is_a_picture():
    assert README.startswith("# ") and re.search(r"!\[.*\]\(|<img ", README)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs_as_pasted(block, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENLOOPY_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()).save("me.jpg")
    write_sound(Path("speech.mp3"), speechlike(0.6, 16_000), 16_000, "mp3")
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    if "out.mp4" in block:
        assert probe_video("out.mp4").num_frames >= 14
    else:
        assert names["frame"].shape == (768, 768, 3)


def test_there_is_python_to_paste():
    assert len(blocks("python")) == 2
