"""Packs: the only place where crystals are packed into graphs of fixed capacity and unpacked again.

A batch of a data set becomes a few packs of equal, fixed shape, so that one compilation serves all of it and no
network multiplies padding. Packs are filled first-fit from a reproducible shuffle: a pack closes when its sites,
pairs or crystal slots are full.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import NUM_SPECIES, UNKNOWN, Crystal, Pack, Views, site_mask
from crysjax.data import datasets
from crysjax.data.datasets import Dataset


class Capacity(NamedTuple):
    """The fixed shape of a pack."""

    sites: int
    pairs: int
    crystals: int


class Batch(NamedTuple):
    """`t` packs and, for every crystal slot, its row in the data set (-1 = unused)."""

    pack: Pack  # every leaf (t, ...)
    index: np.ndarray  # (t, b) int32


class Labels(NamedTuple):
    """What is known of the crystals of a pack, or of `t` packs with an axis in front."""

    properties: np.ndarray  # (b, k) float32 in their own units; NaN = not known
    space_group: np.ndarray  # (b,) int32; 0 = not known
    views: Views = Views()
    sites: np.ndarray | None = None  # (n, k) labels of the atoms; NaN = not known


View = Callable[[np.ndarray, Capacity], Views]
"""What a family is given of a data set beside its packs: (rows of a pack, its shape) -> `Views`, host arrays."""


def capacity(num_atoms: np.ndarray, pairs: int = 1024) -> Capacity:
    """A pack shape of about `pairs` pairs for crystals of these sizes; always large enough for the largest one."""
    sizes = np.asarray(num_atoms, np.int64)
    of_each = sizes * (sizes - 1) // 2
    pairs = max(pairs, int(of_each.max()))
    fit = pairs / max(of_each.mean(), 1)  # crystals in a full pack, on average
    spread = 1.1 if sizes.min() < sizes.max() else 1.0  # room for packs of smaller crystals than average
    return Capacity(
        sites=_round_up(max(fit * sizes.mean() * spread, sizes.max()), 16),
        pairs=_round_up(pairs, 64),
        crystals=_round_up(fit * spread, 4),
    )


def _round_up(value: float, step: int) -> int:
    return int(-(-value // step) * step)


def assign(
    num_atoms: np.ndarray, shape: Capacity, open_packs: int = 8, edges: np.ndarray | None = None, max_edges: int = 0
) -> list[list[int]]:
    """Which crystals (positions in `num_atoms`) share a pack: first fit, in order, over a few open packs.

    With `edges`, each crystal's number of edges of a radius graph, a pack also holds `max_edges` of them at most.
    """
    done: list[list[int]] = []
    bins: list[tuple[list[int], np.ndarray]] = []
    limit = np.array([shape.sites, shape.pairs, shape.crystals, max_edges])
    edges = np.zeros(len(num_atoms), np.int64) if edges is None else edges
    for i, (n, e) in enumerate(zip(np.asarray(num_atoms, np.int64), edges)):
        need = np.array([n, n * (n - 1) // 2, 1, e])
        if (need > limit).any():
            held = f"{shape.sites} sites, {shape.pairs} pairs" + (f" and {max_edges} edges" if e else "")
            raise ValueError(f"crystal {i} has {n} sites" + (f" and {e} edges" if e else "") + f"; a pack holds {held}")
        slot = next((k for k, (_, used) in enumerate(bins) if (used + need <= limit).all()), None)
        if slot is None:
            if len(bins) == open_packs:
                done.append(bins.pop(0)[0])
            bins.append(([i], need))
        else:
            bins[slot] = (bins[slot][0] + [i], bins[slot][1] + need)
    return done + [members for members, _ in bins]


def pack_rows(dataset: Dataset, members: np.ndarray, shape: Capacity) -> Pack:
    """The crystals `members` of a data set as one pack of host arrays; atomic number 0 is a site of any element."""
    sites, count = datasets.site_index(dataset, members), dataset.num_atoms[members]
    total = len(sites)
    occupancy = np.zeros((shape.sites, NUM_SPECIES), np.float32)
    numbers = dataset.numbers[sites].astype(np.int64)
    occupancy[np.arange(total), numbers - 1] = 1
    occupancy[:total][numbers == 0] = UNKNOWN
    frac = np.zeros((shape.sites, 3), np.float32)
    frac[:total] = dataset.frac[sites]
    lattice = np.tile(np.eye(3, dtype=np.float32), (shape.crystals, 1, 1))
    lattice[: len(members)] = dataset.lattice[members]
    return Pack(occupancy, frac, lattice, *topology(count, shape))


def topology(num_atoms: np.ndarray, shape: Capacity) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Owner, pairs and pair mask of crystals of these sizes, laid out one after another."""
    owner = np.full(shape.sites, shape.crystals - 1, np.int32)
    pairs = np.zeros((shape.pairs, 2), np.int32)
    mask = np.zeros(shape.pairs, np.float32)
    site = pair = 0
    for k, n in enumerate(num_atoms):
        owner[site : site + n] = k
        stop = pair + n * (n - 1) // 2
        pairs[pair:stop] = np.stack(np.triu_indices(n, 1), 1) + site
        site, pair = site + n, stop
    mask[:pair] = 1
    pairs[pair:] = max(site - 1, 0)  # keep the first column sorted
    return owner, pairs, mask


