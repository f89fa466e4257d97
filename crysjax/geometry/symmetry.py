"""The 230 space groups and their Wyckoff positions, as traced functions of a group number that may itself be traced.

Standard setting of the International Tables, volume A: unique axis b with cell choice 1, origin choice 2, hexagonal
axes for R. Coordinates are fractions of the conventional cell unless a name says `primitive`; positions are numbered
by their letter, a = 0. Every function takes one example (`vmap` for more); group 0 ("not given") reads as P1.

The table (a small file, made by `crystallography/wyckoff_tables.py`) is read at the first use. It holds the operations
modulo the centering, one map `x = A u + t` a position, and which operations make its orbit: an orbit of the primitive
cell has at most 48 sites, so all groups fit into small padded arrays and nothing else needs to be listed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Crystal, site_mask
from crysjax.geometry import lattice as lattices
from crysjax.geometry import torus

TABLE = Path(__file__).with_name("wyckoff.npz")
DENOMINATOR = 24  # every translation of the standard setting is a whole number of 24ths
MAX_LETTERS, MAX_OPERATIONS = 27, 48
LETTERS = "abcdefghijklmnopqrstuvwxyzA"
SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")
_SYSTEM_LAST = (2, 15, 74, 142, 167, 194, 230)
# which of (a, b, c, alpha, beta, gamma) a system leaves free, which length each axis has, and the other angles
_FREE = ("111111", "111010", "111000", "101000", "101000", "101000", "100000")
_LENGTH = ("012", "012", "012", "002", "002", "002", "000")
_GAMMA = (90, 90, 90, 90, 120, 120, 90)
_PRIMITIVE = {  # rows: primitive vectors in the conventional ones, by the centering vectors other than zero
    "P": ((), ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
    "A": (((0, 12, 12),), ((1, 0, 0), (0, 1 / 2, -1 / 2), (0, 1 / 2, 1 / 2))),
    "C": (((12, 12, 0),), ((1 / 2, 1 / 2, 0), (-1 / 2, 1 / 2, 0), (0, 0, 1))),
    "I": (((12, 12, 12),), ((-1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (1 / 2, 1 / 2, -1 / 2))),
    "F": (((0, 12, 12), (12, 0, 12), (12, 12, 0)), ((0, 1 / 2, 1 / 2), (1 / 2, 0, 1 / 2), (1 / 2, 1 / 2, 0))),
    "R": (
        ((8, 16, 16), (16, 8, 8)),
        ((2 / 3, 1 / 3, 1 / 3), (-1 / 3, 1 / 3, 1 / 3), (-1 / 3, -2 / 3, 1 / 3)),
    ),
}


class Table(NamedTuple):
    """All groups, row 0 repeating P1. Host arrays; rotations act on columns of fractions, `x' = W x + w`."""

    rotations: np.ndarray  # (231, 48, 3, 3) W, modulo centering; padded with the identity
    translations: np.ndarray  # (231, 48, 3) w
    operations: np.ndarray  # (231,) number of operations modulo centering
    centerings: np.ndarray  # (231, 4, 3) centering vectors, the first is zero
    centering: np.ndarray  # (231,) their number
    primitive: np.ndarray  # (231, 3, 3) rows: primitive vectors in the basis of the conventional ones
    linear: np.ndarray  # (231, 27, 3, 3) A of the first site of a position, `x = A u + t`
    offset: np.ndarray  # (231, 27, 3) t
    solve: np.ndarray  # (231, 27, 3, 3) U: `u = U (x - t)` are the coordinates of the point nearest to x
    orbits: np.ndarray  # (231, 27, 48) the operations that make the sites of the primitive cell, -1 = no more
    sites: np.ndarray  # (231, 27) sites of an orbit in the primitive cell, 0 = no such letter
    multiplicity: np.ndarray  # (231, 27) sites of an orbit in the conventional cell: the number next to the letter
    free: np.ndarray  # (231, 27, 3) which of the coordinates u are free
    system: np.ndarray  # (231,) index into `SYSTEMS`
    lattice_free: np.ndarray  # (231, 6) which of (a, b, c, alpha, beta, gamma) are free


@lru_cache(maxsize=1)
def table() -> Table:
    """The table of all groups, read once."""
    with np.load(TABLE) as file:
        raw = {name: file[name].astype(np.int32) for name in file.files}
    operations, maps, orbits = raw["operations"], raw["maps"], raw["orbits"]
    order, centering = raw["sizes"].T
    rotations = np.where((np.arange(MAX_OPERATIONS) < order[:, None])[..., None, None], operations[..., :3], np.eye(3))
    free = (maps[..., :3] != 0).any(-2)
    sites = (orbits >= 0).sum(-1, dtype=np.int32)
    system = np.searchsorted(_SYSTEM_LAST, np.arange(len(maps))).astype(np.int32)
    return Table(
        rotations, operations[..., 3] / DENOMINATOR, order, raw["centerings"] / DENOMINATOR, centering,
        np.stack([_basis(c[1:n]) for c, n in zip(raw["centerings"], centering)]),
        maps[..., :3].astype(float), maps[..., 3] / DENOMINATOR,
        _solvers(operations[..., :3].astype(float), maps[..., :3].astype(float)),
        orbits, sites, sites * centering[:, None], free, system,
        np.array([[c == "1" for c in row] for row in _FREE])[system],
    )  # fmt: skip


def _basis(centerings: np.ndarray) -> np.ndarray:
    wanted = sorted(map(tuple, centerings.tolist()))
    return next(np.array(basis) for vectors, basis in _PRIMITIVE.values() if sorted(vectors) == wanted)


def _solvers(rotations: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Left inverses of A, orthogonal in a metric of the group (padding is zero); all its metrics give the same."""
    metric = np.einsum("gkji,gkjl->gil", rotations, rotations)[:, None]
    moved = np.swapaxes(linear, -1, -2) @ metric
    return np.linalg.pinv(moved @ linear) @ moved


