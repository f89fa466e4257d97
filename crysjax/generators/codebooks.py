"""Vector quantization: vectors of crystals replaced by the nearest entries of learned codebooks, one per group.

van den Oord et al. 2017. Every function is pure: what a codebook needs beyond gradients, the usage of its entries, is
counted within one pack. Shapes: b crystals, m groups (codes per crystal), k entries of a codebook, w numbers per entry.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Pack, num_sites
from crysjax.generators import coordinates


def nearest(vectors: Array, codebook: Array) -> Array:
    """The nearest entry by squared distance: (b, m, w), (m, k, w) -> (b, m) int32."""
    distance = jnp.square(vectors[:, :, None] - codebook[None]).sum(-1)
    return jnp.argmin(distance, -1).astype(jnp.int32)


def look_up(codes: Array, codebook: Array) -> Array:
    """The entries of the codes: (b, m), (m, k, w) -> (b, m, w)."""
    return codebook[jnp.arange(codebook.shape[0])[None], codes]


def straight_through(vectors: Array, entries: Array) -> Array:
    """`entries`, with the gradient handed on to `vectors` as it is (van den Oord et al., section 3.2)."""
    return vectors + jax.lax.stop_gradient(entries - vectors)


def perplexity(codes: Array, weight: Array, entries: int) -> Array:
    """exp of the entropy of each group's usage: (b, m), (b,) weights -> (m,); K if all are used alike, 1 if one is."""
    share = _usage(codes, weight, entries) / jnp.maximum(weight.sum(), 1)
    return jnp.exp(-jax.scipy.special.xlogy(share, share).sum(-1))


def _usage(codes: Array, weight: Array, entries: int) -> Array:
    """How often each entry is used: (m, k)."""
    return (jax.nn.one_hot(codes, entries, dtype=weight.dtype) * weight[:, None, None]).sum(0)


def revival(key: Array, codebook: Array, vectors: Array, codes: Array, pack: Pack) -> Array:
    """Mean squared distance of each entry that the pack leaves unused to the vector of a random crystal of the pack.

    The pure form of the random restarts of dead entries of Dhariwal et al. 2020.
    """
    entries = codebook.shape[1]
    unused = (_usage(codes, real_crystals(pack), entries) == 0).astype(codebook.dtype)
    target = random_vectors(key, vectors, pack, entries)
    return (unused[:, :, None] * jnp.square(codebook - target)).mean()


def random_vectors(key: Array, vectors: Array, pack: Pack, count: int) -> Array:
    """`count` vectors per group, each of a random crystal of the pack: (b, m, w) -> (m, count, w)."""
    groups = vectors.shape[1]
    crystal = jax.random.categorical(key, jnp.log(real_crystals(pack)), shape=(groups, count))
    return vectors[crystal, jnp.arange(groups)[:, None]]


def statistics(vectors: Array, pack: Pack) -> tuple[Array, Array]:
    """Mean and standard deviation over the crystals of a pack, 1 where there is none: (b, f) -> (f,) twice."""
    mean_of = jax.vmap(coordinates.mean_over_crystals, (1, None))
    mean = mean_of(vectors, pack)
    variance = mean_of(jnp.square(vectors - mean[None]), pack)
    spread = variance > 1e-12
    return mean, jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1)), 1)


def real_crystals(pack: Pack) -> Array:
    """1 for a slot that holds a crystal: (b,)."""
    return (num_sites(pack) > 0).astype(pack.frac.dtype)
