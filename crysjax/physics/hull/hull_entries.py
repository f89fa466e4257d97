"""Where the entries of a hull come from: data sets, cache folders and tables, with the level of theory they name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crysjax.base import NUM_SPECIES
from crysjax.chemistry.elements import atomic_number
from crysjax.chemistry.levels import Level
from crysjax.data import labels
from crysjax.data.datasets import Dataset, offsets
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.data.readers import limits, reading, tables, zipped

MATERIALS_PROJECT_2021 = Level("PBE and PBE+U (VASP, Materials Project)", "as served by the Materials Project in 2021")
"""The level of MP-20 (Xie et al. 2022)."""


def dataset_entries(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atom counts (m, NUM_SPECIES), formation energies (m,) in eV/atom and ids of a data set that has them."""
    if FORMATION_ENERGY not in dataset.properties:
        raise ValueError(f"hull: the data set has no property {FORMATION_ENERGY!r}, only {sorted(dataset.properties)}")
    return compositions(dataset), dataset.properties[FORMATION_ENERGY].astype(np.float64), dataset.ids


def compositions(dataset: Dataset) -> np.ndarray:
    """Atoms of each element in each crystal: (m, NUM_SPECIES)."""
    return _counts(dataset.numbers, offsets(dataset))


def _counts(numbers: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    counts = np.zeros((len(bounds) - 1, NUM_SPECIES))
    np.add.at(counts, (np.repeat(np.arange(len(counts)), np.diff(bounds)), np.asarray(numbers, int) - 1), 1)
    return counts


def read_cache(*folders: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compositions, formation energies and ids of MatterGen cache folders; positions need not be there."""
    counts, energies, ids = [], [], []
    for folder in map(Path, folders):
        missing = [n for n in ("num_atoms.npy", "atomic_numbers.npy", "structure_id.npy") if not (folder / n).exists()]
        if missing:
            raise ValueError(f"{folder}: not a cache folder, {missing[0]} is missing")
        sizes, numbers, names = (_array(folder / f"{n}.npy") for n in ("num_atoms", "atomic_numbers", "structure_id"))
        values = _values(folder / "formation_energy_per_atom.json")
        if not (len(sizes) == len(values) == len(names) and sizes.sum() == len(numbers) and (sizes >= 0).all()):
            raise ValueError(f"{folder}: arrays of {len(sizes)}, {len(values)} and {len(names)} entries")
        if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= NUM_SPECIES):
            raise ValueError(f"{folder}: atomic numbers {numbers.min()}..{numbers.max()}, expected 1..{NUM_SPECIES}")
        counts.append(_counts(numbers, np.concatenate([[0], np.cumsum(sizes)])))
        energies.append(values)
        ids.append(names)
    return np.concatenate(counts), np.concatenate(energies), np.concatenate(ids)


def _array(path: Path) -> np.ndarray:
    return zipped.array(path.name, reading.read_bytes(path))


def _values(path: Path) -> np.ndarray:
    """The numbers under `values`, null = missing."""
    try:
        return np.array([np.nan if v is None else v for v in reading.read_json(path)["values"]], np.float64)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: no list of numbers under 'values' ({type(error).__name__})") from None


def read_entries(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compositions, formation energies and names of a table of entries.

    CSV with the columns `composition` (a formula such as Fe2O3 or Ca(OH)2) and `formation_energy_ev_per_atom`, and
    `id` if there is one; or a JSON list of objects with these keys, a composition also as {"Fe": 2, "O": 3}. Entries
    may say their level of theory (`read_level`); those of several levels in one table are an error. An energy that is
    missing is NaN; one that is no plain number is an error.
    """
    path, parsed = Path(path), []
    for i, row in enumerate(_table(path), start=1):
        try:
            energy = labels.number(row[FORMATION_ENERGY], FORMATION_ENERGY)
            parsed.append((composition(row["composition"]), energy, row.get("id") or f"row {i}"))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            said = f"no column {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}: entry {i}: {said}") from None
    counts, energies, names = zip(*parsed)
    return np.stack(counts), np.array(energies), np.array(names)


def read_level(path: str | Path) -> Level | None:
    """The level of theory that all entries of a table name in the columns `theory` and `corrections`, if they do."""
    level = _level(_table(Path(path))[0])
    return level if any(level) else None


def _table(path: Path) -> list[dict]:
    """The rows of a table of entries, all of one level."""
    rows = reading.read_json(path) if path.suffix == ".json" else tables.read(path)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected a table of entries with at least one row")
    first = _level(rows[0])
    for i, row in enumerate(rows, start=1):
        if _level(row) != first or any(first) != all(first):
            raise ValueError(
                f"{path}: entry {i} is of {_level(row)}; expected one level for all, {first}, and all of it"
            )
    return rows


def _level(row: dict) -> Level:
    return Level(*(str(row.get(key) or "") for key in Level._fields))


def composition(formula: str | dict[str, float]) -> np.ndarray:
    """Atoms of each element of a formula, with brackets and fractions: (NUM_SPECIES,)."""
    if isinstance(formula, str):
        from pymatgen.core import Composition

        formula = Composition(formula).get_el_amt_dict()
    counts = np.zeros(NUM_SPECIES)
    for symbol, amount in formula.items():
        counts[atomic_number(symbol) - 1] += float(amount)
    if not counts.any():
        raise ValueError(f"composition: {limits.shown(formula)} names no element")
    return counts
