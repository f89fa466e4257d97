"""Which compositions meet a constraint at all: exact, on the host, before anything is sampled.

A composition assigns every element a number of atoms and, for neutrality, one oxidation state. Going through the
elements one by one, the reachable (atoms so far, elements so far, charge so far) are a small set of whole numbers, so
existence is a dynamic program and not a search; going back through it yields a composition as a witness.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crysjax.base import NUM_SPECIES

States = dict[int, tuple[int, ...]]
"""Oxidation states by atomic number."""


class Witness(NamedTuple):
    """One composition that meets the constraint for each number of atoms and of elements. Host arrays.

    Without a constraint on the number of elements the second axis has the length 1.
    """

    possible: np.ndarray  # (N + 1, M + 1) bool
    elements: np.ndarray  # (N + 1, M + 1, s) bool
    charge: np.ndarray  # (N + 1, M + 1, s) int32


def feasible(
    sizes: list[int],
    allowed: list[int],
    *,
    num_elements: tuple[int, int] | None = None,
    states: States | None = None,
    at_least: dict[int, int] | None = None,
) -> Witness:
    """A witness for each of the sizes, wherever there is one.

    Args:
        sizes: numbers of atoms.
        allowed: atomic numbers that may appear; with `states` they all have to have some.
        num_elements: smallest and largest number of different elements; `None` = any.
        states: the composition has to be neutral with one state per element; `None` = no matter.
        at_least: atoms of each element that are there in any case (a fixed part).
    """
    low, high = num_elements or (0, 0)
    layers, moves = _reachable(max(sizes), high, allowed, states, at_least or {}, counted=num_elements is not None)
    zero = layers[-1].shape[2] // 2
    shape = (max(sizes) + 1, high + 1)
    found = Witness(np.zeros(shape, bool), np.zeros((*shape, NUM_SPECIES), bool), np.zeros((*shape, NUM_SPECIES), int))
    for n in set(sizes):
        for m in range(low, high + 1):
            if layers[-1][n, m, zero]:
                found.possible[n, m] = True
                for z, q in _trace(layers, moves, allowed, (n, m, zero)):
                    found.elements[n, m, z - 1], found.charge[n, m, z - 1] = True, q
    return found._replace(charge=found.charge.astype(np.int32))


def _reachable(most: int, high: int, allowed: list[int], states: States | None, at_least: dict, *, counted: bool):
    """For each element in turn, what can be reached with the elements up to it, and the moves that it allows.

    A move is (atoms, elements, charge) added, with the state; the first move of an element is its absence.
    """
    largest = max((abs(q) for z in allowed for q in states[z]), default=0) if states else 0
    layer = np.zeros((most + 1, high + 1, 2 * most * largest + 1), bool)
    layer[0, 0, most * largest] = True
    layers, moves = [layer], []
    for z in allowed:
        fixed = at_least.get(z, 0)
        here = [(0, 0, 0, 0)] if not fixed else []
        for q in states[z] if states else (0,):
            here += [(c, int(counted), c * q, q) for c in range(max(fixed, 1), most + 1)]
        layer = np.zeros_like(layers[-1])
        for atoms, more, charge, _ in here:
            _add(layer, layers[-1], atoms, more, charge)
        layers.append(layer)
        moves.append(here)
    return layers, moves


def _add(to: np.ndarray, of: np.ndarray, atoms: int, more: int, charge: int) -> None:
    """`to[n + atoms, m + more, q + charge] |= of[n, m, q]` wherever that is inside."""
    width, left, right = of.shape[2], max(charge, 0), max(-charge, 0)
    if more < of.shape[1] and abs(charge) < width:
        source = of[: of.shape[0] - atoms, : of.shape[1] - more, right : width - left]
        to[atoms:, more:, left : width - right] |= source


def _trace(layers: list, moves: list, allowed: list[int], end: tuple[int, int, int]) -> list[tuple[int, int]]:
    """The elements, with their states, of one way to `end`."""
    n, m, q = end
    used = []
    for k in range(len(allowed), 0, -1):
        moved = ((n - atoms, m - more, q - charge, state) for atoms, more, charge, state in moves[k - 1])
        left, m, q, state = next(move for move in moved if _reached(layers[k - 1], *move[:3]))
        if left < n:
            used.append((allowed[k - 1], state))
        n = left
    return used


def _reached(layer: np.ndarray, n: int, m: int, q: int) -> bool:
    return n >= 0 and m >= 0 and 0 <= q < layer.shape[2] and bool(layer[n, m, q])


def neutral(counts: dict[int, int], states: States, *, mixed_valence: bool = False) -> bool:
    """Whether the charges of a composition can add up to zero: one state per element, or with `mixed_valence` one per
    atom (Fe3O4 is neutral with Fe 2+ and 3+). An element without states is never neutral."""
    reach = {0}
    for z, count in counts.items():
        if mixed_valence:
            for _ in range(count):
                reach = {total + q for total in reach for q in states.get(z, ())}
        else:
            reach = {total + count * q for total in reach for q in states.get(z, ())}
    return 0 in reach
