"""POSCAR and CONTCAR, the structure files of VASP 4 to 6.

The layout is that of https://www.vasp.at/wiki/POSCAR. A file that was cut short is an error, within a line too.
Selective dynamics and velocities, of atoms and of the cell, are counted and not kept; what else follows the positions
(the state of a thermostat or predictor) is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from crysjax.chemistry.elements import SYMBOLS, isotope_number
from crysjax.data import lost
from crysjax.data.datasets import Entry
from crysjax.data.readers import limits
from crysjax.data.readers.cif import right_handed
from crysjax.data.readers.lazy import Lazy

_MOST = 1e9  # of any length or fraction


def read_poscar(name: str, data: bytes) -> Iterator[Lazy]:
    """One POSCAR or CONTCAR."""
    yield name, "", partial(parse, name, limits.text(data))


def parse(name: str, text: str) -> Entry:
    """The crystal of one file."""
    lines = text.split("\n")
    if len(lines) < 8:
        raise ValueError(f"cut short or malformed: a POSCAR of {len(lines)} lines")
    vectors = np.array([_floats(line, 3, f"line {i}") for i, line in enumerate(lines[2:5], 3)])
    scale = _scale(lines[1], vectors)
    symbols, counts, at = _species(lines)
    count = sum(counts)
    if min(counts) < 0 or count > len(lines):
        raise ValueError(f"{counts} sites announced in a file of {len(lines)} lines")
    limits.refuse_sites(count)
    selective = lines[at].strip()[:1] in tuple("sS")
    at += selective
    cartesian = lines[at].strip()[:1] in tuple("cCkK") if at < len(lines) else False
    rows = lines[at + 1 : at + 1 + count]
    _refuse_cut(rows, count, last=at + 1 + count >= len(lines))
    places = np.array([_floats(row, 3, f"line {i}") for i, row in enumerate(rows, at + 2)]).reshape(-1, 3)
    if symbols is None:  # VASP 4: some programs write the element behind each position
        symbols = [row.split()[-1] for row in rows]
        counts = [1] * count
    numbers = [number for symbol, n in zip(symbols, counts) for number in [_number(symbol)] * n]
    if cartesian and abs(np.linalg.det(vectors)) > 0:
        places = np.linalg.solve((vectors * scale).T, (places * scale).T).T
    names = [_base(symbol) for symbol, n in zip(symbols, counts) for _ in range(n)]
    unkept = lost.counted("selective dynamics", map(_is_fixed, rows)) if selective else {}
    rest = lines[at + 1 + count :]
    unkept |= lost.counted("velocities", _moving(rest, count))
    unkept |= lost.counted("velocities of the cell", [_cell_moves(rest)] * count) | lost.isotopes(names)
    return Entry(name, np.array(numbers), places, vectors * scale, {}, lost=unkept)


def _is_fixed(row: str) -> bool:
    """Whether one of the three flags behind a position is Fortran's false."""
    return any(word.lstrip(".")[:1] in ("F", "f") for word in row.split()[3:6])


def _moving(rest: list[str], count: int) -> list[bool]:
    """Which atoms have a velocity: it follows the positions after one line, and after the velocities of the cell."""
    rest = rest[8:] if _has_cell(rest) else rest
    return [_is_moving(row) for row in rest[1 : 1 + count]]


def _has_cell(rest: list[str]) -> bool:
    """Whether velocities of the cell come first: a title, a line of its state, three velocities, three vectors."""
    return bool(rest) and rest[0].strip().lower().startswith("lattice vel")


def _cell_moves(rest: list[str]) -> bool:
    return _has_cell(rest) and any(map(_is_moving, rest[2:5]))


def _is_moving(row: str) -> bool:
    words = row.lower().replace("d", "e").split()[:3]
    return len(words) == 3 and any(map(_is_not_zero, words))


def _is_not_zero(word: str) -> bool:
    try:
        return float(word) != 0
    except ValueError:
        return False


