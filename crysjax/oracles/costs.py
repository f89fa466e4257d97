"""What oracles of several fidelities cost, what was spent on each, and which of their energies compare.

A campaign keeps one `SpentByRole` in its state and summary: plain numbers, never changed in place, to and from JSON.
`FIDELITIES` says by order of magnitude what one crystal costs.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

from crysjax.chemistry.levels import Level
from crysjax.data.readers import reading

if TYPE_CHECKING:  # workers read this file, and need no JAX
    from crysjax.base import Oracle


class Spent(NamedTuple):
    """What one oracle has cost so far."""

    unit: str  # of its answers
    calls: int  # crystals asked about
    seconds: float  # of wall time, as measured
    cost: float  # calls times the price at the time, in seconds: what a budget is counted in


SpentByRole = tuple[tuple[str, Spent], ...]
"""Name of an oracle -> what was spent on it, in the order of first use; `()` before the first call."""


class Fidelity(NamedTuple):
    """A rung of the ladder from cheap to dear."""

    name: str
    seconds: float  # of one CPU core for a crystal of about ten atoms
    level: Level
    what: str


_MP = "PBE and PBE+U (VASP, Materials Project)"

FIDELITIES = (
    Fidelity("heads", 0.001, Level(f"predicted {_MP}", "as served by the Materials Project in 2021"), "a prediction"),
    Fidelity("student", 0.05, Level("potential student", "none"), "a relaxation, 12 evaluations"),
    Fidelity("chgnet", 2.0, Level(f"CHGNet 0.3.0 of {_MP}", "MaterialsProject2020Compatibility"),
             "a relaxation, 31 evaluations"),
    Fidelity("nequix-mp-1", 2.0, Level("potential nequix-mp-1", "none"), "a relaxation, 10 evaluations"),
    Fidelity("gpaw", 50.0, Level("DFT by GPAW, PBE, 400 eV, 1 k-point per 1/Å", "none"), "one energy without spin"),
)  # fmt: skip
"""From cheap to dear, by order of magnitude, measured on crystals of MP-20 with 8 to 12 atoms: `experiments/dft`."""


def spend(ledger: SpentByRole, oracle: Oracle, *, calls: int, seconds: float) -> SpentByRole:
    """What was spent, after `calls` crystals that took `seconds` of wall time."""
    if calls < 0 or not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError(f"spent: {calls} calls in {seconds} s of {oracle.name}; expected neither below 0")
    known = dict(ledger)
    before = known.get(oracle.name, Spent(oracle.unit, 0, 0.0, 0.0))
    if before.unit != oracle.unit:
        raise ValueError(f"spent: {oracle.name} answered in {before.unit!r} before, now in {oracle.unit!r}")
    known[oracle.name] = Spent(
        oracle.unit, before.calls + calls, before.seconds + seconds, before.cost + calls * oracle.cost
    )
    return tuple(known.items())


def as_dict(ledger: SpentByRole) -> dict[str, dict]:
    """What was spent, as plain values: what `to_json` writes."""
    return {name: spent._asdict() for name, spent in ledger}


def to_json(ledger: SpentByRole) -> str:
    return json.dumps(as_dict(ledger), allow_nan=False)


def from_json(text: str) -> SpentByRole:
    """What `to_json` wrote; anything else is a ValueError."""
    try:
        rows = reading.parse_json(text)
        found = tuple(
            (str(k), Spent(str(v["unit"]), int(v["calls"]), v["seconds"], v["cost"])) for k, v in rows.items()
        )
        if any(len(v) != len(Spent._fields) for v in rows.values()):
            raise ValueError("unknown fields")
        return tuple((name, s._replace(seconds=float(s.seconds), cost=float(s.cost))) for name, s in found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"this is no account of what oracles cost ({type(error).__name__}: {error})") from None
