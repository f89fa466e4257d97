"""Pair distribution functions of one crystal, differentiable: how many atoms lie at which distance from an atom.

With N atoms of density ρ0 = N / V, weights b and their mean <b> (Farrow & Billinge 2009, eqs. 13, 20 and 34):

    R(r) = 1 / (N <b>²) Σ_{i≠j} b_i b_j N(r; r_ij, σ²)     its integral over a shell is a coordination number
    g(r) = R(r) / (4π r² ρ0)                               1 where nothing is correlated
    G(r) = R(r) / r - 4π r ρ0 = 4π r ρ0 (g(r) - 1)         what total scattering measures

Pairs are those of the one radius graph (`geometry.neighbors`), periodic images and an atom's own images included.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Crystal, Estimate, site_mask
from crysjax.chemistry.scattering import Scattering, of_species
from crysjax.data.batching import pack_one
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.geometry import lattice as lattices
from crysjax.geometry import soundness
from crysjax.geometry.neighbors import crystal_edges, edge_vectors, needed_images, radius_graph

KINDS = ("R", "g", "G")
TAILS = 5.0  # widths beyond the grid whose pairs still count: what is left out is below 1e-5 of a peak


def capacity(
    frac: np.ndarray, lattice: np.ndarray, *, r_max_angstrom: float, sigma_angstrom: float = 0.1, spare: float = 1.1
) -> tuple[int, tuple[int, int, int]]:
    """`max_edges` and `max_images` that hold the pairs of a crystal, with some room to move; host NumPy."""
    cutoff = r_max_angstrom + TAILS * sigma_angstrom
    frac, lattice = np.asarray(frac, float), np.asarray(lattice, float)
    if wrong := soundness.why_not(frac, lattice):
        raise ValueError(f"capacity: {wrong}")
    if (needed_images(lattice, cutoff) > soundness.MOST_IMAGES).any():
        raise ValueError(f"capacity: the cell needs more than {soundness.MOST_IMAGES} images along an axis")
    pairs = len(crystal_edges(frac, lattice, cutoff)[0])
    return 2 * math.ceil(pairs * spare + 1), tuple(int(k) for k in needed_images(lattice, cutoff * math.cbrt(spare)))


def pair_distribution(
    crystal: Crystal, r_angstrom: np.ndarray, *, max_edges: int, max_images: tuple[int, int, int],
    kind: str = "G", sigma_angstrom: float = 0.1, weights: Array | None = None,
) -> Estimate:  # fmt: skip
    """R(r), g(r) or G(r) on a grid: value and std (k,), valid ().

    Args:
        crystal: differentiable in every leaf; a site counts by its occupancy.
        r_angstrom: (k,) rising distances above 0, fixed when tracing (it decides which pairs are needed).
        max_edges: room for pairs in both directions; see `capacity`.
        sigma_angstrom: standard deviation of every distance.
        weights: (s,) of each species, for instance scattering lengths or atomic numbers; 1 for all if left out.

    Not valid: pairs that do not fit into `max_edges` or `max_images`, a cell without volume, numbers that are not
    finite, weights of mean zero. The value is then 0, and neither it nor its derivative is NaN.
    """
    r, cutoff = _grid(r_angstrom, kind, sigma_angstrom)
    safe, sound = _harmless(crystal)
    dtype = safe.frac.dtype
    table = jnp.ones(safe.occupancy.shape[-1], dtype) if weights is None else jnp.asarray(weights, dtype)
    pack = pack_one(safe)
    graph = radius_graph(pack, cutoff, max_edges=max_edges, max_images=max_images)
    real = graph.mask > 0
    squared = jnp.square(edge_vectors(pack, graph)).sum(-1)
    distance = jnp.sqrt(jnp.where(real, squared, 1))
    b, atoms = safe.occupancy @ table, safe.occupancy.sum()
    scale = jnp.square(b.sum()) / jnp.where(atoms > 0, atoms, 1)  # N <b>²
    valid = sound & ~graph.overflow[0] & (jnp.abs(b.sum()) > 1e-6 * jnp.abs(b).sum()) & (atoms > 0)
    weight = jnp.where(real, b[graph.sender] * b[graph.receiver], 0) / jnp.where(valid, scale, 1)
    radial = _gaussians(jnp.asarray(r, dtype), distance, weight, sigma_angstrom)
    density = atoms / lattices.volume(safe.lattice)
    value = jnp.where(valid, _as(kind, radial, jnp.asarray(r, dtype), jnp.where(valid, density, 1)), 0)
    return Estimate(value, jnp.zeros_like(value), valid)


def _grid(r_angstrom: np.ndarray, kind: str, sigma: float) -> tuple[np.ndarray, float]:
    """The grid on the host, and how far pairs are needed."""
    r = np.asarray(r_angstrom, float)
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r}; expected one of {', '.join(KINDS)}")
    if r.ndim != 1 or not len(r) or r[0] <= 0 or (np.diff(r) <= 0).any():
        raise ValueError("r_angstrom: expected distances above 0 in rising order")
    if not sigma > 0:
        raise ValueError(f"sigma_angstrom: {sigma}; expected a number above 0")
    return r, float(r[-1] + TAILS * sigma)


def _harmless(crystal: Crystal) -> tuple[Crystal, Array]:
    """The crystal, or an empty one in a large cell where its numbers are no crystal's; and whether they are."""
    occupied = site_mask(crystal.occupancy) > 0
    finite = jnp.isfinite(crystal.frac).all(-1) | ~occupied
    sound = jnp.isfinite(crystal.lattice).all() & jnp.isfinite(crystal.occupancy).all() & finite.all()
    sound &= lattices.volume(crystal.lattice) >= soundness.LEAST_VOLUME_ANGSTROM3
    large = 100 * jnp.eye(3, dtype=crystal.lattice.dtype)
    frac = jnp.where(occupied[:, None] & jnp.isfinite(crystal.frac), crystal.frac, 0)
    occupancy = jnp.where(sound, crystal.occupancy, 0)
    return Crystal(occupancy, frac, jnp.where(sound, crystal.lattice, large)), sound


