"""`ranking.csv`: one line per candidate, best first: what was predicted and validated, and the nearest known crystal.

Columns end with their unit. What was not asked for, such as the nearest known crystal without `novel_to` in the plan,
has no column; an empty cell is a value that is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.crystallography import distances, matching
from crysjax.data import datasets, files
from crysjax.data.datasets import Dataset
from crysjax.reports.page import usual_formula
from crysjax.reports.report import Shown

NAME = "ranking.csv"
MOST_KNOWN = 100_000
"""Known crystals that candidates are compared with in full: a thousand take half a second on two cores."""

Columns = dict[str, Sequence[Any]]  # header -> one value per candidate


def write(folder: Path, candidates: Sequence[Shown], more: Columns) -> Path:
    """The table as a file; `more` are further columns."""
    columns = shown_columns(candidates) | more
    rows = zip(*([_cell(value) for value in values] for values in columns.values()))
    return files.write(folder / NAME, files.csv_text(columns, rows))


def shown_columns(candidates: Sequence[Shown]) -> Columns:
    """What the report shows, by column; predicted and validated values with their standard deviations."""
    found: Columns = {
        "rank": range(1, len(candidates) + 1),
        "id": [c.id for c in candidates],
        "formula": [c.formula for c in candidates],
        "space_group": [c.space_group.rpartition(" ")[0] for c in candidates],
        "space_group_number": [c.space_group.rpartition("(")[2].rstrip(")") for c in candidates],
        "atoms": [len(c.numbers) for c in candidates],
    }
    for name in candidates[0].validated if candidates else ():
        for stage in ("predicted", "validated"):
            pairs = [getattr(c, stage)[name] for c in candidates]
            found[f"{stage}_{name}"] = [value for value, _ in pairs]
            found[f"{stage}_std_{name}"] = [std for _, std in pairs]
    return found | {
        "objective": [c.objective for c in candidates],
        "inside_windows": [c.meets for c in candidates],
        "probability_of_a_hit": [c.p_hit for c in candidates],
        "potential_energy_ev_per_atom": [c.energy_ev_per_atom for c in candidates],
        "novelty_to_training_data": [c.novelty for c in candidates],
        "outside_training_data": [c.outside if np.isfinite(c.novelty) else np.nan for c in candidates],
        "unusual": [c.flags for c in candidates],
        "file": [c.file for c in candidates],
    }


def known_columns(crystals: Dataset, known: Dataset) -> Columns:
    """What the reference set knows: the crystal that each candidate equals, and the nearest one by geometry.

    `known_as` is by pymatgen's StructureMatcher (CDVAE's tolerances), empty where there is none. `nearest_known` has
    the smallest AMD distance (`crystallography.distances`), whatever its elements: a small one is a known prototype.
    """
    part = datasets.take(known, np.arange(min(len(known), MOST_KNOWN)))
    same = matching.same_as(crystals, part, processes=1)
    distance, nearest = distances.nearest(distances.amd(crystals), distances.amd(part))
    there = [usual_formula(row.numbers) for row in datasets.entries(datasets.take(part, nearest))]
    asked = "" if len(part) == len(known) else f"_of_the_first_{MOST_KNOWN}"
    return {
        f"known_as{asked}": [str(part.ids[j]) if j >= 0 else "" for j in same],
        f"nearest_known{asked}": part.ids[nearest].tolist(),
        f"nearest_known_formula{asked}": there,
        f"nearest_known_amd_distance_angstrom{asked}": distance,
    }


def _cell(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, float | np.floating):
        return f"{float(value):.7g}" if np.isfinite(value) else ""
    return value