def positions(group: int, *, multiplicity: int | None = None) -> list[str]:
    """The letters of a group, a first; with `multiplicity` those of this many sites in the conventional cell.

    Raises:
        ValueError: if `group` is not the number of a space group, or no position has this multiplicity.
    """
    if not 1 <= group <= 230:
        raise ValueError(f"group: {group} is no space group number, expected 1..230")
    of_letter = table().multiplicity[group]
    letters = [LETTERS[k] for k in np.flatnonzero(of_letter) if multiplicity in (None, of_letter[k])]
    if not letters:
        has = ", ".join(map(str, sorted(set(of_letter[of_letter > 0].tolist()))))
        raise ValueError(f"multiplicity: space group {group} has no position of {multiplicity} sites; it has {has}")
    return letters


def index(group: int, letter: str) -> int:
    """The number of a letter of a group, a = 0.

    Raises:
        ValueError: if the group has no such position.
    """
    has = positions(group)
    if letter not in has:
        raise ValueError(f"letter: space group {group} has no position {letter!r}; it has {has[0]} to {has[-1]}")
    return has.index(letter)


def _of(name: str, like: Array, *where: Array) -> Array:
    """Rows of the table as an array of the dtype of `like`."""
    return jnp.asarray(getattr(table(), name), like.dtype)[where]


def representative(group: Array, letter: Array, u: Array) -> Array:
    """The first site of a position: free coordinates (3,), of which only the free ones count -> (3,)."""
    return _of("linear", u, group, letter) @ u + _of("offset", u, group, letter)


def orbit(group: Array, letter: Array, u: Array) -> tuple[Array, Array]:
    """Sites of an orbit, one for each in the primitive cell: (3,) -> (48, 3) in [0, 1) and mask (48,) of real ones.

    The first is `representative`. `conventional` adds the centered copies, `to_primitive` changes the basis.
    """
    which = jnp.asarray(table().orbits)[group, letter]
    used = jnp.maximum(which, 0)
    rotations, translations = _of("rotations", u, group)[used], _of("translations", u, group)[used]
    sites = torus.wrap(rotations @ representative(group, letter, u) + translations)
    return sites, (which >= 0).astype(u.dtype)


