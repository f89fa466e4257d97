"""A fast E(3)-equivariant potential: atomic cluster expansions with message passing, cheap on a CPU.

The idea of ACE (Drautz, Phys. Rev. B 99, 014104 (2019)) and MACE (Batatia et al., NeurIPS 2022): a message is linear
in the sender's features, so it is summed over neighbors *before* anything is learned about it, and many-body terms
are products of these sums on one atom. Here the radial functions are a fixed basis too. Then

    D_ij[b, lm] = sum over images R_b(r) Y_lm(r)          one array a pack, the only work done per edge
    A_i[b, lm, c] = sum_j D_ij[b, lm] x_j[c]              one matrix product a layer
    h_i[lm, k] = sum_bc W_l[b, c, k] A_i[b, lm, c]        per atom, as is everything after it

and images that an atom sees of the same neighbor share their cost. `D` is dense over the sites of a pack: packs of
32 to 64 sites are the fastest. At short range the screened nuclear repulsion of Ziegler, Biersack and Littmark (1985)
is added, so that atoms never fall into each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Params
from crysjax.geometry.neighbors import Graph
from crysjax.potentials.nequip import bessel, spherical_harmonics

COULOMB_EV_ANGSTROM = 14.399645
DEGREE = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2])  # of each harmonic


class Cluster(NamedTuple):
    """The settings of `cluster`."""

    numbers: tuple[int, ...]
    cutoff_angstrom: float
    radial_basis: int
    channels: int
    vectors: int
    width: int
    hidden: int
    layers: int
    envelope_power: float
    mean_neighbors: float
    repulsion_angstrom: float


def cluster(
    *,
    numbers: tuple[int, ...],
    cutoff_angstrom: float = 5.0,
    radial_basis: int = 8,
    channels: int = 32,
    vectors: int = 16,
    width: int = 48,
    hidden: int = 64,
    layers: int = 2,
    envelope_power: float = 6.0,
    mean_neighbors: float = 30.0,
    repulsion_angstrom: float = 1.6,
) -> tuple[Callable, Callable]:
    """`(init, site_energies)` as `nequip`: an atomic cluster expansion with message passing.

    Args:
        numbers: atomic numbers of the elements that the network knows; a training config that leaves them out gets all
            that occur in its data.
        cutoff_angstrom: radius within which atoms are neighbors, Å.
        radial_basis: number of Bessel functions of the interatomic distance.
        channels: scalar features that each atom sends to its neighbors.
        vectors: vector features that each atom sends to its neighbors, from the second layer on.
        width: channels of the neighbor sums of each degree (0, 1 and 2), after they are mixed.
        hidden: features of each atom that its energy is read from.
        layers: number of message-passing layers.
        envelope_power: exponent p of the envelope that takes the basis to zero at the cutoff (Gasteiger et al. 2020,
            eq. 8).
        mean_neighbors: number of neighbors of an average atom; sums over neighbors are divided by its square root.
        repulsion_angstrom: distance at which the screened nuclear repulsion has faded to zero, Å.
    """
    settings = Cluster(
        numbers, cutoff_angstrom, radial_basis, channels, vectors, width, hidden, layers, envelope_power,
        mean_neighbors, repulsion_angstrom,
    )  # fmt: skip
    return partial(_init, settings), partial(_site_energies, settings)


def _init(settings: Cluster, key: Array) -> Params:
    species = len(settings.numbers)
    tree = {
        "reference": (species,),
        "embed": (species, settings.channels),
        "layers": [_layer_shapes(settings, k) for k in range(settings.layers)],
    }
    shapes, treedef = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(shapes))
    params = jax.tree.unflatten(treedef, [jax.random.normal(k, s) for k, s in zip(keys, shapes)])
    params["reference"] = jnp.zeros(species)
    for layer in params["layers"]:  # matrices are divided by the root of their fan-in where they are used
        layer["tilt"], layer["bias"] = jnp.zeros_like(layer["tilt"]), jnp.zeros_like(layer["bias"])
    return params


def _layer_shapes(settings: Cluster, k: int) -> dict:
    _, _, radial_basis, channels, vectors, width, hidden, layers, *_ = settings
    species = len(settings.numbers)
    sums = _sum_sizes(radial_basis, channels, vectors if k else 0)
    shapes = {f"mix_{l}": (size, width) for l, size in enumerate(sums)}
    shapes |= {"tilt": (species, 3 * width), "bias": (species, hidden)}
    shapes |= {"pair_1": (2 * width, width), "pair_2": (3 * width, width)}
    shapes |= {"dense": (6 * width + (hidden if k else 0), hidden), "energy": (hidden, 1)}
    if k + 1 < layers:
        shapes |= {"scalars": (hidden, channels), "gate": (hidden, vectors), "vectors": (2 * width, vectors)}
    return shapes


def _site_energies(settings: Cluster, params: Params, occupancy: Array, vectors_ij: Array, graph: Graph) -> Array:
    radial_basis, charges = settings.radial_basis, np.asarray(settings.numbers, float)
    one_hot, sites = occupancy[:, np.asarray(settings.numbers, np.int32) - 1], len(occupancy)
    half = Graph(*(x[: len(vectors_ij) // 2] for x in graph[:4]), graph.overflow)
    r_vec = vectors_ij[: len(half.sender)]
    r = jnp.sqrt((r_vec**2).sum(-1))
    density = _density(r, r_vec, half, sites, radial_basis, settings.cutoff_angstrom, settings.envelope_power)
    x, v, state = one_hot @ params["embed"], None, None
    energy = one_hot @ params["reference"]
    energy += _repulsion(r, one_hot @ jnp.asarray(charges, r.dtype), half, settings.repulsion_angstrom)
    for layer in params["layers"]:
        h = _expand(layer, density / settings.mean_neighbors**0.5, x, v, radial_basis)
        h = _tilt(layer, h, one_hot)
        t1, inside = _products(layer, h)
        inside = jnp.concatenate([inside, state], -1) if state is not None else inside
        state = jax.nn.silu(_linear(layer["dense"], inside) + one_hot @ layer["bias"])
        energy += _linear(layer["energy"], state)[:, 0]
        if "scalars" in layer:
            x = _linear(layer["scalars"], state)
            v = _linear(layer["vectors"], jnp.concatenate([h[1], t1], -1))
            v = v * _linear(layer["gate"], state)[:, None, :]
    return energy


def _repulsion(r: Array, z: Array, half: Graph, reach_angstrom: float) -> Array:
    """Ziegler-Biersack-Littmark energies, faded out at `reach_angstrom`, half to each end: (n,) in eV."""
    a, b = z[half.sender], z[half.receiver]
    reach = jnp.where(z > 0, z, 1) ** 0.23  # the root has no slope at the charge 0 of an empty slot
    x = r * (reach[half.sender] + reach[half.receiver]) / 0.46850  # in screening lengths of 0.8854 Bohr / (...)
    screen = sum(c * jnp.exp(-d * x) for c, d in ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029),
                                                  (0.02817, 0.20162)))  # fmt: skip
    fade = jnp.maximum(1 - r / reach_angstrom, 0) ** 3
    pair = 0.5 * COULOMB_EV_ANGSTROM * a * b / r * screen * fade * half.mask
    both = jnp.concatenate([pair, pair]), jnp.concatenate([half.sender, half.receiver])
    return jax.ops.segment_sum(*both, len(z))


def _sum_sizes(radial_basis: int, channels: int, vectors: int) -> tuple[int, int, int]:
    """Length of the neighbor sums of degree 0, 1, 2: scalars sent, and what vectors couple to."""
    return (
        radial_basis * (channels + vectors),  # 0 x 0, 1 x 1
        radial_basis * (channels + 2 * vectors),  # 1 x 0, 0 x 1, 2 x 1
        radial_basis * (channels + vectors),  # 2 x 0, 1 x 1
    )


def _density(r: Array, r_vec: Array, half: Graph, sites: int, count: int, cutoff: float, power: float) -> Array:
    """D: every pair of sites, images summed: (n, n, 9 * count), receiver first; harmonics outside, radial inside."""
    harmonics = spherical_harmonics(r_vec, 2)
    basis = bessel(r, count, cutoff, power) * half.mask[:, None]
    edge = (harmonics[:, :, None] * basis[:, None, :]).reshape(len(r), -1)
    there = jax.ops.segment_sum(edge, half.receiver * sites + half.sender, sites * sites).reshape(sites, sites, -1)
    parity = jnp.asarray(np.repeat((-1.0) ** DEGREE, count), r.dtype)
    return there + there.swapaxes(0, 1) * parity[None, None]


def _expand(layer: dict, density: Array, x: Array, v: Array | None, count: int) -> list[Array]:
    """Neighbor sums mixed into `width` channels: h_l (n, 2l + 1, width) for l = 0, 1, 2."""
    n = len(x)
    sent = x if v is None else jnp.concatenate([x, v.reshape(n, -1)], -1)
    sums = jnp.einsum("ijq,jc->iqc", density, sent).reshape(n, 9, count, -1)
    plain = sums[..., : x.shape[-1]]
    parts = [[_flat(plain[:, l * l : (l + 1) ** 2])] for l in range(3)]
    if v is not None:
        turned = sums[..., x.shape[-1] :].reshape(n, 9, count, 3, -1)
        for a, out in ((1, 0), (0, 1), (2, 1), (1, 2)):
            parts[out].append(
                _flat(jnp.einsum("napbc,abo->nopc", turned[:, a == DEGREE], _coupling(a, 1, out, x.dtype)))
            )
    return [_linear(layer[f"mix_{l}"], jnp.concatenate(part, -1)) for l, part in enumerate(parts)]


def _tilt(layer: dict, h: list[Array], one_hot: Array) -> list[Array]:
    """Scale by the receiver's species, and keep the size of the products bounded."""
    factor = 1 + (one_hot @ layer["tilt"]).reshape(len(one_hot), 3, -1)
    h = [x * factor[:, l, None] for l, x in enumerate(h)]
    square = sum((x**2).mean((-2, -1)) for x in h) / 3
    return [x * jax.lax.rsqrt(1 + square)[:, None, None] for x in h]


