"""Help in a terminal of 80 columns: whole words, the real defaults, examples that the command line takes."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import typer.main

from openloopy.apps.cli import app, main
from openloopy.models.folder import EMBEDDED_MINI

COMMANDS = typer.main.get_command(app).commands
OWN_DEFAULTS = {
    "--steps": ("defaults", "steps"),
    "--audio-guidance": ("defaults", "audio_guidance"),
    "--reference-guidance": ("defaults", "reference_guidance"),
    "--temperature": ("defaults", "temperature"),
    "--size": ("size_px",),
}
"""Options of `generate` whose default is the model's, and where its config.json has it."""


@pytest.fixture
def help_of(monkeypatch, capsys):
    """What `openloopy COMMAND -h` prints, as lines."""
    monkeypatch.setenv("COLUMNS", "80")

    def read(*arguments: str) -> list[str]:
        with pytest.raises(SystemExit) as stop:
            main([*arguments])
        assert stop.value.code == 0
        return capsys.readouterr().out.splitlines()

    return read


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_lines_fit_and_no_word_is_broken_or_cut(name, help_of):
    lines = help_of(*filter(None, [name]), "-h")
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    printed = " ".join(" ".join(lines).split())
    command = COMMANDS[name] if name else None
    texts = [command.help, command.epilog] if command else [c.short_help for c in COMMANDS.values()]
    for parameter in command.params if command else ():
        texts.append(parameter.help)
        if choices := re.findall(rf"{max(parameter.opts, key=len)} (<\S+\|\S+>)", printed):
            assert choices[0].count("|") >= 1 and " " not in choices[0]
    for text in filter(None, texts):
        assert " ".join(text.replace("\b", " ").split()) in printed, text


@pytest.mark.parametrize("name", COMMANDS)
def test_both_ways_of_asking_give_the_same_and_examples_follow(name, help_of):
    assert help_of(name, "-h") == (lines := help_of(name, "--help"))
    start = next(number for number, line in enumerate(lines) if line.strip() in ("Example:", "Examples:"))
    examples = " ".join(lines[start + 1 :]).replace("\\ ", " ").split("openloopy ")[1:]
    assert examples
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    for example in examples:
        words = shlex.split(example.partition(" | ")[0])
        assert words[0] == name
        assert {word for word in words if word.startswith("-") and word != "-"} <= known, example


def test_defaults_of_the_embedded_model_are_those_of_its_folder(help_of):
    config = json.loads((EMBEDDED_MINI / "config.json").read_text())
    printed = " ".join(" ".join(help_of("generate", "-h")).split())
    told = dict(re.findall(r"(--[a-z-]+) [A-Z]+ [^\[]*\[mini: ([\d.]+)\]", printed))
    assert set(told) == set(OWN_DEFAULTS)
    for option, path in OWN_DEFAULTS.items():
        value = config
        for key in path:
            value = value[key]
        assert float(told[option]) == value, option


def test_every_option_says_what_it_is_for(help_of):
    for name, command in COMMANDS.items():
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help, (name, parameter.name)


def test_without_a_command_the_help_is_shown(help_of, capsys):
    with pytest.raises(SystemExit):
        main([])
    captured = capsys.readouterr()
    assert "Commands:" in captured.out + captured.err
