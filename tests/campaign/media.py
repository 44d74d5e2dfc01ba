"""Pictures, sounds and films in whatever form they come, made by code from a drawn face and artificial speech."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, features

from openloopy.puppet.drawn import draw_face
from tests.media.films import keeps_priority
from tests.media.sounds import speechlike, write_sound

FACE_PX = 160
SOUND_S = (0.05, 0.1, 0.3, 0.4, 0.6)
PICTURES = {
    ".png": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I"),
    ".jpg": ("RGB", "L", "CMYK", "YCbCr"),
    ".webp": ("RGB", "RGBA"),
    ".tif": ("RGB", "RGBA", "L", "LA", "CMYK", "I;16", "F", "1", "LAB", "YCbCr", "P"),
    ".gif": ("P", "L", "RGB"),
    ".bmp": ("RGB", "RGBA", "L", "1", "P"),
    ".ppm": ("RGB", "L", "1", "I"),
    ".tga": ("RGB", "RGBA", "L"),
    ".jp2": ("RGB", "RGBA", "L"),
    ".ico": ("RGBA",),
    ".pcx": ("RGB", "L", "P"),
    ".sgi": ("RGB", "L"),
    ".dds": ("RGBA", "RGB"),
    ".avif": ("RGB", "RGBA", "L"),
}
"""Endings and the modes that Pillow writes them in."""
SIDES_PX = (FACE_PX,) * 6 + (64, 63, 1, 65, 300, 2000, 9000)
SOUNDS = (
    *(
        (".wav", codec)
        for codec in "pcm_s16le pcm_u8 pcm_s24le pcm_s32le pcm_f32le pcm_f64le adpcm_ima_wav".split()
    ),
    *(
        (".aiff", "pcm_s16be"),
        (".caf", "pcm_s16le"),
        (".w64", "pcm_s16le"),
        (".au", "pcm_s16be"),
        (".flac", "flac"),
    ),
    *(
        (".mp3", "libmp3lame"),
        (".ogg", "libopus"),
        (".opus", "libopus"),
        (".webm", "libopus"),
        (".mka", "aac"),
    ),
    *((".m4a", "aac"), (".m4a", "alac"), (".aac", "aac"), (".ts", "aac"), (".mp4", "aac"), (".mkv", "flac")),
    *(
        (".wma", "wmav2"),
        (".ac3", "ac3"),
        (".mp2", "mp2"),
        (".wv", "wavpack"),
        (".tta", "tta"),
        (".amr", "libopencore_amrnb"),
    ),
)
RATES_HZ = (16_000, 16_000, 48_000, 44_100, 8_000, 22_050, 96_000, 11_025)
CHANNELS = (1, 1, 1, 2, 2, 4, 6, 8)
FILMS = (
    *((".mp4", "libx264"), (".mov", "libx264"), (".mkv", "libx264"), (".ts", "libx264"), (".mp4", "libx265")),
    *(
        (".avi", "mpeg4"),
        (".mpg", "mpeg2video"),
        (".webm", "libvpx-vp9"),
        (".webm", "libvpx"),
        (".mkv", "ffv1"),
    ),
    *((".mov", "mjpeg"), (".mov", "prores"), (".mkv", "huffyuv"), (".mp4", "libsvtav1"), (".gif", "gif")),
)
FILM_SOUNDS = {".webm": "libopus", ".mpg": "mp2", ".avi": "libmp3lame", ".gif": None}
FILM_PX, FILM_FPS = 96, 25
NUM_TRIES = 20


class NotMadeError(RuntimeError):
    """No variant could be encoded here."""


@lru_cache(maxsize=4)
def face(number: int = 0) -> np.ndarray:
    """A drawn face, `160 160 3` uint8."""
    return draw_face(np.random.default_rng(number), FACE_PX).rgb


def write_face(path: Path) -> Path:
    """A good portrait."""
    Image.fromarray(face()).save(path)
    return path


def write_speech(path: Path, duration_s: float = 0.4) -> Path:
    """A good sound."""
    return write_sound(path, speechlike(duration_s, 16_000), 16_000)


def picture(rng: random.Random) -> tuple[str, bytes]:
    """Ending and bytes of a portrait in some format, mode, size, with or without metadata."""
    return _first_that_works(_picture, rng)


def sound(rng: random.Random, folder: Path) -> Path:
    """A sound in some container, codec, rate and number of channels, written to a folder."""
    return _first_that_works(lambda rng: _sound(rng, folder), rng)


def film(rng: random.Random, folder: Path) -> Path:
    """A short film of a face that brightens, with or without a sound."""
    return _first_that_works(lambda rng: _film(rng, folder), rng)


def _first_that_works(make: Callable[[random.Random], tuple[str, bytes]], rng: random.Random):
    """Not every combination can be encoded by what is installed here."""
    for _ in range(NUM_TRIES):
        try:
            return make(rng)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SystemError, av.error.FFmpegError):
            continue
    raise NotMadeError(f"none of {NUM_TRIES} variants could be made")


def _picture(rng: random.Random) -> tuple[str, bytes]:
    suffix = rng.choice([ending for ending in PICTURES if ending != ".avif" or features.check("avif")])
    image = Image.fromarray(face(rng.randrange(2)))
    if rng.random() < 0.4:
        image = image.resize((rng.choice(SIDES_PX), rng.choice(SIDES_PX)))
    image = _in_mode(image, rng.choice(PICTURES[suffix]))
    data = io.BytesIO()
    image.save(data, Image.registered_extensions()[suffix], **_options(suffix, image, rng))
    return suffix, data.getvalue()


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.merge("LAB", image.split())
    return image.convert(mode)


def _options(suffix: str, image: Image.Image, rng: random.Random) -> dict:
    options = {}
    if suffix in (".jpg", ".png", ".webp", ".avif") and rng.random() < 0.4:
        options["exif"] = _exif(rng)
    if suffix in (".jpg", ".png", ".webp", ".avif") and rng.random() < 0.3:
        options["icc_profile"] = rng.choice([b"", b"garbage", rng.randbytes(500), rng.randbytes(128)])
    # not AVIF: its animations hold the time of day
    if suffix in (".gif", ".webp", ".png", ".tif") and rng.random() < 0.3:
        options |= {
            "save_all": True,
            "append_images": [image.rotate(9 * i) for i in range(rng.choice([1, 3]))],
        }
    if suffix == ".jpg":
        options |= {"quality": rng.choice([1, 30, 95]), "progressive": rng.random() < 0.3}
    if suffix == ".tif":  # metadata and JPEG in modes that do not go with them make Pillow's encoder crash
        kinds = [None, "tiff_lzw", "tiff_deflate", "packbits"]
        options["compression"] = rng.choice([*kinds, "jpeg"] if image.mode in ("RGB", "L") else kinds)
    if image.mode == "P" and rng.random() < 0.5:
        options["transparency"] = rng.choice([0, 255, b"\0\x80"])
    return options


def _exif(rng: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = rng.choice([*range(10), 65535])
    exif[0x010F] = "maker" * rng.choice([1, 100])
    if rng.random() < 0.3:
        exif[0x8769] = {0xA002: 2**31}
    data = exif.tobytes()
    return data if rng.random() < 0.7 else data[: rng.randrange(len(data))] + rng.randbytes(20)


def _sound(rng: random.Random, folder: Path) -> Path:
    suffix, codec = rng.choice(SOUNDS)
    rate_hz, channels = rng.choice(RATES_HZ), rng.choice(CHANNELS)
    rate_hz = {"libopus": 48_000, "libopencore_amrnb": 8_000}.get(codec, rate_hz)
    samples = speechlike(rng.choice(SOUND_S), rate_hz, channels, seed=rng.randrange(3))
    path = folder / f"sound{suffix}"
    path.unlink(missing_ok=True)
    return write_sound(path, samples * rng.choice([1.0, 1.0, 0.0, 1e-6, 2.0]), rate_hz, codec)


@keeps_priority()
def _film(rng: random.Random, folder: Path) -> Path:
    suffix, codec = rng.choice(FILMS)
    path = folder / f"film{suffix}"
    path.unlink(missing_ok=True)
    num_frames, size = rng.choice([1, 12, 25, 30]), rng.choice([FILM_PX, FILM_PX, FILM_PX + 32])
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rng.choice([FILM_FPS, FILM_FPS, 30, 5]))
        video.width, video.height = size, FILM_PX
        formats = [each.name for each in video.codec.video_formats or ()]
        video.pix_fmt = "yuv420p" if "yuv420p" in formats or not formats else formats[0]
        if rng.random() < 0.2:
            video.codec_context.sample_aspect_ratio = Fraction(
                rng.choice([4, 1, 1000]), rng.choice([3, 1000])
            )
        sound_codec = FILM_SOUNDS.get(suffix, "aac") if rng.random() < 0.85 else None
        heard = container.add_stream(sound_codec, rate=48_000, layout="mono") if sound_codec else None
        picture = Image.fromarray(face(rng.randrange(2))).resize((size, FILM_PX))
        for i in range(num_frames):
            lit = np.clip(np.asarray(picture).astype(np.int16) + i, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(lit, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FILM_FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if heard:
            _write_film_sound(container, heard, num_frames / FILM_FPS, rng)
    return path


def _write_film_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, duration_s: float, rng: random.Random
) -> None:
    samples = speechlike(max(duration_s * rng.choice([1, 1, 0.5, 2]), 0.05), 48_000)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="flt", layout="mono")
    frame.sample_rate = 48_000
    frame.pts, frame.time_base = round(48_000 * rng.choice([0, 0, 0, 0.3])), Fraction(1, 48_000)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
