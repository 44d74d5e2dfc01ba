"""Makes the background of measures.identity from portraits of many people, and judges it.

    python benchmarks/identity.py --portraits DIR [--videos DIR] [--write]

DIR holds pictures and a MANIFEST.csv with columns file, person, split. Two thirds of the people (all
photographs of one person on the same side) make a background, the others judge it: pairs of different
photographs of one person against pairs of two people. `--videos` adds talking heads named SPEAKER_anything:
the same speaker in two videos against other speakers. `--write` then makes the package's background from
all people of split `train`. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path

import numpy as np
from provenance import ROOT, provenance, rounded, save_result

from openloopy.face.crop import apply_crop, portrait_crop
from openloopy.face.landmarks import Face, NetworkLandmarker
from openloopy.measures.identity import (
    BACKGROUND_FILE,
    FaceBackground,
    aligned_face,
    face_descriptor,
    fit_background,
    raw_descriptor,
)
from openloopy.media.image import read_image
from openloopy.media.video import read_frames

CROP_PX = 256
"""Faces are looked at in the crop that the model draws."""
MAX_PAIRS = 3000
FRAME_STEP = 12


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One picture of one person: the crop and its landmarks."""

    person: str
    source: str
    split: str
    rgb: np.ndarray
    points: np.ndarray


def main() -> None:
    options = _parse()
    landmarker, rng = NetworkLandmarker(), np.random.default_rng(0)
    portraits = read_portraits(options.portraits, landmarker)
    makers, judges = split_people(portraits, rng)
    background = fit_background(raw_descriptors(makers))
    result = {
        "benchmark": "identity",
        "portraits": len(portraits),
        "photographs": judge(judges, background, rng),
    }
    if options.videos:
        result["videos"] = judge(read_videos(options.videos, landmarker), background, rng)
    if options.write:
        train = [seen for seen in portraits if seen.split == "train"]
        result["written"] = write_background(fit_background(raw_descriptors(train)))
    result = rounded({**result, **provenance()})
    save_result("identity", result)
    print(json.dumps(result))


def read_portraits(folder: Path, landmarker: NetworkLandmarker) -> list[Seen]:
    """All portraits of the manifest in which a face is found."""
    with open(folder / "MANIFEST.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seen = []
    for row in rows:
        rgb = read_image(folder / row["file"])
        faces = landmarker.detect(rgb)
        if faces:
            seen.append(_framed(rgb, faces[0], row["person"], row["file"], row["split"]))
    return seen


def read_videos(folder: Path, landmarker: NetworkLandmarker) -> list[Seen]:
    """Every `FRAME_STEP`-th frame of the videos; the speaker is the file name up to its last underscore."""
    seen = []
    for path in sorted(folder.iterdir()):
        frames = list(islice(read_frames(path), 0, None, FRAME_STEP))
        for rgb, face in zip(frames, landmarker.track(frames), strict=True):
            if face is not None:
                seen.append(_framed(rgb, face, path.stem.rsplit("_", 1)[0], path.name, "val"))
    return seen


def split_people(portraits: list[Seen], rng: np.random.Generator) -> tuple[list[Seen], list[Seen]]:
    """Two thirds of the people and the rest."""
    people = rng.permutation(sorted({seen.person for seen in portraits}))
    makers = set(people[: 2 * len(people) // 3])
    return [s for s in portraits if s.person in makers], [s for s in portraits if s.person not in makers]


def raw_descriptors(pictures: list[Seen]) -> np.ndarray:
    return np.stack([raw_descriptor(aligned_face(seen.rgb, seen.points)) for seen in pictures])


def judge(pictures: list[Seen], background: FaceBackground, rng: np.random.Generator) -> dict[str, float]:
    """How pairs of one person score against pairs of two people."""
    vectors = np.stack([face_descriptor(seen.rgb, seen.points, background) for seen in pictures])
    same, different = [], []
    for i, j in combinations(range(len(pictures)), 2):
        a, b = pictures[i], pictures[j]
        if a.source != b.source:
            (same if a.person == b.person else different).append((i, j))
    scores = [_scores(vectors, pairs, rng) for pairs in (same, different)]
    return {
        "auc": area_under_curve(*scores),
        "same_median": float(np.median(scores[0])),
        "different_median": float(np.median(scores[1])),
        "different_p95": float(np.percentile(scores[1], 95)),
        "same_pairs": len(scores[0]),
        "different_pairs": len(scores[1]),
    }


def area_under_curve(same: np.ndarray, different: np.ndarray) -> float:
    """The chance that a pair of one person scores above a pair of two (Mann-Whitney)."""
    ranks = np.concatenate([same, different]).argsort().argsort() + 1
    n, m = len(same), len(different)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def write_background(background: FaceBackground) -> str:
    """Puts the background into the package, in half precision."""
    path = ROOT / "src" / "openloopy" / "assets" / BACKGROUND_FILE
    arrays = {"mean": background.mean, "components": background.components}
    np.savez_compressed(path, **{name: array.astype(np.float16) for name, array in arrays.items()})
    return str(path.relative_to(ROOT))


def _framed(rgb: np.ndarray, face: Face, person: str, source: str, split: str) -> Seen:
    crop = portrait_crop(face, (rgb.shape[1], rgb.shape[0]))
    points = crop.to_crop(face.points68, CROP_PX)
    return Seen(person=person, source=source, split=split, rgb=apply_crop(rgb, crop, CROP_PX), points=points)


def _scores(vectors: np.ndarray, pairs: list[tuple[int, int]], rng: np.random.Generator) -> np.ndarray:
    chosen = np.array(pairs)[rng.permutation(len(pairs))[:MAX_PAIRS]]
    return (vectors[chosen[:, 0]] * vectors[chosen[:, 1]]).sum(-1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the package's background")
    return parser.parse_args()


if __name__ == "__main__":
    main()
