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

import numpy as np

from crysjax.base import Crystal
from crysjax.data import cif, files, layouts
from crysjax.data.convert import (  # noqa: F401 (the views of one crystal are handed on)
    as_entry,
    entry_of_atoms,
    entry_of_structure,
    from_atoms,
    from_structure,
    to_atoms,
    to_structure,
)
from crysjax.data.datasets import Dataset, Entry, concatenate, entries, from_entries, load, save
from crysjax.data.files import Damaged
from crysjax.data.layouts import IDS, Lazy, collect, numeric

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
    if skipped and (not skip_bad or not kept):
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        entry = f"entry {skipped[0]['entry']}: " if skipped[0]["entry"] else ""
        raise Damaged(path, f"{entry}{skipped[0]['reason']}{more}; --skip-bad leaves them out", skipped)
    if not kept:
        raise ValueError(f"{path}: no crystal in it, read as {format}")
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
        with files.npz(path, "crystals") as file:
            return "crysjax" if "meta" in file.files else "npz"
    return next((format for suffix, format in _SUFFIXES.items() if name.endswith(suffix)), "ase")


def prepare(
    inputs: list[tuple[str | Path, str]], out: str | Path | None = None, *, skip_bad: bool = False, note: str = "",
    on_skip: Callable[[dict], None] = lambda row: None,
) -> Dataset:  # fmt: skip
    """Read `(path, split)` pairs into one data set and write it to `out`; `note` is kept in the provenance.

    With `skip_bad`, files of which nothing can be read are left out too; `on_skip` is told every row of file, entry
    and reason. An id that comes twice within one split is an error: the same entry given twice would weigh double.
    """
    parts, lost = [], []
    for path, split in inputs:
        try:
            parts.append(read(path, split=split, skip_bad=skip_bad))
            skipped = [] if detect(Path(path)) == "crysjax" else parts[-1].provenance["skipped"]
        except Damaged as error:
            if not skip_bad:
                raise
            lost += (skipped := error.skipped)
        for row in skipped:
            on_skip(row)
    if not parts:
        raise ValueError(f"{', '.join(str(path) for path, _ in inputs)}: no crystal could be read")
    dataset = parts[0] if len(parts) == 1 else concatenate(parts)
    dataset.provenance.update({"skipped": dataset.provenance.get("skipped", []) + lost} if lost else {})
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

    try:
        structures = CifParser.from_str(text).parse_structures(primitive=False, on_error="raise")
    except (ArithmeticError, LookupError, TypeError) as error:  # what the parser stumbles over, not what it says
        raise ValueError(f"cut short or malformed ({type(error).__name__}: {error})") from None
    if len(structures) != 1:
        raise ValueError(f"{len(structures)} structures where one was expected")
    return entry_of_structure(structures[0], name, properties or {})


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
        yield f"{name}-{i}", "", partial(entry_of_atoms, atoms, f"{name}-{i}" if i else name)


def _fail(error: Exception) -> Entry:
    raise error


def _read_ase_database(path: Path) -> Iterator[Lazy]:
    from ase.db import connect

    for row in connect(path).select():
        name = str(next((row.get(k) for k in IDS[:2] if row.get(k)), row.id))
        yield name, "", partial(_from_row, row, name)


def _from_row(row, name: str) -> Entry:
    entry = entry_of_atoms(row.toatoms(), name)
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


def write_crystals(materials: Dataset | list[Crystal | Entry], path: str | Path) -> list[Path]:
    """Write `.extxyz` (all frames, with properties), `.cif` (a block each), or, for any other path, a folder of CIFs.

    Returns the files. Files of a folder are numbered in the given order, so that a ranking survives.
    """
    path = Path(path)
    rows = entries(materials) if isinstance(materials, Dataset) else [as_entry(m) for m in materials]
    named = [(row, row.id or f"crystal-{i}") for i, row in enumerate(rows)]
    if path.suffix in (".extxyz", ".xyz"):
        return [_write_extxyz(named, path)]
    texts = [cif.format_p1(name, row.numbers, row.frac, row.lattice) for row, name in named]
    if path.suffix == ".cif":
        return [files.write(path, "\n".join(texts))]
    path.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(named)))
    safe = [re.sub(r"[^\w.+-]", "_", name) for _, name in named]
    places = [path / f"{i:0{digits}d}_{name}.cif" for i, name in enumerate(safe)]
    return [files.write(place, text) for place, text in zip(places, texts)]


def _write_extxyz(named: list[tuple[Entry, str]], path: Path) -> Path:
    from ase.io import write

    frames = []
    for row, name in named:
        frames.append(to_atoms(row))
        frames[-1].info |= {"id": name} | {k: v for k, v in row.properties.items() if np.isfinite(v)}
    with files.whole(path) as partial:
        write(partial, frames, format="extxyz")
    return path
