"""Powder patterns in text files: two columns of numbers, however they are written.

One separator holds for the whole file (semicolon, tab, comma or blanks), one decimal mark too (a point, or a comma
where the comma does not separate). A line of column names says which columns are read; without one they are the first
two. What a file does not say clearly is refused, with the line that it is about.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crysjax.data.readers import limits, reading

ANGLE, INTENSITY = "two_theta_degree", "intensity"
ANGLES = {"twothetadegree", "twotheta", "2theta", "2thetadegree", "2thetadeg", "2th", "2t", "tth", "angle", "2θ",
          "2θdegree", "2thetadegrees", "pos2th", "pos", "position", "angledegree", "x"}  # fmt: skip
INTENSITIES = {"intensity", "intensities", "counts", "cts", "iobs", "yobs", "observed", "i", "y", "intensitycounts",
               "intensitycts", "intensityau", "countspersecond", "cps"}  # fmt: skip
ID = "id"
MOST_COLUMNS = 3  # of a file that does not name them: angle, intensity, error
EVEN = 0.01  # relative: a profile is measured in equal steps, a list of peaks is not
ROUNDED = 50  # points from which steps that vary by up to a factor of 2.5 are still a profile with rounded angles
_COMMENTS = ("#", "!", "%", "'", "//", "/*")
_SEPARATORS = (";", "\t", ",", None)  # None: blanks
_CALLED = {";": "semicolons", "\t": "tabs", ",": "commas", None: "blanks"}


class Pattern(NamedTuple):
    """What a file holds, angles rising strictly."""

    two_theta: np.ndarray  # (g,) degrees
    intensity: np.ndarray  # (g,)
    is_profile: bool  # measured in (nearly) equal steps; else a list of peaks
    unread: tuple[str, ...] = ()  # names of columns that are not used


class _Line(NamedTuple):
    number: int
    text: str


class _Layout(NamedTuple):
    """How the rows are written, and where the two columns are."""

    separator: str | None
    angle: int
    intensity: int
    first: int  # the index of the first row among the lines
    names: tuple[str, ...] = ()


def read(path: str | Path) -> Pattern:
    """The pattern of a text file; anything that cannot be read for certain is an error of one line."""
    try:
        return parse(limits.text(reading.contents(Path(path))))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None


def parse(text: str) -> Pattern:
    """`read` of a file's text."""
    lines = [_Line(k, line.strip(" ")) for k, line in enumerate(limits.lines(text), 1) if line.strip()]
    if not any(not _is_comment(line) for line in lines):
        raise ValueError("no rows; expected 2θ in degrees and an intensity in each")
    layout = _named(lines) or _unnamed(lines)
    rows = [(line, _fields(line.text, layout.separator)) for line in lines[layout.first :] if not _is_comment(line)]
    if not rows:
        raise ValueError("column names and no rows below them")
    _refuse_other_rows(rows, layout.names)
    x, y = (_numbers(rows, column, layout) for column in (layout.angle, layout.intensity))
    _refuse_disorder(x, [line for line, _ in rows])
    used = {layout.angle, layout.intensity}
    unread = tuple(name for k, name in enumerate(layout.names) if k not in used and name not in ("", ID))
    return Pattern(x, y, _is_profile(x), unread)


def _is_comment(line: _Line) -> bool:
    return line.text.startswith(_COMMENTS)


def _fields(text: str, separator: str | None) -> list[str]:
    if separator is None:
        return re.sub(r"\[.*?\]|\(.*?\)", "", text).split()  # units would count as columns
    fields = [field.strip() for field in next(csv.reader([text], delimiter=separator))]
    return fields[:-1] if len(fields) > 2 and not fields[-1] else fields  # a separator at the end of the line


def _plain(name: str) -> str:
    """A column's name without its unit, case and marks."""
    name = re.sub(r"\[.*?\]|\(.*?\)|°", "", name.strip(" '\"#!%")).lower()
    return re.sub(r"[^a-z0-9θ]", "", name.replace("ϑ", "θ").replace("2-theta", "2theta"))


# Files that name their columns


def _named(lines: list[_Line]) -> _Layout | None:
    """The layout by a line of names above the first row of numbers, or None; names may stand in a comment."""
    for k, line in enumerate(lines):
        if not _is_comment(line) and _starts_with_number(line.text):
            return None
        below = next((other for other in lines[k + 1 :] if not _is_comment(other)), None)
        for separator in _SEPARATORS:
            names = _fields(line.text.lstrip("#!%").strip(" "), separator)
            found = [[j for j, name in enumerate(names) if _plain(name) in known] for known in (ANGLES, INTENSITIES)]
            fits = below is not None and len(_fields(below.text, separator)) == len(names)
            if all(found) and (fits or not _is_comment(line)):
                return _Layout(separator, *_chosen(names, found), k + 1, tuple(names))
        if not _is_comment(line) and below is not None and _looks_like_names(line.text, below.text):
            names = ", ".join(re.split(r"[;,\s]+", line.text))
            raise ValueError(
                f"line {line.number}: columns {names}; expected one of 2θ in degrees (such as {ANGLE} or 2theta) and "
                f"one of intensities (such as {INTENSITY} or counts)"
            )
    return None


