"""`crysjax judge`: another opinion on crystals, by a calculator that had no part in finding them.

Answers are written one by one, so that nothing is lost when it stops, and the same command goes on where it stopped.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crysjax.data.readers.part import read_part
from crysjax.terminal import Stopped, bar, printable, say

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset, Entry
    from crysjax.oracles.hosted import Answer

COLUMNS = (
    "id", "formula", "energy_ev_per_atom", "formation_energy_ev_per_atom", "max_force_ev_per_angstrom",
    "volume_angstrom3_per_atom", "steps", "seconds", "reason", "code",
)  # fmt: skip


def judge(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals in any format that `data prepare` reads."),
    by: str = typer.Option(..., help="chgnet, espresso, gpaw, emt, a potential's file, or file.py:name; +d3 adds D3."),
    out: Path = typer.Option(..., help="Folder for answers.csv and crystals/ID.cif."),
    relax: bool = typer.Option(True, help="Relax by it first; else it is asked about the crystals as they are."),
    cell: bool = typer.Option(True, help="Whether the cell moves."),
    fmax: float = typer.Option(0.05, min=0, help="Largest force that counts as relaxed, eV/Å."),
    steps: int = typer.Option(200, min=1, help="Most steps per crystal."),
    references: Path = typer.Option(None, help="JSON of the elements' entries at its level: gives formation energies."),
    timeout: float = typer.Option(600.0, min=0, help="Seconds a crystal may take."),
    memory_gb: float = typer.Option(None, min=0, help="Memory that its process may take, GB."),
    disk_gb: float = typer.Option(10.0, min=0, help="Disk that the files of its process may take, GB."),
    retries: int = typer.Option(0, min=0, help="How often a crystal that failed is asked about again."),
    setting: list[str] = typer.Option([], help="KEY=VALUE of the calculator, VALUE in JSON; may be repeated."),
) -> None:
    """Ask another calculator about crystals: a second potential or DFT, each crystal in a process with limits."""
    from crysjax.oracles import calculators, hosted

    known = calculators.named(by, dict(map(_setting, setting)))
    dataset, elements = read_part(crystals), None if references is None else read_references(references)
    how = hosted.Relax(fmax, steps, cell) if relax else None
    out.mkdir(parents=True, exist_ok=True)
    question = {"by": by, "level": list(known.level), "settings": json.loads(json.dumps(known.settings)),
                "relax": list(how or ()), "references": str(references or "")}  # fmt: skip
    left, done = _left(dataset, out, question)
    workplace = hosted.host(
        known.make,
        settings=known.settings,
        relax=how,
        timeout_seconds=timeout,
        memory_gb=memory_gb,
        disk_gb=disk_gb,
        retries=retries,
    )
    try:
        with bar(f"judge by {by}") as advance:
            workplace.ask(left, _writer(left, out, elements, lambda k: advance(done + k, len(dataset))))
    except KeyboardInterrupt:
        raise Stopped(f"{out} keeps what is known, the same command goes on") from None
    finally:
        workplace.close()
    say(f"{out / 'answers.csv'}: {_said(out, known.level)}")


def _setting(text: str) -> tuple[str, Any]:
    from crysjax.data.readers import reading

    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--setting {text}: expected KEY=VALUE")
    try:
        return name, reading.parse_json(value)
    except ValueError:
        return name, value


def read_references(path: Path) -> dict[int, float]:
    """Energies of the elements, eV per atom, by atomic number.

    JSON, gzipped or not: {"Si": energy per atom}, or pymatgen's computed entries by element, corrections included.
    """
    from crysjax.chemistry.elements import atomic_number
    from crysjax.data.readers import reading

    try:
        return {atomic_number(symbol): _of_element(entry) for symbol, entry in reading.read_json(path).items()}
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


def _left(dataset: Dataset, out: Path, question: dict) -> tuple[list[Entry], int]:
    """Crystals without an answer yet, and how many have one. Another question in the same folder is an error."""
    from crysjax.data import datasets, files
    from crysjax.data.readers import reading

    asked, table = out / "question.json", out / "answers.csv"
    entries = datasets.entries(dataset)
    if len({e.id for e in entries}) < len(entries):
        entries = [e._replace(id=f"{i}_{e.id}") for i, e in enumerate(entries)]
    if table.exists() and asked.exists() and reading.read_json(asked) != question:
        raise ValueError(f"{out}: holds answers to another question ({asked.name}); name another folder")
    files.write(asked, json.dumps(question, indent=1) + "\n")
    if not table.exists():
        files.write(table, ",".join(COLUMNS) + "\n")
    _answers(table)  # an error where it is none
    rows = list(csv.reader(io.StringIO(reading.read_text(table))))[1:]
    if any(len(row) != len(COLUMNS) for row in rows) or not reading.read_bytes(table).endswith(b"\n"):
        rows = [row for row in rows[:-1] if len(row) == len(COLUMNS)]  # a kill cut it short
        files.write(table, files.csv_text(COLUMNS, rows))
    known = {row[0] for row in rows}
    left = [e for e in entries if e.id not in known]
    return left, len(entries) - len(left)


def _answers(path: Path) -> list[dict[str, str]]:
    """The rows of a table of answers, which a spreadsheet may have saved again."""
    from crysjax.data.readers import tables

    rows = tables.read(path)
    if rows and "id" not in rows[0]:
        raise ValueError(f"{path}: no column 'id' among {list(rows[0])[:20]}; it is no table of answers")
    return rows


def _writer(left: list[Entry], out: Path, elements: dict | None, advance: Callable[[int], None]) -> Callable:
    """`(index, answer)`: a line of the table, and the crystal that it is about."""
    from crysjax.data import files, names
    from crysjax.data.readers import io as crystals_io

    def write(index: int, answer: Answer) -> None:
        row = _row(left[index], answer, elements)
        with files.naming(out / "answers.csv"), (out / "answers.csv").open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        if answer.crystal is not None:
            place = out / "crystals" / f"{names.of(left[index].id)}.cif"
            crystals_io.write_crystals([answer.crystal._replace(id=left[index].id)], place)
        advance(index + 1)

    return write


def _row(entry: Entry, answer: Answer, elements: dict | None) -> dict:
    import numpy as np

    from crysjax.chemistry.elements import formula
    from crysjax.data.reasons import OTHER, code

    row = dict.fromkeys(COLUMNS, "") | {"id": entry.id, "formula": formula(entry.numbers), "reason": answer.reason}
    found = code(answer.reason)
    row["code"] = "calculator_failed" if found == OTHER else found  # the words are the calculator's own
    row |= {"steps": answer.steps, "seconds": round(answer.seconds, 2)}
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
        row["formation_energy_ev_per_atom"] = "" if missing else energy - own
    return row


def _said(out: Path, level: Any) -> str:
    rows = _answers(out / "answers.csv")
    failed = [row for row in rows if row["reason"]]
    for row in failed:
        say(f"{printable(row['id'])}: {row['reason']}", err=True)
    seconds = sum(float(row["seconds"]) for row in rows)
    return f"{len(rows)} crystals, {len(failed)} with a reason, {seconds:.0f} s, {level.theory}"
