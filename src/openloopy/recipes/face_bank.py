"""What the face networks learn from: portraits and footage labelled by a teacher, puppets and drawn faces with their
exact labels, and all sorts of pictures turned into toons.

Every picture is a *scene* (the whole of it, small, with all its faces: for the finder and the mask) and gives a *view*
of each face (a square about it: for the mesh). Puppets of the portraits speak, and some of their frames join as views,
the most open mouths and the most closed eyes among them. The same call resumes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from openloopy.data.clips import decode_frames
from openloopy.data.shards import read_index, read_shard
from openloopy.data.tasks import map_tasks
from openloopy.face.crop import Crop, apply_crop
from openloopy.face.landmarks import Face
from openloopy.face.mesh import CHIN, FOREHEAD, MESH_POINTS
from openloopy.media.files import atomic_write, make_folder, only_run_in, remove_partial_files
from openloopy.media.image import read_image
from openloopy.media.text_file import parse_json
from openloopy.media.video import FPS
from openloopy.puppet.camera import Camera
from openloopy.puppet.cartoon import draw_cartoon
from openloopy.puppet.corpus import CorpusConfig, generator, stage
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.portraits import MeshedPortrait, Portrait, describe_error, list_portraits
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.rig.portrait_rig import PortraitRig, check_portrait
from openloopy.rig.shade import Lamp
from openloopy.rig.state import States
from openloopy.training.face_bank import FaceBank, FaceView
from openloopy.training.face_toon import bend, bend_points, draw_manner, draw_shape

VIEW_PX = 192
VIEW_SIDE = 2.4
"""Side of a stored view, in face heights: what augmentation may turn and shift lies inside."""
SCENE_PX = 320
TOON_PX = 448
"""Longer side of the picture that a toon is made of."""
MIN_VIEW_FACE_PX = 32
UTTERANCE_S = 4.0
FOOTAGE_EVERY = 3
"""One frame of footage in so many is taken."""
CONFIG_NAME = "bank.json"


class Teacher(Protocol):
    """Who labels pictures; see `face.teacher`."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Faces of a picture, largest first."""

    def mask(self, rgb: np.ndarray) -> np.ndarray:
        """Where the person is, `H W` in 0..1."""


@dataclass(frozen=True, kw_only=True)
class FaceBankConfig:
    """What to label."""

    portraits: Path
    out: Path
    footage: tuple[Path, ...] = ()
    """Folders of shards."""
    puppet_frames: int = 10
    """Of each portrait that can be a puppet."""
    drawn: int = 300
    """Faces drawn by code."""
    cartoons: int = 1500
    """Flat cartoon faces drawn by code."""
    toons: int = 1
    """Made of each portrait, and of each drawn face."""
    val_share: float = 0.06
    seed: int = 0
    workers: int = 1
    """Processes; the result does not depend on it."""


@dataclass(frozen=True)
class Toon:
    """A toon to make of a portrait or of a drawn face."""

    source: Portrait | int
    number: int


@dataclass(frozen=True)
class Cartoon:
    """A cartoon to draw."""

    number: int


def build_face_bank(config: FaceBankConfig) -> FaceBank:
    """Labels what is missing and opens the bank."""
    make_folder(config.out)
    with only_run_in(config.out):
        return _built(config)


def _built(config: FaceBankConfig) -> FaceBank:
    parts = config.out / "parts"
    parts.mkdir(exist_ok=True)
    remove_partial_files(parts)
    _remember(config)
    tasks = [(f"portrait-{p.file}", p) for p in list_portraits(config.portraits, config.val_share)]
    tasks += [
        (f"footage-{folder.name}-{name}", folder / name)
        for folder in config.footage
        for name in sorted(read_index(folder).shards)
    ]
    tasks += [(f"drawn-{i}", i) for i in range(config.drawn)]
    still = [source for _, source in tasks if not isinstance(source, Path)]
    tasks += [
        (f"toon-{i}-{_name_of(source)}", Toon(source, i)) for i in range(config.toons) for source in still
    ]
    tasks += [(f"cartoon-{i}", Cartoon(i)) for i in range(config.cartoons)]
    missing = [task for task in tasks if not _part_path(parts, task[0]).exists()]
    for _ in map_tasks(partial(_write_part, config), missing, workers=config.workers, title="labels"):
        continue
    paths = [_part_path(parts, name) for name, _ in tasks]
    if not (config.out / FaceBank.INDEX).exists():
        FaceBank.write(config.out, paths)
    return FaceBank.open(config.out)


def _name_of(source: Portrait | int) -> str:
    return f"drawn-{source}" if isinstance(source, int) else source.file


def _write_part(config: FaceBankConfig, task: tuple[str, Portrait | Path | int | Toon | Cartoon]) -> None:
    cv2.setNumThreads(1)
    name, source = task
    labels = {Portrait: _label_portrait, int: _label_drawn, Toon: _label_toon, Cartoon: _label_cartoon}
    label = labels.get(type(source), _label_shard)
    try:
        views, scenes, reason = *label(config, source), ""
    except ValueError as error:
        views, scenes, reason = [], [], describe_error(error)
    with atomic_write(_part_path(config.out / "parts", name)) as path, open(path, "wb") as file:
        FaceBank.write_part(file, views, scenes, reason)