def conventional(group: Array, sites: Array, mask: Array) -> tuple[Array, Array]:
    """Sites (k, 3) with a mask (k,), and their centered copies: (4 k, 3), (4 k,)."""
    copies = torus.wrap(sites[None] + _of("centerings", sites, group)[:, None])
    real = (jnp.arange(4, dtype=jnp.int32) < jnp.asarray(table().centering)[group]).astype(mask.dtype)
    return copies.reshape(-1, 3), (real[:, None] * mask[None]).reshape(-1)


def to_primitive(group: Array, frac: Array) -> Array:
    """Fractions of the primitive cell, in [0, 1), of fractions of the conventional one: (..., 3) -> (..., 3)."""
    return torus.wrap(frac @ lattices.inverse(_of("primitive", frac, group)))


def from_primitive(group: Array, frac: Array) -> Array:
    """Fractions of the conventional cell, in [0, 1), of fractions of the primitive one: (..., 3) -> (..., 3)."""
    return torus.wrap(frac @ _of("primitive", frac, group))


def primitive_lattice(group: Array, lattice: Array) -> Array:
    """The lattice of the primitive cell of a conventional one: (3, 3) -> (3, 3) in Å."""
    return _of("primitive", lattice, group) @ lattice


def conventional_lattice(group: Array, lattice: Array) -> Array:
    """The lattice of the conventional cell of a primitive one: (3, 3) -> (3, 3) in Å."""
    return lattices.inverse(_of("primitive", lattice, group)) @ lattice


def project(group: Array, letter: Array, site: Array, lattice: Array) -> tuple[Array, Array, Array]:
    """The point of a position nearest to a site: (3,), conventional lattice (3, 3) -> site (3,), u (3,), distance in Å.

    All sites of the orbit and their periodic images are looked at (27 around the nearest by fraction: exact unless
    the cell is badly skewed), so that `orbit(group, letter, u)` passes through the answer. Differentiable in the site.
    """
    which = jnp.asarray(table().orbits)[group, letter]
    used = jnp.maximum(which, 0)
    w, t = _of("rotations", site, group)[used], _of("translations", site, group)[used]
    inverse = lattices.inverse(w)
    linear, solve = _of("linear", site, group, letter), _of("solve", site, group, letter)
    images = (_of("centerings", site, group)[:, None] + jnp.asarray(torus.AROUND, site.dtype)[None]).reshape(-1, 3)
    pulled = jnp.einsum("kij,kj->ki", inverse, site[None] - t) - _of("offset", site, group, letter)[None]
    offsets = torus.log(pulled)[:, None] + images[None]  # (48, 108, 3)
    residual = offsets @ (jnp.eye(3, dtype=site.dtype) - linear @ solve).T
    moved = jnp.einsum("kij,kmj->kmi", w, residual) @ lattice
    squared = jnp.where((which >= 0)[:, None], jnp.square(moved).sum(-1), jnp.inf).reshape(-1)
    # the same point may be found by several operations: the first of equals, whatever their rounding
    best = jnp.argmax(jax.lax.stop_gradient(squared <= squared.min() * (1 + 1e-4) + 1e-8))
    row, off = best // len(images), squared[best]
    nearest = site - w[row] @ residual.reshape(-1, 3)[best]
    distance = jnp.where(off > 0, jnp.sqrt(jnp.where(off > 0, off, 1)), 0)
    return torus.wrap(nearest), torus.wrap(solve @ offsets.reshape(-1, 3)[best]), distance


def lattice_from_free(group: Array, parameters: Array) -> Array:
    """Conventional lattice of (a, b, c in Å, alpha, beta, gamma in degrees), of which only the free ones count:
    (6,) -> (3, 3). Which they are says `table().lattice_free`; a cubic group reads a alone."""
    system = jnp.asarray(table().system)[group]
    axis = jnp.asarray([[int(c) for c in row] for row in _LENGTH])[system]
    fixed = jnp.full(3, 90.0, parameters.dtype).at[2].set(jnp.asarray(_GAMMA, parameters.dtype)[system])
    angles = jnp.where(jnp.asarray(table().lattice_free)[group][3:], parameters[3:], fixed)
    return lattices.from_parameters(parameters[axis], angles)


