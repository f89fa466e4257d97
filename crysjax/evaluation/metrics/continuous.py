"""Uniqueness and novelty as numbers instead of verdicts, and novelty as an energy that guidance can follow.

With a continuous distance d a sample's uniqueness is its mean distance to the other samples, and its novelty the
distance to the nearest known crystal (Negishi et al., arXiv 2510.12405, 2025). Neither has a threshold, and neither
depends on the order of the samples. Distances are AMD (structure alone), ElMD and Magpie (composition alone), or a
weighted sum, each brought to [0, 1) by d / (1 + d) as that paper's program does. Means over samples judge a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Crystal, site_mask
from crysjax.crystallography.distances import NEIGHBORS, PDD, amd, emd, nearest, pairwise
from crysjax.data.datasets import Dataset
from crysjax.evaluation.metrics.compositions import elmd_coordinates, magpie_features
from crysjax.geometry.neighbors import plane_spacings
from crysjax.physics.hull.hull import compositions

VECTORS: dict[str, tuple[Callable[[Dataset], np.ndarray], str]] = {
    "amd": (amd, "chebyshev"),
    "elmd": (lambda dataset: elmd_coordinates(compositions(dataset)), "cityblock"),
    "magpie": (lambda dataset: magpie_features(compositions(dataset)), "euclidean"),
}
"""Every distance as a metric between vectors: how a data set becomes vectors, and the metric."""

ELMD_AND_AMD = {"elmd": 0.7763, "amd": 0.2237}
"""The weights of composition and structure in the combined distance of Negishi et al.'s program (xtalmet 1.0)."""

HULL_INTERCEPT_EV_PER_ATOM = 0.4289
_BLOCK = 2_000_000  # distances held at once: 16 MB


