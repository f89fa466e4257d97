"""Values that stand for "unknown" or are slips: -99999 in a column of gaps, or one 1e30 that sets the scale of all.

Nothing is changed here; what looks wrong is named by column, value and count, so that its owner can mend the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from crysjax.data.datasets import Dataset

FAR = 1e3
"""Spreads (from the 5th to the 95th percentile) from the median beyond which a value is suspicious."""

REPEATED = 3
"""Times that a value must come to be taken for a placeholder, unless its digits are all nines."""

ABSURD = 1e30
"""Magnitude that no label has: carriers per cubic meter, among the largest numbers in use, reach 2e29 in aluminum."""

_DISTINCT = 5  # other values that a column needs, so that flags and classes are not taken for placeholders
_ROUNDS = 4  # different placeholders looked for in one column


class Suspicious(NamedTuple):
    """A value that is no measurement, by all appearances."""

    value: float
    count: int
    known: int  # values of the column in all
    low: float  # the range of the others; NaN where there are none
    high: float


def suspicious(values: np.ndarray) -> list[Suspicious]:
    """Placeholders and absurd values of one column, the worst first; NaN is missing and never suspicious.

    The smallest or the largest value is suspicious if it lies outside the others by more than their own range and has
    nothing but nines for digits (-9999; also if it alone is negative), or comes at least `REPEATED` times and is the
    largest in magnitude; or if it is more than `FAR` spreads from the median. The only value of a column is suspicious
    if it is nothing but nines (four, or three below zero) or at least `ABSURD` in magnitude.
    """
    known = np.asarray(values, np.float64)
    known, total, found = known[np.isfinite(known)], int(np.isfinite(known).sum()), []
    for _ in range(_ROUNDS):
        ends = sorted({known.min(), known.max()}, key=abs, reverse=True) if len(known) else []
        worst = next((v for v in ends if _stands_out(v, known)), None)
        if worst is None:
            break
        rest = known[known != worst]
        found.append((float(worst), len(known) - len(rest)))
        known = rest
    low, high = (float(known.min()), float(known.max())) if len(known) else (np.nan, np.nan)
    return [Suspicious(value, count, total, low, high) for value, count in found]


def _stands_out(value: float, known: np.ndarray) -> bool:
    rest = known[known != value]
    if not len(rest):
        return (_nines(value) and not 0 < value < 1000) or abs(value) >= ABSURD
    width, gap = np.ptp(rest), np.abs(rest - value).min()
    if _nines(value) and (gap > width or (value < 0 <= rest.min())):
        return True
    if len(np.unique(rest)) < _DISTINCT:
        return False
    repeated = len(known) - len(rest) >= REPEATED and gap > width and abs(value) > np.abs(rest).max()
    low, median, high = np.quantile(rest, [0.05, 0.5, 0.95])
    return repeated or abs(value - median) > FAR * (high - low) > 0


def _nines(value: float) -> bool:
    """999, -9999, 99999.0 and the like."""
    digits = f"{abs(value):.10g}".replace(".", "")
    return len(digits) >= 3 and set(digits) == {"9"} and abs(value) >= 99


def said(dataset: Dataset, names: Iterable[str] | None = None) -> list[str]:
    """A line for every suspicious value of the properties `names` (default: all) and of what sites carry."""
    columns = dict(dataset.properties)
    columns |= {name: np.ravel(values) for name, values in dataset.site_properties.items()}
    chosen = sorted(columns) if names is None else [name for name in names if name in columns]
    return [sentence(name, one) for name in chosen for one in suspicious(columns[name])]


def sentence(name: str, one: Suspicious) -> str:
    """Column, value and count, and how far it is from the others."""
    if np.isnan(one.low):
        rest = "" if one.count == one.known else "the other "
        which = "the only value is" if one.known == 1 else f"{rest or 'all '}{one.count} values are"
        return f"{name}: {which} {one.value:.6g}; if it stands for an unknown value, leave the cells empty"
    return (
        f"{name}: {one.value:.6g} comes {one.count} {'time' if one.count == 1 else 'times'} in {one.known} values, the "
        f"others run from {one.low:.4g} to {one.high:.4g}; if it stands for an unknown value, leave the cell empty"
    )
