"""Parquet tables: OPTIMADE's columns, as LeMat-Bulk has them, or a column of structures as in other tables.

Read with pyarrow, which is optional. Its columns are decoded in small batches, and only those that hold a structure or
one value per row; strings stay in their dictionaries until a row is made, so that a repeated one is held once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from crysjax.chemistry.elements import atomic_number
from crysjax.data.datasets import ENERGY, FORCES, Entry, SourceRow
from crysjax.data.labels import IDS, cells
from crysjax.data.readers import json_files, limits, tables
from crysjax.data.readers.lazy import Lazy

OPTIMADE = ("lattice_vectors", "cartesian_site_positions", "species_at_sites")
"""Columns of a crystal: rows a, b, c and positions in Å, symbols of the sites (OPTIMADE 1.2)."""

_ROWS = 32  # of a batch: what is decoded at a time
_STRESS = "its unit and sign differ between the sources of such tables"


def read_parquet(name: str, data: bytes, parse_cif: Callable[..., Entry]) -> Iterator[Lazy]:
    """A crystal a row, named by its id or its number."""
    arrow, parquet = _pyarrow()
    try:
        strings = _strings(parquet.ParquetFile(arrow.BufferReader(data)).metadata, len(data))
        file = parquet.ParquetFile(arrow.BufferReader(data), read_dictionary=strings)
        parse, wanted, passed = _plan(file, parse_cif, len(data))
        for i, record in enumerate(_records(file, wanted, len(data))):
            label = str(next((record[k] for k in IDS if record.get(k) is not None), i))
            yield label, "", partial(parse, label, record, passed)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"cut short or damaged (Parquet: {error})") from None


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            "Parquet is read with pyarrow, which is not installed: pip install 'crysjax[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


def _strings(metadata: Any, size: int) -> list[str]:
    """The columns of strings; an error for more rows or numbers than a file of so many bytes may hold."""
    if metadata.num_rows > limits.ENTRIES:
        raise ValueError(f"{metadata.num_rows} rows; at most {limits.ENTRIES} are read")
    chunks = [
        metadata.row_group(g).column(c) for g in range(metadata.num_row_groups) for c in range(metadata.num_columns)
    ]
    limits.refuse_bomb(sum(max(chunk.total_uncompressed_size, 8 * chunk.num_values) for chunk in chunks), size)
    return sorted({chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"})


def _plan(file: Any, parse_cif: Callable, size: int) -> tuple[Callable[..., Entry], list[str], dict[str, str]]:
    """The parser of a row, the columns that it needs, and the others with a reason."""
    import pyarrow.types as kinds

    fields = {field.name: field.type for field in file.schema_arrow}
    plain = [name for name, kind in fields.items() if not kinds.is_nested(kind)]
    if set(OPTIMADE) <= fields.keys():
        column, wanted, parse = None, [*OPTIMADE, *(k for k in ("forces",) if k in fields), *plain], _of_optimade
    else:
        column = _structure_column(file, fields, plain, size)
        wanted, parse = [column, *(name for name in plain if name != column)], partial(_of_table, column, parse_cif)
    passed = {name: f"a column of type {str(kind)[:60]}" for name, kind in fields.items() if name not in wanted}
    return parse, wanted, passed | ({"stress_tensor": _STRESS} if column is None and "stress_tensor" in fields else {})


def _structure_column(file: Any, fields: dict, plain: list[str], size: int) -> str:
    """A column of dicts with lattice and sites, or of texts that look like structures."""
    import pyarrow.types as kinds

    for name, kind in fields.items():
        if kinds.is_struct(kind) and {"lattice", "sites"} <= {kind.field(i).name for i in range(kind.num_fields)}:
            return name
    first = list(itertools.islice(_records(file, plain, size), _ROWS))
    for name in sorted(plain, key=lambda name: name not in tables.STRUCTURES):
        if any(isinstance(row[name], str) and tables.like_structure(row[name]) for row in first):
            return name
    raise ValueError(f"no column of structures among {sorted(fields)[:20]}; expected {', '.join(OPTIMADE)}, or a CIF")


def _records(file: Any, columns: list[str], size: int) -> Iterator[dict]:
    """The rows of these columns; an error where their strings add up to more than a file of `size` bytes may hold."""
    text = 0
    for batch in file.iter_batches(_ROWS, columns=columns):
        text += sum(map(_string_bytes, batch.columns))
        limits.refuse_bomb(text, size)
        yield from batch.to_pylist()


def _string_bytes(column: Any) -> int:
    """Bytes of all strings of a column, each counted as often as it comes."""
    import pyarrow.compute as compute
    import pyarrow.types as kinds

    while kinds.is_list(column.type) or kinds.is_large_list(column.type):
        column = column.flatten()
    values = column.dictionary if kinds.is_dictionary(column.type) else column
    if not (kinds.is_string(values.type) or kinds.is_binary(values.type) or kinds.is_large_string(values.type)):
        return 0
    lengths = compute.binary_length(values)
    return compute.sum(lengths if values is column else lengths.take(column.indices)).as_py() or 0


def _of_optimade(name: str, record: dict, passed: dict[str, str]) -> Entry:
    """The crystal of a row, its energy per atom (of eV per cell) and its forces; other plain columns are labels."""
    if record.get("nperiodic_dimensions") not in (None, 3):
        raise ValueError("not periodic in all three directions")
    symbols, values = record["species_at_sites"] or [], [record[key] for key in OPTIMADE[:2]]
    limits.refuse_sites(len(symbols))
    try:
        cell, positions = (np.array(v, float) for v in values)
        frac = np.linalg.solve(cell.T, positions.T).T
    except (TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise ValueError(f"lattice_vectors or cartesian_site_positions are no cell and positions ({error})") from None
    numbers, energy, forces = [atomic_number(symbol) for symbol in symbols], record.get("energy"), record.get("forces")
    taken = {"structure": OPTIMADE[0]}
    taken |= ({} if energy is None else {"energy": "energy"}) | ({} if forces is None else {"forces": "forces"})
    rest = {k: v for k, v in record.items() if k not in (*OPTIMADE, "energy", "forces")}
    return Entry(
        name, np.array(numbers), frac, cell, {} if energy is None else {ENERGY: energy / len(symbols)},
        {} if forces is None else {FORCES: np.array(forces, float)}, SourceRow(cells(rest.items()), taken, passed),
    )  # fmt: skip


def _of_table(column: str, parse_cif: Callable, name: str, record: dict, passed: dict[str, str]) -> Entry:
    """The crystal in one column of a row, read as in JSON."""
    rest = {k: v for k, v in record.items() if k != column}
    entry = json_files.of_record(name, {"structure": record[column]} | rest, parse_cif)
    return entry._replace(row=entry.row._replace(taken={"structure": column}, passed=passed))
