"""How far a set of generated crystals is from a reference set, how diverse it is, and how sure each number is.

Property distances are the 1-D Wasserstein distances of CDVAE (Xie et al. 2022), diversity is the mean
pairwise distance or the Vendi score (Friedman and Dieng 2023), and the RMSD to the relaxed structure is that of
MatterGen (Zeni et al. 2025) for sites that keep their order. Every total comes as an `Interval`.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from crysjax.chemistry.element_properties import cell_masses_amu
from crysjax.data.datasets import Dataset, entries
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.data.readers.cif import lattice_from_parameters

CONFIDENCE = 0.95
_ATOMIC_MASS_G = 1.66053906660e-24  # CODATA 2018
_CM3_PER_ANGSTROM3 = 1e-24


class Interval(NamedTuple):
    """A total with its confidence interval; `missing` values (NaN) are left out of all three numbers."""

    value: float
    low: float
    high: float
    count: int  # values that the total is made of
    missing: int


# Intervals


def interval(values: np.ndarray, *, confidence: float = CONFIDENCE, draws: int = 1000, seed: int = 0) -> Interval:
    """The mean of values (m,) with its interval: Wilson's (1927) of a share (bool), else the percentile bootstrap.

    NaN is missing. No value at all gives NaN.
    """
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"interval: values of shape {values.shape}, expected (m,)")
    known = values if values.dtype == bool else values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return Interval(np.nan, np.nan, np.nan, 0, len(values))
    if values.dtype == bool:
        low, high = wilson(int(known.sum()), len(known), confidence=confidence)
    else:
        rng, tail = np.random.default_rng(seed), 50 * (1 - confidence)
        means = [known[rng.integers(len(known), size=len(known))].mean() for _ in range(draws)]
        low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(known.mean()), float(low), float(high), len(known), len(values) - len(known))


def wilson(hits: int, count: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval of a share `hits / count`: never empty, never outside [0, 1]."""
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"wilson: {hits} hits of {count}")
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    center = (hits + z2 / 2) / (count + z2)
    half = np.sqrt(z2 * (hits * (count - hits) / count + z2 / 4)) / (count + z2)
    return max(0.0, float(center - half)), min(1.0, float(center + half))


def distance_interval(
    distance: Callable[[np.ndarray, np.ndarray], float],
    samples: np.ndarray,
    reference: np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    draws: int = 200,
    seed: int = 0,
) -> Interval:
    """A distance between two sets of values with its normal interval; the spread comes from resampling both sets.

    Percentiles would be wrong here: resampling adds noise, and noise moves a distance away from 0. For the same reason
    the value itself is biased upwards by what a perfect sample of this size would show.
    """
    rng = np.random.default_rng(seed)
    samples, found = _known(samples), _known(reference)
    if not (len(samples[0]) and len(found[0])):
        return Interval(np.nan, np.nan, np.nan, 0, samples[1] + found[1])
    value = distance(samples[0], found[0])
    drawn = [distance(*(v[rng.integers(len(v), size=len(v))] for v in (samples[0], found[0]))) for _ in range(draws)]
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * float(np.std(drawn, ddof=1))
    return Interval(float(value), max(0.0, value - half), value + half, len(samples[0]), samples[1])


def _known(values: np.ndarray) -> tuple[np.ndarray, int]:
    values = np.asarray(values)
    missing = np.isnan(values)
    return values[~missing], int(missing.sum())


# Distances between distributions


def emd(samples: np.ndarray, reference: np.ndarray) -> float:
    """The 1-D Wasserstein (earth mover's) distance of two sets of values, in their unit: the area between the CDFs."""
    samples, reference = np.sort(np.asarray(samples, float)), np.sort(np.asarray(reference, float))
    if not (len(samples) and len(reference)) or not (np.isfinite(samples).all() and np.isfinite(reference).all()):
        raise ValueError(f"emd: {len(samples)} and {len(reference)} values, expected some, all of them finite")
    both = np.sort(np.concatenate([samples, reference]))
    shares = [np.searchsorted(v, both[:-1], side="right") / len(v) for v in (samples, reference)]
    return float(np.sum(np.abs(shares[0] - shares[1]) * np.diff(both)))


