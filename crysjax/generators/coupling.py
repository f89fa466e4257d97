"""Coupling layers over a pack: part of the coordinates moves through splines that the other part decides.

A layer of positions moves ONE fractional axis of SOME sites, chosen by species alone, so that sites may change places
in the list. It sees everything else: the other axes of all sites and the moved axis of the sites that stay. Which sites
move follows from the rank of their element in the crystal (0 = the smallest atomic number there is): all of them, or
those whose rank has a given binary digit. Any two elements differ in a digit, so positions of different elements depend
on one another directly; sites of one element do through their other axes.

The map runs from data to noise (`forward`) and back (`inverse`), both closed forms with log|det| a crystal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Network, Pack, Params, num_sites, site_mask, sum_by_crystal
from crysjax.generators import splines

HARMONICS = 4  # of a site's own visible coordinates, given to its read-out
EVERY = -1  # instead of a binary digit: every site moves
GROUPS = ((EVERY, 0), (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1))  # digit and value; eight elements told apart


class Bijection(NamedTuple):
    """An invertible map of one field of a pack."""

    init: Callable[..., Params]  # (key, x, pack, context) -> params
    forward: Callable[..., tuple[Array, Array]]  # (params, x, pack, context) -> y, log|det dy/dx| (b,)
    inverse: Callable[..., tuple[Array, Array]]  # (params, y, pack, context) -> x, log|det dx/dy| (b,)


class ReadOut(nn.Module):
    """Two hidden layers and a last one that starts at zero, so that every map starts as the identity."""

    features: int
    width: int
    start: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.silu(nn.Dense(self.width)(x))
        x = nn.silu(nn.Dense(self.width)(x))
        return nn.Dense(self.features, kernel_init=self.start)(x)


class Moved(NamedTuple):
    """What a layer moves: a one-hot axis, and the digit of the element's rank with its value."""

    axis: Array  # (3,)
    digit: Array  # () int32, `EVERY` = all sites
    value: Array  # () int32


def schedule(rounds: int) -> Moved:
    """Three layers, one per axis, for each of `rounds` groups of sites, in the order of `GROUPS`."""
    chosen = [GROUPS[k % len(GROUPS)] for k in range(rounds) for _ in range(3)]
    axes = np.tile(np.eye(3, dtype=np.float32), (rounds, 1))
    digit, value = (np.array(column, np.int32) for column in zip(*chosen))
    return Moved(axes, digit, value)


def element_rank(pack: Pack) -> Array:
    """How many elements of smaller atomic number a site's crystal has: (n,) int32."""
    present = sum_by_crystal(pack.occupancy, pack) > 0
    ranks = jnp.cumsum(present, -1) - 1
    return jnp.sum(jnp.where(pack.occupancy > 0, ranks[pack.owner], 0), -1).astype(jnp.int32)


def position_couplings(network: Network, *, rounds: int, bins: int, width: int) -> Bijection:
    """Splines round the three axes of the torus of positions; species and lattice are those of the pack.

    `network` gives the features of a site; it never sees the coordinates that a layer moves. Its answer does not
    change when all sites are translated, so the read-out also gets the site's own visible coordinates: the density
    knows the origin of the data.
    """
    layers, read_out = schedule(rounds), ReadOut(splines.circle_size(bins), width)

    def visible(x: Array, moved: Array, axis: Array, pack: Pack) -> tuple[Pack, Array]:
        hidden = moved[:, None] * axis[None]
        shown = jnp.where(hidden > 0, 0, x)
        angle = 2 * jnp.pi * shown[:, :, None] * jnp.arange(1, HARMONICS + 1, dtype=x.dtype)[None, None]
        waves = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1) * (1 - hidden)[:, :, None]
        return pack._replace(frac=shown), waves.reshape(len(x), -1)

    def raw(params: Params, x: Array, moved: Array, axis: Array, pack: Pack, context: Array) -> Array:
        shown, waves = visible(x, moved, axis, pack)
        site = network.apply(params["network"], shown, context).site
        return read_out.apply({"params": params["read_out"]}, jnp.concatenate([site.astype(x.dtype), waves], -1))

    def init(key: Array, x: Array, pack: Pack, context: Array) -> Params:
        def one(key: Array) -> Params:
            first, second = jax.random.split(key)
            params = network.init(first, pack, context)
            shown, waves = visible(x, jnp.ones_like(x[:, 0]), jnp.ones_like(x[0]), pack)
            site = network.apply(params, shown, context).site
            return {
                "network": params,
                "read_out": read_out.init(second, jnp.concatenate([site, waves], -1))["params"],
            }

        return jax.vmap(one)(jax.random.split(key, 3 * rounds))

    def run(params: Params, x: Array, pack: Pack, context: Array, backwards: bool) -> tuple[Array, Array]:
        rank, real = element_rank(pack), site_mask(pack.occupancy)

        def layer(x: Array, this: tuple[Params, Moved]) -> tuple[Array, Array]:
            mine, (axis, digit, value) = this
            axis = jnp.asarray(axis, x.dtype)
            chosen = (digit == EVERY) | ((rank >> jnp.maximum(digit, 0)) % 2 == value)
            moved = chosen.astype(x.dtype) * real
            old = x @ axis
            new, log_slope = splines.circle(old, raw(mine, x, moved, axis, pack, context), inverse=backwards)
            y = jnp.where((moved[:, None] * axis[None]) > 0, new[:, None], x)
            return y, sum_by_crystal(log_slope * moved, pack)

        y, log_dets = jax.lax.scan(jax.checkpoint(layer), x, (params, layers), reverse=backwards)
        return y, log_dets.sum(0)

    return Bijection(init, *_both(run))


