"""The numbers that the paper reports, so that a report can stand beside them.

Source: Loopy (arXiv:2409.02634v2), tables 1 to 3. `is_certain` is False where we only remember a figure and could not
check it. Numbers of other runs are not comparable to the last digit: FID differs by up to 40 %, FVD by 2 to 10 times;
compare only with baselines that you run yourself.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Direction = Literal["higher", "lower", "truth"]


class PaperNumber(NamedTuple):
    """One cell of a table."""

    value: float
    is_certain: bool


COLUMNS: dict[str, Direction] = {
    "IQA": "higher",
    "Sync-C": "higher",
    "Sync-D": "lower",
    "FVD-Res": "lower",
    "FVD-Inc": "lower",
    "FID": "lower",
    "Smooth": "truth",
    "Glo": "truth",
    "Exp": "truth",
    "E-FID": "lower",
}
"""Column -> what is better; "truth": nearer to the real video's value."""


def _table(text: str) -> dict[str, dict[str, PaperNumber]]:
    """Rows `name: a / b / ...` in the order of COLUMNS; m after a number: not confirmed; -: not given."""
    rows = {}
    for line in text.strip().splitlines():
        name, cells = line.split(":")
        parsed = zip(COLUMNS, (cell.strip() for cell in cells.split("/")), strict=True)
        rows[name.strip()] = {
            column: PaperNumber(float(cell.rstrip("m")), not cell.endswith("m"))
            for column, cell in parsed
            if cell != "-"
        }
    return rows


TABLES = {
    "CelebV-HQ": _table(
        """
        SadTalker: 2.953 / 3.843 / 8.765m / 171.848 / 1746.038m / 36.648 / .9964m / .554m / .270m / 2.248m
        Hallo: 3.505 / 4.130 / 9.079m / 53.992 / 742.974m / 35.961 / .9946m / .499m / .255m / 2.426m
        V-Express: 2.946 / 3.547 / 9.415m / 117.868 / 1356.510m / 65.098 / .9957m / .020m / .166m / 2.414m
        EchoMimic: 3.307 / 3.136 / 10.378m / 54.715 / 828.966m / 35.373 / .9926m / 2.259m / .640m / 3.018m
        Loopy: 3.780 / 4.849 / 8.196m / 49.153 / 680.634m / 33.204 / .9949m / 2.233 / .452m / 2.307m
        real video: - / - / - / - / - / - / .9937m / 3.249 / - / -
        """
    ),
    "RAVDESS": _table(
        """
        SadTalker: 3.840 / 4.304 / 7.621m / 22.52 / 487.924m / 32.343 / .9955m / .604m / .120m / 3.270m
        Hallo: 4.393 / 4.062 / 8.552m / 38.471 / 537.478m / 19.826 / .9946m / .194 / .080m / 3.785m
        V-Express: 3.690 / 5.001 / 7.710m / 62.388m / 982.810m / 26.736 / .9962m / .007 / .039m / 3.901m
        EchoMimic: 4.504 / 3.292 / 9.096m / 54.115m / 688.675m / 21.058 / .9924m / .641 / .184 / 3.350m
        Loopy: 4.506 / 4.814 / 7.798m / 16.134 / 394.288m / 17.017 / .9923m / 2.962 / .343 / 3.132m
        real video: - / - / - / - / - / - / .9917m / 3.335 / .317 / -
        """
    ),
    "ablation, open set": _table(
        """
        full: 4.507 / 6.303m / 7.749 / - / - / - / .9932 / - / - / -
        without segment module: 4.386 / - / - / - / - / - / - / - / - / -
        one temporal layer, 20 motion frames: 4.072 / - / - / - / - / - / .9752 / - / - / -
        s=4 r=1: 4.424 / - / 8.004 / - / - / - / - / - / - / -
        """
    ),
}
