"""What each stage of a round writes into the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from crysjax.campaign.goals import Goals, hit_probability, in_range, objective
from crysjax.data.reasons import code
from crysjax.evaluation.ledger import Row

PRICE = {"sampled": 0.02, "screened": 0.001, "scored": 0.002, "selected": 0.0, "relaxed": 0.002, "validated": 0.002}
"""Seconds a call on two CPU cores, by order of magnitude; a relaxation is priced by its evaluations of forces."""


def rows(
    stage: str,
    number: int,
    seed: int,
    ids: Sequence[str],
    reason: Sequence[str],
    *,
    quantity: str,
    unit: str,
    value: np.ndarray,
    std: np.ndarray | None = None,
    calls: np.ndarray | None = None,
    more_cost: np.ndarray | None = None,
    properties: dict[str, tuple[np.ndarray, np.ndarray | None]] | None = None,
    p_hit: np.ndarray | None = None,
    notes: dict[str, np.ndarray] | None = None,
) -> Iterator[Row]:
    """Rows of one stage; an empty reason is a pass. A candidate that failed has no `p_hit`: it is no hit.

    `more_cost`: seconds of further oracles, by their price.
    """
    for i, name in enumerate(ids):
        more = {k: [_number(v, i), _number(s, i)] for k, (v, s) in (properties or {}).items()}
        cost = PRICE[stage] * (1 if calls is None else int(calls[i]))
        cost += 0.0 if more_cost is None else float(more_cost[i])
        yield Row(
            str(name), stage, number, seed, quantity, _number(value, i), _number(std, i), unit, not reason[i],
            round(cost, 6), str(reason[i]), more, None if reason[i] else _number(p_hit, i),
            {k: _note(v, i) for k, v in (notes or {}).items()}, code(str(reason[i])),
        )  # fmt: skip


def _number(values: np.ndarray | None, i: int) -> float | None:
    return None if values is None or not np.isfinite(values[i]) else float(f"{float(values[i]):.7g}")


def _note(values: np.ndarray, i: int) -> float | bool | str | None:
    value = values[i]
    return value.item() if isinstance(value, np.bool_ | np.integer | np.str_) else _number(values, i)


def of_goals(goals: Goals, value: np.ndarray, std: np.ndarray) -> dict[str, Any]:
    """The objective with its standard deviation, every target property, and the probability of a hit: (m, k) twice."""
    spread = np.sqrt(np.square(std / goals.unit).sum(-1))
    shown = in_range(goals, value)
    properties = {name: (shown[:, k], std[:, k]) for k, name in enumerate(goals.names)}
    found = {"value": objective(goals, shown), "std": spread, "properties": properties}
    found["p_hit"] = hit_probability(goals, value, std)
    return {"quantity": "objective", "unit": "spreads of the training data"} | found
