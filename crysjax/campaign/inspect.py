"""The gates once more, on relaxed crystals: a relaxation may pull atoms together or blow a cell up."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from crysjax.base import Pack
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.evaluation import contacts, gates
from crysjax.evaluation.gates import Gated


class Inspected(NamedTuple):
    """A row a crystal."""

    reason: np.ndarray  # (m,) str, "" for a possible crystal
    notes: dict[str, np.ndarray]  # name -> (m,): what was measured, for the ledger


def inspector(gate: Callable[[Pack], Gated], shape: Capacity) -> Callable[[Dataset], Inspected]:
    """`relaxed crystals -> Inspected`, by the gates that screened them before; compiled once."""
    compiled = jax.jit(gate)

    def inspect(crystals: Dataset) -> Inspected:
        if not len(crystals):
            return Inspected(np.zeros(0, "<U120"), {})
        found = contacts.by_crystal(compiled, crystals, shape)
        why = [f"{said.rstrip()} (after relaxation)" if said else "" for said in gates.why(found, range(len(crystals)))]
        measured = {"closeness": found.closeness, "shortest_distance_angstrom": found.distance_angstrom}
        return Inspected(np.array(why, "<U120"), measured)

    return inspect
