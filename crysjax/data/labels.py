"""Label columns: which cells are numbers, under which property they are kept, and what was not read, by column.

Readers hand on the cells beside a crystal as they stand (`Entry.row`). Only when a whole file is known is it clear what
a column holds: "NaN" is a missing number in a column of numbers and sodium nitride in a column of formulas. `settle`
then turns cells into properties and reports every column, so that nothing gets lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from crysjax.data.datasets import Entry
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.data.readers.lazy import clean

PROPERTY_NAMES = {
    "formation_energy_per_atom": FORMATION_ENERGY,
    "formation_energy_peratom": FORMATION_ENERGY,
    "e_form": FORMATION_ENERGY,
    "band_gap": "band_gap_ev",
    "dft_band_gap": "band_gap_ev",
    "optb88vdw_bandgap": "band_gap_ev",
    "mbj_bandgap": "mbj_band_gap_ev",
    "dft_bulk_modulus": "bulk_modulus_gpa",
    "bulk_modulus": "bulk_modulus_gpa",
    "bulk_modulus_kv": "bulk_modulus_gpa",
    "shear_modulus": "shear_modulus_gpa",
    "shear_modulus_gv": "shear_modulus_gpa",
    "dft_mag_density": "mag_density",
    "energy_per_atom": "energy_ev_per_atom",
    "e_above_hull": "e_above_hull_ev_per_atom",
    "energy_above_hull": "e_above_hull_ev_per_atom",
    "ehull": "e_above_hull_ev_per_atom",
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
    "space_group_it_number": "space_group",
    "spg_number": "space_group",
}
"""Names in files, in lower case -> names that carry their unit. Every other numeric column keeps its name."""

BOOK_KEEPING = {"index", "unnamed: 0", "created_at", "nsites", "vol_ratio", "train_index"}
"""Numeric columns that are row numbers or book-keeping; they are named and not read."""

IDS = ("structure_id", "material_id", "id", "mp_id", "immutable_id", "jid", "mat_id", "name")
"""Columns that hold the ids of crystals; the first one that is there counts. They are no labels."""

MISSING = {"", "-", "--", "?", ".", "na", "n/a", "#n/a", "<na>", "nan", "none", "null"}
"""What tables write where there is no value, in lower case."""

VALUE_CHARACTERS = 60
"""Of a cell that is no number: enough to recognize it in the file."""

NO_NUMBER = "no cell is a plain number"
"""The reason of a column whose cells begin as numbers do and are none, such as 1.234,5."""

LARGEST = float(np.finfo(np.float32).max)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NEARLY = re.compile(r"\s*([<>≤≥~≈±]|[<>]=)?\s*[+-]?\.?\d")
_TRUTHS = {"true": True, "false": False}


def property_name(name: str) -> str:
    """The name with its unit."""
    return PROPERTY_NAMES.get(name.strip().lower(), name.strip())


def cell(value: object) -> float | bool | str:
    """A finite number within float32, NaN where there is no value, a truth value, or the text that is none of these."""
    if value is None:
        return np.nan
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | float | np.number):
        return _within(value)
    if not isinstance(value, str):
        size = f" of {len(value)}" if hasattr(value, "__len__") else ""
        return f"a {type(value).__name__}{size}"
    text = value.strip()
    if text.lower() in MISSING:
        return np.nan
    if _NUMBER.fullmatch(text):
        found = _within(float(text))
        return text[:VALUE_CHARACTERS] if isinstance(found, str) else found
    return _TRUTHS.get(text.lower(), text[:VALUE_CHARACTERS])


def _within(value: int | float | np.number) -> float | str:
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return str(type(value).__name__) if isinstance(value, np.number) else "an integer of more than 300 digits"
    return f"{number:g}" if abs(number) > LARGEST else number


def number(value: object, name: str) -> float:
    """The number in one cell of the column `name`, NaN where it is missing; a ValueError for anything else."""
    found = cell(value)
    if isinstance(found, bool | str):
        raise ValueError(f"could not convert {name} {str(value)[:VALUE_CHARACTERS]!r} to a number")
    return found


def cells(columns: Iterable[tuple[str, object]]) -> dict[str, float | bool | str]:
    """The cells of one row by column as `cell` reads them, without ids and the nameless index that pandas writes."""
    return {name: cell(value) for name, value in columns if name and name not in IDS}


class Column(NamedTuple):
    """What a file holds under one name."""

    numbers: dict[int, float]  # position of the entry -> finite number
    truths: dict[int, bool]
    texts: dict[int, str]


def settle(entries: list[Entry], rows: list[int]) -> tuple[list[Entry], list[dict]]:
    """Entries whose cells have become properties, and a report: one row per column of the file.

    A column of numbers is a property; so is a column of nothing but truth values, as 1 and 0. A cell that is neither a
    number nor missing is left out and counted. Of columns that give one property the first is read, the one that has
    its very name before all others; what the file says in a standard place (an energy of a frame) goes before both.

    A report's row has `column` and `property` ("" if it was not read), `known` and `unread` cells, `reason`, and
    `row` (from 1, of `rows`), `id` and `value` of the first cell that was not read. What files say of atoms and a
    crystal does not keep (`lost`) has a row with the number of `crystals` too, and `unread` counts atoms.
    `note`: how a column was read, where a reader tells.
    """
    columns, report = _columns(entries), _taken(entries)
    given = {name for entry in entries for name in entry.properties}
    found: dict[str, str] = {}  # property -> the column that gives it
    for name in sorted(columns, key=lambda name: property_name(name) != name):
        values, line = _read(name, columns[name])
        if values:
            line = _placed(line, values, entries, found, given)
        report.append(_located(line | _note(name, entries), columns[name], entries, rows))
    order = {name: k for k, name in enumerate(columns)}
    report.sort(key=lambda line: order.get(line["column"], -1))
    kept = [entry._replace(properties=dict(entry.properties), row=None, lost={}) for entry in entries]
    for target, name in found.items():
        for i, value in _values(columns[name]).items():
            kept[i].properties[target] = value
    return kept, report + _passed(entries) + _lost(entries)


def _note(name: str, entries: list[Entry]) -> dict:
    """How the cells of a column were read, where a reader has something to tell."""
    return next(({"note": e.row.notes[name]} for e in entries if e.row and name in e.row.notes), {})


def _columns(entries: list[Entry]) -> dict[str, Column]:
    found: dict[str, Column] = {}
    for i, entry in enumerate(entries):
        for name, value in (entry.row.cells if entry.row else {}).items():
            column = found.setdefault(name, Column({}, {}, {}))
            if isinstance(value, bool):
                column.truths[i] = value
            elif isinstance(value, str):
                column.texts[i] = value
            elif np.isfinite(value):
                column.numbers[i] = value
    return found


def _values(column: Column) -> dict[int, float]:
    return column.numbers or {i: float(v) for i, v in column.truths.items()}


def _read(name: str, column: Column) -> tuple[dict[int, float], dict]:
    """The numbers of a column, none if it is no column of numbers, and what is said of it."""
    bad = column.texts | (column.truths if column.numbers or column.texts else {})
    line = {"column": name, "property": "", "known": 0, "unread": len(bad)}
    if name.strip().lower() in BOOK_KEEPING:
        return {}, line | {"unread": len(bad) + len(column.numbers), "reason": "book-keeping"}
    words = sum(not _NEARLY.match(text) for text in column.texts.values())
    if words > len(column.numbers):
        return {}, line | {"unread": len(bad) + len(column.numbers), "reason": "text"}
    if not column.numbers and bad:
        return {}, line | {"reason": NO_NUMBER}
    if not (column.numbers or column.truths):
        return {}, line | {"reason": "no value"}
    values = _values(column)
    line |= {"property": property_name(name), "known": len(values)}
    truths = {"reason": "true and false read as 1 and 0"} if not column.numbers else {}
    return values, line | ({"reason": "no plain number within float32"} if bad else truths)


def _placed(line: dict, values: dict, entries: list[Entry], found: dict, given: set) -> dict:
    """Notes which column a property comes from; a second column of it is not read, and compared with the first."""
    name, target = line["column"], line["property"]
    if target not in found and target not in given:
        found[target] = name
        return line
    first = found.get(target)
    known = {i: e.row.cells[first] for i, e in enumerate(entries) if e.row and first in e.row.cells} if first else {
        i: e.properties[target] for i, e in enumerate(entries) if target in e.properties}  # fmt: skip
    both = [(v, known[i]) for i, v in values.items() if isinstance(known.get(i), float) and np.isfinite(known[i])]
    differ = sum(not np.isclose(a, b, rtol=1e-5, atol=1e-8) for a, b in both)
    source = f"column {first!r}" if first else "the energies and stresses of the file"
    reason = f"{target} is read from {source}; {differ} of {len(both)} values differ"
    return line | {"property": "", "known": 0, "unread": len(values) + line["unread"], "reason": reason}


def _located(line: dict, column: Column, entries: list[Entry], rows: list[int]) -> dict:
    """The report's row with the place and value of the first cell that is no number."""
    bad = column.texts | (column.truths if column.numbers or column.texts else {})
    if not bad:
        return line
    first = min(bad)
    return line | {"row": rows[first], "id": entries[first].id, "value": str(bad[first])}


