"""The Cartesian frame of an elastic tensor: fixed by the crystal, not by how its cell is described or turned.

Axes follow IEEE Std 176-1987, section 3.2 (as in de Jong et al., Sci. Data 2, 150009 (2015)), from the conventional
cell that spglib finds. Where that leaves several choices with different tensors (the senses of axes, which it ties to
piezoelectric constants, and axes of equal length), the tensor decides: of C11, C22, C33, C44, C55, C66, C12, C13, C23,
C14 and so on, the first that differs is the largest. It also decides between axes that only symmetry makes alike, which
a relaxed crystal has to a tolerance alone.
"""

from __future__ import annotations

import itertools
import os
from typing import NamedTuple

import numpy as np

from crysjax.crystallography import symmetry_finder
from crysjax.data.datasets import Entry
from crysjax.geometry.soundness import NOT_FINITE

EQUAL = 1e-3  # relative: lengths, and cosines of angles, that are taken for equal
RELAXED_ANGSTROM = 0.03  # spglib's tolerance: what a relaxation to 0.01 eV/Å may leave
SAME = 1e-3  # of the largest component: what single precision and an incomplete relaxation leave
_PAIRS = np.array([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)])
_ORDER = [(k, k) for k in range(6)] + [(0, 1), (0, 2), (1, 2)]
_ORDER += [(i, j) for i in range(6) for j in range(max(i + 1, 3), 6)]
RULES = {
    "cubic": "x1, x2, x3 along the axes of the cube",
    "tetragonal": "x3 along the fourfold axis c, x1 along a",
    "orthorhombic": "x3, x1, x2 along c < a < b",
    "hexagonal": "x3 along the sixfold axis c, x1 along a",
    "trigonal": "x3 along the threefold axis c, x1 along a of the hexagonal cell",
    "monoclinic": "x2 along the twofold axis b, x3 along c, with c < a and an obtuse angle between them",
    "triclinic": "x3 along c, x2 normal to a and c, with c < a < b and obtuse angles of a and b with c",
    "": "the Cartesian frame of the relaxed structure, for spglib finds no symmetry",
}
"""What the frame is, by crystal system."""


class Frame(NamedTuple):
    """Where x1, x2 and x3 lie."""

    system: str  # a key of `RULES`
    axes: np.ndarray  # (k, 3, 3) rows x1, x2, x3 in the Cartesian frame of the crystal: all that the rules allow


def frame(crystal: Entry, *, tolerance_angstrom: float = RELAXED_ANGSTROM) -> Frame:
    """The frames of a crystal that the standard's rules on its axes allow; `chosen` takes one of them."""
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # its C library prints what the answer says anyway
    lattice = np.asarray(crystal.lattice, float)
    if not (np.isfinite(lattice).all() and np.isfinite(crystal.frac).all()):  # spglib would crash on them
        raise ValueError(f"{crystal.id or 'crystal'}: {NOT_FINITE}")
    cell = (lattice, np.asarray(crystal.frac, float), np.asarray(crystal.numbers, int))
    found, _ = symmetry_finder.ask("get_symmetry_dataset", cell, tolerance_angstrom)
    if found is None:
        return Frame("", np.eye(3)[None])
    system = _system(found.number)
    conventional = (lattice.T @ np.linalg.inv(found.transformation_matrix)).T
    turns, axes = _TURNS.get(system, np.eye(3)[None]), np.stack(_AXES[system](conventional))
    return Frame(system, (turns[:, None] @ axes[None]).reshape(-1, 3, 3))


def _system(number: int) -> str:
    """The crystal system of a space group."""
    ends = {2: "triclinic", 15: "monoclinic", 74: "orthorhombic", 142: "tetragonal", 167: "trigonal", 194: "hexagonal"}
    return next((name for last, name in ends.items() if number <= last), "cubic")


