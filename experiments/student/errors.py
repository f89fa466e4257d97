"""Errors of a potential against the labels of a data set, by kind of frame, and how fast it is.

python experiments/student/errors.py --potential student --data data/student.npz:held_out
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from crysjax.data import datasets
from crysjax.data.datasets import ENERGY, FORCES
from crysjax.data.readers.part import read_part
from crysjax.models import registry
from crysjax.potentials.label import label
from crysjax.potentials.mlip import load_potential


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", required=True)
    parser.add_argument("--data", required=True, help="PATH[:SPLIT]")
    arguments = parser.parse_args()
    potential, params = load_potential(registry.model_path(arguments.potential))
    truth = read_part(arguments.data)
    label(truth, potential, params)  # compiles
    start = time.perf_counter()
    found = label(truth, potential, params)
    rate = len(truth) / (time.perf_counter() - start)
    kinds = np.array([name.split("/")[0] for name in truth.ids])
    print("| frames | count | energy MAE, meV/atom | force MAE, eV/Å | mean force, eV/Å |")
    print("|" + " --- |" * 5)
    for kind in [*dict.fromkeys(sorted(kinds)), "all"]:
        rows = np.flatnonzero((kinds == kind) | (kind == "all"))
        a, b = datasets.take(truth, rows), datasets.take(found, rows)
        energy = 1e3 * np.abs(a.properties[ENERGY] - b.properties[ENERGY]).mean()
        error = np.linalg.norm(a.site_properties[FORCES] - b.site_properties[FORCES], axis=-1).mean()
        size = np.linalg.norm(a.site_properties[FORCES], axis=-1).mean()
        print(f"| {kind} | {len(rows)} | {energy:.0f} | {error:.2f} | {size:.2f} |")
    print(f"\n{rate:.0f} crystals per second, energies, forces and stresses, graphs included")


if __name__ == "__main__":
    main()
