"""Latency and load of what runs while somebody waits: the service, its stream, and live mode.

    python benchmarks/serve.py                          # first frames, live delay, idle memory; on an idle machine
    python benchmarks/serve.py --load-minutes 10        # besides, eight clients at once
    python benchmarks/serve.py --parts live --size 256

It starts `openloopy serve` and `openloopy generate --live` as users do, asks over HTTP, and reads the streams with
FFmpeg: a frame counts when it has been decoded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import av
import httpx
import numpy as np
from generate import demo_portrait, speech, write_speech
from provenance import provenance, save_result

from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.image import write_image

PARTS = ("first_frame", "live", "idle", "load")
CLIENTS = 8
SHORT_S = 4.0
REPEATS = 5
SAMPLE_EVERY_S = 10.0
PORT = 18_400


def main() -> None:
    options = _parse()
    result: dict[str, Any] = {"benchmark": "serve", "options": vars(options)}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_image(home / "portrait.png", demo_portrait())
        write_speech(home / "speech.wav", SHORT_S)
        if "live" in options.parts:
            result["live"] = live(home, options)
        if set(options.parts) & {"first_frame", "idle"}:
            with service(home, idle_s=5.0) as (client, process):
                result["first_frame"] = first_frame(client, home, options)
                result["idle"] = idle(client, process)
        if "load" in options.parts and options.load_minutes:
            with service(home) as (client, process):
                result["load"] = load(client, process, home, options)
    result |= provenance()
    save_result("serve", result)
    print(json.dumps(result))


@contextmanager
def service(home: Path, idle_s: float = 300.0):
    """A client of a running service, and its process."""
    command = [
        sys.executable,
        "-m",
        "openloopy",
        "serve",
        "--folder",
        str(home / "jobs"),
        "--port",
        str(PORT),
    ]
    process = subprocess.Popen([*command, "--idle-s", str(idle_s)], stderr=subprocess.DEVNULL)
    client = httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=120)
    try:
        while True:
            try:
                client.get("/healthz")
                break
            except httpx.ConnectError:
                assert process.poll() is None, "the service ended"
                time.sleep(0.05)
        yield client, process
    finally:
        client.close()
        process.terminate()
        process.wait(30)


def first_frame(client: httpx.Client, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the request to the first decoded frame of the stream: with nothing loaded, then with all warm."""
    cold = _first_frame_s(client, home, options)
    warm = [_first_frame_s(client, home, options, seed=i + 1) for i in range(REPEATS)]
    return {"cold_s": cold, "warm_median_s": median(warm), "warm_s": warm}


def idle(client: httpx.Client, process: subprocess.Popen) -> dict[str, Any]:
    """Memory and work of a service that nobody asks: with the model loaded, and after it gave it back."""
    loaded_mb = _rss_mb(process.pid)
    while client.get("/healthz").json()["is_model_loaded"]:
        time.sleep(1)
    time.sleep(2)
    unloaded_mb, before_s = _rss_mb(process.pid), _cpu_s(process.pid)
    time.sleep(10)
    return {
        "rss_mb_loaded": loaded_mb,
        "rss_mb_unloaded": unloaded_mb,
        "cpu_share": (_cpu_s(process.pid) - before_s) / 10,
    }