def format_poscar(title: str, entry: Entry) -> str:
    """One POSCAR of VASP 5 and later, fractional positions, the sites of an element together; forces are not kept."""
    numbers = np.asarray(entry.numbers)
    kinds = list(dict.fromkeys(numbers.tolist()))
    order = np.concatenate([np.flatnonzero(numbers == z) for z in kinds])
    frac, lattice = right_handed(entry.frac, entry.lattice)  # VASP refuses a left-handed cell

    def rows(values: np.ndarray) -> list[str]:
        return ["  ".join(f"{x:14.9f}" for x in row) for row in np.asarray(values, float).tolist()]

    return "\n".join([
        "".join(c if c.isprintable() else "?" for c in title)[:200], "1.0", *rows(lattice),
        "  ".join(SYMBOLS[z - 1] for z in kinds), "  ".join(str(int((numbers == z).sum())) for z in kinds),
        "Direct", *rows(np.asarray(frac)[order]),
    ]) + "\n"  # fmt: skip


def _floats(line: str, count: int, where: str) -> list[float]:
    words = line.split()[:count]
    try:
        values = [float(word.lower().replace("d", "e")) for word in words]
    except ValueError:
        values = []
    if len(values) < count:
        raise ValueError(f"cut short or malformed: {where}: {count} numbers were expected, got {line[:40]!r}")
    if not np.abs(values).max() < _MOST:
        raise ValueError(f"{where}: {line[:40]!r} is not finite, or beyond {_MOST:g}")
    return values


def _scale(line: str, vectors: np.ndarray) -> np.ndarray:
    """What lattice and Cartesian positions are multiplied by: a factor, or one for each axis; below zero, a volume."""
    words = line.split("!")[0].split()
    scale = np.array(_floats(line, 3 if len(words) >= 3 else 1, "line 2"))
    if len(scale) == 1 and scale[0] < 0 and (volume := abs(np.linalg.det(vectors))) > 0:
        scale = np.cbrt(-scale / volume)
    if not scale.min() > 0:
        raise ValueError(f"line 2: a scale of {line.strip()[:40]!r}, expected above zero, or one volume below zero")
    return scale


def _species(lines: list[str]) -> tuple[list[str] | None, list[int], int]:
    """Symbols (`None`: behind the positions), counts, and the index of the line after them."""
    named = lines[5].split("!")[0].split()
    if named and all(_is_count(word) for word in named):  # VASP 4
        counts = [int(word) for word in named]
        words = lines[0].split()[: len(counts)]
        if len(words) == len(counts) and all(_is_element(word) for word in words):
            return words, counts, 6
        return _behind(lines, counts), counts, 6
    counts = [int(word) for word in lines[6].split("!")[0].split() if _is_count(word)]
    if not named or len(counts) != len(named):
        raise ValueError(f"cut short or malformed: {len(named)} elements on line 6 and {len(counts)} counts on line 7")
    return named, counts, 7


def _behind(lines: list[str], counts: list[int]) -> None:
    """Nothing, if every position has an element behind it; an error if not."""
    if min(counts) >= 0 and sum(counts) <= len(lines):
        start = 7 + (lines[6].strip()[:1] in tuple("sS"))
        if all(row.split() and _is_element(row.split()[-1]) for row in lines[start : start + sum(counts)]):
            return
        raise ValueError("no element symbols on line 6 (nor on line 1)")


def _is_count(word: str) -> bool:
    return word.removeprefix("-").isdecimal() and len(word) < 12


def _is_element(word: str) -> bool:
    try:
        return _number(word) > 0
    except ValueError:
        return False


def _number(word: str) -> int:
    """The atomic number of `Fe`, `Fe_pv` or `Fe/0123abcd`."""
    return isotope_number(_base(word))


def _base(word: str) -> str:
    return word.replace("/", "_").partition("_")[0]


def _refuse_cut(rows: list[str], count: int, *, last: bool) -> None:
    """An error if positions are missing, or if the file ends with a line shorter than those before, which are equal."""
    found = sum(bool(row.strip()) for row in rows)
    if found < count:
        raise ValueError(f"cut short: {count} sites announced, {found} lines of positions")
    widths = {len(row) for row in rows[:-1]}
    if last and len(rows) > 2 and len(widths) == 1 and len(rows[-1]) < min(widths):
        raise ValueError(f"cut short: the last line of positions ends early: {rows[-1][:60]!r}")
