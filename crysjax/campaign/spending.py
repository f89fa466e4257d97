"""What a round costs: wall time by part, calls, and what was spent on each oracle by its price."""

from __future__ import annotations

import time
from collections.abc import Mapping

from crysjax.base import Oracle
from crysjax.oracles import costs


class Stopwatch:
    """Wall time by part: each call ends a part and begins the next."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now


def added(total: dict, more: dict) -> dict:
    """Sums key by key."""
    return {k: total.get(k, 0) + more.get(k, 0) for k in total | more}


def spent(
    before: costs.SpentByRole, oracles: Mapping[str, Oracle], calls: Mapping[str, int], seconds: Mapping[str, float]
) -> costs.SpentByRole:
    """The ledger of oracles after a round: role -> calls and wall time; roles without an oracle do not count."""
    for role, oracle in oracles.items():
        if calls.get(role):
            before = costs.spend(before, oracle, calls=calls[role], seconds=max(seconds.get(role, 0.0), 0.0))
    return before