def _right_handed(third: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Rows x1, x2, x3 with x3 along `third` and x1 along what of `first` is normal to it."""
    x3 = third / np.linalg.norm(third)
    x1 = first - (first @ x3) * x3
    x1 = x1 / np.linalg.norm(x1)
    return np.stack([x1, np.cross(x3, x1), x3])


def _by_length(vectors: np.ndarray) -> list[np.ndarray]:
    """All orders of vectors by rising length, several where lengths are equal."""
    length = np.linalg.norm(vectors, axis=-1)
    orders = (np.array(p) for p in itertools.permutations(range(len(vectors))))
    return [vectors[p] for p in orders if (np.diff(length[p]) >= -EQUAL * length.max()).all()]


def _along_axes(cell: np.ndarray) -> list[np.ndarray]:
    return [_right_handed(cell[2], cell[0])]


def _sorted_axes(cell: np.ndarray) -> list[np.ndarray]:
    return [_right_handed(c, a) for c, a, _ in _by_length(cell)]


def _about_b(cell: np.ndarray) -> list[np.ndarray]:
    """c and a are the shortest vectors normal to b; the twofold axis makes the sense of both together free."""
    a, b, c = cell
    for _ in range(64):  # Gauss's reduction of the plane
        if a @ a < c @ c:
            a, c = c, a
        n = np.round(a @ c / (c @ c))
        if n == 0:
            break
        a = a - n * c
    frames = []
    for short, longer in _by_length(np.stack([c, a])):
        for second in _obtuse(short, longer):
            x2 = np.sign(b @ np.cross(short, second)) * b
            frames.append(_right_handed(short, np.cross(x2, short)))
    return frames


def _reduced_axes(cell: np.ndarray) -> list[np.ndarray]:
    """Two angles with c are obtuse, and a, b, c are right-handed; all three together may be inverted."""
    frames = []
    for c, a, b in _by_length(cell):
        for second, third in itertools.product(_obtuse(c, a), _obtuse(c, b)):
            sense = np.sign(third @ np.cross(c, second))
            frames.append(_right_handed(sense * c, sense * second))
    return frames


def _obtuse(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """The sense of `second` that makes the angle obtuse, both where it is a right one."""
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    return [second, -second] if abs(cosine) < EQUAL else [second if cosine < 0 else -second]


_AXES = {
    "cubic": _along_axes, "tetragonal": _along_axes, "orthorhombic": _sorted_axes, "hexagonal": _along_axes,
    "trigonal": _along_axes, "monoclinic": _about_b, "triclinic": _reduced_axes,
}  # fmt: skip


def _about_c(fold: int) -> np.ndarray:
    """Rotations about x3 and about axes normal to it."""
    angles = 2 * np.pi * np.arange(fold) / fold
    turns = [np.array([[np.cos(t), np.sin(t), 0], [-np.sin(t), np.cos(t), 0], [0, 0, 1]]) for t in angles]
    return np.stack([*turns, *(np.diag([1.0, -1.0, -1.0]) @ turn for turn in turns)])


_SIGNED = [
    np.eye(3)[list(p)] * s
    for p in itertools.permutations(range(3))
    for s in np.indices((2,) * 3).reshape(3, -1).T * 2 - 1
]
_TURNS = {
    "cubic": np.stack([turn for turn in _SIGNED if np.linalg.det(turn) > 0]), "tetragonal": _about_c(4),
    "orthorhombic": _about_c(2), "hexagonal": _about_c(6), "trigonal": _about_c(6),
    "monoclinic": np.stack([np.eye(3), np.diag([-1.0, 1.0, -1.0])]),
}  # fmt: skip
"""Rotations of the lattice: they leave the rules true, and the tensor too where the symmetry is exact and full."""


def chosen(tensor: np.ndarray, found: Frame) -> np.ndarray:
    """The axes (3, 3), rows x1, x2, x3, of the allowed frame in which the tensor (6, 6) comes first; see the module."""
    turned = np.stack([turn_stiffness(tensor, axes) for axes in found.axes])
    left, slack = np.arange(len(turned)), SAME * np.abs(tensor).max()
    for i, j in _ORDER:
        value = turned[left, i, j]
        left = left[value >= value.max() - slack]
    return found.axes[left[0]]


def turn_stiffness(tensor: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """A stiffness (6, 6) in Voigt's notation along other axes, rows in the old frame."""
    i, j = _PAIRS.T
    voigt = np.zeros((3, 3), int)
    voigt[i, j] = voigt[j, i] = np.arange(6)
    full = np.asarray(tensor, float)[voigt[:, :, None, None], voigt[None, None]]
    full = np.einsum("ai,bj,ck,dl,ijkl->abcd", axes, axes, axes, axes, full, optimize=True)
    return full[i[:, None], j[:, None], i[None], j[None]]


def turn_stress(stress: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """A stress (6,) in Voigt's notation along other axes."""
    xx, yy, zz, yz, xz, xy = np.asarray(stress, float)
    full = axes @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ axes.T
    return full[tuple(_PAIRS.T)]
