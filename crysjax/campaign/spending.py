"""What a round costs: wall time by part, calls, and what was spent on each oracle by its price."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from crysjax.base import Oracle
from crysjax.evaluation import ledger
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


def share(validations: int, rounds: int, number: int) -> int:
    """How many validations the round `number` may spend; what a round leaves is not carried over to another one."""
    return validations // rounds + (number < validations % rounds)


def unspent(validations: int, rounds: int, rows: Sequence[ledger.Row]) -> str:
    """What is left of the validations and why, "" where all are spent."""
    selected = [row for row in rows if row.stage == "selected"]
    could = [sum(row.round == number for row in selected) for number in range(rounds)]
    shares = [share(validations, rounds, number) for number in range(rounds)]
    left = sum(max(most - n, 0) for most, n in zip(shares, could))
    if not left:
        return ""
    short = [f"round {k + 1} had {n} for {most}" for k, (n, most) in enumerate(zip(could, shares)) if n < most]
    beyond = sum(max(n - most, 0) for most, n in zip(shares, could))
    more = f"; {beyond} candidates of other rounds exceeded their share, and none is carried over" if beyond else ""
    return f"{left} of {validations} validations unspent, for want of candidates: {', '.join(short)}{more}"


def spent(
    before: costs.SpentByRole, oracles: Mapping[str, Oracle], calls: Mapping[str, int], seconds: Mapping[str, float]
) -> costs.SpentByRole:
    """The ledger of oracles after a round: role -> calls and wall time; roles without an oracle do not count."""
    for role, oracle in oracles.items():
        if calls.get(role):
            before = costs.spend(before, oracle, calls=calls[role], seconds=max(seconds.get(role, 0.0), 0.0))
    return before
