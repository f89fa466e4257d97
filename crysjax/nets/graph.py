"""An invariant graph network on jraph: gated messages along the bonds, with the angles between them.

A layer is one `jraph.GraphNetwork`. Its messages are gated as in CGCNN (Xie & Grossman, Phys. Rev. Lett. 120, 145301,
2018, equation 5), with the product of a site's features taken once per site instead of once per edge. Beside their
sum, each site receives the moments of some message channels over the directions of its neighbors, of degree 1 and 2;
their lengths are invariant and see the angles between bonds (the power spectrum of Bartók et al., Phys. Rev. B 87,
184115, 2013, in learned channels). It costs no tensor products and is several times cheaper than `equivariant`.

Every output is a function of the periodic crystal, not of the cell that describes it (see `density_graph`). The
displacements and the strain are sums over bonds, weighted by functions of the messages.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import jraph
from jax import Array

from crysjax.base import NUM_SPECIES, Network, Pack, Prediction, mean_by_crystal, num_sites, site_mask
from crysjax.geometry import lattice as lattices
from crysjax.nets.density_graph import DensityEdges, cutoffs, density_edges, reduced, refuse


def graph(
    *,
    width: int = 64,
    layers: int = 3,
    angular: int = 8,
    neighbors: float = 16.0,
    max_neighbors: int = 28,
    cutoff_angstrom: float = 5.5,
    max_images: int = 2,
    radial_basis: int = 20,
) -> Network:
    """The graph network.

    Args:
        width: features per site.
        layers: number of message-passing layers.
        angular: message channels whose moments over the directions are taken, at most `width`.
        neighbors: number of neighbors within the cutoff at uniform density: the cutoff of a crystal follows from its
            volume per atom.
        max_neighbors: largest mean number of edges per site of a crystal; the prediction for one that has more is NaN.
        cutoff_angstrom: upper limit of the cutoff, Å, which crystals of low density reach.
        max_images: cells searched for neighbors along each axis of the reduced cell. The prediction for a crystal that
            needs more is NaN.
        radial_basis: number of Gaussians of the distance in Å, with half as many Bessel functions of the distance over
            the cutoff.
    """
    if not 1 <= angular <= width:
        raise ValueError(f"angular: {angular}; expected a whole number from 1 to width, {width}")
    module = _GraphNet(width, layers, angular, neighbors, max_neighbors, cutoff_angstrom, max_images, radial_basis)

    def init(key: Array, pack: Pack, context: Array):
        return module.init(key, pack, context)["params"]

    def apply(params, pack: Pack, context: Array) -> Prediction:
        return module.apply({"params": params}, pack, context)

    return Network(init, apply)


class _GraphNet(nn.Module):
    width: int
    layers: int
    angular: int
    neighbors: float
    max_neighbors: int
    cutoff: float
    max_images: int
    radial_basis: int

    @nn.compact
    def __call__(self, pack: Pack, context: Array) -> Prediction:
        cell = reduced(pack)
        edges = density_edges(cell, cutoffs(cell, self.neighbors, self.cutoff), self.max_neighbors, self.max_images)
        basis, directions = _radial(edges, self.radial_basis, self.cutoff), _directions(edges)
        of_crystal = nn.Dense(self.width, name="context")(context)
        nodes = nn.silu(nn.Dense(self.width, name="species")(pack.occupancy) + of_crystal[pack.owner])
        messages = None
        for k in range(self.layers):
            layer = _Layer(self.width, self.angular, self.neighbors, name=f"layer_{k}")
            nodes, messages = layer(nodes, edges, basis, directions)
        prediction = _Outputs(name="outputs")(nn.LayerNorm(name="norm")(nodes), messages, edges, pack)
        return refuse(prediction, edges.graph.overflow, pack)


class _Layer(nn.Module):
    """One pass of messages, with a residual."""

    width: int
    angular: int
    neighbors: float

    @nn.compact
    def __call__(self, nodes: Array, edges: DensityEdges, basis: Array, directions: Array) -> tuple[Array, Array]:
        normed = nn.LayerNorm(name="norm")(nodes)
        sent = nn.Dense(2 * self.width, use_bias=False, name="send")(normed)
        received = nn.Dense(2 * self.width, name="receive")(normed)
        bonds = _both_ways(nn.Dense(2 * self.width, use_bias=False, name="bond"), basis)

        def update_edge(bond: Array, sender: tuple, receiver: tuple, globals_: None) -> tuple[Array, Array]:
            gate, value = jnp.split(bond + sender[0] + receiver[1], 2, -1)
            message = nn.sigmoid(gate) * nn.silu(value) * edges.envelope
            moments = message[:, : self.angular, None] * directions[:, None, :]
            return message, moments.reshape(len(message), -1)

        def update_node(node: tuple, outgoing: tuple, incoming: tuple, globals_: None) -> Array:
            summed, moments = (x / self.neighbors**0.5 for x in incoming)
            square = jnp.square(moments).reshape(-1, self.angular, directions.shape[1])
            lengths = [jnp.sqrt(square[..., part].sum(-1) + 1e-3) for part in (slice(0, 3), slice(3, 8))]
            seen = jnp.concatenate([normed, summed, *lengths], -1)
            return nodes + nn.Dense(self.width, name="update_1")(nn.silu(nn.Dense(self.width, name="update_0")(seen)))

        graph = jraph.GraphsTuple(
            nodes=(sent, received), edges=bonds, senders=edges.graph.sender, receivers=edges.graph.receiver,
            globals=None, n_node=jnp.array([len(nodes)]), n_edge=jnp.array([len(basis)]),
        )  # fmt: skip
        passed = jraph.GraphNetwork(update_edge, update_node)(graph)
        return passed.nodes, passed.edges[0]


def _both_ways(layer: nn.Module, basis: Array) -> Array:
    """A layer of the lengths; opposite edges are equally long, so half of them are enough."""
    half = layer(basis[: len(basis) // 2])
    return jnp.concatenate([half, half])


def _radial(edges: DensityEdges, count: int, cutoff: float) -> Array:
    """Gaussians of the distance and Bessel functions of its share of the cutoff, 0 from there on: (e, 3/2 k)."""
    centers = jnp.linspace(0.6, cutoff, count, dtype=edges.length.dtype)[None]
    gaussians = jnp.exp(-0.5 * jnp.square((edges.angstrom - centers) * (count / cutoff)))
    wave = jnp.arange(1, count // 2 + 1, dtype=edges.length.dtype)[None] * jnp.pi
    return jnp.concatenate([gaussians, jnp.sin(wave * edges.length) / edges.length], -1) * edges.envelope


def _directions(edges: DensityEdges) -> Array:
    """Real spherical harmonics of degree 1 and 2, each degree of length 1: (e, 8)."""
    x, y, z = jnp.split(edges.vector / edges.length, 3, -1)
    two = 3**0.5 * jnp.concatenate([x * y, y * z, z * x, 0.5 * (x * x - y * y)], -1)
    return jnp.concatenate([x, y, z, two, 0.5 * (3 * z * z - 1)], -1)


class _Outputs(nn.Module):
    """Read-outs, zero at first."""

    @nn.compact
    def __call__(self, nodes: Array, messages: Array, edges: DensityEdges, pack: Pack) -> Prediction:
        zeros = nn.initializers.zeros
        scalars = nodes * site_mask(pack.occupancy)[:, None]
        weights = nn.Dense(2, use_bias=False, kernel_init=zeros, name="bonds")(messages) * edges.envelope
        unit, count = edges.vector / edges.length, len(nodes)
        # the vector is counted in site spacings, so that a fraction of it is as large in any cell
        spacing = jnp.cbrt(lattices.volume(pack.lattice) / jnp.maximum(num_sites(pack), 1))
        to_frac = spacing[:, None, None] * lattices.inverse(pack.lattice)
        moved = jraph.segment_sum(weights[:, :1] * unit, edges.graph.receiver, count)
        frac = jnp.einsum("ni,nij->nj", moved, to_frac[pack.owner])
        square = weights[:, 1, None, None] * unit[:, :, None] * unit[:, None, :]
        strain = mean_by_crystal(jraph.segment_sum(square, edges.graph.receiver, count), pack)
        trace = mean_by_crystal(nn.Dense(1, kernel_init=zeros, name="trace")(scalars), pack)
        strain = strain + trace[:, :, None] * jnp.eye(3, dtype=strain.dtype)[None]
        rotation = lattices.polar(pack.lattice)[1]
        turned = rotation @ strain @ jnp.swapaxes(rotation, -1, -2)
        species = nn.Dense(NUM_SPECIES, kernel_init=zeros, name="species")(scalars)
        return Prediction(frac, lattices.from_symmetric(turned), species, scalars, mean_by_crystal(scalars, pack))
