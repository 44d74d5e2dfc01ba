"""Recorded speech: folders of sound with texts and, where there are, times of words or phonemes.

Source: ours. Who says what is in a manifest (a .csv with a column `file`, and `speaker`, `language`, `transcript`,
`use`, `licence` if it has them) or in a text beside the sound. Times come from Praat's TextGrids, GRID's .align
(1/25000 s) and JSON (lines with `id` and `words`, or pocketsphinx's own form).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from openloopy.media.text_file import expected, parse_json, read_json, read_table, read_text
from openloopy.puppet.sentences import Split
from openloopy.puppet.utterance import PAUSE_SYMBOL, Alphabet, Phoneme

SOUND_SUFFIXES = frozenset(".wav .flac .ogg .mp3 .m4a .opus .mpg .mp4 .mov .mkv .webm".split())
TEXT_SUFFIXES = (".txt", ".lab", ".normalized.txt")
ALIGN_FOLDERS = ("", "align", "alignments")
"""Beside the sound, or in one of these folders beside it."""
ALIGN_UNITS_PER_S = 25_000
SILENCES = frozenset(
    ("", "sil", "<sil>", "sp", "spn", "pau", "silence", "[noise]", "[speech]", "<s>", "</s>", "_")
)
TIMES_EXPECTED = "an object with `id` and `words`, each with its start and duration"
_ARPABET = re.compile(r"[A-Z]{1,3}[0-2]?")
_PHONE_TIERS, _WORD_TIERS = ("phone", "phones", "phonemes", "segments", "mau"), ("word", "words", "ort")


@dataclass(frozen=True)
class Word:
    """A word, or silence (`sil`), with its time."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One sound file and what is known of it."""

    path: Path
    speaker: str
    language: str = ""
    """Two letters, or unknown."""
    text: str = ""
    words: tuple[Word, ...] = ()
    phonemes: tuple[Phoneme, ...] | None = None
    split: Split = "train"
    licence: str = ""


def read_recordings(folder: Path, *, held_out: Iterable[str] = ()) -> list[Recording]:
    """All sounds of a folder and below; speakers in `held_out` are of split val, files whose `use` is test of test.

    Raises:
        ValueError: no sound, a manifest without `file`, or times that cannot be read (it says which file).
    """
    manifest = next((path for path in sorted(folder.glob("*.csv"))), None)
    found = _from_manifest(folder, manifest) if manifest else _from_files(folder)
    if not found:
        raise ValueError(f"{folder} holds no sound ({', '.join(sorted(SOUND_SUFFIXES))})")
    rows, held_out = _timed_rows(folder), set(held_out)
    recordings = [_with_times(recording, folder, rows) for recording in found]
    return [
        replace(r, split="val") if r.speaker in held_out and r.split == "train" else r for r in recordings
    ]


def read_align(path: Path) -> list[Word]:
    """GRID's lines `start end word`, in 1/25000 s."""
    rows = [line.split() for line in read_text(path, "word times").splitlines() if line.strip()]
    try:
        return [Word(int(a) / ALIGN_UNITS_PER_S, int(b) / ALIGN_UNITS_PER_S, text) for a, b, text in rows]
    except ValueError as error:
        raise ValueError(f"{path}: expected lines `start end word` in 1/25000 s: {error}") from error


def read_textgrid(path: Path) -> tuple[tuple[Word, ...], tuple[Phoneme, ...] | None]:
    """Words and phonemes of a TextGrid; one without such tiers gives its first tier as words."""
    from praatio import textgrid

    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    except Exception as error:  # praatio raises many kinds, ValueError and IndexError among them
        raise ValueError(
            f"{path} is no TextGrid that can be read: {type(error).__name__}: {error}"
        ) from error
    tiers = {name.lower(): grid.getTier(name).entries for name in grid.tierNames}
    phones = next((entries for name, entries in tiers.items() if _is_tier(name, _PHONE_TIERS)), None)
    words = next((entries for name, entries in tiers.items() if _is_tier(name, _WORD_TIERS)), None)
    if words is None and phones is None and tiers:
        words = next(iter(tiers.values()))
    spans = [(float(start), float(end), label) for start, end, label in phones or ()]
    return (
        tuple(Word(float(start), float(end), label) for start, end, label in words or ()),
        phonemes_of_spans(spans) if phones else None,
    )


def phonemes_of_spans(spans: Sequence[tuple[float, float, str]]) -> tuple[Phoneme, ...]:
    """Spans as phonemes; the alphabet is ARPAbet where all letters are capitals of it, IPA otherwise.

    Raises:
        ValueError: spans that end before they start, or lie over one another.
    """
    spoken = [label for _, _, label in spans if label.strip().lower() not in SILENCES]
    alphabet: Alphabet = "arpabet" if all(_ARPABET.fullmatch(label) for label in spoken) else "ipa"
    phonemes = [
        Phoneme(start_s=start_s, end_s=end_s, symbol=_symbol(label, alphabet), alphabet=alphabet)
        for start_s, end_s, label in sorted(spans)
    ]
    for before, after in pairwise(phonemes):
        if before.end_s > after.start_s + 0.011:
            raise ValueError(f"{before} and {after} lie over one another")
    if any(p.end_s < p.start_s for p in phonemes):
        raise ValueError("a phoneme ends before it starts")
    return tuple(phonemes)


