"""Energy above the convex hull of formation energies: the field's measure of thermodynamic stability.

The hull energy of a composition x is the least energy of any mixture of entries with that composition (Ong et al.
2008): min e.w over w >= 0 with C w = x, where the columns of C are the atomic fractions of the entries of the chemical
system and of all its sub-systems. Pure elements have energy 0 by definition. The linear programs of many
compositions are solved together (`simplex`), those of one chemical system over the same, once gathered, entries.

Energies compare only within one level of theory with one scheme of corrections, so both are named by a hull, asked of
every caller, and checked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crysjax.base import NUM_SPECIES
from crysjax.chemistry.elements import SYMBOLS
from crysjax.physics.hull import hull_entries
from crysjax.physics.hull.hull_entries import FORMATION_ENERGY, MATERIALS_PROJECT_2021, Level  # noqa: F401 (handed on)
from crysjax.physics.hull.simplex import least_energies

if TYPE_CHECKING:
    from crysjax.physics.hull.traced import HullTable

METASTABLE_EV_PER_ATOM = 0.1
"""The margin of "metastable, unique, novel" (MSUN) and of MatterGen's "stable" (Zeni et al. 2025)."""

STABLE_EV_PER_ATOM = 0.0
"""The margin of "stable, unique, novel" in the strict sense: on the hull or below it."""

ROUNDING_EV_PER_ATOM = 1e-6
"""Added to every margin: an entry of the hull itself lies on it up to rounding of its energy to float32."""

# where entries come from, under the names that users of a hull look for
composition, compositions = hull_entries.composition, hull_entries.compositions
dataset_entries, read_level = hull_entries.dataset_entries, hull_entries.read_level
read_cache, read_entries = hull_entries.read_cache, hull_entries.read_entries

_MOST_ELEMENTS = 12  # of one composition whose sub-systems are enumerated; beyond, all known systems are tried


class Hull(NamedTuple):
    """Competing entries, one per composition; elements that occur are among them with an energy of at most 0."""

    fractions: np.ndarray  # (e, NUM_SPECIES) float64 atomic fractions, each row sums to 1
    energies: np.ndarray  # (e,) formation energies in eV/atom
    names: np.ndarray  # (e,) str
    systems: dict[tuple[int, ...], np.ndarray]  # elements (column indices) of a chemical system -> its entries
    level: Level
    source: str


class Stability(NamedTuple):
    """What the hull says of each composition; NaN comes with a reason."""

    above: np.ndarray  # (m,) eV/atom above the hull, negative below it
    hull_energy: np.ndarray  # (m,) eV/atom
    reason: np.ndarray  # (m,) str, "" where there is an answer


# Making a hull


def hull(
    compositions: np.ndarray, energies: np.ndarray, *, level: Level, source: str, names: Iterable[str] | None = None
) -> Hull:
    """A hull of formation energies (m,) in eV/atom of compositions (m, NUM_SPECIES): atom counts or fractions.

    Entries without an energy are left out. Every element that occurs is added as a reference of energy 0.
    """
    fractions, energies = _fractions(compositions, "hull"), np.asarray(energies, np.float64)
    names = np.array([str(n) for n in names] if names is not None else [f"entry {i}" for i in range(len(energies))])
    if not len(fractions) == len(energies) == len(names):
        raise ValueError(f"hull: {len(fractions)} compositions, {len(energies)} energies, {len(names)} names")
    known = np.isfinite(energies)
    if not known.any():
        raise ValueError("hull: no entry with a finite formation energy")
    fractions, energies, names = fractions[known], energies[known], names[known]
    elements = np.flatnonzero(fractions.any(0))
    fractions = np.concatenate([np.eye(NUM_SPECIES)[elements], fractions])
    energies = np.concatenate([np.zeros(len(elements)), energies])
    names = np.concatenate([[f"element {SYMBOLS[i]}" for i in elements], names])
    return _lowest(fractions, energies, names, level, source)


def _lowest(fractions: np.ndarray, energies: np.ndarray, names: np.ndarray, level: Level, source: str) -> Hull:
    """The lowest entry of each composition; the others, and all of positive energy, can never be part of a hull."""
    order = np.argsort(energies, kind="stable")
    order = order[energies[order] <= 0]
    _, first = np.unique(fractions[order].round(9), axis=0, return_index=True)
    keep = np.sort(order[first])
    fractions, energies, names = fractions[keep], energies[keep], names[keep]
    systems = defaultdict(list)
    for i, row in enumerate(fractions):
        systems[tuple(np.flatnonzero(row).tolist())].append(i)
    return Hull(fractions, energies, names, {k: np.array(v) for k, v in systems.items()}, level, source)


def vertices(hull: Hull) -> Hull:
    """The hull without the entries inside it: the same answers from fewer entries (of MP-20's 36,465, 22,992)."""
    below, _ = hull_energy(hull.fractions, hull)
    keep = hull.energies <= below + 1e-9
    return _lowest(hull.fractions[keep], hull.energies[keep], hull.names[keep], hull.level, hull.source)


def traced(hull: Hull, *, level: Level, **options) -> HullTable:
    """The hull inside `jit` for energies of this level, others are an error; options of `physics.hull.traced.table`."""
    from crysjax.physics.hull.traced import table

    _same_level("traced", level, hull)
    thin = vertices(hull)
    return table(thin.fractions, thin.energies, **options)


