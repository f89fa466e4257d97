"""Did samples get what they were asked for: asked values beside what heads predict, with their standard deviation.

`crysjax sample --property NAME=...` writes what each crystal was asked for into its property `asked_NAME`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from crysjax.data.datasets import Dataset

PREFIX = "asked_"


class AskedProperty(NamedTuple):
    """One property that was asked for, crystal by crystal; NaN where nothing was asked or predicted."""

    name: str
    asked: np.ndarray  # (m,)
    value: np.ndarray  # (m,) predicted
    std: np.ndarray  # (m,)
    window: tuple[float, float]  # what counts as a success
    why: str  # where the window comes from


class Got(NamedTuple):
    """What came of a request, over the crystals that have both numbers."""

    crystals: int
    mean_error: float  # predicted minus asked
    mean_absolute_error: float
    inside: float  # share of predictions inside the window
    expected_inside: float  # the mean probability of being inside, by value and std
    rank_correlation: float  # of asked and predicted values; NaN where one value was asked


def names(samples: Dataset) -> list[str]:
    """The properties that crystals of the set were asked for."""
    found = [k for k, v in samples.properties.items() if k.startswith(PREFIX) and np.isfinite(v).any()]
    return [name.removeprefix(PREFIX) for name in found]


def request(
    samples: Dataset, name: str, value: np.ndarray, std: np.ndarray, within: float | None = None
) -> AskedProperty:
    """A property as it was asked and is predicted, (m,) each.

    The window is the range of the values asked; where one value was asked, that value plus and minus `within`, or,
    without it, the mean standard deviation of the heads.
    """
    asked = samples.properties[PREFIX + name].astype(float)
    value, std = np.asarray(value, float), np.asarray(std, float)
    low, high = float(np.nanmin(asked)), float(np.nanmax(asked))
    if within is not None:
        return AskedProperty(name, asked, value, std, (low - within, high + within), f"what was asked, ± {within:g}")
    if high > low:
        return AskedProperty(name, asked, value, std, (low, high), "the range of what was asked")
    spread = float(np.nanmean(std)) if np.isfinite(std).any() else math.nan
    return AskedProperty(
        name, asked, value, std, (low - spread, high + spread), "what was asked, ± the heads' mean std"
    )


def got(said: AskedProperty) -> Got:
    """Errors and shares; NaN where no crystal has both numbers."""
    from scipy.special import ndtr
    from scipy.stats import rankdata

    known = np.isfinite(said.asked) & np.isfinite(said.value)
    if not known.any():
        return Got(0, *[math.nan] * 5)
    asked, value, std = (column[known] for column in said[1:4])
    error, (low, high) = value - asked, said.window
    inside = (value >= low) & (value <= high)
    spread = np.where(std > 0, std, 1.0)
    chance = np.where(std > 0, ndtr((high - value) / spread) - ndtr((low - value) / spread), inside)
    varied = np.ptp(asked) > 0 and np.ptp(value) > 0
    rank = float(np.corrcoef(rankdata(asked), rankdata(value))[0, 1]) if varied else math.nan
    return Got(int(known.sum()), float(error.mean()), float(np.abs(error).mean()), float(inside.mean()),
               float(chance.mean()), rank)  # fmt: skip


def told(said: AskedProperty) -> str:
    """What came of a request, in a line."""
    found, (low, high) = got(said), said.window
    if not found.crystals:
        return f"{said.name}: no crystal has both an asked and a predicted value"
    rank = f", rank correlation {found.rank_correlation:.2f}" if math.isfinite(found.rank_correlation) else ""
    return (
        f"{said.name}: {found.inside:.0%} of {found.crystals} predicted within {low:.4g} to {high:.4g} ({said.why}), "
        f"{found.expected_inside:.0%} expected by the std; predicted minus asked {found.mean_error:+.4g} in the mean, "
        f"{found.mean_absolute_error:.4g} absolute{rank}"
    )
