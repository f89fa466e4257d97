"""Entries that are not read yet: what every reader yields, and how they become crystals or reasons.

A reader turns a name and the bytes of a file into lazy entries `(name, split, parse)`: the name for messages, the split
that the file itself gives ("" if none), and a function that makes the entry or raises. An entry that cannot be parsed,
whatever raises, becomes a row of file, entry and reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from crysjax.data import files
from crysjax.data.datasets import Entry, held, sound
from crysjax.data.readers import limits

Lazy = tuple[str, str, Callable[[], Entry]]  # name, split or "", parse
Reader = Callable[[str, bytes], Iterator[Lazy]]  # name without suffix, contents -> entries

SAID_CHARACTERS = 300
"""Length of a reason: parsers quote what they choke on, and that can be a whole file."""


def failing(error: Exception) -> Entry:
    """A `parse` that raises what was raised before, so that it is counted in its place."""
    raise error


class Collected(NamedTuple):
    """What a file gave: the entries that are crystals, and a row of file, entry and reason for every other one."""

    entries: list[Entry]
    splits: list[str]  # of each entry
    places: list[int]  # of each entry in the file, from 1
    skipped: list[dict]


def collect(path: Path, lazy: Iterable[Lazy], split: str) -> Collected:
    """Every entry parsed and checked; one that fails is a reason."""
    kept, splits, places, skipped, names = [], [], [], [], set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsers warn a line per file; what matters ends up in `skipped`
        for place, (name, own, parse) in enumerate(_until_broken(path, lazy, skipped), 1):
            _refuse_splits(path, own, split)
            try:
                kept.append(_named(held(sound(parse())), names))
                splits.append(own or split)
                places.append(place)
            except Exception as error:  # a third-party parser may raise anything: all of it is a reason
                skipped.append({"file": path.name, "entry": _entry_name(name, place), "reason": said(error)})
    return Collected(kept, splits, places, skipped)


def _entry_name(name: str, place: int) -> str:
    """What an entry is called in a reason: a long name is cut off, and its row, from 1, says which it was."""
    return clean(name, 100) if len(name) <= 100 else f"{clean(name, 40)}... (row {place})"


def _refuse_splits(path: Path, own: str, split: str) -> None:
    if own and split and own != split:
        raise ValueError(f"{path}: split {split!r} was asked for, but the file carries its own, such as {own!r}")


def _named(entry: Entry, names: set[str]) -> Entry:
    """The entry, its properties' names added to those of the file; too many in all are an error."""
    own = entry.properties.keys() | (entry.row.cells.keys() | entry.row.passed.keys() if entry.row else set())
    if len(names | own) > limits.PROPERTIES:
        raise ValueError(f"more than {limits.PROPERTIES} different properties in one file")
    names |= own
    return entry


def _until_broken(path: Path, lazy: Iterable[Lazy], skipped: list[dict]) -> Iterator[Lazy]:
    """The entries up to where the file itself is damaged; what is wrong from there on becomes a row without a name."""
    try:
        for count, one in enumerate(lazy):
            if count == limits.ENTRIES:
                raise files.Damaged(path, f"more than {limits.ENTRIES} entries; those after are not read")
            yield one
    except files.Damaged as error:
        skipped += error.skipped
    except Exception as error:
        if type(error) in (ValueError, OSError):  # said by a reader: not damaged, but another layout
            raise
        skipped.append({"file": path.name, "entry": "", "reason": f"cut short or damaged ({said(error)})"})


def said(error: Exception) -> str:
    """What an error says, on one line of bounded length."""
    kind = "" if isinstance(error, ValueError) and str(error)[:1] else f"{type(error).__name__}: "
    return clean(f"{kind}{error}").rstrip(": ")


def clean(text: str, length: int = SAID_CHARACTERS) -> str:
    """One printable line of bounded length."""
    line = " ".join(text[: 10 * length].split())[:length]
    return "".join(c if c.isprintable() else "?" for c in line)
