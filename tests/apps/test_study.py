"""The study: blinded, resumable, local; asked over HTTP as a browser would, and once by a browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.dom.minidom import parseString

import numpy as np
import pytest

from openloopy.apps import study_server
from openloopy.apps.study import (
    Booth,
    StudyConfig,
    find_material,
    open_booth,
    rater_from,
    run_study,
    serve_study,
    shuffled,
    write_results,
)
from openloopy.apps.study_server import Refusal, StudyServer, byte_range
from openloopy.measures.votes import DIMENSIONS, StudyVotes, Vote, read_study, read_votes
from openloopy.media.video import VideoWriter
from tests.apps.browser import Browser, find_chromium

METHODS = ("methodone", "methodtwo", "methodthree")
CASES = ("speech/casealpha", "speech/casebeta", "singing/casegamma")


def write_video(path: Path, level: int = 100, num_frames: int = 5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, size=(32, 32), sound=np.full(3200, level / 512, np.float32)) as writer:
        for i in range(num_frames):
            writer.write(np.full((32, 32, 3), level + 2 * i, np.uint8))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> tuple[Path, ...]:
    """A folder for each method, with the same three cases in two categories."""
    root = tmp_path_factory.mktemp("hiddenfolder")
    for i, method in enumerate(METHODS):
        for j, case in enumerate(CASES):
            write_video(root / method / f"{case}.mp4", 20 * (3 * i + j))
            (root / method / f"{case}.json").write_text("{}")  # sidecars are no cases
    return tuple(root / method for method in METHODS)


@pytest.fixture
def config(videos, tmp_path) -> StudyConfig:
    return StudyConfig(folders=videos, out=tmp_path / "votes")


@pytest.fixture
def server(config):
    with serve_study(config, 0) as server:
        yield server


def ask(
    server: StudyServer, path: str, facts: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; a POST where there are facts."""
    body = None if facts is None else json.dumps(facts).encode()
    headers = {"Content-Type": "application/json"} | headers if body else headers
    request = urllib.request.Request(server.address.rstrip("/") + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def start(server: StudyServer, rater: str) -> dict[str, Any]:
    status, _, body = ask(server, "/api/start", {"rater": rater})
    assert status == 200, body
    return json.loads(body)


def vote(server: StudyServer, rater: str, case: int, dimension: str, choice: str) -> int:
    facts = {"rater": rater, "case": case, "dimension": dimension, "choice": choice}
    return ask(server, "/api/vote", facts)[0]


def kept(server: StudyServer) -> list[Vote]:
    return read_votes(server.booth.out / "votes.jsonl")


# -- what is compared ---------------------------------------------------------------------------------------------


def test_cases_and_categories_come_from_the_folders(config):
    material = find_material(config)
    assert material.methods == METHODS and sorted(material.videos) == sorted(CASES)
    assert material.categories == {case: case.split("/")[0] for case in CASES}


def _lacking(tmp_path: Path) -> StudyConfig:
    for method, cases in {"here": ("one", "two"), "there": ("two", "three")}.items():
        for case in cases:
            write_video(tmp_path / method / f"{case}.mp4")
    return StudyConfig(folders=(tmp_path / "here", tmp_path / "there"), out=tmp_path / "out")


def test_cases_that_a_folder_lacks_are_named(tmp_path):
    with pytest.raises(ValueError, match="here lacks three; there lacks one"):
        find_material(_lacking(tmp_path))


def test_common_cases_can_be_used_and_the_others_are_told(tmp_path):
    material = find_material(replace(_lacking(tmp_path), cases="common"))
    assert list(material.videos) == ["two"] and material.left_out == ("one", "three")


def test_no_common_case_is_an_error(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / name / f"{name}.mp4")
    config = StudyConfig(folders=(tmp_path / "a", tmp_path / "b"), out=tmp_path / "out", cases="common")
    with pytest.raises(ValueError, match="no video has the same name in all of a, b"):
        find_material(config)


def test_categories_from_a_file(tmp_path):
    config = replace(_lacking(tmp_path), cases="common", categories=tmp_path / "categories.csv")
    config.categories.write_text("case,category\ntwo,rap\nelse,song\n")
    assert find_material(config).categories == {"two": "rap"}
    config.categories.write_text("case,category\nelse,song\n")
    with pytest.raises(ValueError, match="no category for two"):
        find_material(config)
    config.categories.write_text("two,rap\n")
    with pytest.raises(ValueError, match="expected a first line with the columns case, category"):
        find_material(config)


def test_what_browsers_do_not_show_is_an_error(tmp_path, config):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "case.mp4").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match=r"browsers do not show .*case.mp4 \(not a video\).*libx264"):
        find_material(replace(config, folders=(tmp_path / "a", tmp_path / "b")))


