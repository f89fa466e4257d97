"""From orbits to the slots of a pack: what a template says by kinds of sites, where sites go, and free lattices."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Orbits, Pack, one_hot, site_mask
from crysjax.generators.wyckoff.wyckoff_rules import integers
from crysjax.geometry import symmetry

ATOM_VOLUME = 15.0  # Å^3, where lattice coordinates have their zero
LATTICE_SCALE = 0.3
_ANGLES = (20.0, 160.0)  # degrees; what alpha and beta may be
_MARGIN = 2.0  # degrees between gamma and where the cell would be flat


class Kinds(NamedTuple):
    """The sites of a template by species row: sites with the same row are of one kind, kinds ascend by mean Z.

    Leaves lead with the crystal; `m` slots per crystal, in the order of the pack.
    """

    count: Array  # (b, k) int32 sites of each kind
    rows: Array  # (b, k, s) bool: the elements that a kind may take
    kind: Array  # (b, m) int32 of each slot; -1 = no such site
    rank: Array  # (b, m) int32: how many slots of the same kind come before
    fits: Array  # (b,) bool: not more than m sites and k kinds
    place: tuple[Array, Array]  # (n,), (n,) int32: crystal and slot of each site of the pack


def kinds(template: Pack, sites: int, most: int) -> Kinds:
    """The kinds of every crystal of a pack, for up to `sites` sites and `most` kinds per crystal."""
    n, b = len(template.frac), len(template.lattice)
    real = site_mask(template.occupancy) > 0
    owner = jnp.where(real, template.owner, b)
    order = jnp.argsort(owner, stable=True)
    total = jnp.zeros(b + 1, jnp.int32).at[owner].add(1)
    slot = jnp.zeros(n, jnp.int32).at[order].set(integers(n))
    slot = slot - (jnp.cumsum(total) - total).astype(jnp.int32)[owner]
    index = jnp.full((b, sites), n, jnp.int32).at[owner, slot].set(integers(n), mode="drop")
    allowed = jnp.concatenate([template.occupancy > 0, jnp.zeros_like(template.occupancy[:1], bool)])[index]
    count, rows, kind, rank, number = jax.vmap(lambda rows: _of_crystal(rows, most))(allowed)
    place = jnp.minimum(owner, b - 1), jnp.minimum(slot, sites - 1)
    return Kinds(count, rows, kind, rank, (number <= most) & (total[:b] <= sites), place)


def _of_crystal(allowed: Array, most: int) -> tuple[Array, ...]:
    """Of the elements each slot allows, (m, s) bool: counts, rows, kind and rank of slots, and the number of kinds."""
    used, slots = allowed.any(-1), integers(len(allowed))
    alike = (allowed[:, None] == allowed[None]).all(-1) & used[:, None] & used[None]
    first = jnp.argmax(alike, -1).astype(jnp.int32)
    leads = used & (first == slots)
    z = jnp.where(allowed, 1000 * integers(1, allowed.shape[1] + 1)[None], 0).sum(-1)
    z = z // jnp.maximum(allowed.sum(-1, dtype=z.dtype), 1)
    before = (z[None] < z[:, None]) | ((z[None] == z[:, None]) & (slots[None] < slots[:, None]))
    kind = jnp.where(used, (before & leads[None]).sum(-1)[first], -1).astype(jnp.int32)
    rank = (alike & (slots[None] < slots[:, None])).sum(-1).astype(jnp.int32)
    of_kind = kind[None] == integers(most)[:, None]
    rows = (of_kind[..., None] & allowed[None]).any(1)
    return of_kind.sum(-1).astype(jnp.int32), rows, kind, rank, leads.sum()


def fill(orbits: Orbits, of_orbit: Array, this: Kinds, template: Pack) -> Pack:
    """The pack of drawn orbits, leaves (b, ...), in primitive cells; `of_orbit` (b, l) is the kind of each orbit.

    The sites of a kind go to the slots of this kind, in order. A crystal that does not fit is NaN.
    """
    frac, number = jax.vmap(_slots)(orbits, of_orbit, this.kind, this.rank)
    lattice = jax.vmap(symmetry.lattice_from_free)(orbits.group, orbits.lattice)
    lattice = jax.vmap(symmetry.primitive_lattice)(orbits.group, lattice)
    used, real = (this.kind >= 0).any(-1), site_mask(template.occupancy)
    nothing = jnp.asarray(jnp.nan, frac.dtype)
    frac = jnp.where(this.fits[:, None, None], frac, nothing)[this.place]
    unit = jnp.broadcast_to(jnp.eye(3, dtype=lattice.dtype), lattice.shape)
    lattice = jnp.where(this.fits[:, None, None], jnp.where(used[:, None, None], lattice, unit), nothing)
    rows = one_hot(number[this.place], template.occupancy.dtype) * real[:, None]
    return template._replace(occupancy=rows, frac=jnp.where(real[:, None] > 0, frac, 0), lattice=lattice)


def _slots(orbits: Orbits, of_orbit: Array, kind: Array, rank: Array) -> tuple[Array, Array]:
    """Fractions of the primitive cell (m, 3) and atomic numbers (m,) of the slots of one crystal."""
    sites, mask = jax.vmap(symmetry.orbit, (None, 0, 0))(orbits.group, orbits.letter, orbits.u)
    real = ((mask > 0) & (orbits.number > 0)[:, None]).reshape(-1)
    each = jnp.where(real, jnp.repeat(of_orbit, symmetry.MAX_OPERATIONS), -2)
    alike = each[:, None] == kind[None]  # (sites, m)
    rank_of_site = jnp.cumsum(alike, 0, dtype=jnp.int32) - 1
    source = jnp.argmax(alike & (rank_of_site == rank[None]), 0).astype(jnp.int32)
    frac = symmetry.to_primitive(orbits.group, sites.reshape(-1, 3)[source])
    return frac, jnp.where(kind >= 0, orbits.number[source // symmetry.MAX_OPERATIONS], 0)


def lattice_coordinates(orbits: Orbits, sites: Array) -> Array:
    """Free numbers (6,) of conventional lattice parameters, of about unit size; `sites` in the primitive cell.

    Logarithms of the lengths over that of the cube of `ATOM_VOLUME` an atom, and logits of angles within their range.
    Entries that the group fixes are 0.
    """
    lengths, (alpha, beta, gamma) = orbits.lattice[:3], orbits.lattice[3:]
    free = jnp.asarray(symmetry.table().lattice_free)[orbits.group]
    low, high = _gamma_range(alpha, beta)
    shares = [(x - _ANGLES[0]) / (_ANGLES[1] - _ANGLES[0]) for x in (alpha, beta)] + [(gamma - low) / (high - low)]
    share = jnp.clip(jnp.stack(shares), 0.01, 0.99)
    raw = jnp.concatenate([jnp.log(lengths) - _log_edge(orbits.group, sites, lengths), jnp.log(share / (1 - share))])
    return jnp.where(free, raw / LATTICE_SCALE, 0)


def lattice_parameters(group: Array, coordinates: Array, sites: Array) -> Array:
    """The inverse of `lattice_coordinates`: (6,) -> a, b, c in Å, alpha, beta, gamma in degrees, never a flat cell."""
    raw = coordinates * LATTICE_SCALE
    share = jax.nn.sigmoid(raw[3:])
    alpha, beta = _ANGLES[0] + (_ANGLES[1] - _ANGLES[0]) * share[:2]
    low, high = _gamma_range(alpha, beta)
    lengths = jnp.exp(raw[:3] + _log_edge(group, sites, raw))
    return jnp.concatenate([lengths, jnp.stack([alpha, beta, low + (high - low) * share[2]])])


def _gamma_range(alpha: Array, beta: Array) -> tuple[Array, Array]:
    """Between which angles gamma leaves the cell a volume."""
    return jnp.abs(alpha - beta) + _MARGIN, jnp.minimum(alpha + beta, 360 - alpha - beta) - _MARGIN


def _log_edge(group: Array, sites: Array, like: Array) -> Array:
    atoms = sites.astype(like.dtype) * jnp.asarray(symmetry.table().centering, like.dtype)[group]
    return (jnp.log(jnp.maximum(atoms, 1)) + np.log(ATOM_VOLUME).item()) / 3
