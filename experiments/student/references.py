"""Energies of the elements that turn a potential's energy into a formation energy, fitted on known ones.

    python experiments/student/references.py --potential student --data data/mp_20_16k.npz --out references.json

Least squares over the training split of (energy of the potential - formation energy), an element a column; the root
mean square error on the validation split, whose compositions do not occur in training, is what the campaign takes as
the standard deviation of a validated formation energy.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from crysjax.base import NUM_SPECIES
from crysjax.chemistry.elements import SYMBOLS
from crysjax.data import datasets
from crysjax.data.datasets import ENERGY, Dataset
from crysjax.models import registry
from crysjax.potentials import learn
from crysjax.potentials.label import label
from crysjax.potentials.mlip import load_potential

FORMATION = "formation_energy_ev_per_atom"


def offsets(dataset: Dataset, potential, params) -> Dataset:
    """The crystals with (energy of the potential - formation energy), eV/atom, as their energy; unknown ones go."""
    said = label(dataset, potential, params).properties[ENERGY] - dataset.properties[FORMATION]
    known = np.isfinite(said)
    return datasets.take(replace(dataset, properties={ENERGY: said}), known)


def sum_of_elements(dataset: Dataset, element_ev: np.ndarray) -> np.ndarray:
    """Mean of the elements' energies of each crystal, eV/atom; NaN where one is unknown."""
    return np.array([element_ev[entry.numbers - 1].mean() for entry in datasets.entries(dataset)])


def main() -> None:
    """Fit, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    potential, params = load_potential(registry.model_path(arguments.potential))
    dataset = datasets.load(arguments.data)
    train, val = (offsets(datasets.where_split(dataset, s), potential, params) for s in ("train", "val"))
    seen = sorted(set(train.numbers.tolist()))
    element_ev = np.full(NUM_SPECIES, np.nan)
    element_ev[np.array(seen) - 1] = learn.element_energies(train)[np.array(seen) - 1]
    error = val.properties[ENERGY] - sum_of_elements(val, element_ev)
    error = error[np.isfinite(error)]
    found = {SYMBOLS[z - 1]: round(float(element_ev[z - 1]), 4) for z in seen}
    summary = {
        "std_ev_per_atom": round(float(np.sqrt(np.mean(error**2))), 4),
        "mae_ev_per_atom": round(float(np.abs(error).mean()), 4),
        "crystals": {"fitted": len(train), "held_out": len(error)},
    }
    arguments.out.write_text(json.dumps(summary | {"element_ev": found}, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