def live(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Delay of live mode: sound comes as fast as it is spoken, once the program listens; frames are decoded at once."""
    command = [
        sys.executable,
        "-m",
        "openloopy",
        "generate",
        str(home / "portrait.png"),
        f"pcm:{SAMPLE_RATE_HZ}",
    ]
    command += ["--live", "-o", "-", "--size", str(options.size)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes)
    printed = []
    while not (line := process.stderr.readline().decode()).startswith("listening"):
        assert line, "the program ended"
    threading.Thread(target=lambda: printed.extend(process.stderr), daemon=True).start()
    begun_s = time.monotonic()
    threading.Thread(target=_feed, args=(process.stdin, options.live_s), daemon=True).start()
    delays_s = []
    with av.open(_Unbuffered(process.stdout), options={"probesize": "4096"}) as container:
        for number, _ in enumerate(container.decode(video=0)):
            delays_s.append(time.monotonic() - begun_s - (number + 1) / 25)
    process.wait(30)
    made = re.search(
        r"half of them within ([\d.]+) s of their sound, all within ([\d.]+) s", b"".join(printed).decode()
    )
    return {
        "seconds": options.live_s,
        "num_frames": len(delays_s),
        "shown_median_s": float(np.median(delays_s)),
        "shown_worst_s": float(np.max(delays_s)),
        "made_median_s": float(made[1]),
        "made_worst_s": float(made[2]),
    }


def load(
    client: httpx.Client, process: subprocess.Popen, home: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Eight clients at once, each asks for the next video as soon as it has the last."""
    stop_s = time.monotonic() + 60 * options.load_minutes
    clients = [_Client(client.base_url, home, stop_s, i, options) for i in range(CLIENTS)]
    memory_mb = []
    for each in clients:
        each.start()
    while any(each.is_alive() for each in clients):
        memory_mb.append(round(_rss_mb(process.pid), 1))
        time.sleep(SAMPLE_EVERY_S)
    made = [job for each in clients for job in each.made]
    numbers = [job["number"] for job in sorted(made, key=lambda job: job["begun"])]
    third = max(len(memory_mb) // 3, 1)
    return {
        "minutes": options.load_minutes,
        "clients": CLIENTS,
        "num_done": len(made),
        "num_lost": sum(each.num_lost for each in clients),
        "num_refused": sum(each.num_refused for each in clients),
        "done_by_client": [len(each.made) for each in clients],
        "is_first_come_first_served": numbers == sorted(numbers),
        "waited_median_s": median(job["waited_s"] for job in made),
        "waited_worst_s": max(job["waited_s"] for job in made),
        "rss_mb": memory_mb,
        "rss_mb_middle_third": median(memory_mb[third : 2 * third]),
        "rss_mb_last_third": median(memory_mb[2 * third :]),
    }


class _Client(threading.Thread):
    """Asks for videos until the time is over, and checks each."""

    def __init__(
        self, base_url: Any, home: Path, stop_s: float, number: int, options: argparse.Namespace
    ) -> None:
        super().__init__(daemon=True)
        self._base_url, self._home, self._stop_s, self._number = base_url, home, stop_s, number
        self._options = options
        self.made, self.num_lost, self.num_refused = [], 0, 0

    def run(self) -> None:
        with httpx.Client(base_url=self._base_url, timeout=600) as client:
            while time.monotonic() < self._stop_s:
                self._ask(client)

    def _ask(self, client: httpx.Client) -> None:
        begun_s = time.monotonic()
        answer = _post(client, self._home, self._options, seed=self._number)
        if answer.status_code == 429:
            self.num_refused += 1
            time.sleep(int(answer.headers["retry-after"]))
            return
        id = answer.json()["id"]
        # half of them watch, half of them wait
        if self._number % 2:
            data = client.get(f"/v1/videos/{id}/stream").content
        while (found := client.get(f"/v1/videos/{id}").json())["status"] in ("queued", "running"):
            time.sleep(0.5)
        content = client.get(f"/v1/videos/{id}/content").content
        data = data if self._number % 2 else content
        if found["status"] != "done" or min(_num_frames(data), _num_frames(content)) != round(25 * SHORT_S):
            self.num_lost += 1
            return
        job = json.loads((self._home / "jobs" / id / "job.json").read_text())
        sidecar = client.get(f"/v1/videos/{id}/sidecar").json()
        ended_s = time.monotonic()
        begun = job["finished_s"] - sidecar["timings"]["total_s"]
        self.made.append({"number": job["number"], "begun": begun, "waited_s": ended_s - begun_s})
        client.delete(f"/v1/videos/{id}")


class _Unbuffered:
    """A pipe whose reads give what is there."""

    def __init__(self, stream: Any) -> None:
        self._number = stream.fileno()

    def read(self, size: int) -> bytes:
        return os.read(self._number, size)


def _feed(pipe: Any, seconds: float) -> None:
    samples = (speech(seconds) * 32767).astype("<i2")
    begun_s = time.monotonic()
    with pipe:
        for start in range(0, len(samples), 320):
            time.sleep(max(0.0, begun_s + (start + 320) / SAMPLE_RATE_HZ - time.monotonic()))
            pipe.write(samples[start : start + 320].tobytes())
            pipe.flush()


def _first_frame_s(client: httpx.Client, home: Path, options: argparse.Namespace, seed: int = 0) -> float:
    begun_s, data = time.monotonic(), b""
    id = _post(client, home, options, seed).json()["id"]
    first_s = None
    with client.stream("GET", f"/v1/videos/{id}/stream") as answer:
        for block in answer.iter_raw():
            data += block
            if first_s is None and _num_frames(data):
                first_s = time.monotonic() - begun_s
    while client.get(f"/v1/videos/{id}").json()["status"] == "running":
        time.sleep(0.1)
    return first_s


def _post(client: httpx.Client, home: Path, options: argparse.Namespace, seed: int = 0) -> httpx.Response:
    files = {
        name: (home / file).read_bytes()
        for name, file in (("image", "portrait.png"), ("audio", "speech.wav"))
    }
    return client.post("/v1/videos", files=files, data={"seed": str(seed), "size": str(options.size)})


def _num_frames(data: bytes) -> int:
    import io

    try:
        with av.open(io.BytesIO(data)) as container:
            return sum(1 for _ in container.decode(video=0))
    except av.error.FFmpegError:
        return 0


def _rss_mb(pid: int) -> float:
    """Of a process and those that it started."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    total = 0.0
    for each in [pid, *map(int, children)]:
        try:
            status = Path(f"/proc/{each}/status").read_text()
        except OSError:  # it has ended
            continue
        total += int(status.split("VmRSS:")[1].split()[0]) / 1024 if "VmRSS:" in status else 0.0
    return total


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", type=int, default=512, help="side of the videos, px")
    parser.add_argument("--live-s", type=float, default=30.0, help="sound for live mode")
    parser.add_argument("--load-minutes", type=float, default=0.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
