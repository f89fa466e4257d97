"""An E(3)-equivariant backbone: scalars, vectors and rank-2 tensors on the sites, messages along a radius graph.

Sites carry features that turn with the crystal (e3nn irreps of degree 0, 1, 2); messages are tensor products with the
spherical harmonics of the edge, weighted by a network of its length (Batzner et al., NequIP, Nature Communications 13,
2453, 2022, equations 1-8). Forces-like outputs come from a vector, strain-like ones from a rank-2 tensor (as in
MatterGen, Zeni et al. 2025, whose score network works the same way).

What differs from a potential: the cutoff follows the density, see `density_graph`.
"""

from __future__ import annotations

from typing import NamedTuple

import e3nn_jax as e3nn
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Network, Pack, Prediction, mean_by_crystal, num_sites, site_mask
from crysjax.geometry import lattice as lattices
from crysjax.geometry import neighbors as graphs
from crysjax.nets.density_graph import cutoffs, density_edges, reduced, refuse, within_reach

_R2, _R6 = 2**-0.5, 6**-0.5
_DEGREE_2 = np.array(
    [
        [[0, 0, _R2], [0, 0, 0], [_R2, 0, 0]],
        [[0, _R2, 0], [_R2, 0, 0], [0, 0, 0]],
        [[-_R6, 0, 0], [0, 2 * _R6, 0], [0, 0, -_R6]],
        [[0, 0, 0], [0, 0, _R2], [0, _R2, 0]],
        [[-_R2, 0, 0], [0, 0, 0], [0, 0, _R2]],
    ]
)
"""The traceless symmetric matrices of e3nn's five components of degree 2, orthonormal (Frobenius)."""


def equivariant(
    *,
    hidden_irreps: str = "64x0e + 16x1o + 8x2e",
    layers: int = 3,
    neighbors: float = 24.0,
    max_neighbors: int = 40,
    cutoff_angstrom: float = 6.0,
    max_images: int = 3,
    radial_basis: int = 8,
    radial_width: int = 64,
    sees_cell: bool = False,
) -> Network:
    """The equivariant network.

    Args:
        hidden_irreps: channels of the features of each site for the degrees 0e, 1o and 2e, as in e3nn.
        layers: number of message-passing layers.
        neighbors: number of neighbors within the cutoff at uniform density: the cutoff of a crystal follows from its
            volume per atom.
        max_neighbors: largest mean number of edges per site of a crystal; the prediction for one that has more is NaN.
        cutoff_angstrom: upper limit of the cutoff, Å, which crystals of low density reach.
        max_images: cells searched for neighbors along each axis of the reduced cell. The prediction for a crystal that
            needs more is NaN; with `sees_cell` it gets a smaller cutoff instead.
        radial_basis: number of Bessel functions of the distance over the cutoff, and of Gaussians of the distance in Å.
        radial_width: width of the hidden layer of the radial networks, which turn distances into weights.
        sees_cell: also give the sites the shape of the cell. A generator of lattices needs it, because a noised cell
            is not a property of the crystal; a property does not, and is then independent of the cell's choice.
    """
    irreps = e3nn.Irreps(hidden_irreps).regroup()
    wrong = [str(ir) for _, ir in irreps if str(ir) not in ("0e", "1o", "2e")]
    if wrong or irreps.count("0e") == 0:
        raise ValueError(f"hidden_irreps: {hidden_irreps!r} should hold 0e and further only 1o and 2e")
    module = _Equivariant(str(irreps), layers, neighbors, max_neighbors, cutoff_angstrom, max_images, radial_basis,
                          radial_width, sees_cell)  # fmt: skip

    def init(key: Array, pack: Pack, context: Array):
        return module.init(key, pack, context)["params"]

    def apply(params, pack: Pack, context: Array) -> Prediction:
        return module.apply({"params": params}, pack, context)

    return Network(init, apply)


class EdgeFeatures(NamedTuple):
    """The directed edges of a pack, and what the layers need of them."""

    graph: graphs.Graph
    basis: Array  # (e, 2 k) functions of the length, 0 from the cutoff on
    envelope: Array  # (e, 1) 1 at no distance, 0 with two derivatives from the cutoff on
    harmonics: e3nn.IrrepsArray  # (e, "0e+1o+2e") of the direction