def _gaussians(r: Array, distance: Array, weight: Array, sigma: float) -> Array:
    """Σ_e weight_e N(r; distance_e, sigma²): (k,), (e,), (e,) -> (k,)."""
    kernel = jnp.exp(-0.5 * jnp.square((r[:, None] - distance[None, :]) / sigma))
    return (kernel @ weight) / (sigma * math.sqrt(2 * math.pi))


def _as(kind: str, radial: Array, r: Array, density: Array) -> Array:
    """R(r) as it is, as g(r), or as G(r)."""
    if kind == "R":
        return radial
    if kind == "g":
        return radial / (4 * math.pi * jnp.square(r) * density)
    return radial / r - 4 * math.pi * r * density


def coordination(value: Array, r_angstrom: Array, low: float, high: float) -> Array:
    """Atoms between two distances: the integral of R(r) by the trapezoidal rule over the grid points between them."""
    inside = value * ((r_angstrom >= low) & (r_angstrom <= high)).astype(value.dtype)
    return (jnp.diff(r_angstrom) * (inside[1:] + inside[:-1]) / 2).sum()


def of_dataset(
    crystals: Dataset, r_angstrom: np.ndarray, *, table: Scattering | None = None, **settings
) -> tuple[np.ndarray, list[str]]:
    """The function of every crystal on one grid, (m, k), NaN with a reason; `settings` are of `pair_distribution`.

    `table` weighs the elements as a radiation sees them: by atomic number or scattering length, constant over angles.
    """
    rows = [_of_entry(entry, r_angstrom, table, settings) for entry in entries(crystals)]
    return np.array([value for value, _ in rows]), [reason for _, reason in rows]


def _of_entry(entry: Entry, r: np.ndarray, table: Scattering | None, settings: dict) -> tuple[np.ndarray, str]:
    nothing = np.full(len(r), np.nan)
    species, index = np.unique(entry.numbers, return_inverse=True)
    weights = None if table is None else of_species(table, species).constant
    try:
        edges, images = capacity(entry.frac, entry.lattice, r_max_angstrom=float(r[-1]))
    except ValueError as error:
        return nothing, str(error).removeprefix("capacity: ")
    crystal = Crystal(jnp.asarray(np.eye(len(species))[index]), *map(jnp.asarray, (entry.frac, entry.lattice)))
    found = pair_distribution(crystal, r, max_edges=edges, max_images=images, weights=weights, **settings)
    return (np.asarray(found.value), "") if bool(found.valid) else (nothing, "no weights, or too many pairs")
