"""Continuous distances between crystals that no choice of cell, origin or order of sites can change.

* AMD, average minimum distances: the mean distance of a site to its k-th neighbor, k = 1, 2, ... (Widdowson et al.,
  MATCH 87, 529, 2022). Two crystals are compared by the largest difference (Chebyshev).
* PDD, pointwise distance distribution: the same distances site by site, equal sites collapsed into one weighted row
  (Widdowson and Kurlin, NeurIPS 2022). Two crystals are compared by the earth mover's distance of their rows with the
  Chebyshev metric between rows. It tells apart what AMD cannot, and is never smaller than the AMD distance.

Both ignore the elements, and both move by at most twice the largest displacement of a site. Distances are in Å; numbers
are those of the `average-minimum-distance` package. For the elements see `compositions`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.crystallography.fingerprints import map_neighbor_distances
from crysjax.data.datasets import Dataset

NEIGHBORS = 100
"""The k of the literature, which is near the number of sites within 8 Å."""

METRICS = {"chebyshev": np.inf, "euclidean": 2, "cityblock": 1}
_SIZES = (1, 4, 8, 20)  # rows that a PDD is filled up to before it is compared; beyond, powers of two
_PAIRS = 256  # pairs compared in one call
_NUDGE = 1e-10  # of the total weight, added to every supply so that no pivot is degenerate
_OPTIMAL = 1e-10  # Å: reduced costs above minus this are none; the result is that close to the optimum


class PDD(NamedTuple):
    """Pointwise distance distributions of `m` crystals, one after another; rows ordered by their mean distance."""

    weights: np.ndarray  # (rows,) share of the sites; a crystal's add up to 1
    distances: np.ndarray  # (rows, k) Å, ascending in each row
    sizes: np.ndarray  # (m,) rows of each crystal


def amd(dataset: Dataset, *, k: int = NEIGHBORS) -> np.ndarray:
    """Average minimum distances of every crystal: (m, k) Å, ascending in each row (Widdowson et al. 2022)."""
    rows = np.empty((len(dataset), k))

    def write(index: np.ndarray, distances: np.ndarray) -> None:
        rows[index] = distances.mean(1)

    map_neighbor_distances(dataset, k, write)
    return rows


def pdd(dataset: Dataset, *, k: int = NEIGHBORS, tolerance_angstrom: float = 1e-4) -> PDD:
    """Pointwise distance distributions; sites whose rows differ by at most the tolerance everywhere become one row.

    As in the reference program a site joins the first earlier site that it is close to, and rows are averaged.
    """
    parts: list = [None] * len(dataset)

    def write(index: np.ndarray, distances: np.ndarray) -> None:
        for i, part in zip(index, _collapsed(distances, tolerance_angstrom)):
            parts[i] = part

    map_neighbor_distances(dataset, k, write)
    weights, rows = zip(*parts)
    return PDD(np.concatenate(weights), np.concatenate(rows), np.array([len(w) for w in weights]))


def _collapsed(distances: np.ndarray, tolerance: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(weights, rows) of each crystal of a block (b, n, k)."""
    count, sites = distances.shape[:2]
    leader = np.full((count, sites), -1)
    for i in range(sites):
        close = np.abs(distances[:, i:] - distances[:, i, None]).max(-1) <= tolerance
        free = leader[:, i:] < 0
        leader[:, i:] = np.where(close & free & free[:, :1], i, leader[:, i:])
    member = (leader[:, None] == np.arange(sites)[:, None]).astype(float)  # (b, leader, site)
    held = member.sum(-1)
    rows = member @ distances / np.maximum(held, 1)[..., None]
    order = np.argsort(np.where(held > 0, rows.mean(-1), np.inf), axis=1)
    for part, weight, line, used in zip(order, held, rows, (held > 0).sum(1)):
        yield weight[part[:used]] / sites, line[part[:used]]


def pairwise(a: np.ndarray, b: np.ndarray, *, metric: str = "chebyshev") -> np.ndarray:
    """Distances between all rows of two sets, (m, d) and (p, d): (m, p). AMDs take the Chebyshev metric."""
    from scipy.spatial.distance import cdist

    return cdist(a, b, _known(metric))


def nearest(queries: np.ndarray, references: np.ndarray, *, metric: str = "chebyshev") -> tuple[np.ndarray, np.ndarray]:
    """Distance to, and row of, the nearest reference of every query, exactly: (m,), (m,).

    AMDs fill few dimensions, so that a k-d tree looks at a small part of the references.
    """
    from scipy.spatial import cKDTree

    return cKDTree(references).query(queries, p=METRICS[_known(metric)], workers=os.cpu_count() or 1)


