"""Lattice vibrations in the harmonic approximation: force constants, dynamical matrices, frequencies.

Force constants are exact second derivatives of any energy of displacements, by Hessian-vector products: there is no
step to choose, as finite displacements have, and everything from them on is a differentiable function of them. The
space group says which products are needed; the others follow by rotation. The dynamical matrix has phonopy's
conventions (Togo, Chaput, Tadano, Tanaka, J. Phys. Condens. Matter 35, 353001 (2023)): phases by the positions of
atoms, shares between equally near images. Long-range dipole fields (the splitting of longitudinal and transverse
optical modes of polar crystals at Γ) need Born charges, which a potential does not give: they are not in here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.geometry.supercells import Images, SiteMaps, Supercell, moved, partners
from crysjax.geometry.torus import AROUND

THZ = float(np.sqrt(1.602176634e-19 / 1.66053906660e-27) / 1e-10 / (2 * np.pi) / 1e12)
"""√(eV/(Å² u)) / 2π in THz, 15.633 (CODATA 2018)."""
PER_CM = 1e12 / 2.99792458e10
"""1 THz in cm⁻¹."""
MOST_WAVES = 1_000_000  # of a mesh, both of each pair q and -q counted
WELL_SPANNED = 0.1  # least eigenvalue of the directions' mean projector (1/3 is the most) that counts as spanning
_DIRECTIONS = AROUND[14:].astype(float)  # of each and its opposite one


class Displacements(NamedTuple):
    """Which displacements have to be computed, and how all force constants follow from them. Host arrays."""

    atom: np.ndarray  # (h,) int: the atom of the home cell that moves
    direction: np.ndarray  # (h, 3) unit vector
    row: np.ndarray  # (n, m) int: rows of h that tell of an atom,
    turn: np.ndarray  # (n, m, 3, 3) each turned by this R,
    source: np.ndarray  # (n, m, N) int, supercell atom J of it was this one,
    solve: np.ndarray  # (n, 3, m) and together they give the atom's 3 rows, by least squares


def plan(maps: SiteMaps, cell: Supercell) -> Displacements:
    """The fewest displacements that determine all force constants, by the operations of `maps`.

    One atom of each orbit moves, along as few directions as its site symmetry turns into a basis of space. Every
    operation has its say in the answer, which therefore has the crystal's symmetry up to rounding.
    """
    n = maps.image.shape[1]
    atoms, directions, told = [], [], [[] for _ in range(n)]
    for a in sorted(set(maps.image.min(0).tolist())):
        for direction in _fewest(maps.cartesian[maps.image[:, a] == a]):
            for g, image in enumerate(maps.image[:, a]):
                told[image].append((len(atoms), g))
            atoms.append(a)
            directions.append(direction)
    most = max(map(len, told))
    shape = (n, most)
    row, turn, source = np.zeros(shape, int), np.zeros((*shape, 3, 3)), np.zeros((*shape, len(cell.atom)), int)
    solve = np.zeros((n, 3, most))
    for a, pairs in enumerate(told):
        for k, (r, g) in enumerate(pairs):
            row[a, k], turn[a, k] = r, maps.cartesian[g]
            source[a, k, moved(maps, g, atoms[r], cell)] = np.arange(len(cell.atom))
        solve[a, :, : len(pairs)] = np.linalg.pinv(np.stack([maps.cartesian[g] @ directions[r] for r, g in pairs]))
    return Displacements(np.array(atoms), np.array(directions), row, turn, source, solve)


def _fewest(rotations: np.ndarray) -> np.ndarray:
    """As few directions as possible whose images under the rotations (g, 3, 3) span space well: (1 to 3, 3)."""
    unit = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=-1, keepdims=True)
    turned = np.einsum("gij,dj->dgi", rotations, unit)
    projector = np.einsum("dgi,dgj->dij", turned, turned) / len(rotations)
    for count in (1, 2):
        choices = np.array(list(itertools.combinations(range(len(unit)), count)))
        least = np.linalg.eigvalsh(projector[choices].mean(1))[:, 0]
        if least.max() > WELL_SPANNED:
            return unit[choices[least.argmax()]]
    return np.eye(3)


def tangents(plan: Displacements, sites: int) -> np.ndarray:
    """The plan's displacements as arrays of all sites: (h, sites, 3)."""
    out = np.zeros((len(plan.atom), sites, 3))
    out[np.arange(len(plan.atom)), plan.atom] = plan.direction
    return out


