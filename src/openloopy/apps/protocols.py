"""Which videos an evaluation is made of: folders, published data sets, the open set, other methods' outputs.

Sources: Loopy (arXiv:2409.02634), test sets: 100 random CelebV-HQ videos, RAVDESS, an open set of 20 portraits and
20 sounds. The paper names neither its videos nor its pairs, so both are drawn here from a seed and recorded. What
is known of each published layout stands beside the code that reads it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from openloopy.data.sources import VIDEO_SUFFIXES
from openloopy.media.picture_file import PICTURE_ENDINGS
from openloopy.media.text_file import read_json, read_table

Kind = Literal["video", "sound", "picture"]
SUFFIXES: dict[Kind, frozenset[str]] = {
    "video": VIDEO_SUFFIXES,
    "sound": frozenset({".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus"}),
    "picture": PICTURE_ENDINGS,
}

# CelebV-HQ/CelebV-HQ, README and download_and_process.py: a clip is called after its key in celebvhq_info.json, the
# YouTube id (11 characters, - and _ among them), _ and a number. An addition such as _crop is let through.
CELEBV_HQ_NAME = re.compile(r"(?P<clip>[\w-]{11}_\d+)(?:_.+)?", re.ASCII)
CELEBV_HQ_INFO = "celebvhq_info.json"
CELEBV_HQ_CLIPS = 35_666
CELEBV_HQ_TEST_CLIPS = 100

# RAVDESS (Livingstone and Russo 2018, zenodo.org/record/1188976), "Filename identifiers": seven two-digit fields,
# for example 02-01-06-01-02-01-12.mp4. Video-only files have no sound; audio-only ones are .wav.
RAVDESS_NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
RAVDESS_MODALITIES = ("full-AV", "video-only", "audio-only")
RAVDESS_CHANNELS = ("speech", "song")
RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
RAVDESS_INTENSITIES = ("normal", "strong")
RAVDESS_EXPECTED = "expected Actor_01 ... Actor_24 with files such as 01-01-06-01-02-01-12.mp4"

# MRzzm/HDTF, download.py: f"{subset}_{video}_{clip_idx:03d}.mp4"; its subsets are RD, WDA and WRA. Its folder
# _videos_raw holds whole videos, whose names have no clip number. The README's own Radio11_0.mp4 lacks the subset, and
# is not read: the name would not tell the category.
HDTF_NAME = re.compile(r"(?P<subset>RD|WDA|WRA)_[\w-]+_\d+", re.ASCII)

OPEN_SET_SIZE = 20
OPEN_SET_CATEGORIES: dict[Kind, tuple[str, ...]] = {
    "picture": ("real", "anime", "side face", "humanoid crafts"),
    "sound": ("speech", "singing", "rap", "emotional"),
}

Method = Literal["sadtalker", "hallo", "vexpress", "echomimic"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One video to measure, and what belongs to it."""

    name: str
    generated: Path | None
    truth: Path | None
    portrait: Path | None
    """None with a `truth`: its first frame."""
    audio: Path | None
    """A sound file, or a video for its sound."""
    category: str = ""


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The cases of an evaluation, what was left out or is missing, and how they came about."""

    cases: list[Case]
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        repeated = [name for name, count in Counter(case.name for case in self.cases).items() if count > 1]
        if repeated:
            raise ValueError(f"cases need names of their own, these come up twice: {_listed(repeated)}")

    def record(self) -> dict[str, Any]:
        """For the report's JSON: enough to choose the same videos again."""
        names = [case.name for case in self.cases]
        return {"seed": self.seed, "counts": self.counts, "names": names, "notes": self.notes}


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """A method's videos by case name, and what could not be assigned."""

    paths: dict[str, Path]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class RavdessName:
    """What the seven fields of a RAVDESS file name say."""

    modality: str
    channel: str
    emotion: str
    intensity: str
    statement: int
    repetition: int
    actor: int
    """1 to 24; odd are male, even female."""