def pack_dataset(dataset: Dataset, shape: Capacity) -> Batch:
    """A whole data set as one batch, in order: for evaluation and conditioning."""
    groups = assign(dataset.num_atoms, shape)
    return stack(dataset, groups, shape)


def each_crystal(function: Callable[[Pack], Any], dataset: Dataset, shape: Capacity | None = None) -> Any:
    """What a compiled function of packs says of every crystal of a data set: leaves (b, ...) -> (m, ...), host arrays.

    With the same `shape` of packs it is compiled once for data sets of any size; left out, the shape fits this one.
    """
    batch = pack_dataset(dataset, shape or capacity(dataset.num_atoms))
    said = [
        jax.tree.map(np.asarray, function(jax.tree.map(lambda leaf, t=t: jnp.asarray(leaf[t]), batch.pack)))
        for t in range(len(batch.index))
    ]
    used = batch.index >= 0
    order = np.argsort(batch.index[used])
    return jax.tree.map(lambda *leaves: np.stack(leaves)[used][order], *said)


def each_site(function: Callable[[Pack], Any], dataset: Dataset, shape: Capacity | None = None) -> Any:
    """The same of every site: leaves (n, ...) -> (sites, ...), host arrays in the order of the data set."""
    batch, said = pack_dataset(dataset, shape or capacity(dataset.num_atoms)), []
    placed = [datasets.site_index(dataset, rows[rows >= 0]) for rows in batch.index]
    for t, sites in enumerate(placed):
        answer = function(jax.tree.map(lambda leaf, t=t: jnp.asarray(leaf[t]), batch.pack))
        said.append(jax.tree.map(lambda leaf, n=sites.size: np.asarray(leaf)[:n], answer))
    order = np.argsort(np.concatenate(placed))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *said)


def stack(dataset: Dataset, groups: list[list[int]], shape: Capacity) -> Batch:
    """Packs of the groups of rows, stacked."""
    packs = [pack_rows(dataset, np.asarray(g, np.int64), shape) for g in groups]
    index = np.full((len(groups), shape.crystals), -1, np.int32)
    for row, g in zip(index, groups):
        row[: len(g)] = g
    return Batch(Pack(*(np.stack(leaves) for leaves in zip(*packs))), index)


