"""A corpus of puppet clips: still portraits (or drawn faces) that speak synthetic speech, written as shards.

Source: ours. Everything is a function of (config, number of the shard): an interrupted run, started again with the
same command, leaves the same bytes (but for a few breathy espeak voices, whose noise espeak draws on its own). Val is
held out in people, voices and sentences. Without pictures (`content="states"`) it is the same speech and motion, some
hundred times faster.

    portraits -> gate (portraits.npz, refused.csv) -> one task per shard -> shard-*.tar, index.json
              -> report.json, contact_sheet.jpg
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from openloopy.data.clips import FPS, decode_frames, encode_frames, encode_sound
from openloopy.data.records import ClipRecord, PhonemeSpan, Split
from openloopy.data.shards import (
    STATES,
    Dropped,
    Sample,
    ShardEntry,
    ShardIndex,
    read_index,
    read_shard,
    shard_name,
    write_index,
    write_shard,
)
from openloopy.data.tasks import map_tasks
from openloopy.face.crop import CROP_FACE_HEIGHTS, FACE_CENTRE_Y, Crop, apply_crop, portrait_crop
from openloopy.face.landmarks import Face, mirror_face
from openloopy.face.mesh import MESH_TO_68
from openloopy.face.movement import eye_opening, lip_gap
from openloopy.face.person_mask import PersonSegmenter
from openloopy.media.files import atomic_write, make_folder, only_run_in, remove_partial_files, sha256_file
from openloopy.media.image import read_image, write_image
from openloopy.media.text_file import parse_json
from openloopy.media.video import contact_sheet
from openloopy.puppet.augment import augment
from openloopy.puppet.camera import Camera, draw_background
from openloopy.puppet.corpus_config import CorpusConfig
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.drawn_person import draw_head
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.portraits import (
    MeshedPortrait,
    Portrait,
    describe_error,
    list_portraits,
    load_meshes,
    mesh_portrait,
    save_meshes,
)
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.puppet.speech_folder import INDEX_NAME as SPEECH_INDEX
from openloopy.puppet.spoken import quiet_clip, spoken_clip
from openloopy.puppet.utterance import Utterance
from openloopy.puppet.visemes import viseme_labels
from openloopy.rig.points import PuppetPoints
from openloopy.rig.portrait_rig import PortraitRig
from openloopy.rig.shade import Lamp
from openloopy.rig.state import States

CONFIG_NAME, PORTRAITS_NAME, REFUSED_NAME = "corpus.json", "portraits.npz", "refused.csv"
REPORT_NAME, SHEET_NAME = "report.json", "contact_sheet.jpg"
VISEME_FPS = 50
SOURCE_SCALE = 1.5
"""Pixels of the rig's source picture per pixel of the clip, each way."""
ZOOM_FACE_HEIGHTS = (1.68, CROP_FACE_HEIGHTS, 2.25)
"""Least, most frequent and greatest side of a clip's crop, in face heights."""
FRAMING_SD, MAX_FRAMING = 0.02, 0.045
"""How far a crop strays from the standard one, as a share of its side."""
MIRROR_SHARE, LAMP_SHARE = 0.5, 0.6
NEW_BACKGROUND_SHARE = 0.35
"""Of the clips made from photographs."""
GREY_CHROMA = 10.0
"""A picture whose channels differ by less than this on average (of 255) is black and white."""
CLIPS_PER_DRAWN_PERSON = 2
SHEET_SHARDS, SHEET_CLIPS, SHEET_COLUMNS = 6, 8, 8


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """What was made, what was refused and why, and how fast this run was."""

    num_clips: int
    num_frames: int
    hours: float
    clips_per_split: dict[Split, int]
    num_people: int
    num_portraits: int
    num_refused: int
    reasons: dict[str, int]
    clips_this_run: int
    seconds_this_run: float


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """Which portrait speaks in a clip; everything else is drawn from the clip's own generator."""

    clip_id: str
    meshed: MeshedPortrait
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A still picture of one person."""

    rgb: np.ndarray
    mesh: np.ndarray
    """`478 3` px."""
    mask: np.ndarray | None
    """`H W` 0..1, 1 on the person; None: not known yet."""
    background: np.ndarray | None = None
    """At the clip's size, `S S 3`; None: the picture's own."""


def write_corpus(config: CorpusConfig) -> CorpusReport:
    """Writes the corpus; the same call finishes an interrupted one."""
    make_folder(config.out)
    with only_run_in(config.out):
        return _written(config)


def _written(config: CorpusConfig) -> CorpusReport:
    begun_s = time.monotonic()
    remove_partial_files(config.out)
    _remember_config(config)
    people = _gated_portraits(config)
    plans = plan_shards(config, people)
    before = read_index(config.out)
    index = _write_missing(config, plans, before)
    if index.num_clips == 0:
        reasons = [dropped.reason for entry in index.shards.values() for dropped in entry.dropped]
        raise ValueError(
            f"not one clip could be made from {config.portraits}; the first reason: {reasons[:1]}"
        )
    _write_refused(config, index)
    if config.content == "pictures":
        _write_sheet(config.out, index)
    report = _report(config, index, num_people=len({m.portrait.person_id for m in people}))
    report = replace(
        report,
        clips_this_run=index.num_clips - before.num_clips,
        seconds_this_run=round(time.monotonic() - begun_s, 1),
    )
    _write_json(config.out / REPORT_NAME, asdict(report))
    return report


def plan_shards(config: CorpusConfig, people: list[MeshedPortrait]) -> list[list[ClipPlan]]:
    """The clips of every shard; val shards come first, no shard mixes splits."""
    shards = []
    for split, num_clips in _clips_per_split(config, people).items():
        own = [meshed for meshed in people if meshed.portrait.split == split]
        order = generator(config.seed, "order", split).permutation(len(own))
        clips = [
            ClipPlan(
                clip_id="-".join(filter(None, (config.name, split, f"{i:06d}"))),
                meshed=own[order[i % len(own)]],
                num_frames=config.num_frames(i),
            )
            for i in range(num_clips)
        ]
        shards += [clips[i : i + config.clips_per_shard] for i in range(0, num_clips, config.clips_per_shard)]
    return shards


def write_task(config: CorpusConfig, task: tuple[int, list[ClipPlan]]) -> ShardEntry:
    """Makes one shard, in whatever process. A portrait that cannot be animated is dropped with its reason."""
    cv2.setNumThreads(1)
    number, plans = task
    dropped: list[Dropped] = []
    return write_shard(config.out, number, _samples(config, plans, dropped), dropped)


def make_clip(config: CorpusConfig, plan: ClipPlan) -> Sample | Dropped:
    """One clip, from nothing but the config and its plan."""
    portrait, rng = plan.meshed.portrait, generator(config.seed, "clip", plan.clip_id)
    utterance = _say(config, rng, plan.num_frames / FPS, portrait.split)
    style = draw_style(generator(config.seed, "style", portrait.person_id))
    states = face_states(utterance, style, rng)
    mp4 = None
    try:
        if config.content == "states":
            points = PuppetPoints(_mesh(config, plan.meshed)).track(states)
        else:
            frames, meshes = _render(config, plan, states, rng)
            points, mp4 = meshes[:, MESH_TO_68], encode_frames(frames)
    except Exception as error:
        return Dropped(source=portrait.file, reason=f"{plan.clip_id}: {describe_error(error)}")
    return Sample(
        record=_record(config, plan, utterance),
        mp4=mp4,
        flac=encode_sound(_record_sound(config, rng, utterance)),
        arrays=_arrays(points, states, utterance),
    )


def generator(*keys: int | str) -> np.random.Generator:
    """A generator that depends on the keys alone."""
    digest = hashlib.sha256(json.dumps(keys).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def draw_crop(rng: np.random.Generator, face: Face, image_size: tuple[int, int]) -> Crop:
    """A portrait crop with random zoom and framing that reaches no further outside than the standard one."""
    base = portrait_crop(face, image_size)
    size = min(rng.triangular(*ZOOM_FACE_HEIGHTS) * face.height_px, max(base.size, min(image_size)))
    stray = np.clip(rng.normal(0, FRAMING_SD, 2), -MAX_FRAMING, MAX_FRAMING) * size
    x0 = base.x0 + 0.5 * (base.size - size) + stray[0]
    y0 = base.y0 + FACE_CENTRE_Y * (base.size - size) + stray[1]
    return Crop(
        _keep_within(x0, size, min(base.x0, 0), max(base.x0 + base.size, image_size[0])),
        _keep_within(y0, size, min(base.y0, 0), max(base.y0 + base.size, image_size[1])),
        size,
    )


# --------------------------------------------------------------------------------------------------------------------
# one clip


def _samples(config: CorpusConfig, plans: list[ClipPlan], dropped: list[Dropped]) -> Iterator[Sample]:
    for plan in plans:
        clip = make_clip(config, plan)
        if isinstance(clip, Sample):
            yield clip
        else:
            dropped.append(clip)


def _say(config: CorpusConfig, rng: np.random.Generator, duration_s: float, split: Split) -> Utterance:
    """What a clip says."""
    if config.speech and rng.random() < config.speech_share:
        utterance = spoken_clip(rng, config.speech, duration_s, split)
    else:
        utterance = utter(rng, draw_speaker(rng, split), duration_s, split)
    if config.quiet_share and rng.random() < config.quiet_share:
        return quiet_clip(rng, utterance)
    return utterance


def _record_sound(config: CorpusConfig, rng: np.random.Generator, utterance: Utterance) -> np.ndarray:
    """How a clip sounds in the end; the face moves to what is said, not to the noise around it."""
    noisy = config.noise_share and rng.random() < config.noise_share
    return augment(utterance.waveform, rng) if noisy else utterance.waveform


def _render(
    config: CorpusConfig, plan: ClipPlan, states: States, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames `H W 3` and their meshes `f 478 2` px."""
    camera = Camera.draw(rng)
    scene = stage(config, plan.meshed, camera, rng)
    rig = PortraitRig(
        scene.rgb,
        scene.mesh,
        scene.mask,
        rng=rng,
        lamp=Lamp.draw(rng) if rng.random() < LAMP_SHARE else None,
        background=scene.background,
    )
    frames, meshes = zip(
        *(rig.frame(states.frame(i), config.size_px) for i in range(plan.num_frames)), strict=True
    )
    meshes = np.stack(meshes)
    if not np.isfinite(meshes).all():
        raise ValueError("the rig's mesh is not finite; is the face mesh of this portrait degenerate?")
    return camera.shoot(list(frames)), meshes


