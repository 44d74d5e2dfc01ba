"""Speed, share of time per step, memory for an hour-long file, and what a second worker brings.

    python benchmarks/prepare.py --work DIR [--parts steps,memory,workers] [--minutes 60] [--videos FOLDER]

The footage is made here: two drawn people who speak (puppets, 256x256), written as videos; with --videos the parts
`steps` and `workers` take the files of a folder instead. Each measured run is a process of its own with one thread.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from provenance import provenance, rounded, save_result

from openloopy.media.audio import SAMPLE_RATE_HZ, open_waveform

SIZE_PX = 256
CLIP_S, NUM_CLIPS = 12.0, 8
STEPS = {
    "decoding": (("footage.py", "_pictures"), ("footage.py", "_shown")),
    "shot cuts": (("cut.py", "_small"), ("adaptive_detector.py", "process_frame")),
    "finding faces": (("landmarks.py", "detect"),),
    "following faces": (("landmarks.py", "follow"),),
    "thumbnails": (
        ("tracks.py", "_thumbnail"),
        ("tracks.py", "_shrunk"),
        ("prepare_video.py", "_write_strip"),
    ),
    "landmark measures": (("describe.py", "describe_track"),),
    "sound measures": (("describe.py", "describe_clip_sound"),),
    "lip synchrony": (("describe.py", "describe_sync"),),
    "crops": (("crop.py", "apply_crop"),),
    "encoding": (("clips.py", "add"), ("clips.py", "finish"), ("clips.py", "encode_sound")),
}
"""Functions whose cumulated time is a step's. Decoding counts both passes; thumbnails count among crops too."""


def main() -> None:
    options = _parse()
    options.work.mkdir(parents=True, exist_ok=True)
    videos = options.videos or make_videos(options.work)
    result: dict[str, Any] = {
        "benchmark": "prepare",
        "footage": options.videos and "folder" or "puppets 256x256",
    }
    if "steps" in options.parts:
        result["steps"] = _child("steps", videos, options.work / "steps")
    if "memory" in options.parts:
        result["memory"] = memory(options.work, options.minutes)
    if "workers" in options.parts:
        result["workers"] = workers(videos, options.work)
    result = rounded({**result, **provenance()})
    save_result("prepare", result)
    print(json.dumps(result))


def make_videos(work: Path) -> Path:
    """Puppets who speak, as files with sound."""
    from openloopy.data.clips import decode_frames, decode_sound
    from openloopy.data.shards import read_shards
    from openloopy.media.video import VideoWriter
    from openloopy.puppet.corpus import CorpusConfig, write_corpus

    folder = work / "videos"
    if not folder.exists():
        write_corpus(CorpusConfig(out=work / "corpus", num_clips=NUM_CLIPS, clip_s=CLIP_S, size_px=SIZE_PX))
        folder.mkdir()
        for sample in read_shards(work / "corpus"):
            sound = decode_sound(sample.flac)
            path = folder / f"{sample.record.clip_id}.mp4"
            with VideoWriter(path, size=(SIZE_PX, SIZE_PX), sound=sound) as writer:
                for frame in decode_frames(sample.mp4):
                    writer.write(frame)
    return folder


def memory(work: Path, minutes: int) -> dict[str, Any]:
    """Peak memory for one minute and for many."""
    source = next(iter(sorted(make_videos(work).iterdir())))
    rows = {}
    for length in (1, minutes):
        raw = work / f"raw-{length}"
        raw.mkdir(exist_ok=True)
        repeat(source, raw / "long.mp4", round(length * 60 / CLIP_S))
        rows[f"{length} min"] = _child("whole", raw, work / f"out-{length}")
    short, long = rows.values()
    return {"files": rows, "peak_rss_ratio": long["peak_rss_mb"] / short["peak_rss_mb"]}


