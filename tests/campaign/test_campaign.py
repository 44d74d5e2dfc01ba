"""The campaign's own tools: what they make is the same each time, and what goes wrong they notice."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import time
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("psutil", reason="the extra `dev` is not installed")

from tests.campaign import fuzz, guided, hour, kill
from tests.campaign.alike import Likeness, differences, value_differences
from tests.campaign.case import Case
from tests.campaign.damage import damaged
from tests.campaign.damage_text import damaged_json, damaged_lines, damaged_table
from tests.campaign.ledger import FILES, Ledger
from tests.campaign.material import Material
from tests.campaign.media import film, picture, sound, write_face, write_speech
from tests.campaign.packets import remuxed
from tests.campaign.scenarios import SCENARIOS
from tests.campaign.spoil import spoil_one_of, spoiled
from tests.campaign.structure import parts_of, sealed
from tests.campaign.targets import TARGETS, case_of
from tests.campaign.warm import Limits, Warm, judged
from tests.campaign.whole import flaws, leftovers, snapshot

QUICK = ("picture-read", "sound-read", "table", "command-line")
"""Targets that need no good folders but a portrait and a sound; the fixed cases of these run in the default suite."""
NUM_QUICK = 3
SEED = 7


def png(width: int = 4) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"xy") + chunk(b"IEND", b"")


def test_the_parts_of_a_file_are_found():
    found = parts_of(png())
    assert [png()[a + 4 : a + 8] for a, _ in found] == [b"IHDR", b"IDAT", b"IEND"]
    box = struct.pack(">I4s", 8, b"free")
    moov = struct.pack(">I4s", 16, b"moov") + box
    assert parts_of(struct.pack(">I4s", 8, b"ftyp") + moov) == [(0, 8), (8, 24), (16, 24)]
    riff = b"RIFF\x14\0\0\0WAVEfmt \2\0\0\0abdata\0\0\0\0"
    assert parts_of(riff) == [(12, 22), (22, 30)]
    assert len(parts_of(b"anything at all")) > 1


def test_checksums_are_made_good():
    spoilt = png()[:-5] + b"?" + png()[-4:]
    assert sealed(png()) == png() and sealed(spoilt)[-4:] != spoilt[-4:]


def test_every_way_of_making_worse_follows_from_its_generator():
    data, text = png(), json.dumps({"a": [1, {"b": None}], "c": "d"})
    for make in (
        lambda rng: damaged(data, rng, 3),
        lambda rng: damaged_json(text, rng),
        lambda rng: damaged_lines(f"{text}\n{text}", rng),
        lambda rng: damaged_table("a,b\n1,2\n", rng),
        lambda rng: picture(rng)[1],
    ):
        made = [make(random.Random(i)) for i in range(30)]
        assert made == [make(random.Random(i)) for i in range(30)]
        assert len(set(made)) > 10 and all(isinstance(each, bytes) for each in made)


def test_sounds_and_films_are_made_in_many_forms(tmp_path):
    suffixes = set()
    for i in range(8):
        rng = random.Random(i)
        for make in (sound, film):
            path = make(rng, tmp_path)
            suffixes.add(path.suffix)
            try:
                remuxed(path, tmp_path / f"copy{path.suffix}", rng)
            except (ValueError, OSError, LookupError):
                continue
    assert len(suffixes) > 5


def test_files_of_every_kind_are_spoiled_as_what_they_are(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    np.savez(tmp_path / "a.npz", one=array, two=array)
    data = (tmp_path / "a.npz").read_bytes()
    assert len({spoiled(".npz", data, random.Random(i)) for i in range(20)}) > 8
    weights = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(weights).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    assert len({spoiled(".safetensors", data, random.Random(i)) for i in range(20)}) > 8
    before = snapshot(tmp_path)
    assert any(spoil_one_of(tmp_path, random.Random(i)) or snapshot(tmp_path) != before for i in range(5))


def test_files_that_are_not_whole_are_seen(tmp_path):
    good = {"a.json": b"{}", "b.jsonl": b"{}\n[]\n", "c.csv": b"a,b\n1,2\n", "e.html": b"<html></html>"}
    bad = {"a.json": b'{"a": NaN}', "b.jsonl": b"{}\n[", "c.csv": b"a,b\n1\n", "e.html": b"<html>"}
    write_face(tmp_path / "d.png")
    for name, data in good.items():
        (tmp_path / name).write_bytes(data)
    assert list(flaws(tmp_path, [*good, "d.png"])) == []
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        assert len(list(flaws(tmp_path, [name]))) == 1, name
    names = [".a.partial.mp4", "x/.work-1/a", "b.new", "c.tmp", ".hidden/a", ".lock", ".a.lock", "a.mp4"]
    assert leftovers(names) == names[:5]


@pytest.mark.parametrize("depth", [900, 100_000])
def test_json_of_any_depth_can_be_damaged(depth):
    text = "[" * depth + "]" * depth
    made = {damaged_json(text, random.Random(seed)) for seed in range(20)}
    assert len(made - {text.encode()}) > 5


def test_runs_are_compared_but_for_when_they_were(tmp_path):
    facts = {"created": "now", "numbers": [1.0, 2.0], "timings": {"a": 3}}
    assert not list(value_differences(facts, facts | {"created": "then", "timings": {}}))
    assert list(value_differences(facts, facts | {"numbers": [1.0, 2.001]})) == [
        ".numbers[1]: 2.001, expected 2.0"
    ]
    assert not list(value_differences(facts, facts | {"numbers": [1.0, 2.001]}, tolerance=0.01))
    for folder, text in (("one", b"x"), ("two", b"y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.bin").write_bytes(b"same")
        (tmp_path / folder / "other.bin").write_bytes(text)
        (tmp_path / folder / f"{folder}.log").write_bytes(text)
    (tmp_path / "one" / "gone.bin").touch()
    told = differences(tmp_path / "one", tmp_path / "two", Likeness(but=r"\.log$"))
    assert told == ["gone.bin is missing", "other.bin: 1 other bytes, expected 1"]


def test_checkpoints_are_compared_by_their_values(tmp_path):
    name = "".join(["a", "b"])
    same = ({name: [name, torch.ones(2)]}, {"ab": ["".join(["a", "b"]), torch.ones(2)]})
    for folder, value in zip(("one", "two", "three"), (*same, {"ab": ["ab", torch.zeros(2)]}), strict=True):
        (tmp_path / folder).mkdir()
        torch.save(value, tmp_path / folder / "checkpoint.pt")
    contents = [(tmp_path / folder / "checkpoint.pt").read_bytes() for folder in ("one", "two")]
    assert contents[0] != contents[1]
    assert differences(tmp_path / "one", tmp_path / "two") == []
    assert len(differences(tmp_path / "one", tmp_path / "three")) == 1


def test_a_ledger_goes_on_after_half_a_line(tmp_path):
    with Ledger(tmp_path, "x") as ledger:
        ledger.add({"case": 1})
    with open(tmp_path / "x" / "results.jsonl", "a") as lines:
        lines.write('{"case": 2')
    with Ledger(tmp_path, "x") as ledger:
        assert ledger.rows == [{"case": 1}]
        ledger.add({"case": 3})
        with pytest.raises(ValueError, match="another campaign"), Ledger(tmp_path, "x"):
            pass
    assert (tmp_path / "x" / "results.jsonl").read_text() == '{"case": 1}\n{"case": 3}\n'


def test_cases_follow_from_seed_target_and_number(tmp_path):
    def files_of(folder: Path) -> dict[str, bytes]:
        case = case_of("table", SEED, 4, folder, Material(tmp_path))
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} | {
            "": case.command
        }

    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_kills_are_drawn_of_every_kind():
    reference = kill.Reference(folder="", first_s=1.0, whole_s=2.0, edges=5)
    kills = [kill.drawn_kill(random.Random(i), reference) for i in range(60)]
    assert {each.whom for each in kills} == {"group", "parent"}
    assert any(each.edge for each in kills) and any(each.share < 0 for each in kills)
    assert all(1 <= int(each.edge.partition(":")[0]) <= 5 for each in kills if each.edge)
    assert all(0 <= kill._moment_s(each, reference) <= 2 for each in kills if not each.edge)


def test_the_hours_last_minute_is_its_first(tmp_path):
    config = hour.HourConfig(out=tmp_path, sounds=None, seconds=30, size_px=64)
    hour.write_speech(tmp_path / "a.wav", config)
    window = config.window_frames
    assert window == 240
    first, last = (hour._part(tmp_path / "a.wav", at, window) for at in (0, config.num_frames - window))
    assert np.array_equal(first, last) and len(first) == window * 640 and first.std() > 0.01
    assert np.prod(hour._part(tmp_path / "a.wav", 0, config.num_frames).shape) == 30 * 16_000


def test_memory_that_grows_is_seen():
    flat = [{"total_mb": 100.0 + i % 3} for i in range(100)]
    grown = [{"total_mb": 100.0 + 2 * i} for i in range(100)]
    assert all(finding.is_good for finding in hour.memory_findings(flat))
    assert [finding.is_good for finding in hour.memory_findings(grown)] == [False, True]


def test_each_parser_of_the_guided_fuzzer_takes_what_is_good(tmp_path):
    for name, parser in guided.parsers().items():
        (tmp_path / name).mkdir()
        path = tmp_path / name / parser.file
        for seed in parser.seeds(tmp_path / name):
            path.write_bytes(seed)
            parser.read(path)


def test_a_campaign_notices_what_goes_wrong(tmp_path):
    survived = [name for name in fuzz.CANARIES if name not in ("hang", "memory", "crash")]
    assert fuzz.check_canaries(tmp_path, survived) == []


@pytest.mark.nightly
@pytest.mark.slow
def test_a_campaign_notices_what_a_process_does_not_survive(tmp_path):
    assert fuzz.check_canaries(tmp_path) == []


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A portrait, a sound, and what the command lines of QUICK need besides."""
    folder = tmp_path_factory.mktemp("campaign") / "material"
    (folder / "inputs").mkdir(parents=True)
    write_face(folder / "inputs" / "face.png")
    write_speech(folder / "inputs" / "speech.wav")
    return folder


