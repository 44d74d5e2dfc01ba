"""One run of a campaign: what it is given, where, and what must not lie there if it fails."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command line or one of the package's readers, to be run in a folder of its own."""

    arguments: tuple[str, ...] = ()
    """Of `openloopy`."""
    call: str = ""
    """In place of a command line: the name of a reader in `worker.READERS`, which gets the arguments."""
    outputs: tuple[str, ...] = ()
    """Names that must not be there after a failure."""
    inputs: tuple[str, ...] = ()
    """Files that no run may change."""
    names_tell: bool = True
    """Whether what is written is of the kind that its name says: a table may be written to any name."""
    stdin: str = ""
    """File that is standard input; "": nothing is."""

    @property
    def command(self) -> str:
        """As somebody would type it."""
        from shlex import quote

        words = ["openloopy", *self.arguments] if not self.call else [self.call, *self.arguments]
        text = " ".join(map(quote, words))
        return f"{text} < {quote(self.stdin)}" if self.stdin else text