def _known(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"metric: {metric!r} is unknown; expected one of {sorted(METRICS)}")
    return metric


def emd(a: PDD, b: PDD, pairs: np.ndarray) -> np.ndarray:
    """Earth mover's distance in Å of crystal `pairs[i, 0]` of `a` and crystal `pairs[i, 1]` of `b`: (p, 2) -> (p,).

    Exact transport between the rows, with the Chebyshev metric (Widdowson and Kurlin 2022, def. 4.1). Pairs of similar
    size are solved side by side in compiled code, in double precision whatever JAX's default is.
    """
    pairs = np.asarray(pairs)
    sizes = np.stack([_bucket(a.sizes)[pairs[:, 0]], _bucket(b.sizes)[pairs[:, 1]]], -1)
    rows = a.sizes[pairs[:, 0]] + b.sizes[pairs[:, 1]]
    out = np.empty(len(pairs))
    jobs = []
    for shape in np.unique(sizes, axis=0):
        index = np.flatnonzero((sizes == shape).all(1))
        index = index[np.argsort(rows[index], kind="stable")]  # equally hard problems end together
        jobs += [(index[i : i + _PAIRS], shape) for i in range(0, len(index), _PAIRS)]

    def do(job: tuple[np.ndarray, np.ndarray]) -> None:
        index, (first, second) = job
        full = np.resize(pairs[index], (_PAIRS, 2))  # always the same shapes, so that a pair of sizes is compiled once
        sides = _filled(a, full[:, 0], first), _filled(b, full[:, 1], second)
        out[index] = _solve(*(sides if first <= second else sides[::-1]))[: len(index)]

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        list(pool.map(do, jobs))
    return out


def _bucket(sizes: np.ndarray) -> np.ndarray:
    """The number of rows that each size is filled up to."""
    large = 2 ** np.ceil(np.log2(np.maximum(sizes, 1))).astype(int)
    edges = np.array(_SIZES)
    return np.where(sizes > edges[-1], large, edges[np.minimum(np.searchsorted(edges, sizes), len(edges) - 1)])