@pytest.mark.slow
def test_fixed_cases_end_well_or_in_words(tmp_path, material):
    with Warm(tmp_path / "worker", seed=SEED, material=material) as warm:
        outcomes = [warm.run_target(target, number) for target in QUICK[:3] for number in range(NUM_QUICK)]
    told = [(outcome.case and outcome.case.command, outcome.failures) for outcome in outcomes]
    assert not [each for each in told if each[1]], told
    assert {outcome.verdict for outcome in outcomes} <= {"good", "refused", "not made"}


@pytest.mark.nightly
@pytest.mark.slow
def test_every_target_ends_well_or_in_words(tmp_path):
    code = fuzz.main(["--out", str(tmp_path), "--seed", str(SEED), "--cases", str(4 * len(TARGETS))])
    assert code == 0, (tmp_path / "fuzz" / "summary.md").read_text()


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_command_goes_on_after_a_kill(tmp_path, name):
    code = kill.main(["--out", str(tmp_path), "--seed", str(SEED), "--only", name, "--count", "2"])
    assert code == 0, (tmp_path / "kill" / "summary.md").read_text()


@pytest.mark.nightly
@pytest.mark.slow
def test_half_a_minute_is_flat_exact_and_in_step(tmp_path):
    code = hour.main(["--out", str(tmp_path), "--seconds", "30", "--size", "256"])
    assert code == 0, (tmp_path / "hour" / "summary.md").read_text()


