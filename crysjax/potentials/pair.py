"""What pair potentials share: parameters by pair of elements, a smooth end, and the sum over edges.

A crystal of partial occupancies has the mean energy over its elements: each listed pair of elements weighs an edge by
the product of the occupancies at its ends. The energy of an edge is therefore linear in the occupancy of either end,
with gradients that say what another element there would cost.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Params
from crysjax.geometry.neighbors import Graph


def pair_fade(x: Array) -> Array:
    """1 up to 0.9, 0 from 1, with continuous second derivatives between."""
    t = jnp.clip((1 - x) / 0.1, 0, 1)
    return t**3 * (10 - 15 * t + 6 * t**2)


def edge_lengths(vectors: Array) -> Array:
    """Å: (e, 3) -> (e,)."""
    return jnp.sqrt((vectors**2).sum(-1))


def as_params(settings: dict) -> Params:
    """Settings as parameters, arrays of floats that a gradient can reach."""
    return {name: jnp.asarray(value, float) for name, value in settings.items()}


def in_dtype(params: Params, dtype) -> Params:
    """Parameters in the precision of the crystals."""
    return {name: jnp.asarray(value).astype(dtype) for name, value in params.items()}


def listed_pairs(
    pairs: tuple[tuple[float, ...], ...], numbers: tuple[int, ...], names: tuple[str, ...]
) -> tuple[np.ndarray, dict[str, list[float]]]:
    """Occupancy columns of the two elements of each pair (k, 2), and the k values of each name.

    A row of `pairs` is two atomic numbers, in any order, and the values of `names`. Other rows are an error.
    """
    for row in pairs:
        if len(row) != 2 + len(names) or not set(row[:2]) <= set(numbers):
            raise ValueError(f"pairs: {list(row)}; expected two of the elements {list(numbers)}, {', '.join(names)}")
    ends = [tuple(sorted(int(z) for z in row[:2])) for row in pairs]
    if not ends or len(set(ends)) < len(ends):
        raise ValueError(f"pairs: {ends}; expected different pairs of elements, one at least")
    return np.array(ends) - 1, {name: [float(row[2 + k]) for row in pairs] for k, name in enumerate(names)}


def pair_weights(occupancy: Array, graph: Graph, ends: np.ndarray) -> Array:
    """How much of each edge is of each listed pair: (e, k), 1 for whole atoms of the two elements."""
    first, second = occupancy[:, ends[:, 0]], occupancy[:, ends[:, 1]]
    there = first[graph.receiver] * second[graph.sender]
    back = second[graph.receiver] * first[graph.sender]
    return jnp.where((ends[:, 0] == ends[:, 1])[None], there, there + back)


def halved(edge_energies: Array, graph: Graph, sites: int) -> Array:
    """Half of each edge's energy at its receiver: every pair, listed both ways, counts once: (e,) -> (n,)."""
    return jax.ops.segment_sum(edge_energies * graph.mask / 2, graph.receiver, sites)
