"""JSON of structures: one, a list, a table (Matbench, and pandas' orients), records by id, one record per line, or a
database of ASE (`ase_rows`).

A record is a structure as `Structure.as_dict` of pymatgen writes it, or `Atoms.to_dict` of JARVIS, or a row with one
under `structure` or `atoms` (or a CIF under `cif`), an id and numbers. Classes named in the JSON are never looked up:
only lattice and sites are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from crysjax.chemistry.elements import isotope_number
from crysjax.data import lost
from crysjax.data.datasets import Entry, SourceRow
from crysjax.data.labels import IDS, cells
from crysjax.data.readers import ase_rows, limits, reading
from crysjax.data.readers.lazy import Lazy
from crysjax.geometry.soundness import NO_VOLUME

ParseCif = Callable[[str, str, dict], Entry]

_NUMPY = re.compile(r"\bnp\.(?:float|int)\d+\(([^()']*)\)")
_TOKEN = re.compile(
    r"'(?P<single>(?:[^'\\]|\\.)*)'|\"(?P<double>(?:[^\"\\]|\\.)*)\""
    r"|(?P<number>[\d.][\w.]*(?:(?<=[eE])[+-]\d+)?)|(?P<word>[A-Za-z_]\w*)|(?P<marks>[\s{}()\[\],:+-]+)",
    re.DOTALL | re.ASCII,
)
_WORDS = {"True": "true", "False": "false", "None": "null", "nan": "NaN", "inf": "Infinity"}

EXPECTED = "structures of pymatgen or JARVIS: one, a list, a table with a column 'structure', or records by id"
_HOLDS = ("structure", "atoms", "cif")  # where a record has its structure


def read_json(name: str, data: bytes, parse_cif: ParseCif) -> Iterator[Lazy]:
    """A JSON file in any of the layouts above."""
    try:
        found = reading.parse_json(limits.text(data))
    except ValueError as error:
        raise ValueError(f"cut short or malformed ({error})") from None
    if ase_rows.is_json(found):
        yield from ase_rows.of_json(found)
        return
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
    elif {"schema", "data"} <= set(found) and isinstance(found["data"], list):  # pandas' "table"
        yield from (("", record) for record in found["data"])
    elif _is_columns(found):
        yield from _transposed(found)
    elif _is_record(found):
        yield name, found
    elif {"columns", "index", "data"} <= set(found):
        yield from _table(found)
    elif found and all(isinstance(record, dict) and _is_record(record) for record in found.values()):
        yield from found.items()
    else:
        raise ValueError(f"JSON with the keys {sorted(found)[:10]}; expected {EXPECTED}")


def _is_structure(found: object) -> bool:
    """A structure of pymatgen or JARVIS."""
    return isinstance(found, dict) and ("sites" in found or "lattice_mat" in found)


def _is_record(found: dict) -> bool:
    return _is_structure(found) or isinstance(_held(found), dict | str)


def _held(record: dict) -> object:
    return next((record[k] for k in _HOLDS if k in record), None)


def _is_columns(found: dict) -> bool:
    """pandas' default, a dict of rows for each column; the column of structures has structures or texts in it."""
    rows = _held(found)
    plain = isinstance(rows, dict) and rows and not _is_structure(rows)
    return bool(plain and all(_is_structure(row) or isinstance(row, str) for row in rows.values()))


def _transposed(found: dict) -> Iterator[tuple[str, object]]:
    keys = list(_held(found))
    if not all(isinstance(column, dict) and list(column) == keys for column in found.values()):
        raise ValueError("a table whose columns have different rows")
    for key in keys:
        yield str(key), {name: column[key] for name, column in found.items()}


def _table(found: dict) -> Iterator[tuple[str, object]]:
    """Rows of a table in pandas' "split" layout, which is Matbench's."""
    columns, index, rows = found["columns"], found["index"], found["data"]
    lists = all(isinstance(part, list) for part in (columns, index, rows))
    if not lists or not set(_HOLDS) & {str(column) for column in columns}:
        raise ValueError(f"a table without a column {' or '.join(map(repr, _HOLDS))}: {str(columns)[:100]}")
    if len(index) != len(rows):
        raise ValueError(f"a table of {len(index)} indices and {len(rows)} rows")
    for i, row in zip(index, rows):
        yield str(i), dict(zip(columns, row)) if isinstance(row, list) and len(row) == len(columns) else row