def stage(config: CorpusConfig, meshed: MeshedPortrait, camera: Camera, rng: np.random.Generator) -> Scene:
    """The square picture that a clip starts from: cropped, developed, at times mirrored or cut out."""
    picture, work_px = _picture(config, meshed), round(config.size_px * SOURCE_SCALE)
    crop = draw_crop(rng, Face.from_mesh(picture.mesh), picture.rgb.shape[1::-1])
    original = apply_crop(picture.rgb, crop, work_px)
    rgb = camera.develop(original, SOURCE_SCALE)
    mesh = crop.to_crop(picture.mesh, work_px)
    if picture.mask is None:
        mask = _segmenter().mask(original)
    else:
        mask = _crop_mask(picture.mask, crop, work_px)
    if rng.random() < MIRROR_SHARE:
        mesh = mirror_face(Face.from_mesh(mesh), work_px).mesh
        rgb, mask = np.ascontiguousarray(rgb[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    background = None
    if meshed.portrait.kind.startswith("photo") and rng.random() < NEW_BACKGROUND_SHARE:
        background = _new_background(config, rgb, mask, rng)
    return Scene(rgb=rgb, mesh=mesh, mask=mask, background=background)


def _new_background(
    config: CorpusConfig, rgb: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A background made by code, grey where the photograph is; `S S 3` uint8."""
    person = rgb[mask > 0.5]
    background = draw_background(rng, config.size_px, person.mean(0) if len(person) else rgb.mean((0, 1)))
    if np.ptp(rgb.astype(np.int16), axis=-1).mean() < GREY_CHROMA:
        background = cv2.cvtColor(cv2.cvtColor(background, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return background


def _picture(config: CorpusConfig, meshed: MeshedPortrait) -> Scene:
    if config.portraits is None:
        drawn = draw_face(generator(config.seed, "face", meshed.portrait.person_id))
        return Scene(rgb=drawn.rgb, mesh=drawn.mesh, mask=drawn.mask)
    return Scene(rgb=read_image(config.portraits / meshed.portrait.file), mesh=meshed.mesh, mask=None)


def _crop_mask(mask: np.ndarray, crop: Crop, size_px: int) -> np.ndarray:
    grey = np.round(mask * 255).astype(np.uint8)
    return apply_crop(np.dstack([grey] * 3), crop, size_px)[..., 0].astype(np.float32) / 255


def _record(config: CorpusConfig, plan: ClipPlan, utterance: Utterance) -> ClipRecord:
    portrait = plan.meshed.portrait
    return ClipRecord(
        clip_id=plan.clip_id,
        person_id=portrait.person_id,
        split=portrait.split,
        num_frames=plan.num_frames,
        size_px=config.size_px,
        seed=config.seed,
        source=portrait.file,
        licence=portrait.licence,
        text=utterance.text,
        speaker=asdict(utterance.speaker),
        phonemes=tuple(
            PhonemeSpan(round(p.start_s, 4), round(p.end_s, 4), p.symbol, p.alphabet)
            for p in utterance.phonemes
        ),
    )


def _mesh(config: CorpusConfig, meshed: MeshedPortrait) -> np.ndarray:
    """The face of somebody who is not shown, `478 3` px of a picture of size_px."""
    if config.portraits is None:
        return draw_head(generator(config.seed, "head", meshed.portrait.person_id), config.size_px).mesh_px
    face = Face.from_mesh(meshed.mesh)
    middle = np.append((face.box[:2] + face.box[2:]) / 2, 0)
    scale = config.size_px / CROP_FACE_HEIGHTS / face.height_px
    return (face.mesh - middle) * scale + [config.size_px / 2, config.size_px / 2, 0]


def _arrays(points: np.ndarray, states: States, utterance: Utterance) -> dict[str, np.ndarray]:
    points = points.astype(np.float32)
    return {
        "points68": points,
        "lip_gap": lip_gap(points).astype(np.float32),
        "eye_opening": eye_opening(points).astype(np.float32),
        "pose": np.stack([states[name] for name in ("yaw", "pitch", "roll")], -1).astype(np.float32),
        "visemes": viseme_labels(utterance.phonemes, len(points) * VISEME_FPS // FPS, VISEME_FPS).astype(
            np.int16
        ),
        STATES: states.values,
    }


@lru_cache(maxsize=1)
def _segmenter() -> PersonSegmenter:
    return PersonSegmenter()


def _keep_within(start: float, size: float, low: float, high: float) -> float:
    return float(np.clip(start, low, max(low, high - size)))


# --------------------------------------------------------------------------------------------------------------------
# the whole corpus


def _remember_config(config: CorpusConfig) -> None:
    """Stores what the clips depend on; another config in the same folder is an error."""
    wanted = {name: value for name, value in asdict(config).items() if name not in ("out", "workers")}
    wanted |= {"portraits": _fingerprint(config.portraits), "more_clip_s": list(config.more_clip_s)}
    wanted |= {"speech": [sha256_file(folder / SPEECH_INDEX) for folder in config.speech]}
    path = config.out / CONFIG_NAME
    if not path.exists():
        _write_json(path, wanted)
    stored = parse_json(path.read_text("utf-8"))
    if stored != wanted:
        changed = sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name))
        raise ValueError(
            f"{config.out} holds a corpus with other settings, they differ in {changed}; "
            "choose another folder, or repeat the settings to finish that one"
        )


def _fingerprint(portraits: Path | None) -> str | None:
    """Names and sizes of the pictures, hashed: cheap, and notices a changed folder."""
    if portraits is None:
        return None
    files = sorted((path.name, path.stat().st_size) for path in Path(portraits).iterdir() if path.is_file())
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _gated_portraits(config: CorpusConfig) -> list[MeshedPortrait]:
    """Everyone who may appear; found once, then read back."""
    if config.portraits is None:
        return _drawn_people(config)
    path = config.out / PORTRAITS_NAME
    if not path.exists():
        _gate(config, path)
    people = load_meshes(path)
    if not people:
        reasons = _read_refused(config.out)
        raise ValueError(
            f"all portraits of {config.portraits} were refused: {reasons[:3]}; see {REFUSED_NAME}"
        )
    return people


def _gate(config: CorpusConfig, path: Path) -> None:
    listed = list_portraits(config.portraits, config.val_share)
    judge = partial(mesh_portrait, config.portraits)
    verdicts = {
        verdict.source if isinstance(verdict, Dropped) else verdict.portrait.file: verdict
        for verdict in map_tasks(judge, listed, workers=config.workers, title="portraits")
    }
    in_order = [verdicts[portrait.file] for portrait in listed]
    _write_dropped(config.out, [verdict for verdict in in_order if isinstance(verdict, Dropped)])
    with atomic_write(path) as partial_path:
        save_meshes(partial_path, [verdict for verdict in in_order if isinstance(verdict, MeshedPortrait)])


def _drawn_people(config: CorpusConfig) -> list[MeshedPortrait]:
    clips_each = CLIPS_PER_DRAWN_PERSON if config.content == "pictures" else 1
    num_people = max(2, config.total_clips // clips_each)
    num_val = max(1, round(num_people * config.val_share))
    names = [f"drawn-{i:05d}" for i in range(num_people)]
    nothing = np.zeros((0, 3), np.float32)
    return [
        MeshedPortrait(
            portrait=Portrait(
                file=name,
                person_id=name,
                split="val" if i < num_val else "train",
                licence="CC0",
                kind="drawn",
            ),
            mesh=nothing,
        )
        for i, name in enumerate(names)
    ]


def _clips_per_split(config: CorpusConfig, people: list[MeshedPortrait]) -> dict[Split, int]:
    """Val gets its share, and at least one clip where there is anyone; a split without people gets none."""
    splits = Counter(meshed.portrait.split for meshed in people)
    if not splits["val"]:
        return {"train": config.total_clips}
    if not splits["train"]:
        return {"val": config.total_clips}
    num_val = min(max(1, round(config.total_clips * config.val_share)), config.total_clips)
    return {"val": num_val, "train": config.total_clips - num_val}


def _write_missing(config: CorpusConfig, plans: list[list[ClipPlan]], index: ShardIndex) -> ShardIndex:
    """Every shard that the index lacks; the index grows with each."""
    tasks = [(i, clips) for i, clips in enumerate(plans) if shard_name(i) not in index.shards]
    for entry in map_tasks(partial(write_task, config), tasks, workers=config.workers, title="shards"):
        index = index.with_shard(entry)
        write_index(config.out, index)
    return index


def _write_dropped(out: Path, dropped: list[Dropped]) -> None:
    # Names of files may be no text.
    text = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with atomic_write(out / REFUSED_NAME) as path, open(path, "w", **text) as file:
        rows = csv.writer(file)
        rows.writerow(["source", "reason"])
        rows.writerows([item.source, item.reason] for item in dropped)


def _read_refused(out: Path) -> list[Dropped]:
    path = out / REFUSED_NAME
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [Dropped(**row) for row in csv.DictReader(file)]


def _write_refused(config: CorpusConfig, index: ShardIndex) -> None:
    """refused.csv: the gate's refusals, then clips that failed."""
    failed = [item for entry in index.shards.values() for item in entry.dropped]
    at_gate = [item for item in _read_refused(config.out) if item not in failed]
    _write_dropped(config.out, at_gate + failed)


def _report(config: CorpusConfig, index: ShardIndex, *, num_people: int) -> CorpusReport:
    refused = _read_refused(config.out)
    per_split: Counter[Split] = Counter()
    for entry in index.shards.values():
        per_split[entry.splits[0] if entry.splits else "train"] += len(entry.clips)
    num_listed = len(list_portraits(config.portraits, config.val_share)) if config.portraits else num_people
    return CorpusReport(
        num_clips=index.num_clips,
        num_frames=index.num_frames,
        hours=round(index.num_frames / FPS / 3600, 4),
        clips_per_split=dict(per_split),
        num_people=num_people,
        num_portraits=num_listed,
        num_refused=len(refused),
        reasons=dict(Counter(_kind_of_reason(item.reason) for item in refused).most_common()),
        clips_this_run=0,
        seconds_this_run=0.0,
    )


def _kind_of_reason(reason: str) -> str:
    """A reason without its numbers, for counting."""
    return re.sub(r"-?\d+(\.\d+)?", "#", reason)[:80]


def _write_sheet(out: Path, index: ShardIndex) -> None:
    """A middle frame of some clips of some shards, to be looked at."""
    names = [name for name, entry in index.shards.items() if entry.clips]
    chosen = {names[round(i)] for i in np.linspace(0, len(names) - 1, min(SHEET_SHARDS, len(names)))}
    pictures = []
    for name in sorted(chosen):
        samples = list(read_shard(out / name))[:SHEET_CLIPS]
        pictures += [decode_frames(sample.mp4)[sample.record.num_frames // 2] for sample in samples]
    write_image(out / SHEET_NAME, contact_sheet(pictures, SHEET_COLUMNS))


def _write_json(path: Path, content: dict) -> None:
    with atomic_write(path) as partial_path:
        text = json.dumps(content, indent=1, ensure_ascii=False, default=str, allow_nan=False)
        partial_path.write_text(text, "utf-8", "backslashreplace")
