"""Validity as CDVAE counts it (Xie et al. 2022): geometry that is possible, composition that balances.

Structural: no two sites closer than 0.5 Å and a volume of at least 0.1 Å^3. Compositional: SMACT's test (Davies et al.
2019) with the oxidation states of 2014: some choice of one oxidation state per element is neutral and gives no cation
an electronegativity at or above an anion's. Single elements and compositions of metals alone pass. An element without
an electronegativity fails every compound it is in, one without oxidation states likewise.

SMACT enumerates the product of all oxidation states. Here the same answer comes from cuts: in order of
electronegativity, whatever lies up to the cut is not negative and whatever lies above it is not positive, and within
a cut only the set of reachable charges matters. `gates` has the form for use inside `jit`.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from crysjax.base import NUM_SPECIES
from crysjax.chemistry import elements
from crysjax.data.datasets import Dataset, offsets
from crysjax.geometry.soundness import LEAST_DISTANCE_ANGSTROM, why_not
from crysjax.geometry.torus import AROUND

MAX_STATES = 16


class OxidationTable(NamedTuple):
    """SMACT's element data; row `z - 1` is atomic number `z`."""

    states: np.ndarray  # (s, MAX_STATES) int32 oxidation states
    known: np.ndarray  # (s, MAX_STATES) bool: this entry is a state
    electronegativity: np.ndarray  # (s,) float32 on Pauling's scale, NaN = none
    metal: np.ndarray  # (s,) bool


@lru_cache(maxsize=1)
def oxidation_table() -> OxidationTable:
    """The `smact14` oxidation states, electronegativities and metals that SMACT ships."""
    import smact

    states = np.zeros((NUM_SPECIES, MAX_STATES), np.int32)
    known = np.zeros((NUM_SPECIES, MAX_STATES), bool)
    electronegativity = np.full(NUM_SPECIES, np.nan, np.float32)
    for row, symbol in enumerate(elements.SYMBOLS):
        element = smact.Element(symbol)
        found = element.oxidation_states_smact14 or []
        states[row, : len(found)], known[row, : len(found)] = found, True
        electronegativity[row] = np.nan if element.pauling_eneg is None else element.pauling_eneg
    metal = np.isin(elements.SYMBOLS, smact.metals)
    return OxidationTable(states, known, electronegativity, metal)


def smact_valid(numbers: np.ndarray) -> bool:
    """Whether the composition of these atomic numbers (n,) passes; cached by reduced composition."""
    return _smact_valid(tuple(sorted(elements.counts(numbers).items())))


@lru_cache(maxsize=1 << 18)
def _smact_valid(composition: tuple[tuple[int, int], ...]) -> bool:
    table = oxidation_table()
    rows = [z - 1 for z, _ in composition]
    if len(rows) == 1 or table.metal[rows].all():
        return True
    scale = table.electronegativity[rows]
    if np.isnan(scale).any():
        return False
    return any(_neutral(composition, scale <= cut) for cut in set(scale.tolist()))


def _neutral(composition: tuple[tuple[int, int], ...], positive: np.ndarray) -> bool:
    """Whether charges sum to zero with the `positive` elements at 0 or above and the others at 0 or below."""
    table, reach = oxidation_table(), {0}
    for (z, count), up in zip(composition, positive):
        states = table.states[z - 1][table.known[z - 1]].tolist()
        allowed = [q for q in states if (q >= 0 if up else q <= 0)]
        reach = {total + count * q for total in reach for q in allowed}
    return 0 in reach


def min_distance(frac: np.ndarray, lattice: np.ndarray) -> float:
    """Shortest distance in Å between two different sites over the 27 nearest cells; infinite for one site."""
    i, j = np.triu_indices(len(frac), 1)
    if len(i) == 0:
        return float("inf")
    difference = frac[i] - frac[j]
    difference = difference - np.round(difference)
    vectors = (difference[:, None, :] + AROUND[None]) @ lattice
    return float(np.sqrt(np.square(vectors).sum(-1).min()))


def structure_valid(frac: np.ndarray, lattice: np.ndarray) -> bool:
    """Whether every pair of sites is at least 0.5 Å apart and the volume at least 0.1 Å^3; NaN is not valid.

    As in CDVAE a site is not compared with its own images.
    """
    return not why_not(frac, lattice) and min_distance(frac, lattice) >= LEAST_DISTANCE_ANGSTROM


def validity(dataset: Dataset) -> dict[str, np.ndarray]:
    """One bool per crystal for "structure", "composition" and "valid" (both)."""
    bounds = offsets(dataset)
    sites = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    structure = np.array([structure_valid(dataset.frac[s], dataset.lattice[i]) for i, s in enumerate(sites)], bool)
    composition = np.array([smact_valid(dataset.numbers[s]) for s in sites], bool)
    return {"structure": structure, "composition": composition, "valid": structure & composition}
