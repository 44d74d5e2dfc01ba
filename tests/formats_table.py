"""The README's table of formats, from what is written here and seen to come back.

python -m tests.formats_table            # shows it
python -m tests.formats_table --write    # puts it into the README
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from PIL import Image

from openloopy.media.audio import SAMPLE_RATE_HZ, open_waveform
from openloopy.media.image import read_image
from openloopy.media.picture_file import FORMATS, PictureFormat
from openloopy.media.video import probe_video
from tests.media.films import keeps_priority
from tests.media.sounds import best_lag, speechlike

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- python -m tests.formats_table --write -->\n", "<!-- end of the table -->\n"
DURATION_S, FPS, SIZE = 1.0, 25, (176, 144)
"""The one size that H.263 has, too."""
MOST_LAG_S, MOST_LENGTH_S, LEAST_CORRELATION = 0.05, 0.1, 0.6
"""Encoders pad, and the poorest of them are for telephones."""
MUXERS = {
    ".wma": "asf",
    ".wmv": "asf",
    ".aac": "adts",
    ".m4a": "ipod",
    ".m4v": "mp4",
    ".mka": "matroska",
    ".mpeg": "mpeg",
    ".mpg": "mpeg",
    ".mts": "mpegts",
    ".ts": "mpegts",
    ".oga": "ogg",
}
"""Where FFmpeg does not take it from the ending, or takes another."""
BITS_PER_S = {"wmav1": 128_000, "wmav2": 128_000, "libopencore_amrnb": 12_200}
"""Where an encoder has no default, or one under which nothing can be told apart."""
LABELS = {
    "aac": "AAC",
    "ac3": "AC-3",
    "adpcm_ima_wav": "ADPCM",
    "adpcm_ms": "ADPCM",
    "alac": "ALAC",
    "eac3": "E-AC-3",
    "flac": "FLAC",
    "libmp3lame": "MP3",
    "libopencore_amrnb": "AMR",
    "libopus": "Opus",
    "libsvtav1": "AV1",
    "libvpx": "VP8",
    "libvpx-vp9": "VP9",
    "libx264": "H.264",
    "libx265": "H.265",
    "flv": "Sorenson",
    "h263": "H.263",
    "mjpeg": "Motion JPEG",
    "mp2": "MP2",
    "mpeg1video": "MPEG-1",
    "mpeg2video": "MPEG-2",
    "mpeg4": "MPEG-4",
    "pcm_alaw": "A-law",
    "pcm_mulaw": "μ-law",
    "prores_ks": "ProRes",
    "tta": "TTA",
    "vorbis": "Vorbis",
    "wavpack": "WavPack",
    "wmav1": "WMA",
    "wmav2": "WMA",
    "wmv2": "WMV",
}
"""Of FFmpeg's encoders; those of PCM are called so."""


@dataclass(frozen=True)
class Recording:
    """A file of sound, or of pictures with sound, as FFmpeg writes it."""

    ending: str
    sound: str
    """FFmpeg's encoder."""
    pictures: str | None = None

    def __str__(self) -> str:
        return "-".join(filter(None, (self.ending.lstrip("."), self.pictures, self.sound)))

    @property
    def label(self) -> str:
        """What is in it, for people."""
        return " + ".join(label_of(codec) for codec in (self.pictures, self.sound) if codec)


def recordings(ending: str, *codecs: str) -> list[Recording]:
    """Of one ending; a codec as `sound` or as `pictures+sound`."""
    return [
        Recording(ending, codec.split("+")[-1], codec.split("+")[0] if "+" in codec else None)
        for codec in codecs
    ]


