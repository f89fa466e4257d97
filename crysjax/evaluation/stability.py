"""What an energy above the hull is worth when the energy has an error, and when the hull has holes.

An energy known to within a standard deviation sigma gives the probability Phi((margin - above) / sigma) of lying
within the margin (Gaussian errors, a flat prior). Where sigma exceeds the margin, stable and unstable cannot be told
apart for most crystals: they are then counted by their probability, and a verdict is given only beyond `SURE`.

A share of expected ones is no unbiased estimate: the measured energies already scatter by sigma, and Phi spreads them
by sigma once more. Crystals that all lie d above the margin count as Phi(-d / (sigma sqrt 2)) each, and not as 0: 0.41
for d = 0.05 and sigma = 0.157 eV/atom. It is pulled towards one half, so it serves to compare sets under one sigma.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crysjax.evaluation.metrics.distributions import Interval, wilson
from crysjax.physics.hull.hull import ROUNDING_EV_PER_ATOM, Hull, Stability, compounds_around

VAGUE = "the error exceeds the margin"  # in the level of a verdict whose shares are expected ones
SURE = 0.95  # probability of being stable, or of not being it, from which on a verdict is given
BELIEVED_STD = 3.0
FAR_BELOW_EV_PER_ATOM = 0.3  # no hull of a well-studied system is beaten by more: competing entries are missing
FAR_ABOVE_EV_PER_ATOM = 2.0  # real crystals lie below; such energies are those of a broken structure or potential


class Told(NamedTuple):
    """What can be said of each of `m` crystals."""

    probability: np.ndarray  # (m,) of lying within the margin; NaN where nothing is known
    stable: np.ndarray  # (m,) bool
    known: np.ndarray  # (m,) bool: stable or not, with certainty; the others are neither
    believed: np.ndarray  # (m,) bool: not so far below the hull that the hull or the energy must be wrong
    reason: np.ndarray  # (m,) str, "" where stable


def probability(above: np.ndarray, margin: float, std: float | None) -> np.ndarray:
    """Of lying at most `margin` above the hull (m,); energies without an error (`None`) give 0 or 1. NaN stays NaN."""
    from scipy.stats import norm

    above = np.asarray(above, np.float64)
    room = margin + ROUNDING_EV_PER_ATOM - above
    sure = np.where(np.isnan(above), np.nan, (room >= 0).astype(float))
    return sure if std is None else norm.cdf(room / std)


def within(value: np.ndarray, std: np.ndarray, low: float, high: float) -> np.ndarray:
    """Probability of lying in a window (m,), for Gaussian errors of `std`; 0 or 1 where there is no error."""
    from scipy.stats import norm

    std = np.maximum(std, 1e-12)
    return norm.cdf((high - value) / std) - norm.cdf((low - value) / std)


def cannot_tell(margin: float, std: float | None) -> bool:
    """Whether the error of the energies is larger than the margin that they are asked about."""
    return std is not None and std > margin


def told(found: Stability, compositions: np.ndarray, known: Hull, *, margin: float, std: float | None) -> Told:
    """Stable, not stable, or unknown, with the reason; see the module."""
    chance = probability(found.above, margin, std)
    alone = (found.reason == "") & (compounds_around(compositions, known) == 0)
    believed = ~(found.above < -max(FAR_BELOW_EV_PER_ATOM, BELIEVED_STD * (std or 0.0))) & ~alone
    sure = ((chance >= SURE) | (chance <= 1 - SURE)) if cannot_tell(margin, std) else ~np.isnan(chance)
    outside = np.char.startswith(found.reason.astype(str), "no entry of")
    answered = ~outside & ~alone & (sure | ~believed | np.isnan(found.above))
    stable = answered & believed & (chance >= 0.5)
    rows = zip(found.above, found.reason, chance, believed, alone, sure)
    reason = np.array([_reason(*row) for row in rows], dtype=object).astype(str)
    return Told(np.where(believed, chance, np.where(alone, np.nan, 0.0)), stable, answered, believed, reason)


def _reason(above: float, why: str, chance: float, believed: bool, alone: bool, sure: bool) -> str:
    if why:
        return f"cannot tell: {why}" if why.startswith("no entry of") else why
    if alone:
        return "cannot tell: the hull has no compound of these elements"
    if not believed:
        return f"{-above:.3f} eV/atom below the hull: not believed"
    if not sure:
        return f"cannot tell: {above:+.3f} eV/atom from the hull, within the margin with probability {chance:.2f}"
    return f"{above:.3f} eV/atom above the hull"


def expected(chance: np.ndarray) -> Interval:
    """The expected share of probabilities (m,) with its interval, errors being independent; NaN is left out.

    It is pulled towards one half (see the module); the interval is of sampling alone.
    """
    given = chance[~np.isnan(chance)]
    if not len(given):
        return Interval(np.nan, np.nan, np.nan, 0, len(chance))
    low, high = wilson(float(given.sum()), len(given))
    return Interval(float(given.mean()), low, high, len(given), len(chance) - len(given))


def flags(above: np.ndarray) -> dict[str, np.ndarray]:
    """Signs of a hull with holes or of wrong energies: (m,) bool each."""
    far = {"far_below_hull": above < -FAR_BELOW_EV_PER_ATOM, "far_above_hull": above > FAR_ABOVE_EV_PER_ATOM}
    return {name: np.asarray(value, bool) for name, value in far.items()}
