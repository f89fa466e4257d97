"""The gates once more, on relaxed crystals: a relaxation may pull atoms together or blow a cell up."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from crysjax.base import Pack
from crysjax.campaign.validate import by_crystal
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.evaluation import gates
from crysjax.evaluation.gates import Gated

AFTER = ("apart", "dense")  # what a relaxation can change; the composition stays


class Inspected(NamedTuple):
    """A row a crystal."""

    reason: np.ndarray  # (m,) str, "" for a possible crystal
    notes: dict[str, np.ndarray]  # name -> (m,): what was measured, for the ledger


def inspector(gate: Callable[[Pack], Gated], shape: Capacity) -> Callable[[Dataset], Inspected]:
    """`relaxed crystals -> Inspected`, by the gate that screened them before."""

    @jax.jit
    def measure(pack: Pack) -> dict:
        found = gate(pack)
        return {name: getattr(found, name) for name in (*AFTER, "distance_angstrom", "closeness")}

    def inspect(crystals: Dataset) -> Inspected:
        reason = np.full(len(crystals), "", "<U80")
        if not len(crystals):
            return Inspected(reason, {})
        found = by_crystal(measure, crystals, shape)
        for name in reversed(AFTER):
            reason[~found[name]] = f"{gates.SAID[name]} after relaxation"
        shortest = {"shortest_distance_angstrom": found["distance_angstrom"], "closeness": found["closeness"]}
        return Inspected(reason, shortest)

    return inspect
