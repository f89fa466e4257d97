"""Every way in and out: CIF, POSCAR, extxyz, ASE databases, CDVAE's CSV, npz layouts, MatterGen's cache, pymatgen, ASE.

A reader is a function from a path to lazy entries `(name, split, parse)`. An entry that cannot be parsed, whatever
raises, becomes a row of file, entry and reason: an error unless `skip_bad`, a count in the provenance with it.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crysjax.base import NUM_SPECIES, Crystal
from crysjax.data import cif, layouts
from crysjax.data.datasets import (
    ENERGY,
    FORCES,
    STRESS,
    Dataset,
    Entry,
    checked,
    concatenate,
    entries,
    from_entries,
    load,
    save,
)
from crysjax.data.layouts import IDS, Lazy, collect, numeric

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

_SUFFIXES = {
    ".cif": "cif",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".db": "ase_db",
    ".json": "matbench",
    ".json.gz": "matbench",
}
_FILES = ("*.cif", "POSCAR*", "CONTCAR*", "*.poscar", "*.vasp", "*.extxyz", "*.xyz")


def read(path: str | Path, *, format: str | None = None, split: str = "", skip_bad: bool = False) -> Dataset:
    """Read a file or folder; `format` is one of `FORMATS`, by default found from the name.

    `split` names every entry; a file that carries its own splits keeps them, and naming another is an error.
    Entries that cannot be read are an error with the first reason and the count; with `skip_bad` they are left out
    and listed in `provenance["skipped"]` as file, entry, reason.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    format = format or detect(path)
    if format not in FORMATS:
        raise ValueError(f"{path}: format {format!r} is unknown; expected one of {sorted(FORMATS)}")
    if format == "crysjax":
        return load(path)
    kept, splits, skipped = collect(path, FORMATS[format](path), split)
    if skipped and not skip_bad:
        first = skipped[0]
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise ValueError(
            f"{first['file']}: entry {first['entry']}: {first['reason']}{more}; --skip-bad leaves them out"
        )
    if not kept:
        raise ValueError(f"{path}: no crystal could be read as {format}")
    provenance = {"file": path.name, "format": format, "entries": len(kept), "skipped": skipped} | _digest(path)
    return from_entries(kept, split=splits, provenance=provenance)


