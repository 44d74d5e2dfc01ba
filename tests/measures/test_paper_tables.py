"""The paper's figures as data."""

from __future__ import annotations

from openloopy.measures.paper_tables import COLUMNS, TABLES


def test_rows_hold_known_columns_and_plausible_values():
    assert set(TABLES) == {"CelebV-HQ", "RAVDESS", "ablation, open set"}
    for table in TABLES.values():
        for row in table.values():
            assert row and set(row) <= set(COLUMNS)
    loopy = TABLES["CelebV-HQ"]["Loopy"]
    assert loopy["FID"] == (33.204, True) and loopy["Smooth"] == (0.9949, False)
    assert all(
        0.97 < row["Smooth"].value < 1 for t in TABLES.values() for row in t.values() if "Smooth" in row
    )


def test_the_paper_s_claim_is_in_the_data():
    for name in ("CelebV-HQ", "RAVDESS"):
        table = TABLES[name]
        others = [row for method, row in table.items() if method not in ("Loopy", "real video")]
        assert all(table["Loopy"]["FID"].value < row["FID"].value for row in others)
