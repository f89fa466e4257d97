"""The array and table layouts that data sets are published in: npz, MatterGen's cache, CDVAE's CSV, Matbench's JSON.

A reader turns a path into lazy entries `(name, split, parse)`: the name for messages, the split that the file itself
gives ("" if none), and a function that makes the entry or raises. Layouts themselves are checked at once.
"""

from __future__ import annotations

import csv
import gzip
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from crysjax.data import files
from crysjax.data.cif import lattice_from_parameters
from crysjax.data.datasets import Entry, checked
from crysjax.data.elements import atomic_number

Lazy = tuple[str, str, Callable[[], Entry]]  # name, split or "", parse

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

IDS = ("structure_id", "material_id", "id", "mp_id", "name")
_SITES = ("atomic_numbers", "atom_types", "numbers")


def collect(path: Path, lazy: Iterable[Lazy], split: str) -> tuple[list[Entry], list[str], list[dict]]:
    """Entries that are crystals, the split of each, and a row of file, entry and reason for every other one."""
    kept, splits, skipped = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsers warn a line per file; what matters ends up in `skipped`
        for name, own, parse in _until_broken(path, lazy, skipped):
            if own and split and own != split:
                raise ValueError(
                    f"{path}: split {split!r} was asked for, but the file carries its own, such as {own!r}"
                )
            try:
                kept.append(checked(parse()))
                splits.append(own or split)
            except Exception as error:  # a third-party parser may raise anything: all of it is a reason
                skipped.append({"file": path.name, "entry": name, "reason": _said(error)})
    return kept, splits, skipped


def _until_broken(path: Path, lazy: Iterable[Lazy], skipped: list[dict]) -> Iterator[Lazy]:
    """The entries up to where the file itself is damaged; what is wrong from there on becomes a row without a name."""
    try:
        yield from lazy
    except files.Damaged as error:
        skipped += error.skipped
    except Exception as error:
        if type(error) in (ValueError, OSError):  # said by a reader: not damaged, but another layout
            raise
        skipped.append({"file": path.name, "entry": "", "reason": f"cut short or damaged ({_said(error)})"})


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].removeprefix("ValueError: ")


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
        except (TypeError, ValueError):
            continue  # text columns (formula, prompt) are not properties
    return found


def read_csv(path: Path, parse_cif: Callable[[str, str, dict], Entry]) -> Iterator[Lazy]:
    """CDVAE's layout: a column `cif`, an id column, and properties."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        csv.field_size_limit(10**8)
        rows = csv.DictReader(file)
        if "cif" not in (rows.fieldnames or []):
            raise ValueError(f"{path}: no column 'cif' among {rows.fieldnames}")
        for i, row in enumerate(rows):
            text = row.pop("cif") or ""
            name = str(next((row[k] for k in IDS if row.get(k)), row.get("") or i))
            yield name, "", partial(parse_cif, name, text, numeric((k, v) for k, v in row.items() if k is not None))


def read_npz(path: Path) -> Iterator[Lazy]:
    """Arrays by crystal (`num_atoms`, `cell` or `lengths` and `angles`, properties) and by site, a split a prefix."""
    with files.npz(path, "arrays of crystals") as file:
        arrays = {name: file[name] for name in file.files}
    prefixes = sorted({name.rpartition("/")[0] for name in arrays})
    for split in prefixes:
        part = {name.rpartition("/")[2]: a for name, a in arrays.items() if name.rpartition("/")[0] == split}
        if "train_index" in part:
            part |= _looked_up(path.parent / "train", part["train_index"])
        yield from _read_arrays(path, part, split)


def _looked_up(folder: Path, index: np.ndarray) -> dict[str, np.ndarray]:
    """Properties of the rows `index` of a MatterGen cache folder, where it lies beside the file."""
    return {file.stem: _values(file)[index] for file in sorted(folder.glob("*.json"))}


def _values(path: Path) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in json.loads(path.read_text())["values"]], float)


def read_mattergen(path: Path) -> Iterator[Lazy]:
    arrays = {file.stem: np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))}
    arrays |= {file.stem: _values(file) for file in sorted(path.glob("*.json"))}
    yield from _read_arrays(path, {"frac_coords": arrays.pop("pos", None)} | arrays, "")


def _read_arrays(path: Path, arrays: dict[str, np.ndarray], split: str) -> Iterator[Lazy]:
    sites = next((arrays[k] for k in _SITES if k in arrays), None)
    frac, count = arrays.get("frac_coords"), arrays.get("num_atoms")
    if "cell" not in arrays and {"lengths", "angles"} <= set(arrays):
        arrays["cell"] = lattice_from_parameters(arrays.pop("lengths"), arrays.pop("angles"))
    cell = arrays.get("cell")
    if any(a is None for a in (sites, frac, count, cell)):
        raise ValueError(
            f"{path}: needs num_atoms, atomic_numbers, frac_coords (or pos) and cell; has {sorted(arrays)}"
        )
    if not len(sites) == len(frac) == count.sum() or len(cell) != len(count):
        raise ValueError(f"{path}: {count.sum()} sites announced, {len(sites)} species and {len(frac)} positions found")
    ids = next((arrays[k] for k in IDS if k in arrays), np.arange(len(count)))
    columns = {k: v for k, v in arrays.items() if v.shape == (len(count),) and v.dtype.kind == "f"}
    start = np.concatenate([[0], np.cumsum(count)])
    for i in range(len(count)):
        part = slice(start[i], start[i + 1])
        properties = numeric((k, v[i]) for k, v in columns.items())
        yield str(ids[i]), split, partial(Entry, str(ids[i]), sites[part], frac[part], cell[i], properties)


def read_matbench(path: Path) -> Iterator[Lazy]:
    """Matbench's JSON: rows of a pymatgen structure and one target."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        table = json.load(file)
    if not {"columns", "index", "data"} <= set(table) or table["columns"][0] != "structure":
        raise ValueError(f"{path}: not a Matbench table of structures")
    for i, (structure, *targets) in zip(table["index"], table["data"]):
        yield str(i), "", partial(_from_dict, str(i), structure, numeric(zip(table["columns"][1:], targets)))


def _from_dict(name: str, structure: dict, properties: dict) -> Entry:
    species = [site["species"] for site in structure["sites"]]
    if any(len(s) != 1 or s[0]["occu"] != 1 for s in species):
        raise ValueError("sites with partial occupancy are not read yet")
    frac = np.array([site["abc"] for site in structure["sites"]])
    numbers = np.array([atomic_number(s[0]["element"]) for s in species])
    return Entry(name, numbers, frac, np.array(structure["lattice"]["matrix"]), properties)
