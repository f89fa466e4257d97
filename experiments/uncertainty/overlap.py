"""How many of AFLOW's crystals have a composition that the heads' training data have too.

    python experiments/uncertainty/overlap.py --others data/aflow.npz --known data/mp_20_16k.npz \
        --out experiments/uncertainty/overlap.json

Of each other source and each split of the known data: crystals whose reduced formula occurs there, and those whose
formula occurs with a bulk modulus. A composition in common is no proof of the same crystal, but it is
no independent test either.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from crysjax.chemistry.elements import formula
from crysjax.data import datasets
from crysjax.data.datasets import Dataset
from crysjax.reports import record

LABEL = "bulk_modulus_gpa"


def formulas(part: Dataset) -> np.ndarray:
    """Reduced formula of each crystal, (m,) str."""
    return np.array([formula(row.numbers) for row in datasets.entries(part)])


def shared(others: Dataset, known: Dataset) -> dict[str, int]:
    """Crystals of `others`: all, those of a formula in `known`, and of one in `known` that has a label there."""
    theirs, ours = formulas(others), formulas(known)
    labeled = ours[np.isfinite(known.properties[LABEL])]
    return {
        "crystals": len(theirs), "formula_in_known": int(np.isin(theirs, ours).sum()),
        "formula_with_label_in_known": int(np.isin(theirs, labeled).sum()),
    }  # fmt: skip


def main() -> None:
    """Count, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=Path, required=True)
    parser.add_argument("--known", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    others, known = datasets.load(options.others), datasets.load(options.known)
    found = {name: shared(others, datasets.where_split(known, name)) for name in ("train", "val")}
    record.write(options.out, record.about(options) | found)
    print(found)


if __name__ == "__main__":
    main()
