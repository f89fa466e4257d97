"""Which candidates lie outside the training data of the heads: notes for the ledger, numbers for the report, a warning.

The novelty of a crystal is `predictors.novelty`'s; beyond the heads' limit, which one in a hundred held-out crystals
reaches, it is outside. Heads that know no limit say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from crysjax.evaluation.failures.detectors import LEVEL, Finding
from crysjax.evaluation.ledger import Row

USUAL = 0.01  # share of held-out crystals beyond the limit, by its definition
NAME = "outside the training data"


def notes(novelty: np.ndarray | None, limit: float) -> dict[str, np.ndarray]:
    """Novelty (m,) and whether it is beyond the limit, for rows of the ledger; nothing where no limit is known."""
    if novelty is None or not np.isfinite(limit):
        return {}
    return {"novelty": novelty, "outside": novelty > limit}


def of_candidates(rows: Iterable[Row], stage: str = "validated") -> dict[str, tuple[float, bool]]:
    """Candidate -> (novelty, whether it is outside) of those that passed a stage; a number that is missing is NaN."""
    passed = (row for row in rows if row.stage == stage and row.valid and "novelty" in row.notes)
    return {row.candidate: (_number(row.notes["novelty"]), bool(row.notes["outside"])) for row in passed}


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def summary(rows: list[Row], limit: float) -> dict[str, Any] | None:
    """For `summary.json`: how many candidates are outside at each stage that asks the heads; None without a limit."""
    if not np.isfinite(limit):
        return None
    found: dict[str, Any] = {"limit": float(f"{limit:.6g}")}
    for stage in ("scored", "validated"):
        said = list(of_candidates(rows, stage).values())
        far = np.array([novelty for novelty, _ in said])
        median = float(f"{np.nanmedian(far):.4g}") if np.isfinite(far).any() else None
        found[stage] = {"crystals": len(said), "outside": sum(out for _, out in said), "median_novelty": median}
    return found


def warning(ids: Iterable[str], found: dict[str, tuple[float, bool]], limit: float) -> list[Finding]:
    """More validated candidates `ids` outside than one in a hundred: the binomial test, one-sided, at `LEVEL`."""
    from scipy.stats import binom

    known = [(i, *found[name]) for i, name in enumerate(ids) if name in found]
    if not known or not np.isfinite(limit):
        return []
    outside, count = sum(out for _, _, out in known), len(known)
    counts = np.arange(count + 1)
    enough = counts[binom.sf(counts - 1, count, USUAL) <= LEVEL]  # numbers that would be detected
    threshold = float((enough[0] - 0.5) / count) if len(enough) else np.inf
    said = (
        f"{outside} of {count} validated candidates have a novelty above {limit:.2f}, which one in a hundred held-out "
        "crystals has: what the heads say of them is a guess, and their std grows with the novelty"
    )
    said += "" if len(enough) else "; too few to tell"
    worst = [i for i, _, out in sorted(known, key=lambda row: -row[1]) if out][:10]
    value = outside / count
    return [Finding(NAME, value > threshold, value, threshold, "share", said, np.array(worst, int))]
