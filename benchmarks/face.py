"""Judges the face networks beside mediapipe, on people that training never saw.

    python benchmarks/face.py --samples DIR --portraits DIR --data SHARDS --out DIR [--art DIR] [--networks DIR]

samples: a folder with `portraits/` and `videos/`; portraits: pictures with a manifest, of which the split `val` is
used; SHARDS: puppets, whose landmarks are exact. Mediapipe (the extra `teacher`) is the only truth for photographs: an
error there is a difference from it, not from the truth. art: pictures of one drawn,
painted or sculpted face each. Parts: scenes composed of held-out portraits and of drawn
faces (missed, false, landmarks, calibration), pictures without a face, puppets, real clips, sample portraits, still
faces (jitter), speed. Pictures go to `--out`; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from provenance import folder_hash, provenance, rounded, save_result

from openloopy.data.clips import decode_frames
from openloopy.data.shards import read_shards
from openloopy.face.crop import Crop, apply_crop, portrait_crop, select_face, warp
from openloopy.face.landmarks import Face, NetworkLandmarker, whole_picture
from openloopy.face.movement import eye_distance, eye_opening, lip_gap
from openloopy.face.networks import load_face_networks, shipped_folder
from openloopy.face.teacher import MediapipeLandmarker
from openloopy.measures.motion import per_frame, points_of
from openloopy.measures.sync import lip_gap_correlation, pearson
from openloopy.media.image import read_image, write_image
from openloopy.media.video import contact_sheet, read_frames
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.face_free import face_free_background
from openloopy.puppet.portraits import list_portraits
from openloopy.training.face_mesh import RIGHT_ERROR
from openloopy.training.face_pictures import change_light, spoil

SCENE_PX = 640
FACE_HEIGHTS = (0.05, 0.9)
MAX_ROLL_DEG = 45.0
SIZE_BANDS = ((0.05, 0.1), (0.1, 0.25), (0.25, 0.9))
CONFIDENCE_BANDS = ((0.5, 0.7), (0.7, 0.85), (0.85, 0.95), (0.95, 1.001))
STILL_FRAMES, STILL_NOISE_SD = 30, 3.0
MOUTH = slice(48, 68)
NAMES = ("ours", "mediapipe")


@dataclass(frozen=True)
class Scene:
    """A picture with one face in a known place (or none)."""

    rgb: np.ndarray
    points: np.ndarray | None
    """`68 2` px."""
    share: float
    """Face height over the picture's side."""


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    networks = load_face_networks(options.networks)
    both = {"ours": NetworkLandmarker(networks=networks), "mediapipe": MediapipeLandmarker()}
    rng = np.random.default_rng(0)
    portraits = held_out_portraits(options.portraits, both["mediapipe"])
    result = {
        "benchmark": "face",
        "scenes": judge_scenes(list(compose(portraits, options.scenes, rng)), both, options.out / "scenes"),
        "drawn": judge_scenes(list(compose(drawn_faces(), options.drawn, rng)), both, options.out / "drawn"),
        "empty": judge_empty(list(empty_pictures(portraits, options.empty, rng)), both, options.out),
        "puppets": judge_puppets(options.data, both, options.clips),
        "videos": judge_videos(sorted((options.samples / "videos").glob("*.*")), both, options),
        "portraits": judge_portraits(sorted((options.samples / "portraits").iterdir()), both, options.out),
        "art": judge_art(sorted(options.art.iterdir()), both, options.out) if options.art else None,
        "still": judge_still(portraits[: options.still], both, rng),
        "frames_per_second": speed(options.data, both),
        "networks": folder_hash(options.networks or shipped_folder()),
        **provenance(),
    }
    result = rounded(result)
    save_result("face", result)
    print(json.dumps(result))


def held_out_portraits(folder: Path, teacher: MediapipeLandmarker) -> list[tuple[np.ndarray, Face]]:
    """Pictures of the split val in which the teacher sees exactly one face."""
    found = []
    for portrait in list_portraits(folder, 0.06):
        if portrait.split == "val":
            rgb = read_image(folder / portrait.file)
            faces = teacher.detect(rgb)
            if len(faces) == 1:
                found.append((rgb, faces[0]))
    return found


def drawn_faces(count: int = 40) -> list[tuple[np.ndarray, Face]]:
    """Faces drawn by code, with exact landmarks; other people than those of any bank."""
    drawn = [draw_face(np.random.default_rng([7, number]), 512) for number in range(count)]
    return [(face.rgb, Face.from_mesh(face.mesh)) for face in drawn]


