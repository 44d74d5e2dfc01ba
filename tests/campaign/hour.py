"""One hour in one piece: memory that does not grow, a length exact to the frame, lips in step at the end.

    python -m tests.campaign.hour --out DIR
    python -m tests.campaign.hour --out DIR --sounds RECORDINGS --seconds 60 --size 256    # a rehearsal

The speech is artificial, or recordings of a folder one after another; its last minute is its first once more. So the
lips of the last minute have a truth: those of the first, in the same frames. Memory is that of the process and its
children, every few seconds. The same command goes on with what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import wave
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil

from tests.campaign.ledger import table

RATE_HZ, FPS, CLIP_FRAMES = 16_000, 25, 12
SAMPLES_PER_FRAME = RATE_HZ // FPS
WINDOW_S = 60.0
SAMPLE_EVERY_S = 2.0
SPEECH_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus")
UTTERANCE_S, GAP_S = 20.0, 0.3
PORTRAIT_PX = 640
MOST_MB, MAX_GROWTH_MB = 4096.0, 64.0
"""From the second tenth of the time to the last."""
MAX_OFFSET_CHANGE_FRAMES = 1.0
MIN_CORRELATION = 0.5
AAC_FRAME_SAMPLES = 1024


@dataclass(frozen=True, kw_only=True)
class HourConfig:
    """What to make."""

    out: Path
    sounds: Path | None
    seconds: int
    size_px: int

    @property
    def window_frames(self) -> int:
        """Frames at both ends that are compared: whole clips, and no more than a third of all."""
        frames = min(WINDOW_S, self.seconds / 3) * FPS
        return int(frames // CLIP_FRAMES * CLIP_FRAMES)

    @property
    def num_frames(self) -> int:
        return self.seconds * FPS


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that must be so."""

    name: str
    found: str
    expected: str
    is_good: bool


def write_speech(path: Path, config: HourConfig) -> None:
    """16-bit mono of exactly so many seconds, whose end is its beginning."""
    total, window = config.seconds * RATE_HZ, config.window_frames * SAMPLES_PER_FRAME
    at = total - window
    first, written = np.zeros(window, np.int16), 0
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        for piece in _speech(config):
            part = piece[: at - written]
            first[written : written + len(part)] = part[: max(window - written, 0)]
            file.writeframes(part.tobytes())
            written += len(part)
            if written == at:
                break
        file.writeframes(first.tobytes())


