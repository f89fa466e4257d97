"""Every way in: CIF, POSCAR, extxyz, XSF, ASE databases, CSV, Parquet, JSON, npz, torch files, zips, folders.

A reader is a function to lazy entries (`lazy.py`). An entry that cannot be parsed, whatever raises, becomes a row of
file, entry and reason: an error unless `skip_bad`, a count in the provenance with it. What a file may ask for is
bounded (`limits.py`), nothing in it is executed, and nothing is written while it is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from crysjax.data import labels
from crysjax.data.datasets import Dataset, Entry, concatenate, from_entries, load, save
from crysjax.data.files import Damaged
from crysjax.data.lost import Notice, NotKept
from crysjax.data.readers import archives, ase_files, cif, json_files, layouts, limits, poscar, reading
from crysjax.data.readers.ase_database import read_ase_database
from crysjax.data.readers.convert import (  # noqa: F401 (the views of one crystal are handed on)
    as_entry,
    entry_of_atoms,
    entry_of_structure,
    from_atoms,
    from_structure,
    to_atoms,
    to_structure,
)
from crysjax.data.readers.lazy import Lazy, Reader, clean, collect, failing, said
from crysjax.data.readers.parquet_files import read_parquet
from crysjax.data.readers.torch_files import read_torch
from crysjax.data.readers.writing import refuse_other_suffixes, write, write_crystals  # noqa: F401 (handed on)

_SUFFIXES = {
    ".cif": "cif", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".pt": "torch", ".pth": "torch", ".extxyz": "extxyz", ".xyz": "extxyz", ".poscar": "poscar", ".vasp": "poscar",
    ".xsf": "xsf", ".axsf": "xsf", ".db": "ase_db", ".zip": "zip", ".npz": "npz", ".parquet": "parquet",
}  # fmt: skip
_PREFIXES = {"poscar": "poscar", "contcar": "poscar"}
_IN_FOLDERS = ("cif", "poscar", "extxyz", "xsf")
_IN_ZIPS = (*_IN_FOLDERS, "csv", "json", "jsonl")
_EXECUTES = (".pkl", ".pickle", ".traj", ".py", ".p", ".joblib", ".ckpt")


def read(path: str | Path, *, format: str | None = None, split: str = "", skip_bad: bool = False) -> Dataset:
    """Read a file or folder; `format` is one of `FORMATS`, by default found from the name.

    `split` names every entry; a file that carries its own splits keeps them, and naming another is an error.
    Entries that cannot be read are an error with the first reason and the count; with `skip_bad` they are left out
    and listed in `provenance["skipped"]` as file, entry, reason. A file that holds nothing readable is `Damaged`.
    What became of every column of labels stands in `provenance["columns"]`, see `labels.settle`; what the file says of
    atoms and a crystal does not keep stands there too. Both are warnings: what is not kept (`lost.NotKept`), and cells
    of numeric columns that are no plain numbers (`lost.Notice`).
    """
    path = Path(path)
    if not (path.is_file() or path.is_dir()):
        why = reading.other_kind(path)
        raise ValueError(
            f"{clean(str(path))}: {why + '; expected a file or folder' if why else 'no such file or folder'}"
        )
    if format is not None and format not in FORMATS:
        raise ValueError(f"{path}: format {format!r} is unknown; expected one of {sorted(FORMATS)}")
    try:
        format = format or detect(path)
        if format == "crysjax":
            return load(path)
        kept, splits, places, skipped = collect(path, FORMATS[format](path), split)
    except Exception as error:
        raise _damaged(path, error) from None
    kept, columns = labels.settle(kept, places)
    if skipped and (not skip_bad or not kept):
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        entry = f"entry {skipped[0]['entry']}: " if skipped[0]["entry"] else ""
        raise Damaged(path, f"{entry}{skipped[0]['reason']}{more}; `data prepare --skip-bad` leaves them out", skipped)
    if not kept:
        raise Damaged(path, f"no crystal in it, read as {format}")
    provenance = {"file": path.name, "format": format, "entries": len(kept), "skipped": skipped} | _digest(path)
    provenance |= {"columns": columns} if columns else {}
    for line in labels.lost_lines(columns):
        warnings.warn(f"{path.name}: {line}", NotKept, stacklevel=2)
    for line in labels.note_lines(columns) + labels.unread_lines(columns):
        warnings.warn(f"{path.name}: {line}", Notice, stacklevel=2)
    return from_entries(kept, split=splits, provenance=provenance)


def _damaged(path: Path, error: Exception) -> Exception:
    """Whatever a reader raised, as one line about the file."""
    if isinstance(error, Damaged) or (isinstance(error, ValueError) and str(error).startswith(f"{path}: split ")):
        return error
    return Damaged(path, said(error).removeprefix(f"{path}: "))


def _digest(path: Path) -> dict:
    if path.is_dir():
        return {}
    return {"sha256": reading.digest(path)}


def detect(path: Path) -> str:
    """The format that a name stands for; a name that stands for none is an error that says what is read."""
    if path.is_dir():
        return "mattergen" if (path / "num_atoms.npy").is_file() else "folder"
    name = path.name.lower()
    format = _named(name)
    if format is None:
        why = "it can execute code when it is opened" if name.endswith(_EXECUTES) else "its name stands for no format"
        raise Damaged(path, f"not read: {why}; expected {', '.join(_SUFFIXES)}, POSCAR, CONTCAR or a folder")
    if format != "npz":
        return format
    with reading.opened(path) as file:
        if file.read(2) != b"PK":
            raise Damaged(path, "not crystals (it is no .npz file)")
    try:
        with archives.opened(path) as archive:
            return "crysjax" if "meta.npy" in archive.namelist() else "npz"
    except ValueError as error:
        raise Damaged(path, f"not crystals ({error})") from None


def _named(name: str) -> str | None:
    """The format of a file name, `None` if it stands for none; only text is also read from `.gz`."""
    name = name.lower()
    plain = name.removesuffix(".gz")
    by_suffix = next((f for suffix, f in _SUFFIXES.items() if plain.endswith(suffix)), None)
    format = by_suffix or next((f for prefix, f in _PREFIXES.items() if plain.startswith(prefix)), None)
    return format if plain == name or format in CONTENTS else None


def prepare(
    inputs: list[tuple[str | Path, str]], out: str | Path | None = None, *, skip_bad: bool = False, note: str = "",
    on_skip: Callable[[dict], None] = lambda row: None, on_columns: Callable[[str, list[dict]], None] = lambda *_: None,
) -> Dataset:  # fmt: skip
    """Read `(path, split)` pairs into one data set and write it to `out`; `note` is kept in the provenance.

    With `skip_bad`, files of which nothing can be read are left out too. `on_skip` is told every row of file, entry
    and reason, `on_columns` the name of every file and its columns of labels (`labels.settle`). An id that comes twice
    within one split is an error: the same entry given twice would weigh double.
    """
    parts, names, lost = [], [], []
    for path, split in inputs:
        try:
            parts.append(read(path, split=split, skip_bad=skip_bad))
            names.append(str(path))
            read_now = detect(Path(path)) != "crysjax"  # what a data set's file tells has been told before
            skipped = parts[-1].provenance["skipped"] if read_now else []
            on_columns(Path(path).name, parts[-1].provenance.get("columns", []) if read_now else [])
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
    _refuse_repeated(parts, names, dataset)
    dataset.provenance.update({"note": note} if note else {})
    if out is not None:
        save(dataset, out)
    return dataset


def _refuse_repeated(parts: list[Dataset], paths: list[str], whole: Dataset) -> None:
    """An error for ids that come twice within a split, with the files that they come from."""
    pairs, count = np.unique(np.stack([whole.split, whole.ids]), axis=1, return_counts=True)
    if (count < 2).all():
        return
    split, twice = pairs[:, count.argmax()].tolist()
    holds = [((part.ids == twice) & (part.split == split)).any() for part in parts]
    where = ", ".join(dict.fromkeys(clean(p, 500) for p, has in zip(paths, holds) if has)) if len(holds) > 1 else ""
    raise ValueError(
        f"id {twice!r} comes {count.max()} times in split {split!r} ({(count > 1).sum()} such ids)"
        f"{f', in {where}' if where else ''}; give each crystal an id of its own, or each file a split"
    )


# Readers


def _read_cif(name: str, data: bytes) -> Iterator[Lazy]:
    for label, text in cif.structures(name, limits.text(data)):
        yield label, "", partial(parse_cif, label, text)


parse_cif = cif.parse


def parse_text(name: str, text: str, properties: dict[str, float] | None = None) -> Entry:
    """A structure in one string, as tables hold them: a CIF, or pymatgen's JSON."""
    return json_files.of_text(name, text, properties or {}, parse_cif)