def test_one_case_twice_and_too_deep_are_errors(tmp_path):
    config = _lacking(tmp_path)
    write_video(tmp_path / "here" / "a" / "b" / "c.mp4")
    with pytest.raises(ValueError, match="too deep"):
        find_material(config)
    (tmp_path / "here" / "a" / "b" / "c.mp4").unlink()
    (tmp_path / "here" / "one.webm").write_bytes(b"x")
    with pytest.raises(ValueError, match="are the same case"):
        find_material(config)


@pytest.mark.parametrize("names", [("a",), ("x/a", "y/a")])
def test_folders_must_be_several_and_differ(names, tmp_path):
    with pytest.raises(ValueError, match="folders"):
        StudyConfig(folders=tuple(tmp_path / name for name in names), out=tmp_path)


def test_links_in_a_circle_are_no_folder(tmp_path, config):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    odd = replace(config, folders=(tmp_path / "circle", config.folders[0]))
    with pytest.raises(ValueError, match="circle"):
        find_material(odd)


# -- blinding and order -------------------------------------------------------------------------------------------


def test_no_answer_names_a_method_or_a_file(server):
    facts = start(server, "anna")
    answers = [ask(server, "/"), ask(server, "/api/start", {"rater": "anna"})]
    for case in range(len(facts["votes"])):
        answers += [ask(server, f"/media/{case}/{letter}?rater=anna") for letter in facts["letters"]]
        answers.append(
            ask(server, "/api/vote", {"rater": "anna", "case": case, "dimension": "quality", "choice": "B"})
        )
    wrong = {"rater": "anna", "case": 99, "dimension": "quality", "choice": "A"}
    answers += [ask(server, path) for path in ("/nothing", "/media/9/A?rater=anna", "/media/0/Z?rater=anna")]
    answers += [ask(server, "/api/vote", facts) for facts in (wrong, wrong | {"case": 0, "choice": "Q"})]
    answers.append(ask(server, "/api/start", {"rater": "anna"}))
    hidden = [*METHODS, *(part for case in CASES for part in case.split("/")), "hiddenfolder", ".mp4"]
    for status, headers, body in answers:
        text = str(headers).encode() + body
        assert not [name for name in hidden if name.encode() in text], (status, headers)


def test_headers_do_not_tell_one_file_from_another(server):
    names = {"Last-Modified", "ETag", "Content-Disposition"}
    assert not names & set(ask(server, "/media/0/A?rater=anna")[1])


def test_letters_lead_to_the_files_in_an_order_of_their_own(server, videos):
    seen = set()
    for rater in ("anna", "ben", "carla", "dora"):
        for case in range(len(CASES)):
            bodies = [ask(server, f"/media/{case}/{letter}?rater={rater}")[2] for letter in "ABC"]
            files = {path.read_bytes(): path for folder in videos for path in folder.rglob("*.mp4")}
            paths = [files[body] for body in bodies]
            assert len({path.stem for path in paths}) == 1  # one case, all methods
            seen.add(tuple(path.parts[-3] for path in paths))
    assert len(seen) > 2


