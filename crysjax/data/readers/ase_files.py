"""Text formats that ASE parses: extxyz and XSF, each by name and with its counts checked first.

ASE guesses formats from contents, and some of its readers run Python, unpickle or open other files. Nothing is guessed
here: text goes to one of two parsers, through memory, so that a parser has no file name to look around from.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from functools import partial

from crysjax.chemistry.elements import SYMBOLS, isotope_number
from crysjax.data import lost
from crysjax.data.datasets import Entry
from crysjax.data.readers import limits
from crysjax.data.readers.convert import entry_of_atoms
from crysjax.data.readers.lazy import Lazy, failing

COMMENT_CHARACTERS = 100_000
"""Of the second line of an extxyz frame: it is parsed character by character."""

COLUMNS = 1_000
"""Columns of one extxyz property; ASE makes a Python object of each before it looks at the atoms."""

_WIDE = re.compile(r":[RISL]:\s*\+?[\d_]{4,}")


def read_extxyz(name: str, data: bytes) -> Iterator[Lazy]:
    """Every frame of an extxyz file by itself: a bad one is a reason, the next is read all the same."""
    lines = limits.text(data).split("\n")
    start, i = 0, 0
    while (start := _skip_blank(lines, start)) < len(lines):
        label = f"{name}-{i}" if i else name
        try:
            end = _frame_end(lines, start)
        except ValueError as error:  # where the next frame begins is unknown from here on
            yield f"{name}-{i}", "", partial(failing, error)
            return
        yield f"{name}-{i}", "", partial(_parse_frame, label, lines[start:end])
        start, i = end, i + 1


def _skip_blank(lines: list[str], start: int) -> int:
    while start < len(lines) and not lines[start].strip():
        start += 1
    return start


def _frame_end(lines: list[str], start: int) -> int:
    """The line after a frame: a count, a comment, as many atoms, and up to three `VEC` lines that some programs add."""
    try:
        count = int(lines[start])
    except ValueError:
        raise ValueError(f"a count of atoms was expected, got {lines[start][:40]!r}") from None
    end = start + 2 + count
    if count < 0 or end > len(lines):
        raise ValueError(f"cut short: {count} atoms announced, {max(len(lines) - start - 2, 0)} lines left")
    while end < min(len(lines), start + 5 + count) and lines[end].lstrip().startswith("VEC"):
        end += 1
    return end


def _parse_frame(name: str, lines: list[str]) -> Entry:
    limits.refuse_sites(int(lines[0]))
    if len(lines[1]) > COMMENT_CHARACTERS or _WIDE.search(lines[1]):
        raise ValueError(f"a comment line of {len(lines[1])} characters, or a property of {COLUMNS} columns or more")
    if int(lines[0]) == 0:
        raise ValueError("a frame without atoms")
    from ase.io import read

    plain, isotopes = _elements(lines)
    entry = entry_of_atoms(read(io.StringIO("\n".join(plain) + "\n"), index=0, format="extxyz"), name)
    return entry._replace(lost=entry.lost | isotopes)


def _elements(lines: list[str]) -> tuple[list[str], lost.Lost]:
    """The lines of a frame with D and T as H, and how many there were; a symbol of no element is an error."""
    columns = re.search(r"""\bProperties=["']?([\w:]+)""", lines[1], re.IGNORECASE)
    kinds = columns[1].split(":") if columns else ["species", "S", "1", "pos", "R", "3"]
    if "species" not in kinds[::3]:
        return lines, {}
    index = kinds[::3].index("species")
    if not all(width.isdecimal() for width in kinds[2::3]):
        return lines, {}
    place = sum(map(int, kinds[2::3][:index]))
    atoms = [line.split() for line in lines[2 : 2 + int(lines[0])]]
    written = [words[place].capitalize() for words in atoms if len(words) > place]
    for words in atoms:
        if len(words) > place and not words[place].isdecimal():
            words[place] = SYMBOLS[isotope_number(words[place].capitalize()) - 1]
    same = all(words == line.split() for words, line in zip(atoms, lines[2:]))
    plain = lines if same else [*lines[:2], *map(" ".join, atoms), *lines[2 + len(atoms) :]]
    return plain, lost.isotopes(written)


def read_xsf(name: str, data: bytes) -> Iterator[Lazy]:
    """Every image of an XSF or AXSF file; data grids are not read."""
    from ase.io.xsf import iread_xsf

    frames = iread_xsf(io.StringIO(limits.text(data)))
    for i in itertools.count():
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:  # the stream is lost from here on: one row says where and why
            why = "the file ends early" if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
            line = f"cut short or malformed ({why})"
            yield f"{name}-{i}", "", partial(failing, ValueError(line))
            return
        yield f"{name}-{i}", "", partial(entry_of_atoms, atoms, f"{name}-{i}" if i else name)
