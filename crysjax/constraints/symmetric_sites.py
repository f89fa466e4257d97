"""A given space group in any sampler: every site is an image of the first of its orbit, and every cell has the group.

Which orbits a crystal has is chosen on the host, before anything is drawn (`constraints.space_group`); here they are
one affine map per site, `frac = M u + c`, in the primitive cell of the standard setting. A sampler of fields keeps them
at every step (`average` what the network says, `keep` what the step makes of it), as DiffCSP++ (Jiao et al. 2024) does
with orbits that it takes from templates; any other sample is put into place once (`settle`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, SymmetricSites
from crysjax.geometry import symmetry, torus

_IMAGES = torus.AROUND[np.argsort(torus.AROUND.any(-1), kind="stable")]  # the home cell first: it wins ties


def average(sites: SymmetricSites | None, tangent: Array) -> Array:
    """Vectors at the sites, (n, 3) or (n, 3 k) of several, made one a free direction of each orbit: their mean."""
    if sites is None:
        return tangent
    each = tangent.reshape(len(tangent), -1, 3)
    pulled = jnp.einsum("nij,nkj->nki", sites.solve.astype(each.dtype), each)
    mean = _mean(sites, pulled)
    return jnp.einsum("nij,nkj->nki", sites.linear.astype(each.dtype), mean).reshape(tangent.shape)


def shared(sites: SymmetricSites | None, values: Array) -> Array:
    """The mean over each orbit, at every site of it: (n, ...) -> (n, ...)."""
    return values if sites is None else _mean(sites, values)


def of_first(sites: SymmetricSites | None, values: Array) -> Array:
    """What the first site of each orbit has, at every site of it: (n, ...) -> (n, ...)."""
    return values if sites is None else values[sites.first]


def positions(sites: SymmetricSites | None, frac: Array) -> Array:
    """Every site where the first of its orbit puts it, that one on the nearest point of its position: (n, 3) -> (n, 3).

    Nearest by fractions, among periodic images, so that sites in place stay where they are.
    """
    if sites is None:
        return frac
    linear, solve, offset = (m.astype(frac.dtype) for m in (sites.linear, sites.solve, sites.offset))
    images = torus.log(frac - offset)[:, None] + jnp.asarray(_IMAGES, frac.dtype)[None]  # (n, 27, 3)
    u = jnp.einsum("nij,nkj->nki", solve, images)
    missed = jnp.square(images - jnp.einsum("nij,nkj->nki", linear, u)).sum(-1)
    # the first of equals, whatever their rounding
    best = jnp.argmax(jax.lax.stop_gradient(missed <= missed.min(-1, keepdims=True) + 1e-6), -1)
    u = jnp.take_along_axis(u, best[:, None, None], 1)[:, 0]
    return torus.wrap(jnp.einsum("nij,nj->ni", linear, u[sites.first]) + offset)


def cells(sites: SymmetricSites | None, lattice: Array) -> Array:
    """Primitive lattices with the metric averaged over the point group: (b, 3, 3) in Å -> (b, 3, 3)."""
    if sites is None:
        return lattice

    def one(group: Array, cell: Array) -> Array:
        conventional = symmetry.conventional_lattice(group, cell)
        return symmetry.primitive_lattice(group, symmetry.symmetrize_lattice(group, conventional))

    return jax.vmap(one)(sites.group, lattice)


def settle(sites: SymmetricSites | None, pack: Pack) -> Pack:
    """The crystals with their groups: each orbit goes where its first site is, and has its species."""
    if sites is None:
        return pack
    return pack._replace(
        occupancy=of_first(sites, pack.occupancy),
        frac=positions(sites, pack.frac),
        lattice=cells(sites, pack.lattice),
    )


def _mean(sites: SymmetricSites, values: Array) -> Array:
    total = jax.ops.segment_sum(values, sites.first, len(values))
    count = jax.ops.segment_sum(jnp.ones_like(sites.first, values.dtype), sites.first, len(values))
    return (total / jnp.maximum(count, 1).reshape(-1, *[1] * (values.ndim - 1)))[sites.first]
