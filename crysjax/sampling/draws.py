"""Draw many crystals: templates in, a data set of samples out, one compiled program of one pack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Condition, Generator, Pack, Views, is_known
from crysjax.data import batching
from crysjax.data.datasets import Dataset


def blank(num_atoms: np.ndarray, numbers: np.ndarray | None = None) -> Dataset:
    """Templates of the given sizes; `numbers` (sites,) fixes the species, 0 (or `None`) leaves a site free."""
    num_atoms = np.asarray(num_atoms, np.int32)
    sites, m = int(num_atoms.sum()), len(num_atoms)
    ids = np.array([f"sample-{k:06d}" for k in range(m)])
    numbers = np.zeros(sites, np.uint8) if numbers is None else np.asarray(numbers, np.uint8)
    unit = np.tile(np.eye(3, dtype=np.float32), (m, 1, 1))
    return Dataset(ids, num_atoms, numbers, np.zeros((sites, 3), np.float32), unit, {}, np.full(m, "sample"), {})


def draw_sizes(seed: int, sizes: dict[int, int], count: int, max_atoms: int | None = None) -> np.ndarray:
    """Numbers of atoms drawn from a histogram `size -> crystals` (a model's `sizes`), up to `max_atoms`."""
    allowed = {int(n): c for n, c in sizes.items() if max_atoms is None or int(n) <= max_atoms}
    if not allowed:
        raise ValueError(f"max_atoms: {max_atoms}; the model knows sizes from {min(map(int, sizes))}")
    weight = np.array(list(allowed.values()), float)
    return np.random.default_rng(seed).choice(np.array(list(allowed)), count, p=weight / weight.sum())


def restrict(pack: Pack, elements: tuple[int, ...]) -> Pack:
    """Free sites may only become one of these elements (atomic numbers); known sites keep theirs."""
    row = np.zeros(pack.occupancy.shape[-1], np.float32)
    row[np.asarray(elements) - 1] = 1.0 / len(elements)
    occupied = (pack.occupancy.sum(-1) > 0)[..., None]
    known = np.asarray(is_known(jnp.asarray(pack.occupancy)))[..., None] > 0
    return pack._replace(occupancy=np.where(known | ~occupied, pack.occupancy, row))


def sample(
    generator: Generator,
    params: Any,
    key: Array,
    templates: Dataset,
    properties: np.ndarray,
    *,
    elements: tuple[int, ...] | None = None,
    space_group: np.ndarray | None = None,
    view: batching.View | None = None,
    pairs: int = 2048,
    shape: batching.Capacity | None = None,
    on_pack: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """One sample per template.

    Args:
        properties: (m, k) condition values in the model's order; NaN = not asked for.
        elements: atomic numbers that free sites may take; `None` = all.
        space_group: (m,) requested groups, 0 = any.
        view: what the family is given beside the templates, such as retrieved candidates (`retrieval.start_view`).
        pairs: size of a pack.
        shape: of a pack, where several calls are to share one compiled program; `None`: as small as can be.
        on_pack: called with the number of packs done and their total.
    """
    shape = shape or batching.capacity(templates.num_atoms, pairs)
    batch = batching.pack_dataset(templates, shape)
    packs = restrict(batch.pack, elements) if elements else batch.pack
    used = np.maximum(batch.index, 0)
    values = np.where((batch.index >= 0)[..., None], properties[used], np.nan).astype(np.float32)
    groups = np.zeros_like(used) if space_group is None else np.where(batch.index >= 0, space_group[used], 0)
    run = jax.jit(generator.sample)
    drawn = []
    for k, row in enumerate(jax.random.split(key, len(used))):
        views = view(batch.index[k][batch.index[k] >= 0], shape) if view else Views()
        condition = Condition(jnp.asarray(values[k]), jnp.asarray(groups[k], jnp.int32), *views)
        template = jax.tree.map(lambda leaf, k=k: jnp.asarray(leaf[k]), packs)
        drawn.append(jax.tree.map(np.asarray, run(params, row, template, condition)))
        on_pack(k + 1, len(used))
    return batching.scatter_rows(templates, batch.index, Pack(*(np.stack(leaves) for leaves in zip(*drawn))))