def compose(
    portraits: list[tuple[np.ndarray, Face]], count: int, rng: np.random.Generator
) -> Iterator[Scene]:
    """Held-out portraits at random size, place and tilt on backgrounds without a face, lit and spoilt."""
    for number in range(count):
        rgb, face = portraits[number % len(portraits)]
        share = float(np.exp(rng.uniform(*np.log(FACE_HEIGHTS))))
        angle = np.deg2rad(rng.uniform(-MAX_ROLL_DEG, MAX_ROLL_DEG)) - np.deg2rad(face.pose.roll)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn * (share * SCENE_PX / face.height_px)
        centre = face.mesh[:, :2].mean(0)
        inner = min(share / 2 + 0.03, 0.5)
        offset = rng.uniform(inner, 1 - inner, 2) * SCENE_PX - linear @ centre
        drawn = warp(rgb, linear, offset, SCENE_PX)
        mask = np.full(rgb.shape[:2], 255, np.uint8)
        matrix = np.concatenate([linear, offset[:, None]], 1)
        alpha = cv2.warpAffine(mask, matrix, (SCENE_PX, SCENE_PX))[..., None] / 255
        picture = np.round(drawn * alpha + face_free_background(rng, SCENE_PX) * (1 - alpha)).astype(np.uint8)
        points = face.points68 @ linear.T + offset
        yield Scene(spoil(change_light(picture, rng), rng), points, share)


