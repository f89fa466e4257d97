"""The closest two atoms of a crystal, measured by the radii of the pair: the one test for atoms that are too close.

The measure is the distance of two atoms, periodic images included, over the sum of their covalent radii (Cordero et al.
2008). Of MP-20's validation and test parts 99.94 % and 99.98 % stay at or above `MIN_CLOSENESS`; what lies below are
seven crystals with bonds of actinides or cerium (U-U, Np-Np, Pu-Pu, Ce-Ce, Fe-U, Ce-Ru). Uranyl's U-O (0.68) and V=O
(0.73) are the shortest of the common bonds, pairs of ions and of metals lie between 0.72 and 1.1, and a hydrogen bond
is longer than a covalent one, so that one bound serves them all (`experiments/soundness`). The test works on the
reduced cell: how a cell is described does not matter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, numbers, site_mask
from crysjax.chemistry.element_properties import covalent_radii_angstrom
from crysjax.chemistry.elements import SYMBOLS
from crysjax.data import batching
from crysjax.data.datasets import Dataset
from crysjax.geometry.selling import selling
from crysjax.geometry.torus import AROUND

MIN_CLOSENESS = 0.67
"""Distance of two atoms over the sum of their covalent radii, below which they are too close."""

TOO_CLOSE = "sites too close"
"""What a ledger says of such a crystal; `said` has the numbers."""


class Contact(NamedTuple):
    """The closest two atoms of each crystal, relative to their radii; row for row, (b,) each."""

    closeness: Array  # distance over the sum of the radii; infinite for an unused slot
    distance_angstrom: Array  # of that pair
    first: Array  # int32 atomic numbers of the pair, the smaller one first
    second: Array
    shortest_angstrom: Array  # of any pair, whatever their radii


@lru_cache(maxsize=1)
def radii_angstrom() -> np.ndarray:
    """Covalent radii; the elements beyond curium, which have none, take curium's: (NUM_SPECIES,) float32."""
    radii = covalent_radii_angstrom()
    return np.where(np.isnan(radii), radii[95], radii).astype(np.float32)


def closest(pack: Pack) -> Contact:
    """The closest contact of each crystal of a pack, a site's own images included. Undefined where not finite."""
    cell, change = selling(pack.lattice)
    frac = jnp.einsum("ni,nij->nj", pack.frac, jnp.linalg.inv(change)[pack.owner])
    i, j = pack.pairs[:, 0], pack.pairs[:, 1]
    difference = frac[i] - frac[j]
    shifted = (difference - jnp.round(difference))[:, None] + jnp.asarray(AROUND, frac.dtype)[None]
    of_pair = jnp.where(pack.pair_mask > 0, _least(shifted, cell[pack.owner[i]]), jnp.inf)
    own = jnp.broadcast_to(jnp.asarray(AROUND[AROUND.any(-1)], frac.dtype), (len(cell), 26, 3))
    of_site = jnp.where(site_mask(pack.occupancy) > 0, _least(own, cell)[pack.owner], jnp.inf)
    distance = jnp.concatenate([of_pair, of_site])
    site = jnp.arange(len(frac), dtype=i.dtype)
    return _of_each(pack, distance, jnp.concatenate([i, site]), jnp.concatenate([j, site]))


def _of_each(pack: Pack, distance: Array, i: Array, j: Array) -> Contact:
    """The smallest of all distances between the sites `i` and `j`, by crystal."""
    owner, crystals, z = pack.owner[i], len(pack.lattice), numbers(pack.occupancy)
    radius = pack.occupancy @ jnp.asarray(radii_angstrom(), pack.occupancy.dtype)
    ratio = jnp.where(jnp.isinf(distance), jnp.inf, distance / jnp.maximum(radius[i] + radius[j], 1e-3))
    least = jax.ops.segment_min(ratio, owner, crystals)
    order = jnp.arange(len(ratio), dtype=jnp.int32)
    place = jax.ops.segment_min(jnp.where(ratio <= least[owner], order, len(ratio) - 1), owner, crystals)
    place = jnp.clip(place, 0, len(ratio) - 1)
    pair = jnp.sort(jnp.stack([z[i[place]], z[j[place]]]), 0)
    shortest = jax.ops.segment_min(distance, owner, crystals)
    return Contact(least, distance[place], pair[0], pair[1], shortest)


def _least(shifted: Array, lattice: Array) -> Array:
    """Length in Å of the shortest of several fractional vectors: (p, m, 3), (p, 3, 3) -> (p,)."""
    return jnp.sqrt(jnp.square(jnp.einsum("pmi,pij->pmj", shifted, lattice)).sum(-1).min(-1))


def contacts(dataset: Dataset) -> Contact:
    """The same of every crystal of a data set, as NumPy arrays (m,); all have to be finite and have a volume."""
    return batching.each_crystal(jax.jit(closest), dataset)


def apart(contact: Contact) -> Array:
    """Whether the closest two atoms of each crystal are far enough from one another: (b,) bool; NaN is not."""
    return contact.closeness >= MIN_CLOSENESS


def said(contact: Contact, row: int) -> str:
    """The closest contact in words: "Li-Ti 1.26 Å; expected at least 1.93 Å"."""
    pair = [int(np.asarray(z)[row]) for z in (contact.first, contact.second)]
    expected = MIN_CLOSENESS * sum(float(radii_angstrom()[z - 1]) for z in pair)
    names = "-".join(SYMBOLS[z - 1] for z in pair)
    return f"{names} {float(np.asarray(contact.distance_angstrom)[row]):.2f} Å; expected at least {expected:.2f} Å"