def symmetrize_lattice(group: Array, lattice: Array) -> Array:
    """The conventional lattice with the metric averaged over the point group: (3, 3) -> (3, 3) in Å.

    Directions are kept as they can be: a stays where it is, and b in the plane of a and b.
    """
    rotations = _of("rotations", lattice, group)
    real = (jnp.arange(MAX_OPERATIONS, dtype=jnp.int32) < jnp.asarray(table().operations)[group]).astype(lattice.dtype)
    before = lattices.metric(lattice)
    after = jnp.einsum("kji,jl,klm,k->im", rotations, before, rotations, real / real.sum())
    return jnp.linalg.cholesky(after) @ lattices.inverse(jnp.linalg.cholesky(before)) @ lattice


def lattice_to_free(group: Array, lattice: Array) -> Array:
    """(a, b, c, alpha, beta, gamma) of the symmetrized conventional lattice: (3, 3) -> (6,) in Å and degrees."""
    return jnp.concatenate(lattices.to_parameters(symmetrize_lattice(group, lattice)))


def symmetrize(group: Array, crystal: Crystal) -> tuple[Crystal, Array]:
    """The crystal that has the group, next to one that nearly has it; and by how much it was missed, in Å.

    The crystal is in the primitive cell of the standard setting. Every operation takes each site near to one of like
    occupancy, and the mean of all that comes near a site takes its place. The second answer is the largest distance
    between a site and what came near it; infinite if an operation takes two sites to one.
    """
    lattice = primitive_lattice(group, symmetrize_lattice(group, conventional_lattice(group, crystal.lattice)))
    rotations, translations = _primitive_operations(group, crystal.frac)
    operations = jnp.asarray(table().operations)[group]
    real = (jnp.arange(MAX_OPERATIONS, dtype=jnp.int32) < operations).astype(crystal.frac.dtype)
    images = jnp.einsum("kij,nj->kni", rotations, crystal.frac) + translations[:, None]
    target, missed = _nearest_alike(images, crystal._replace(lattice=lattice))
    off = torus.log(images - crystal.frac[target])
    hits = jax.nn.one_hot(target, len(crystal.frac), dtype=off.dtype)  # (k, n, n): site j falls on site i
    frac = torus.wrap(crystal.frac + jnp.einsum("kji,kjc,k->ic", hits, off, real / real.sum()))
    site = site_mask(crystal.occupancy)
    once = jnp.where((site[None] * real[:, None]) > 0, jnp.einsum("kji,j->ki", hits, site), 1.0)
    worst = jnp.max(missed * site[None] * real[:, None])
    return Crystal(crystal.occupancy, frac, lattice), jnp.where((once == 1).all(), worst, jnp.inf)


def primitive_operations(group: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (k, 3, 3) and translations (k, 3) of a group on fractions of the primitive cell, on the host."""
    basis, count = table().primitive[group], table().operations[group]
    back = np.linalg.inv(basis)
    rotations = np.einsum("ji,kjl,ml->kim", back, table().rotations[group, :count], basis)
    return np.round(rotations).astype(int), table().translations[group, :count] @ back


def _primitive_operations(group: Array, like: Array) -> tuple[Array, Array]:
    """Rotations (48, 3, 3) and translations (48, 3) that act on fractions of the primitive cell."""
    basis = _of("primitive", like, group)
    back = lattices.inverse(basis)
    rotations = jnp.einsum("ji,kjl,ml->kim", back, _of("rotations", like, group), basis)
    return jnp.round(rotations), _of("translations", like, group) @ back


def _nearest_alike(images: Array, crystal: Crystal) -> tuple[Array, Array]:
    """The site of like occupancy that each image (k, n, 3) is nearest to, and how far away: (k, n), (k, n) in Å."""
    off = torus.log(images[:, :, None] - crystal.frac[None, None]) @ crystal.lattice
    rows = crystal.occupancy
    alike = jnp.square(rows[:, None] - rows[None]).sum(-1) < 1e-6
    squared = jax.lax.stop_gradient(jnp.where(alike[None], jnp.square(off).sum(-1), jnp.inf))
    return jnp.argmin(squared, -1), jnp.sqrt(jnp.min(squared, -1))
