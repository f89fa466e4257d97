"""A fully connected periodic network (the CSPNet kind, Jiao et al., DiffCSP, NeurIPS 2023), made fast.

Every pair of sites of a crystal exchanges messages that depend on the two sites, on the fractional difference through
sines and cosines (so on the torus, whatever the image), and on the inner products of the lattice vectors. The outputs
are equivariant to permutations of the sites, invariant to translations of all sites and to rotations and reflections of
the lattice. They are not invariant to the choice of the cell: other names of the axes, sheared cells and supercells
give other outputs, so generators train on one cell per crystal (`crystallography.standard_cells`), and predictors have
other networks.

With `geometry=0, edge_depth=2, pair_head=False` the function is the paper's; what differs is the arithmetic:
* The first layer of the edge network is linear in (h_i, h_j, lattice, difference): the parts of the sites and of the
  lattice are computed once per site, not once per edge.
* Both directions of a pair share one product: cos(-x) = cos(x), sin(-x) = -sin(x).
* The sines and cosines are computed once a call, from sin(2 pi x) by angle addition.
Optional: `geometry` radial features of the minimum-image distance, which the paper's network has to work out from
products of fractions and lattice; `edge_depth=1` drops the second edge layer, whose cost is d^2 per edge and not d.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import NUM_SPECIES, Network, Pack, Prediction, mean_by_crystal, num_sites, site_mask
from crysjax.geometry import lattice as lattices
from crysjax.geometry import torus

SYMMETRY = (
    "dense network: equivariant to permutations of the sites, invariant to translations of all sites and to rotations "
    "and reflections of the lattice; not invariant to the choice of the cell, so that crystals come in one kind of cell"
)
"""For the cards of models."""


def dense(
    *,
    width: int = 256,
    layers: int = 6,
    frequencies: int = 16,
    geometry: int = 16,
    edge_depth: int = 1,
    self_edges: bool = True,
    pair_head: bool = True,
    scan_layers: bool = False,
    dtype: str = "float32",
) -> Network:
    """The fully connected periodic network.

    Args:
        width: features per site.
        layers: number of message-passing layers.
        frequencies: sines and cosines of each fractional displacement x, of 2 pi k x with k from 0 to
            `frequencies - 1`.
        geometry: number of radial features of the minimum-image distance, up to 8 Å; 0 leaves them out.
        edge_depth: layers of the edge network, 1 or 2 (the paper's: 2). On Perov-5 one layer reached the same loss
            step by step at 0.6 of the time.
        self_edges: whether a site sends a message to itself, as in the paper.
        pair_head: read displacements off pairs as well as off sites; the paper's network does the latter alone.
        scan_layers: run the layers under one `scan`: compiles faster, trains slower on CPUs.
        dtype: "float32" or "bfloat16" operands of the matrix products, with float32 sums and outputs; "float64"
            (which needs 64-bit JAX) for checks against finite differences.
    """
    settings = dict(pair_head=pair_head, width=width, frequencies=frequencies, geometry=geometry, edge_depth=edge_depth)
    module = _Dense(
        layers=layers, unroll=1 if scan_layers else layers, self_edges=self_edges, dtype=jnp.dtype(dtype), **settings
    )

    def init(key: Array, pack: Pack, context: Array):
        return module.init(key, pack, context)["params"]

    def apply(params, pack: Pack, context: Array) -> Prediction:
        return module.apply({"params": params}, pack, context)

    return Network(init, apply)


def _wide(dtype: Any) -> Any:
    """The type of sums and outputs: at least float32."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


class _Linear(nn.Module):
    """`x @ w + b` with operands in `dtype` and a result of at least float32."""

    features: int
    dtype: Any
    bias: bool = True
    init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.init, (x.shape[-1], self.features), _wide(self.dtype))
        y = jnp.matmul(x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=_wide(self.dtype))
        return (
            y + self.param("bias", nn.initializers.zeros, (self.features,), _wide(self.dtype))[None] if self.bias else y
        )