def _label_portrait(config: FaceBankConfig, portrait: Portrait) -> tuple[list[FaceView], list[dict]]:
    rgb = read_image(config.portraits / portrait.file)
    faces, mask = _teacher().detect(rgb), _teacher().mask(rgb)
    scene = _scene(rgb, faces, mask, portrait.split)
    views = [
        view_of(rgb, face.mesh, split=portrait.split, kind="portrait", person=portrait.person_id)
        for face in faces
        if face.height_px >= MIN_VIEW_FACE_PX
    ]
    if faces and check_portrait(faces[0], rgb) is None and config.puppet_frames:
        views += _puppet_views(config, MeshedPortrait(portrait=portrait, mesh=faces[0].mesh))
    return views, [scene]


def _label_drawn(config: FaceBankConfig, number: int) -> tuple[list[FaceView], list[dict]]:
    rng = generator(config.seed, "drawn face", number)
    drawn, split = draw_face(rng, SCENE_PX), _split_of_drawn(config, number)
    about = dict(split=split, kind="drawn", person=f"drawn-{number}")
    views = [view_of(drawn.rgb, drawn.mesh, **about)]
    rig = PortraitRig(drawn.rgb, drawn.mesh, drawn.mask, rng=rng)
    for i in _chosen_frames(moves := _speech(config, split, rng), 3, rng):
        views.append(_exact_view(*rig.frame(moves.frame(i), VIEW_PX), **about))
    return views, [_scene(drawn.rgb, [Face.from_mesh(drawn.mesh)], drawn.mask, split)]


def _split_of_drawn(config: FaceBankConfig, number: int) -> str:
    return "val" if number < config.val_share * config.drawn else "train"


def _label_cartoon(config: FaceBankConfig, cartoon: Cartoon) -> tuple[list[FaceView], list[dict]]:
    drawn = draw_cartoon(generator(config.seed, "cartoon", cartoon.number), SCENE_PX)
    split = "val" if cartoon.number < config.val_share * config.cartoons else "train"
    about = dict(split=split, kind="cartoon", person=f"cartoon-{cartoon.number}")
    return [view_of(drawn.rgb, drawn.mesh, **about)], [
        _scene(drawn.rgb, [Face.from_mesh(drawn.mesh)], drawn.mask, split)
    ]


def _label_toon(config: FaceBankConfig, toon: Toon) -> tuple[list[FaceView], list[dict]]:
    """A picture whose faces are exaggerated and drawn over, as a scene and as views."""
    rng = generator(config.seed, "toon", toon.number, _name_of(toon.source))
    if isinstance(toon.source, int):
        drawn = draw_face(generator(config.seed, "drawn face", toon.source), SCENE_PX)
        split, person = _split_of_drawn(config, toon.source), f"drawn-{toon.source}"
        rgb, meshes, mask = drawn.rgb, [drawn.mesh], drawn.mask
    else:
        split, person = toon.source.split, toon.source.person_id
        rgb = _at_most(read_image(config.portraits / toon.source.file), TOON_PX)
        meshes, mask = [face.mesh for face in _teacher().detect(rgb)], _teacher().mask(rgb)
    for i in range(len(meshes)):
        maps = draw_shape(meshes[i], rng)
        rgb, mask = bend(rgb, maps), bend(mask, maps)
        meshes = [np.column_stack([bend_points(mesh[:, :2], maps), mesh[:, 2]]) for mesh in meshes]
    faces = [Face.from_mesh(mesh) for mesh in meshes]
    rgb = draw_manner(rgb, rng)
    views = [
        view_of(rgb, _without_depth(face.mesh), split=split, kind="toon", person=person)
        for face in faces
        if face.height_px >= MIN_VIEW_FACE_PX
    ]
    return views, [_scene(rgb, faces, mask.clip(0, 1), split)]


def _without_depth(mesh: np.ndarray) -> np.ndarray:
    """What bends a picture says nothing of depth."""
    return np.concatenate([mesh[:, :2], np.full((MESH_POINTS, 1), np.nan, np.float32)], 1)


def _at_most(rgb: np.ndarray, longest_px: int) -> np.ndarray:
    scale = longest_px / max(rgb.shape[:2])
    return rgb if scale >= 1 else cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _speech(config: FaceBankConfig, split: str, rng: np.random.Generator) -> States:
    """How somebody's face moves for a few seconds."""
    return face_states(utter(rng, draw_speaker(rng, split), UTTERANCE_S, split), draw_style(rng), rng)


def _exact_view(frame: np.ndarray, points: np.ndarray, **about: str) -> FaceView:
    """A puppet's frame: exact points `478 2`, unknown depth."""
    return FaceView(frame, _without_depth(points), **about)


