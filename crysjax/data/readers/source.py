"""What users hand over as crystals, and take back: paths, objects of ASE or pymatgen, data sets, lists of them."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from crysjax.data import datasets, labels
from crysjax.data.datasets import Dataset
from crysjax.data.lost import Notice, NotKept
from crysjax.data.readers import writing
from crysjax.data.readers.convert import entry_of_atoms, entry_of_structure
from crysjax.data.readers.part import read_part

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


def read(source: Any) -> Dataset:
    """Crystals from a path, from ASE atoms or pymatgen structures, from a data set, or from a list of any of them.

    Args:
        source: `PATH` or `PATH:SPLIT` of any format that `crysjax data prepare` reads: CIF, POSCAR, extxyz, CSV, JSON,
            Parquet, npz, ASE databases, zips, folders of them; or objects of ASE or pymatgen, whose positions and cells
            are taken as they are. Their labels (energy, forces, stress and numbers of `atoms.info`; `properties` of a
            structure) become properties as those of a file do. In a list, objects are called crystal-0, crystal-1, ...
            by their place, and of ids that come again from another part the later ones end in -2, -3, ....

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
    parts = []
    for whole, run in itertools.groupby(enumerate(many), lambda one: isinstance(one[1], Dataset | str | PathLike)):
        placed = dict(run)
        parts += [read(one) for one in placed.values()] if whole else [_of_objects(placed)]
    if not parts:
        raise ValueError("an empty list of crystals; expected at least one")
    return parts[0] if len(parts) == 1 else _distinct(parts)


def to_ase(crystals: Any) -> list[Atoms]:
    """ASE atoms of crystals (as `read` takes them), with their ids and properties in `info`.

    Energies, forces and stresses are in a calculator: `atoms.get_potential_energy()` answers in eV.
    """
    return writing.atoms_of(read(crystals))


def to_pymatgen(crystals: Any) -> list[Structure]:
    """pymatgen structures of crystals (as `read` takes them), with their ids and properties in `properties`."""
    return writing.structures_of(read(crystals))


def write(crystals: Any, path: str | PathLike) -> None:
    """Write crystals (as `read` takes them).

    Args:
        path: `.npz`, which keeps everything; `.extxyz` with properties; `.cif`, a block each; or, for a name without a
            dot, a folder of CIFs, numbered in the given order.
    """
    writing.write(read(crystals), path)


def _of_objects(objects: dict[int, Any]) -> Dataset:
    """Objects of ASE or pymatgen by their place in the list."""
    rows = [_entry(one)._replace(id=f"crystal-{k}") for k, one in objects.items()]
    kept, columns = labels.settle(rows, list(range(1, len(rows) + 1)))
    for line in labels.lost_lines(columns):
        warnings.warn(f"{_what(objects.values())}: {line}", NotKept, stacklevel=3)
    for line in labels.unread_lines(columns):
        warnings.warn(f"{_what(objects.values())}: {line}", Notice, stacklevel=3)
    return datasets.from_entries(kept, provenance={"columns": columns} if columns else None)


def _distinct(parts: list[Dataset]) -> Dataset:
    """One data set of several; an id that an earlier part has gets the first free of -2, -3, ...."""
    seen: set[str] = set()
    renamed = []
    for part in parts:
        ids, own = [], set(part.ids.tolist())
        for name in part.ids.tolist():
            others = (f"{name}-{k}" for k in itertools.count(2))
            ids.append(name if name not in seen else next(n for n in others if n not in seen | own))
            own.add(ids[-1])
        seen.update(ids)
        renamed.append(replace(part, ids=np.array(ids)))
    return datasets.concatenate(renamed)


def _what(many: Iterable) -> str:
    """The objects for messages: `Atoms`, or `Atoms, Structure` where they are of several kinds."""
    return ", ".join(dict.fromkeys(type(one).__name__ for one in many))


def _entry(one: Any) -> datasets.Entry:
    if hasattr(one, "get_scaled_positions"):
        return entry_of_atoms(one, "")
    if hasattr(one, "frac_coords"):
        return entry_of_structure(one, "", {})
    raise ValueError(
        f"{type(one).__name__}: expected a path, ASE atoms or a pymatgen structure, a data set, or a list of them"
    )