def hessian_rows(energy: Callable[[Array], Array], tangents: Array, *, together: int = 1) -> tuple[Array, Array, Array]:
    """The Hessian at rest times each tangent in eV/Å², the slope there in eV/Å, and the energy in eV.

    `energy` maps displacements (N, 3) in Å to eV; tangents (h, N, 3) -> (h, N, 3), (N, 3), (). Forward over reverse;
    `together` products are computed at once, which takes memory.
    """
    both, rest = jax.value_and_grad(energy), jnp.zeros_like(tangents[0])
    (value, slope), (_, rows) = jax.lax.map(lambda t: jax.jvp(both, (rest,), (t,)), tangents, batch_size=together)
    return rows, slope[0], value[0]


def complete(rows: Array, plan: Displacements) -> Array:
    """All force constants of a primitive cell from the plan's Hessian rows: (h, N, 3) -> (n, N, 3, 3) in eV/Å²."""
    source, row = jnp.asarray(plan.source), jnp.asarray(plan.row)
    told = rows[row[..., None], source]  # (n, m, N, 3)
    told = jnp.einsum("amij,amJj->amJi", jnp.asarray(plan.turn, rows.dtype), told)
    return jnp.einsum("axm,amJy->aJxy", jnp.asarray(plan.solve, rows.dtype), told)


def symmetrized(constants: Array, cell: Supercell) -> Array:
    """Force constants that do not depend on the order of differentiation and on a shift of the whole crystal.

    (n, N, 3, 3) -> the same. The mean over both orders, then `(1 - T) C (1 - T)` with the projector T onto uniform
    shifts: both sum rules hold at once and what they take away is spread evenly, as in phonopy.
    """
    atom, other = (jnp.asarray(x) for x in partners(cell))
    constants = (constants + constants[atom, other].swapaxes(-1, -2)) / 2
    n, every = constants.shape[:2]
    row = constants.sum(1) / every  # (n, 3, 3)
    mean = row.sum(0) / n
    return constants - row[:, None] - row.swapaxes(-1, -2)[jnp.asarray(cell.atom)][None] + mean[None, None]


def force_constants(
    energy: Callable[[Array], Array], cell: Supercell, maps: SiteMaps, *, together: int = 1, dtype=jnp.float32
) -> Array:
    """Force constants (n, N, 3, 3) in eV/Å² of `energy`, a function of the supercell's displacements (N, 3) in Å."""
    todo = plan(maps, cell)
    rows, *_ = hessian_rows(energy, jnp.asarray(tangents(todo, len(cell.atom)), dtype), together=together)
    return symmetrized(complete(rows, todo), cell)


def dynamical_matrix(constants: Array, masses: Array, q: Array, cell: Supercell, images: Images) -> Array:
    """D(q) in eV/(Å² u): (n, N, 3, 3), (n,) in u, q (3,) in reciprocal fractions -> (3n, 3n) complex Hermitian."""
    n, dtype = len(masses), constants.dtype
    phase = 2 * jnp.pi * jnp.asarray(images.vector, dtype) @ q
    weight = jnp.asarray(images.weight, dtype)
    factor = jax.lax.complex((jnp.cos(phase) * weight).sum(-1), (jnp.sin(phase) * weight).sum(-1))  # (n, N)
    terms = factor[..., None, None] * constants.astype(factor.dtype)
    matrix = terms.reshape(n, -1, n, 3, 3).sum(1)  # supercell atoms are listed cell by cell
    root = jnp.sqrt(masses).astype(factor.dtype)
    matrix = (matrix / (root[:, None] * root[None])[..., None, None]).transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
    return (matrix + matrix.conj().T) / 2