def _same_level(where: str, level: Level, hull: Hull) -> None:
    for what, of_energies, of_hull in zip(Level._fields, level, hull.level):
        if of_energies != of_hull:
            raise ValueError(f"{where}: {what} {of_energies!r} of the energies, {of_hull!r} of the hull")


# Asking it


def energy_above_hull(compositions: np.ndarray, energies: np.ndarray, hull: Hull, *, level: Level) -> np.ndarray:
    """Energy above the hull in eV/atom of formation energies (m,) at compositions (m, NUM_SPECIES): (m,).

    Negative where a composition lies below all that is known (pymatgen's `allow_negative`). NaN where an element has
    no entry in the hull or the energy is not finite; `stability` says which. `level` is that of the energies: another
    than the hull's is a ValueError.
    """
    return stability(compositions, energies, hull, level=level).above


def stability(compositions: np.ndarray, energies: np.ndarray, hull: Hull, *, level: Level) -> Stability:
    """`energy_above_hull` with the hull energy, and the reason for every NaN."""
    _same_level("energy_above_hull", level, hull)
    energies = np.asarray(energies, np.float64)
    if energies.shape != (len(compositions),):
        raise ValueError(f"energy_above_hull: {len(compositions)} compositions, but energies of shape {energies.shape}")
    below, reason = hull_energy(compositions, hull)
    reason = np.where((reason == "") & ~np.isfinite(energies), "the energy is not finite", reason)
    return Stability(np.where(reason == "", energies - below, np.nan), below, reason)


def hull_energy(compositions: np.ndarray, hull: Hull) -> tuple[np.ndarray, np.ndarray]:
    """Energy in eV/atom of the hull at each composition, and the reason where it is NaN: (m,), (m,) str."""
    fractions = _fractions(compositions, "hull_energy")
    known = np.zeros(NUM_SPECIES, bool)
    known[[i for system in hull.systems for i in system]] = True
    unknown = (fractions > 0) & ~known
    reason = np.array([f"no entry of {', '.join(SYMBOLS[i] for i in np.flatnonzero(row))} in the hull" if row.any()
                       else "" for row in unknown], dtype=object).astype(str)  # fmt: skip
    energy = np.full(len(fractions), np.nan)
    asked = np.flatnonzero(~unknown.any(1))
    if len(asked):
        unique, inverse = np.unique(fractions[asked], axis=0, return_inverse=True)
        energy[asked] = _of_known(unique, hull)[inverse.ravel()]
    return energy, reason


def _of_known(fractions: np.ndarray, hull: Hull) -> np.ndarray:
    """Hull energies of compositions (m, NUM_SPECIES) whose elements are all known."""
    members = defaultdict(list)
    for i, row in enumerate(fractions):
        members[tuple(np.flatnonzero(row).tolist())].append(i)
    energy = np.empty(len(fractions))
    targets, columns, costs, order = [], [], [], []
    for system, rows in members.items():
        found, elements = _competing(system, hull), list(system)
        columns += [hull.fractions[np.ix_(found, elements)].T] * len(rows)
        costs += [hull.energies[found]] * len(rows)
        targets += list(fractions[np.ix_(rows, elements)])
        order += rows
    energy[order] = least_energies(targets, columns, costs)
    return energy


def _competing(system: tuple[int, ...], hull: Hull) -> np.ndarray:
    """Entries of a chemical system and of all its sub-systems."""
    if len(system) > _MOST_ELEMENTS:
        inside = [rows for parts, rows in hull.systems.items() if set(parts) <= set(system)]
    else:
        parts = (part for size in range(1, len(system) + 1) for part in combinations(system, size))
        inside = [hull.systems[part] for part in parts if part in hull.systems]
    return np.concatenate(inside)


def compounds_around(compositions: np.ndarray, hull: Hull) -> np.ndarray:
    """Entries of the hull in the chemical system of each composition or below it, pure elements left out: (m,) int."""
    fractions, count = _fractions(compositions, "compounds_around"), {}
    systems = [tuple(np.flatnonzero(row).tolist()) for row in fractions]
    for system in set(systems):
        inside = [rows for parts, rows in hull.systems.items() if len(parts) > 1 and set(parts) <= set(system)]
        count[system] = len(hull.systems.get(system, ())) if len(system) == 1 else sum(map(len, inside))
    return np.array([count[system] for system in systems], int)


def is_stable(above: np.ndarray, *, margin_ev_per_atom: float = METASTABLE_EV_PER_ATOM) -> np.ndarray:
    """Whether each energy above the hull (m,) is within the margin; NaN is not. Strict stability has the margin 0."""
    return np.asarray(above) <= margin_ev_per_atom + ROUNDING_EV_PER_ATOM


def _fractions(compositions: np.ndarray, where: str) -> np.ndarray:
    """Atomic fractions of checked compositions: (m, NUM_SPECIES)."""
    counts = np.asarray(compositions, np.float64)
    if counts.ndim != 2 or counts.shape[1] != NUM_SPECIES:
        raise ValueError(f"{where}: compositions of shape {counts.shape}, expected (m, {NUM_SPECIES})")
    wrong = ~np.isfinite(counts).all(1) | (counts < 0).any(1) | (counts.sum(1) <= 0)
    if wrong.any():
        raise ValueError(f"{where}: composition {int(wrong.argmax())} has negative, infinite or no amounts")
    return counts / counts.sum(1, keepdims=True)
