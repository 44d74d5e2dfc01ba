"""A folder of speech with known phoneme times: what Kokoro said, and what people said.

Source: ours. `speech.jsonl` has a line for each sound, which lies beside it as FLAC of 16 kHz. Synthesis by Kokoro
takes half a second of one core for a second of speech: it is done once and read often.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from openloopy.data.tasks import map_tasks
from openloopy.media.audio import SAMPLE_RATE_HZ, open_sound
from openloopy.media.files import MediaError, atomic_write, make_folder, only_run_in, remove_partial_files
from openloopy.media.text_file import parse_json
from openloopy.puppet.alignment import Aligner, Transcriber
from openloopy.puppet.recorded import Recording, read_recordings
from openloopy.puppet.sentences import Split
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.puppet.utterance import Alphabet, Engine, Phoneme, Speaker, Utterance

INDEX_NAME = "speech.jsonl"
KOKORO_UTTERANCE_S = (8.0, 20.0)
KOKORO_MEAN_S = sum(KOKORO_UTTERANCE_S) / 2


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One sound of a speech folder, and what is known of it."""

    path: Path
    split: Split
    speaker: str
    language: str
    duration_s: float
    engine: Engine
    text: str = ""
    phonemes: tuple[Phoneme, ...] | None = None
    """None where nobody knows their times."""
    licence: str = ""

    def read(self) -> Utterance:
        """The sound with its phonemes."""
        waveform, rate_hz = soundfile.read(self.path, dtype="float32")
        if rate_hz != SAMPLE_RATE_HZ or waveform.ndim != 1:
            raise ValueError(
                f"{self.path}: expected mono of {SAMPLE_RATE_HZ} Hz, got {waveform.shape} at {rate_hz} Hz"
            )
        speaker = Speaker(engine=self.engine, language=self.language, voice=self.speaker)
        return Utterance(waveform=waveform, phonemes=self.phonemes or (), text=self.text, speaker=speaker)


