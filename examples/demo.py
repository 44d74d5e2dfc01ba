"""The demo: an astronaut speaks. `make demo` runs it.

The portrait is NASA's photograph of Eileen Collins (public domain), as it comes with scikit-image; the speech is
synthetic and comes with OpenLoopy.
"""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from itertools import islice
from pathlib import Path

from skimage import data

from openloopy.apps.generate import GenerateRequest, ModelChoice, Progress, generate_video
from openloopy.media.image import write_image
from openloopy.media.video import contact_sheet, read_frames

SHEET_FRAMES, SHEET_COLUMNS = 18, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    parser.add_argument("--model", default="mini", help='"mini" (embedded), a model folder, or a hub id')
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    write_image(out / "portrait.png", data.astronaut())
    request = GenerateRequest(
        portrait=out / "portrait.png",
        audio=Path(str(resources.files("openloopy") / "assets" / "demo_speech.flac")),
        out=out / "demo.mp4",
        may_overwrite=True,
    )
    report = generate_video(request, ModelChoice(model=arguments.model), watch=show)
    step = max(report.num_frames // SHEET_FRAMES, 1)
    frames = list(islice(read_frames(report.out), 0, SHEET_FRAMES * step, step))
    write_image(out / "demo.png", contact_sheet(frames, SHEET_COLUMNS))
    print(f"{report}; contact sheet in {out / 'demo.png'}")


def show(progress: Progress) -> None:
    """One line per clip."""
    if progress.frames_done in (progress.total_frames, progress.clips_done * progress.clip_frames):
        clips = f"clip {progress.clips_done} of {progress.total_clips}"
        print(f"{clips}, about {progress.left_s:.0f} s left", file=sys.stderr)


if __name__ == "__main__":
    main()
