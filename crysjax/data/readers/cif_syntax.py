"""The grammar of CIF 1.1: a text becomes data blocks, a block becomes columns. What they mean is for others.

Hall, Allen & Brown, Acta Cryst. A 47, 655 (1991), and the IUCr's specification of 2003. Keywords and data names are
case-insensitive. Data names of mmCIF, which have a full stop, are read as those of the core dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MISSING = ("", ".", "?")

QUOTE_STEPS = 10_000_000
"""Quotes times characters, summed over lines: a bound for what a search for the closing quote can cost."""

_BLOCK = re.compile(r"(?mi)^(?=[ \t]{0,80}data_)")
_SITES = re.compile(r"(?mi)^[ \t]{0,80}_atom_site[_.](fract_x|label|type_symbol)\b")
_NUMBER = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,3})?(\(\d{0,40}\))?")
_MOST = 1e100  # products of three stay finite; what a crystal may have is for `limits` to say
_STRUCTURAL = ("_cell_", "_atom_site_", "_symmetry_", "_space_group_", "_chemical_formula_sum")

Token = tuple[str, bool]  # the text, and whether it was bare: quoted or in a text field it is never a keyword


class Block(NamedTuple):
    """The columns of one data block by data name, in lower case with underscores alone; a single value has one row."""

    columns: dict[str, list[str]]
    ragged: dict[str, str]  # names in a loop whose values do not fill its rows -> what is wrong with it

    def column(self, *names: str) -> list[str] | None:
        """The values of the first name that has any, `None` if there is none; a damaged loop is an error."""
        for name in names:
            if name in self.ragged:
                raise ValueError(self.ragged[name])
            if any(value not in MISSING for value in self.columns.get(name, ())):
                return self.columns[name]
        return None

    def value(self, *names: str) -> str | None:
        """The only value, or the first of a loop, of the first name that has any."""
        found = self.column(*names)
        return next((value for value in found if value not in MISSING), None) if found else None


def blocks(text: str) -> list[str]:
    """The data blocks of a CIF text, each from its `data_` line on; lines in a text field begin none."""
    if "\n;" not in text:
        return [part for part in _BLOCK.split(text) if _BLOCK.match(part)]
    starts, inside, at = [], False, 0
    for line in text.split("\n"):
        if line.startswith(";"):
            inside = not inside
        elif not inside and _BLOCK.match(line):
            starts.append(at)
        at += len(line) + 1
    return [text[a:b] for a, b in zip(starts, [*starts[1:], None])]


def has_sites(block: str) -> bool:
    """Whether a block lists atoms."""
    return bool(_SITES.search(block))


def number(text: str) -> float:
    """A number without its standard uncertainty, `1.234(5)` -> 1.234; anything else is an error."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no number")
    value = float(text.partition("(")[0])
    if not abs(value) < _MOST:
        raise ValueError(f"{text[:40]!r} is beyond {_MOST:g}")
    return value


def parse(text: str) -> Block:
    """The columns of one block; a structural data name that comes twice with different values is an error."""
    lines = text.split("\n")
    if sum(len(line) * (line.count("'") + line.count('"')) for line in lines) > QUOTE_STEPS:
        raise ValueError("malformed: lines of nothing but quotes")
    block, names, values = Block({}, {}), [], []
    looping = False

    def close() -> None:
        _store(block, names, values, looping)
        names.clear()
        values.clear()

    for word, bare in _tokens(lines):
        key = word.lower() if bare else ""
        if key == "loop_" or key.startswith(("data_", "save_", "global_", "stop_")):
            close()
            looping = key == "loop_"
        elif key.startswith("_"):
            if values or (names and not looping):
                close()
                looping = False
            names.append(_canonical(key))
        elif names:
            values.append(word)
    close()
    return block


def _canonical(key: str) -> str:
    return re.sub(r"[.\-]", "_", key).rstrip("_")


def _store(block: Block, names: list[str], values: list[str], looping: bool) -> None:
    if not names:
        return
    if not looping:  # several words are one value that lacks its quotes: F m -3 m
        values = [" ".join(values) or "?"]
    if len(values) % len(names):
        said = f"cut short or malformed: {len(values)} values in a loop of {len(names)} columns"
        block.ragged.update(dict.fromkeys(names, said))
    for i, name in enumerate(names):
        column = values[i :: len(names)]
        if name.startswith(_STRUCTURAL) and block.columns.get(name, column) != column:
            raise ValueError(f"malformed: {name} is given twice")
        block.columns[name] = column


def _tokens(lines: list[str]) -> Iterator[Token]:
    """Words, quoted strings and text fields; comments are left out."""
    field: list[str] | None = None
    for line in lines:
        if field is not None and line.startswith(";"):
            yield "\n".join(field).strip(), False
            field, line = None, line[1:]
        elif field is not None:
            field.append(line)
            continue
        elif line.startswith(";"):
            field = [line[1:]]
            continue
        yield from _joined(_words(line))
    if field is not None:
        raise ValueError("cut short or malformed: a text field that is not closed")


def _words(line: str) -> Iterator[Token]:
    """A quote closes where white space follows it, so that 5'-end is a word."""
    if "'" not in line and '"' not in line and "#" not in line:
        yield from ((word, True) for word in line.split())
        return
    at, end = 0, len(line)
    while at < end:
        if line[at].isspace():
            at += 1
            continue
        if line[at] == "#":
            return
        close = _closing(line, at) if line[at] in "'\"" else -1
        if close > 0:
            yield line[at + 1 : close].strip(), False
            at = close + 1
        else:
            word = line[at:].split(None, 1)[0]
            yield word, True
            at += len(word)


def _closing(line: str, at: int) -> int:
    """Where the string that opens at `at` closes; -1 if nowhere."""
    close = line.find(line[at], at + 1)
    while close > 0 and close + 1 < len(line) and not line[close + 1].isspace():
        close = line.find(line[at], close + 1)
    return close


def _joined(words: Iterator[Token]) -> Iterator[Token]:
    """Bare words that end with a comma belong to the next: operations are often written `x, y, z` without quotes."""
    held = ""
    for word, bare in words:
        if bare and word.endswith(",") and not word.startswith("_"):
            held += word
        else:
            yield (held + word, True) if held and bare else (word, bare)
            held = ""
    if held:
        yield held, True
