"""Descriptions of one crystal in the standard setting of its group, and the one that stands for all of them.

A space group says where its symmetry elements lie, not which of several equivalent ones is the origin: rock salt has
its lighter element on position a or on b, and a polar group may have its origin anywhere along its axis. The motions
that map a group onto itself, its Euclidean normalizer (International Tables A, chapter 3.5), lead from one description
to the others. Here are the rotations (no mirror images) among the symmetries of the conventional axes, each with every
translation by a whole number of 24ths, and the directions in which the origin is free. Other choices of a triclinic or
monoclinic cell are not among them.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations, product
from typing import NamedTuple

import numpy as np

from crysjax.geometry.symmetry import DENOMINATOR, MAX_LETTERS, table

_SAME = 1e-6


class Normalizer(NamedTuple):
    """The motions `x' = P x + t` of conventional fractions that map a group onto itself, one of each coset of it."""

    rotations: np.ndarray  # (k, 3, 3) P; the first motion is the identity
    translations: np.ndarray  # (k, 3) t
    letters: np.ndarray  # (k, 27) int: the position that each position becomes, -1 = no such position
    polar: np.ndarray  # (3,) bool: the directions along which the origin is free


@lru_cache(maxsize=230)
def normalizer(group: int) -> Normalizer:
    """The normalizer of a space group number, see above."""
    t = table()
    order, cells = t.operations[group], t.centering[group]
    rotations, shifts = t.rotations[group][:order], t.translations[group][:order]
    lattice = t.centerings[group][:cells]
    polar = (np.abs(rotations - np.eye(3)).max(0) < _SAME).all(0)
    motions: list[tuple[np.ndarray, np.ndarray]] = []
    known: set[tuple] = set()
    for p in _axes(int(t.system[group])):
        for shift in _translations(p, rotations, shifts, lattice, polar):
            if _name(p, shift, lattice) not in known:
                motions.append((p, shift))
                known |= {_name(w @ p, w @ shift + v, lattice) for w, v in zip(rotations, shifts)}
    turned, moved = (np.array(part) for part in zip(*motions))
    letters = np.stack([_letters(group, p, shift, lattice) for p, shift in motions])
    return Normalizer(turned, moved, letters, polar)


@lru_cache(maxsize=7)
def _axes(system: int) -> list[np.ndarray]:
    """The rotations that the conventional axes of a crystal system may have, the identity first."""
    if system <= 1:
        return [np.eye(3)]
    signed = [np.eye(3)[list(p)] * np.array(s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
    if system in (4, 5):
        sixth, turn = np.array([[1, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
        signed = [np.linalg.matrix_power(sixth, k) @ f for f in (np.eye(3), turn) for k in range(6)]
    proper = [p for p in signed if np.linalg.det(p) > 0]
    if system == 3:  # tetragonal: c stays where it is
        proper = [p for p in proper if p[2, 2] != 0]
    return sorted(proper, key=lambda p: np.abs(p - np.eye(3)).sum())


def _translations(
    p: np.ndarray, rotations: np.ndarray, shifts: np.ndarray, lattice: np.ndarray, polar: np.ndarray
) -> np.ndarray:
    """Every t, (k, 3) in the cell, with which `p` maps the group onto itself; 0 along the polar directions."""
    if not all(_in_lattice(p @ c, lattice) for c in lattice):
        return np.zeros((0, 3))
    steps = [np.zeros(1) if free else np.arange(DENOMINATOR) / DENOMINATOR for free in polar]
    grid = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    for w, v in zip(rotations, shifts):
        image = np.flatnonzero((np.abs(rotations - p @ w @ np.linalg.inv(p)).max((-1, -2))) < _SAME)
        if not len(image):
            return np.zeros((0, 3))
        # (p, t) (w, v) = (w', v') (p, t), up to the lattice
        off = grid + p @ v - grid @ rotations[image[0]].T - shifts[image[0]]
        grid = grid[_in_lattice(off, lattice)]
    return grid


def _in_lattice(x: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Whether vectors (..., 3) are lattice vectors: (...) bool."""
    off = x[..., None, :] - lattice
    return (np.abs(off - np.round(off)).max(-1) < _SAME).any(-1)


def _name(p: np.ndarray, shift: np.ndarray, lattice: np.ndarray) -> tuple:
    """A name of a motion that is the same for all motions that differ by a lattice vector."""
    moved = np.round((shift + lattice) * DENOMINATOR).astype(int) % DENOMINATOR
    return tuple(np.round(p).astype(int).ravel().tolist()), min(map(tuple, moved.tolist()))


def _letters(group: int, p: np.ndarray, shift: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """The position that each position becomes: (27,) int."""
    t, found = table(), np.full(MAX_LETTERS, -1)
    sites = t.sites[group]
    generic = np.array([0.1234, 0.3217, 0.4539])
    for letter in np.flatnonzero(sites):
        here = t.linear[group, letter] @ (generic * t.free[group, letter]) + t.offset[group, letter]
        alike = np.flatnonzero((sites == sites[letter]) & (t.free[group].sum(-1) == t.free[group, letter].sum()))
        found[letter] = next(k for k in alike if _on(group, k, p @ here + shift, lattice))
    return found


def _on(group: int, letter: int, x: np.ndarray, lattice: np.ndarray) -> bool:
    """Whether a site lies on one of the sites of a position."""
    t = table()
    of = t.orbits[group, letter][: t.sites[group, letter]]
    inverse = np.linalg.inv(t.rotations[group][of])
    back = np.einsum("kij,kj->ki", inverse, x - t.translations[group][of])
    off = (back[:, None] + lattice - t.offset[group, letter])[:, :, None] + _NEAR
    u = np.einsum("ij,...j->...i", t.solve[group, letter], off)
    rest = off - np.einsum("ij,...j->...i", t.linear[group, letter], u)
    return bool((np.abs(rest).max(-1) < _SAME).any())


_NEAR = np.array(list(product((-2, -1, 0, 1, 2), repeat=3)), float)
