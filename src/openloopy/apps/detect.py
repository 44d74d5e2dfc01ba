"""What in a file says that it was generated: the container's tag, content credentials, the imperceptible mark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av

from openloopy.media import credentials
from openloopy.media.credentials import Credentials
from openloopy.media.files import ffmpeg_url, require_file
from openloopy.media.mark import MarkFinding, find_mark

TAG_WORDS = "AI-generated"


@dataclass(frozen=True, kw_only=True)
class Detection:
    """All signs in one file."""

    path: Path
    tag: str | None
    """The container's comment, if it says that it is generated."""
    credentials: Credentials | None
    can_read_credentials: bool
    mark: MarkFinding

    @property
    def is_generated(self) -> bool:
        """Whether anything says so. Nothing found proves nothing: signs can be taken out."""
        return self.tag is not None or _says_generated(self.credentials) or self.mark.is_marked

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"path": str(self.path), "is_generated": self.is_generated}

    def __str__(self) -> str:
        lines = [f"{self.path}: {'AI-generated' if self.is_generated else 'no sign that it was generated'}"]
        lines.append(f"  tag          {self.tag or 'none'}")
        lines.append(f"  credentials  {self._credentials()}")
        verdict = "OpenLoopy's mark" if self.mark.is_marked else "none"
        lines.append(
            f"  mark         {verdict} (score {self.mark.score:.1f} in {self.mark.num_frames} frames)"
        )
        return "\n".join(lines)

    def _credentials(self) -> str:
        if self.credentials is None:
            return (
                "none"
                if self.can_read_credentials
                else "not looked for: pip install 'openloopy[credentials]'"
            )
        found = self.credentials
        kind = "trained algorithmic media" if _says_generated(found) else "no word of how it was made"
        return f"{kind}, by {found.generator}, signed by {found.signer} ({found.validation})"


def detect(path: Path | str) -> Detection:
    """Look for all signs in a video or picture file."""
    path = require_file(path, "a video or picture")
    can_read = credentials.is_available()
    return Detection(
        path=path,
        tag=_tag(path),
        credentials=credentials.read_credentials(path) if can_read else None,
        can_read_credentials=can_read,
        mark=find_mark(path),
    )


def _says_generated(found: Credentials | None) -> bool:
    return found is not None and found.digital_source_type == credentials.TRAINED_ALGORITHMIC_MEDIA


def _tag(path: Path) -> str | None:
    try:
        with av.open(ffmpeg_url(path), metadata_errors="replace") as container:
            comment = container.metadata.get("comment", "")
    except (av.error.FFmpegError, ValueError):
        return None  # what it is after all is told by whoever reads its pictures
    return comment if TAG_WORDS in comment else None