def lattice_couplings(*, layers: int, bins: int, width: int, bound: float = 5.0) -> Bijection:
    """Splines of the six standardized lattice coordinates; what is known of a crystal is its composition and context.

    The composition enters as a mean over sites (a deep set, Zaheer et al. 2017) with the number of sites. Layer k
    moves the coordinates whose index has the binary digit (k // 2) % 3 equal to k % 2.
    """
    read_out = ReadOut(6 * splines.line_size(bins), width)
    embed = ReadOut(width, width, nn.initializers.lecun_normal())
    index = np.arange(6)
    moves = np.stack([(index >> (k // 2) % 3) % 2 == k % 2 for k in range(layers)])

    def features(params: Params, pack: Pack, context: Array) -> Array:
        count = num_sites(pack)
        share = sum_by_crystal(pack.occupancy, pack) / jnp.maximum(count, 1)[:, None]
        size = jnp.stack([jnp.log(jnp.maximum(count, 1)), 1 / jnp.maximum(count, 1)], -1)
        return embed.apply({"params": params}, jnp.concatenate([share, size, context.astype(share.dtype)], -1))

    def init(key: Array, x: Array, pack: Pack, context: Array) -> Params:
        first, second = jax.random.split(key)
        wide = jnp.zeros((1, pack.occupancy.shape[1] + 2 + context.shape[1]), x.dtype)
        each = jax.vmap(lambda k: read_out.init(k, jnp.zeros((1, width + 6), x.dtype))["params"])
        return {"embed": embed.init(first, wide)["params"], "read_out": each(jax.random.split(second, layers))}

    def run(params: Params, x: Array, pack: Pack, context: Array, backwards: bool) -> tuple[Array, Array]:
        known = features(params["embed"], pack, context)

        def layer(x: Array, this: tuple[Params, Array]) -> tuple[Array, Array]:
            mine, moved = this
            shown = jnp.where(moved[None], 0, x)
            raw = read_out.apply({"params": mine}, jnp.concatenate([known, shown], -1)).reshape(len(x), 6, -1)
            new, log_slope = splines.line(x, raw, bound=bound, inverse=backwards)
            return jnp.where(moved[None], new, x), jnp.sum(jnp.where(moved[None], log_slope, 0), -1)

        y, log_dets = jax.lax.scan(layer, x, (params["read_out"], jnp.asarray(moves)), reverse=backwards)
        return y, log_dets.sum(0)

    return Bijection(init, *_both(run))


def _both(run: Callable) -> tuple[Callable, Callable]:
    """`forward` and `inverse` of a function that takes its direction last."""

    def forward(params: Params, x: Array, pack: Pack, context: Array) -> tuple[Array, Array]:
        return run(params, x, pack, context, False)

    def inverse(params: Params, y: Array, pack: Pack, context: Array) -> tuple[Array, Array]:
        return run(params, y, pack, context, True)

    return forward, inverse
