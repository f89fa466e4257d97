"""ASE's SQLite databases, read by their table: numbers, positions, cell, energy, forces, stress, key-value pairs.

The columns are those of `ase.db` (schema version 5 to 9). SQL comes from this file alone: a database whose `systems`
is anything but a plain table (a view or a computed column can run for ever) is refused, and JSON stays plain JSON.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from crysjax.data.datasets import ENERGY, FORCES, STRESS, Entry, SourceRow
from crysjax.data.labels import IDS, cells
from crysjax.data.readers import limits, reading
from crysjax.data.readers.lazy import Lazy

_COLUMNS = ("id", "numbers", "positions", "cell", "pbc", "energy", "forces", "stress", "key_value_pairs")
_MAGIC = b"SQLite format 3\0"
_VALUE_BYTES = 100_000_000  # of one field; 2,000 sites need 0.05 MB
_ROW_BYTES = 64  # the least a row of one atom takes; more rows than that allows come from pages that form loops


def read_ase_database(path: Path) -> Iterator[Lazy]:
    """Every row of the table `systems`, named by its `structure_id` or `material_id`, or by its number."""
    with reading.opened(path) as file:
        if file.read(16) != _MAGIC:
            raise ValueError("not an SQLite database")
    most = min(limits.ENTRIES, path.stat().st_size // _ROW_BYTES)
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES)
        database.text_factory = bytes
        try:
            yield from _rows(database, most)
        except sqlite3.Error as error:
            raise ValueError(f"cut short or damaged ({error})") from None


def _rows(database: sqlite3.Connection, most: int) -> Iterator[Lazy]:
    database.execute("PRAGMA trusted_schema = OFF")
    _refuse_schema(database)
    for i, row in enumerate(database.execute(f"SELECT {', '.join(_COLUMNS)} FROM systems")):
        if i == most:
            raise ValueError(f"damaged: more than {most} rows in a file of this size")
        fields = dict(zip(_COLUMNS, row))
        pairs = _pairs(fields["key_value_pairs"])
        name = str(next((pairs[k] for k in IDS[:2] if pairs.get(k)), fields["id"]))
        yield name, "", partial(_entry, name, fields, pairs)


def _refuse_schema(database: sqlite3.Connection) -> None:
    found = database.execute("SELECT type, sql FROM sqlite_master WHERE lower(name) = 'systems'").fetchall()
    if len(found) != 1 or found[0][0] != b"table" or found[0][1].lstrip()[:12].upper() != b"CREATE TABLE":
        raise ValueError("no database of ASE: no plain table 'systems'")
    columns = {row[1].decode(errors="replace"): row[6] for row in database.execute("PRAGMA table_xinfo(systems)")}
    if not set(_COLUMNS) <= set(columns) or any(columns[name] for name in _COLUMNS):
        raise ValueError(f"no database of ASE: 'systems' lacks plain columns {', '.join(_COLUMNS)}")


def _pairs(text: object) -> dict:
    """Key-value pairs; damaged ones are an entry's own affair and show as an error there."""
    try:
        found = reading.parse_json(text or b"{}")
    except (ValueError, TypeError):
        return {"": text}
    return found if isinstance(found, dict) else {"": text}


def _entry(name: str, fields: dict, pairs: dict) -> Entry:
    if "" in pairs:
        raise ValueError("key-value pairs that are no JSON object")
    if not isinstance(fields["pbc"], int) or fields["pbc"] & 7 != 7:
        raise ValueError("not periodic in all three directions")
    numbers = _array(fields["numbers"], "<i4", (-1,))
    limits.refuse_sites(len(numbers))
    positions, cell = _array(fields["positions"], "<f8", (-1, 3)), _array(fields["cell"], "<f8", (3, 3))
    frac = np.linalg.solve(cell.T, positions.T).T
    forces = {} if fields["forces"] is None else {FORCES: _array(fields["forces"], "<f8", (-1, 3))}
    row = SourceRow(cells(pairs.items()))
    return Entry(name, numbers, frac, cell, _properties(fields, len(numbers)), forces, row)


def _properties(fields: dict, sites: int) -> dict[str, float]:
    properties = {}
    if fields["energy"] is not None:
        properties[ENERGY] = float(fields["energy"]) / max(sites, 1)
    if fields["stress"] is not None:
        properties |= dict(zip(STRESS, _array(fields["stress"], "<f8", (6,)).tolist()))
    return properties


def _array(blob: object, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if not isinstance(blob, bytes):
        raise ValueError(f"a {type(blob).__name__} where an array was expected")
    return np.frombuffer(blob, dtype).reshape(shape)
