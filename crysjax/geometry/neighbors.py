"""The one radius graph: every pair of atoms of one crystal, periodic images included, closer than a cutoff.

An edge e runs from `sender` to `receiver`; `shift` counts the cells that the sender is moved by, so that
`r_e = x_sender + shift @ lattice - x_receiver`. Both directions of an edge are listed, and always in the same place:
edge `e` and edge `e + max_edges // 2` are each other's reverse. What is even or odd under reversal (a distance, a
spherical harmonic) therefore needs computing for the first half only.

Nothing is ever left out silently: `overflow[c]` is True where crystal `c` has more edges than the arrays still hold,
or needs more cell images than the static range has, or has a lattice without volume or numbers that are not finite.
Such a crystal has no edges at all, and the others have all of theirs.
`radius_graph_host` gives the same edges by NumPy, for preparing data and for finding the sizes that the traced version
has to be given.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, site_mask
from crysjax.geometry.soundness import why_not


class Graph(NamedTuple):
    """Directed edges of a pack; padding edges have `mask` 0 and join the last site to itself."""

    sender: Array  # (e,) int32
    receiver: Array  # (e,) int32
    shift: Array  # (e, 3) int32 cells that the sender is moved by
    mask: Array  # (e,) 1 for a real edge, 0 for padding
    overflow: Array  # (b,) bool: the edges of this crystal are missing


def plane_spacings(lattice: Array) -> Array:
    """Distance between neighboring lattice planes along each axis, Å; 0 without volume: (..., 3, 3) -> (..., 3)."""
    xp = np if isinstance(lattice, np.ndarray) else jnp
    a, b, c = lattice[..., 0, :], lattice[..., 1, :], lattice[..., 2, :]
    faces = xp.stack([xp.cross(b, c), xp.cross(c, a), xp.cross(a, b)], -2)
    return xp.abs((a * faces[..., 0, :]).sum(-1))[..., None] / xp.sqrt((faces**2).sum(-1))


def needed_images(lattice: Array, cutoff: float) -> Array:
    """Cell images an axis that hold every neighbor, for fractional differences in [-1/2, 1/2]: (..., 3) float.

    A plane `k` cells away is at least `(k - 1/2) * spacing` away, so `k <= cutoff / spacing + 1/2`.
    """
    xp = np if isinstance(lattice, np.ndarray) else jnp
    return xp.floor(cutoff / plane_spacings(lattice) + 0.5)


def _image_shifts(images: tuple[int, int, int]) -> np.ndarray:
    """All shifts of the range and the home cell among them: (m, 3) int32, in lexicographic order."""
    return np.array(list(itertools.product(*(range(-k, k + 1) for k in images))), np.int32)


def radius_graph(
    pack: Pack,
    cutoff: float,
    *,
    max_edges: int,
    max_images: tuple[int, int, int] | int = (2, 2, 2),
    most: Array | None = None,
) -> Graph:
    """The radius graph as a pure, jit-able function of a pack.

    `max_edges` (even) and `max_images` (cells a side along each axis) are static. Memory and time grow with
    `pairs * images`; on a host that prepares data `radius_graph_host` is the faster one. `most`, (b,), is how many
    edges each crystal may have: where these sum up to no more than `max_edges`, overflow does not depend on which
    crystals share a pack.
    """
    if max_edges < 2 or max_edges % 2:
        raise ValueError(f"max_edges: {max_edges} is not a positive even number (both directions are listed)")
    images = (max_images,) * 3 if isinstance(max_images, int) else tuple(max_images)
    pack = jax.lax.stop_gradient(pack)
    shifts = jnp.asarray(_image_shifts(images))
    sites = len(pack.frac)
    pair, real = _all_pairs(pack)
    crystal = pack.owner[pair[:, 0]]
    site = site_mask(pack.occupancy) > 0
    used = any_by_owner(site, pack.owner, len(pack.lattice))
    strange = any_by_owner(site & ~jnp.isfinite(pack.frac).all(-1), pack.owner, len(pack.lattice))
    enough = (needed_images(pack.lattice, cutoff) <= jnp.asarray(images, pack.lattice.dtype)[None]).all(-1)
    possible = enough & ~strange

    delta = pack.frac[pair[:, 1]] - pack.frac[pair[:, 0]]
    home = -jnp.round(delta)  # brings the difference into [-1/2, 1/2]
    r2 = _squared_distances(delta + home, shifts.astype(delta.dtype), pack.lattice[crystal])
    once = (pair[:, 0] != pair[:, 1])[:, None] | _positive(shifts)[None, :]
    hit = (r2 < cutoff**2) & once & (real & possible[crystal])[:, None]

    half = max_edges // 2
    needed = jax.ops.segment_sum(hit.sum(-1), crystal, len(pack.lattice))
    allowed = jnp.ones(needed.shape, bool) if most is None else 2 * needed <= most
    fits = _that_fit(jnp.where(allowed, needed, half + 1), half)
    row, column, found = _true_entries(hit & fits[crystal][:, None], half)
    ends = jnp.where(found[:, None], pair[row], sites - 1).astype(jnp.int32)
    shift = jnp.where(found[:, None], shifts[column] + home[row].astype(jnp.int32), 0)
    return _both_ways(jnp, ends, shift, found.astype(pack.frac.dtype), used & ~(fits & possible))


def _true_entries(hit: Array, size: int) -> tuple[Array, Array, Array]:
    """Row, column and whether it exists, of the first `size` true entries in row-major order: (p, m) -> 3 x (size,).

    `jnp.nonzero` scatters every entry and takes ten times as long on a CPU. Here a row is packed into words of 32
    bits, and each place of the result looks its bit up: by the row, then the word, then the bit of its rank.
    """
    rows, width = hit.shape
    padded = jnp.pad(hit, ((0, 0), (0, -width % 32))).reshape(rows, -1, 32).astype(jnp.uint32)
    bits = jnp.arange(32, dtype=jnp.uint32)
    words = (padded << bits[None, None]).sum(-1, dtype=jnp.uint32)
    upto_word = jnp.cumsum(jax.lax.population_count(words).astype(jnp.int32), 1)
    upto_row = jnp.cumsum(upto_word[:, -1])
    place = jnp.arange(size, dtype=jnp.int32)
    row = jnp.searchsorted(upto_row, place, side="right").astype(jnp.int32)
    found, row = row < rows, jnp.minimum(row, rows - 1)
    rank = place - (upto_row[row] - upto_word[row, -1])
    word = (upto_word[row] <= rank[:, None]).sum(1)
    word = jnp.minimum(word, words.shape[1] - 1)
    chosen = words[row, word]
    rank = rank - (upto_word[row, word] - jax.lax.population_count(chosen).astype(jnp.int32))
    upto_bit = (jnp.uint32(2) << bits) - jnp.uint32(1)
    before = jax.lax.population_count(chosen[:, None] & upto_bit[None]).astype(jnp.int32)
    return row, jnp.minimum(32 * word + (before <= rank[:, None]).sum(1), width - 1), found


def _that_fit(needed: Array, room: int) -> Array:
    """Which crystals get their edges when room is given in order and whoever does not fit gets none: (b,) bool."""

    def give(left: Array, need: Array) -> tuple[Array, Array]:
        return left - jnp.where(need <= left, need, 0), need <= left

    return jax.lax.scan(give, jnp.asarray(room, needed.dtype), needed)[1]


def any_by_owner(flags: Array, owner: Array, count: int) -> Array:
    """Whether any flag of each crystal is set: (n,) bool -> (count,) bool."""
    return jax.ops.segment_sum(flags.astype(jnp.int32), owner, count) > 0


def _all_pairs(pack: Pack) -> tuple[Array, Array]:
    """Pairs i < j of the pack, then every site with itself, and which of them are real."""
    self_pair = jnp.arange(len(pack.frac), dtype=pack.pairs.dtype)
    pair = jnp.concatenate([pack.pairs, jnp.stack([self_pair, self_pair], -1)])
    return pair, jnp.concatenate([pack.pair_mask > 0, site_mask(pack.occupancy) > 0])


def _squared_distances(delta: Array, shifts: Array, lattice: Array) -> Array:
    """|(delta + shift) @ lattice|^2 for every pair and image: (p, 3), (m, 3), (p, 3, 3) -> (p, m).

    Written out component by component, so that the compiler keeps it in one loop without the vectors in memory.
    """
    f = [delta[:, None, k] + shifts[None, :, k] for k in range(3)]
    return sum(sum(f[k] * lattice[:, k, c, None] for k in range(3)) ** 2 for c in range(3))


def _positive(shifts: Array) -> Array:
    """The half of the shifts whose first non-zero entry is positive: one of T and -T."""
    a, b, c = shifts[:, 0], shifts[:, 1], shifts[:, 2]
    return (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))


def _both_ways(xp, ends, shift, mask, overflow) -> Graph:
    """Edges j -> i of the pairs (i, j), followed by their reverses in the same order."""
    sender = xp.concatenate([ends[:, 1], ends[:, 0]])
    receiver = xp.concatenate([ends[:, 0], ends[:, 1]])
    return Graph(sender, receiver, xp.concatenate([shift, -shift]), xp.concatenate([mask, mask]), overflow)


def edge_vectors(pack: Pack, graph: Graph) -> Array:
    """r_e = x_sender + shift @ lattice - x_receiver in Å, differentiable in `frac` and `lattice`: (e, 3).

    Padding edges are the zero vector: mask before taking a norm.
    """
    frac = pack.frac[graph.sender] - pack.frac[graph.receiver] + graph.shift.astype(pack.frac.dtype)
    return jnp.einsum("ei,eij->ej", frac, pack.lattice[pack.owner[graph.receiver]])


def crystal_edges(frac: np.ndarray, lattice: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Half of the edges of one crystal: pairs (i <= j), (h, 2), and the shifts of j, (h, 3). Host NumPy."""
    n = len(frac)
    shifts = _image_shifts(tuple(needed_images(lattice, cutoff).astype(int)))
    i, j = np.triu_indices(n)
    delta = frac[j] - frac[i]
    home = -np.round(delta)
    r2 = (((delta + home) @ lattice)[:, None, :] + (shifts.astype(frac.dtype) @ lattice)[None]) ** 2
    hit = (r2.sum(-1) < cutoff**2) & ((i != j)[:, None] | _positive(shifts)[None])
    row, column = np.nonzero(hit)
    return np.stack([i[row], j[row]], -1), shifts[column] + home[row].astype(np.int32)


