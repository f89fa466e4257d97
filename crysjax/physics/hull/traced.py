"""Distance to the convex hull of known formation energies, inside `jit`, `vmap` and `grad`.

The hull energy of a composition x is min c.w over w >= 0 with C w = x, the columns of C being the atomic fractions of
the entries of the chemical system and of all its sub-systems (Ong et al. 2008; `physics.hull.hull` on the host). A
table keeps entries sorted by chemical system; a composition looks up its sub-systems by their hash and gathers few
entries out of all. What is left is a small linear program, solved by the revised simplex method from the pure elements.

By the envelope theorem the derivative with respect to x are the dual prices at the optimum, the chemical potentials:
exact wherever the hull is smooth, which is almost everywhere, and one of the supporting planes where it has an edge.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Crystal, Estimate
from crysjax.chemistry.elements import SYMBOLS
from crysjax.physics.hull.traced_simplex import least_energy


class HullTable(NamedTuple):
    """A hull on the device: `e` entries of two to `d` elements each, sorted by chemical system, of which there are `s`.

    The width of `parts` is the largest number of elements, the length of `slots` the largest number of entries, that
    one composition may have to do with.
    """

    parts: Array  # (e, d) atomic fractions of the elements of an entry, by atomic number
    energies: Array  # (e,) formation energies in eV/atom
    pure: Array  # (NUM_SPECIES,) energies of the elements in eV/atom
    known: Array  # (NUM_SPECIES,) bool: elements of the hull
    elements: Array  # (n,) int32 columns of the elements of the hull
    keys: Array  # (s,) uint32 hash of each system, sorted
    systems: Array  # (s, d) int32 elements of each system, NUM_SPECIES where there are fewer
    first: Array  # (s,) int32 its first entry
    count: Array  # (s,) int32 how many entries
    words: Array  # (NUM_SPECIES + 1,) uint32: the hash of a system is the sum of its elements' words
    slots: Array  # (k,) int32 0, 1, ..., k - 1


# Making a table


def table(
    fractions: np.ndarray, energies: np.ndarray, *, elements: tuple[str, ...] = (), max_elements: int = 6,
    most_entries: int = 128,
) -> HullTable:  # fmt: skip
    """A table of the entries of a hull: atomic fractions (e, NUM_SPECIES), formation energies (e,) in eV/atom.

    Every element that occurs has a reference of energy 0, or lower where an entry says so. Entries of positive energy
    or of more than `max_elements` elements are left out: they never compete. `physics.hull.hull.vertices` leaves out
    those inside the hull beforehand, which answers the same, faster.

    Args:
        elements: symbols to keep, such as those of a campaign; all that occur if empty. With at most `max_elements`
            of them nothing else is ever gathered, and derivatives towards absent elements are known (`hull_energy`).
        max_elements: of a composition that may be asked about.
        most_entries: competing entries of a composition. MP-20's vertices have 87 in the richest system of six
            elements that a greedy search finds; with the entries inside the hull it is 266.

    Raises:
        ValueError: shapes do not fit, numbers are not finite, an element does not occur, a system has too many entries.
    """
    fractions, energies = _checked(fractions, energies)
    occurring = fractions.any(0)
    wanted = _columns(elements, occurring) if elements else np.flatnonzero(occurring)
    outside = np.delete(fractions, wanted, axis=1).any(1)
    size = (fractions > 0).sum(1)
    pure = np.zeros(NUM_SPECIES)
    np.minimum.at(pure, fractions[size == 1].argmax(1), energies[size == 1])
    keep = (size > 1) & (size <= max_elements) & (energies <= 0) & ~outside
    members, parts, energies = _sorted(fractions[keep], energies[keep], max_elements)
    systems, first, count = np.unique(members, axis=0, return_index=True, return_counts=True)
    words = _words(systems)
    keys = words[systems].sum(1, dtype=np.uint32)
    order = np.argsort(keys)
    k = _slots(systems, count, len(wanted) <= max_elements, most_entries)
    whole = (wanted, systems[order], first[order], count[order], np.arange(k))
    wanted, systems, first, count, slots = (jnp.asarray(array, jnp.int32) for array in whole)
    known = jnp.zeros(NUM_SPECIES, bool).at[wanted].set(True)
    return HullTable(jnp.asarray(parts), jnp.asarray(energies), jnp.asarray(pure), known, wanted,
                 jnp.asarray(keys[order]), systems, first, count, jnp.asarray(words), slots)  # fmt: skip


def _checked(fractions: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fractions, energies = np.asarray(fractions, np.float64), np.asarray(energies, np.float64)
    if fractions.ndim != 2 or fractions.shape[1] != NUM_SPECIES or energies.shape != fractions.shape[:1]:
        expected = f"(e, {NUM_SPECIES}) and (e,)"
        raise ValueError(f"table: fractions {fractions.shape}, energies {energies.shape}; expected {expected}")
    bad = ~np.isfinite(fractions).all(1) | (fractions < 0).any(1) | ~fractions.any(1) | ~np.isfinite(energies)
    if bad.any():
        raise ValueError(f"table: entry {bad.argmax()} has negative, infinite or no amounts, or no finite energy")
    return fractions / fractions.sum(1, keepdims=True), energies


def _columns(elements: tuple[str, ...], occurring: np.ndarray) -> np.ndarray:
    missing = [symbol for symbol in elements if symbol not in SYMBOLS or not occurring[SYMBOLS.index(symbol)]]
    if missing:
        raise ValueError(f"table: no entry of {', '.join(missing)} in the hull")
    return np.unique([SYMBOLS.index(symbol) for symbol in elements])


def _sorted(fractions: np.ndarray, energies: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elements (e, d) of each entry, NUM_SPECIES behind the last, their fractions (e, d), and energies, by system."""
    if not len(fractions):  # elements alone: one entry of no system, so that no array is empty
        return np.full((1, d), NUM_SPECIES), np.zeros((1, d)), np.zeros(1)
    columns = np.where(fractions > 0, np.arange(NUM_SPECIES), NUM_SPECIES)
    members = np.sort(columns, axis=1)[:, :d]
    order = np.lexsort(members.T[::-1])
    members = members[order]
    parts = np.take_along_axis(np.pad(fractions, ((0, 0), (0, 1)))[order], members, 1)
    return members, parts, energies[order]


