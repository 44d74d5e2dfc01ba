"""Does the fit find the states that made a face move?

    python benchmarks/fit.py --portraits DIR --videos DIR [DIR ...] --out DIR [--people 14] [--seconds 4] [--films 10]

Three parts. `exact`: puppets' meshes without an error. `tracked`: puppets rendered, compressed as in a corpus (H.264)
and tracked by the project's own networks; fitted from the meshes alone and with the pictures. `filmed`: people of whom
the first frame is made a rig that the fitted states move; lips and eyes of the re-enactment, tracked again, against
the film's. A value's number is its correlation with the truth over time, mean and smallest over people, and the slope
of the fitted value over the true one. `--out` gets `filmed.png`, film above re-enactment. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from provenance import provenance, rounded, save_result

from openloopy.data.clips import decode_frames, encode_frames
from openloopy.face.crop import apply_crop, portrait_crop, select_face
from openloopy.face.landmarks import Face, NetworkLandmarker
from openloopy.face.mesh import MESH_POINTS, MESH_TO_68
from openloopy.face.movement import eye_distance, eye_opening, lip_gap
from openloopy.face.person_mask import PersonSegmenter
from openloopy.measures.sync import pearson
from openloopy.media.image import read_image, write_image
from openloopy.media.video import FPS, contact_sheet, read_frames
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.portraits import list_portraits
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.rig.fit import Fitted, PersonShape, face_shape, fit, landmarks
from openloopy.rig.mesh import HeadFrame
from openloopy.rig.portrait_rig import PortraitRig, check_portrait
from openloopy.rig.state import INDEX, NAMES, States

SIZE_PX = 384
NUM_DRAWN = 2
LEAST_SD = 1e-3
"""A value that hardly moves in a clip has no correlation."""
BLINKING_SD = 0.008
"""Spread of the eyes' opening (eye distances) from which on a film shows a blink; below it is the tracker's noise."""
SHUT_GAP, NEARLY_SHUT_GAP = 0.012, 0.02
"""Lips this near (eye distances; a millimetre) are shut; the other track has to show the second a frame from there."""
SHEET_PX, SHEET_COLUMNS = 192, 10


@dataclass(frozen=True, eq=False)
class Person:
    """A portrait, ready for a rig."""

    name: str
    rgb: np.ndarray
    mesh: np.ndarray
    mask: np.ndarray


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    landmarker, segmenter = NetworkLandmarker(), PersonSegmenter()
    result: dict[str, Any] = {"benchmark": "fit", "size_px": SIZE_PX}
    if options.portraits:
        people = list(draw_people(options.portraits, options.people, landmarker, segmenter))
        result |= judge_puppets(people, round(options.seconds * FPS), landmarker)
    if options.videos:
        films = choose_films(options.videos, options.films)
        result["filmed"] = judge_films(films, landmarker, segmenter, options.out)
    result = rounded(result | provenance(), 3)
    save_result("fit", result)
    print(json.dumps(result))


# ----------------------------------------------------------------------------------------------------------------------
# puppets


def draw_people(
    folder: Path, number: int, landmarker: NetworkLandmarker, segmenter: PersonSegmenter
) -> Iterator[Person]:
    """Drawn faces, then held-out portraits of all kinds in turn."""
    side = round(SIZE_PX * 1.5)
    for i in range(NUM_DRAWN):
        drawn = draw_face(np.random.default_rng([77, i]), size_px=side)
        yield Person(f"drawn {i}", drawn.rgb, drawn.mesh, drawn.mask)
    held_out = [portrait for portrait in list_portraits(folder, 0.1) if portrait.split == "val"]
    order = np.random.default_rng(1).permutation(len(held_out))
    found = NUM_DRAWN
    for portrait in (held_out[i] for i in order):
        if found == number:
            return
        rgb = read_image(folder / portrait.file)
        faces = landmarker.detect(rgb)
        if not faces or check_portrait(faces[0], rgb):
            continue
        found += 1
        yield _person(portrait.file, rgb, faces[0], side, segmenter)


def _person(name: str, rgb: np.ndarray, face: Face, side: int, segmenter: PersonSegmenter) -> Person:
    crop = portrait_crop(face, (rgb.shape[1], rgb.shape[0]))
    cut = apply_crop(rgb, crop, side)
    return Person(name, cut, crop.to_crop(face.mesh, side), segmenter.mask(cut))


def judge_puppets(people: list[Person], num_frames: int, landmarker: NetworkLandmarker) -> dict[str, Any]:
    """`exact`, `tracked_meshes` and `tracked_pictures`."""
    judged: dict[str, list[dict]] = {"exact": [], "tracked_meshes": [], "tracked_pictures": []}
    for i, person in enumerate(people):
        rng = np.random.default_rng([i, 5])
        utterance = utter(rng, draw_speaker(rng, "val"), num_frames / FPS, "val")
        truth = face_states(utterance, draw_style(rng), rng)
        rig = PortraitRig(person.rgb, person.mesh, person.mask, rng=rng)
        mp4 = encode_frames([rig.render(truth.frame(k), SIZE_PX) for k in range(num_frames)])
        frames = list(decode_frames(mp4))
        tracked = _meshes(landmarker.track(frames))
        shape = PersonShape(rig.shape.points)
        meshes = landmarks(_facing(rig), face_shape(shape), truth)
        gap = _gap(meshes)
        judged["exact"].append(_compare(person, truth, gap, meshes, shape=shape))
        judged["tracked_meshes"].append(_compare(person, truth, gap, tracked))
        judged["tracked_pictures"].append(_compare(person, truth, gap, tracked, frames=frames))
        told = judged["tracked_pictures"][-1]["correlation"]
        print(
            person.name,
            rounded({name: told[name] for name in ("jaw", "lip_gap", "pitch", "brow_left")}),
            flush=True,
        )
    return {part: _summary(rows) for part, rows in judged.items()}


def _facing(rig: PortraitRig) -> HeadFrame:
    """The rig's face at rest, turned to the front, in px of a frame."""
    per_cm, origin = (part * (SIZE_PX / len(rig.source)) for part in (rig.head.scale_px, rig.head.origin_px))
    return HeadFrame(per_cm * rig.shape.points + origin, per_cm, np.eye(3), origin)


