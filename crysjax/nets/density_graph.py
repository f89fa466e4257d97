"""The periodic graph that cell-free backbones pass messages on, with a cutoff that follows the density.

A half-noised crystal is three times too dense or too thin, and a fixed cutoff would see hundreds of neighbors or none.
Here each crystal's cutoff is the radius of the sphere that holds `neighbors` sites on average, but at most a given one.
Edges are found in the Niggli cell, and everything depends on the volume per site and on distances alone: whichever
cell describes a crystal (a supercell, other axes, a sheared one), its sites have the same neighbors. A crystal with
more than `max_neighbors` edges per site on average is refused, whatever else is in its pack. So is one whose cutoff
reaches beyond `max_images` cells along an axis, and that does depend on the cell that is given: what counts is its own
Niggli cell, so that a thin primitive cell can be refused where a supercell of the same crystal is answered. Two
answers never differ.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, Prediction, num_sites, site_mask
from crysjax.geometry import lattice as lattices
from crysjax.geometry import neighbors as graphs
from crysjax.geometry.reduction import niggli


class DensityEdges(NamedTuple):
    """Directed edges; the second half are the reverses of the first, in the same order."""

    graph: graphs.Graph
    vector: Array  # (e, 3) from receiver to sender, cartesian, in units of the cutoff
    length: Array  # (e, 1) of the vector; 0.001 on padding
    angstrom: Array  # (e, 1) the same in Å
    envelope: Array  # (e, 1) 1 at no distance, 0 with two derivatives from the cutoff on


def reduced(pack: Pack) -> Pack:
    """The same crystals in their Niggli cells; cartesian positions stay the same up to whole cells."""
    lattice, change = niggli(pack.lattice)
    frac = jnp.einsum("ni,nij->nj", pack.frac, lattices.inverse(change)[pack.owner])
    return pack._replace(lattice=lattice, frac=frac - jnp.floor(frac))


def cutoffs(pack: Pack, neighbors: float, largest: float) -> Array:
    """Each crystal's cutoff in Å, the radius of a sphere of `neighbors` sites, `largest` at most: (b,)."""
    site_volume = lattices.volume(pack.lattice) / jnp.maximum(num_sites(pack), 1)
    return jnp.minimum(jnp.cbrt(site_volume * (0.75 * neighbors / np.pi)), largest)


def within_reach(pack: Pack, cutoff: Array, max_images: int) -> Array:
    """The cutoff where `max_images` cells per axis hold all its neighbors, else the largest one that they do: (b,)."""
    # k images hold every neighbor up to (k + 1/2) plane spacings; a little less keeps rounding out of it
    return jnp.minimum(cutoff, (max_images + 0.499) * graphs.plane_spacings(pack.lattice).min(-1))


def density_edges(pack: Pack, cutoff: Array, max_neighbors: float, max_images: int) -> DensityEdges:
    """The radius graph of a pack of reduced cells with a cutoff per crystal, (b,) in Å.

    Crystals that need more than `max_images` cells along an axis of the cell given here, or have more than
    `max_neighbors` edges per site on average, have none and `graph.overflow`.
    """
    unit = pack._replace(lattice=pack.lattice / cutoff[:, None, None])  # in units of the cutoff it is 1 everywhere
    max_edges = 2 * int(len(pack.frac) * max_neighbors // 2)
    most = jnp.floor(num_sites(pack) * max_neighbors).astype(jnp.int32)
    graph = graphs.radius_graph(unit, 1.0, max_edges=max_edges, max_images=max_images, most=most)
    vector = graphs.edge_vectors(unit, graph)
    length = jnp.sqrt(jnp.maximum(jnp.square(vector).sum(-1, keepdims=True), 1e-6))
    envelope = graph.mask[:, None] * jnp.maximum(1 - jnp.square(length), 0) ** 3
    return DensityEdges(graph, vector, length, length * cutoff[pack.owner[graph.receiver]][:, None], envelope)


def refuse(prediction: Prediction, overflow: Array, pack: Pack) -> Prediction:
    """NaN for crystals whose edges did not fit: wrong numbers would go unnoticed."""
    nan_crystal = jnp.where(overflow, jnp.nan, 0.0)[:, None]
    nan_site = nan_crystal[pack.owner] * site_mask(pack.occupancy)[:, None]
    per_crystal = {k: getattr(prediction, k) + nan_crystal for k in ("lattice", "crystal")}
    return Prediction(**per_crystal, **{k: getattr(prediction, k) + nan_site for k in ("frac", "species", "site")})