def test_orders_are_even_and_depend_on_rater_and_case():
    orders = [shuffled("abc", 0, f"rater {i}", "case") for i in range(600)]
    first = [orders.count(order) for order in set(orders)]
    assert len(first) == 6 and min(first) > 65  # 100 expected, standard deviation 9
    assert len({shuffled("abcdef", 0, "anna", case) for case in range(20)}) > 15
    assert shuffled("cba", 0, "anna") == shuffled("abc", 0, "anna")  # the order they come in does not matter


def test_the_order_is_the_same_on_every_machine():
    assert shuffled(METHODS, 0, "anna", CASES[0]) == ("methodthree", "methodtwo", "methodone")


# -- votes --------------------------------------------------------------------------------------------------------


def test_a_vote_is_kept_under_the_methods_name(server):
    assert vote(server, " Anna ", 1, "lip_sync", "B") == 200
    (line,) = kept(server)
    _, _, body = ask(server, "/media/1/B?rater=anna")
    file = server.booth.material.videos[line.case][line.best]
    assert (line.rater, line.dimension, line.shown[1]) == ("anna", "lip_sync", line.best)
    assert file.read_bytes() == body and sorted(line.shown) == sorted(METHODS)


def test_votes_are_found_again_by_the_raters_name_and_after_a_restart(server, config):
    vote(server, "anna", 0, "identity", "A")
    vote(server, "anna", 2, "quality", "C")
    vote(server, "anna", 0, "identity", "B")
    vote(server, "ben", 0, "identity", "C")
    expected = [{"identity": "B"}, {}, {"quality": "C"}]
    assert start(server, "ANNA ")["votes"] == expected
    assert len(kept(server)) == 4  # a change is a line more
    server.close()
    with serve_study(config, 0) as again:
        assert start(again, "anna")["votes"] == expected
        assert start(again, "new")["votes"] == [{}, {}, {}]


def test_no_difference_is_for_studies_that_allow_it(config):
    with serve_study(config, 0) as server:
        assert start(server, "anna")["tie"] is None
        assert vote(server, "anna", 0, "identity", "=") == 400
    with serve_study(replace(config, allows_ties=True, out=config.out / "ties"), 0) as server:
        assert start(server, "anna")["tie"] == "="
        assert vote(server, "anna", 0, "identity", "=") == 200
        assert kept(server)[0].best is None
        assert start(server, "anna")["votes"][0] == {"identity": "="}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"rater": ""}, 400),
        ({"rater": "x" * 61}, 400),
        ({"rater": "a\x00b"}, 400),
        ({"case": -1}, 404),
        ({"case": 3}, 404),
        ({"case": "0"}, 404),
        ({"case": True}, 404),
        ({"dimension": "beauty"}, 400),
        ({"dimension": ["quality"]}, 400),
        ({"choice": "D"}, 400),
        ({"choice": None}, 400),
        ({"choice": []}, 400),
    ],
)
def test_what_is_no_vote_is_refused(server, change, status):
    good = {"rater": "anna", "case": 0, "dimension": "quality", "choice": "A"}
    assert ask(server, "/api/vote", good | change)[0] == status
    assert kept(server) == []