def read_speech_folder(folder: Path, split: Split | None = None) -> list[Spoken]:
    """The sounds of a folder, of one split or of all.

    Raises:
        ValueError: no index, or a line that does not tell what it must.
    """
    index = folder / INDEX_NAME
    if not index.exists():
        raise ValueError(
            f"{folder} is no speech folder: {INDEX_NAME} is missing; `openloopy speech` makes one"
        )
    spoken = []
    for number, line in enumerate(index.read_text().splitlines(), 1):
        try:
            spoken.append(_of_row(folder, parse_json(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{index}, line {number}: {type(error).__name__}: {error}") from error
    return [sound for sound in spoken if split is None or sound.split == split]


def add_kokoro(folder: Path, *, hours: float, split: Split, seed: int = 0, workers: int = 1) -> None:
    """Let Kokoro's voices of a split speak for so long. What is there already stays and counts."""
    if not 0 <= hours < math.inf:
        raise ValueError(f"hours must be a number that is not negative, got {hours}")
    with _at_work_in(folder) as names:
        _speak_missing(folder, names, hours=hours, split=split, seed=seed, workers=workers)


def _speak_missing(
    folder: Path, names: set[str], *, hours: float, split: Split, seed: int, workers: int
) -> None:
    wanted = [_kokoro_name(split, seed, i) for i in range(round(hours * 3600 / KOKORO_MEAN_S))]
    numbers = [i for i, name in enumerate(wanted) if name not in names]
    speak_one = partial(_speak_kokoro, folder, split, seed)
    for sound in map_tasks(speak_one, numbers, workers=workers, title=f"{split} speech"):
        append([sound], folder)


def add_recorded(
    folder: Path,
    source: Path,
    *,
    held_out: Iterable[str] = (),
    languages: Sequence[str] = (),
    transcribe: bool = True,
) -> Counter[str]:
    """Bring the recordings of a folder in, and find times of phonemes where English has none.

    What is there already stays. Where a text does not agree with its sound, or nobody knows the words, a sound comes
    without phonemes. `languages`: only these. Returns how many came in which way.
    """
    source = Path(os.path.abspath(source))  # "." and ".." are no names for speakers and files
    recordings = [
        r for r in read_recordings(source, held_out=held_out) if not languages or r.language in languages
    ]
    with _at_work_in(folder) as names:
        wanted = [(r, name) for r in recordings if (name := _recorded_name(r, source)) not in names]
        aligner, transcriber, counts = Aligner(), Transcriber() if transcribe else None, Counter()
        add_one = partial(_add_recording, folder, aligner, transcriber)
        for sound, way in map_tasks(add_one, wanted, workers=1, title=source.name):
            counts[way] += 1
            if sound is not None:
                append([sound], folder)
    return counts


@contextlib.contextmanager
def _at_work_in(folder: Path) -> Iterator[set[str]]:
    """The names of the sounds that are there; no other run may add some meanwhile."""
    make_folder(folder)
    with only_run_in(folder):
        remove_partial_files(folder)
        _cut_half_line(folder / INDEX_NAME)
        known = read_speech_folder(folder) if (folder / INDEX_NAME).exists() else []
        yield {sound.path.stem for sound in known}


def _cut_half_line(index: Path) -> None:
    """What a killed run had begun to write; its sound is brought in again."""
    lines = index.read_bytes() if index.exists() else b""
    if not lines.endswith(b"\n") and lines:
        os.truncate(index, lines.rfind(b"\n") + 1)


def append(sounds: Iterable[Spoken], folder: Path) -> None:
    """Lines for sounds that lie in the folder already."""
    lines = [json.dumps(_row(folder, sound), ensure_ascii=False) + "\n" for sound in sounds]
    with open(folder / INDEX_NAME, "a") as file:
        file.writelines(lines)


def write_sound(folder: Path, name: str, waveform: np.ndarray) -> Path:
    """A FLAC of 16 kHz, whole or not at all."""
    path = folder / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        soundfile.write(temporary, waveform, SAMPLE_RATE_HZ, format="FLAC")
    return path


def hours_of(sounds: Sequence[Spoken]) -> float:
    return sum(sound.duration_s for sound in sounds) / 3600


def _recorded_name(recording: Recording, source: Path) -> str:
    return "-".join(recording.path.relative_to(source.parent).with_suffix("").parts)


def _add_recording(
    folder: Path, aligner: Aligner, transcriber: Transcriber | None, task: tuple[Recording, str]
) -> tuple[Spoken | None, str]:
    """The sound as it was brought in, and how."""
    recording, name = task
    try:
        opened = open_sound(recording.path)
    except MediaError as error:
        print(f"left out: {error}")
        return None, "left out"
    if opened.losses:  # what is learned from must be whole
        print(f"left out: {opened.notes[0]}")
        return None, "left out"
    waveform = np.asarray(opened.waveform.whole(), np.float32)
    phonemes, way = _timed(recording, waveform, aligner, transcriber)
    sound = Spoken(
        path=write_sound(folder, name, waveform),
        split=recording.split,
        speaker=recording.speaker,
        language=recording.language,
        duration_s=len(waveform) / SAMPLE_RATE_HZ,
        engine="recorded",
        text=recording.text,
        phonemes=phonemes,
        licence=recording.licence,
    )
    return sound, way


def _timed(
    recording: Recording, waveform: np.ndarray, aligner: Aligner, transcriber: Transcriber | None
) -> tuple[tuple[Phoneme, ...] | None, str]:
    if recording.phonemes is not None:
        return recording.phonemes, "given"
    if recording.language not in ("en", ""):
        return None, "no times"
    if recording.text:
        found = aligner.align_text(waveform, recording.text)
        if found is not None and found.is_sure:
            return found.phonemes, "aligned"
        return None, "text does not agree"
    if transcriber is not None and recording.language == "en":
        found = aligner.align_phones(waveform, transcriber.words(waveform))
        if found is not None and found.is_sure:
            return found.phonemes, "transcribed"
    return None, "no times"


def _kokoro_name(split: Split, seed: int, number: int) -> str:
    return f"kokoro-{split}-{seed}-{number:05d}"


def _speak_kokoro(folder: Path, split: Split, seed: int, number: int) -> Spoken:
    rng = np.random.default_rng([seed, ("train", "val", "test").index(split), number])
    speaker = draw_speaker(rng, split, kokoro_share=1.0)
    utterance = utter(rng, speaker, float(rng.uniform(*KOKORO_UTTERANCE_S)), split)
    path = write_sound(folder, _kokoro_name(split, seed, number), utterance.waveform)
    return Spoken(
        path=path,
        split=split,
        speaker=speaker.voice,
        language=speaker.language,
        duration_s=utterance.duration_s,
        engine="kokoro",
        text=utterance.text,
        phonemes=utterance.phonemes,
    )


def _row(folder: Path, sound: Spoken) -> dict:
    phonemes = None
    if sound.phonemes is not None:
        phonemes = [[round(p.start_s, 3), round(p.end_s, 3), p.symbol, p.alphabet] for p in sound.phonemes]
    return {
        "file": str(sound.path.relative_to(folder)),
        "split": sound.split,
        "speaker": sound.speaker,
        "language": sound.language,
        "seconds": round(sound.duration_s, 3),
        "engine": sound.engine,
        "text": sound.text,
        "phonemes": phonemes,
        "licence": sound.licence,
    }


def _of_row(folder: Path, row: dict) -> Spoken:
    phonemes = row["phonemes"]
    if phonemes is not None:
        phonemes = tuple(_phoneme(*span) for span in phonemes)
    return Spoken(
        path=folder / row["file"],
        split=row["split"],
        speaker=row["speaker"],
        language=row["language"],
        duration_s=row["seconds"],
        engine=row["engine"],
        text=row["text"],
        phonemes=phonemes,
        licence=row.get("licence", ""),
    )


def _phoneme(start_s: float, end_s: float, symbol: str, alphabet: Alphabet) -> Phoneme:
    return Phoneme(start_s=start_s, end_s=end_s, symbol=symbol, alphabet=alphabet)