def _chosen(names: list[str], found: list[list[int]]) -> list[int]:
    """One column of angles and one of intensities: our own name first, and no guess between others."""
    answers = []
    for own, places in zip((ANGLE, INTENSITY), found):
        exact = [k for k in places if names[k] == own]
        if len(exact or places) > 1:
            several = ", ".join(names[k] for k in places)
            raise ValueError(f"columns {several} all look like {own}; leave one of them")
        answers.append((exact or places)[0])
    return answers


def _looks_like_names(text: str, below: str) -> bool:
    """Whether a line of words has as many columns as the row of numbers below it."""
    same = any(len(_fields(text, s)) == len(_fields(below, s)) > 1 for s in _SEPARATORS)
    return same and _starts_with_number(below)


def _starts_with_number(text: str) -> bool:
    """Whether what stands before the second separator is digits: `10,00 153` and `10.0;153`, not `2 theta`."""
    return all(re.fullmatch(r"[\"+-]?\d*\.?\d*([eE][+-]?\d+)?\"?", t) for t in re.split(r"[;,\s]+", text.strip())[:2])


# Files that do not


def _unnamed(lines: list[_Line]) -> _Layout:
    """The layout of bare numbers: the one separator by which every row has as many of them."""
    first = next((k for k, line in enumerate(lines) if not _is_comment(line) and _starts_with_number(line.text)), None)
    if first is None:
        raise ValueError("no rows; expected 2θ in degrees and an intensity in each")
    rows = [line for line in lines[first:] if not _is_comment(line)]
    possible = [s for s in _SEPARATORS if all(_can_be(_fields(line.text, s), s) for line in rows)]
    if not possible:
        raise ValueError(_why_none(rows))
    separator = possible[0]
    widths = {len(_fields(line.text, separator)) for line in rows}
    if len(widths) > 1 or max(widths) > MOST_COLUMNS:
        raise ValueError(
            f"rows of {min(widths)} to {max(widths)} columns separated by {_CALLED[separator]}; expected 2θ, intensity "
            f"and at most its error in every row, or a line that names the columns"
        )
    return _Layout(separator, 0, 1, first)


def _can_be(fields: list[str], separator: str | None) -> bool:
    return len(fields) > 1 and all(_value(f, comma=separator != ",") is not None for f in fields[:2])


def _why_none(rows: list[_Line]) -> str:
    """The first line that no separator explains, or that the one of the first line does not."""
    start = [s for s in _SEPARATORS if _can_be(_fields(rows[0].text, s), s)]
    bad = next((r for r in rows if not any(_can_be(_fields(r.text, s), s) for s in start or _SEPARATORS)), rows[0])
    return f"line {bad.number}: {bad.text[:60]!r}; expected rows of 2θ and intensity, one separator in all of them"


# Numbers


def _value(text: str, *, comma: bool) -> float | None:
    """The number of a field, whose decimal mark may be a comma if that is no separator; None if it is none."""
    if comma and re.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?|[+-]?\d+,([eE][+-]?\d+)?", text):
        text = text.replace(",", ".")
    try:
        return float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) else None
    except ValueError:
        return None


def _numbers(rows: list[tuple[_Line, list[str]]], column: int, layout: _Layout) -> np.ndarray:
    """One column as finite numbers; the first that is none is named."""
    values = np.empty(len(rows))
    marks = {mark for _, fields in rows for mark in ",." if len(fields) > column and mark in fields[column]}
    for k, (line, fields) in enumerate(rows):
        value = _value(fields[column], comma=layout.separator != ",") if len(fields) > column else None
        if value is None or not np.isfinite(value) or len(marks) > 1:
            what = "both points and commas as decimal marks" if len(marks) > 1 else repr(line.text[:60])
            raise ValueError(f"line {line.number}: {what}; expected rows of 2θ and intensity")
        values[k] = value
    return values


def _refuse_other_rows(rows: list[tuple[_Line, list[str]]], names: tuple[str, ...]) -> None:
    """Rows have a field for every name, and belong to one crystal."""
    for line, fields in rows:
        if names and len(fields) != len(names):
            raise ValueError(f"line {line.number}: {len(fields)} columns under {len(names)} names: {line.text[:60]!r}")
    if ID in names and len({fields[names.index(ID)] for _, fields in rows}) > 1:
        raise ValueError("patterns of several crystals; expected one")


def _refuse_disorder(x: np.ndarray, lines: list[_Line]) -> None:
    """Angles have to rise strictly from 0 on, below 180 degrees."""
    if (wrong := np.flatnonzero((x < 0) | (x >= 180))).size:
        k = wrong[0]
        raise ValueError(f"line {lines[k].number}: an angle of {x[k]:g}; expected 2θ from 0 to below 180 degrees")
    if (wrong := np.flatnonzero(np.diff(x) <= 0)).size:
        k = wrong[0] + 1
        raise ValueError(f"line {lines[k].number}: an angle of {x[k]:g} after {x[k - 1]:g}; expected rising angles")


def _is_profile(x: np.ndarray) -> bool:
    """Whether points lie in equal steps, or in many that rounding alone makes unequal."""
    if len(x) < 3:
        return False
    steps = np.diff(x)
    middle = np.median(steps)
    nearly = len(x) >= ROUNDED and steps.min() >= 0.4 * middle and steps.max() <= 2.5 * middle
    return bool(np.ptp(steps) <= EVEN * steps.mean() or nearly)