def _words(systems: np.ndarray) -> np.ndarray:
    """One random word per element so that no two systems of the table have the same sum."""
    for seed in range(100):
        words = np.random.default_rng(seed).integers(0, 1 << 32, NUM_SPECIES + 1, dtype=np.uint32)
        words[NUM_SPECIES] = 0
        if len(np.unique(words[systems].sum(1, dtype=np.uint32))) == len(systems):
            return words
    raise ValueError(f"table: {len(systems)} chemical systems are more than the hash can tell apart")


def _slots(systems: np.ndarray, count: np.ndarray, all_at_once: bool, most_entries: int) -> int:
    """Entries to gather a composition: all of a small table; else `most_entries`, if each system itself fits."""
    if all_at_once:
        return max(int(count.sum()), 1)
    number = dict(zip(map(tuple, systems.tolist()), count.tolist()))
    for system in number:
        real = [i for i in system if i < NUM_SPECIES]
        parts = (part for size in range(2, len(real) + 1) for part in combinations(real, size))
        total = sum(number.get(part + (NUM_SPECIES,) * (len(system) - len(part)), 0) for part in parts)
        if total > most_entries:
            name = "-".join(SYMBOLS[i] for i in real)
            raise ValueError(f"table: {total} entries compete in {name}; most_entries is {most_entries}")
    return most_entries


# Asking it


def hull_energy(fractions: Array, table: HullTable) -> tuple[Array, Array]:
    """Energy of the hull in eV/atom at a composition, and whether it is known: (NUM_SPECIES,) -> (), () bool.

    `fractions` may be atom counts. Not known, and 0: no atoms, negative or infinite amounts, an element that the hull
    does not have, more than `max_elements` elements, more competing entries than the table has slots for, or a
    program that does not end. In float32 it is off by up to 1e-6 eV/atom (measured in `benchmarks/README.md`).

    The derivative is exact almost everywhere. Towards an absent element it is one-sided: where the whole table has at
    most `max_elements` elements it is the right one, adding a little of the element; else entries with the element
    are not looked at, and the derivative is that of adding it as the pure element, an upper bound.
    """
    dtype = fractions.dtype
    amounts = fractions.astype(table.energies.dtype)
    elements = _elements(jax.lax.stop_gradient(amounts), table)
    present = amounts > 0
    inside = jnp.zeros(NUM_SPECIES + 1, bool).at[elements].set(True)[:NUM_SPECIES] & table.known
    good = jnp.isfinite(amounts).all() & (amounts >= 0).all() & present.any() & (inside | ~present).all()
    alone = jnp.zeros_like(amounts).at[table.elements[0]].set(1)
    amounts = jnp.where(good, amounts, alone)
    x = amounts / amounts.sum()
    x = jnp.append(x, jnp.zeros(1, x.dtype))[elements]
    columns, costs, fits = _competing(elements, table)
    found = jax.lax.stop_gradient(least_energy(jax.lax.stop_gradient(x), columns, costs))
    valid = good & fits & found.ended
    # the dual prices are the derivative; the program itself is never differentiated
    value = found.value + (found.price * (x - jax.lax.stop_gradient(x))).sum()
    return jnp.where(valid, value, 0).astype(dtype), valid


