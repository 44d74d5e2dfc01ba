"""What is missing between the frames of a sound: by their time stamps, and by what could not be decoded.

Time stamps of many recorders tremble, and clocks drift; only what stands out of that is a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import av

from openloopy.media.sound_headers import MATROSKA_FORMAT, MP4_FORMAT

MIN_HOLE_S = 0.1
"""By which a frame must be late, unless something is known to be damaged or it is late by whole frames at once."""
MAX_HOLE_S = 600.0
"""After longer ones the clock was set anew, and nothing is missing; so too where a frame comes early."""
STAMP_S = 1.1e-3
"""Some formats round to milliseconds."""
MIN_FRAME_S = 5e-3
"""Shorter frames are no measure: everything is late by a number of them."""
TIMED_FORMATS = (MP4_FORMAT, MATROSKA_FORMAT, "flv", "avi", "asf", "ogg", "mpegts", "mpeg")
"""Formats that hold time stamps. In the others FFmpeg counts, and what cannot be decoded before the first sound is no
sound that was lost."""
COUNTED_FORMATS = ("mp3", "ac3", "eac3")
"""Formats of nothing but frames. FFmpeg counts one for each packet that it cannot decode, whatever its size."""
MAX_DAMAGE_BYTES = 1 << 16
TAGS = (b"ID3", b"APETAGEX")
"""More bytes, or these in them, are something else between two sounds."""

Why = Literal["damaged", "missing", "not numbers", "tail", "cut off"]


@dataclass(frozen=True, kw_only=True)
class SoundLoss:
    """Sound that should be there, and is not."""

    at_s: float
    """From the sound's beginning."""
    lost_s: float
    """0 where nothing says how much it is."""
    why: Why
    """damaged: it cannot be decoded; missing: by the time stamps; tail: what comes last cannot be decoded."""

    @property
    def is_gap(self) -> bool:
        """Whether silence is in its place; else it is missing at the end."""
        return self.why not in ("tail", "cut off")


@dataclass(kw_only=True)
class Failures:
    """What could not be decoded since the last frame."""

    first_s: float | None = None
    """When it would have been heard, on the clock of the file."""
    duration_s: float = 0.0
    num_bytes: int = 0
    holds_tag: bool = False

    def add(self, packet: av.Packet) -> None:
        if packet.duration and packet.time_base:
            self.duration_s += float(packet.duration * packet.time_base)
        self.num_bytes += packet.size
        self.holds_tag |= any(tag in bytes(packet) for tag in TAGS)


class SoundClock:
    """When each frame of one stream is due."""

    def __init__(self, container_format: str) -> None:
        """container_format: FFmpeg's name."""
        self._format = container_format
        self._zero_s: float | None = None
        """When the time line's second 0 is, on the clock of the file."""
        self._late_s = 0.0
        """By how much the last frame was late."""
        self._num_bytes = self._num_packets = 0
        self.failures: Failures | None = None
        self.first_s: float | None = None
        """When the stream begins, on the clock of the file."""

    def note_sound(self, packet: av.Packet) -> None:
        """It was decoded."""
        self._num_bytes += packet.size
        self._num_packets += 1

    def note_failure(self, packet: av.Packet | None = None) -> None:
        """It could not be decoded; None: nothing more can be read."""
        if self.failures is None:
            is_timed = packet and packet.pts is not None and packet.time_base
            self.failures = Failures(first_s=float(packet.pts * packet.time_base) if is_timed else None)
        if packet:
            self.failures.add(packet)

    def gap(self, frame: av.AudioFrame, at_s: float) -> SoundLoss | None:
        """What is missing before a frame that would otherwise be heard at this second of the time line."""
        if frame.time is None:
            return None
        failures, self.failures = self.failures, None
        lost_s = None
        if self._zero_s is None:
            self._begin(frame.time, at_s, failures)
        elif failures and self._format in COUNTED_FORMATS:
            lost_s = self._lost_by_bytes(frame, at_s, failures)
        if lost_s is None:
            lost_s = self._lost_by_time(frame, at_s, failures is not None)
        why = "damaged" if failures else "missing"
        return SoundLoss(at_s=at_s, lost_s=lost_s, why=why) if lost_s > 0 else None

    def _begin(self, time_s: float, at_s: float, failures: Failures | None) -> None:
        """The first frame, or what should have come before it, is what is due."""
        self.first_s = time_s
        if failures and failures.first_s is not None and self._format in TIMED_FORMATS:
            self.first_s = min(max(failures.first_s, 0.0), time_s)
        self._zero_s = self.first_s - at_s

    def _lost_by_bytes(self, frame: av.AudioFrame, at_s: float, failures: Failures) -> float | None:
        """As many frames as usually take so many bytes; None where they were no frames."""
        if failures.holds_tag or failures.num_bytes > MAX_DAMAGE_BYTES:
            return None
        num_frames = round(failures.num_bytes * self._num_packets / self._num_bytes)
        lost_s = num_frames * frame.samples / frame.sample_rate
        self._zero_s, self._late_s = frame.time - at_s - lost_s, 0.0
        return lost_s

    def _lost_by_time(self, frame: av.AudioFrame, at_s: float, is_damaged: bool) -> float:
        late_s = frame.time - self._zero_s - at_s
        step_s, self._late_s = late_s - self._late_s, late_s
        if not -MIN_HOLE_S < late_s < MAX_HOLE_S:
            self._zero_s, self._late_s = frame.time - at_s, 0.0
            return 0.0
        frame_s = frame.samples / frame.sample_rate
        whole_s = round(late_s / frame_s) * frame_s
        is_whole = frame_s >= MIN_FRAME_S and whole_s > 0 and abs(late_s - whole_s) < STAMP_S
        if not (late_s > MIN_HOLE_S or is_whole and step_s > frame_s / 2 or is_damaged and late_s > STAMP_S):
            return 0.0
        lost_s = whole_s if is_whole else late_s
        self._late_s = late_s - lost_s
        return lost_s