SOUNDS = [
    *recordings(".wav", "pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"),
    *recordings(".wav", "pcm_alaw", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav"),
    *recordings(".w64", "pcm_s16le"),
    *recordings(".aiff", "pcm_s16be"),
    *recordings(".au", "pcm_s16be"),
    *recordings(".caf", "pcm_s16be", "alac"),
    *recordings(".flac", "flac"),
    *recordings(".mp3", "libmp3lame"),
    *recordings(".mp2", "mp2"),
    *recordings(".m4a", "aac", "alac"),
    *recordings(".aac", "aac"),
    *recordings(".ogg", "libopus", "vorbis", "flac"),
    *recordings(".oga", "flac"),
    *recordings(".opus", "libopus"),
    *recordings(".mka", "libopus", "pcm_s16le"),
    *recordings(".wma", "wmav1", "wmav2"),
    *recordings(".amr", "libopencore_amrnb"),
    *recordings(".ac3", "ac3"),
    *recordings(".eac3", "eac3"),
    *recordings(".wv", "wavpack"),
    *recordings(".tta", "tta"),
]
VIDEOS = [
    *recordings(".mp4", "libx264+aac", "libx265+aac", "libsvtav1+libopus", "mpeg4+libmp3lame"),
    *recordings(".m4v", "libx264+aac"),
    *recordings(".mov", "libx264+aac", "libx265+alac", "prores_ks+pcm_s16le"),
    *recordings(".mkv", "libx264+flac", "libvpx-vp9+libopus", "libsvtav1+vorbis"),
    *recordings(".webm", "libvpx+vorbis", "libvpx-vp9+libopus", "libsvtav1+libopus"),
    *recordings(".avi", "mpeg4+libmp3lame", "mjpeg+pcm_s16le"),
    *recordings(".ts", "libx264+aac", "mpeg2video+mp2"),
    *recordings(".mts", "libx264+ac3"),
    *recordings(".mpg", "mpeg1video+mp2", "mpeg2video+mp2"),
    *recordings(".mpeg", "mpeg2video+mp2"),
    *recordings(".flv", "flv+libmp3lame", "libx264+aac"),
    *recordings(".wmv", "wmv2+wmav2"),
    *recordings(".3gp", "h263+libopencore_amrnb", "libx264+aac"),
]


def label_of(codec: str) -> str:
    """A codec's name for people."""
    return LABELS.get(codec) or ("PCM" if codec.startswith("pcm_") else codec)


def can_write(recording: Recording) -> bool:
    """Whether FFmpeg has its encoders here."""
    try:
        return all(Codec(name, "w") for name in (recording.sound, recording.pictures) if name)
    except UnknownCodecError:
        return False


def check_picture(kind: PictureFormat, folder: Path) -> None:
    """A picture of this format comes back as it was, under each of its endings.

    Raises:
        AssertionError: it does not.
    """
    rgb = np.zeros((80, 96, 3), np.uint8)
    rgb[:40], rgb[40:] = (200, 30, 30), (30, 30, 200)
    read_image(_png(folder, rgb))  # from then on Pillow has the writers of all extras
    for ending in kind.endings:
        path = folder / f"a{ending}"
        _write_picture(path, rgb)
        expected = rgb if ending not in (".pgm", ".pfm", ".pbm") else _grey(rgb, ending)
        read = read_image(path).astype(int)
        assert read.shape == rgb.shape, f"{ending}: {read.shape}"
        assert np.abs(read - expected)[[10, 70]].max() <= 12, ending


def check_recording(recording: Recording, folder: Path) -> None:
    """Its sound comes back in time and whole, and as many pictures as were put in.

    Raises:
        AssertionError: they do not.
    """
    rate_hz = 8000 if "amr" in recording.sound else 48_000
    channels = 1 if rate_hz == 8000 else 2
    sound = np.repeat(speechlike(DURATION_S, rate_hz), channels, axis=0)
    path = folder / f"a{recording.ending}"
    _write_recording(path, recording, sound, rate_hz)
    said: list[str] = []
    heard = np.asarray(open_waveform(path, said.append))
    true = speechlike(DURATION_S, rate_hz)[0]
    assert not said, said
    assert abs(len(heard) / SAMPLE_RATE_HZ - DURATION_S) <= MOST_LENGTH_S, len(heard) / SAMPLE_RATE_HZ
    at_16_khz = np.interp(np.arange(len(heard)) / SAMPLE_RATE_HZ, np.arange(len(true)) / rate_hz, true)
    lag = best_lag(at_16_khz, heard, round(MOST_LAG_S * SAMPLE_RATE_HZ))
    aligned = np.roll(heard, -lag)
    assert np.corrcoef(at_16_khz[800:-1600], aligned[800:-1600])[0, 1] >= LEAST_CORRELATION, lag
    if recording.pictures:
        assert probe_video(path).num_frames == round(DURATION_S * FPS)


def table() -> str:
    """In Markdown."""
    pictures = ", ".join(kind.name + (f" (extra `{kind.extra}`)" if kind.extra else "") for kind in FORMATS)
    rows = [("pictures", pictures), ("sounds", _by_ending(SOUNDS)), ("videos", _by_ending(VIDEOS))]
    return "| | read |\n|---|---|\n" + "".join(f"| {name} | {what} |\n" for name, what in rows)


def in_readme() -> str:
    """The table as it stands there."""
    return README.read_text().split(BEGIN)[1].split(END)[0]


def _by_ending(recordings: Iterable[Recording]) -> str:
    labels: dict[str, dict[str, None]] = {}
    for recording in recordings:
        labels.setdefault(recording.ending, {})[recording.label] = None
    endings: dict[tuple[str, ...], list[str]] = {}
    for ending, of_it in labels.items():
        endings.setdefault(tuple(of_it), []).append(f"`{ending}`")
    return "; ".join(f"{' '.join(alike)}: {', '.join(of_them)}" for of_them, alike in endings.items())


def _png(folder: Path, rgb: np.ndarray) -> Path:
    Image.fromarray(rgb).save(folder / "first.png")
    return folder / "first.png"


def _write_picture(path: Path, rgb: np.ndarray) -> None:
    if path.suffix == ".psd":
        path.write_bytes(photoshop(rgb))
    elif path.suffix == ".pfm":
        Image.fromarray(rgb).convert("L").convert("F").save(path)
    elif path.suffix == ".pbm":
        Image.fromarray(rgb).convert("1").save(path)
    elif path.suffix == ".pgm":
        Image.fromarray(rgb).convert("L").save(path)
    elif path.suffix == ".mpo":
        Image.fromarray(rgb).save(path, save_all=True, append_images=[Image.fromarray(rgb)])
    else:
        Image.fromarray(rgb).save(path, **({"sizes": [(96, 80)]} if path.suffix == ".ico" else {}))


def _grey(rgb: np.ndarray, ending: str) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("1" if ending == ".pbm" else "L").convert("RGB")).astype(
        int
    )


