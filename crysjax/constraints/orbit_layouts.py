"""Layouts of Wyckoff positions as fixed tables: which site of a crystal is which image of which free point.

A layout is a space group and the positions that are occupied, such as "221 a b c" for a perovskite. With the table of
`geometry.symmetry` it becomes one affine map per site, `frac = M u + c` in the primitive cell of the standard setting,
with u the free point of the site's orbit: sites that are made so have the symmetry, whatever u is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, num_sites, site_mask
from crysjax.geometry import symmetry, torus


class Layouts(NamedTuple):
    """Host arrays of `l` layouts with at most `k` sites; the last layout is "no symmetry", for any number of sites."""

    group: np.ndarray  # (l,) space group, 1 for the last
    size: np.ndarray  # (l,) sites, 0 for the last
    linear: np.ndarray  # (l, k, 3, 3) M
    offset: np.ndarray  # (l, k, 3) c
    first: np.ndarray  # (l, k) the first site of the orbit that a site belongs to


class Placed(NamedTuple):
    """Where the sites of a pack stand in the layouts of their crystals."""

    layout: Array  # (b,) row of `Layouts`
    slot: Array  # (n,) place in the layout
    first: Array  # (n,) the site that is the first of the orbit


def table(names: tuple[str, ...]) -> Layouts:
    """The tables of layouts written as "GROUP LETTER LETTER ...", orbits in the order of their size.

    Raises:
        ValueError: if a name is not of this form, or the group has no such position.
    """
    rows = [_layout(name) for name in names]
    width = max([len(row[2]) for row in rows], default=1)
    none = (1, 0, np.tile(np.eye(3), (width, 1, 1)), np.zeros((width, 3)), np.arange(width))
    padded = [(group, size, *(_padded(x, width) for x in rest)) for group, size, *rest in rows]
    return Layouts(*(np.stack(column) for column in zip(*padded, none)))


def _padded(x: np.ndarray, width: int) -> np.ndarray:
    return np.concatenate([x, np.zeros((width - len(x), *x.shape[1:]), x.dtype)])


def _layout(name: str) -> tuple:
    number, *letters = str(name).split()
    if not number.isdigit() or not letters:
        raise ValueError(f"layouts: {name!r}; expected a space group and its positions, such as '221 a b c'")
    group, sites = int(number), symmetry.table().sites
    where = sorted((symmetry.index(group, letter) for letter in letters), key=lambda k: sites[group, k])
    linear, offset, first = maps(group, where)
    return group, len(first), linear, offset, first


def maps(group: int, letters: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the sites of some orbits (letters by number, a = 0): M (k, 3, 3), c (k, 3) and the first of its orbit (k,)."""
    known = symmetry.table()
    back = np.linalg.inv(known.primitive[group]).T  # columns of conventional fractions -> of primitive ones
    linear, offset, first = [], [], []
    for k in letters:
        for operation in known.orbits[group, k, : known.sites[group, k]]:
            turn, shift = known.rotations[group, operation], known.translations[group, operation]
            linear.append(back @ turn @ known.linear[group, k])
            offset.append(back @ (turn @ known.offset[group, k] + shift))
        first += [len(first)] * int(known.sites[group, k])
    return np.stack(linear), np.stack(offset), np.array(first)


def place(layouts: Layouts, pack: Pack, group: Array, order: Array, choice: Array, log_weight: Array) -> Placed:
    """Give every crystal a layout that fits it, and every site a place in it.

    A layout fits if it has as many sites as the crystal, the group that is asked for (0: any) and orbits whose sites
    all have the same species row. Sites with a rare row come first, as small orbits do; rows that are equally common
    are put in the order of `order` (b, s), random numbers per crystal and species. Among the fitting layouts one is
    drawn with the weights given, by `choice` (b, l) Gumbel noise; where none fits there is no symmetry.
    """
    row, real = pack.occupancy, site_mask(pack.occupancy) > 0
    i, j = pack.pairs[:, 0], pack.pairs[:, 1]
    alike = (jnp.abs(row[i] - row[j]).max(-1) < 1e-6).astype(row.dtype) * pack.pair_mask.astype(row.dtype)
    count = sum(jax.ops.segment_sum(alike, end, len(row)) for end in (i, j))
    rank = (row * order[pack.owner]).sum(-1)
    crystal = jnp.where(real, pack.owner, len(pack.lattice))
    by_place = jnp.lexsort((rank, count, crystal))
    start = (jnp.cumsum(num_sites(pack)) - num_sites(pack)).astype(jnp.int32)
    place_of = jnp.zeros(len(row), jnp.int32).at[by_place].set(jnp.arange(len(row), dtype=jnp.int32))
    slot = jnp.where(real, place_of - start[pack.owner], 0)
    last = jnp.asarray(layouts.first).shape[1] - 1
    within = jnp.clip(slot, 0, last)

    def site_at(layout: Array, k: Array) -> Array:
        """The site of each site's crystal in the place where the orbit of place k begins."""
        return by_place[jnp.clip(start[pack.owner] + jnp.asarray(layouts.first)[layout, k], 0, len(row) - 1)]

    def fits(layout: Array) -> Array:
        same = jnp.abs(row - row[site_at(layout, within)]).max(-1) < 1e-6
        whole = jax.ops.segment_min((same | ~real).astype(jnp.int32), pack.owner, len(pack.lattice)) > 0
        right = (group == 0) | (group == jnp.asarray(layouts.group)[layout])
        return whole & right & (num_sites(pack) == jnp.asarray(layouts.size, row.dtype)[layout])

    total = len(layouts.size)
    fitting = jnp.stack([fits(jnp.asarray(k)) for k in range(total - 1)] + [jnp.ones_like(group, bool)], -1)
    none = jnp.arange(total) == total - 1
    drawn = jnp.where(fitting, jnp.where(none, -1e6, log_weight)[None] + choice, -jnp.inf)
    layout = jnp.argmax(drawn, -1).astype(jnp.int32)
    free = (layout == total - 1)[pack.owner] | ~real
    here = jnp.arange(len(row), dtype=jnp.int32)
    return Placed(layout, within, jnp.where(free, here, site_at(layout[pack.owner], within)))


def expand(layouts: Layouts, placed: Placed, free: Array, owner: Array) -> Array:
    """Fractions of every site from the free point of the first of its orbit: (n, 3) -> (n, 3) in [0, 1)."""
    layout = placed.layout[owner]
    linear, offset = (jnp.asarray(x, free.dtype)[layout, placed.slot] for x in (layouts.linear, layouts.offset))
    none = (layout == len(layouts.size) - 1)[:, None]
    image = jnp.einsum("nij,nj->ni", linear, free[placed.first]) + offset
    return torus.wrap(jnp.where(none, free, image))


def symmetric_lattice(layouts: Layouts, placed: Placed, lattice: Array) -> Array:
    """The primitive lattice nearest to having the layout's group, in Å: (b, 3, 3) -> (b, 3, 3)."""

    def one(group: Array, cell: Array) -> Array:
        conventional = symmetry.conventional_lattice(group, cell)
        return symmetry.primitive_lattice(group, symmetry.symmetrize_lattice(group, conventional))

    return jax.vmap(one)(jnp.asarray(layouts.group)[placed.layout], lattice)