def modes(matrix: Array) -> tuple[Array, Array]:
    """Frequencies (3n,) in THz, ascending, imaginary ones as negative numbers; and the eigenvectors in columns.

    Frequencies have the first derivatives of Hellmann and Feynman, degenerate ones as the sum over their space; at
    exactly 0 (acoustic modes at Γ) the derivative is set to 0. Eigenvectors are constants.
    """
    vectors = jax.lax.stop_gradient(jnp.linalg.eigh(matrix)[1])
    square = jnp.einsum("ik,ij,jk->k", vectors.conj(), matrix, vectors).real
    away = jnp.abs(square) > 1e-12
    root = jnp.sqrt(jnp.where(away, jnp.abs(square), 1))
    return jnp.where(away, jnp.sign(square) * root, 0) * THZ, vectors


def frequencies(constants: Array, masses: Array, q: Array, cell: Supercell, images: Images) -> Array:
    """Frequencies in THz at wave vectors (k, 3) in reciprocal fractions: (k, 3n)."""
    return jax.lax.map(lambda one: modes(dynamical_matrix(constants, masses, one, cell, images))[0], q)


def instability(frequencies: Array, weight: Array) -> Array:
    """Mean square of the imaginary frequencies in THz², 0 where there are none: (k, 3n), (k,) -> ().

    It has a slope wherever a mode is unstable, so that it can be a penalty in the design of crystals.
    """
    square = jnp.where(frequencies < 0, frequencies**2, 0)
    return (square * weight[:, None]).sum() / (weight.sum() * frequencies.shape[-1])


def mesh(lattice: np.ndarray, spacing_per_angstrom: float) -> tuple[np.ndarray, np.ndarray]:
    """A Γ-centered mesh of q, one of each pair q and -q, and weights that add up to 1: (k, 3), (k,).

    `spacing_per_angstrom` is the largest step along each reciprocal vector (without 2π).
    """
    if not spacing_per_angstrom > 0:
        raise ValueError(f"spacing_per_angstrom: {spacing_per_angstrom} is not a positive step of the mesh of q")
    lengths = np.linalg.norm(np.linalg.inv(np.asarray(lattice, float)), axis=0)
    size = np.maximum(np.ceil(lengths / spacing_per_angstrom - 1e-6), 1).astype(int)
    if (count := size.prod(dtype=float)) > MOST_WAVES:
        raise ValueError(
            f"spacing_per_angstrom: {spacing_per_angstrom} gives {count:,.0f} wave vectors; expected "
            f"{MOST_WAVES:,} at most"
        )
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, 3)
    own, minus = (np.ravel_multi_index(tuple(g.T), size) for g in (grid, -grid % size))
    kept = own <= minus
    return grid[kept] / size, np.where(own == minus, 1, 2)[kept] / len(grid)


def displacement(vector: Array, masses: Array, q: Array, cell: Supercell, phase: float = 0.0) -> Array:
    """The pattern of a mode in a supercell that q fits into, largest displacement 1: (3n,) complex -> (N, 3).

    An eigenvector has no phase of its own: it is given the one in which its real part is largest, and then `phase`.
    """
    n, atom = len(masses), jnp.asarray(cell.atom)
    at = 2 * jnp.pi * (jnp.asarray(cell.frac * np.array(cell.repeats), masses.dtype) @ q)
    wave = vector.reshape(n, 3)[atom] * jax.lax.complex(jnp.cos(at), jnp.sin(at))[:, None]
    turn = phase - jnp.angle((wave**2).sum()) / 2
    pattern = (wave * jax.lax.complex(jnp.cos(turn), jnp.sin(turn))).real / jnp.sqrt(masses)[atom][:, None]
    return pattern / jnp.maximum(jnp.linalg.norm(pattern, axis=-1).max(), 1e-12)