def repeat(source: Path, target: Path, times: int) -> None:
    """The pictures' packets again and again, without encoding them anew, and the sound exactly as often."""
    if target.exists():
        return
    sound = open_waveform(source)[: round(CLIP_S * SAMPLE_RATE_HZ)]
    sound = np.pad(sound, (0, round(CLIP_S * SAMPLE_RATE_HZ) - len(sound)))
    with av.open(str(target), "w") as out:
        with av.open(str(source)) as container:
            pictures = out.add_stream_from_template(container.streams.video[0])
        voice = out.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        for i in range(times):
            with av.open(str(source)) as container:
                for packet in container.demux(container.streams.video[0]):
                    if packet.dts is None:
                        continue
                    shift = round(Fraction(round(CLIP_S)) * i / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, pictures
                    out.mux(packet)
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = (
                SAMPLE_RATE_HZ,
                i * len(sound),
                Fraction(1, SAMPLE_RATE_HZ),
            )
            out.mux(voice.encode(frame))
        out.mux(voice.encode(None))


def workers(videos: Path, work: Path) -> dict[str, Any]:
    """Wall time of both engines with one and two workers, and the share of linear that the second brings."""
    rows: dict[str, Any] = {}
    for engine in ("local", "ray"):
        times = {n: _command(videos, work / f"{engine}-{n}", engine, n) for n in (1, 2)}
        rows[engine] = {"seconds_1": times[1], "seconds_2": times[2], "efficiency": times[1] / (2 * times[2])}
    local, ray = (_records(work / f"{engine}-2") for engine in ("local", "ray"))
    return {**rows, "same_results": local == ray}


def _records(out: Path) -> list[Any]:
    """What became of which frames; measures may differ in their last digits."""
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return [
        [r["name"], [(s["start"], s["stop"], [x["name"] for x in s["reasons"]]) for s in r["spans"]]]
        for r in records
    ]


def _command(raw: Path, out: Path, engine: str, workers: int) -> float:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "openloopy", "prepare", str(raw), str(out), "--size", str(SIZE_PX)]
    begun_s = time.monotonic()
    subprocess.run([*command, "--engine", engine, "--workers", str(workers)], check=True, env=_environment())
    return time.monotonic() - begun_s


def _child(kind: str, raw: Path, out: Path) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--child", kind, "--videos", str(raw), "--work", str(out)]
    done = subprocess.run(command, check=True, env=_environment(), stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def run_child(kind: str, raw: Path, out: Path) -> None:
    """Prepare in this process and print what it took."""
    import resource

    from openloopy.data.prepare import PrepareConfig, prepare_footage

    config = PrepareConfig(raw=raw, out=out, size_px=SIZE_PX, workers=0)
    profile, begun_s = cProfile.Profile(), time.monotonic()
    if kind == "steps":
        report = profile.runcall(prepare_footage, config)
    else:
        report = prepare_footage(config)
    seconds = time.monotonic() - begun_s
    video_s = report.num_frames_in / 25
    row = {
        "video_s": video_s,
        "seconds": seconds,
        "video_s_per_second": video_s / seconds,
        "kept_share": report.frames.get("kept", 0) / report.num_frames_in,
        "num_clips": report.num_clips,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if kind == "steps":
        row["share_of_time"] = shares(pstats.Stats(profile), seconds)
    print(json.dumps(row))


def shares(stats: pstats.Stats, seconds: float) -> dict[str, float]:
    """Each step's share of the whole time."""
    spent = dict.fromkeys(STEPS, 0.0)
    for (file, _, function), (_, _, _, cumulated, _) in stats.stats.items():
        for step, functions in STEPS.items():
            if (Path(file).name, function) in functions:
                spent[step] += cumulated
    return {step: time_s / seconds for step, time_s in spent.items()}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--parts", default="steps,memory,workers")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--child", choices=("steps", "whole"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _parse()
    if arguments.child:
        run_child(arguments.child, arguments.videos, arguments.work)
    else:
        main()
