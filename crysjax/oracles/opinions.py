"""A folder of another calculator's answers about crystals, written one by one, so that what is there is never lost."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crysjax.chemistry.elements import atomic_number, formula
from crysjax.data import datasets, digests, files, names
from crysjax.data.datasets import Dataset, Entry
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.data.readers import io as crystals_io
from crysjax.data.readers import reading, tables
from crysjax.data.reasons import OTHER, code
from crysjax.oracles.hosted import Answer

COLUMNS = (
    "id", "formula", "energy_ev_per_atom", FORMATION_ENERGY, "max_force_ev_per_angstrom",
    "volume_angstrom3_per_atom", "steps", "seconds", "reason", "code",
)  # fmt: skip


def read_references(path: Path) -> dict[int, float]:
    """Energies of the elements, eV per atom, by atomic number.

    JSON, gzipped or not: {"Si": energy per atom}, pymatgen's computed entries by element, corrections included, or
    what `crysjax models references` writes.
    """
    try:
        found = digests.read_json(path)
        return {atomic_number(symbol): _of_element(one) for symbol, one in found.get("element_ev", found).items()}
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"--references {path}: expected JSON of an energy or entry by element ({error})") from None


def _of_element(entry: float | dict) -> float:
    if isinstance(entry, dict):
        energy = (entry["energy"] + entry.get("correction", 0.0)) / sum(entry["composition"].values())
    else:
        energy = float(entry)
    if not math.isfinite(energy):
        raise ValueError(f"an energy of {energy}")
    return energy


def left(dataset: Dataset, out: Path, question: dict) -> tuple[list[Entry], int]:
    """Crystals without an answer yet, and how many have one. Another question in the same folder is an error."""
    asked, table = out / "question.json", out / "answers.csv"
    entries = datasets.entries(dataset)
    if len({e.id for e in entries}) < len(entries):
        entries = [e._replace(id=f"{i}_{e.id}") for i, e in enumerate(entries)]
    if table.exists() and asked.exists() and digests.read_json(asked) != question:
        raise ValueError(f"{out}: holds answers to another question ({asked.name}); name another folder")
    files.write(asked, digests.sealed_json(json.dumps(question, indent=1)))
    if not table.exists():
        files.write(table, ",".join(COLUMNS) + "\n")
    answers(table)  # an error where it is none
    header, *rows = csv.reader(io.StringIO(reading.read_text(table)))
    if tuple(header) == COLUMNS[:-1]:  # an older version knew no codes
        rows = [[*row, _code(row[-1])] for row in rows if row]
        files.write(table, files.csv_text(COLUMNS, rows))
    if any(len(row) != len(COLUMNS) for row in rows) or not reading.read_bytes(table).endswith(b"\n"):
        rows = [row for row in rows[:-1] if len(row) == len(COLUMNS)]  # a kill cut it short
        files.write(table, files.csv_text(COLUMNS, rows))
    known = {row[0] for row in rows}
    waiting = [e for e in entries if e.id not in known]
    return waiting, len(entries) - len(waiting)


def answers(path: Path) -> list[dict[str, str]]:
    """The rows of a table of answers, which a spreadsheet may have saved again."""
    rows = tables.read(path)
    if rows and "id" not in rows[0]:
        raise ValueError(f"{path}: no column 'id' among {list(rows[0])[:20]}; it is no table of answers")
    return rows


def writer(asked: list[Entry], out: Path, elements: dict | None, advance: Callable[[int], None]) -> Callable:
    """`(index, answer)`: a line of the table, and the crystal that it is about."""

    def write(index: int, answer: Answer) -> None:
        row = _row(asked[index], answer, elements)
        with files.naming(out / "answers.csv"), (out / "answers.csv").open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        if answer.crystal is not None:
            place = out / "crystals" / f"{names.of(asked[index].id)}.cif"
            crystals_io.write_crystals([answer.crystal._replace(id=asked[index].id)], place)
        advance(index + 1)

    return write


def _code(reason: str) -> str:
    """The code of a failure; the words of a calculator are its own."""
    found = code(reason)
    return "calculator_failed" if found == OTHER else found


def _row(entry: Entry, answer: Answer, elements: dict | None) -> dict:
    row = dict.fromkeys(COLUMNS, "") | {"id": entry.id, "formula": formula(entry.numbers), "reason": answer.reason}
    row |= {"code": _code(answer.reason), "steps": answer.steps, "seconds": round(answer.seconds, 2)}
    if answer.single is None:
        return row
    atoms = len(entry.numbers)
    energy = answer.single.energy / atoms
    row["energy_ev_per_atom"] = energy
    row["volume_angstrom3_per_atom"] = abs(np.linalg.det(answer.crystal.lattice)) / atoms
    if answer.single.forces is not None:
        row["max_force_ev_per_angstrom"] = float(np.linalg.norm(answer.single.forces, axis=-1).max())
    if elements is not None:
        missing = sorted({int(z) for z in entry.numbers} - elements.keys())
        own = np.mean([elements.get(int(z), np.nan) for z in entry.numbers])
        row[FORMATION_ENERGY] = "" if missing else energy - own
    return row
