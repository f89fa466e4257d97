"""The array and table layouts that data sets are published in: npz, MatterGen's cache, CDVAE's CSV.

Readers yield lazy entries (`lazy.py`); layouts themselves are checked at once.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from crysjax.data import archives, limits, reading
from crysjax.data.cif import lattice_from_parameters
from crysjax.data.datasets import Entry
from crysjax.data.lazy import Lazy

PROPERTY_NAMES = {
    "formation_energy_per_atom": "formation_energy_ev_per_atom",
    "band_gap": "band_gap_ev",
    "dft_band_gap": "band_gap_ev",
    "dft_bulk_modulus": "bulk_modulus_gpa",
    "bulk_modulus": "bulk_modulus_gpa",
    "shear_modulus": "shear_modulus_gpa",
    "dft_mag_density": "mag_density",
    "energy_per_atom": "energy_ev_per_atom",
    "e_above_hull": "e_above_hull_ev_per_atom",
    "energy_above_hull": "e_above_hull_ev_per_atom",
    "heat_all": "heat_ev",
    "heat_ref": "heat_ref_ev",
    "dir_gap": "direct_gap_ev",
    "ind_gap": "indirect_gap_ev",
    "debye_temperature": "debye_temperature_k",
    "thermal_conductivity": "thermal_conductivity_w_per_m_k",
    "thermal_expansion": "thermal_expansion_per_k",
    "last phdos peak": "last_phdos_peak_per_cm",
    "spacegroup.number": "space_group",
    "space_group_number": "space_group",
}
"""Names in files -> names that carry their unit. Every other numeric column keeps its name."""

NOT_PROPERTIES = {
    "",
    "index",
    "volume",
    "density",
    "atomic_density",
    "created_at",
    "nsites",
    "vol_ratio",
    "train_index",
}
"""Numeric columns that are row numbers, follow from the structure, or are book-keeping."""

IDS = ("structure_id", "material_id", "id", "mp_id", "jid", "name")
_SITES = ("atomic_numbers", "atom_types", "numbers")
_CELLS = ("cell", "lattices", "lattice")
_TEXTS = ("cif", "structure")


def property_name(name: str) -> str:
    """The name with its unit."""
    return PROPERTY_NAMES.get(name, name)


def numeric(columns: Iterable[tuple[str, object]]) -> dict[str, float]:
    """The numeric columns, under the names that carry units."""
    found = {}
    for name, value in columns:
        if name in NOT_PROPERTIES or name in IDS or isinstance(value, bool):
            continue
        try:
            found[property_name(name)] = float(value)
        except (TypeError, ValueError, OverflowError):
            continue  # text columns (formula, prompt) are not properties
    return found


def read_csv(name: str, data: bytes, parse: Callable[[str, str, dict], Entry]) -> Iterator[Lazy]:
    """A column `cif` (CDVAE's layout) or `structure` (a CIF, or pymatgen's JSON), an id column, and properties."""
    csv.field_size_limit(limits.FIELD_CHARACTERS)
    rows = csv.DictReader(io.StringIO(limits.text(data)))
    column = next((c for c in _TEXTS if c in (rows.fieldnames or [])), None)
    if column is None:
        raise ValueError(f"no column 'cif' or 'structure' among {(rows.fieldnames or [])[:20]}")
    for i, row in enumerate(rows):
        text = row.pop(column) or ""
        name = str(next((row[k] for k in IDS if row.get(k)), row.get("") or i))
        yield name, "", partial(parse, name, text, numeric((k, v) for k, v in row.items() if k is not None))


def read_npz(path: Path) -> Iterator[Lazy]:
    """Arrays by crystal (`num_atoms`, `cell` or `lengths` and `angles`, properties) and by site, a split a prefix."""
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
    """MatterGen's cache folder: an array a file, a property a JSON file."""
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
    columns = {k: v for k, v in arrays.items() if v.shape == count.shape and v.dtype.kind == "f"}
    start = np.concatenate([[0], np.cumsum(count)]).astype(int)
    for i in range(len(count)):
        part = slice(start[i], start[i + 1])
        properties = numeric((k, v[i]) for k, v in columns.items())
        yield str(ids[i]), split, partial(Entry, str(ids[i]), sites[part], frac[part], cell[i], properties)


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
