"""Text formats that ASE parses: extxyz, POSCAR and XSF, each by name and with its counts checked first.

ASE guesses formats from contents, and some of its readers run Python, unpickle or open other files. Nothing is guessed
here: text goes to one of three parsers, through memory, so that a parser has no file name to look around from.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from functools import partial

from crysjax.data import limits
from crysjax.data.convert import entry_of_atoms
from crysjax.data.datasets import Entry
from crysjax.data.lazy import Lazy, failing

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

    return entry_of_atoms(read(io.StringIO("\n".join(lines) + "\n"), index=0, format="extxyz"), name)


def read_poscar(name: str, data: bytes) -> Iterator[Lazy]:
    """One POSCAR or CONTCAR."""
    yield name, "", partial(_parse_poscar, name, limits.text(data))


def _parse_poscar(name: str, text: str) -> Entry:
    lines = text.split("\n")
    announced = [int(word) for line in lines[5:7] for word in line.split("!")[0].split() if _is_count(word)]
    if min(announced, default=0) < 0 or sum(announced) > len(lines):
        raise ValueError(f"{announced} sites announced in a file of {len(lines)} lines")
    from ase.io import read

    try:
        atoms = read(io.StringIO(text), format="vasp")
    except AttributeError:  # ASE looks for a POTCAR beside the file, whose name it does not have
        raise ValueError("no element symbols on line 6 (nor on line 1)") from None
    except (IndexError, TypeError, RuntimeError) as error:
        raise ValueError(f"cut short or malformed ({type(error).__name__}: {error})") from None
    return entry_of_atoms(atoms, name)


def _is_count(word: str) -> bool:
    try:
        int(word)
    except ValueError:
        return False
    return True


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