def stack_view(view: View, groups: list[list[int]], shape: Capacity) -> Views:
    """A family's own view of the groups of rows, stacked."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(view(np.asarray(g, np.int64), shape) for g in groups))


def shuffled_groups(
    num_atoms: np.ndarray, shape: Capacity, seed: int, epoch: int, edges: np.ndarray | None = None, max_edges: int = 0
) -> list[list[int]]:
    """Which crystals share a pack in one epoch, a function of (seed, epoch) alone; see `assign`."""
    order = np.random.default_rng((seed, epoch)).permutation(len(num_atoms))
    in_order = None if edges is None else edges[order]
    return [[int(order[i]) for i in g] for g in assign(num_atoms[order], shape, edges=in_order, max_edges=max_edges)]


def prefetch(iterator: Iterator, ahead: int = 2) -> Iterator:
    """Run an iterator in a thread, a few items ahead; its exceptions surface where the items are read."""
    buffer: queue.Queue = queue.Queue(ahead)
    stop = threading.Event()

    def offer(item) -> bool:
        while not stop.is_set():
            try:
                buffer.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work():
        try:
            for item in iterator:
                if not offer((item, None)):
                    return
            offer((None, StopIteration()))
        except Exception as error:
            offer((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = buffer.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()


def pack_one(crystal: Crystal) -> Pack:
    """The pack of one crystal; traceable."""
    owner, pairs, _ = topology(np.array([crystal.frac.shape[0]]), _one(crystal.frac.shape[0]))
    mask = _pair_mask(crystal.occupancy, pairs).astype(crystal.frac.dtype)
    return Pack(crystal.occupancy, crystal.frac, crystal.lattice[None], jnp.asarray(owner), jnp.asarray(pairs), mask)


def pack_stacked(crystals: Crystal) -> Pack:
    """One pack of `m` crystals of a common slot count, every leaf (m, ...); traceable."""
    m, n = crystals.frac.shape[:2]
    one = topology(np.array([n]), _one(n))[1]
    pairs = (one[None] + n * np.arange(m, dtype=np.int32)[:, None, None]).reshape(-1, 2)
    flat = crystals.occupancy.reshape(m * n, -1)
    mask = _pair_mask(flat, pairs).astype(crystals.frac.dtype)
    owner = jnp.repeat(jnp.arange(m, dtype=jnp.int32), n)
    return Pack(flat, crystals.frac.reshape(m * n, 3), crystals.lattice, owner, jnp.asarray(pairs), mask)


def unpack_stacked(pack: Pack) -> Crystal:
    """The inverse of `pack_stacked` (every crystal owns the same number of slots); traceable."""
    m = pack.lattice.shape[0]
    return Crystal(pack.occupancy.reshape(m, -1, pack.occupancy.shape[-1]), pack.frac.reshape(m, -1, 3), pack.lattice)


def _pair_mask(occupancy: jax.Array, pairs: np.ndarray) -> jax.Array:
    """1 for pairs of two occupied slots; a crystal of one slot has room for a pair, but its site is no pair."""
    occupied = site_mask(occupancy)
    return occupied[pairs[:, 0]] * occupied[pairs[:, 1]] * (pairs[:, 0] != pairs[:, 1]).astype(occupied.dtype)


def _one(n: int) -> Capacity:
    return Capacity(n, max(n * (n - 1) // 2, 1), 1)


def unpack(pack: Pack) -> list[Crystal]:
    """The crystals of one pack (or of stacked packs), without padding, as host arrays; empty slots are left out."""
    pack = Pack(*(np.asarray(leaf) for leaf in pack))
    if pack.lattice.ndim == 4:
        return [crystal for t in range(len(pack.lattice)) for crystal in unpack(Pack(*(leaf[t] for leaf in pack)))]
    owner = np.where(pack.occupancy.sum(-1) > 0, pack.owner, -1)
    members = [np.flatnonzero(owner == k) for k in range(len(pack.lattice))]
    return [Crystal(pack.occupancy[m], pack.frac[m], pack.lattice[k]) for k, m in enumerate(members) if len(m)]


def scatter_rows(dataset: Dataset, index: np.ndarray, packs: Pack) -> Dataset:
    """The data set with the species, positions and lattices of stacked packs put back to the rows they came from."""
    numbers, frac = dataset.numbers.copy(), np.array(dataset.frac, np.float32)
    lattice = np.array(dataset.lattice, np.float32)
    for rows, pack in zip(index, (Pack(*leaves) for leaves in zip(*(np.asarray(leaf) for leaf in packs)))):
        rows = rows[rows >= 0]
        sites = datasets.site_index(dataset, rows)
        numbers[sites] = pack.occupancy[: len(sites)].argmax(-1) + 1
        frac[sites] = pack.frac[: len(sites)]
        lattice[rows] = pack.lattice[: len(rows)]
    return replace(dataset, numbers=numbers, frac=frac, lattice=lattice)


def targets(dataset: Dataset, names: tuple[str, ...], index: np.ndarray) -> np.ndarray:
    """Properties `names` of the rows `index` (-1 = unused slot); missing ones are NaN: (...,) -> (..., k)."""
    for name in names:
        if name not in dataset.properties:
            raise ValueError(f"property {name!r} is not in the data set, which has {sorted(dataset.properties)}")
    values = np.stack([dataset.properties[n] for n in names], -1) if names else np.zeros((len(dataset), 0))
    return np.where((index >= 0)[..., None], values[np.maximum(index, 0)], np.nan).astype(np.float32)


def site_targets(dataset: Dataset, names: tuple[str, ...], rows: np.ndarray, shape: Capacity) -> np.ndarray:
    """Site properties `names` of one pack, side by side: (n, k) float32, NaN where a site is unused or has none."""
    values = [dataset.site_properties[name].reshape(len(dataset.numbers), -1) for name in names]
    sites = datasets.site_index(dataset, np.asarray(rows))
    found = np.full((shape.sites, sum(v.shape[1] for v in values)), np.nan, np.float32)
    found[: len(sites)] = np.concatenate(values, -1)[sites]
    return found


def labels(dataset: Dataset, names: tuple[str, ...], index: np.ndarray, group: bool = False) -> Labels:
    """The labels of the rows `index`; with `group` the column "space_group" is read as well."""
    groups = targets(dataset, ("space_group",), index)[..., 0] if group else np.zeros(index.shape)
    return Labels(targets(dataset, names, index), np.nan_to_num(groups).astype(np.int32))