def property_distances(samples: Dataset, reference: Dataset, *, draws: int = 200, seed: int = 0) -> dict[str, Interval]:
    """EMDs of density, number of elements and, where both sets have it, formation energy.

    CDVAE and DiffCSP print them as `wdist_density` (g/cm^3), `wdist_num_elems` and `wdist_prop` (eV/atom), over 1,000
    valid samples drawn from all and the whole test set: pass valid samples for comparable numbers.
    """
    columns = {"density_g_cm3": densities, "num_elements": num_elements}
    pairs = {name: (of(samples), of(reference)) for name, of in columns.items()}
    name = FORMATION_ENERGY
    if name in samples.properties and name in reference.properties:
        pairs[name] = samples.properties[name], reference.properties[name]
    return {name: distance_interval(emd, *pair, draws=draws, seed=seed) for name, pair in pairs.items()}


def densities(dataset: Dataset) -> np.ndarray:
    """Density of each crystal in g/cm^3: (m,)."""
    mass = cell_masses_amu(dataset.numbers, dataset.num_atoms) * _ATOMIC_MASS_G
    return mass / (np.abs(np.linalg.det(dataset.lattice.astype(np.float64))) * _CM3_PER_ANGSTROM3)


def num_elements(dataset: Dataset) -> np.ndarray:
    """Number of different elements in each crystal: (m,) float."""
    return np.array([len(np.unique(row.numbers)) for row in entries(dataset)], float)


def category_distance(samples: np.ndarray, reference: np.ndarray, *, kind: str = "total_variation") -> float:
    """Distance in [0, 1] of the shares of categories, such as space group numbers (0 = none found counts as one).

    `total_variation` is half the sum of differences; `jensen_shannon` the square root of the divergence in bits.
    """
    if kind not in ("total_variation", "jensen_shannon"):
        raise ValueError(f"category_distance: kind {kind!r}, expected 'total_variation' or 'jensen_shannon'")
    if not (len(samples) and len(reference)):
        raise ValueError(f"category_distance: {len(samples)} and {len(reference)} values, expected some of each")
    names, index = np.unique(np.concatenate([samples, reference]), return_inverse=True)
    parts = index[: len(samples)], index[len(samples) :]
    p, q = (np.bincount(part, minlength=len(names)) / len(part) for part in parts)
    if kind == "total_variation":
        return float(np.abs(p - q).sum() / 2)
    divergence = sum(np.sum(a[a > 0] * np.log2(a[a > 0] / (p + q)[a > 0] * 2)) for a in (p, q)) / 2
    return float(np.sqrt(max(divergence, 0)))


# Diversity


def diversity(features: np.ndarray) -> float:
    """Mean Euclidean distance of all pairs of rows (m, d), as CDVAE prints it for fingerprints."""
    features = np.asarray(features, float)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"diversity: features of shape {features.shape}, expected (m, d) with at least two rows")
    total = sum(np.linalg.norm(features[i + 1 :] - row, axis=1).sum() for i, row in enumerate(features[:-1]))
    return float(2 * total / (len(features) * (len(features) - 1)))


def vendi_score(kernel: np.ndarray, *, order: float = 1.0) -> float:
    """The effective number of different samples, 1 to m, of a similarity matrix (m, m) with ones on its diagonal.

    exp of the Shannon entropy of the eigenvalues of kernel / m (Friedman and Dieng 2023, definition 3.1); of another
    `order`, the Renyi entropy (Pasarkar and Dieng 2024): below 1 rare samples count more, above 1 less.
    """
    kernel = np.asarray(kernel, float)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not np.allclose(kernel, kernel.T, atol=1e-6):
        raise ValueError(f"vendi_score: kernel of shape {kernel.shape}, expected a symmetric (m, m)")
    if not np.allclose(np.diag(kernel), 1, atol=1e-6):
        raise ValueError("vendi_score: the kernel's diagonal is not 1")
    return _effective_number(np.linalg.eigvalsh(kernel / len(kernel)), order)


def vendi_of_features(features: np.ndarray, *, order: float = 1.0) -> float:
    """Vendi score under the cosine similarity of features (m, d), in O(m d^2) rather than O(m^3)."""
    norm = np.linalg.norm(np.asarray(features, float), axis=1, keepdims=True)
    if not (norm > 0).all():
        raise ValueError(f"vendi_of_features: row {int((norm[:, 0] > 0).argmin())} has no direction")
    unit = np.asarray(features, float) / norm
    return _effective_number(np.linalg.eigvalsh(unit.T @ unit / len(unit)), order)


