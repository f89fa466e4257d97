"""The ways out: npz, extxyz, CIF and folders of CIFs; ASE atoms and pymatgen structures with their properties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crysjax.base import Crystal
from crysjax.data import files, names
from crysjax.data.datasets import ENERGY, STRESS, Dataset, Entry, entries, save
from crysjax.data.readers import cif
from crysjax.data.readers.convert import as_entry, to_structure, with_results

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

WRITTEN = (".npz", ".extxyz", ".xyz", ".cif")


def refuse_other_suffixes(path: str | PathLike) -> None:
    """An error for a name that ends like a file of a format that is not written; a new folder's name has no dot."""
    suffix, place = Path(path).suffix, Path(path)
    in_use = place.is_dir() and any(not inner.name.startswith(".") for inner in place.iterdir())  # more than its lock
    if suffix and suffix not in WRITTEN and not in_use:
        raise ValueError(
            f"{path}: {suffix} is not written; expected {', '.join(WRITTEN)}, or a name without a dot: a folder of CIFs"
        )


def write(dataset: Dataset, path: str | PathLike) -> None:
    """A data set as `.npz`, which keeps all of it, or as `write_crystals` has it."""
    refuse_other_suffixes(path)
    save(dataset, Path(path)) if Path(path).suffix == ".npz" else write_crystals(dataset, Path(path))


def write_crystals(
    materials: Dataset | list[Crystal | Entry], path: str | Path, *, notes: Sequence[Mapping[str, str | float]] = ()
) -> list[Path]:
    """Write `.extxyz` (all frames, with properties), `.cif` (a block each), or, for any other path, a folder of CIFs.

    Returns the files. Files of a folder are numbered in the given order, so that a ranking survives. Energy, forces
    and stress go into an extxyz as ASE keeps them: `ase.io.read(...).get_potential_energy()` answers. `notes` stand
    beside the properties of each frame.
    """
    path = Path(path)
    rows = entries(materials) if isinstance(materials, Dataset) else [as_entry(m) for m in materials]
    named = [(row, row.id or f"crystal-{i}") for i, row in enumerate(rows)]
    if path.suffix in (".extxyz", ".xyz"):
        return [_write_extxyz(named, path, notes or [{}] * len(named))]
    texts = [cif.format_p1(name, row.numbers, row.frac, row.lattice) for row, name in named]
    if path.suffix == ".cif":
        return [files.write(path, "\n".join(texts))]
    path.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(named)))
    places = [path / f"{i:0{digits}d}_{names.of(name)}.cif" for i, (_, name) in enumerate(named)]
    return [files.write(place, text) for place, text in zip(places, texts)]


def atoms_of(dataset: Dataset) -> list[Atoms]:
    """ASE atoms of every crystal; see `source.to_ase`."""
    return [_frame(row, str(name)) for row, name in zip(entries(dataset), dataset.ids)]


def structures_of(dataset: Dataset) -> list[Structure]:
    """pymatgen structures of every crystal; see `source.to_pymatgen`."""
    found = []
    for row in entries(dataset):
        found.append(to_structure(row))
        found[-1].properties = {"id": row.id} | {k: v for k, v in row.properties.items() if np.isfinite(v)}
    return found


def _frame(row: Entry, name: str) -> Atoms:
    """ASE atoms with the results that ASE has a place for in their calculator, everything else in `info`."""
    frame = with_results(row)
    results = frame.calc.results if frame.calc else {}
    of_results = {*([ENERGY] if "energy" in results else []), *(STRESS if "stress" in results else ())}
    frame.info |= {"id": name} | {k: v for k, v in row.properties.items() if np.isfinite(v) and k not in of_results}
    return frame


def _in_a_comment(name: str) -> str:
    """An id in the comment line of extxyz, where ASE escapes neither line ends nor backslashes: they become `%0a`."""
    return "".join(c if c.isprintable() and c != "\\" else f"%{ord(c):02x}" for c in name)


def _write_extxyz(named: list[tuple[Entry, str]], path: Path, notes: Sequence[Mapping[str, str | float]]) -> Path:
    from ase.io import write

    frames = []
    for (row, name), more in zip(named, notes, strict=True):
        frames.append(_frame(row, _in_a_comment(name)))
        frames[-1].info |= {k: _in_a_comment(v) if isinstance(v, str) else v for k, v in more.items()}
    with files.whole(path) as partial:
        write(partial, frames, format="extxyz")
    return path
