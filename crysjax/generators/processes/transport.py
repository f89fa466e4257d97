"""Optimal transport within crystals: which noise point goes to which site, by an auction over the pairs of a pack."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Pack, sum_by_crystal
from crysjax.geometry import torus

SLACKS = (3e-2, 3e-3, 3e-4)
"""How far from its best choice a site may end, in squared cell lengths, in successive rounds of the auction."""

MOST_BIDS = 300
"""Of a round; crystals whose auction is not over by then keep the order they came in."""


class _Offers(NamedTuple):
    """Every (site, point) that may meet: both ways of each pair, and each site with its own point."""

    site: Array  # (e,)
    point: Array  # (e,)
    value: Array  # (e,) minus the squared distance; -inf where they may not meet


def assign_noise(frac: Array, noise: Array, pack: Pack) -> Array:
    """The point of the noise for each site, of least sum of squared torus distances: (n, 3) twice -> (n,) int32.

    A permutation within each crystal among sites of the same species, by the auction algorithm (Bertsekas 1988, Jacobi
    form with falling slack), exact up to `SLACKS[-1]` a site. It never costs more than the identity, which a crystal
    keeps where the auction found nothing better. No gradient passes.
    """
    frac, noise = jax.lax.stop_gradient((frac, noise))
    offers = _offers(frac, noise, pack)
    none = jnp.full(len(frac), -1, jnp.int32)
    price, chosen = jnp.zeros_like(frac[:, 0]), none
    for slack in SLACKS:
        price, chosen = _auction(price, offers, slack)
    identity = jnp.arange(len(frac), dtype=jnp.int32)
    cost = _squared_distance(frac, noise[jnp.maximum(chosen, 0)])
    gain = sum_by_crystal(jnp.where(chosen >= 0, _squared_distance(frac, noise) - cost, -jnp.inf), pack)
    return jnp.where((gain > 0)[pack.owner] & (chosen >= 0), chosen, identity)


def _squared_distance(a: Array, b: Array) -> Array:
    return jnp.square(torus.log(a - b)).sum(-1)


def _offers(frac: Array, noise: Array, pack: Pack) -> _Offers:
    i, j, own = pack.pairs[:, 0], pack.pairs[:, 1], jnp.arange(len(frac), dtype=pack.pairs.dtype)
    site, point = jnp.concatenate([i, j, own]), jnp.concatenate([j, i, own])
    alike = jnp.abs(pack.occupancy[i] - pack.occupancy[j]).max(-1) < 1e-3
    met = (pack.pair_mask > 0) & alike
    met = jnp.concatenate([met, met, jnp.ones_like(own, bool)])
    return _Offers(site, point, jnp.where(met, -_squared_distance(frac[site], noise[point]), -jnp.inf))


def _auction(price: Array, offers: _Offers, slack: float) -> tuple[Array, Array]:
    """Sites without a point bid for their best one until all have one: prices (n,) and the point of each site (n,)."""
    count, edges = len(price), jnp.arange(len(offers.site))
    last = len(edges)  # stands for no edge

    def first(mark: Array, group: Array) -> Array:
        return jnp.minimum(jax.ops.segment_min(jnp.where(mark, edges, last), group, count), last)

    def bid(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        price, chosen, bids = state
        net = offers.value - price[offers.point]
        best = jax.ops.segment_max(net, offers.site, count)
        edge = first(net == best[offers.site], offers.site)
        second = jax.ops.segment_max(jnp.where(edges == edge[offers.site], -jnp.inf, net), offers.site, count)
        raised = jnp.where(jnp.isfinite(second), best - second, 0) + slack
        bidding = (edges == edge[offers.site]) & (chosen < 0)[offers.site]
        offered = jnp.where(bidding, price[offers.point] + raised[offers.site], -jnp.inf)
        highest = jax.ops.segment_max(offered, offers.point, count)
        won = first(bidding & (offered == highest[offers.point]), offers.point)  # (n,) the edge that takes a point
        sold = won < last
        winner = jnp.where(sold, offers.site[jnp.minimum(won, last - 1)], count)
        lost = (chosen >= 0) & sold[jnp.maximum(chosen, 0)]
        chosen = jnp.where(lost, -1, chosen).at[winner].set(jnp.arange(count, dtype=jnp.int32), mode="drop")
        return jnp.where(sold, highest, price), chosen, bids + 1

    def going(state: tuple[Array, Array, Array]) -> Array:
        return (state[1] < 0).any() & (state[2] < MOST_BIDS)

    start = price, jnp.full(count, -1, jnp.int32), jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(going, bid, start)[:2]