def _effective_number(eigenvalues: np.ndarray, order: float) -> float:
    if eigenvalues.min() < -1e-6:
        raise ValueError(f"vendi_score: not a kernel, its least eigenvalue over m is {eigenvalues.min():.2g}")
    shares = eigenvalues[eigenvalues > 1e-12]
    if order == 1:
        return float(np.exp(-np.sum(shares * np.log(shares))))
    if np.isinf(order):
        return float(1 / shares.max())
    return float(np.sum(shares**order) ** (1 / (1 - order)))


def gaussian_kernel(features: np.ndarray, scale: float) -> np.ndarray:
    """exp(-|x - y|^2 / (2 scale^2)) of all pairs of rows (m, d): (m, m)."""
    features = np.asarray(features, float)
    square = np.square(features).sum(1)
    distance2 = np.maximum(square[:, None] + square[None] - 2 * features @ features.T, 0)
    np.fill_diagonal(distance2, 0)
    return np.exp(-distance2 / (2 * scale**2))


def rediscovery(matches: np.ndarray) -> Interval:
    """Share of a held-out set that the samples contain, of matches (samples, held out) or (held out,): bool."""
    matches = np.asarray(matches)
    if matches.dtype != bool or matches.ndim not in (1, 2):
        raise ValueError(f"rediscovery: matches {matches.dtype} of shape {matches.shape}, expected bool")
    return interval(matches.any(0) if matches.ndim == 2 else matches)


# Samples and their relaxed structures


def relaxation_rmsd(samples: Dataset, relaxed: Dataset) -> dict[str, np.ndarray]:
    """How far the sites of each sample moved as it relaxed, the common translation taken out.

    "rmsd_angstrom" (m,) uses the minimum image in the mean cell (means of lengths and angles), "rmsd_normalized" (m,)
    divides by (volume / sites)^(1/3) of that cell. MatterGen matches the sites anew with StructureMatcher (scale off)
    and so is never above; here site i of the sample is site i of the relaxed structure, as every relaxation leaves
    it. NaN where the relaxed structure is not finite.
    """
    if not np.array_equal(samples.num_atoms, relaxed.num_atoms) or not np.array_equal(samples.numbers, relaxed.numbers):
        raise ValueError("relaxation_rmsd: samples and relaxed structures differ in their sites")
    moved = [_rmsd(*(np.asarray(a, float) for a in (s.frac, s.lattice, r.frac, r.lattice)))
             for s, r in zip(entries(samples), entries(relaxed))]  # fmt: skip
    angstrom, normalized = np.array(moved, float).reshape(-1, 2).T
    return {"rmsd_angstrom": angstrom, "rmsd_normalized": normalized}


def _rmsd(frac: np.ndarray, lattice: np.ndarray, frac_to: np.ndarray, lattice_to: np.ndarray) -> tuple[float, float]:
    if not (np.isfinite(frac_to).all() and np.isfinite(lattice_to).all()):
        return np.nan, np.nan
    cell = _mean_cell(lattice, lattice_to)
    difference = frac_to - frac
    free_length = (abs(np.linalg.det(cell)) / len(frac)) ** (1 / 3)
    best = np.inf
    for start in difference:  # the images that belong together depend on the translation: try each site's own
        vectors = minimum_images(difference - start, cell)
        best = min(best, np.square(vectors - vectors.mean(0)).sum(1).mean())
    return float(np.sqrt(best)), float(np.sqrt(best) / free_length)


def _mean_cell(*lattices: np.ndarray) -> np.ndarray:
    lengths = np.stack([np.linalg.norm(lattice, axis=1) for lattice in lattices])
    cosines = [np.array([a[1] @ a[2], a[2] @ a[0], a[0] @ a[1]]) for a in lattices]
    angles = np.degrees(np.arccos([c / np.roll(n, -1) / np.roll(n, -2) for c, n in zip(cosines, lengths)]))
    return np.asarray(lattice_from_parameters(lengths.mean(0)[None], angles.mean(0)[None]), float)[0]


def minimum_images(difference: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """The shortest Cartesian vectors in Å of fractional differences (n, 3), exact for every cell: (n, 3)."""
    home = (difference - np.round(difference)) @ lattice
    height = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)  # a shorter vector has a fraction below length / height
    reach = np.floor(np.linalg.norm(home, axis=1).max() / height + 0.5).astype(int)
    images = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in reach), indexing="ij"), -1).reshape(-1, 3) @ lattice
    vectors = home[:, None] + images[None]
    nearest = np.square(vectors).sum(-1).argmin(1)
    return vectors[np.arange(len(home)), nearest]
