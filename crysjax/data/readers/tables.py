"""Tables in CSV: rows as dicts, read within the limits of every reader, and the column that holds the structures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from crysjax.data.readers import limits, reading

STRUCTURES = ("cif", "structure")
"""Usual names of the column that holds the structures."""

_SNIFFED = 50  # rows in which a column of structures is looked for


def read(path: str | Path) -> list[dict[str, str]]:
    """All rows of a CSV file with a header, as text; a byte-order mark is no part of the first name."""
    return reading.about(path, lambda: list(rows(reading.read_text(path))))


def rows(text: str) -> Iterator[dict[str, str]]:
    """The rows below the header, each with all its columns ("" where the line ends early).

    A row with more cells than the header has names, such as one with an unquoted decimal comma, has them under `None`.
    Where files were appended to one another, the header that comes again is passed over.
    """
    csv.field_size_limit(limits.FIELD_CHARACTERS)
    reader = csv.DictReader(io.StringIO(text), restval="")
    try:
        names = reader.fieldnames or []
        for row in reader:
            if list(row.values()) != names:
                yield row
    except csv.Error as error:
        raise ValueError(f"cut short or malformed ({error})") from None


def header(text: str) -> list[str]:
    """The names of the columns."""
    csv.field_size_limit(limits.FIELD_CHARACTERS)
    return next(csv.reader(io.StringIO(text)), [])


def structure_column(text: str) -> str | None:
    """The column of structures: one of the usual name whose cells look like that, else any other, else a usual name.

    `None` where no column is either.
    """
    found = [row for row, _ in zip(rows(text), range(_SNIFFED))]
    names = sorted(header(text), key=lambda name: STRUCTURES.index(name) if name in STRUCTURES else len(STRUCTURES))
    looks = [name for name in names if any(like_structure(row.get(name) or "") for row in found)]
    return next(iter(looks), next((name for name in STRUCTURES if name in names), None))


def like_structure(cell: str) -> bool:
    """Whether a cell looks like a CIF, or like a structure of pymatgen in JSON or as Python prints it."""
    if cell.lstrip()[:1] == "{":
        return "lattice" in cell and "sites" in cell
    return "_cell_length_a" in cell and "_atom_site_" in cell