def _is_tier(name: str, kinds: tuple[str, ...]) -> bool:
    return any(part in kinds for part in re.split(r"[^a-z]+", name))


def _symbol(label: str, alphabet: Alphabet) -> str:
    if label.strip().lower() in SILENCES:
        return PAUSE_SYMBOL
    return label.rstrip("012").lower() if alphabet == "arpabet" else label


def _from_manifest(folder: Path, manifest: Path) -> list[Recording]:
    rows = read_table(manifest, "a list of recordings", ("file",))
    return [
        Recording(
            path=folder / row["file"],
            speaker=row.get("speaker") or _speaker_of(folder / row["file"], folder),
            language=row.get("language") or "",
            text=row.get("transcript") or row.get("text") or "",
            split="test" if (row.get("use") or "").startswith("test") else "train",
            licence=row.get("licence") or row.get("license") or "",
        )
        for row in rows
        if Path(row["file"]).suffix.lower() in SOUND_SUFFIXES
    ]


def _from_files(folder: Path) -> list[Recording]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUND_SUFFIXES)
    return [
        Recording(path=path, speaker=_speaker_of(path, folder), text=_text_beside(path)) for path in paths
    ]


def _speaker_of(path: Path, folder: Path) -> str:
    """The folder it lies in."""
    return path.parent.name if path.parent != folder else folder.name


def _text_beside(path: Path) -> str:
    texts = (path.with_suffix(suffix) for suffix in TEXT_SUFFIXES)
    return next((read_text(text, "what is said").strip() for text in texts if text.exists()), "")


def _with_times(recording: Recording, folder: Path, rows: dict[str, dict]) -> Recording:
    path = recording.path
    words, phonemes = recording.words, recording.phonemes
    for beside in _beside(path, (".TextGrid", "_words.TextGrid", "_phones.TextGrid")):
        more_words, more_phonemes = read_textgrid(beside)
        words, phonemes = words or more_words, phonemes or more_phonemes
    for beside in _beside(path, (".align",)):
        words = tuple(read_align(beside))
    row = next((rows[k] for k in (str(path.relative_to(folder)), path.name, path.stem) if k in rows), None)
    if row is None:
        row = next((read_json(b, TIMES_EXPECTED) for b in _beside(path, (".phone.json",))), None)
    if row is not None:
        with expected(f"times of {path}", TIMES_EXPECTED):
            words, phonemes = _of_json(row)
    text = recording.text or " ".join(w.text for w in words if w.text.lower() not in SILENCES)
    return replace(recording, words=words, phonemes=phonemes, text=text)


def _beside(path: Path, endings: tuple[str, ...]) -> list[Path]:
    places = (path.parent / name / f"{path.stem}{ending}" for name in ALIGN_FOLDERS for ending in endings)
    return [place for place in places if place.exists()]


def _timed_rows(folder: Path) -> dict[str, dict]:
    """JSON lines of the folder by their id."""
    rows = {}
    for path in sorted(folder.rglob("*.jsonl")):
        for number, line in enumerate(read_text(path, TIMES_EXPECTED).splitlines(), 1):
            with expected(f"{path}, line {number}", TIMES_EXPECTED):
                row = parse_json(line)
                rows[str(row["id"])] = row
    return rows


def _of_json(row: dict) -> tuple[tuple[Word, ...], tuple[Phoneme, ...] | None]:
    """Words with their phones, under long names (`start`, `duration`, `word`, `phones`) or pocketsphinx's letters."""
    words, spans = [], []
    for word in row.get("words") or row.get("w") or ():
        phones = [_span(phone) for phone in word.get("phones") or word.get("w") or ()]
        spans += phones
        if phones:
            text = word.get("word") or word.get("t") or ""
            if not isinstance(text, str):
                raise ValueError(f"{text!r} is no word")
            words.append(Word(phones[0][0], phones[-1][1], text))
        else:
            words.append(Word(*_span(word)))
    return tuple(words), phonemes_of_spans(spans) if spans else None


def _span(timed: dict) -> tuple[float, float, str]:
    start_s = float(timed["start"] if "start" in timed else timed["b"])
    label = next((timed[key] for key in ("phone", "word", "t") if key in timed), None)
    end_s = start_s + float(timed["duration"] if "duration" in timed else timed["d"])
    if not isinstance(label, str) or not math.isfinite(end_s):
        raise ValueError(f"{timed} has no label, or no time")
    return start_s, end_s, label