def plain_cases(generated: Path, truth: Path | None, audio: Path | None) -> Cases:
    """Every video of a folder, with the real video and the sound of the same name.

    A name is the path inside the folder without its ending. A video without a partner stays a case, and is noted.

    Args:
        audio: a folder of sound files, or, if it has none, of videos whose sound counts.
    """
    videos = _by_name(_files(generated, "video"), _inside(generated))
    notes = _notes({"not videos": _strangers(generated, "video")})
    partners: dict[str, Mapping[str, Path]] = {"real video": {}, "sound": {}}
    for what, folder in (("real video", truth), ("sound", audio)):
        if folder is not None:
            kind = "sound" if what == "sound" and _find(folder, "sound") else "video"
            partners[what] = _by_name(_files(folder, kind), _inside(folder))
            notes += _partner_notes(videos, partners[what], f"{what} in {folder}")
    truths, sounds = partners.values()
    cases = [
        Case(name=name, generated=path, truth=truths.get(name), portrait=None, audio=sounds.get(name))
        for name, path in videos.items()
    ]
    return Cases(cases=cases, notes=notes, counts={"cases": len(cases)})


def celebv_hq_cases(folder: Path, *, count: int = CELEBV_HQ_TEST_CLIPS, seed: int = 0) -> Cases:
    """Random CelebV-HQ clips, with their own sound; the category is the annotated emotion, if the JSON is there.

    Source: Loopy tests on 100 random videos and does not name them; ours are drawn from the seed.
    """
    clips, others = _clips(folder, CELEBV_HQ_NAME, "<YouTube id>_<number>.mp4")
    emotions = _celebv_hq_emotions(folder / CELEBV_HQ_INFO)
    keys = {stem: _celebv_hq_key(stem) for stem in clips}
    cases = [_real_case(stem, path, emotions.get(keys[stem], "")) for stem, path in clips.items()]
    unlisted = [stem for stem in clips if emotions and keys[stem] not in emotions]
    notes = _notes({"not named like clips": others, f"not in {CELEBV_HQ_INFO}": unlisted})
    if not emotions:
        notes.append(f"no {CELEBV_HQ_INFO} in {folder}: no categories")
    if len(clips) != CELEBV_HQ_CLIPS:
        notes.append(f"drawn from {len(clips)} clips; {CELEBV_HQ_CLIPS} were published")
    return sample(Cases(cases=cases, notes=notes, counts={"found": len(clips)}), count, seed)


def ravdess_name(stem: str) -> RavdessName | None:
    """The fields of a RAVDESS file name; None for other names."""
    match = RAVDESS_NAME.fullmatch(stem)
    if match is None:
        return None
    modality, channel, emotion, intensity, statement, repetition, actor = map(int, match.groups())
    return RavdessName(
        modality=RAVDESS_MODALITIES[modality - 1],
        channel=RAVDESS_CHANNELS[channel - 1],
        emotion=RAVDESS_EMOTIONS[emotion - 1],
        intensity=RAVDESS_INTENSITIES[intensity - 1],
        statement=statement,
        repetition=repetition,
        actor=actor,
    )


def ravdess_cases(folder: Path, *, channel: Literal["speech", "song"] | None = "speech") -> Cases:
    """One case per RAVDESS recording, however its three modalities were downloaded; the category is the emotion.

    The full-AV file is both truth and sound. Without it the video-only file is the truth, and only an audio-only
    file can give the sound. Loopy does not say whether it used the songs (`channel` None: both).
    """
    recordings, others = _ravdess_recordings(folder)
    chosen = {key: files for key, files in recordings.items() if channel in (None, _channel(files))}
    cases = [_ravdess_case(files) for files in chosen.values() if files.keys() & {"full-AV", "video-only"}]
    if not cases:
        raise ValueError(
            f"no RAVDESS videos of {channel or 'speech or song'} in {folder}; {RAVDESS_EXPECTED}"
        )
    notes = _notes({"not RAVDESS files": others, "without sound": [c.name for c in cases if c.audio is None]})
    twins = sum({"full-AV", "video-only"} <= files.keys() for files in chosen.values())
    counts = {
        "found": len(recordings),
        f"not {channel}": len(recordings) - len(chosen),
        "sound only": len(chosen) - len(cases),
        "video-only twins left aside": twins,
        "cases": len(cases),
    }
    return Cases(cases=cases, notes=notes, counts={what: n for what, n in counts.items() if n})


