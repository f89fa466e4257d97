"""Rows of ASE's databases, from SQLite or JSON: crystal, energy, forces, stress, key-value pairs; the rest is counted.

A row is a dict under the names of `ase.db`'s columns: arrays as NumPy arrays, `key_value_pairs` as a dict,
`constraints` as a list of dicts. Classes that a row names are never looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from crysjax.data import lost
from crysjax.data.datasets import ENERGY, FORCES, STRESS, Entry, SourceRow
from crysjax.data.labels import IDS, cells
from crysjax.data.readers import limits
from crysjax.data.readers.lazy import Lazy

ARRAYS = {
    "numbers": (-1,), "positions": (-1, 3), "cell": (3, 3), "forces": (-1, 3), "stress": (6,), "dipole": (3,),
}  # fmt: skip
"""Array -> its shape; those that are said of atoms (`PER_ATOM`) have a number or a vector for each."""

PER_ATOM = (*(name for names in lost.OF_ATOMS.values() for name in names), "masses")


def name_of(pairs: Mapping[str, Any], number: Any) -> str:
    """The `structure_id` or `material_id` of a row, or its number."""
    return str(next((pairs[k] for k in IDS[:2] if pairs.get(k)), number))


def entry(name: str, row: Mapping[str, Any]) -> Entry:
    """The crystal of a row that is periodic in all three directions (`pbc`, three truth values)."""
    if not np.all(row["pbc"]) or np.size(row["pbc"]) != 3:
        raise ValueError("not periodic in all three directions")
    numbers, positions, cell = row["numbers"], row["positions"], row["cell"]
    limits.refuse_sites(len(numbers))
    frac = np.linalg.solve(cell.T, positions.T).T
    rules = row.get("constraints") or []
    unkept = lost.constraints(map(lost.bound_by, rules if isinstance(rules, list) else [rules]), len(numbers))
    unkept |= lost.of_arrays({k: row[k] for k in ("numbers", *PER_ATOM) if row.get(k) is not None}, len(numbers))
    forces = {} if row.get("forces") is None else {FORCES: row["forces"]}
    return Entry(name, numbers, frac, cell, _properties(row, len(numbers)), forces, _labels(row), unkept)


def _properties(row: Mapping[str, Any], sites: int) -> dict[str, float]:
    properties, energy = {}, _energy(row)
    if energy:
        if isinstance(row[energy], bool) or not isinstance(row[energy], int | float):
            raise ValueError(f"{energy}: {repr(row[energy])[:40]}; expected a number")
        properties[ENERGY] = float(row[energy]) / max(sites, 1)
    if row.get("stress") is not None:
        properties |= dict(zip(STRESS, row["stress"].tolist()))
    return properties


def _energy(row: Mapping[str, Any]) -> str:
    """The column of the energy, "" where there is none: that of electrons at 0 K before the free energy."""
    return next((name for name in ("energy", "free_energy") if row.get(name) is not None), "")


def _labels(row: Mapping[str, Any]) -> SourceRow:
    """Key-value pairs and the total magnetic moment; what else a row has is named."""
    there = {name for name, value in row.items() if value is not None}
    found = {**row["key_value_pairs"], **({"magmom": row["magmom"]} if "magmom" in there else {})}
    taken = {"energy": _energy(row), "forces": "forces", "stress": "stress"}
    passed = {"free_energy": "'energy' is read", "dipole": "an array of shape (3,)", "data": "what ASE keeps as data"}
    there -= {"data"} if not row.get("data") else set()
    there -= {"free_energy"} if _energy(row) == "free_energy" else set()
    return SourceRow(
        cells(found.items()),
        {what: name for what, name in taken.items() if name in there},
        {name: why for name, why in passed.items() if name in there},
    )


def is_json(found: Any) -> bool:
    """Whether a JSON value is a database of ASE: rows under their numbers, and a list of these."""
    return isinstance(found, dict) and isinstance(found.get("ids"), list) and "nextid" in found


def of_json(found: dict[str, Any]) -> Iterator[Lazy]:
    """Every row of a database in JSON."""
    for number in found["ids"]:
        row = found.get(str(number))
        pairs = row.get("key_value_pairs") if isinstance(row, dict) else None
        name = name_of(pairs if isinstance(pairs, dict) else {}, number)
        yield name, "", partial(_of_json, name, row)


def _of_json(name: str, row: Any) -> Entry:
    if not isinstance(row, dict) or any(row.get(name) is None for name in ("numbers", "positions", "cell", "pbc")):
        raise ValueError("no row of a database of ASE: it lacks numbers, positions, cell or pbc")
    pairs = row.get("key_value_pairs") or {}
    if not isinstance(pairs, dict):
        raise ValueError("key-value pairs that are no JSON object")
    arrays = {k: _array(k, row[k]).reshape(shape) for k, shape in ARRAYS.items() if row.get(k) is not None}
    count = len(arrays["numbers"])
    arrays |= {k: _of_atoms(k, row[k], count) for k in PER_ATOM if row.get(k) is not None}
    return entry(name, row | arrays | {"key_value_pairs": pairs, "pbc": _array("pbc", row["pbc"])})


def _of_atoms(name: str, value: Any, count: int) -> np.ndarray:
    """A number or a vector for each of `count` atoms, of an array that is counted and not kept; null is NaN."""
    found = _array(name, value, gaps=True)
    if len(np.atleast_1d(found)) != count:
        raise ValueError(f"{name}: an array of shape {found.shape}; expected a value for each of {count} atoms")
    return found.reshape(count, -1)


def _array(name: str, value: Any, *, gaps: bool = False) -> np.ndarray:
    """`{"__ndarray__": [shape, type, flat list]}`, a cell around one, or plain lists, of numbers or truth values.

    `gaps`: null is NaN.
    """
    value = value.get("array", value) if isinstance(value, dict) else value
    if isinstance(value, dict):
        shape, kind, flat = value.get("__ndarray__") or ([], "", [])
        if kind not in ("int64", "int32", "float64", "float32", "bool"):
            raise ValueError(f"{name}: an array of type {str(kind)[:40]!r}")
        value = np.array(flat).reshape(shape)
    array = np.array(value)
    if gaps and array.dtype.kind == "O" and all(v is None or isinstance(v, int | float) for v in array.flat):
        array = array.astype(float)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: no array of numbers")
    return array