@pytest.mark.nightly
@pytest.mark.slow
def test_the_guided_fuzzer_finds_nothing(tmp_path):
    pytest.importorskip("atheris", reason=guided.NOT_INSTALLED)
    assert guided.main(["--out", str(tmp_path), "--minutes", "2"]) == 0


def test_a_kept_failure_can_be_replayed(tmp_path):
    case = Case(call="canary", arguments=("traceback",), inputs=("given",))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "given").write_bytes(b"one")
    with Ledger(tmp_path, fuzz.NAME) as ledger:
        folder = ledger.keep({"case": asdict(case)}, tmp_path / "files", {"command.txt": case.command})
    assert (folder / FILES / "given").read_bytes() == b"one"
    assert fuzz.replay(folder).failures == ["unexpected: KeyError in "]


def test_what_a_run_must_not_do_is_judged(tmp_path):
    from tests.campaign.warm import Outcome

    case = Case(arguments=("generate",), outputs=("out.mp4",), inputs=("in",))
    (tmp_path / "in").write_bytes(b"1")
    before = snapshot(tmp_path)

    def kinds(facts: dict, stderr: str = "error: x", because: str = "", peak_mb: float = 1.0) -> set[str]:
        outcome = Outcome(case=case, facts=facts, stderr=stderr, peak_mb=peak_mb)
        found = judged(case, tmp_path, before, outcome, because, Limits())
        return {failure.split(":")[0] for failure in found}

    assert kinds({"exit_code": 1, "words": "ours"}) == kinds({"exit_code": 0}) == set()
    assert kinds({"exit_code": 1}, stderr=" ") == {"wordless"}
    assert kinds({"exit_code": 9}) == {"exit code"}
    assert kinds({"exit_code": 0}, peak_mb=5000) == {"memory"}
    assert kinds({"exit_code": 0}, stderr="Traceback (most recent call last):") == {"traceback"}
    assert kinds({}, because="hang: longer") == {"hang"}
    (tmp_path / "out.mp4").write_bytes(b"")
    (tmp_path / "in").write_bytes(b"22")
    assert kinds({"exit_code": 1}) == {"output", "input", "not whole"}


def test_children_that_outlive_their_parent_are_seen(monkeypatch):
    monkeypatch.setattr(kill, "ORPHAN_S", 0.5)
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ | {kill.MARK: "test-of-orphans"})
    try:
        stop = time.monotonic() + 10
        while not (found := kill._orphans("test-of-orphans")) and time.monotonic() < stop:
            time.sleep(0.05)
        assert found == ["sleep 60"] and kill._orphans("another") == []
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