def sampled_run(command: list[str], samples: Path) -> int:
    """Run a command and write its memory, and its children's, to a file every few seconds; its exit code."""
    begun_s = time.monotonic()
    with open(samples, "w") as lines, open(samples.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        while process.poll() is None:
            row = {"time_s": round(time.monotonic() - begun_s, 1)} | _memory(process.pid)
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            time.sleep(SAMPLE_EVERY_S)
    return process.returncode


def memory_findings(samples: Sequence[dict[str, float]]) -> list[Finding]:
    """Whether memory is flat once everything has started."""
    total = np.array([row["total_mb"] for row in samples])
    tenth = max(len(total) // 10, 1)
    early, late = (
        float(np.median(total[tenth : 2 * tenth])),
        float(np.median(total[-2 * tenth : -tenth or None])),
    )
    growth, most = late - early, float(total.max())
    return [
        Finding(
            name="memory, second tenth and last but one",
            found=f"{early:.0f} MB, {late:.0f} MB",
            expected=f"at most {MAX_GROWTH_MB:.0f} MB more",
            is_good=bool(growth <= MAX_GROWTH_MB),
        ),
        Finding(
            name="most memory",
            found=f"{most:.0f} MB",
            expected=f"below {MOST_MB:.0f} MB",
            is_good=most < MOST_MB,
        ),
    ]


def length_findings(video: Path, config: HourConfig) -> list[Finding]:
    """Frames and samples, counted."""
    with av.open(f"file:{video}") as container:
        stream = container.streams.video[0]
        stamps = sorted(float(p.pts * stream.time_base) for p in container.demux(stream) if p.size)
    steps = np.diff(stamps) * FPS
    with av.open(f"file:{video}") as container:
        samples = sum(frame.samples * RATE_HZ / frame.sample_rate for frame in container.decode(audio=0))
    wanted = config.seconds * RATE_HZ
    return [
        Finding(
            name="frames",
            found=str(len(stamps)),
            expected=str(config.num_frames),
            is_good=len(stamps) == config.num_frames,
        ),
        Finding(
            name="time between frames",
            found=f"{steps.min():.4f} to {steps.max():.4f} frames",
            expected="1",
            is_good=bool(np.allclose(steps, 1, atol=1e-3)),
        ),
        Finding(
            name="sound",
            found=f"{samples / RATE_HZ:.4f} s",
            expected=f"{config.seconds} s, to a frame of AAC",
            is_good=bool(abs(samples - wanted) <= AAC_FRAME_SAMPLES),
        ),
    ]


def lip_findings(video: Path, sound: Path, config: HourConfig) -> list[Finding]:
    """The first and the last minute against their sound, and against one another."""
    from openloopy.face.movement import lip_gap
    from openloopy.measures.lip_sync import lip_sync
    from openloopy.measures.sync import lip_gap_correlation

    window = config.window_frames
    starts = (0, config.num_frames - window)
    points = [_landmarks(video, start, window) for start in starts]
    found = [lip_sync(p, _part(sound, start, window)) for p, start in zip(points, starts, strict=True)]
    gaps = lip_gap_correlation(lip_gap(points[1]), lip_gap(points[0]))
    change = found[1].offset_frames - found[0].offset_frames
    told = [f"{each.offset_frames:+.2f} frames (score {each.score:.2f})" for each in found]
    return [
        Finding(
            name="lips late, at the beginning and at the end",
            found="; ".join(told),
            expected=f"within {MAX_OFFSET_CHANGE_FRAMES:g} frame of one another",
            is_good=bool(abs(change) <= MAX_OFFSET_CHANGE_FRAMES),
        ),
        Finding(
            name="lips of the end follow those of the beginning, which say the same",
            found=f"correlation {gaps.r:.3f}, best {gaps.best_r:.3f} at a shift of {gaps.best_lag} frames",
            expected=f"at least {MIN_CORRELATION:g}, best without a shift",
            is_good=bool(gaps.r >= MIN_CORRELATION and gaps.best_lag == 0),
        ),
    ]


def run(config: HourConfig) -> list[Finding]:
    """Make the video unless it is there, and look at it."""
    config.out.mkdir(parents=True, exist_ok=True)
    sound, portrait, video = (config.out / name for name in ("hour.wav", "portrait.png", "hour.mp4"))
    samples = config.out / "memory.jsonl"
    if not video.exists():
        write_speech(sound, config)
        _write_portrait(portrait)
        command = [sys.executable, "-m", "openloopy", "generate", str(portrait), str(sound), "-o", str(video)]
        code = sampled_run([*command, "--size", str(config.size_px)], samples)
        if code:
            log = samples.with_suffix(".log").read_text("utf-8", "replace")
            return [Finding(name="it ends well", found=log[-500:], expected="exit code 0", is_good=False)]
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return [*memory_findings(rows), *length_findings(video, config), *lip_findings(video, sound, config)]


def summary(config: HourConfig, findings: Sequence[Finding]) -> str:
    """The table in Markdown."""
    rows = [[f.name, f.found, f.expected, "yes" if f.is_good else "NO"] for f in findings]
    title = f"{config.seconds} s of speech at {config.size_px}x{config.size_px}:\n\n"
    return title + table(["what", "found", "expected", "good"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if anything is not as it must be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sounds", type=Path, help="folder of recordings, in place of artificial speech")
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--size", type=int, default=512)
    given = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    out = given.out.resolve() / "hour"
    config = HourConfig(out=out, sounds=given.sounds, seconds=given.seconds, size_px=given.size)
    findings = run(config)
    text = summary(config, findings)
    (out / "findings.json").write_text(json.dumps([asdict(finding) for finding in findings], indent=1))
    (out / "summary.md").write_text(text)
    print(text)
    return int(not all(finding.is_good for finding in findings))


def _speech(config: HourConfig) -> Iterator[np.ndarray]:
    """Pieces of speech without end, int16."""
    gap = np.zeros(round(GAP_S * RATE_HZ), np.int16)
    for piece in _recorded(config.sounds) if config.sounds else _artificial():
        yield (np.clip(piece, -1, 1) * 32767).astype(np.int16)
        yield gap


def _recorded(folder: Path) -> Iterator[np.ndarray]:
    from openloopy.media.audio import open_waveform

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SPEECH_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no recordings ({', '.join(SPEECH_SUFFIXES)})")
    for path in cycle(paths):
        yield np.asarray(open_waveform(path))


def _artificial() -> Iterator[np.ndarray]:
    from openloopy.puppet.speech import draw_speaker, utter

    for number in range(10**6):
        rng = np.random.default_rng(number)
        yield utter(rng, draw_speaker(rng, "train"), UTTERANCE_S, "train").waveform


def _write_portrait(path: Path) -> None:
    from PIL import Image

    from openloopy.puppet.drawn import draw_face

    Image.fromarray(draw_face(np.random.default_rng(1), PORTRAIT_PX).rgb).save(path)


def _memory(pid: int) -> dict[str, Any]:
    """MB of a process and of its children."""
    try:
        process = psutil.Process(pid)
        own = process.memory_info().rss
        children = [child.memory_info().rss for child in process.children(recursive=True)]
    except psutil.Error:  # it ends at this moment
        return {"total_mb": 0.0, "own_mb": 0.0, "num_children": 0}
    mb = [round(value / 2**20, 1) for value in (own + sum(children), own)]
    return {"total_mb": mb[0], "own_mb": mb[1], "num_children": len(children)}


def _landmarks(video: Path, start: int, count: int) -> np.ndarray:
    """`count 68 2` of the frames from `start` on; NaN where there is no face."""
    from openloopy.face.landmarks import NetworkLandmarker

    faces = NetworkLandmarker().track(_frames(video, start, count))
    nothing = np.full((68, 2), np.nan)
    return np.stack([nothing if face is None else face.points68 for face in faces])


def _frames(video: Path, start: int, count: int) -> Iterator[np.ndarray]:
    with av.open(f"file:{video}") as container:
        stream = container.streams.video[0]
        container.seek(round(Fraction(start, FPS) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            number = round(float(frame.pts * stream.time_base) * FPS)
            if number >= start + count:
                return
            if number >= start:
                yield frame.to_ndarray(format="rgb24")


def _part(sound: Path, start: int, count: int) -> np.ndarray:
    with wave.open(str(sound)) as file:
        file.setpos(start * SAMPLES_PER_FRAME)
        data = file.readframes(count * SAMPLES_PER_FRAME)
    return np.frombuffer(data, np.int16).astype(np.float32) / 32768


if __name__ == "__main__":
    sys.exit(main())
