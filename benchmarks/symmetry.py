"""spglib and moyopy on the same crystals: do they find the same space group, and which is faster?

    python benchmarks/symmetry.py --data data/mp_20_test.npz --count 1000

moyopy is not a dependency: `pip install moyopy`.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import moyopy
import numpy as np

from crysjax.crystallography import symmetry_finder
from crysjax.data.datasets import entries
from crysjax.data.readers.part import read_part

TOLERANCES_ANGSTROM = (0.01, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    rows = entries(read_part(args.data))
    chosen = np.random.default_rng(0).permutation(len(rows))[: args.count]
    cells = [(rows[k].lattice, rows[k].frac, rows[k].numbers) for k in chosen]
    for tolerance in TOLERANCES_ANGSTROM:
        begun = time.perf_counter()
        ours = [getattr(symmetry_finder.ask("get_symmetry_dataset", cell, tolerance)[0], "number", 0) for cell in cells]
        middle = time.perf_counter()
        theirs = [number(cell, tolerance) for cell in cells]
        ended = time.perf_counter()
        differ = Counter((a, b) for a, b in zip(ours, theirs) if a != b)
        print(f"{tolerance} Å: {len(cells)} crystals, spglib {middle - begun:.2f} s, moyopy {ended - middle:.2f} s, "
              f"{differ.total()} groups differ {differ.most_common(5)}")  # fmt: skip


def number(cell: symmetry_finder.Cell, tolerance: float) -> int:
    """The space group by moyopy; 0: it has none."""
    try:
        made = moyopy.Cell(cell[0].tolist(), cell[1].tolist(), cell[2].tolist())
        return moyopy.MoyoDataset(made, symprec=tolerance).number
    except (RuntimeError, ValueError):
        return 0


if __name__ == "__main__":
    main()