def test_many_votes_at_once_are_all_kept(server):
    def cast(rater: str) -> None:
        for dimension in DIMENSIONS:
            assert vote(server, rater, 0, dimension, "A") == 200

    threads = [threading.Thread(target=cast, args=(f"rater {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(line.rater, line.dimension) for line in kept(server)}) == 8 * len(DIMENSIONS)


def test_a_vote_that_cannot_be_written_is_told_and_leaves_nothing(server, monkeypatch, capsys):
    vote(server, "anna", 0, "identity", "A")

    def fail(number: int) -> None:
        raise OSError("No space left on device: methodone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        facts = {"rater": "anna", "case": 0, "dimension": "quality", "choice": "A"}
        status, _, body = ask(server, "/api/vote", facts)
    assert status == 500 and b"methodone" not in body
    assert "No space left" in capsys.readouterr().err
    assert len(kept(server)) == 1
    assert vote(server, "anna", 0, "quality", "A") == 200


def test_a_vote_cut_off_by_a_crash_is_taken_away(server, config):
    vote(server, "anna", 0, "identity", "A")
    server.close()
    path = config.out / "votes.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    open_booth(config)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])  # only the line break is missing
    open_booth(config)
    assert path.read_bytes() == whole


def test_another_study_does_not_go_on_with_these_votes(server, config, tmp_path):
    server.close()
    with pytest.raises(ValueError, match="another study: its seed differ"):
        open_booth(replace(config, seed=1))
    with pytest.raises(ValueError, match="methods, sha256 differ"):
        open_booth(replace(config, folders=config.folders[:2]))
    assert isinstance(open_booth(replace(config, folders=config.folders[::-1])), Booth)


def test_rater_names_are_tidied():
    assert rater_from("  Anna\tMARIA ") == "anna maria" and rater_from("Ünal") == "ünal"
    for name in ("", " ", "x" * 61, "a\x07"):
        with pytest.raises(Refusal):
            rater_from(name)


# -- the server ---------------------------------------------------------------------------------------------------


def test_it_listens_on_this_machine_only(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        with pytest.raises(OSError):
            socket.create_connection((address, server.server_address[1]), timeout=2)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "127.0.0.1.x"},
    ],
)
def test_pages_from_elsewhere_are_refused(server, headers):
    assert ask(server, "/", **headers)[0] == 403
    assert ask(server, "/api/start", {"rater": "anna"}, **headers)[0] == 403


def test_a_form_from_elsewhere_cannot_vote(server):
    facts = {"rater": "anna", "case": 0, "dimension": "quality", "choice": "A"}
    assert ask(server, "/api/vote", facts, **{"Content-Type": "text/plain"})[0] == 400
    assert kept(server) == []


def test_localhost_behind_another_port_is_well(server):
    assert ask(server, "/", Host="localhost:9999", Origin="http://localhost:9999")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/media/../../etc/passwd?rater=anna",
        "/media/0/..%2f..%2fetc%2fpasswd?rater=anna",
        "/media/0/A/../../../etc/passwd?rater=anna",
        "/media//etc/passwd?rater=anna",
        "/media/0/%41?rater=anna",
        "/media/-1/A?rater=anna",
        "//etc/passwd",
        "/study.json",
        "/votes.jsonl",
        "/media/0/A",
        "/api/start",
    ],
)
def test_no_path_leads_out(server, path):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status in (400, 404) and b"root:" not in body and len(body) < 200


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"{" * 20_000])
def test_bodies_that_are_no_object_are_refused(server, body):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request("POST", "/api/start", body, {"Content-Type": "application/json"})
    assert connection.getresponse().status == 400
    connection.close()


def test_a_range_is_answered_with_its_part(server):
    status, headers, whole = ask(server, "/media/0/A?rater=anna")
    assert (status, headers["Accept-Ranges"], int(headers["Content-Length"])) == (200, "bytes", len(whole))
    assert headers["Content-Type"] == "video/mp4"
    spans = {"bytes=0-9": (0, 10), "bytes=5-": (5, len(whole)), "bytes=-7": (len(whole) - 7, len(whole))}
    for text, (first, stop) in spans.items():
        status, headers, part = ask(server, "/media/0/A?rater=anna", Range=text)
        assert (status, headers["Content-Range"]) == (206, f"bytes {first}-{stop - 1}/{len(whole)}")
        assert part == whole[first:stop]
    status, headers, part = ask(server, "/media/0/A?rater=anna", Range=f"bytes={len(whole)}-")
    assert (status, headers["Content-Range"], part) == (416, f"bytes */{len(whole)}", b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=10-", (10, 40)),  # an open range: at most MAX_RANGE_BYTES
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_ranges(text, expected, monkeypatch):
    monkeypatch.setattr(study_server, "MAX_RANGE_BYTES", 30)
    assert byte_range(text, 100) == expected


@pytest.mark.parametrize("text", ["bytes=100-", "bytes=100-101", "bytes=-0"])
def test_ranges_outside_of_the_file(text):
    with pytest.raises(ValueError, match="of 100"):
        byte_range(text, 100)


def test_head_has_no_body_and_connections_go_on(server):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    for _ in range(2):
        connection.request("HEAD", "/media/0/A?rater=anna")
        answer = connection.getresponse()
        assert answer.status == 200 and int(answer.headers["Content-Length"]) > 100 and answer.read() == b""
    connection.close()


def test_the_page_takes_nothing_from_elsewhere(server):
    _, headers, body = ask(server, "/")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"(?m)^\s*//.*|\s// .*", "", body.decode()))
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "frame-ancestors 'none'" in policy


