"""The peaks of a powder pattern, crystal by crystal: host NumPy in double precision, no compilation.

Reflections and intensities are those of `diffraction`; here they are gathered into peaks as pymatgen's calculators
define them.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from crysjax.base import NUM_SPECIES, Crystal
from crysjax.chemistry.scattering import Scattering, of_species
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.geometry.soundness import why_not
from crysjax.physics.diffraction.pattern import MOST_REFLECTIONS, form_factors, planes, reflections_needed

TWO_THETA_TOLERANCE = 1e-5  # degrees: reflections of one such bin are one peak (pymatgen's TWO_THETA_TOL)
LEAST_INTENSITY = 1e-3  # of 100: what is not a peak (pymatgen's SCALED_INTENSITY_TOL)
AT_ONCE = 200_000  # reflections whose sums are in memory together
_CACHED = 10_000  # reflections of a box that is kept for the next crystal


class Peaks(NamedTuple):
    """The peaks of one crystal by angle, as pymatgen's calculators define them; none where `reason` says why."""

    two_theta: np.ndarray  # (p,) degrees, of the peak's first reflection
    intensity: np.ndarray  # (p,) the strongest is 100, unless not scaled
    hkl: np.ndarray  # (p, 3) one of its reflections, the one of largest h, then k, then l
    multiplicity: np.ndarray  # (p,) reflections in the peak
    d_angstrom: np.ndarray  # (p,) spacing of its planes
    reason: str = ""


def peaks(
    dataset: Dataset,
    scattering: Scattering,
    *,
    two_theta_degree: tuple[float, float] = (0.0, 90.0),
    scaled: bool = True,
) -> list[Peaks]:
    """The peaks of every crystal; `scattering` has `NUM_SPECIES` columns, best in double precision."""
    return [_row_peaks(row, scattering, two_theta_degree, scaled) for row in entries(dataset)]


def _row_peaks(row: Entry, scattering: Scattering, two_theta_degree: tuple[float, float], scaled: bool) -> Peaks:
    """One crystal's peaks, or why there are none: a bad one does not take the others with it."""
    found, species = np.unique(row.numbers, return_inverse=True)
    if not len(found) or found[0] < 1 or found[-1] > NUM_SPECIES:
        return _none(f"expected atoms of atomic numbers 1 to {NUM_SPECIES}, got {found.tolist()}")
    crystal = Crystal(np.eye(len(found))[species], row.frac, row.lattice)
    try:
        return crystal_peaks(crystal, of_species(scattering, found), two_theta_degree, scaled=scaled)
    except (ValueError, MemoryError) as error:  # such as a cell so skewed or large that it has too many reflections
        return _none(str(error) or "not enough memory")


def _none(reason: str) -> Peaks:
    return Peaks(np.zeros(0), np.zeros(0), np.zeros((0, 3), int), np.zeros(0, int), np.zeros(0), reason)


def crystal_peaks(
    crystal: Crystal,
    scattering: Scattering,
    two_theta_degree: tuple[float, float] = (0.0, 90.0),
    *,
    scaled: bool = True,
) -> Peaks:
    """The peaks of one crystal in an interval of angles: host NumPy in double precision, no compilation.

    Symmetry makes reflections one peak if their angles agree to 1e-5 degrees, which single precision does not give.
    """
    low, high = (2 * math.sin(math.radians(t) / 2) / float(scattering.wavelength) for t in two_theta_degree)
    occupancy, frac, lattice = (np.asarray(leaf, float) for leaf in crystal)
    reason = _fault(occupancy, frac, lattice, scattering)
    if reason:
        return _none(reason)
    limit = reflections_needed(
        lattice, wavelength_angstrom=float(scattering.wavelength), two_theta_max_degree=two_theta_degree[1]
    )
    parts, inverse = [], np.linalg.inv(lattice)
    for first, end in _slabs(limit):
        hkl = _planes(first, end, *limit[1:].tolist())
        vectors = hkl @ inverse.T
        g = np.sqrt(np.einsum("rc,rc->r", vectors, vectors))
        inside = np.flatnonzero((g <= high + 1e-8) & (g >= low))
        parts.append((hkl[inside], g[inside], _sums(occupancy, frac, first, end, *limit[1:])[inside]))
    hkl, g, sums = (np.concatenate(leaves) for leaves in zip(*parts))
    return _peaks_of(hkl, g, sums, scattering, scaled)


