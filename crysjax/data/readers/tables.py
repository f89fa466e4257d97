"""Tables in CSV: rows as dicts, read within the limits of every reader, and the column that holds the structures.

One separator holds for a whole table: a comma, a semicolon or a tab, whichever divides the header into most names.
Where it is a semicolon or a tab, a column whose numbers have decimal commas or are whole is read with decimal points,
and said to be (`decimal_commas`); a column that has commas and points is left as it is, for its reader to name.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from crysjax.data.labels import IDS, MISSING
from crysjax.data.lost import Notice
from crysjax.data.readers import limits, reading
from crysjax.data.readers.lazy import clean

STRUCTURES = ("cif", "structure")
"""Usual names of the column that holds the structures."""

SEPARATORS = (",", ";", "\t")

COMMAS = "decimal commas are read as decimal points"
"""What is said of a column whose decimal commas became points."""

_WHOLE = re.compile(r"[+-]?\d+([eE][+-]?\d+)?", re.ASCII)
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_HINT = re.compile(r'\A"?sep=[,;\t]"?\n')
_HEADER = 100_000  # characters in which the header is looked for
_SNIFFED = 50  # rows in which a column of structures is looked for


def read(path: str | Path) -> list[dict[str, str]]:
    """All rows of a CSV file with a header, as text; a byte-order mark is no part of the first name.

    Decimal commas that became points are a warning of one line (`lost.Notice`).
    """
    return reading.about(path, lambda: _read(path))


def _read(path: str | Path) -> list[dict[str, str]]:
    text = reading.read_text(path)
    commas = decimal_commas(text)
    if commas:
        names = ", ".join(clean(repr(name), 80) for name in commas)
        warnings.warn(f"{path}: {COMMAS} in {names}", Notice, stacklevel=5)
    return list(rows(text, commas))


def rows(text: str, commas: Iterable[str] | None = None) -> Iterator[dict[str, str]]:
    """The rows below the header, each with all its columns ("" where the line ends early).

    A row with more cells than the header has names, such as one with an unquoted decimal comma, has them under `None`.
    Where files were appended to one another, the header that comes again is passed over. `commas` are the columns with
    decimal commas, if they are known.
    """
    names = decimal_commas(text) if commas is None else commas
    for row in _as_written(text):
        yield row | {name: row[name].replace(",", ".") for name in names}


def decimal_commas(text: str) -> tuple[str, ...]:
    """The columns of numbers with decimal commas; none where commas separate the cells.

    Whole numbers, which have no comma, may stand among them. In a table with tabs, which may come from anywhere, 1,500
    may be fifteen hundred: a column that has no other comma is none.
    """
    mark = separator(text)
    if mark == ",":
        return ()
    names = [name for name in dict.fromkeys(header(text)) if name and name not in IDS]
    sure = dict.fromkeys(names, False)  # still possible -> whether a value was seen that can be nothing else
    for row in _as_written(text):
        for name in list(sure):
            cell = row[name].strip()
            if cell.lower() in MISSING or _WHOLE.fullmatch(cell):
                continue
            if not _COMMA.fullmatch(cell):
                del sure[name]
            else:
                sure[name] |= mark == ";" or not _THOUSANDS.fullmatch(cell)
        if not sure:
            break
    return tuple(name for name, known in sure.items() if known)


def _as_written(text: str) -> Iterator[dict[str, str]]:
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
    found = [row for row, _ in zip(_as_written(text), range(_SNIFFED))]
    names = sorted(header(text), key=lambda name: STRUCTURES.index(name) if name in STRUCTURES else len(STRUCTURES))
    looks = [name for name in names if any(like_structure(row.get(name) or "") for row in found)]
    return next(iter(looks), next((name for name in STRUCTURES if name in names), None))


def like_structure(cell: str) -> bool:
    """Whether a cell looks like a CIF, or like a structure of pymatgen in JSON or as Python prints it."""
    if cell.lstrip()[:1] == "{":
        return "lattice" in cell and "sites" in cell
    return "_cell_length_a" in cell and "_atom_site_" in cell
