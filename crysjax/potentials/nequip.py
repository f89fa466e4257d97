"""NequIP: an E(3)-equivariant message-passing network for site energies, with the layers of Nequix.

Batzner et al., Nature Communications 13, 2453 (2022), equations 1-8; Nequix: Koker, Kotak, Smidt, arXiv:2508.16067
(2025): the root-mean-square layer norm over all degrees at once, one species-independent self-connection a layer.
Features of degree l are arrays (sites, 2l + 1, channels): channels last, so that every loop runs along memory.
Only parities (-1)^l occur, so a degree names an irrep. Differs from the papers in evaluation alone: the messages to
an atom are summed by matrix products over blocks of its edges, and the radial networks see each pair of opposite
edges once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Params
from crysjax.geometry.neighbors import Graph

SILU_GAIN = 1.67656481  # 1 / root mean square of silu under a unit Gaussian, as e3nn-jax estimates it


def degrees(irreps: str) -> dict[int, int]:
    """Channels of each degree: "128x0e + 64x1o" -> {0: 128, 1: 64}; only parities (-1)^l are accepted."""
    found = {ir.l: mul for mul, ir in e3nn.Irreps(irreps) if ir.p == (-1) ** ir.l}
    if len(found) != len(e3nn.Irreps(irreps)) or 0 not in found:
        raise ValueError(f"irreps: {irreps!r} should name each degree once, with parity (-1)^l, and 0e among them")
    return found


def paths(inputs: dict[int, int], lmax: int, outputs: dict[int, int]) -> list[tuple[int, int, int]]:
    """(l_in, l_edge, l_out) of a tensor product, in the order in which the radial weights list them."""
    every = [(a, b, c) for a in sorted(inputs) for b in range(lmax + 1) for c in range(abs(a - b), a + b + 1)]
    return sorted((p for p in every if p[2] in outputs and (sum(p) % 2 == 0)), key=lambda p: p[2])


def bessel(r: Array, count: int, cutoff: float, p: float) -> Array:
    """Bessel functions times the envelope of order p (Gasteiger et al. 2020, eq. 7 and 8): (e,) -> (e, count).

    The prefactor is 2 / cutoff, as in NequIP's code, on which published weights rest; eq. 7 has sqrt(2 / cutoff).
    """
    wave = jnp.arange(1, count + 1, dtype=r.dtype)[None] * (np.pi / cutoff)
    x = jnp.minimum(r / cutoff, 1)[:, None]
    envelope = 1 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x**2)
    return (2 / cutoff) * jnp.sin(wave * r[:, None]) / r[:, None] * jnp.where(x < 1, envelope, 0)


def spherical_harmonics(vectors: Array, lmax: int) -> Array:
    """Component-normalized harmonics of degrees 0..lmax: (e, 3) -> (e, (lmax + 1)^2)."""
    return e3nn.spherical_harmonics(e3nn.s2_irreps(lmax), vectors, normalize=True, normalization="component").array


def nequip(
    *,
    numbers: tuple[int, ...],
    hidden_irreps: str = "128x0e + 64x1o + 32x2e + 32x3o",
    layers: int = 4,
    lmax: int = 3,
    cutoff_angstrom: float = 6.0,
    radial_basis: int = 8,
    radial_width: int = 64,
    radial_layers: int = 2,
    envelope_power: float = 6.0,
    mean_neighbors: float = 57.0,
    scale_ev: float = 1.0,
    shift_ev: float = 0.0,
) -> tuple[Callable, Callable]:
    """`(init, site_energies)`: key -> params, and (params, occupancy, vectors, graph) -> (n,) energies in eV.

    Args:
        numbers: atomic numbers of the elements that the network knows; a training config that leaves them out gets all
            that occur in its data. Occupancy columns of other elements are ignored.
        hidden_irreps: channels of the hidden features of each site for each degree, as in e3nn; parity (-1)^l only.
        layers: number of message-passing layers.
        lmax: highest degree of the spherical harmonics of an edge.
        cutoff_angstrom: radius within which atoms are neighbors, Å.
        radial_basis: number of Bessel functions of the interatomic distance (Gasteiger et al. 2020, eq. 7).
        radial_width: width of the hidden layers of the radial networks, which turn distances into weights.
        radial_layers: number of these hidden layers.
        envelope_power: exponent p of the envelope that takes the basis to zero at the cutoff (Gasteiger et al. 2020,
            eq. 8).
        mean_neighbors: number of neighbors of an average atom; sums over neighbors are divided by its square root.
        scale_ev: energy of a site, in eV, for an output of 1 of the network.
        shift_ev: constant that is added to the energy of each site, eV.
    """
    species, hidden = len(numbers), degrees(hidden_irreps)
    columns = np.asarray(numbers, np.int32) - 1
    widths = [{0: species}] + [hidden] * layers
    outputs = [hidden] * (layers - 1) + [{0: hidden[0]}]
    path_lists = [paths(widths[k], lmax, outputs[k]) for k in range(layers)]

    def shapes(k: int) -> dict:
        """Shapes of the leaves of layer k."""
        wide, out = widths[k], dict(outputs[k])
        out[0] += sum(mul for l, mul in out.items() if l > 0)  # a gate for every channel that is no scalar
        fan = {c: sum(wide[a] for a, _, c2 in path_lists[k] if c2 == c) for c in out}
        sizes = [radial_basis] + [radial_width] * radial_layers + [sum(fan.values())]
        return {
            "radial": list(itertools.pairwise(sizes)),
            "linear_1": {l: (mul, mul) for l, mul in wide.items()},
            "linear_2": {l: (fan[l], out[l]) for l in out},
            "skip": {l: (mul, out[l]) for l, mul in wide.items() if l in out},
            "norm": {l: (mul,) for l, mul in out.items()},
        }

    def init(key: Array) -> Params:
        tree = {"reference": (species,), "layers": [shapes(k) for k in range(layers)], "readout": (hidden[0], 1)}
        leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, tuple))
        keys = jax.random.split(key, len(leaves))
        params = jax.tree.unflatten(treedef, [jax.random.normal(k, s) for k, s in zip(keys, leaves)])
        params["reference"] = jnp.zeros(species)
        for layer in params["layers"]:
            layer["norm"] = jax.tree.map(jnp.ones_like, layer["norm"])
            layer["radial"] = [w * (4 / w.shape[0]) ** 0.5 for w in layer["radial"][:-1]] + [
                layer["radial"][-1] / layer["radial"][-1].shape[0] ** 0.5
            ]
        return params

    def convolve(layer: Params, k: int, x: dict[int, Array], harmonics: Array, basis: Array, blocks: Blocks) -> dict:
        """One interaction block, NequIP's equations 5 to 8."""
        weights = _mlp(layer["radial"], basis)[blocks.edge % len(basis)]  # opposite edges are equally long
        y = {l: _linear(layer["linear_1"][l], x[l]) for l in x}
        summed = _messages(y, weights, harmonics[blocks.edge], path_lists[k], blocks)
        out = {l: _linear(w, summed[l] / mean_neighbors**0.5) for l, w in layer["linear_2"].items()}
        out = {l: out[l] + (_linear(layer["skip"][l], x[l]) if l in layer["skip"] else 0) for l in out}
        return _gate(_layer_norm(layer["norm"], out), outputs[k])

    def site_energies(params: Params, occupancy: Array, vectors: Array, graph: Graph) -> Array:
        half, blocks = vectors[: len(vectors) // 2], edge_blocks(graph, len(occupancy))
        basis = bessel(jnp.sqrt((half**2).sum(-1)), radial_basis, cutoff_angstrom, envelope_power)
        harmonics = spherical_harmonics(half, lmax) * graph.mask[: len(half), None]
        harmonics = jnp.concatenate([harmonics, harmonics * _parity(lmax, harmonics.dtype)[None]])
        one_hot = occupancy[:, columns]
        x = {0: one_hot[:, None, :]}
        for k in range(layers):
            x = convolve(params["layers"][k], k, x, harmonics, basis, blocks)
        energy = _linear(params["readout"], x[0])[:, 0, 0]
        return energy * scale_ev + shift_ev * one_hot.sum(-1) + one_hot @ params["reference"]

    return init, site_energies


def _linear(w: Array, x: Array) -> Array:
    """Mix channels, normalized by the fan-in."""
    return x @ (w / np.sqrt(w.shape[0]).astype(w.dtype))


def _mlp(layers: list[Array], x: Array) -> Array:
    for w in layers[:-1]:
        x = jax.nn.silu(x @ w)
    return x @ layers[-1]


def _parity(lmax: int, dtype) -> Array:
    """The sign that each harmonic takes when its edge is reversed."""
    return jnp.concatenate([jnp.full(2 * l + 1, (-1.0) ** l, dtype) for l in range(lmax + 1)])


class Blocks(NamedTuple):
    """Edges in blocks that share a receiver; places that are left over hold edge 0 with `filled` 0."""

    edge: Array  # (blocks, size)
    sender: Array  # (blocks, size)
    filled: Array  # (blocks, size) 1 or 0
    receiver: Array  # (blocks,)


def edge_blocks(graph: Graph, sites: int, size: int = 16) -> Blocks:
    """Sort the real edges by receiver into blocks; `e / size + sites` blocks are always enough."""
    count, edges = len(graph.sender) // size + sites, len(graph.sender)
    receiver = jnp.where(graph.mask > 0, graph.receiver, sites)
    order = jnp.argsort(receiver)
    degree = jnp.bincount(receiver, length=sites + 1)
    used = -(-degree // size)
    first_edge, first_block = jnp.cumsum(degree) - degree, jnp.cumsum(used) - used
    sorted_to = receiver[order]
    place = first_block[sorted_to] * size + jnp.arange(edges) - first_edge[sorted_to]
    place = jnp.where(sorted_to < sites, place, count * size)  # out of range: dropped
    edge = jnp.full(count * size, edges, jnp.int32).at[place].set(order.astype(jnp.int32), mode="drop")
    filled = (edge < edges).astype(graph.mask.dtype).reshape(count, size)
    edge = jnp.where(edge < edges, edge, 0).reshape(count, size)
    to = jnp.repeat(jnp.arange(sites), used[:sites], total_repeat_length=count)
    return Blocks(edge, graph.sender[edge], filled, to)


def _couplings(path_list: list, lmax: int, dtype) -> Array:
    """Clebsch-Gordan coefficients of all paths side by side: ((lmax + 1)^2, sum of (2 l_in + 1)(2 l_out + 1))."""
    columns = []
    for a, b, c in path_list:
        block = np.zeros(((lmax + 1) ** 2, 2 * a + 1, 2 * c + 1))
        block[b * b : (b + 1) ** 2] = np.asarray(e3nn.clebsch_gordan(a, b, c)).swapaxes(0, 1) * np.sqrt(2 * c + 1)
        columns.append(block.reshape(len(block), -1))
    return jnp.asarray(np.concatenate(columns, 1), dtype)


def _messages(y: dict, weights: Array, harmonics: Array, path_list: list, blocks: Blocks) -> dict[int, Array]:
    """Messages summed at their receivers; paths of one output degree side by side in the channels.

    One block of edges at a time, so that everything between reading and the sum stays in the cache: the sum over
    edges and input components is a matrix product a block and path. Ten times faster than all edges at once.
    """
    coupling = _couplings(path_list, int(harmonics.shape[-1] ** 0.5) - 1, harmonics.dtype)
    sent = {l: y[l][blocks.sender] for l in y}

    @jax.checkpoint
    def block(item: tuple) -> dict[int, Array]:
        sent, weights, harmonics = item
        matrices, out, w0, m0 = harmonics @ coupling, {}, 0, 0
        for a, _, c in path_list:
            size, rows, columns = len(harmonics), 2 * a + 1, 2 * c + 1
            w1, m1 = w0 + sent[a].shape[-1], m0 + rows * columns
            scaled = (sent[a] * weights[:, None, w0:w1]).reshape(size * rows, -1)
            out.setdefault(c, []).append(matrices[:, m0:m1].reshape(size * rows, columns).T @ scaled)
            w0, m0 = w1, m1
        return {c: jnp.concatenate(parts, -1) for c, parts in out.items()}

    sums = jax.lax.map(block, (sent, weights, harmonics * blocks.filled[..., None]))
    return {c: jax.ops.segment_sum(s, blocks.receiver, len(y[0]), indices_are_sorted=True) for c, s in sums.items()}


def _layer_norm(scale: dict[int, Array], x: dict[int, Array]) -> dict[int, Array]:
    """Divide by the norm over all degrees. Nequix sums over channels and averages twice over a degree's components."""
    square = sum((x[l] ** 2).sum((-2, -1)) / (2 * l + 1) ** 2 for l in x) / len(x)
    factor = jax.lax.rsqrt(square + 1e-12)[:, None, None]
    return {l: x[l] * scale[l][None, None, :] * factor for l in x}


def _gate(x: dict[int, Array], outputs: dict[int, int]) -> dict[int, Array]:
    """Silu on the scalars; the scalars beyond gate the other channels."""
    active = SILU_GAIN * jax.nn.silu(x[0])
    out, start = {0: active[..., : outputs[0]]}, outputs[0]
    for l in sorted(outputs)[1:]:
        out[l] = x[l] * active[..., start : start + outputs[l]]
        start += outputs[l]
    return out
