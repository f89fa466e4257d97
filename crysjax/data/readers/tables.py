"""Tables in CSV: rows as dicts, read within the limits of every reader, and the column that holds the structures.

One separator holds for a whole table: a comma, a semicolon or a tab, whichever divides the header into most names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from crysjax.data.readers import limits, reading

STRUCTURES = ("cif", "structure")
"""Usual names of the column that holds the structures."""

SEPARATORS = (",", ";", "\t")

_HINT = re.compile(r'\A"?sep=[,;\t]"?\n')
_HEADER = 100_000  # characters in which the header is looked for
_SNIFFED = 50  # rows in which a column of structures is looked for


def read(path: str | Path) -> list[dict[str, str]]:
    """All rows of a CSV file with a header, as text; a byte-order mark is no part of the first name."""
    return reading.about(path, lambda: list(rows(reading.read_text(path))))


def rows(text: str) -> Iterator[dict[str, str]]:
    """The rows below the header, each with all its columns ("" where the line ends early).

    A row with more cells than the header has names, such as one with an unquoted decimal comma, has them under `None`.
    Where files were appended to one another, the header that comes again is passed over.
    """
    reader = csv.DictReader(_below_hint(text), restval="", delimiter=separator(text))
    try:
        names = reader.fieldnames or []
        for row in reader:
            if list(row.values()) != names:
                yield row
    except csv.Error as error:
        raise ValueError(f"cut short or malformed ({error})") from None


def header(text: str) -> list[str]:
    """The names of the columns."""
    return next(csv.reader(_below_hint(text), delimiter=separator(text)), [])


def separator(text: str) -> str:
    """What stands between the cells: the one that divides the header into most names, a comma where none does."""
    csv.field_size_limit(limits.FIELD_CHARACTERS)
    try:
        return max(SEPARATORS, key=lambda mark: len(next(csv.reader(_below_hint(text[:_HEADER]), delimiter=mark), [])))
    except csv.Error as error:
        raise ValueError(f"cut short or malformed ({error})") from None


def _below_hint(text: str) -> io.StringIO:
    """The table without the first line `sep=;` that Excel writes and reads."""
    return io.StringIO(_HINT.sub("", text))


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