def photoshop(rgb: np.ndarray) -> bytes:
    """The least that Photoshop's format is: no layers, raw planes."""
    height, width, _ = rgb.shape
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, height, width, 8, 3)
    return head + bytes(12) + bytes(2) + rgb.transpose(2, 0, 1).tobytes()


@keeps_priority()
def _write_recording(path: Path, recording: Recording, sound: np.ndarray, rate_hz: int) -> None:
    layout = {1: "mono", 2: "stereo"}[len(sound)]
    options = {"strict": "experimental"} if recording.sound == "vorbis" else {}
    with av.open(str(path), "w", format=MUXERS.get(recording.ending)) as container:
        video = container.add_stream(recording.pictures, rate=FPS) if recording.pictures else None
        audio = container.add_stream(recording.sound, rate=rate_hz, layout=layout, options=options)
        if recording.sound in BITS_PER_S:
            audio.bit_rate = BITS_PER_S[recording.sound]
        if video:
            video.width, video.height, video.pix_fmt = *SIZE, _pixel_format(recording.pictures)
            for number in range(round(DURATION_S * FPS)):
                grey = np.full((SIZE[1], SIZE[0], 3), 8 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        interleaved = np.ascontiguousarray(sound.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def _pixel_format(codec: str) -> str:
    return {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")


def main(arguments: list[str]) -> None:
    """Check every format, then show the table or write it."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in FORMATS:
            check_picture(kind, Path(folder))
        for recording in SOUNDS + VIDEOS:
            check_recording(recording, Path(folder))
    if arguments == ["--write"]:
        README.write_text(README.read_text().replace(in_readme(), table()))
    else:
        print(table(), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
