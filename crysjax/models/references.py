"""Energies of the elements by a potential: what turns its energies into formation energies.

They stand in `NAME.references.json` beside the potential's file, or else in `references.json` in the same folder,
and know the digest of the potential: those of another file are an error, not a formation energy. They are fitted to
crystals of known formation energy, corrections of the data included, or relaxed from the elements themselves; either
way the error that is left, on crystals that had no part in it, is the standard deviation of a formation energy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crysjax.base import NUM_SPECIES, Params
from crysjax.chemistry.elements import NUMBERS, SYMBOLS
from crysjax.data import datasets, digests
from crysjax.data.datasets import ENERGY, Dataset, entries
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.data.readers import reading
from crysjax.potentials import learn
from crysjax.potentials.label import label
from crysjax.potentials.mlip import Potential
from crysjax.potentials.relax_dataset import relax_dataset

LEAST_OF_AN_ELEMENT = 3  # crystals of the fit that hold an element; one of fewer has no energy

Progress = Callable[[int, int], None]


class Reference(NamedTuple):
    """What turns a potential's energy into a formation energy: energies of the elements, and the error left."""

    element_ev: np.ndarray  # (s,) eV per atom; NaN where unknown
    std_ev_per_atom: float  # root mean square error on held-out crystals


def place(path: Path) -> Path:
    """Where the references of a potential's file stand, or would."""
    own = path.parent / "references.json"
    return own if own.is_file() and path.stem == path.parent.name else path.with_name(f"{path.stem}.references.json")


def beside(path: Path) -> Path | None:
    """The file of references that belongs to a potential's file, None where there is none."""
    both = (place(path), path.parent / "references.json")  # the second: beside a model in a folder of its own
    return next((file for file in both if file.is_file()), None)


def read_reference(path: Path) -> Reference | None:
    """The references beside a potential's file, None where there are none; those of another potential are an error."""
    file = beside(path)
    return None if file is None else read(file, path)


def read(file: Path, path: Path | None = None) -> Reference:
    """A file of references; with `path`, it has to be that potential's."""
    energies = np.full(NUM_SPECIES, np.nan, np.float32)
    try:
        found = digests.read_json(file)
        for symbol, value in found["element_ev"].items():
            energies[NUMBERS[symbol] - 1] = value
        std, digest = float(found["std_ev_per_atom"]), found.get("potential_sha256")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: expected element_ev (symbol: eV) and std_ev_per_atom ({error})") from None
    if path is not None and digest is not None and digest != reading.digest(path):
        raise ValueError(
            f"{file}: of another potential than {path.name}; make them anew by `crysjax models references`"
        )
    return Reference(energies, std)


def element_energy(crystals: Dataset, element_ev: np.ndarray) -> np.ndarray:
    """Mean energy of the elements of each crystal, eV/atom: (m,); NaN where one is unknown."""
    return np.array([element_ev[entry.numbers - 1].mean() for entry in entries(crystals)], np.float32)


def fitted(
    crystals: Dataset, potential: Potential, params: Params, *, progress: Progress = lambda done, total: None
) -> np.ndarray:
    """Energies of the elements (NUM_SPECIES,) by least squares on (energy - formation energy); NaN where too few."""
    known = _offsets(crystals, potential, params, progress)
    if not len(known):
        raise ValueError(f"no crystal with a {FORMATION_ENERGY} and an energy of the potential")
    holds = np.zeros(NUM_SPECIES, int)
    for entry in entries(known):
        holds[np.unique(entry.numbers).astype(int) - 1] += 1
    return np.where(holds >= LEAST_OF_AN_ELEMENT, learn.element_energies(known), np.nan)


def relaxed(
    crystals: Dataset, potential: Potential, params: Params, *, steps: int = 200,
    progress: Progress = lambda done, total: None,
) -> tuple[np.ndarray, dict[str, str]]:  # fmt: skip
    """Energies of the elements (NUM_SPECIES,): the lowest relaxed crystal of each; and id -> why it was not used.

    Crystals of more than one element are passed over.
    """
    alone = np.array([len(set(entry.numbers.tolist())) == 1 for entry in entries(crystals)])
    if not alone.any():
        raise ValueError("no crystal of a single element")
    pure = datasets.take(crystals, alone)
    found = relax_dataset(
        potential.energy_forces_stress, params, pure, cutoff_angstrom=potential.cutoff_angstrom,
        known=potential.numbers, max_steps=steps, progress=progress,
    )  # fmt: skip
    energy = np.where(found.valid & found.converged, found.energy / pure.num_atoms, np.nan)
    element_ev, lost = np.full(NUM_SPECIES, np.nan), {}
    for row, entry in enumerate(entries(pure)):
        if np.isfinite(energy[row]):
            z = int(entry.numbers[0]) - 1
            element_ev[z] = np.nanmin([element_ev[z], energy[row]])
        else:
            lost[entry.id] = str(found.reason[row]) or f"not converged in {steps} steps"
    return element_ev, lost


def error(
    crystals: Dataset, element_ev: np.ndarray, potential: Potential, params: Params,
    *, progress: Progress = lambda done, total: None,
) -> np.ndarray:  # fmt: skip
    """Formation energy by the potential minus the known one of each crystal that has both, eV/atom."""
    known = _offsets(crystals, potential, params, progress)
    said = known.properties[ENERGY] - element_energy(known, element_ev)
    return said[np.isfinite(said)]


def _offsets(crystals: Dataset, potential: Potential, params: Params, progress: Progress) -> Dataset:
    """Crystals with (energy - known formation energy), eV/atom, as their energy; those without either are left out."""
    if FORMATION_ENERGY not in crystals.properties:
        raise ValueError(f"the data set has no {FORMATION_ENERGY}, only {', '.join(sorted(crystals.properties))}")
    both = np.isfinite(crystals.properties[FORMATION_ENERGY])
    both &= [set(entry.numbers.tolist()) <= set(potential.numbers) for entry in entries(crystals)]
    crystals = datasets.take(crystals, both)
    if not len(crystals):
        return crystals
    said = label(crystals, potential, params, progress=progress).properties[ENERGY]
    said = said - crystals.properties[FORMATION_ENERGY]
    return datasets.take(replace(crystals, properties={ENERGY: said}), np.isfinite(said))


def summary(element_ev: np.ndarray, errors: np.ndarray, about: dict[str, Any]) -> dict[str, Any]:
    """What the file holds: energies, errors and, in `about`, what they were made from."""
    known = np.flatnonzero(np.isfinite(element_ev))
    return about | {
        "std_ev_per_atom": round(float(np.sqrt(np.mean(np.square(errors, dtype=float)))), 4),
        "mae_ev_per_atom": round(float(np.abs(errors).mean()), 4),
        "bias_ev_per_atom": round(float(np.mean(errors, dtype=float)), 4),
        "held_out": len(errors),
        "element_ev": {SYMBOLS[z]: round(float(element_ev[z]), 4) for z in known},
    }