def _digest(path: Path) -> dict:
    return {} if path.is_dir() else {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def detect(path: Path) -> str:
    """The format that a name stands for."""
    name = path.name.lower()
    if path.is_dir():
        return "mattergen" if (path / "num_atoms.npy").exists() else "folder"
    if name.endswith(".npz"):
        with np.load(path, allow_pickle=False) as file:
            return "crysjax" if "meta" in file.files else "npz"
    return next((format for suffix, format in _SUFFIXES.items() if name.endswith(suffix)), "ase")


def prepare(
    inputs: list[tuple[str | Path, str]], out: str | Path | None = None, *, skip_bad: bool = False, note: str = ""
) -> Dataset:
    """Read `(path, split)` pairs into one data set and write it to `out`; `note` is kept in the provenance.

    An id that comes twice within one split is an error: the same entry given twice would weigh double.
    """
    parts = [read(path, split=split, skip_bad=skip_bad) for path, split in inputs]
    dataset = parts[0] if len(parts) == 1 else concatenate(parts)
    pairs, count = np.unique(np.stack([dataset.split, dataset.ids]), axis=1, return_counts=True)
    if (count > 1).any():
        split, twice = pairs[:, count.argmax()].tolist()
        raise ValueError(f"id {twice!r} comes {count.max()} times in split {split!r} ({(count > 1).sum()} such ids)")
    dataset.provenance.update({"note": note} if note else {})
    if out is not None:
        save(dataset, out)
    return dataset


# Readers


def _read_cif(path: Path) -> Iterator[Lazy]:
    texts = cif.blocks(path.read_text(errors="replace")) or [""]
    for i, text in enumerate(texts):
        name = path.stem if len(texts) == 1 else f"{path.stem}-{text[5:60].split(None, 1)[0]}-{i}"
        yield name, "", partial(parse_cif, name, text)


def parse_cif(name: str, text: str, properties: dict[str, float] | None = None) -> Entry:
    """One CIF block: the fast reader if it is plain P1, pymatgen for everything else."""
    plain = [p1 for p1 in map(cif.parse_p1, cif.blocks(text)) if p1]
    if len(plain) == 1:
        return Entry(name, plain[0].numbers, plain[0].frac, plain[0].lattice, properties or {})
    from pymatgen.io.cif import CifParser

    structures = CifParser.from_str(text).parse_structures(primitive=False, on_error="raise")
    if len(structures) != 1:
        raise ValueError(f"{len(structures)} structures where one was expected")
    return _from_pymatgen(structures[0], name, properties or {})


def _read_ase(path: Path) -> Iterator[Lazy]:
    """Anything that ASE reads (extxyz, POSCAR, XSF, ...), every frame of it."""
    from ase.io import iread

    name = path.stem
    frames = iread(path, index=":")
    for i in itertools.count():
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:  # the stream is lost from here on: one row says where and why
            yield f"{name}-{i}", "", partial(_fail, error)
            return
        yield f"{name}-{i}", "", partial(_from_ase, atoms, f"{name}-{i}" if i else name)


def _fail(error: Exception) -> Entry:
    raise error


def _read_ase_database(path: Path) -> Iterator[Lazy]:
    from ase.db import connect

    for row in connect(path).select():
        name = str(next((row.get(k) for k in IDS[:2] if row.get(k)), row.id))
        yield name, "", partial(_from_row, row, name)


def _from_row(row, name: str) -> Entry:
    entry = _from_ase(row.toatoms(), name)
    return entry._replace(properties=entry.properties | numeric(row.key_value_pairs.items()))


def _read_folder(path: Path) -> Iterator[Lazy]:
    """Every structure file of a folder, in the order of their names."""
    files = sorted({file for pattern in _FILES for file in path.glob(pattern)})
    if not files:
        raise ValueError(f"{path}: no structure files ({', '.join(_FILES)}) in this folder")
    for file in files:
        for name, split, parse in FORMATS[detect(file)](file):
            yield f"{file.name}" if name in (file.stem, path.name) else f"{file.name}: {name}", split, parse


FORMATS: dict[str, Callable[[Path], Iterator[Lazy]]] = {
    "cif": _read_cif,
    "ase": _read_ase,
    "ase_db": _read_ase_database,
    "csv": partial(layouts.read_csv, parse_cif=parse_cif),
    "npz": layouts.read_npz,
    "mattergen": layouts.read_mattergen,
    "matbench": layouts.read_matbench,
    "folder": _read_folder,
    "crysjax": lambda path: iter(()),
}
"""Format name -> reader; `crysjax` is the package's own file and is loaded whole."""


# Conversions


def to_structure(material: Crystal | Entry) -> Structure:
    """A pymatgen structure; of a `Crystal` the likeliest element of each filled slot."""
    from pymatgen.core import Lattice, Structure

    numbers, frac, lattice = _host(material)
    return Structure(Lattice(lattice), numbers.tolist(), frac)


def to_atoms(material: Crystal | Entry) -> Atoms:
    """ASE atoms, periodic; of a `Crystal` the likeliest element of each filled slot."""
    from ase import Atoms

    numbers, frac, lattice = _host(material)
    return Atoms(numbers, scaled_positions=frac, cell=lattice, pbc=True)


def from_structure(structure: Structure) -> Crystal:
    """A `Crystal` of float32 NumPy arrays with as many slots as sites."""
    return _crystal(_from_pymatgen(structure, "", {}))


def from_atoms(atoms: Atoms) -> Crystal:
    """A `Crystal` of float32 NumPy arrays with as many slots as atoms."""
    return _crystal(_from_ase(atoms, ""))


def as_entry(material: Crystal | Entry, name: str = "") -> Entry:
    """A host entry of either view."""
    return material if isinstance(material, Entry) else Entry(name, *_host(material), {})


def _host(material: Crystal | Entry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if isinstance(material, Entry):
        return material.numbers, np.asarray(material.frac, float), np.asarray(material.lattice, float)
    occupancy = np.asarray(material.occupancy, float)
    filled = occupancy.sum(-1) > 0
    frac = np.asarray(material.frac, float)[filled]
    return occupancy[filled].argmax(-1) + 1, frac, np.asarray(material.lattice, float)


def _crystal(entry: Entry) -> Crystal:
    entry = checked(entry)
    return Crystal(np.eye(NUM_SPECIES, dtype=np.float32)[entry.numbers - 1], entry.frac, np.float32(entry.lattice))


def _from_pymatgen(structure: Structure, name: str, properties: dict[str, float]) -> Entry:
    if not structure.is_ordered:
        raise ValueError("sites with partial occupancy are not read yet")
    numbers = np.array([site.specie.Z for site in structure])
    return Entry(name, numbers, structure.frac_coords, structure.lattice.matrix, properties)


def _from_ase(atoms: Atoms, name: str) -> Entry:
    if not atoms.pbc.all():
        raise ValueError("not periodic in all three directions")
    occupancy = (atoms.info.get("occupancy") or {}).values()
    if any(len(site) != 1 or min(site.values()) < 1 for site in occupancy):
        raise ValueError("sites with partial occupancy are not read yet")
    name = str(next((atoms.info[k] for k in IDS if k in atoms.info), name))
    properties = numeric(atoms.info.items())
    found = {} if atoms.calc is None else atoms.calc.results
    if "energy" in found:
        properties[ENERGY] = float(found["energy"]) / len(atoms)
    if "stress" in found:
        properties |= dict(zip(STRESS, np.asarray(found["stress"], float)))  # ASE's Voigt order is ours
    forces = {FORCES: found["forces"]} if "forces" in found else {}
    frac, cell = atoms.get_scaled_positions(wrap=False), np.asarray(atoms.cell)
    return Entry(name, atoms.numbers, frac, cell, properties, forces)


def write_crystals(materials: Dataset | list[Crystal | Entry], path: str | Path) -> list[Path]:
    """Write `.extxyz` (all frames, with properties), `.cif` (a block each), or, for any other path, a folder of CIFs.

    Returns the files. Files of a folder are numbered in the given order, so that a ranking survives.
    """
    path = Path(path)
    rows = entries(materials) if isinstance(materials, Dataset) else [as_entry(m) for m in materials]
    named = [(row, row.id or f"crystal-{i}") for i, row in enumerate(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".extxyz", ".xyz"):
        return [_write_extxyz(named, path)]
    texts = [cif.format_p1(name, row.numbers, row.frac, row.lattice) for row, name in named]
    if path.suffix == ".cif":
        path.write_text("\n".join(texts))
        return [path]
    path.mkdir(exist_ok=True)
    digits = len(str(len(named)))
    safe = [re.sub(r"[^\w.+-]", "_", name) for _, name in named]
    files = [path / f"{i:0{digits}d}_{name}.cif" for i, name in enumerate(safe)]
    for file, text in zip(files, texts):
        file.write_text(text)
    return files


def _write_extxyz(named: list[tuple[Entry, str]], path: Path) -> Path:
    from ase.io import write

    frames = []
    for row, name in named:
        frames.append(to_atoms(row))
        frames[-1].info |= {"id": name} | {k: v for k, v in row.properties.items() if np.isfinite(v)}
    write(path, frames, format="extxyz")
    return path
