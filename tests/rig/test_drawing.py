"""Frames drawn by processes beside this one are the frames that are drawn here, in order, whatever happens to them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from openloopy.puppet.drawn import draw_face
from openloopy.rig import drawing
from openloopy.rig.drawing import Drawing
from openloopy.rig.portrait_rig import PortraitRig

SIZE_PX = 64


@pytest.fixture(scope="module")
def rig() -> PortraitRig:
    face = draw_face(np.random.default_rng(5), size_px=96)
    return PortraitRig(face.rgb, face.mesh, np.ones((96, 96), np.float32), rng=np.random.default_rng(0))


@pytest.fixture
def soon(monkeypatch):
    """Two processes, from the second frame on, whatever the machine has."""
    monkeypatch.setattr(drawing, "DRAWN_HERE", 1)
    monkeypatch.setattr(drawing, "cpu_cores", lambda: 2)


def moved(rig: PortraitRig, count: int) -> list[dict[str, float]]:
    return [rig.own | {"jaw": jaw, "yaw": 6 * jaw} for jaw in np.linspace(0, 1, count).tolist()]


def counted(rig: PortraitRig, monkeypatch) -> list[float]:
    """The jaws of the frames that are drawn in this process."""
    here: list[float] = []
    render = PortraitRig.render

    def listening(self, state, size_px):
        here.append(state["jaw"])
        return render(self, state, size_px)

    monkeypatch.setattr(PortraitRig, "render", listening)
    return here


def when_ready(drawn: Drawing, states: list[dict[str, float]]):
    """The states, the third and later ones only once the processes have started."""
    for number, state in enumerate(states):
        if number == 2:
            for start in drawn._starts:
                start.result()
        yield state


def test_processes_give_the_frames_that_are_drawn_here_in_order(rig, soon, monkeypatch):
    states = moved(rig, 12)
    wanted = [rig.render(state, SIZE_PX) for state in states]
    here = counted(rig, monkeypatch)
    with Drawing(rig, SIZE_PX) as drawn:
        frames = list(drawn.frames(when_ready(drawn, states)))
        processes = [drawn._idle.get() for _ in range(2)]
    assert len(here) <= 2, "the processes were ready and drew nothing"
    assert all(process is not None for process in processes)
    assert len(frames) == 12
    assert all(np.array_equal(a, b) for a, b in zip(frames, wanted, strict=True))
    for process in processes:
        process.close()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_process_whose_caller_was_killed_ends_without_a_word(rig, share):
    message = pickle.dumps((rig, SIZE_PX), pickle.HIGHEST_PROTOCOL)
    command = [sys.executable, "-c", "from openloopy.rig.drawing import answer; answer()"]
    reading, writing = os.pipe()
    os.close(reading)  # nobody listens
    done = subprocess.run(
        command, input=message[: round(share * len(message))], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_lost_process_costs_no_frame(rig, soon, monkeypatch):
    states = moved(rig, 12)
    wanted = [rig.render(state, SIZE_PX) for state in states]
    here = counted(rig, monkeypatch)
    with Drawing(rig, SIZE_PX) as drawn:
        frames = drawn.frames(when_ready(drawn, states))
        shown = [next(frames) for _ in range(4)]
        lost = drawn._idle.get()
        lost._process.kill()
        drawn._idle.put(lost)
        shown += list(frames)
        left = [drawn._idle.get() for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(shown, wanted, strict=True))
    assert here and left.count(None) == 1
    next(process for process in left if process is not None).close()


def test_without_processes_all_is_drawn_here(rig, soon, monkeypatch):
    def fails(*args, **settings):
        raise PermissionError("no processes here")

    monkeypatch.setattr(subprocess, "Popen", fails)
    states = moved(rig, 6)
    here = counted(rig, monkeypatch)
    with Drawing(rig, SIZE_PX) as drawn:
        frames = list(drawn.frames(when_ready(drawn, states)))
    assert len(frames) == len(here) == 6


def test_processes_end_with_the_drawing(rig, soon):
    with Drawing(rig, SIZE_PX) as drawn:
        frames = drawn.frames(when_ready(drawn, moved(rig, 12)))
        for _ in range(4):
            next(frames)
        processes = [drawn._idle.get() for _ in range(2)]
        for process in processes:
            drawn._idle.put(process)
    assert all(process._process.returncode is not None for process in processes)


def test_an_error_of_the_rig_is_the_caller_s(rig, soon):
    states = moved(rig, 6)
    del states[4]["jaw"]
    with Drawing(rig, SIZE_PX) as drawn, pytest.raises((ValueError, KeyError), match="jaw"):
        list(drawn.frames(when_ready(drawn, states)))


@pytest.mark.parametrize(("cores", "most", "num"), [(1, 4, 0), (2, 4, 2), (2, 1, 0), (16, 64, 4)])
def test_as_many_processes_as_there_are_cores(rig, monkeypatch, cores, most, num):
    monkeypatch.setattr(drawing, "cpu_cores", lambda: cores)
    assert Drawing(rig, SIZE_PX, most)._num == num


def test_a_frozen_program_does_not_start_itself(rig, soon, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert Drawing(rig, SIZE_PX)._num == 0


def test_a_short_video_starts_no_process(rig, monkeypatch):
    monkeypatch.setattr(drawing, "cpu_cores", lambda: 2)
    with Drawing(rig, SIZE_PX) as drawn:
        frames = list(drawn.frames(moved(rig, drawing.DRAWN_HERE)))
        assert drawn._threads is None
    assert len(frames) == drawing.DRAWN_HERE


def test_a_drawing_process_needs_no_torch():
    code = "import sys, openloopy.rig.drawing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