def _read_file(path: Path, reader: Reader) -> Iterator[Lazy]:
    yield from reader(_stem(path), reading.contents(path))


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem


def _read_folder(path: Path) -> Iterator[Lazy]:
    """Every structure file of a folder, in the order of their names; folders within are left alone."""
    found = [(file, _named(file.name)) for file in sorted(path.iterdir())]
    chosen = [(file, format) for file, format in found if format in _IN_FOLDERS]
    if not chosen:
        raise ValueError("no structure files (.cif, .poscar, .vasp, .extxyz, .xyz, .xsf, POSCAR*) in this folder")
    for file, format in chosen:
        try:
            if not file.is_file():
                raise ValueError(f"{reading.other_kind(file) or 'is a link to nowhere'}; expected a regular file")
            for name, split, parse in FORMATS[format](file):
                yield f"{file.name}" if name in (_stem(file), path.name) else f"{file.name}: {name}", split, parse
        except Exception as error:  # one bad file is a reason, and no reason to leave the others
            yield file.name, "", partial(failing, error)


def _zipped(name: str) -> Reader | None:
    format = _named(name)
    return CONTENTS[format] if format in _IN_ZIPS else None


CONTENTS: dict[str, Reader] = {
    "cif": _read_cif,
    "poscar": poscar.read_poscar,
    "extxyz": ase_files.read_extxyz,
    "xsf": ase_files.read_xsf,
    "csv": partial(layouts.read_csv, parse=parse_text),
    "json": partial(json_files.read_json, parse_cif=parse_cif),
    "jsonl": partial(json_files.read_jsonl, parse_cif=parse_cif),
    "torch": read_torch,
    "parquet": partial(read_parquet, parse_cif=parse_cif),
}
"""Format name -> reader of contents; these are also read from `.gz`, and most of them from zip archives."""

FORMATS: dict[str, Callable[[Path], Iterator[Lazy]]] = {
    **{format: partial(_read_file, reader=reader) for format, reader in CONTENTS.items()},
    "ase_db": read_ase_database,
    "npz": layouts.read_npz,
    "mattergen": layouts.read_mattergen,
    "zip": partial(archives.read_zip, reader_of=_zipped),
    "folder": _read_folder,
    "crysjax": lambda path: iter(()),
}
"""Format name -> reader of a path; `crysjax` is the package's own file and is loaded whole."""