def _taken(entries: list[Entry]) -> list[dict]:
    """Columns that readers understood by themselves: the structure, energies, forces."""
    count: dict[tuple[str, str], int] = {}
    for entry in entries:
        for what, column in (entry.row.taken if entry.row else {}).items():
            count[column, what] = count.get((column, what), 0) + 1
    return [{"column": c, "property": what, "known": n, "unread": 0} for (c, what), n in count.items()]


def _passed(entries: list[Entry]) -> list[dict]:
    """Columns that readers passed over, with their reasons."""
    count: dict[tuple[str, str], int] = {}
    for entry in entries:
        for column, reason in (entry.row.passed if entry.row else {}).items():
            count[column, reason] = count.get((column, reason), 0) + 1
    return [{"column": c, "property": "", "known": 0, "unread": n, "reason": r} for (c, r), n in count.items()]


def _lost(entries: list[Entry]) -> list[dict]:
    """What was said of atoms and is not kept: atoms and crystals by name."""
    count: dict[tuple[str, str], list[int]] = {}
    for entry in entries:
        for name, atoms in entry.lost.items():
            count.setdefault(name, []).append(atoms)
    return [{"column": what, "property": "", "known": 0, "unread": sum(n), "crystals": len(n), "reason": became}
            for (what, became), n in count.items()]  # fmt: skip