def uniqueness(samples: Dataset, *, distance: str | Mapping[str, float] = "amd") -> np.ndarray:
    """Mean distance of each sample to all the others, in [0, 1): (m,).

    `distance` is a name of `VECTORS` or weights of several. Time grows with m², memory with m.
    """
    if len(samples) < 2:
        raise ValueError(f"uniqueness: {len(samples)} samples, expected at least 2")
    weights, vectors = _vectors(distance, samples)
    step, total = max(1, _BLOCK // len(samples)), np.empty(len(samples))
    for i in range(0, len(samples), step):
        total[i : i + step] = _blended(weights, [(v[i : i + step], v) for v in vectors]).sum(1)
    return total / (len(samples) - 1)


def novelty(samples: Dataset, known: Dataset, *, distance: str | Mapping[str, float] = "amd") -> np.ndarray:
    """Distance of each sample to the nearest known crystal, in [0, 1): (m,).

    One distance asks a k-d tree; of several every pair is computed, a block at a time.
    """
    weights, ours = _vectors(distance, samples)
    _, theirs = _vectors(distance, known)
    if len(weights) == 1:
        ((name, weight),) = weights.items()
        return weight * _normalized(nearest(ours[0], theirs[0], metric=VECTORS[name][1])[0])
    step = max(1, _BLOCK // len(known))
    parts = [[(a[i : i + step], b) for a, b in zip(ours, theirs)] for i in range(0, len(samples), step)]
    return np.concatenate([_blended(weights, part).min(1) for part in parts])


def stability(e_above_hull_ev: np.ndarray, *, intercept_ev: float = HULL_INTERCEPT_EV_PER_ATOM) -> np.ndarray:
    """1 on the hull or below it, falling linearly to 0 at the intercept (eV/atom); 0 where the energy is NaN: (m,)."""
    return np.nan_to_num(np.clip(1 - np.asarray(e_above_hull_ev, float) / intercept_ev, 0, 1), nan=0.0)


def continuous_sun(stability: np.ndarray, uniqueness: np.ndarray, novelty: np.ndarray) -> float:
    """Mean over samples of stability x uniqueness x novelty, each (m,) in [0, 1]; zeros and ones give back S.U.N."""
    parts = [np.asarray(part, float) for part in (stability, uniqueness, novelty)]
    if len({part.shape for part in parts}) > 1 or parts[0].ndim != 1:
        raise ValueError(f"continuous_sun: shapes {[part.shape for part in parts]}, expected three times (m,)")
    return float(np.prod(parts, axis=0).mean())


def local_novelty_distance(samples: PDD, known: PDD) -> tuple[np.ndarray, np.ndarray]:
    """Earth mover's distance of each sample's PDD to the nearest of the known, exactly, and which that is: (m,), (m,).

    The smallest distance to what is known, in Å (Widdowson and Kurlin, arXiv 2410.13796, 2024), here between PDDs. The
    distance of the mean rows is never larger, so that crystals are tried in its order until none can be nearer.
    """
    from scipy.spatial import cKDTree

    ours, theirs = _mean_rows(samples), _mean_rows(known)
    tree, total = cKDTree(theirs), len(theirs)
    best, which = np.full(len(ours), np.inf), np.zeros(len(ours), int)
    todo, seen, width = np.arange(len(ours)), 0, 4
    while len(todo) and seen < total:
        width = min(width, total)
        bound, index = (x.reshape(len(todo), width) for x in tree.query(ours[todo], k=width, p=np.inf))
        row, column = np.nonzero((bound < best[todo, None]) & (np.arange(width) >= seen))
        found = np.full(bound.shape, np.inf)
        found[row, column] = emd(samples, known, np.stack([todo[row], index[row, column]], -1))
        pick = found.argmin(1)
        nearer = found.min(1) < best[todo]
        best[todo[nearer]], which[todo[nearer]] = found.min(1)[nearer], index[nearer, pick[nearer]]
        todo, seen, width = todo[bound[:, -1] < best[todo]], width, 4 * width
    return best, which


def _mean_rows(pdds: PDD) -> np.ndarray:
    """The AMD of each PDD: (m, k)."""
    start = np.cumsum(pdds.sizes) - pdds.sizes
    return np.add.reduceat(pdds.weights[:, None] * pdds.distances, start)


def _vectors(distance: str | Mapping[str, float], dataset: Dataset) -> tuple[Mapping[str, float], list[np.ndarray]]:
    """The weights by name and the vectors of a data set for each."""
    weights = {distance: 1.0} if isinstance(distance, str) else distance
    unknown = [name for name in weights if name not in VECTORS]
    if unknown or not weights:
        raise ValueError(f"distance: {unknown or 'none'} given; expected names out of {sorted(VECTORS)}")
    return weights, [VECTORS[name][0](dataset) for name in weights]


def _blended(weights: Mapping[str, float], pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The weighted sum of normalized distances of all pairs of two blocks."""
    terms = zip(weights.items(), pairs)
    return sum(w * _normalized(pairwise(a, b, metric=VECTORS[name][1])) for (name, w), (a, b) in terms)


def _normalized(distance: np.ndarray) -> np.ndarray:
    return distance / (1 + distance)


def crystal_amd(
    crystal: Crystal, *, k: int = NEIGHBORS, images: tuple[int, int, int] = (3, 3, 3)
) -> tuple[Array, Array]:
    """Average minimum distances of one crystal as a pure function of it, (k,) Å, and whether they are complete.

    `images` cells a side along each axis are static; where a neighbor may lie outside them the second answer is False
    and the distances are upper bounds. Differentiable where no two neighbor distances change order; empty slots of
    the crystal count for nothing.
    """
    shifts = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in images), indexing="ij"), -1).reshape(-1, 3)
    real = site_mask(crystal.occupancy) > 0
    sites = len(crystal.frac)
    if sites * len(shifts) <= k:
        raise ValueError(f"images: {images} cells a side of {sites} sites hold fewer than k = {k} neighbors")
    offset = crystal.frac[None] - crystal.frac[:, None]
    offset = offset - jax.lax.stop_gradient(jnp.round(offset))
    vector = (offset[:, :, None] + jnp.asarray(shifts, offset.dtype)[None, None]) @ crystal.lattice
    own = np.eye(sites, dtype=bool)[:, :, None] & (shifts == 0).all(-1)[None, None]
    counts = real[None, :, None] & ~own
    square = jnp.where(counts, (vector**2).sum(-1), jnp.inf).reshape(sites, -1)
    shown = -jax.lax.top_k(-square, k)[0]
    rows = jnp.sqrt(jnp.where(real[:, None] & jnp.isfinite(shown), shown, 1.0))
    share = real.astype(rows.dtype) / real.sum().astype(rows.dtype)
    covered = ((jnp.asarray(images, rows.dtype) + 0.5) * plane_spacings(crystal.lattice)).min()
    complete = (jnp.where(real, shown[:, -1], 0.0) <= covered**2).all()
    return (share[:, None] * rows).sum(0), complete


def novelty_energy(
    known_amd: np.ndarray,
    known_compositions: np.ndarray,
    *,
    composition_weight: float = 0.1,
    temperature_angstrom: float = 0.1,
    images: tuple[int, int, int] = (3, 3, 3),
) -> Callable[[Crystal], Array]:
    """Minus a soft distance to the nearest known crystal, a scalar in Å to be minimized: `Crystal -> ()`.

    The distance is that of AMDs, (p, k) known, plus `composition_weight` (Å a place on the Pettifor scale) times ElMD,
    (p, NUM_SPECIES) known. The maximum over k and the minimum over the known are logarithms of sums of exponentials at
    `temperature_angstrom`: the value is off the hard one by at most temperature x (ln p + ln 2k) and has a gradient.
    Choose `images` so that `crystal_amd` calls its answer complete.
    """
    if len(known_amd) != len(known_compositions) or not len(known_amd):
        raise ValueError(
            f"novelty_energy: {len(known_amd)} AMDs and {len(known_compositions)} compositions, expected as many"
        )
    rows, places, k = np.asarray(known_amd), elmd_coordinates(np.asarray(known_compositions)), known_amd.shape[1]

    def energy(crystal: Crystal) -> Array:
        own, _ = crystal_amd(crystal, k=k, images=images)
        sharp = jnp.asarray(1 / temperature_angstrom, own.dtype)
        apart = (jnp.asarray(rows, own.dtype) - own[None]) * sharp
        structure = jax.nn.logsumexp(jnp.concatenate([apart, -apart], 1), axis=1)
        place = elmd_coordinates(crystal.occupancy.sum(0)).astype(own.dtype)
        composition = jnp.abs(jnp.asarray(places, own.dtype) - place[None]).sum(1) * sharp * composition_weight
        return jax.nn.logsumexp(-structure - composition) / sharp

    return energy
