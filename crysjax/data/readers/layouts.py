"""The array and table layouts that data sets are published in: npz, MatterGen's cache, CDVAE's CSV.

Readers yield lazy entries (`lazy.py`); layouts themselves are checked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from crysjax.data.datasets import Entry, SourceRow
from crysjax.data.labels import IDS, cells
from crysjax.data.readers import archives, limits, reading, tables
from crysjax.data.readers.cif import lattice_from_parameters
from crysjax.data.readers.lazy import Lazy

_SITES = ("atomic_numbers", "atom_types", "numbers")
_CELLS = ("cell", "lattices", "lattice")
_STRUCTURE = {*_SITES, *_CELLS, "num_atoms", "frac_coords", "pos", "lengths", "angles"}


def read_csv(name: str, data: bytes, parse: Callable[[str, str], Entry]) -> Iterator[Lazy]:
    """A column of structures (CIF, or pymatgen's JSON or Python dict), an id column, and labels; see `tables`."""
    text = limits.text(data)
    column = tables.structure_column(text)
    if column is None:
        raise ValueError(f"no column 'cif' or 'structure' among {tables.header(text)[:20]}, and none that holds either")
    notes = dict.fromkeys(commas := tables.decimal_commas(text), tables.COMMAS)
    for i, row in enumerate(tables.rows(text, commas)):
        structure, more = row.pop(column), row.pop(None, [])
        key = next((k for k in IDS if row.get(k)), "")
        name = str(row.get(key) or i)
        taken = {"structure": column} | ({"id": key} if key else {})
        labels = SourceRow(cells(row.items()), taken, notes=notes)
        yield name, "", partial(_of_row, name, structure, labels, more, parse)


def _of_row(name: str, text: str, row: SourceRow, more: list[str], parse: Callable[[str, str], Entry]) -> Entry:
    """The crystal of a row of a table. Cells beyond the header would put labels under the names of others."""
    if any(cell.strip() for cell in more):
        raise ValueError(
            f"{len(more)} cells more than the header names; a separator within a cell needs quotes around it"
        )
    return parse(name, text)._replace(row=row)


def read_npz(path: Path) -> Iterator[Lazy]:
    """Arrays by crystal (`num_atoms`, `cell` or `lengths` and `angles`, properties), by site; one prefix per split."""
    arrays = archives.arrays(path)
    for split in sorted({name.rpartition("/")[0] for name in arrays}):
        part = {name.rpartition("/")[2]: a for name, a in arrays.items() if name.rpartition("/")[0] == split}
        if "train_index" in part:
            part |= _looked_up(path.parent / "train", part["train_index"])
        yield from read_arrays(part, split)


def _looked_up(folder: Path, index: np.ndarray) -> dict[str, np.ndarray]:
    """Properties of the rows `index` of a MatterGen cache folder, where it lies beside the file."""
    return {file.stem: _values(file)[index] for file in sorted(folder.glob("*.json"))}


def _values(path: Path) -> np.ndarray:
    """The column of a MatterGen cache folder, null = missing."""
    try:
        values = reading.read_json(path)["values"]
        return np.array([np.nan if v is None else v for v in values], float)
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path.name}: no list of numbers under 'values' ({type(error).__name__})") from None


def read_mattergen(path: Path) -> Iterator[Lazy]:
    """MatterGen's cache folder: one file per array, one JSON file per property."""
    arrays = {file.stem: archives.array(file.name, reading.contents(file)) for file in sorted(path.glob("*.npy"))}
    arrays |= {file.stem: _values(file) for file in sorted(path.glob("*.json"))}
    yield from read_arrays(arrays if "pos" not in arrays else {"frac_coords": arrays.pop("pos")} | arrays, "")


def read_arrays(arrays: dict[str, np.ndarray], split: str) -> Iterator[Lazy]:
    """Arrays by crystal and by site -> entries; arrays that do not belong together are an error."""
    sites = next((arrays[k] for k in _SITES if k in arrays), None)
    frac, count, cell = arrays.get("frac_coords"), arrays.get("num_atoms"), _cells(arrays)
    if any(a is None for a in (sites, frac, count, cell)):
        raise ValueError(f"needs num_atoms, atomic_numbers, frac_coords (or pos) and cell; has {sorted(arrays)[:20]}")
    if count.ndim != 1 or count.dtype.kind not in "iu" or (count < 0).any():
        raise ValueError(f"num_atoms is no row of counts: {count.dtype} of shape {count.shape}")
    total = sum(count.tolist())  # as Python's integers: a sum that wraps around would fit
    if sites.shape != (total,) or frac.shape != (total, 3) or cell.shape != (len(count), 3, 3):
        raise ValueError(
            f"{total} sites of {len(count)} crystals announced; found species {sites.shape}, positions {frac.shape}"
            f" and cells {cell.shape}"
        )
    ids = next((arrays[k] for k in IDS if k in arrays and arrays[k].shape == count.shape), np.arange(len(count)))
    labels = {k: v for k, v in arrays.items() if k not in _STRUCTURE and k not in IDS}
    columns = {k: v for k, v in labels.items() if v.shape == count.shape}
    passed = {k: f"an array of shape {v.shape}" for k, v in labels.items() if k not in columns}
    start = np.concatenate([[0], np.cumsum(count)]).astype(int)
    for i in range(len(count)):
        part = slice(start[i], start[i + 1])
        row = SourceRow(cells((k, v[i]) for k, v in columns.items()), {}, passed)
        yield str(ids[i]), split, partial(Entry, str(ids[i]), sites[part], frac[part], cell[i], {}, row=row)


def _cells(arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """The array `cell` (`lattices` in some), or cells made of `lengths` (Å) and `angles` (degrees): (m, 3, 3)."""
    found = next((arrays[k] for k in _CELLS if k in arrays), None)
    if found is not None or not {"lengths", "angles"} <= set(arrays):
        return found
    lengths, angles = arrays["lengths"], arrays["angles"]
    if lengths.shape != angles.shape or lengths.shape[1:] != (3,):
        raise ValueError(f"lengths {lengths.shape} and angles {angles.shape}, expected (crystals, 3) of both")
    cells = lattice_from_parameters(lengths, angles)
    mirrored = arrays.get("left_handed")
    return cells if mirrored is None else np.where(mirrored[:, None, None], -cells, cells)
