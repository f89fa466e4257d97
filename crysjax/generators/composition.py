"""Which elements stand on the free sites of a template, with an exact probability that no order of the sites changes.

The elements of a crystal's free sites are drawn one after another in the order of their atomic numbers, each given the
counts so far, and are then put on the free sites at random, every arrangement alike. The probability of the species on
their sites is therefore

    p(multiset) * prod_z n_z! / n!

(the idea of an order that a set has by itself: Vinyals et al., "Order Matters", ICLR 2016). Free sites that allow
different elements make separate groups, which take turns; known sites come first and are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, Params, is_known, num_sites, one_hot, site_mask

FORBIDDEN = -1e9


class Composition(NamedTuple):
    """A distribution over the species of the free sites of a template."""

    init: Callable[..., Params]  # (key, context) -> params
    log_prob: Callable[..., Array]  # (params, rows (n, s), template, context) -> (b,)
    draw: Callable[..., Array]  # (params, key, template, context) -> rows (n, s)


class Order(NamedTuple):
    """The sites of a pack, sorted: crystals one after another, in each the known sites, then group by group."""

    site: Array  # (n,) which site of the pack stands here
    crystal: Array  # (n,) position of the first site of its crystal
    group: Array  # (n,) position of the first site of its group


class CompositionAnswer(nn.Module):
    """Logits of the next element: (m, features) -> (m, s)."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.silu(nn.Dense(self.width)(x))
        x = x + nn.silu(nn.Dense(self.width)(x))
        return nn.Dense(NUM_SPECIES, kernel_init=nn.initializers.zeros)(x)


def composition(*, width: int = 128) -> Composition:
    """The autoregressive composition of free sites; `width` features in its one network."""
    network = CompositionAnswer(width)

    def init(key: Array, context: Array) -> Params:
        return network.init(key, _features(*_start(context), context))["params"]

    def logits(params: Params, counts: Array, last: Array, sites: Array, context: Array, allowed: Array) -> Array:
        raw = network.apply({"params": params}, _features(counts, last, sites, context))
        later = jnp.arange(NUM_SPECIES)[None] >= last[:, None]
        return jax.nn.log_softmax(jnp.where(allowed & later, raw, FORBIDDEN))

    def log_prob(params: Params, rows: Array, template: Pack, context: Array) -> Array:
        free, element = _free(template), jnp.argmax(rows, -1)
        order = _sort(template, element)
        rows, element, owner, free = (v[order.site] for v in (rows, element, template.owner, free))
        total = jnp.cumsum(rows, 0) - rows
        counts = total - total[order.crystal]
        last = jnp.where(jnp.arange(len(rows)) > order.group, jnp.roll(element, 1), -1)
        answer = logits(
            params, counts, last, num_sites(template)[owner], context[owner], template.occupancy[order.site] > 0
        )
        chosen = jnp.take_along_axis(answer, element[:, None], -1)[:, 0]
        of_site = jnp.where(free, chosen + _arrangement(order, element).astype(chosen.dtype), 0)
        return jax.ops.segment_sum(of_site, owner, len(template.lattice))

    def draw(params: Params, key: Array, template: Pack, context: Array) -> Array:
        params, context = jax.lax.stop_gradient((params, context))  # the draws have no derivative, nor has the loop
        first, rest = jax.random.split(key)
        free, known = _free(template), is_known(template.occupancy)[:, None] * template.occupancy
        order = _sort(template, jax.random.uniform(first, free.shape))
        crystals, n = len(template.lattice), len(free)
        several = jax.ops.segment_sum(free.astype(jnp.int32), template.owner, crystals)
        at_first = jax.ops.segment_min(
            jnp.where(free[order.site], jnp.arange(n), n), template.owner[order.site], crystals
        )
        counts = jax.ops.segment_sum(known, template.owner, crystals)

        def step(k: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            element, counts, last = state
            place = jnp.minimum(at_first + k, n - 1)
            last = jnp.where(order.group[place] == place, -1, last)
            allowed = template.occupancy[order.site[place]] > 0
            answer = logits(params, counts, last, num_sites(template), context, allowed)
            new = jax.random.categorical(jax.random.fold_in(rest, k), answer).astype(jnp.int32)
            going = k < several
            element = element.at[jnp.where(going, order.site[place], n)].set(new, mode="drop")
            return element, counts + jnp.where(going[:, None], one_hot(new + 1, counts.dtype), 0), new

        start = jnp.zeros(n, jnp.int32), counts, jnp.full(crystals, -1, jnp.int32)
        element = jax.lax.fori_loop(0, several.max(), step, start)[0]
        return jnp.where(free[:, None], one_hot(element + 1, known.dtype), known)

    return Composition(init, log_prob, draw)


def _start(context: Array) -> tuple[Array, Array, Array]:
    m = len(context)
    return jnp.zeros((m, NUM_SPECIES), context.dtype), jnp.full(m, -1), jnp.ones(m, context.dtype)


def _features(counts: Array, last: Array, sites: Array, context: Array) -> Array:
    """Shares so far, the element before, how many sites there are and how many still come, and the context."""
    sites = jnp.maximum(sites, 1)
    size = jnp.stack([jnp.log(sites), 1 / sites, 1 - counts.sum(-1) / sites, sites - counts.sum(-1)], -1)
    before = one_hot(last + 1, counts.dtype)
    return jnp.concatenate([counts / sites[:, None], before, size, context.astype(counts.dtype)], -1)


def _free(template: Pack) -> Array:
    """Sites that hold an atom which is not named: (n,) bool."""
    return (site_mask(template.occupancy) > 0) & (is_known(template.occupancy) == 0)


def _sort(template: Pack, value: Array) -> Order:
    """Sites by crystal, known before free, by the list of what they allow, and then by `value`."""
    free, n = _free(template), len(template.frac)
    multipliers = np.random.default_rng(0).integers(1, 2**31, NUM_SPECIES).astype(np.int32)
    allowed = (template.occupancy > 0).astype(jnp.int32)
    # whole numbers, so that equal lists have equal marks; two different ones collide with probability 2^-32
    mark = jnp.where(free, jnp.sum(allowed * jnp.asarray(multipliers)[None], -1, dtype=jnp.int32), 0)
    padding = site_mask(template.occupancy) == 0
    site = jnp.lexsort((value, mark, free, template.owner, padding))
    parts = (padding[site], template.owner[site])
    return Order(site, _first(n, *parts), _first(n, *parts, free[site], mark[site]))


def _first(n: int, *columns: Array) -> Array:
    """For every row of sorted columns, where the run of equal rows begins that it belongs to: (n,) int32."""
    row = jnp.arange(n)
    new = jnp.any(jnp.stack([c != jnp.roll(c, 1) for c in columns]), 0) | (row == 0)
    return jax.lax.cummax(jnp.where(new, row, 0))


def _arrangement(order: Order, element: Array) -> Array:
    """log(prod_z n_z! / n!) of each group, spread over its sites: rank among equals over rank in the group, (n,)."""
    row = jnp.arange(len(element))
    run = _first(len(element), order.group, element)
    return jnp.log((row - run + 1).astype(jnp.float32)) - jnp.log((row - order.group + 1).astype(jnp.float32))
