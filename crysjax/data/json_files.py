"""JSON of pymatgen structures: one, a list, a table (Matbench, pandas "split"), records by id, a record a line.

A record is a structure as `Structure.as_dict` writes it, or a row with one under `structure` (or a CIF under `cif`),
an id and numbers. Classes named in the JSON are never looked up: only lattice and sites are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from crysjax.data import limits, reading
from crysjax.data.datasets import Entry, Row
from crysjax.data.elements import atomic_number
from crysjax.data.labels import IDS, cells
from crysjax.data.lazy import Lazy

ParseCif = Callable[[str, str, dict], Entry]

_NUMPY = re.compile(r"\bnp\.(?:float|int)\d+\(([^()']*)\)")
_TOKEN = re.compile(
    r"'(?P<single>(?:[^'\\]|\\.)*)'|\"(?P<double>(?:[^\"\\]|\\.)*)\""
    r"|(?P<number>[\d.][\w.]*(?:(?<=[eE])[+-]\d+)?)|(?P<word>[A-Za-z_]\w*)|(?P<marks>[\s{}()\[\],:+-]+)",
    re.DOTALL | re.ASCII,
)
_WORDS = {"True": "true", "False": "false", "None": "null", "nan": "NaN", "inf": "Infinity"}

EXPECTED = "structures of pymatgen: one, a list, a table with a column 'structure', or records by id"


def read_json(name: str, data: bytes, parse_cif: ParseCif) -> Iterator[Lazy]:
    """A JSON file in any of the layouts above."""
    try:
        found = reading.parse_json(limits.text(data))
    except ValueError as error:
        raise ValueError(f"cut short or malformed ({error})") from None
    for i, (key, record) in enumerate(_records(name, found)):
        label = key or str(i)
        yield label, "", partial(of_record, label, record, parse_cif)


def read_jsonl(name: str, data: bytes, parse_cif: ParseCif) -> Iterator[Lazy]:
    """A record a line; empty lines are passed over."""
    for i, line in enumerate(limits.lines(limits.text(data))):
        if line.strip():
            yield str(i), "", partial(_of_line, str(i), line, parse_cif)


def _of_line(name: str, line: str, parse_cif: ParseCif) -> Entry:
    try:
        record = reading.parse_json(line)
    except ValueError as error:
        raise ValueError(f"cut short or malformed ({error})") from None
    return of_record(name, record, parse_cif)


def _records(name: str, found) -> Iterator[tuple[str, object]]:
    """Names ("" where the position is the name) and records of a JSON value."""
    if isinstance(found, list):
        yield from (("", record) for record in found)
    elif not isinstance(found, dict):
        raise ValueError(f"a JSON {type(found).__name__}; expected {EXPECTED}")
    elif _is_record(found):
        yield name, found
    elif {"columns", "index", "data"} <= set(found):
        yield from _table(found)
    elif found and all(isinstance(record, dict) and _is_record(record) for record in found.values()):
        yield from found.items()
    else:
        raise ValueError(f"JSON with the keys {sorted(found)[:10]}; expected {EXPECTED}")


def _is_record(found: dict) -> bool:
    return "sites" in found or isinstance(found.get("structure", found.get("cif")), dict | str)


def _table(found: dict) -> Iterator[tuple[str, object]]:
    """Rows of a table in pandas' "split" layout, which is Matbench's."""
    columns, index, rows = found["columns"], found["index"], found["data"]
    if not all(isinstance(part, list) for part in (columns, index, rows)) or not {"structure", "cif"} & set(columns):
        raise ValueError(f"a table without a column 'structure' or 'cif': {str(columns)[:100]}")
    if len(index) != len(rows):
        raise ValueError(f"a table of {len(index)} indices and {len(rows)} rows")
    for i, row in zip(index, rows):
        yield str(i), dict(zip(columns, row)) if isinstance(row, list) and len(row) == len(columns) else row


def of_record(name: str, record: object, parse_cif: ParseCif) -> Entry:
    """The crystal of one record; an id in it goes before `name`."""
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__} where a structure was expected")
    if "sites" in record:
        return of_structure(name, record, {})
    name = str(next((record[k] for k in IDS if isinstance(record.get(k), str | int)), name))
    key = "structure" if "structure" in record else "cif"
    row = Row(cells((k, v) for k, v in record.items() if isinstance(k, str) and k != key), {"structure": key})
    found = record.get(key)
    entry = of_text(name, found, {}, parse_cif) if isinstance(found, str) else of_structure(name, found, {})
    return entry._replace(row=row)


def of_text(name: str, text: str, properties: dict[str, float], parse_cif: ParseCif) -> Entry:
    """A structure written into one string: pymatgen's dict if it begins with a brace, a CIF otherwise."""
    if not text.lstrip().startswith("{"):
        return parse_cif(name, text, properties)
    return of_structure(name, _of_dict(text), properties)


def _of_dict(text: str) -> object:
    """A dict in JSON, or as Python prints it, which is what pandas writes into tables; nothing in it is evaluated."""
    try:
        try:
            return reading.parse_json(text)
        except ValueError:
            return reading.parse_json(_TOKEN.sub(_token, _NUMPY.sub(r"\1", text)))
    except ValueError as error:
        raise ValueError(f"cut short or malformed: neither JSON nor a Python dict ({error})") from None


def _token(found: re.Match) -> str:
    """One token of Python's dicts, lists, tuples, strings and numbers in JSON; anything else fails there."""
    kind, text = found.lastgroup, found[found.lastgroup]
    if kind in ("single", "double"):
        plain = text.replace("\\'", "'")
        return '"' + (plain.replace('"', '\\"') if kind == "single" else plain) + '"'
    if kind == "marks":
        return re.sub(r",(\s*[\]}])", r"\1", text.replace("(", "[").replace(")", "]"))
    return _WORDS.get(text, text)


def of_structure(name: str, structure: object, properties: dict[str, float]) -> Entry:
    """The crystal of `Structure.as_dict`: its lattice matrix and, of each site, species and fractions."""
    try:
        sites, matrix = structure["sites"], structure["lattice"]["matrix"]
        limits.refuse_sites(len(sites))
        species = [site["species"] for site in sites]
        if any(len(s) != 1 or s[0]["occu"] != 1 for s in species):
            raise ValueError("sites with partial occupancy are not read yet")
        numbers = np.array([atomic_number(s[0]["element"]) for s in species])
        frac = np.array([site["abc"] for site in sites])
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no structure of pymatgen ({type(error).__name__}: {error})") from None
    return Entry(name, numbers, frac, np.array(matrix), properties)
