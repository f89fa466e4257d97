"""Lattices: parameters, volume, and the six rotation-free coordinates that generators work in.

Polar decomposition writes a lattice of rows a, b, c as `L = S Q`, with `S = (L L^T)^(1/2)` symmetric positive and `Q`
a rotation. `log S` is a symmetric matrix, six numbers that no rotation of the crystal changes (DiffCSP++, Jiao et al.
2024, section 4.1; CrystalFlow, Luo et al. 2024). We take them along an orthonormal basis, so that isotropic noise on
the six numbers is isotropic noise on `log S`, and count the volume along the last one per atom.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

_R2, _R3, _R6 = np.sqrt(2.0), np.sqrt(3.0), np.sqrt(6.0)
BASIS = np.array(
    [
        [[0, 1, 0], [1, 0, 0], [0, 0, 0]] / _R2,
        [[0, 0, 1], [0, 0, 0], [1, 0, 0]] / _R2,
        [[0, 0, 0], [0, 0, 1], [0, 1, 0]] / _R2,
        [[1, 0, 0], [0, -1, 0], [0, 0, 0]] / _R2,
        [[1, 0, 0], [0, 1, 0], [0, 0, -2]] / _R6,
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]] / _R3,
    ]
)
"""Orthonormal basis (Frobenius) of the symmetric 3x3 matrices; the last one changes the volume alone."""


def metric(lattice: Array) -> Array:
    """The metric tensor `L L^T` of inner products of the lattice vectors, in Å^2: (..., 3, 3) -> (..., 3, 3)."""
    return lattice @ jnp.swapaxes(lattice, -1, -2)


def volume(lattice: Array) -> Array:
    """Cell volume in Å^3: (..., 3, 3) -> (...)."""
    a, b, c = lattice[..., 0, :], lattice[..., 1, :], lattice[..., 2, :]
    return jnp.abs(jnp.sum(a * jnp.cross(b, c), -1))


def from_parameters(lengths: Array, angles: Array) -> Array:
    """Lattice with a along x and b in the xy plane, from lengths in Å and (alpha, beta, gamma) in degrees."""
    cos, sin = jnp.cos(jnp.deg2rad(angles)), jnp.sin(jnp.deg2rad(angles))
    zero = jnp.zeros_like(cos[..., 0])
    one = zero + 1
    cy = (cos[..., 0] - cos[..., 1] * cos[..., 2]) / sin[..., 2]
    cz = jnp.sqrt(jnp.maximum(1 - cos[..., 1] ** 2 - cy**2, 0))
    rows = [[one, zero, zero], [cos[..., 2], sin[..., 2], zero], [cos[..., 1], cy, cz]]
    return lengths[..., :, None] * jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def to_parameters(lattice: Array) -> tuple[Array, Array]:
    """Lengths in Å and angles (alpha, beta, gamma) in degrees: (..., 3, 3) -> (..., 3), (..., 3)."""
    lengths = jnp.linalg.norm(lattice, axis=-1)
    unit = lattice / lengths[..., None]
    pairs = [(1, 2), (0, 2), (0, 1)]
    cos = jnp.stack([jnp.sum(unit[..., i, :] * unit[..., j, :], -1) for i, j in pairs], -1)
    return lengths, jnp.rad2deg(jnp.arccos(jnp.clip(cos, -1, 1)))


def to_symmetric(coordinates: Array) -> Array:
    """The symmetric matrix of six coordinates along `BASIS`: (..., 6) -> (..., 3, 3)."""
    return jnp.einsum("...k,kij->...ij", coordinates, jnp.asarray(BASIS, coordinates.dtype))


def from_symmetric(matrix: Array) -> Array:
    """The six coordinates of a symmetric matrix along `BASIS`: (..., 3, 3) -> (..., 6)."""
    return jnp.einsum("...ij,kij->...k", matrix, jnp.asarray(BASIS, matrix.dtype))


def encode(lattice: Array, atoms: Array) -> Array:
    """Six rotation-free coordinates of `log S`, the last one shifted to the volume per atom.

    (..., 3, 3), (...) number of atoms -> (..., 6). Not meant to be differentiated: eigenvectors of symmetric cells
    are degenerate. Use `decode`, whose derivative is smooth everywhere.
    """
    values, vectors = jnp.linalg.eigh(metric(lattice))
    log_values = 0.5 * jnp.log(jnp.maximum(values, 1e-12))
    coordinates = from_symmetric((vectors * log_values[..., None, :]) @ jnp.swapaxes(vectors, -1, -2))
    return coordinates.at[..., 5].add(-jnp.log(jnp.maximum(atoms, 1)) / _R3.item())


def decode(coordinates: Array, atoms: Array) -> Array:
    """The symmetric lattice `S` of `encode`d coordinates, in Å: (..., 6), (...) -> (..., 3, 3).

    `exp` by a Taylor polynomial and four squarings of the traceless part; error < 1e-6 relative for cells whose
    axis ratios stay below 50.
    """
    shape = to_symmetric(coordinates.at[..., 5].set(0)) / 16
    exp = power = jnp.broadcast_to(jnp.eye(3, dtype=coordinates.dtype), shape.shape)
    for order in range(1, 8):
        power = power @ shape / order
        exp = exp + power
    for _ in range(4):
        exp = exp @ exp
    edge = jnp.exp((coordinates[..., 5] + jnp.log(jnp.maximum(atoms, 1)) / _R3.item()) / _R3.item())
    return exp * edge[..., None, None]


def inverse(lattice: Array) -> Array:
    """The inverse matrix in closed form, whose columns are the reciprocal vectors (no 2 pi): (..., 3, 3)."""
    a, b, c = lattice[..., 0, :], lattice[..., 1, :], lattice[..., 2, :]
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], -1)
    return columns / jnp.sum(a * columns[..., 0], -1)[..., None, None]


def polar(lattice: Array, iterations: int = 12) -> tuple[Array, Array]:
    """`L = S Q`: the symmetric positive factor in Å and the rotation (with a reflection if L is left-handed).

    (..., 3, 3) -> (..., 3, 3) twice. Newton's iteration `Q <- (Q + Q^-T) / 2` (Higham 1986) from the cell of
    unit volume: it needs no eigenvectors, so the derivative is smooth for cubic cells too. The error is float32
    rounding while the longest and the shortest principal axis are within a factor 500.
    """
    q = lattice / jnp.cbrt(volume(lattice))[..., None, None]
    for _ in range(iterations):
        q = (q + jnp.swapaxes(inverse(q), -1, -2)) / 2
    s = lattice @ jnp.swapaxes(q, -1, -2)
    return (s + jnp.swapaxes(s, -1, -2)) / 2, q