def test_a_port_in_use_is_named(server, config):
    with pytest.raises(ValueError, match="--port"):
        serve_study(replace(config, out=config.out / "other"), server.server_address[1])
    with pytest.raises(ValueError, match="--port"):
        serve_study(replace(config, out=config.out / "other"), 70_000)


def test_a_file_that_is_gone_is_told_without_its_name(videos, tmp_path, capsys):
    folders = tuple(tmp_path / folder.name for folder in videos[:2])
    for folder in folders:
        write_video(folder / "case.mp4")
    with serve_study(StudyConfig(folders=folders, out=tmp_path / "out"), 0) as server:
        for folder in folders:
            (folder / "case.mp4").unlink()
        status, _, body = ask(server, "/media/0/A?rater=anna")
    assert status == 500 and b"case" not in body and "case.mp4" in capsys.readouterr().err


# -- running and results ------------------------------------------------------------------------------------------


def test_running_tells_the_address_and_ends_with_the_results(config, monkeypatch):
    said = []

    def rate_and_interrupt(server: StudyServer) -> None:
        assert server.address in said[1]
        assert vote(server, "anna", 0, "identity", "A") == 200
        raise KeyboardInterrupt

    monkeypatch.setattr(StudyServer, "wait", rate_and_interrupt)
    run_study(config, 0, said.append)
    assert said[0] == "3 methods, 3 cases, 18 votes for each rater"
    assert said[-1] == f"wrote {config.out / 'results.html'}"
    assert json.loads((config.out / "results.json").read_text())["num_votes"] == 1
    assert "1 votes of 1 raters" in (config.out / "results.md").read_text()


def test_ctrl_c_ends_a_run(config):
    code = (
        "import signal, sys; from pathlib import Path; from openloopy.apps.study import StudyConfig, run_study\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job may ignore it\n"
        "*folders, out = map(Path, sys.argv[1:])\n"
        "run_study(StudyConfig(folders=tuple(folders), out=out), 0, lambda text: print(text, flush=True))"
    )
    arguments = [sys.executable, "-c", code, *map(str, config.folders), str(config.out)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with contextlib.ExitStack() as stack:
            stack.callback(process.kill)
            lines = [process.stdout.readline(), process.stdout.readline()]
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=20)
    assert re.search(r"raters open http://127\.0\.0\.1:\d+/ on this machine", lines[1])
    assert "nobody voted" in rest and errors == "" and process.returncode == 0


def test_the_results_page_shows_every_method_in_every_group(tmp_path):
    methods, categories = ("a <b> & c", "m" * 40), {"one": "speech", "two": "<song>"}
    votes = [
        Vote(rater, case, dimension, methods[i % 2])
        for i, rater in enumerate(("anna secret", "ben secret"))
        for case in categories
        for dimension in DIMENSIONS
    ]
    page = write_results(
        tmp_path, StudyVotes(methods=methods, categories=categories, votes=tuple(votes))
    ).read_text()
    plots = re.findall(r"<svg class=\"shares\".*?</svg>", page, re.DOTALL)
    assert len(plots) == 3 * len(DIMENSIONS)  # overall and two categories
    for plot in plots:
        assert len(parseString(plot).getElementsByTagName("rect")) == len(methods)
    assert "<b> &" not in page and "<song>" not in page and "secret" not in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page) and "<script" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.html", "results.json", "results.md"]