def pair_features(pack: Pack, frequencies: int, geometry: int) -> tuple[Array, Array]:
    """Features of f_j - f_i that keep (even) and that change (odd) their sign with it: (p, ...) twice."""
    i, j = pack.pairs[:, 0], pack.pairs[:, 1]
    difference = torus.log(pack.frac[j] - pack.frac[i])
    cos, sin = harmonics(difference, frequencies)
    even = [cos, radial(pack, difference, i, geometry)] if geometry else [cos]
    return jnp.concatenate(even, -1), sin


def cell_features(pack: Pack) -> Array:
    """Inner products of the lattice vectors, their ratios and the log-volume per site: (b, 13), smooth everywhere."""
    metric = lattices.metric(pack.lattice)
    volume = lattices.volume(pack.lattice)
    ratios = metric / jnp.cbrt(jnp.square(volume))[:, None, None]
    per_site = jnp.log(volume / jnp.maximum(num_sites(pack), 1))
    return jnp.concatenate(
        [lattices.from_symmetric(metric) / 30, lattices.from_symmetric(ratios), per_site[:, None]], -1
    )


def harmonics(difference: Array, count: int) -> tuple[Array, Array]:
    """cos and sin of 2 pi k x, k = 0..count-1, by angle addition from one pair: (p, 3) -> (p, 3 count) twice.

    Angle addition is a rotation per step, so the error grows by half a rounding per step: 1e-5 at k = 127 in float32.
    """
    angle = 2 * jnp.pi * difference
    c1, s1 = jnp.cos(angle), jnp.sin(angle)
    cos, sin = [jnp.ones_like(c1)], [jnp.zeros_like(s1)]
    for _ in range(count - 1):
        cos, sin = [*cos, cos[-1] * c1 - sin[-1] * s1], [*sin, sin[-1] * c1 + cos[-1] * s1]
    return jnp.concatenate(cos, -1), jnp.concatenate(sin, -1)


def radial(pack: Pack, difference: Array, i: Array, count: int, reach: float = 8.0) -> Array:
    """Gaussians of the distance in Å between the images nearest along each axis, from `L L^T`: (p, count)."""
    g = lattices.metric(pack.lattice)[pack.owner[i]]
    squared = jnp.sum(difference[:, :, None] * g * difference[:, None, :], (1, 2))
    distance = jnp.sqrt(jnp.maximum(squared, 1e-6))
    width = reach / count
    centers = (jnp.arange(count, dtype=distance.dtype) + 0.5) * width
    return jnp.exp(-0.5 * jnp.square((distance[:, None] - centers[None]) / width))


class _Layer(nn.Module):
    """One pass of messages."""

    width: int
    edge_depth: int
    self_edges: bool
    dtype: Any

    @nn.compact
    def __call__(self, h: Array, shared: tuple) -> tuple[Array, None]:
        pack, even, odd, at_zero, cell, count = shared
        d, dtype = self.width, self.dtype
        i, j = pack.pairs[:, 0], pack.pairs[:, 1]
        normed = nn.LayerNorm(dtype=_wide(self.dtype), param_dtype=_wide(self.dtype))(h)
        receive = (
            _Linear(d, dtype, name="edge_receive")(normed)
            + _Linear(d, dtype, bias=False, name="edge_cell")(cell)[pack.owner]
        )
        send = _Linear(d, dtype, bias=False, name="edge_send")(normed)
        to_even = _Linear(d, dtype, bias=False, name="edge_even")
        same, sign = to_even(even), _Linear(d, dtype, bias=False, name="edge_odd")(odd)
        second = _Linear(d, dtype, name="edge_second") if self.edge_depth == 2 else None

        def message(z: Array) -> Array:
            return nn.silu(second(nn.silu(z))) if second else nn.silu(z)

        mask = pack.pair_mask[:, None]
        total = jax.ops.segment_sum(mask * message(receive[i] + send[j] + same + sign), i, h.shape[0])
        total += jax.ops.segment_sum(mask * message(receive[j] + send[i] + same - sign), j, h.shape[0])
        if self.self_edges:
            total += message(receive + send + to_even(at_zero))
        mean = total / count
        update = nn.silu(
            _Linear(d, dtype, name="node_h")(normed) + _Linear(d, dtype, bias=False, name="node_mean")(mean)
        )
        return h + nn.silu(_Linear(d, dtype, name="node_second")(update)), None