def hdtf_cases(folder: Path, *, audio: Path | None = None) -> Cases:
    """The clips of HDTF; the category is the subset (RD, WDA or WRA).

    Args:
        audio: a folder with sound files called like the clips; None: the clips have sound.
    """
    clips, others = _clips(folder, HDTF_NAME, "RD_Radio10_000.mp4")
    sounds = None if audio is None else _by_name(_files(audio, "sound"), lambda path: path.stem)
    cases = [_real_case(stem, path, stem.split("_")[0]) for stem, path in clips.items()]
    if sounds is not None:
        cases = [replace(case, audio=sounds.get(case.name)) for case in cases]
    notes = _notes({"not named like clips": others, "without sound": [c.name for c in cases if not c.audio]})
    if sounds is None:
        # MRzzm/HDTF, download.py fetches "bestvideo" alone and says "(note: without sound)".
        notes.append("sound is expected in the clips; HDTF's download.py saves them silent (then give audio)")
    return Cases(cases=cases, notes=notes, counts={"cases": len(cases)})


def open_set_cases(portraits: Path, sounds: Path, *, seed: int = 0, count: int | None = None) -> Cases:
    """Pairs of a portrait and a sound in which every portrait and every sound comes up.

    Source: Loopy's open set, 20 portraits of four kinds and 20 sounds of four kinds. How they were paired is not
    said; ours: kinds of portraits in turns against sounds kind by kind, so that 4 x 5 of each meet in all ways.

    Args:
        portraits, sounds: a folder with one subfolder per category, or a .csv with the columns file, category.
        count: number of pairs, at most all combinations; None: as many as there are portraits or sounds.
    """
    pictures, voices = _categorised(portraits, "picture"), _categorised(sounds, "sound")
    count = max(len(pictures), len(voices)) if count is None else count
    _check_pair_count(count, len(pictures), len(voices))
    turns = [stem for row in zip_longest(*_groups(pictures, seed)) for stem in row if stem is not None]
    blocks = [stem for group in _groups(voices, seed) for stem in group]
    cases = [_pair_case(pictures[first], voices[second]) for first, second in pairs(turns, blocks, count)]
    notes = _open_set_notes(pictures, "picture") + _open_set_notes(voices, "sound")
    counts = {
        "cases": len(cases),
        **_category_counts(pictures, "picture"),
        **_category_counts(voices, "sound"),
    }
    return Cases(cases=cases, notes=notes, counts=counts, seed=seed)