def _slabs(limit: np.ndarray) -> list[tuple[int, int]]:
    """Planes of h, first and end, that are worked on together."""
    h, k, m = limit.tolist()
    if min(h, k, m) < 0 or (2 * h + 1) * (2 * k + 1) * (2 * m + 1) > MOST_REFLECTIONS:
        raise ValueError(f"the cell has more than {MOST_REFLECTIONS:,} reflections within these angles")
    step = max(AT_ONCE // ((2 * k + 1) * (2 * m + 1)), 1)
    return [(first, min(first + step, h + 1)) for first in range(0, h + 1, step)]


def _planes(first: int, end: int, k: int, m: int) -> np.ndarray:
    """Reflections as floats, which matrix products want; small boxes are made once."""
    small = (end - first) * (2 * k + 1) * (2 * m + 1) <= _CACHED
    return _box(first, end, k, m) if small else planes(first, end, k, m).astype(float)


@lru_cache(maxsize=1024)
def _box(first: int, end: int, k: int, m: int) -> np.ndarray:
    return planes(first, end, k, m).astype(float)


def _fault(occupancy: np.ndarray, frac: np.ndarray, lattice: np.ndarray, scattering: Scattering) -> str:
    """What keeps a crystal from having a pattern; "" for nothing."""
    if wrong := why_not(frac, lattice):
        return wrong
    strange = (occupancy > 0).any(0) & (scattering.known <= 0)
    return "no scattering factors for one of its elements" if strange.any() else ""


def _sums(occupancy: np.ndarray, frac: np.ndarray, first: int, end: int, k: int, m: int) -> np.ndarray:
    """Σ_j occupancy_j exp(2πi (h x_j + k y_j + l z_j)) of every species in the order of `planes`: (r, s) complex.

    Phases are products over the axes, so the exponentials are few and the rest is one matrix product.
    """
    ranges = np.arange(first, end), np.arange(-k, k + 1), np.arange(-m, m + 1)
    along = [np.exp(2j * np.pi * n[:, None] * x) for n, x in zip(ranges, frac.T)]
    lines = along[0][:, None] * along[1][None]
    rows = (along[2].T[:, :, None] * occupancy[:, None, :]).reshape(len(frac), -1)
    sums = lines @ rows  # a product a plane: one large one would wake the threads of BLAS for microseconds of work
    return sums.reshape(-1, occupancy.shape[1])[0 if first else (2 * k + 1) * (2 * m + 1) // 2 + 1 :]


def _peaks_of(hkl: np.ndarray, g: np.ndarray, sums: np.ndarray, scattering: Scattering, scaled: bool) -> Peaks:
    """Reflections in order of hkl with |g| and the sums of each species, gathered into peaks."""
    two_theta = np.degrees(2 * np.arcsin(np.minimum(g * (float(scattering.wavelength) / 2), 1)))
    key = np.rint(two_theta / TWO_THETA_TOLERANCE).astype(int) * max(len(g), 1) + np.arange(len(g))
    bins, order = np.divmod(np.sort(key), max(len(g), 1))
    edge = np.concatenate([[0], np.flatnonzero(bins[1:] != bins[:-1]) + 1]) if len(g) else np.zeros(0, int)
    if not len(edge):
        return Peaks(two_theta, two_theta, hkl.astype(int), np.zeros(0, int), g)
    count = np.concatenate([edge[1:], [len(g)]]) - edge
    angle, g = np.minimum.reduceat(two_theta[order], edge), np.minimum.reduceat(g[order], edge)
    f = np.repeat(form_factors(scattering, g * g / 4), count, axis=0)  # reflections of a peak have one angle
    f = np.einsum("rs,rs->r", sums[order], f)
    sin2 = np.square(np.sin(np.radians(angle / 2)))
    lorentz = (1 + scattering.polarized * np.square(1 - 2 * sin2)) / (sin2 * np.sqrt(1 - sin2))
    total = 2 * np.add.reduceat(f.real**2 + f.imag**2, edge) * lorentz
    keep = total > total.max() * (LEAST_INTENSITY / 100)
    scale = 100 / total.max() if scaled else 1.0
    last = order[(edge + count - 1)[keep]]
    return Peaks(angle[keep], total[keep] * scale, hkl[last].astype(int), 2 * count[keep], 1 / g[keep])
