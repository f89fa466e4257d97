"""What users hand over as crystals: a path, objects of ASE or pymatgen, or a data set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from typing import Any

from crysjax.data import datasets, labels
from crysjax.data.datasets import Dataset
from crysjax.data.lost import Notice, NotKept
from crysjax.data.readers.convert import entry_of_atoms, entry_of_structure
from crysjax.data.readers.part import read_part


def read(source: Any) -> Dataset:
    """Crystals from a path, from ASE atoms or pymatgen structures, or from a list of them.

    Args:
        source: `PATH` or `PATH:SPLIT` of any format that `crysjax data prepare` reads: CIF, POSCAR, extxyz, CSV, JSON,
            Parquet, npz, ASE databases, zips, folders of them; or objects of ASE or pymatgen, whose positions and cells
            are taken as they are. Their labels (energy, forces, stress and numbers of `atoms.info`; `properties` of a
            structure) become properties as those of a file do.

    What files and objects say of atoms and a crystal does not keep (constraints, velocities, magnetic moments,
    charges, oxidation states, ...) is a warning of one line (`crysjax.data.lost.NotKept`); so are cells of a
    numeric column that are no plain numbers, and decimal commas read as points (`crysjax.data.lost.Notice`).

    A file that cannot be read is a `ValueError` that names the file, the entry and the reason.
    """
    if isinstance(source, Dataset):
        return source
    if isinstance(source, str | PathLike):
        return read_part(str(source))
    many = source if isinstance(source, Sequence) and not hasattr(source, "lattice") else [source]
    rows = [_entry(one)._replace(id=f"crystal-{k}") for k, one in enumerate(many)]
    kept, columns = labels.settle(rows, list(range(1, len(rows) + 1)))
    for line in labels.lost_lines(columns):
        warnings.warn(f"{_what(many)}: {line}", NotKept, stacklevel=2)
    for line in labels.unread_lines(columns):
        warnings.warn(f"{_what(many)}: {line}", Notice, stacklevel=2)
    return datasets.from_entries(kept, provenance={"columns": columns} if columns else None)


def _what(many: Sequence) -> str:
    """The objects for messages: `Atoms`, or `Atoms, Structure` where they are of several kinds."""
    return ", ".join(dict.fromkeys(type(one).__name__ for one in many))


def _entry(one: Any) -> datasets.Entry:
    if hasattr(one, "get_scaled_positions"):
        return entry_of_atoms(one, "")
    if hasattr(one, "frac_coords"):
        return entry_of_structure(one, "", {})
    raise ValueError(f"{type(one).__name__}: expected a path, ASE atoms or a pymatgen structure")