def pairs(first: Sequence[str], second: Sequence[str], count: int) -> list[tuple[str, str]]:
    """The first `count` of all pairs, all different, going through both lists at once.

    Both run in circles; after the least common multiple the second is moved on by one, or pairs would repeat.
    """
    period = math.lcm(len(first), len(second))
    return [(first[k % len(first)], second[(k + k // period) % len(second)]) for k in range(count)]


def sample(cases: Cases, count: int, seed: int) -> Cases:
    """`count` cases, by name; the seed and the names alone decide, not the order or the machine.

    A larger count keeps the cases of a smaller one.
    """
    if count < 1:
        raise ValueError(f"cannot choose {count} cases; give a count of at least 1")
    order = sorted(cases.cases, key=lambda case: _draw(seed, case.name))
    chosen = sorted(order[:count], key=lambda case: case.name)
    notes = list(cases.notes)
    if len(chosen) < count:
        notes.append(f"{count} cases were asked for, there are only {len(chosen)}: all are taken")
    counts = {**cases.counts, "cases": len(chosen)}
    return Cases(cases=chosen, notes=notes, counts=counts, seed=seed)


def adapt_outputs(folder: Path, method: Method, cases: Sequence[Case]) -> Outputs:
    """A method's output folder, searched with its subfolders: the video of each case.

    The names of the methods' files are made of the stems of portrait and sound, or chosen by the user; `cases` says
    which they may be. Where a case has no portrait or sound of its own, the last part of its name stands for it.
    """
    if method not in LAYOUTS:
        raise ValueError(f"{method!r} is no known method; expected one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[method]
    wanted = _wanted(cases, layout)
    found: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    lists = {f"unknown to {method} ({layout.expected})": [], "fit more than one case": []}
    unknown, unclear = lists.values()
    for path in _files(folder, "video"):
        rank, names = _assign(layout.readings(path, folder), wanted)
        if len(names) == 1:
            found[names[0]].append((rank, path))
        else:
            (unclear if names else unknown).append(_relative(path, folder))
    paths = {name: _best(candidates, name, method) for name, candidates in sorted(found.items())}
    lists["cases without a video"] = sorted({case.name for case in cases} - paths.keys())
    lists["cases with a silent video only"] = [name for name, path in paths.items() if layout.is_silent(path)]
    lists["earlier forms left aside (silent, cropped or not enhanced)"] = [
        _relative(path, folder) for name in paths for _, path in found[name] if path != paths[name]
    ]
    return Outputs(paths=paths, notes=_notes(lists))


def with_generated(cases: Cases, outputs: Outputs) -> Cases:
    """The same cases with a method's videos; those it has none for stay, without."""
    filled = [replace(case, generated=outputs.paths.get(case.name)) for case in cases.cases]
    counts = {**cases.counts, "generated": sum(case.generated is not None for case in filled)}
    return replace(cases, cases=filled, notes=cases.notes + outputs.notes, counts=counts)


# Files and names.


def _find(folder: Path, kind: Kind) -> list[Path]:
    """All such files in the folder and its subfolders, by name; not hidden ones (macOS leaves ._a.mp4)."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with {kind} files")
    return [path for path in _visible(folder) if path.suffix.lower() in SUFFIXES[kind]]


def _files(folder: Path, kind: Kind) -> list[Path]:
    found = _find(folder, kind)
    if not found:
        raise ValueError(f"no {kind} file in {folder}; looked for {', '.join(sorted(SUFFIXES[kind]))}")
    return found


def _strangers(folder: Path, kind: Kind) -> list[str]:
    return [_relative(path, folder) for path in _visible(folder) if path.suffix.lower() not in SUFFIXES[kind]]


def _visible(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file())
    return sorted(files, key=lambda path: _relative(path, folder))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _inside(folder: Path) -> Callable[[Path], str]:
    """Names files after their path in the folder, without the ending."""
    return lambda path: _relative(path.with_suffix(""), folder)


def _by_name(paths: Iterable[Path], name: Callable[[Path], str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        if (other := named.setdefault(name(path), path)) is not path:
            raise ValueError(f"{other} and {path} would both be called {name(path)!r}; rename or remove one")
    return named


def _notes(lists: Mapping[str, Sequence[str]]) -> list[str]:
    """One note per list that is not empty: how many, what about them, which."""
    return [f"{len(names)} {what}: {_listed(names)}" for what, names in lists.items() if names]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _partner_notes(videos: Mapping[str, Path], partners: Mapping[str, Path], what: str) -> list[str]:
    alone = [name for name in videos if name not in partners]
    if len(alone) == len(videos):
        raise ValueError(
            f"none of the {len(videos)} videos has a {what}: the videos are called {next(iter(videos))!r} and the "
            f"like, the others {next(iter(partners))!r} and the like; give both the same names and subfolders"
        )
    return _notes({f"without a {what}": alone, "without a generated video": sorted(partners.keys() - videos)})


def _draw(seed: int, name: str) -> str:
    """A number that orders names at random, the same on every machine."""
    return hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()


# Published data sets.


def _clips(folder: Path, pattern: re.Pattern[str], example: str) -> tuple[dict[str, Path], list[str]]:
    """Videos whose stem fits, by stem, and the others."""
    videos = _files(folder, "video")
    clips = _by_name((path for path in videos if pattern.fullmatch(path.stem)), lambda path: path.stem)
    if not clips:
        raise ValueError(
            f"none of the {len(videos)} videos in {folder} is called like {example} (the first is "
            f"{videos[0].name}); give the folder of clips as published, or compare plain folders"
        )
    return clips, [_relative(path, folder) for path in videos if not pattern.fullmatch(path.stem)]


def _real_case(name: str, path: Path, category: str) -> Case:
    return Case(name=name, generated=None, truth=path, portrait=None, audio=path, category=category)


def _celebv_hq_key(stem: str) -> str:
    """What a clip is called in celebvhq_info.json."""
    match = CELEBV_HQ_NAME.fullmatch(stem)
    assert match is not None
    return match["clip"]


def _celebv_hq_emotions(path: Path) -> dict[str, str]:
    """Emotion by clip. Source: CelebV-HQ's README; `labels` is a name, or a list where the emotion changes."""
    if not path.is_file():
        return {}
    try:
        clips = read_json(path, "CelebV-HQ's list")["clips"]
        labels = {key: clip["attributes"]["emotion"]["labels"] for key, clip in clips.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not CelebV-HQ's list ({error!r}); get it from github.com/CelebV-HQ/CelebV-HQ, or move it away"
        ) from error
    return {key: label if isinstance(label, str) else "changing" for key, label in labels.items()}


def _ravdess_recordings(folder: Path) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """By the six fields after the modality: the file of each modality. And the names that are none."""
    recordings, others = defaultdict(dict), []
    for path in [*_find(folder, "video"), *_find(folder, "sound")]:
        name, is_video = ravdess_name(path.stem), path.suffix.lower() in SUFFIXES["video"]
        if name is None or is_video == (name.modality == "audio-only"):
            others.append(_relative(path, folder))
        elif other := recordings[path.stem[3:]].get(name.modality):
            raise ValueError(f"{other} and {path} are the same recording; remove one")
        else:
            recordings[path.stem[3:]][name.modality] = path
    return dict(sorted(recordings.items())), others


def _channel(files: Mapping[str, Path]) -> str:
    return RAVDESS_CHANNELS[int(next(iter(files.values())).stem[3:5]) - 1]


def _ravdess_case(files: Mapping[str, Path]) -> Case:
    """full-AV alone has sound; a video-only file needs its audio-only twin."""
    truth = files.get("full-AV") or files["video-only"]
    name = ravdess_name(truth.stem)
    assert name is not None
    case = _real_case(truth.stem, truth, name.emotion)
    return replace(case, audio=files.get("full-AV") or files.get("audio-only"))


# The open set.


def _categorised(source: Path, kind: Kind) -> dict[str, tuple[Path, str]]:
    """By stem, after which most methods name their outputs: the file and its category."""
    listed = (
        _category_list(source, kind) if source.suffix.lower() == ".csv" else _category_folders(source, kind)
    )
    paths = _by_name((path for path, _ in listed), lambda path: path.stem)
    categories = dict(listed)
    return {stem: (path, categories[path]) for stem, path in paths.items()}


def _category_folders(folder: Path, kind: Kind) -> list[tuple[Path, str]]:
    paths = _files(folder, kind)
    if loose := [path.name for path in paths if path.parent == folder]:
        raise ValueError(
            f"{_listed(loose)} in {folder} have no category; move them to subfolders such as "
            f"{_listed(OPEN_SET_CATEGORIES[kind])}, or give a .csv with the columns file, category"
        )
    return [(path, path.relative_to(folder).parts[0]) for path in paths]


def _category_list(path: Path, kind: Kind) -> list[tuple[Path, str]]:
    """A CSV's files; relative paths start where it lies."""
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; expected a .csv with the columns file, category, or a folder"
        )
    rows = read_table(path, "a list of files", ("file", "category"))
    listed = [(path.parent / row["file"], row["category"].strip()) for row in rows]
    for file, category in listed:
        if not file.is_file() or file.suffix.lower() not in SUFFIXES[kind] or not category:
            raise ValueError(f"{path} lists {file} as {category!r}; expected a {kind} file and its category")
    if not listed:
        raise ValueError(f"{path} lists no files; expected one {kind} file and its category per line")
    return listed


def _pair_case(portrait: tuple[Path, str], sound: tuple[Path, str]) -> Case:
    return Case(
        name=f"{portrait[0].stem}__{sound[0].stem}",
        generated=None,
        truth=None,
        portrait=portrait[0],
        audio=sound[0],
        category=f"{portrait[1]}/{sound[1]}",
    )


def _groups(files: Mapping[str, tuple[Path, str]], seed: int) -> list[list[str]]:
    """Stems by category, shuffled within each."""
    groups = defaultdict(list)
    for stem in sorted(files, key=lambda stem: _draw(seed, stem)):
        groups[files[stem][1]].append(stem)
    return [groups[category] for category in sorted(groups)]


def _check_pair_count(count: int, num_pictures: int, num_sounds: int) -> None:
    least, most = max(num_pictures, num_sounds), num_pictures * num_sounds
    if not least <= count <= most:
        raise ValueError(
            f"{count} pairs were asked for; {num_pictures} portraits and {num_sounds} sounds need at least {least} "
            f"for each to come up, and make at most {most}"
        )


def _open_set_notes(files: Mapping[str, tuple[Path, str]], kind: Kind) -> list[str]:
    """Where the set differs from the paper's."""
    notes = []
    if len(files) != OPEN_SET_SIZE:
        notes.append(f"{len(files)} {kind} files; the paper's open set has {OPEN_SET_SIZE}")
    there = {re.sub("[_-]", " ", category.lower()) for _, category in files.values()}
    missing = [category for category in OPEN_SET_CATEGORIES[kind] if category not in there]
    return notes + _notes({f"of the paper's {kind} categories missing": missing})


def _category_counts(files: Mapping[str, tuple[Path, str]], kind: Kind) -> dict[str, int]:
    counts = Counter(category for _, category in files.values())
    return {kind: len(files), **{f"{kind}/{category}": n for category, n in sorted(counts.items())}}


# Other methods' outputs. A reading is a key that the file's name may stand for, and a rank: lower is more finished.

Readings = list[tuple[str, int]]
SADTALKER_TIME = re.compile(r"\d{4}_\d\d_\d\d_\d\d\.\d\d\.\d\d")
SADTALKER_FORMS = {"_enhanced": 1, "_full": 2}
SADTALKER_PLAIN = 3
ECHOMIMIC_NAME = re.compile(r"(?P<pair>.+)_\d+x\d+_\d+_\d{4}(?P<sound>_withaudio)?")
VEXPRESS_STRATEGIES = ("fix_face", "no_retarget", "offset_retarget", "naive_retarget")
VEXPRESS_NAME = re.compile(rf"(?:talk_)?(?P<case>.+?)(?:_(?:{'|'.join(VEXPRESS_STRATEGIES)}))?")


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How one method names its videos."""

    keys: Callable[[Case], list[str]]
    readings: Callable[[Path, Path], Readings]
    expected: str
    is_silent: Callable[[Path], bool] = lambda path: False


def _sadtalker(path: Path, folder: Path) -> Readings:
    """<time>.mp4 is the final video; its names are only in the folder <time>, which --verbose keeps.

    Source: OpenTalker/SadTalker, inference.py (strftime("%Y_%m_%d_%H.%M.%S"), moves the result to save_dir + '.mp4'
    and deletes save_dir unless verbose), src/test_audio2coeff.py ('%s##%s.mat' of picture and sound),
    src/facerender/animate.py (the same name with .mp4, _full.mp4 or _enhanced.mp4; the last written is final).
    """
    if SADTALKER_TIME.fullmatch(path.stem):
        return [(coefficients.stem, 0) for coefficients in sorted(path.with_suffix("").glob("*##*.mat"))]
    forms = [(path.stem.removesuffix(form), rank) for form, rank in SADTALKER_FORMS.items()]
    return [(path.stem, SADTALKER_PLAIN), *((key, rank) for key, rank in forms if key != path.stem)]


def _hallo(path: Path, folder: Path) -> Readings:
    """The user's choice; by default every run writes .cache/output.mp4, so that a folder per case tells them apart.

    Source: fudan-generative-vision/hallo, scripts/inference.py, --output (default ".cache/output.mp4").
    """
    name = _relative(path.with_suffix(""), folder)
    parts = [part for part in name.split("/") if part != ".cache"]
    if parts[-1] == "output" and len(parts) > 1:
        return [("/".join(parts[:-1]), 0), (parts[-2], 0)]
    return [("/".join(parts), 0), (parts[-1], 0)]


def _vexpress(path: Path, folder: Path) -> Readings:
    """The user's choice, or the README's talk_<case>_<retarget strategy>.

    Source: tencent-ailab/V-Express, inference.py (--output_path, --retarget_strategy) and README.md (for example
    ./output/short_case/talk_tys_fix_face.mp4).
    """
    match = VEXPRESS_NAME.fullmatch(path.stem)
    stems = [path.stem] + ([match["case"]] if match else [])
    inside = [_relative(path.with_name(stem), folder) for stem in stems]
    return [(key, 0) for key in inside + stems]


def _echomimic(path: Path, folder: Path) -> Readings:
    """<portrait>_<sound>_<H>x<W>_<guidance>_<HHMM>.mp4 is silent, ..._withaudio.mp4 is the same with sound.

    Source: BadToBest/EchoMimic, infer_audio2vid.py and infer_audio2vid_acc.py (in output/<YYYYMMDD>/<HHMM>--seed_..).
    infer_audio2vid_pose.py uses the same names for videos with the pose map at their side: no use here.
    """
    match = ECHOMIMIC_NAME.fullmatch(path.stem)
    return [(match["pair"], 0 if match["sound"] else 1)] if match else []


def _stems(case: Case) -> tuple[str, str]:
    last = case.name.split("/")[-1]
    return case.portrait.stem if case.portrait else last, case.audio.stem if case.audio else last


def _chosen_keys(case: Case) -> list[str]:
    return [case.name, case.name.split("/")[-1]]


LAYOUTS: dict[Method, _Layout] = {
    "sadtalker": _Layout(
        keys=lambda case: ["##".join(_stems(case))],
        readings=_sadtalker,
        expected="<portrait>##<sound>.mp4, or <time>.mp4 beside its folder, which inference.py --verbose keeps",
    ),
    "hallo": _Layout(
        keys=_chosen_keys,
        readings=_hallo,
        expected="<case>.mp4, as given to --output, or <case>/.cache/output.mp4",
    ),
    "vexpress": _Layout(
        keys=_chosen_keys,
        readings=_vexpress,
        expected="<case>.mp4, as given to --output_path, or talk_<case>_<strategy>.mp4",
    ),
    "echomimic": _Layout(
        keys=lambda case: ["_".join(_stems(case))],
        readings=_echomimic,
        expected="<portrait>_<sound>_512x512_2_1530_withaudio.mp4",
        is_silent=lambda path: not path.stem.endswith("_withaudio"),
    ),
}


def _wanted(cases: Sequence[Case], layout: _Layout) -> dict[str, list[str]]:
    """The cases that a key may stand for: more than one where names run together, as a_b and c with a and b_c."""
    wanted = defaultdict(list)
    for case in cases:
        for key in dict.fromkeys(layout.keys(case)):
            wanted[key].append(case.name)
    return dict(wanted)


def _assign(readings: Readings, wanted: Mapping[str, list[str]]) -> tuple[int, list[str]]:
    """The rank and the cases of the first reading that a case has."""
    for key, rank in readings:
        if key in wanted:
            return rank, wanted[key]
    return 0, []


def _best(candidates: Sequence[tuple[int, Path]], name: str, method: Method) -> Path:
    rank = min(rank for rank, _ in candidates)
    best = [path for its_rank, path in candidates if its_rank == rank]
    if len(best) > 1:
        raise ValueError(
            f"{method} has {len(best)} videos of {name}: {_listed(map(str, best))}; keep one run or one setting"
        )
    return best[0]