def make_edges(pack: Pack, cutoff: Array, max_neighbors: float, max_images: int, count: int) -> EdgeFeatures:
    """The radius graph of reduced cells with a cutoff per crystal, (b,) in Å, as the layers read it."""
    found = density_edges(pack, cutoff, max_neighbors, max_images)
    x, angstrom = found.length, found.angstrom
    wave = jnp.arange(1, count + 1, dtype=x.dtype)[None] * np.pi
    centers = jnp.arange(count, dtype=x.dtype)[None] * (6.0 / count) + 0.5
    basis = jnp.concatenate([jnp.sin(wave * x) / x, jnp.exp(-jnp.square((angstrom - centers) * (count / 6.0)))], -1)
    harmonics = e3nn.spherical_harmonics("0e + 1o + 2e", found.vector / x, normalize=False, normalization="component")
    return EdgeFeatures(found.graph, basis, found.envelope, harmonics)


class _Norm(nn.Module):
    """Layer norm of the scalars; the other degrees are divided by their root mean square, which is invariant."""

    @nn.compact
    def __call__(self, x: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
        chunks = []
        for k, ((mul, ir), chunk) in enumerate(zip(x.irreps, x.chunks)):
            if ir.l == 0:
                chunks.append(nn.LayerNorm()(chunk[..., 0])[..., None])
                continue
            scale = self.param(f"scale_{k}", nn.initializers.ones, (mul,))
            square = jnp.square(chunk).sum(-1).mean(-1)
            chunks.append(chunk * (scale[None] / jnp.sqrt(square + 1e-4)[:, None])[:, :, None])
        return e3nn.from_chunks(x.irreps, chunks, x.shape[:-1], x.dtype)


class _Layer(nn.Module):
    """One pass of messages, with a residual."""

    hidden: str  # irreps; flax would take an Irreps, which is a tuple, apart
    radial_width: int
    neighbors: float

    @nn.compact
    def __call__(self, h: e3nn.IrrepsArray, edges: EdgeFeatures) -> e3nn.IrrepsArray:
        irreps = e3nn.Irreps(self.hidden)
        gates = irreps.num_irreps - irreps.count("0e")  # one a vector or tensor
        gated = (irreps + f"{gates}x0e").regroup()
        normed = _Norm()(h)
        sent = e3nn.flax.Linear(h.irreps, name="send")(normed)[edges.graph.sender]
        message = e3nn.tensor_product(sent, edges.harmonics, filter_ir_out=["0e", "1o", "2e"])
        message = message * self._radial(edges, message.irreps.num_irreps)
        summed = e3nn.scatter_sum(message, dst=edges.graph.receiver, output_size=h.shape[0])
        update = e3nn.flax.Linear(gated, name="receive")(summed / self.neighbors**0.5)
        update = update + e3nn.flax.Linear(gated, name="keep", force_irreps_out=True)(normed)
        update = e3nn.flax.Linear(irreps, name="mix")(e3nn.gate(update))
        return update + h if h.irreps == irreps else update

    def _radial(self, edges: EdgeFeatures, count: int) -> Array:
        """A weight an edge and path; opposite edges are equally long, so half of them are enough."""
        half = len(edges.basis) // 2
        y = nn.silu(nn.Dense(self.radial_width, name="radial_0")(edges.basis[:half]))
        y = nn.silu(nn.Dense(self.radial_width, name="radial_1")(y))
        y = nn.Dense(count, use_bias=False, name="radial_2")(y) * edges.envelope[:half]
        return jnp.concatenate([y, y])


class _Equivariant(nn.Module):
    hidden: str  # irreps; flax would take an Irreps, which is a tuple, apart
    layers: int
    neighbors: float
    max_neighbors: int
    cutoff: float
    max_images: int
    radial_basis: int
    radial_width: int
    sees_cell: bool

    @nn.compact
    def __call__(self, pack: Pack, context: Array) -> Prediction:
        cell = reduced(pack)
        cutoff = cutoffs(cell, self.neighbors, self.cutoff)
        if self.sees_cell:  # half-noised cells: a smaller view is better than none
            cutoff = within_reach(cell, cutoff, self.max_images)
        edges = make_edges(cell, cutoff, self.max_neighbors, self.max_images, self.radial_basis)
        stretch, rotation = lattices.polar(pack.lattice)
        h = self._embed(pack, context, stretch, rotation)
        for k in range(self.layers):
            h = _Layer(self.hidden, self.radial_width, self.neighbors, name=f"layer_{k}")(h, edges)
        prediction = _Heads(name="heads")(_Norm()(h), pack, rotation)
        return refuse(prediction, edges.graph.overflow, pack)

    def _embed(self, pack: Pack, context: Array, stretch: Array, rotation: Array) -> e3nn.IrrepsArray:
        """Species, context and density as scalars; with `sees_cell` also the shape of the cell as a tensor."""
        irreps = e3nn.Irreps(self.hidden)
        width = irreps.count("0e")
        density = jnp.log(lattices.volume(pack.lattice) / jnp.maximum(num_sites(pack), 1))[:, None]
        of_crystal = nn.Dense(width, name="context")(jnp.concatenate([context, density], -1))
        scalars = nn.Dense(width, name="species")(pack.occupancy) + of_crystal[pack.owner]
        scalars = e3nn.IrrepsArray(f"{width}x0e", nn.silu(scalars))
        if not self.sees_cell:
            return e3nn.flax.Linear(f"{width}x0e", name="embed")(scalars)
        cell = jnp.swapaxes(rotation, -1, -2) @ stretch @ rotation  # L = Q (Q^T S Q): turns with the crystal
        cell = cell / jnp.cbrt(lattices.volume(pack.lattice))[:, None, None]
        cell = e3nn.IrrepsArray("0e + 2e", _from_cartesian(cell)[pack.owner])
        return e3nn.flax.Linear(irreps.filter(["0e", "2e"]), name="embed")(e3nn.concatenate([scalars, cell]))


def _from_cartesian(tensor: Array) -> Array:
    """Trace and the five components of degree 2 of a symmetric tensor: (..., 3, 3) -> (..., 6)."""
    trace = jnp.trace(tensor, axis1=-2, axis2=-1)[..., None] * 3**-0.5
    return jnp.concatenate([trace, jnp.einsum("...ij,kij->...k", tensor, jnp.asarray(_DEGREE_2, tensor.dtype))], -1)


def _to_cartesian(components: Array) -> Array:
    """The inverse of `_from_cartesian`."""
    basis = jnp.asarray(np.concatenate([np.eye(3)[None] * 3**-0.5, _DEGREE_2]), components.dtype)
    return jnp.einsum("...k,kij->...ij", components, basis)


class _Heads(nn.Module):
    """Read-outs, zero at first."""

    @nn.compact
    def __call__(self, h: e3nn.IrrepsArray, pack: Pack, rotation: Array) -> Prediction:
        def linear(irreps: str, name: str) -> Array:
            zeros = lambda: nn.initializers.zeros  # noqa: E731
            return e3nn.flax.Linear(irreps, parameter_initializer=zeros, force_irreps_out=True, name=name)(h).array

        scalars = h.filter("0e").array * site_mask(pack.occupancy)[:, None]
        # the vector is counted in site spacings, so that a fraction of it is as large in any cell
        spacing = jnp.cbrt(lattices.volume(pack.lattice) / jnp.maximum(num_sites(pack), 1))
        to_frac = spacing[:, None, None] * lattices.inverse(pack.lattice)
        frac = jnp.einsum("ni,nij->nj", linear("1o", "frac"), to_frac[pack.owner])
        tensor = _to_cartesian(mean_by_crystal(linear("0e + 2e", "lattice"), pack))
        turned = rotation @ tensor @ jnp.swapaxes(rotation, -1, -2)
        species = nn.Dense(NUM_SPECIES, kernel_init=nn.initializers.zeros, name="species")(scalars)
        return Prediction(frac, lattices.from_symmetric(turned), species, scalars, mean_by_crystal(scalars, pack))