def empty_pictures(
    portraits: list[tuple[np.ndarray, Face]], count: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Backgrounds made by code, and parts of photographs beside the face: clothes, hair, hands, walls."""
    for number in range(count):
        if number % 2:
            yield spoil(face_free_background(rng, 320), rng)
            continue
        rgb, face = portraits[int(rng.integers(len(portraits)))]
        height, width = rgb.shape[:2]
        for _ in range(200):
            side = int(rng.uniform(0.15, 0.5) * min(height, width))
            x, y = int(rng.integers(width - side)), int(rng.integers(height - side))
            x0, y0, x1, y1 = face.box
            if x > x1 or x + side < x0 or y > y1 or y + side < y0:
                break
        yield np.ascontiguousarray(rgb[y : y + side, x : x + side])


def judge_scenes(scenes: list[Scene], both: dict[str, Any], out: Path) -> dict[str, Any]:
    """Faces missed, by size; false ones; landmark errors of the found; how often a confidence is right."""
    result: dict[str, Any] = {"scenes": len(scenes)}
    missed, worst = [], []
    for name, landmarker in both.items():
        errors, mouths, false, scores, found_by_size = [], [], 0, [], {band: [] for band in SIZE_BANDS}
        for scene in scenes:
            faces = landmarker.detect(scene.rgb)
            unit = np.linalg.norm(scene.points[36] - scene.points[45])
            off = [np.linalg.norm(face.points68 - scene.points, axis=1) / unit for face in faces]
            near = [i for i, error in enumerate(off) if error.mean() < 0.5]
            for band in SIZE_BANDS:
                if band[0] <= scene.share < band[1]:
                    found_by_size[band].append(bool(near))
            false += len(faces) - len(near[:1])
            scores += [
                (face.score, error.mean() < RIGHT_ERROR) for face, error in zip(faces, off, strict=True)
            ]
            if near:
                errors.append(off[near[0]].mean())
                mouths.append(off[near[0]][MOUTH].mean())
            if name == "ours" and near:
                worst.append((errors[-1], _about(scene, faces[near[0]].points68)))
            elif name == "ours":
                missed.append(scene.rgb)
        hits = [hit for band in found_by_size.values() for hit in band]
        result[name] = {
            "missed": 1 - float(np.mean(hits)),
            "missed_by_height": {f"{a}-{b}": 1 - float(np.mean(found_by_size[a, b])) for a, b in SIZE_BANDS},
            "false_per_scene": false / len(scenes),
            "error_68": float(np.median(errors)),
            "error_mouth": float(np.median(mouths)),
            "right_by_confidence": {
                f"{a}-{min(b, 1)}": [len(rights), float(np.mean(rights)) if rights else None]
                for a, b in CONFIDENCE_BANDS
                for rights in [[right for score, right in scores if a <= score < b]]
            },
        }
    worst.sort(key=lambda pair: -pair[0])
    for kind, pictures in {"missed": missed, "worst": [picture for _, picture in worst[:12]]}.items():
        if pictures:
            write_image(
                out.with_name(f"{out.name}_{kind}.jpg"), contact_sheet([_small(p) for p in pictures[:24]], 6)
            )
    return result


def judge_empty(pictures: list[np.ndarray], both: dict[str, Any], out: Path) -> dict[str, Any]:
    """Pictures without a face in which one is found."""
    result: dict[str, Any] = {"pictures": len(pictures)}
    for name, landmarker in both.items():
        fooled = [picture for picture in pictures if landmarker.detect(picture)]
        result[name] = len(fooled)
        if fooled:
            write_image(out / f"empty_{name}.jpg", contact_sheet([_small(p) for p in fooled[:24]], 6))
    return result


def judge_puppets(data: Path, both: dict[str, Any], count: int) -> dict[str, Any]:
    """Tracks of held-out puppets against their exact landmarks."""
    samples = list(islice(read_shards(data, "val"), count))
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in both}
    for sample in samples:
        frames = decode_frames(sample.mp4)[:100]
        true = sample.arrays["points68"][:100]
        for name, landmarker in both.items():
            faces = landmarker.track(frames)
            pose = {"pose_error_deg": pose_error(faces, sample.arrays["pose"][:100])}
            rows[name].append(compare(points_of(faces), true) | pose)
    return {"clips": len(samples), **{name: _medians(found) for name, found in rows.items()}}


def judge_videos(paths: list[Path], both: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Real clips, cropped as for generation: ours against mediapipe's track."""
    rows = []
    for path in paths:
        if path.stem not in options.held_out:
            continue
        frames = list(read_frames(path))
        size = frames[0].shape[1::-1]
        crop = portrait_crop(select_face(both["mediapipe"].detect(frames[0]), size), size)
        frames = [apply_crop(frame, crop, 256) for frame in frames]
        tracks = {name: points_of(landmarker.track(frames)) for name, landmarker in both.items()}
        shakes = {f"shake_{name}": shake(tracks[name]) for name in NAMES}
        lag = {"lip_gap_lag_frames": lip_lag(tracks["ours"], tracks["mediapipe"])}
        rows.append({"clip": path.stem, **compare(tracks["ours"], tracks["mediapipe"]), **shakes, **lag})
        if len(rows) <= 3:
            shown = np.linspace(0, len(frames) - 1, 6).round().astype(int)
            sheet = [_marked(frames[i], *(tracks[name][i] for name in NAMES)) for i in shown]
            write_image(options.out / f"video_{path.stem}.jpg", contact_sheet(sheet, 6))
    return {"against": "mediapipe", **_medians(rows), "clips": rows}


def judge_portraits(paths: list[Path], both: dict[str, Any], out: Path) -> dict[str, Any]:
    """Sample portraits of all kinds: ours against mediapipe."""
    rows, sheet, missed = [], [], {name: [] for name in both}
    for path in paths:
        rgb = read_image(path)
        faces = {name: landmarker.detect(rgb) for name, landmarker in both.items()}
        for name in both:
            if not faces[name]:
                missed[name].append(path.name)
        if all(faces.values()):
            ours, theirs = (faces[name][0].points68 for name in NAMES)
            rows.append(compare(ours[None], theirs[None]) | {"score": faces["ours"][0].score})
            crop = portrait_crop(faces["mediapipe"][0], rgb.shape[1::-1])
            picture = apply_crop(rgb, crop, 256)
            sheet.append(_marked(picture, *(crop.to_crop(points, 256) for points in (ours, theirs))))
    write_image(out / "portraits.jpg", contact_sheet(sheet, 6))
    numbers = {name: float(np.median([row[name] for row in rows])) for name in ("error_68", "error_mouth")}
    return {"against": "mediapipe", "pictures": len(paths), "missed": missed, **numbers}


def judge_art(paths: list[Path], both: dict[str, Any], out: Path) -> dict[str, Any]:
    """Drawn, painted and sculpted faces, of which nobody knows the landmarks: which are found. Look at the sheet."""
    found: dict[str, list[list[Face]]] = {name: [] for name in both}
    sheet = []
    for path in paths:
        rgb = read_image(path)
        for name, landmarker in both.items():
            found[name].append(landmarker.detect(rgb))
        faces = found["ours"][-1]
        crop = portrait_crop(faces[0], rgb.shape[1::-1]) if faces else whole_picture(rgb)
        points = [crop.to_crop(face.points68, 256) for face in faces[:1]] or [np.full((68, 2), np.nan)]
        sheet.append(_marked(apply_crop(rgb, crop, 256), points[0], np.full((68, 2), np.nan)))
    write_image(out / "art.jpg", contact_sheet([_small(picture) for picture in sheet], 10))
    return {"pictures": len(paths)} | {
        name: {
            "missed": [path.name for path, faces in zip(paths, seen, strict=True) if not faces],
            "confidence": float(np.median([faces[0].score for faces in seen if faces])),
        }
        for name, seen in found.items()
    }


def judge_still(
    portraits: list[tuple[np.ndarray, Face]], both: dict[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    """Jitter on a still face under sensor noise: standard deviation of the points over time, in eye distances."""
    jitter: dict[str, list[float]] = {name: [] for name in both}
    for rgb, face in portraits:
        still = apply_crop(rgb, portrait_crop(face, rgb.shape[1::-1]), 256).astype(np.float32)
        noisy = [
            np.clip(still + rng.normal(0, STILL_NOISE_SD, still.shape), 0, 255).astype(np.uint8)
            for _ in range(STILL_FRAMES)
        ]
        for name, landmarker in both.items():
            points = points_of(landmarker.track(noisy))
            points = points[np.isfinite(points).all((1, 2))]
            if len(points) > STILL_FRAMES // 2:
                jitter[name].append(float(points.std(0).mean() / eye_distance(points).mean()))
    return {"people": len(portraits), **{name: float(np.median(values)) for name, values in jitter.items()}}


def speed(data: Path, both: dict[str, Any]) -> dict[str, float]:
    """Frames of 256x256 tracked per second of one thread, the better of two rounds each, in turn."""
    frames = decode_frames(next(iter(read_shards(data, "val"))).mp4)[:120]
    best: dict[str, float] = dict.fromkeys(both, 0.0)
    for _ in range(2):
        for name, landmarker in both.items():
            started_s = time.perf_counter()
            landmarker.track(frames)
            best[name] = max(best[name], len(frames) / (time.perf_counter() - started_s))
    return best


def compare(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """One track against another, `f 68 2`: lost frames, errors in outer-eye distances, correlation of openings."""
    seen = np.isfinite(found).all((1, 2)) & np.isfinite(true).all((1, 2))
    numbers = {"lost": 1 - float(np.isfinite(found).all((1, 2)).mean())}
    if not seen.any():
        return numbers
    found, true = found[seen], true[seen]
    off = np.linalg.norm(found - true, axis=-1) / eye_distance(true)[:, None]
    numbers |= {
        "error_68": float(np.median(off.mean(1))),
        "error_mouth": float(np.median(off[:, MOUTH].mean(1))),
    }
    openings: dict[str, Callable] = {"lip_gap_r": lip_gap, "eye_opening_r": eye_opening}
    if len(found) > 2:
        for name, opening in openings.items():
            numbers[name] = pearson(per_frame(opening, found), per_frame(opening, true))
    return numbers


def pose_error(faces: list[Face | None], true: np.ndarray) -> float:
    """Median over frames of the mean difference in yaw, pitch and roll, degrees; true: `f 3`."""
    poses = [(f.pose, angles) for f, angles in zip(faces, true, strict=True) if f is not None]
    off = [np.abs(np.array([pose.yaw, pose.pitch, pose.roll]) - angles).mean() for pose, angles in poses]
    return float(np.median(off)) if off else float("nan")


def shake(track: np.ndarray) -> float:
    """How unsteady a track `f 68 2` is: rms second difference over time, in outer-eye distances."""
    seen = track[np.isfinite(track).all((1, 2))]
    bends = np.diff(seen, 2, axis=0) / eye_distance(seen).mean()
    return float(np.sqrt((bends**2).sum(-1).mean()))


def lip_lag(found: np.ndarray, true: np.ndarray) -> int:
    """The shift in frames at which the lip gaps of two tracks correlate best; positive: the first one is late."""
    seen = np.isfinite(found).all((1, 2)) & np.isfinite(true).all((1, 2))
    gaps = [per_frame(lip_gap, track[seen]) for track in (found, true)]
    return lip_gap_correlation(*gaps, max_lag=3).best_lag


def _medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    names = [name for name in rows[0] if name != "clip"]
    return {name: float(np.nanmedian([row.get(name, np.nan) for row in rows])) for name in names}


def _marked(picture: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Green: the first points; red: the second."""
    shown = cv2.resize(picture, (512, 512), interpolation=cv2.INTER_CUBIC)
    for points, colour in ((theirs, (255, 40, 40)), (ours, (40, 255, 40))):
        for x, y in points[np.isfinite(points).all(1)] * 2:
            cv2.circle(shown, (round(float(x)), round(float(y))), 2, colour, -1, cv2.LINE_AA)
    return shown


def _about(scene: Scene, found: np.ndarray) -> np.ndarray:
    """The face of a scene at 256 px, with the points that were found (green) and the true ones (red)."""
    low, high = scene.points.min(0), scene.points.max(0)
    side = 1.6 * float((high - low).max())
    x0, y0 = (low + high) / 2 - side / 2
    crop = Crop(float(x0), float(y0), side)
    return _marked(
        apply_crop(scene.rgb, crop, 256), *(crop.to_crop(points, 256) for points in (found, scene.points))
    )


def _small(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--art", type=Path, help="folder of pictures of drawn, painted and sculpted faces")
    parser.add_argument("--networks", type=Path, help="folder with face.safetensors [the package's]")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--drawn", type=int, default=100, help="scenes of drawn faces")
    parser.add_argument("--empty", type=int, default=200)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--still", type=int, default=20)
    parser.add_argument(
        "--held-out",
        nargs="+",
        default="grid_f_lbbc2a grid_f_lrwp9a grid_m_lbax4n grid_m_pwij3p grid_m_sbwe5n grid_s2_swwp2s".split(),
        help="names of the videos that training did not see",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
