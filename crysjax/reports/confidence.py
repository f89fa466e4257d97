"""Whether predicted error bars were right, in words: too confident, too cautious, or no fault seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SURE, LIKELY = 0.001, 0.05  # chances of a false alarm
FEWEST = 10  # values below which nothing can be told


class Confidence(NamedTuple):
    """What came of the error bars of one property."""

    count: int
    inside: int  # values within one std of their prediction
    scale: float  # root mean square of error / std; 1 where the error bars are right
    verdict: str


def confidence(error: np.ndarray, std: np.ndarray) -> Confidence:
    """Of validated minus predicted values (m,) with the predicted std (m,); what is not known is left out.

    The test is that of sum (error / std)² against chi² with as many degrees of freedom, two-sided: independent
    Gaussian errors are assumed, and candidates that resemble one another are less certain evidence than it says.
    """
    from scipy.stats import chi2

    known = np.isfinite(error) & (std > 0)
    z = error[known] / std[known]
    if len(z) < FEWEST:
        return Confidence(len(z), int((np.abs(z) <= 1).sum()), float("nan"), f"too few to tell, {FEWEST} are needed")
    total, scale = float(np.sum(z**2)), float(np.sqrt(np.mean(z**2)))
    chance = 2 * min(chi2.cdf(total, len(z)), chi2.sf(total, len(z)))
    word = "too confident" if scale > 1 else "too cautious"
    sure = f"{word}: errors are {scale:.1f} times as large as the error bars say"
    verdict = "no fault seen" if chance > LIKELY else sure if chance <= SURE else f"probably {sure}"
    return Confidence(len(z), int((np.abs(z) <= 1).sum()), scale, verdict)


def rows(found: dict[str, Confidence]) -> list[Sequence[str]]:
    """Of each property: name, values inside one error bar, what is expected, verdict."""
    return [
        (name, f"{of.inside} of {of.count}", f"{0.683 * of.count:.0f} of {of.count}", of.verdict)
        for name, of in found.items()
    ]