def _compare(person: Person, truth: States, gap: np.ndarray, meshes: np.ndarray, **options: Any) -> dict:
    """One person's correlations and slopes, and the seconds that the fit took."""
    begun_s = time.process_time()
    fitted = fit(meshes, **options)
    took_s = time.process_time() - begun_s
    pairs = {name: (fitted.states[name], truth[name]) for name in NAMES if fitted.seen[INDEX[name]]}
    pairs["lip_gap"] = (_gap(refit_meshes(fitted)), gap)
    pairs = {name: pair for name, pair in pairs.items() if pair[1].std() > LEAST_SD}
    return {
        "name": person.name,
        "correlation": {name: pearson(*pair) for name, pair in pairs.items()},
        "slope": {name: float(np.polyfit(true, found, 1)[0]) for name, (found, true) in pairs.items()},
        "closures": count_closures(gap, pairs["lip_gap"][0]),
        "ms_per_frame": 1e3 * took_s / len(meshes),
    }


def count_closures(true: np.ndarray, fitted: np.ndarray) -> dict[str, int]:
    """How often lips shut, how many of these times the fitted ones do too, and how often they do without a cause."""
    shut, shown = _times_shut(true), _times_shut(fitted)
    found = sum(fitted[around].min() < NEARLY_SHUT_GAP for around in shut)
    false = sum(true[around].min() >= NEARLY_SHUT_GAP for around in shown)
    return {"shut": len(shut), "found": int(found), "false": int(false)}


def _times_shut(gap: np.ndarray) -> list[slice]:
    """Each stretch of frames with shut lips, a frame more on both sides."""
    edges = np.flatnonzero(np.diff(np.r_[False, gap < SHUT_GAP, False].astype(int)))
    return [slice(max(first - 1, 0), last + 1) for first, last in edges.reshape(-1, 2)]


def refit_meshes(fitted: Fitted) -> np.ndarray:
    """The meshes that the fitted states make, `f 478 3` px."""
    return landmarks(fitted.head, face_shape(fitted.shape), fitted.states)


def _gap(meshes: np.ndarray) -> np.ndarray:
    return lip_gap(meshes[None, :, MESH_TO_68, :2])[0]


def _summary(rows: list[dict]) -> dict[str, Any]:
    values = {}
    for name in (*NAMES, "lip_gap"):
        r = [row["correlation"][name] for row in rows if name in row["correlation"]]
        if r:
            slope = np.mean([row["slope"][name] for row in rows if name in row["slope"]])
            values[name] = {"mean": np.mean(r), "least": min(r), "slope": slope, "people": len(r)}
    speed = float(np.mean([row["ms_per_frame"] for row in rows]))
    counts = ("shut", "found", "false")
    return {
        "values": values,
        "closures": {name: sum(row["closures"][name] for row in rows) for name in counts},
        "cpu_ms_per_frame": speed,
        "people": {row["name"]: row["correlation"] for row in rows},
    }


def _meshes(faces: list[Face | None]) -> np.ndarray:
    lost = np.full((MESH_POINTS, 3), np.nan, np.float32)
    return np.stack([lost if face is None else face.mesh for face in faces])


# ----------------------------------------------------------------------------------------------------------------------
# films