def lost_lines(report: list[dict]) -> list[str]:
    """A line for everything that was said of atoms and is not kept: `selective dynamics of 8 atoms not kept`."""
    return [clean(f"{row['column']} of {_atoms(row)} {row['reason']}") for row in report if "crystals" in row]


def note_lines(report: list[dict]) -> list[str]:
    """A line for everything that readers tell of how they read columns: decimal commas as points."""
    names: dict[str, list[str]] = {}
    for row in report:
        if "note" in row:
            names.setdefault(row["note"], []).append(clean(repr(row["column"]), 80))
    return [f"{note} in {', '.join(columns)}" for note, columns in names.items()]


def _atoms(row: dict) -> str:
    among = f" ({row['crystals']} crystals)" if row["crystals"] > 1 else ""
    return f"{row['unread']} atom{'s' * (row['unread'] > 1)}{among}"


def lines(report: list[dict]) -> list[str]:
    """The report for people: what was read, and what was not; what was lost is left to the functions around this."""
    report = [row for row in report if "crystals" not in row]
    name = lambda row: clean(repr(row["column"]), 80)  # noqa: E731
    read = [f"{row['property']} from {name(row)}" if row["property"] != row["column"] else row["property"]
            for row in report if row["property"]]  # fmt: skip
    whole = [row for row in report if not row["property"]]
    said = [f"read: {', '.join(read)}"] if read else []
    return said + ([f"not read: {', '.join(f'{name(r)} ({_why(r)})' for r in whole)}"] if whole else [])


def unread_lines(report: list[dict]) -> list[str]:
    """A line for every column of numbers that lost cells."""
    return [
        f"column {clean(repr(row['column']), 80)}: {row['unread']} of {row['unread'] + row['known']} cells are no "
        f"plain numbers and count as missing, the first in {_place(row)}"
        for row in report
        if "crystals" not in row and row["unread"] and (row["property"] or row.get("reason") == NO_NUMBER)
    ]


def _why(row: dict) -> str:
    example = row["reason"] in ("text", NO_NUMBER)
    return f"{row['unread']} cells, {row['reason']}" + (f", {_place(row)}" if example and "row" in row else "")


def _place(row: dict) -> str:
    return clean(f"row {row['row']} (id {row['id']}): {row['value']!r}", 200)