def _label_shard(config: FaceBankConfig, shard: Path) -> tuple[list[FaceView], list[dict]]:
    views, scenes = [], []
    for sample in read_shard(shard):
        frames = decode_frames(sample.mp4)[::FOOTAGE_EVERY]
        for i, frame in enumerate(frames):
            faces = _teacher().detect(frame)[:1]
            person = dict(split=sample.record.split, kind="footage", person=sample.record.person_id)
            views += [view_of(frame, face.mesh, **person) for face in faces]
            if i == 0:
                scenes.append(_scene(frame, faces, _teacher().mask(frame), sample.record.split))
    return views, scenes


def view_of(rgb: np.ndarray, mesh: np.ndarray, *, split: str, kind: str, person: str) -> FaceView:
    """The stored view of one face, `478 3` px of the picture."""
    height = np.linalg.norm(mesh[FOREHEAD, :2] - mesh[CHIN, :2])
    side = VIEW_SIDE * float(height)
    middle = (mesh[:, :2].min(0) + mesh[:, :2].max(0)) / 2
    crop = Crop(float(middle[0] - side / 2), float(middle[1] - side / 2), side)
    return FaceView(apply_crop(rgb, crop, VIEW_PX), crop.to_crop(mesh, VIEW_PX), split, kind, person)


def _puppet_views(config: FaceBankConfig, meshed: MeshedPortrait) -> list[FaceView]:
    """Frames of the portrait speaking; their landmarks are exact, their depth is unknown (NaN)."""
    portrait = meshed.portrait
    rng = generator(config.seed, "face bank", portrait.file)
    try:
        moves = _speech(config, portrait.split, rng)
        corpus = CorpusConfig(out=config.out, portraits=config.portraits, num_clips=1, size_px=VIEW_PX)
        scene = stage(corpus, meshed, Camera.draw(rng), rng)
        lamp = Lamp.draw(rng) if rng.random() < 0.5 else None
        rig = PortraitRig(
            scene.rgb,
            scene.mesh,
            scene.mask,
            rng=rng,
            lamp=lamp,
            background=scene.background,
        )
        views = []
        for i in _chosen_frames(moves, config.puppet_frames, rng):
            about = dict(split=portrait.split, kind="puppet", person=portrait.person_id)
            views.append(_exact_view(*rig.frame(moves.frame(i), VIEW_PX), **about))
    except (ValueError, cv2.error):
        return []  # this portrait stays as it is; the still view has its labels
    return [view for view in views if np.isfinite(view.mesh[:, :2]).all()]


def _chosen_frames(moves: States, count: int, rng: np.random.Generator) -> list[int]:
    """The most closed eyes, two wide mouths, and random ones."""
    frames = [int(np.argmax(moves["blink_left"])), *np.argsort(moves["jaw"])[-2:].tolist()]
    others = rng.permutation(round(UTTERANCE_S * FPS))[:count].tolist()
    return list(dict.fromkeys([*frames, *others]))[:count]


def _scene(rgb: np.ndarray, faces: list[Face], mask: np.ndarray, split: str) -> dict:
    """The whole picture in a square of SCENE_PX: size, faces in its pixels, person mask."""
    scale = SCENE_PX / max(rgb.shape[:2])
    size = (max(round(rgb.shape[1] * scale), 1), max(round(rgb.shape[0] * scale), 1))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = np.zeros((SCENE_PX, SCENE_PX, 3), np.uint8)
    picture[: size[1], : size[0]] = cv2.resize(rgb, size, interpolation=interpolation)
    shown = np.zeros((SCENE_PX, SCENE_PX), np.uint8)
    shown[: size[1], : size[0]] = np.round(255 * cv2.resize(mask, size, interpolation=interpolation))
    meshes = np.stack([face.mesh * scale for face in faces]) if faces else np.zeros((0, MESH_POINTS, 3))
    return {
        "picture": picture,
        "mask": shown,
        "size": size,
        "meshes": meshes.astype(np.float32),
        "split": split,
    }


@lru_cache(maxsize=1)
def _teacher() -> Teacher:
    from openloopy.face.teacher import MediapipeTeacher

    return MediapipeTeacher()


def _part_path(parts: Path, name: str) -> Path:
    return parts / f"{hashlib.sha256(name.encode()).hexdigest()[:20]}.npz"


def _remember(config: FaceBankConfig) -> None:
    """A bank belongs to one configuration."""
    wanted = json.loads(json.dumps(asdict(config), default=str))
    wanted = {name: value for name, value in wanted.items() if name not in ("out", "workers")}
    path = config.out / CONFIG_NAME
    if not path.exists():
        with atomic_write(path) as partial_path:
            partial_path.write_text(json.dumps(wanted, indent=1, allow_nan=False) + "\n")
    if parse_json(path.read_text()) != wanted:
        raise ValueError(f"{config.out} holds a bank with other settings; choose another folder")
