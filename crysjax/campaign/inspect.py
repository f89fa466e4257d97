"""The gates once more, on relaxed crystals: a relaxation may pull atoms together or blow a cell up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from crysjax.base import Pack
from crysjax.data import batching
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.evaluation import gates
from crysjax.evaluation.gates import Gated


class Inspected(NamedTuple):
    """One row per crystal."""

    reason: np.ndarray  # (m,) str, "" for a possible crystal
    notes: dict[str, np.ndarray]  # name -> (m,): what was measured and flagged, for the ledger


def inspector(
    gate: Callable[[Pack], Gated], shape: Capacity, flags: Mapping[str, Callable[[Entry], str]] | None = None
) -> Callable[[Dataset], Inspected]:
    """`relaxed crystals -> Inspected`, by the gates that screened them before; compiled once.

    `flags`: by name, what a chemist would stop at: crystal that passed the gates -> words, "" for nothing.
    """
    compiled = jax.jit(gate)

    def inspect(crystals: Dataset) -> Inspected:
        if not len(crystals):
            return Inspected(np.zeros(0, "<U120"), {})
        found = batching.each_crystal(compiled, crystals, shape)
        why = [f"{said.rstrip()} (after relaxation)" if said else "" for said in gates.why(found, range(len(crystals)))]
        measured = {"closeness": found.closeness, "shortest_distance_angstrom": found.distance_angstrom}
        measured |= {name: held.value for name, held in found.more.items()}
        unusual = {
            f"{name}_flag": np.array(["" if lost else flag(entry) for entry, lost in zip(entries(crystals), why)])
            for name, flag in (flags or {}).items()
        }
        return Inspected(np.array(why, "<U120"), measured | unusual)

    return inspect