class _Dense(nn.Module):
    width: int
    layers: int
    frequencies: int
    geometry: int
    edge_depth: int
    self_edges: bool
    pair_head: bool
    unroll: int
    dtype: Any

    @nn.compact
    def __call__(self, pack: Pack, context: Array) -> Prediction:
        even, odd = pair_features(pack, self.frequencies, self.geometry)
        at_zero = jnp.arange(even.shape[1]) < 3 * self.frequencies  # cos(0) = 1; a site has no distance to itself
        cell = cell_features(pack)
        count = jnp.maximum(num_sites(pack)[pack.owner] - (0 if self.self_edges else 1), 1)[:, None]
        shared = (pack, even, odd, at_zero[None].astype(even.dtype), cell, count)
        h = _Linear(self.width, _wide(self.dtype), name="species")(pack.occupancy)
        h = h + _Linear(self.width, _wide(self.dtype), name="context")(context)[pack.owner]
        h = _Linear(self.width, self.dtype, name="embed")(nn.silu(h))
        h = self._passes(h, shared)
        h = nn.LayerNorm(dtype=_wide(self.dtype), param_dtype=_wide(self.dtype))(h)
        prediction = _Heads(self.dtype, name="heads")(h, pack)
        if self.pair_head:
            moves = _PairHead(self.width, self.dtype, name="pair_head")(h, pack, even, odd) / count
            prediction = prediction._replace(frac=prediction.frac + moves)
        return prediction

    def _passes(self, h: Array, shared: tuple) -> Array:
        arguments = dict(width=self.width, edge_depth=self.edge_depth, self_edges=self.self_edges, dtype=self.dtype)
        stacked = nn.scan(
            _Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
            in_axes=nn.broadcast,
            unroll=self.unroll,
        )
        return stacked(**arguments, name="layers")(h, shared)[0]


class _PairHead(nn.Module):
    """Displacements as sums over pairs of `sin(2 pi k (f_j - f_i))`, weighted by what the pair is: (n, 3).

    A direction is read off the pair itself; without this the site features have to carry it through the layers.
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, h: Array, pack: Pack, even: Array, odd: Array) -> Array:
        d, dtype = self.width, self.dtype
        i, j = pack.pairs[:, 0], pack.pairs[:, 1]
        receive = _Linear(d, dtype, name="receive")(h)
        send = _Linear(d, dtype, bias=False, name="send")(h)
        same = _Linear(d, dtype, bias=False, name="even")(even)
        sign = _Linear(d, dtype, bias=False, name="odd")(odd)
        weigh = _Linear(odd.shape[1], dtype, init=nn.initializers.zeros, name="weigh")

        def pull(z: Array) -> Array:  # harmonics come as (k, axis) pairs
            terms = (weigh(nn.silu(z)) * odd).reshape(len(odd), -1, 3)
            return terms.sum(1) * pack.pair_mask[:, None]

        forth = jax.ops.segment_sum(pull(receive[i] + send[j] + same + sign), i, h.shape[0])
        back = jax.ops.segment_sum(pull(receive[j] + send[i] + same - sign), j, h.shape[0])
        return forth - back


class _Heads(nn.Module):
    """Linear read-outs; the crystal's are means over its sites."""

    dtype: Any

    @nn.compact
    def __call__(self, h: Array, pack: Pack) -> Prediction:
        def linear(features: int, name: str) -> _Linear:
            return _Linear(features, _wide(self.dtype), init=nn.initializers.zeros, name=name)

        h = h * site_mask(pack.occupancy)[:, None]
        mean = mean_by_crystal(h, pack)
        frac = linear(3, "frac")(h)
        species = linear(NUM_SPECIES, "species")(h)
        return Prediction(frac, linear(6, "lattice")(mean), species, h, mean)