def of_record(name: str, record: object, parse_cif: ParseCif) -> Entry:
    """The crystal of one record; an id in it goes before `name`."""
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__} where a structure was expected")
    if _is_structure(record):
        return of_structure(name, record, {})
    ids = next((k for k in IDS if isinstance(record.get(k), str | int)), None)
    name = name if ids is None else str(record[ids])
    key = next((k for k in _HOLDS if k in record), "structure")
    found = record.get(key)
    taken = {"structure": key} | ({} if ids is None else {"id": ids})
    row = SourceRow(cells((k, v) for k, v in record.items() if isinstance(k, str) and k != key), taken)
    entry = of_text(name, found, {}, parse_cif) if isinstance(found, str) else of_structure(name, found, {})
    own = entry.row.cells if entry.row else {}
    return entry._replace(row=row._replace(cells=own | row.cells))


def of_text(name: str, text: str, properties: dict[str, float], parse_cif: ParseCif) -> Entry:
    """A structure written into one string: pymatgen's dict if it begins with a brace, a CIF otherwise."""
    if not text.lstrip().startswith("{"):
        return parse_cif(name, text, properties)
    return of_structure(name, _of_dict(text), properties)


def _of_dict(text: str) -> object:
    """A dict in JSON, or as Python prints it, which is what pandas writes into tables; nothing in it is evaluated."""
    try:
        return reading.parse_json(text)
    except ValueError:
        try:
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
    """The crystal of pymatgen's `Structure.as_dict` (lattice matrix, species and fractions) or of JARVIS's `Atoms`."""
    try:
        if "lattice_mat" in structure:
            unkept = lost.isotopes(structure["elements"]) | lost.of_site_properties(_props(structure))
            return Entry(name, *_of_jarvis(structure), properties, lost=unkept)
        labels = structure.get("properties")
        row = SourceRow(cells(labels.items())) if isinstance(labels, dict) and labels else None
        return Entry(name, *_of_pymatgen(structure), properties, row=row, lost=_lost(structure))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no structure of pymatgen or JARVIS ({type(error).__name__}: {error})") from None


def _of_pymatgen(structure: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sites, lattice = structure["sites"], structure["lattice"]
    limits.refuse_sites(len(sites))
    matrix = np.array(lattice["matrix"])
    if not all(lattice.get("pbc") or [True]):
        raise ValueError("not periodic in all three directions")
    species = [site["species"] for site in sites]
    if any(len(s) != 1 or s[0]["occu"] != 1 for s in species):
        raise ValueError("sites with partial occupancy are not read yet")
    numbers = np.array([isotope_number(s[0]["element"]) for s in species])
    return numbers, np.array([site["abc"] for site in sites]), matrix


def _lost(structure: dict) -> lost.Lost:
    """Isotopes, oxidation states and spins of the species, the charge, and what sites have under `properties`."""
    columns: dict[str, list] = {}
    for site in structure["sites"]:
        for key, value in (site.get("properties") or {}).items():
            columns.setdefault(key, []).append(value)
    species = [site["species"][0] for site in structure["sites"]]
    spins = [one.get("spin", (one.get("properties") or {}).get("spin")) for one in species]
    unkept = lost.isotopes(one["element"] for one in species)
    unkept |= lost.of_species(
        (one.get("oxidation_state") for one in species), spins, structure.get("charge"), len(species)
    )
    return unkept | lost.of_site_properties(columns)


def _props(atoms: dict) -> dict[str, list]:
    """What JARVIS keeps of each site: the flags of selective dynamics out of a POSCAR, or something else."""
    props = atoms.get("props")
    if not isinstance(props, list):
        return {}
    words = [str(value).upper().replace(".", " ").split() if isinstance(value, str) else None for value in props]
    if all(flags is not None and set(flags) <= {"T", "F", "TRUE", "FALSE"} for flags in words):
        return {"selective_dynamics": [["F" not in flag for flag in flags] for flags in words]}
    return {"props": props}


def _of_jarvis(atoms: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    limits.refuse_sites(len(atoms["elements"]))
    numbers = np.array([isotope_number(symbol) for symbol in atoms["elements"]])
    lattice, places = np.array(atoms["lattice_mat"]), np.array(atoms["coords"])
    if atoms.get("cartesian"):
        if lattice.shape != (3, 3) or lattice.dtype.kind not in "iuf" or abs(np.linalg.det(lattice)) < 1e-6:
            raise ValueError(f"{NO_VOLUME}, so that Cartesian positions have no fractions")
        places = places @ np.linalg.inv(lattice)
    return numbers, places, lattice
