"""How far a crystal lies from what a model was trained on.

The distance is Mahalanobis' in the features that the predictions are made of (Lee et al., NeurIPS 2018): the variance
that Bayesian linear regression on these features would report grows with its square (`heads.aware`). Features of an
element that training never saw are arbitrary, so the elements are counted as well. Ensembles alone do not know: their
members agree where all of them extrapolate alike.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, num_sites
from crysjax.crystallography.contacts import MIN_CLOSENESS, closest

ENOUGH = 100  # training crystals that contain an element, from where on one more tells little
MAX_CLOSENESS = 1.35
"""Closest contact over the sum of the radii that one in two thousand of MP-20's training crystals exceeds."""

STRAIN = 8.0
"""Novelty per logarithm of a closest contact outside its bounds: 5 % outside cost as much as 30 % in the distance."""

SHRINKAGE = 0.01  # of the features' covariance towards a multiple of the unit matrix


def known(features: np.ndarray, contains: np.ndarray) -> dict[str, np.ndarray]:
    """What `score` needs to know of the training set.

    Args:
        features: (N, d) of its crystals.
        contains: (N, NUM_SPECIES) which elements each has.

    Returns:
        `center` (d,) and `root` (d, d): `|root @ (f - center)|² / d` is the squared distance, 1 on average over the
        training set; `rarity` (NUM_SPECIES,): 0 for an element of 100 crystals or more, ln 101 for an unseen one.
    """
    features = np.asarray(features, np.float64)
    width, center = features.shape[1], features.mean(0)
    covariance = np.cov(features, rowvar=False).reshape(width, width)
    covariance += SHRINKAGE * np.trace(covariance) / width * np.eye(width)
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    count = np.asarray(contains, float).sum(0)
    rarity = np.maximum(np.log((ENOUGH + 1) / (count + 1)), 0)
    return {"center": center, "root": root, "rarity": rarity}


def score(stats: dict[str, Array], features: Array, pack: Pack) -> Array:
    """Logarithm of the distance of each crystal's features, plus the rarity of its rarest element: (b, d) -> (b,).

    Features saturate where atoms are fused or far apart, so a closest contact outside of what crystals have adds
    `STRAIN` times the logarithm of how far outside it is. It has no slope.
    """
    there = (num_sites(pack) > 0) & jnp.isfinite(features).all(-1)
    moved = jnp.where(there[:, None], features, stats["center"][None]) - stats["center"][None]
    square = jnp.square(moved @ stats["root"].T).mean(-1)
    of_site = (pack.occupancy * stats["rarity"][None, : pack.occupancy.shape[1]]).sum(-1)
    rarest = jnp.maximum(jax.ops.segment_max(of_site, pack.owner, len(pack.lattice)), 0)
    return jnp.where(there, 0.5 * jnp.log(jnp.maximum(square, 1e-6)) + rarest + STRAIN * strain(pack), 0)


def strain(pack: Pack) -> Array:
    """By how much, as a logarithm, the closest contact of each crystal is out of bounds, 0 within them: (b,)."""
    closeness = jnp.clip(closest(jax.lax.stop_gradient(pack)).closeness, 1e-3, 1e3)
    return jnp.maximum(jnp.log(MIN_CLOSENESS / closeness), 0) + jnp.maximum(jnp.log(closeness / MAX_CLOSENESS), 0)


def contained(numbers: np.ndarray, num_atoms: np.ndarray) -> np.ndarray:
    """Which elements each crystal contains: atomic numbers of all sites, (sites,), and sizes (m,) -> (m, s) bool."""
    out = np.zeros((len(num_atoms), NUM_SPECIES), bool)
    out[np.repeat(np.arange(len(num_atoms)), num_atoms), numbers.astype(int) - 1] = True
    return out
