"""The structures that a campaign hands over: one extxyz, and a symmetrized CIF and a POSCAR of each candidate.

One crystal has one name: its id in ledger, ranking, report and every file, and `RANK_ID_FORMULA` for its own files.
The POSCAR and the extxyz hold the relaxed cell as it was validated. The CIF holds its standard conventional cell by
spglib, with the tolerance and how far atoms were moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crysjax.crystallography import symmetrized
from crysjax.data import datasets, files, names
from crysjax.data.datasets import ENERGY, Dataset
from crysjax.data.readers import io, poscar
from crysjax.reports.report import Shown

EXTXYZ, FOLDER = "candidates.extxyz", "candidates"


def stem(identity: str, formula: str, place: int, count: int) -> str:
    """`03_1-0042_MgO`: rank, id, formula."""
    return f"{place + 1:0{len(str(count))}d}_{names.of(identity)}_{formula[:100]}"


def write(folder: Path, crystals: Dataset | None, candidates: Sequence[Shown], level: str) -> None:
    """`candidates.extxyz` and `candidates/*.cif`, `*.vasp`, best first; they take the place of a former run's.

    `crystals` are the relaxed candidates in this order, with energy and forces where they are known, which are of this
    level of theory.
    """
    with files.whole(folder / FOLDER, folder=True) as partial:
        if crystals is None:
            files.write(folder / EXTXYZ, "")
            return
        of_level = {"level_of_theory": level} if level and ENERGY in crystals.properties else {}
        notes = [
            {"rank": k, "formula": one.formula, "space_group": one.space_group} | of_level
            for k, one in enumerate(candidates, start=1)
        ]
        io.write_crystals(crystals, folder / EXTXYZ, notes=notes)
        for entry, one, note in zip(datasets.entries(crystals), candidates, notes, strict=True):
            found, why = symmetrized.symmetrized(entry)
            text = symmetrized.cif_of(entry, found, formula=one.formula, items=note | items(entry), why=why)
            files.write(partial / Path(one.file).name, text)
            title = f"{entry.id} {one.formula}"
            files.write(partial / Path(one.file).with_suffix(".vasp").name, poscar.format_poscar(title, entry))


def items(entry: datasets.Entry) -> dict[str, float]:
    """The known properties of a candidate, for its CIF."""
    return {name: value for name, value in entry.properties.items() if np.isfinite(value)}