def test_results_of_a_served_study_are_those_of_its_votes(server):
    vote(server, "anna", 0, "identity", "A")
    study = read_study(server.booth.out)
    assert study.methods == METHODS and study.categories == server.booth.material.categories
    assert study.votes == tuple(kept(server))


# -- a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path):
    program = find_chromium()
    if program is None:
        pytest.skip("needs a Chromium on the path (chromium, chromium-browser or google-chrome)")
    with Browser(program, tmp_path / "profile") as browser:
        browser.size(1200, 900)
        yield browser


LOADED = (
    "document.querySelectorAll('video').length === 3 && [...document.querySelectorAll('video')].every(%s)"
)


def _enter(browser: Browser, name: str) -> None:
    browser.run(f"document.getElementById('name').value = {json.dumps(name)}")
    browser.run("document.getElementById('enter').requestSubmit()")
    browser.wait_for(LOADED % "video => video.readyState >= 2")


def _where(browser: Browser) -> str:
    return browser.run("document.getElementById('where').textContent")


def test_a_rater_in_a_browser(server, browser):
    browser.open(server.address)
    _enter(browser, "Anna")
    assert _where(browser) == "Case 1 of 3"
    assert browser.run("document.querySelectorAll('figcaption b').length") == 3
    browser.press(*"abcabc")  # six questions by keyboard
    browser.wait_for(
        "document.getElementById('done').textContent.startsWith('6 of 18 answers, cases done: 1')"
    )
    browser.wait_for("document.getElementById('next').className === 'main'")
    browser.press("ArrowRight")
    browser.wait_for(LOADED % "video => video.src.includes('/media/1/') && video.readyState >= 2")
    browser.run("document.querySelector('#questions label').click()")  # and one by mouse
    browser.run("pending")
    expected = [(0, dimension, i % 3) for i, dimension in enumerate(DIMENSIONS)] + [(1, "identity", 0)]
    cases = list(dict.fromkeys(line.case for line in kept(server)))
    assert [(cases.index(v.case), v.dimension, v.shown.index(v.best)) for v in kept(server)] == expected
    page = browser.run("document.documentElement.outerHTML")
    assert not [name for name in (*METHODS, "casealpha", "casebeta", "casegamma") if name in page]


def test_a_browser_resumes_seeks_and_plays_together(server, browser, monkeypatch):
    monkeypatch.setattr(study_server, "MAX_RANGE_BYTES", 1000)  # videos come in several parts
    assert (
        min(path.stat().st_size for files in server.booth.material.videos.values() for path in files.values())
        > 2000
    )
    for dimension in DIMENSIONS:
        vote(server, "anna", 0, dimension, "A")
    vote(server, "anna", 1, "identity", "C")
    browser.open(server.address)
    _enter(browser, "anna")
    assert _where(browser) == "Case 2 of 3"
    assert browser.run("document.querySelector('#questions input:checked').value") == "C"
    browser.run("document.querySelector('video').currentTime = 0.12")
    browser.wait_for(
        "document.querySelector('video').currentTime > 0.1 && !document.querySelector('video').seeking"
    )
    browser.press(" ")
    browser.wait_for(LOADED % "video => video.ended")
    assert browser.run("[...document.querySelectorAll('video')].filter(video => !video.muted).length") == 1
    browser.open(server.address)  # a reload goes on without asking again
    browser.wait_for(LOADED % "video => video.readyState >= 2")
    assert _where(browser) == "Case 2 of 3"


def test_a_browser_says_when_an_answer_is_not_kept(server, browser):
    browser.open(server.address)
    _enter(browser, "anna")
    server.close()
    browser.press("a")
    browser.wait_for("!document.getElementById('alert').hidden")
    assert "not kept" in browser.run("document.getElementById('alert').textContent")
    assert browser.run("document.querySelector('#questions input:checked')") is None