def choose_films(folders: list[Path], number: int) -> list[Path]:
    """One clip of each speaker (CORPUS_SPEAKER_...)."""
    by_speaker: dict[str, Path] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.mpg")):
        by_speaker.setdefault(path.stem.split("_")[1], path)
    # names that a corpus gave come before "f" and "m", who may be one of them
    ordered = sorted(by_speaker.items(), key=lambda item: (len(item[0]) == 1, item[0]))
    return [path for _, path in ordered[:number]]


def judge_films(
    films: list[Path], landmarker: NetworkLandmarker, segmenter: PersonSegmenter, out: Path
) -> dict[str, Any]:
    people, sheet = {}, []
    for path in films:
        frames = list(read_frames(path))
        tracked = landmarker.track(frames)
        faces = [face for face in tracked if face is not None]
        fitted = fit(_meshes(tracked), frames=frames)
        first = next(i for i, face in enumerate(tracked) if face is not None)
        face = select_face([faces[0]], (frames[0].shape[1], frames[0].shape[0]))
        person = _person(path.name, frames[first], face, round(SIZE_PX * 1.5), segmenter)
        shown = reenact(person, fitted, first)
        crop = portrait_crop(face, (frames[0].shape[1], frames[0].shape[0]))
        film = [apply_crop(frame, crop, SIZE_PX) for frame in frames]
        people[path.name] = measures = compare_films(_meshes(tracked), _meshes(landmarker.track(shown)))
        print(path.name, rounded(measures), flush=True)
        sheet += _sheet_rows(film, shown, _meshes(tracked))
    write_image(out / "filmed.png", contact_sheet(sheet, SHEET_COLUMNS))
    everybody = list(people.values())
    blinking = [measures for measures in everybody if measures["eye_opening_sd"] > BLINKING_SD]
    return {
        "people": people,
        "lip_gap": _spread("lip_gap", everybody),
        "mouth_width": _spread("mouth_width", everybody),
        "eye_opening": _spread("eye_opening", everybody),
        "eye_opening_where_they_blink": _spread("eye_opening", blinking),
    }


def _spread(name: str, measures: list[dict[str, float]]) -> dict[str, float]:
    values = [measure[name] for measure in measures]
    return (
        {"mean": float(np.mean(values)), "least": min(values), "people": len(values)}
        if values
        else {"people": 0}
    )


def reenact(person: Person, fitted: Fitted, first: int) -> list[np.ndarray]:
    """Frames of the first frame's rig in the fitted states; that frame's is the state that its picture shows."""
    rig = PortraitRig(
        person.rgb,
        person.mesh,
        person.mask,
        rng=np.random.default_rng(0),
        own=fitted.states.frame(first),
    )
    return [rig.render(fitted.states.frame(i), SIZE_PX) for i in range(len(fitted.states))]


def compare_films(film: np.ndarray, shown: np.ndarray) -> dict[str, float]:
    """Correlations of lips and eyes over the frames in which both faces were found, and sizes of movement."""
    known = np.isfinite(film[:, 0, 0]) & np.isfinite(shown[:, 0, 0])
    film, shown = (meshes[None, known][:, :, MESH_TO_68, :2] for meshes in (film, shown))
    measures: dict[str, float] = {"face_found": float(known.mean())}
    for name, describe in (("lip_gap", lip_gap), ("eye_opening", eye_opening), ("mouth_width", _mouth_width)):
        true, found = describe(film)[0], describe(shown)[0]
        measures[name] = pearson(found, true)
        measures[f"{name}_sd_ratio"] = float(found.std() / true.std())
        measures[f"{name}_sd"] = float(true.std())
    return measures


def _mouth_width(points: np.ndarray) -> np.ndarray:
    """Distance of the mouth's corners in eye distances, `1 f 68 2` -> `1 f`."""
    return np.linalg.norm(points[..., 54, :] - points[..., 48, :], axis=-1) / eye_distance(points)


def _sheet_rows(film: list[np.ndarray], shown: list[np.ndarray], meshes: np.ndarray) -> list[np.ndarray]:
    """Film and re-enactment at the same moments: spread over the clip, the widest mouth, the most closed eyes."""
    points = meshes[None, :, MESH_TO_68, :2]
    known = np.isfinite(points[0, :, 0, 0])
    gap, eyes = (np.full(len(film), np.nan) for _ in range(2))
    gap[known], eyes[known] = lip_gap(points[:, known])[0], eye_opening(points[:, known])[0]
    spread = np.linspace(0, len(film) - 1, SHEET_COLUMNS - 2).round().astype(int)
    moments = sorted([*spread, int(np.nanargmax(gap)), int(np.nanargmin(eyes))])
    size = (SHEET_PX, SHEET_PX)
    return [
        cv2.resize(frames[i], size, interpolation=cv2.INTER_AREA) for frames in (film, shown) for i in moments
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--portraits", type=Path, help="a folder of portraits with a manifest")
    parser.add_argument("--videos", type=Path, nargs="*", help="folders of filmed talking heads, *.mpg")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--films", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