def _filled(pdds: PDD, index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (p, size) and rows (p, size, k) of the crystals `index`; the last row is repeated with weight 0."""
    start, count = np.cumsum(pdds.sizes)[index] - pdds.sizes[index], pdds.sizes[index]
    slot = np.arange(size)
    take = start[:, None] + np.minimum(slot, count[:, None] - 1)
    return np.where(slot < count[:, None], pdds.weights[take], 0.0), pdds.distances[take]


def _solve(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Distances of pairs of filled PDDs, the smaller size first: (p,)."""
    (_, rows), (demand, columns) = first, second
    if rows.shape[1] == 1:  # nothing to choose
        return (np.abs(rows - columns).max(-1) * demand).sum(-1)
    nodes = rows.shape[1] + columns.shape[1]
    lanes = int(np.clip(2 ** np.floor(np.log2(32_000 / nodes**2)), 8, 64))  # their tableaux fit a core's cache
    with jax.enable_x64(True):
        return np.asarray(_solve_tiles(*(x.reshape(-1, lanes, *x.shape[1:]) for x in (*first, *second)))).reshape(-1)


def _solve_tiles(supply: np.ndarray, rows: np.ndarray, demand: np.ndarray, columns: np.ndarray) -> Array:
    """(t, lanes, r), (t, lanes, r, k), (t, lanes, c), (t, lanes, c, k) -> (t, lanes)."""
    return _transport_tiles(
        *(np.moveaxis(x, 1, -1).copy() for x in (np.asarray(_costs(rows, columns)), supply, demand))
    )


@jax.jit
def _costs(rows: Array, columns: Array) -> Array:
    """Chebyshev distances of rows: (..., r, k), (..., c, k) -> (..., r, c)."""
    return jnp.abs(rows[..., :, None, :] - columns[..., None, :, :]).max(-1)


@jax.jit
def _transport_tiles(cost: Array, supply: Array, demand: Array) -> Array:
    return jax.lax.map(lambda tile: transport(*tile), (cost, supply, demand))


def transport(cost: Array, supply: Array, demand: Array) -> Array:
    """The least cost of moving `supply` (r, l) to `demand` (c, l) at `cost` (r, c, l), for `l` problems at once: (l,).

    Network simplex (Dantzig's rule) with a dense tableau. A node (row or column of the cost) is kept as the signed
    basic cells on its way to the root, so that a pivot is one update of rank one and nothing chases pointers. It starts
    from the monotone coupling, which for rows ordered by their mean is near the optimum. Supplies are nudged to rule
    out degenerate pivots; the answer is the dual one, for the supplies as given, exact to `_OPTIMAL` times the mass.
    """
    rows, columns = cost.shape[:2]
    way, flow, cell = _monotone(supply + _NUDGE, demand.at[-1].add(rows * _NUDGE))
    flat = cost.reshape(rows * columns, -1)
    dual = (way.astype(cost.dtype) * jnp.take_along_axis(flat, cell, 0)[None]).sum(1)
    cells, nodes, basic = (jnp.arange(n)[:, None] for n in (rows * columns, rows + columns, rows + columns - 1))

    def enter(dual: Array) -> tuple[Array, Array]:
        reduced = (cost - dual[:rows, None] - dual[None, rows:]).reshape(rows * columns, -1)
        least = reduced.min(0)
        return least, jnp.where(reduced == least[None], cells, rows * columns).min(0)

    def pivot(state: tuple) -> tuple:
        way, flow, dual, least, cell = state
        active = least < -_OPTIMAL
        ends = (nodes == (cell // columns)[None]) | (nodes == rows + (cell % columns)[None])
        cycle = jnp.where(ends[:, None], way, 0).sum(0)
        room = jnp.where(cycle > 0.5, flow, jnp.inf)
        amount = room.min(0)
        leaves = (basic == jnp.where(room == amount[None], basic, len(basic)).min(0)[None]) & active[None]
        amount = jnp.where(active, amount, 0.0)
        behind = jnp.where(leaves[None], way, 0).sum(1)  # nodes whose way to the root uses the cell that leaves
        way = way - behind[:, None] * jnp.where(leaves, cycle - 1, cycle)[None]
        flow = jnp.where(leaves, amount[None], flow - amount[None] * cycle.astype(flow.dtype))
        dual = dual + behind.astype(dual.dtype) * least[None]
        return way, flow, dual, *enter(dual)

    def unfinished(state: tuple) -> Array:
        return (state[3] < -_OPTIMAL).any()

    dual = jax.lax.while_loop(unfinished, pivot, (way, flow, dual, *enter(dual)))[2]
    return (dual[:rows] * supply).sum(0) + (dual[rows:] * demand).sum(0)


def _monotone(supply: Array, demand: Array) -> tuple[Array, Array, Array]:
    """The staircase basis: ways to the root (nodes, basic, l), flows (basic, l), and cells r * columns + c (basic, l).

    Row 0 is the root; every basic cell after the first adds one row or column, whichever runs out first.
    """
    rows, columns = len(supply), len(demand)
    moved = jnp.cumsum(supply, 0), jnp.cumsum(demand, 0)
    ends = jnp.concatenate([moved[0][:-1], moved[1][:-1]])
    order = jnp.argsort(ends, 0)
    down = order < rows - 1
    zero = jnp.zeros_like(order[:1])
    cell = jnp.concatenate([zero, jnp.cumsum(jnp.where(down, columns, 1), 0).astype(order.dtype)])
    edges = jnp.concatenate([jnp.zeros_like(ends[:1]), jnp.take_along_axis(ends, order, 0), moved[0][-1:]])
    unit = jnp.eye(rows + columns - 1, dtype=jnp.float32)[:, :, None]  # signs: exact, and half the memory

    def grow(last: tuple[Array, Array], step: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        row, column = last
        own, is_row = step
        new = own - jnp.where(is_row[None], column, row)
        return (jnp.where(is_row[None], new, row), jnp.where(is_row[None], column, new)), new

    root = jnp.zeros((rows + columns - 1, supply.shape[1]), unit.dtype)
    first = root + unit[0]
    _, grown = jax.lax.scan(grow, (root, first), (unit[1:], down))
    born = jnp.argsort(order, 0) + 2  # in `grown`, behind the root and the first column
    born = jnp.concatenate([zero, born[: rows - 1], zero + 1, born[rows - 1 :]])
    way = jnp.take_along_axis(jnp.concatenate([root[None], first[None], grown]), born[:, None], 0)
    return way, jnp.diff(edges, axis=0), cell