def _products(layer: dict, h: list[Array]) -> tuple[Array, Array]:
    """Vectors of second order, and the invariants up to third order: (n, 3, k), (n, 6 k)."""
    h0, h1, h2 = h
    t1 = _linear(layer["pair_1"], jnp.concatenate([h0 * h1, _couple(h1, h2, 1)], -1))
    t2 = _linear(layer["pair_2"], jnp.concatenate([h0 * h2, _couple(h1, h1, 2), _couple(h2, h2, 2)], -1))
    dots = [h0[:, 0], h0[:, 0] ** 2, *((a * b).mean(-2) for a, b in ((h1, h1), (h2, h2), (h1, t1), (h2, t2)))]
    return t1, jnp.concatenate(dots, -1)


def _couple(x: Array, y: Array, out: int) -> Array:
    """Channel by channel product of degree `out`: (n, 2a + 1, k), (n, 2b + 1, k) -> (n, 2 out + 1, k)."""
    coupling = _coupling(x.shape[1] // 2, y.shape[1] // 2, out, x.dtype)
    return jnp.einsum("nabk,abo->nok", x[:, :, None] * y[:, None, :], coupling)


def _coupling(a: int, b: int, out: int, dtype) -> Array:
    """Clebsch-Gordan coefficients, component normalization."""
    return jnp.asarray(np.asarray(e3nn.clebsch_gordan(a, b, out)) * np.sqrt(2 * out + 1), dtype)


def _flat(x: Array) -> Array:
    """Join the last two axes."""
    return x.reshape(*x.shape[:-2], -1)


def _linear(w: Array, x: Array) -> Array:
    """Mix channels, normalized by the fan-in."""
    return x @ (w / np.sqrt(w.shape[0]).astype(w.dtype))