def energy_above_hull(fractions: Array, energy: Array, table: HullTable) -> Estimate:
    """Energy above the hull in eV/atom of a formation energy () at a composition (NUM_SPECIES,).

    Negative below the hull. Differentiable with respect to both; `std` is 0, for the hull is taken as exact. The
    energy must be of the hull's own level of theory, which nothing here can check (`physics.hull.hull.Level` does).
    """
    below, known = hull_energy(fractions, table)
    valid = known & jnp.isfinite(energy)
    return Estimate(jnp.where(valid, jnp.where(valid, energy, 0) - below, 0), jnp.zeros_like(below), valid)


def above_hull(energy: Callable[[Crystal], Estimate], table: HullTable) -> Callable[[Crystal], Estimate]:
    """Energy above the hull in eV/atom of one crystal. `energy` answers its formation energy in eV/atom."""

    def above(crystal: Crystal) -> Estimate:
        said = energy(crystal)
        found = energy_above_hull(crystal.occupancy.sum(0), said.value, table)
        return Estimate(found.value, jnp.where(said.valid, said.std, 0), found.valid & said.valid)

    return above


def _elements(amounts: Array, table: HullTable) -> Array:
    """The elements to look at in order of atomic number, NUM_SPECIES behind the last: (d,) int32."""
    d = table.parts.shape[1]
    if len(table.elements) <= d:
        return jnp.pad(table.elements, (0, d - len(table.elements)), constant_values=NUM_SPECIES)
    largest, columns = jax.lax.top_k(amounts, d)
    return jnp.sort(jnp.where(largest > 0, columns, NUM_SPECIES).astype(jnp.int32))


def _competing(elements: Array, table: HullTable) -> tuple[Array, Array, Array]:
    """Columns (d + k, d) and costs (d + k,) of the pure elements and of entries, and whether the slots were enough."""
    d = len(elements)
    order, rank = _sub_systems(d)
    asked = jnp.append(elements, jnp.int32(NUM_SPECIES))[order]  # (subsets, d)
    place = jnp.searchsorted(table.keys, table.words[asked].sum(1, dtype=jnp.uint32))
    place = jnp.minimum(place, len(table.keys) - 1)
    # another system may share the hash, and subsets with absent elements are smaller ones under another name
    same = (table.systems[place] == asked).all(1) & ((asked < NUM_SPECIES) == (order < d)).all(1)
    count = jnp.where(same, table.count[place], 0)
    ends = jnp.cumsum(count)
    subset = jnp.minimum((ends[None, :] <= table.slots[:, None]).sum(1), len(ends) - 1)
    used = table.slots < ends[-1]
    entry = jnp.where(used, (table.first[place] - ends + count)[subset] + table.slots, 0)
    parts = jnp.pad(table.parts[entry], ((0, 0), (0, 1)))
    columns = jnp.where(used[:, None], jnp.take_along_axis(parts, rank[subset], 1), 0)
    costs = jnp.where(used, table.energies[entry], jnp.inf)
    pure = jnp.append(table.pure, jnp.zeros(1, table.pure.dtype))[elements]
    whole = jnp.concatenate([jnp.eye(d, dtype=columns.dtype), columns]), jnp.concatenate([pure, costs])
    return *whole, ends[-1] <= len(table.slots)


def _sub_systems(d: int) -> tuple[Array, Array]:
    """Of every subset of two or more of `d` places: its places in order, and each place's rank in it; `d` = none."""
    subsets = [part for size in range(2, d + 1) for part in combinations(range(d), size)]
    order = np.array([part + (d,) * (d - len(part)) for part in subsets], np.int32)
    rank = np.array([[part.index(i) if i in part else d for i in range(d)] for part in subsets], np.int32)
    return jnp.asarray(order), jnp.asarray(rank)
