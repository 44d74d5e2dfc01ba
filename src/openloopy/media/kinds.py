"""What a file holds, by its first bytes: for a word in time to whoever mixed files up, before anything is decoded.

Sources: the formats' own definitions, as collected in file(1)'s magic; brands of ISO files: ISO/IEC 14496-12,
23008-12 (HEIF) and AV1's AVIF.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HEAD_BYTES = 16
PICTURE_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"})
RIFF = {b"WAVE": ("sound", "WAV"), b"AVI ": ("video", "AVI"), b"WEBP": ("picture", "WebP")}
STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89PNG\r\n", "picture", "PNG"),
    (b"\xff\xd8\xff", "picture", "JPEG"),
    (b"GIF8", "picture", "GIF"),
    (b"II*\0", "picture", "TIFF"),
    (b"MM\0*", "picture", "TIFF"),
    (b"\xff\x0a", "picture", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "picture", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "picture", "JPEG 2000"),
    (b"RF64", "sound", "WAV"),
    (b"ID3", "sound", "MP3"),
    (b"fLaC", "sound", "FLAC"),
    (b"caff", "sound", "CAF"),
    (b"#!AMR", "sound", "AMR"),
    (b"wvpk", "sound", "WavPack"),
    (b"riff\x2e\x91\xcf\x11", "sound", "Wave64"),
    (b"\x1a\x45\xdf\xa3", "video", "Matroska or WebM"),
    (b"FLV\x01", "video", "FLV"),
    (b"\0\0\x01\xba", "video", "MPEG"),
    (b"OggS", "sound", "Ogg"),
)


@dataclass(frozen=True)
class FileKind:
    """What a file holds, and the name of its format."""

    kind: Literal["picture", "sound", "video"]
    name: str

    def __str__(self) -> str:
        return f"a {self.kind} ({self.name})"


def kind_of(path: Path | str) -> FileKind | None:
    """What the first bytes say; None where they are no sure sign (MP3 without a tag, raw sound, text, ...)."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head[4:8] == b"ftyp":
        return _of_brand(head[8:12])
    if head[:4] == b"RIFF" and head[8:12] in RIFF:
        return FileKind(*RIFF[head[8:12]])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return FileKind("sound", "AIFF")
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return FileKind("picture", "BMP")
    return next((FileKind(kind, name) for start, kind, name in STARTS if head.startswith(start)), None)


def _of_brand(brand: bytes) -> FileKind:
    if brand in PICTURE_BRANDS:
        return FileKind("picture", "AVIF" if brand.startswith(b"avi") else "HEIF")
    return FileKind("sound", "M4A") if brand.startswith(b"M4A") else FileKind("video", "MP4")
