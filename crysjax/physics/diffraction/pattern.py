"""Powder diffraction of one crystal: reflections, and the smooth profile that a diffractometer records.

Kinematic scattering (De Graef & McHenry, Structure of Materials, ch. 11-13, as pymatgen's calculators have it):

    sin θ = λ g / 2,   F(hkl) = Σ_j occupancy_j f_j(s) exp(-B_j s²) exp(2πi (h x_j + k y_j + l z_j)),   s = g / 2,
    I(hkl) = |F|² (1 + cos² 2θ) / (sin² θ cos θ)   for X-rays,   |F|² / (sin² θ cos θ)   for neutrons.

Multiplicities come by summing over reflections: amplitudes are real, so I(hkl) = I(-h-k-l) (Friedel), and one of each
such pair is listed and counted twice. What depends on the crystal alone is differentiable in its positions, cell and
occupancies; the list of reflections is fixed beforehand (`indices`) and checked against the cell (`valid`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Crystal, Estimate, site_mask
from crysjax.chemistry.scattering import Scattering
from crysjax.geometry import lattice as lattices

MOST_REFLECTIONS = 20_000_000  # hkl that a list may have; cells that need more are not crystals or badly skewed
TILE = 200_000  # peaks times points of a profile that are in memory together
_PREFACTOR = 41.78214
_SPLIT = 4096.0  # fractions are split at 2^-12: sums of index times the coarse part are exact in single precision


class Indices(NamedTuple):
    """Reflections to look at, one of hkl and -h-k-l; (0, 0, 0) fills unused rows."""

    hkl: Array  # (r, 3) int32
    limit: Array  # (3,) int32: no reflection with |h|, |k|, |l| up to these is missing within the angles asked for


class Reflections(NamedTuple):
    """One row per reflection; the intensity is 0 for unused rows and for those that the wavelength does not reach."""

    two_theta: Array  # (r,) degrees
    intensity: Array  # (r,) of hkl and -h-k-l together
    valid: Array  # () whether these are all reflections of a crystal with known elements


class Shape(NamedTuple):
    """Peaks of a profile: FWHM² = u tan² θ + v tan θ + w in degrees² (Caglioti et al. 1958), and their Lorentz part.

    Defaults are a width of 0.1 degrees everywhere. The pseudo-Voigt is (1 - eta) Gauss + eta Lorentz, each of area 1.
    """

    u: float | Array = 0.0
    v: float | Array = 0.0
    w: float | Array = 0.01
    eta: float | Array = 0.5


def reflections_needed(lattice: np.ndarray, *, wavelength_angstrom: float, two_theta_max_degree: float) -> np.ndarray:
    """The largest |h|, |k|, |l| within an angle: (..., 3, 3) -> (..., 3).

    h = a · g, so |h| is at most |a| times the largest |g|. Host NumPy; use it on the cells at hand (with some room,
    where cells will move) to choose the limits of `indices`.
    """
    reach = 2 * _half_sine(two_theta_max_degree) / wavelength_angstrom
    return np.floor(np.linalg.norm(np.asarray(lattice, float), axis=-1) * reach + 1e-6).astype(int)


def _half_sine(two_theta_max: float) -> float:
    """sin θ of the largest angle; twice that over the wavelength is the largest |g| = 1 / d."""
    if not 0 < two_theta_max <= 180:
        raise ValueError(f"two_theta_max_degree: {two_theta_max}; expected above 0 and up to 180")
    return math.sin(math.radians(two_theta_max) / 2)


def indices(limit: tuple[int, int, int] | np.ndarray) -> Indices:
    """Half of all reflections with |h|, |k|, |l| up to the limits, without (0, 0, 0): host NumPy."""
    h, k, m = (int(n) for n in limit)
    if min(h, k, m) < 0 or (2 * h + 1) * (2 * k + 1) * (2 * m + 1) > MOST_REFLECTIONS:
        raise ValueError(
            f"indices: limits {h}, {k}, {m}; expected three from 0 on, of {MOST_REFLECTIONS:,} hkl at most"
        )
    return Indices(planes(0, h + 1, k, m).astype(np.int32), np.array([h, k, m], np.int32))


def planes(first: int, end: int, k: int, m: int) -> np.ndarray:
    """The reflections of `indices` with h from `first` to below `end`, in its order: (r, 3) int."""
    axes = np.arange(first, end), np.arange(-k, k + 1), np.arange(-m, m + 1)
    flat = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    # in this order the half of the plane h = 0 that mirrors the other comes first, with the origin at its end
    return flat if first else flat[(2 * k + 1) * (2 * m + 1) // 2 + 1 :]


def within(given: Indices, lattice: np.ndarray, *, wavelength_angstrom: float, two_theta_max_degree: float) -> Indices:
    """Only the reflections that a cell (3, 3), or one of several (m, 3, 3), has within an angle: half of them, or
    less. Host NumPy.
    """
    reach, seen = 2 * _half_sine(two_theta_max_degree) / wavelength_angstrom, np.zeros(len(given.hkl), bool)
    for cell in np.asarray(lattice, float).reshape(-1, 3, 3):
        seen |= np.linalg.norm(given.hkl @ np.linalg.inv(cell).T, axis=-1) <= reach + 1e-8
    return given._replace(hkl=given.hkl[seen])


def reflections(
    crystal: Crystal, scattering: Scattering, given: Indices, *, two_theta_max_degree: float = 90.0
) -> Reflections:
    """Angles and intensities of the reflections `given`; differentiable in every leaf of the crystal.

    Args:
        crystal: its species axis is that of `scattering`, whose numbers are taken in the crystal's precision.
        two_theta_max_degree: up to which angle no reflection may be missing for the answer to be valid.

    Not valid: a cell that needs more reflections than `given.limit`, one without volume, an element that the table does
    not have, numbers that are not finite. Intensities are then 0, and neither they nor their derivatives are NaN.
    """
    scattering = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(crystal.frac.dtype), scattering)
    safe, valid = _checked(crystal, scattering, given.limit, two_theta_max_degree)
    hkl = jnp.asarray(given.hkl).astype(safe.frac.dtype)
    g2 = jnp.square(_products(hkl, lattices.inverse(safe.lattice))).sum(-1)
    sin2 = g2 * jnp.square(scattering.wavelength) / 4
    reached = (g2 > 0) & (sin2 < 1)
    sin2 = jnp.where(reached, sin2, 0.5)
    f = form_factors(scattering, jnp.where(reached, g2, 1) / 4)
    cos, sin = _waves(safe.frac, hkl)
    amplitude2 = sum(jnp.square(((wave @ safe.occupancy) * f).sum(-1)) for wave in (cos, sin))
    factor = (1 + scattering.polarized * jnp.square(1 - 2 * sin2)) / (sin2 * jnp.sqrt(1 - sin2))
    intensity = jnp.where(reached & valid, 2 * amplitude2 * factor, 0)
    return Reflections(jnp.rad2deg(2 * jnp.arcsin(jnp.sqrt(sin2))), intensity, valid)


def form_factors(scattering: Scattering, s2: Array) -> Array:
    """Amplitude of every species at s² = (sin θ / λ)², Debye-Waller factor included: (r,) -> (r, s)."""
    xp = np if isinstance(s2, np.ndarray) else jnp
    decay = xp.einsum("sk,rsk->rs", scattering.amplitude, xp.exp(-scattering.width[None] * s2[:, None, None]))
    f = scattering.constant[None] - _PREFACTOR * s2[:, None] * decay
    return f * xp.exp(-scattering.debye_waller[None] * s2[:, None])


def _waves(frac: Array, hkl: Array) -> tuple[Array, Array]:
    """cos and sin of 2π (h x + k y + l z), each (r, n), with the whole turns taken off before anything is rounded."""
    coarse = jnp.round(jax.lax.stop_gradient(frac) * _SPLIT) / _SPLIT
    turns = _products(hkl, coarse)  # exact: multiples of 2^-12 below 2^12
    turns = turns - jnp.round(turns) + _products(hkl, frac - coarse)
    return jnp.cos(2 * jnp.pi * turns), jnp.sin(2 * jnp.pi * turns)


def _products(hkl: Array, rows: Array) -> Array:
    """`hkl @ rows.T` written out, which accelerators do not round to fewer digits: (r, 3), (n, 3) -> (r, n)."""
    return sum(hkl[:, k, None] * rows[None, :, k] for k in range(3))


def _checked(crystal: Crystal, table: Scattering, limit: Array, two_theta_max: float) -> tuple[Crystal, Array]:
    """The crystal with a harmless cell and positions where its own are not finite, and whether all is well."""
    species = table.constant.shape[-1]
    if crystal.occupancy.shape[-1] != species:
        raise ValueError(f"scattering: {species} species, but the crystal has {crystal.occupancy.shape[-1]}")
    occupied = site_mask(crystal.occupancy)[:, None] > 0
    placed = jnp.isfinite(crystal.frac)
    sound = jnp.isfinite(crystal.lattice).all() & jnp.isfinite(crystal.occupancy).all()
    sound &= lattices.volume(crystal.lattice) > 1e-3
    reach = _half_sine(two_theta_max) * 2 / table.wavelength
    needed = jnp.floor(jnp.sqrt(jnp.square(crystal.lattice).sum(-1)) * reach + 1e-4)
    enough = (needed <= jnp.asarray(limit).astype(needed.dtype)).all()
    known = ~((crystal.occupancy > 0) & (table.known <= 0)[None, :]).any()
    frac = jnp.where(occupied & placed, crystal.frac, 0)
    lattice = jnp.where(sound, crystal.lattice, jnp.eye(3, dtype=frac.dtype))
    safe = Crystal(jnp.where(sound, crystal.occupancy, 0), frac, lattice)
    return safe, sound & enough & known & occupied.any() & (placed | ~occupied).all()


def profile(found: Reflections, grid: Array, shape: Shape = Shape()) -> Array:  # noqa: B008 (an immutable default)
    """Intensity on a grid of 2θ in degrees, (g,): the sum of all peaks, each of its intensity's area.

    Time is r times g; memory is not, in derivatives either: the grid is worked through in tiles that fit into a cache.
    List reflections somewhat beyond the grid if their tails matter. NumPy arrays give a NumPy array.
    """
    wide = max(TILE // max(len(found.two_theta), 1), 16)
    one = lambda tile: found.intensity @ peak_shapes(found.two_theta, tile, shape)  # noqa: E731
    if isinstance(found.two_theta, np.ndarray):
        return np.concatenate([one(grid[k : k + wide]) for k in range(0, max(len(grid), 1), wide)])
    if len(grid) <= wide:
        return one(grid)
    tiles = -(-len(grid) // wide)
    wide = -(-len(grid) // tiles)  # equal tiles: less is filled up
    padded = jnp.pad(jnp.asarray(grid), (0, tiles * wide - len(grid)), mode="edge").reshape(tiles, wide)
    return jax.lax.map(jax.checkpoint(one), padded).reshape(-1)[: len(grid)]


def peak_shapes(two_theta: Array, grid: Array, shape: Shape = Shape()) -> Array:  # noqa: B008
    """A pseudo-Voigt of area 1 at every angle, on a grid in degrees: (r,), (g,) -> (r, g)."""
    xp = np if isinstance(two_theta, np.ndarray) else jnp
    tan = xp.tan(xp.deg2rad(two_theta / 2))
    half = xp.sqrt(shape.u * tan**2 + shape.v * tan + shape.w)[:, None] / 2
    x2 = xp.square((grid[None, :] - two_theta[:, None]) / half)
    gauss = xp.exp(-math.log(2) * x2) * math.sqrt(math.log(2) / math.pi)
    return ((1 - shape.eta) * gauss + shape.eta / (math.pi * (1 + x2))) / half


def pattern(
    crystal: Crystal, scattering: Scattering, given: Indices, grid: Array, shape: Shape = Shape(),  # noqa: B008
    *, two_theta_max_degree: float = 90.0,
) -> Estimate:  # fmt: skip
    """The profile of a crystal on a grid of 2θ in degrees, as an oracle answers: value and std (g,), valid ()."""
    found = reflections(crystal, scattering, given, two_theta_max_degree=two_theta_max_degree)
    value = profile(found, grid, shape)
    return Estimate(value, jnp.zeros_like(value), found.valid)
