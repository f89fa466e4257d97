"""How many candidates meet a target when each does so with a probability: the expected number with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Hits(NamedTuple):
    """Number of hits among candidates of known probabilities."""

    expected: float  # sum of the probabilities
    low: int  # central interval of the number
    high: int


def hits(probability: np.ndarray, *, confidence: float = 0.95) -> Hits:
    """Expected number and central interval of hits of independent candidates (m,): the Poisson binomial law, exactly.

    Errors that candidates have in common (they are judged by one model) make the true interval wider.
    """
    probability = np.asarray(probability, np.float64)
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError(f"hits: probabilities from {probability.min()} to {probability.max()}; expected 0 to 1")
    law = np.ones(1)
    for p in probability:
        law = np.append(law * (1 - p), 0) + np.append(0, law * p)
    below, tail = law.cumsum(), (1 - confidence) / 2
    low, high = (int(np.searchsorted(below, q - 1e-12)) for q in (tail, 1 - tail))
    return Hits(float(probability.sum()), low, min(high, len(probability)))


def summary(
    validated: np.ndarray,
    screened: np.ndarray,
    *,
    windowed: bool,
    validations: int,
    means_inside: int,
    opinions: dict[str, str],
    guidance: str,
) -> dict[str, Any]:
    """What `summary.json` says of hits: found, and expected of as many validations drawn at random.

    Args:
        validated: probability of each candidate after validation, equal crystals once.
        screened: probability of each candidate that passed the gates, by the heads before relaxation.
        windowed: whether the target has a window at all; without one nothing is a hit, and the numbers are null.
        validations: relaxations spent; those that failed, or whose crystal failed a gate afterwards, are no hits.
        means_inside: candidates whose value lies in every window, whatever its error: a secondary figure.
        opinions: property -> who judged it, and who else could.
        guidance: how the screened candidates were steered when they were drawn; "none" where they were not. Chance
            among guided candidates is not that of the generator: it shows what selection adds, not what guidance does.
    """
    base = float(screened.mean()) if windowed and len(screened) else None
    found = hits(validated)._asdict() if windowed else None
    chance = hits(np.full(validations, base))._asdict() if base is not None else None
    return {
        "validations": validations, "found": found, "means_inside": means_inside if windowed else None,
        "screened": len(screened), "base_rate_among_screened": base, "at_random_among_screened": chance,
        "guidance_of_screened": guidance, "judged_by": opinions,
    }  # fmt: skip


def told(found: Hits | dict | None) -> str:
    """`6.3 (3 to 10)`."""
    if found is None:
        return "–"
    expected, low, high = found.values() if isinstance(found, dict) else found
    return f"{expected:.1f} ({low} to {high})"


def drawn(guidance: str) -> str:
    """How the screened candidates came about: `drawn with guidance (resample)`."""
    return "drawn without guidance" if guidance == "none" else f"drawn with guidance ({guidance})"


def lines(said: dict[str, Any]) -> list[Sequence[str]]:
    """Rows of the report's panel: what, how many, what it means."""
    if said["found"] is None:
        return [("hits", "–", "the target has no window, so no candidate can be a hit")]
    base, spent, chance = said["base_rate_among_screened"], said["validations"], told(said["at_random_among_screened"])
    guided = "" if said["guidance_of_screened"] == "none" else (
        "; guidance has steered them towards the target, so this is not the rate of the generator, which a plan with "
        "guidance: none measures"
    )  # fmt: skip
    rows = [
        ("hits expected", f"{told(said['found'])} of {spent}",
         "sum over validated candidates of the probability of lying in every window, by value and std; "
         "95 % interval if errors are independent"),
        ("as many at random among the screened", "–" if base is None else f"{chance} of {spent}",
         f"validations picked at random, not by acquisition, from the screened candidates, "
         f"{drawn(said['guidance_of_screened'])}; by the same heads before relaxation"),
        ("rate among the screened", "–" if base is None else f"{100 * base:.1f} %",
         f"mean probability of the {said['screened']} screened candidates, {drawn(said['guidance_of_screened'])}"
         f"{guided}"),
        ("values inside every window", f"{said['means_inside']} of {spent}",
         "secondary: a value inside says little where its std is as wide as the window"),
    ]  # fmt: skip
    return rows + [(f"judge of {name}", "", text) for name, text in said["judged_by"].items()]