def radius_graph_host(pack: Pack, cutoff: float, *, max_edges: int | None = None, limit_images: int = 32) -> Graph:
    """The same edges by NumPy, as many images as each cell needs; without `max_edges` the arrays just fit.

    A crystal that is not finite, has no volume or needs more than `limit_images` cells along an axis gets no edges
    and `overflow`, as do the crystals whose edges no longer fit into `max_edges`.
    """
    pack = Pack(*(np.asarray(leaf) for leaf in pack))
    real, count = pack.occupancy.sum(-1) > 0, len(pack.lattice)
    parts, overflow, room = [], np.zeros(count, bool), np.inf if max_edges is None else max_edges // 2
    for c in range(count):
        sites = np.flatnonzero(real & (pack.owner == c))
        if not len(sites):
            continue
        if not _has_finite_images(pack.frac[sites], pack.lattice[c], cutoff, limit_images):
            overflow[c] = True
            continue
        pair, shift = crystal_edges(pack.frac[sites], pack.lattice[c], cutoff)
        overflow[c] = len(pair) > room
        if not overflow[c]:
            parts.append((sites[pair], shift))
            room -= len(pair)
    ends = np.concatenate([p for p, _ in parts] or [np.zeros((0, 2))]).astype(np.int32)
    shift = np.concatenate([s for _, s in parts] or [np.zeros((0, 3))]).astype(np.int32)
    spare = 0 if max_edges is None else max_edges // 2 - len(ends)
    mask = np.concatenate([np.ones(len(ends)), np.zeros(spare)]).astype(pack.frac.dtype)
    ends = np.concatenate([ends, np.full((spare, 2), len(pack.frac) - 1, np.int32)])
    return _both_ways(np, ends, np.concatenate([shift, np.zeros((spare, 3), np.int32)]), mask, overflow)


def _has_finite_images(frac: np.ndarray, lattice: np.ndarray, cutoff: float, limit: int) -> bool:
    """Whether the radius graph of this crystal can be made at all."""
    return not why_not(frac, lattice) and bool((needed_images(lattice, cutoff) <= limit).all())
