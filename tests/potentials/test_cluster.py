"""The parts of the cluster expansion against e3nn and sums edge by edge, and its repulsion; test_mlip has the whole."""

import ase.units
import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal, one_hot
from crysjax.data.batching import Capacity
from crysjax.geometry.neighbors import Graph, edge_vectors
from crysjax.potentials import cluster as module
from crysjax.potentials.nequip import bessel, spherical_harmonics


def test_density_is_the_sum_over_edges(toys):
    """Every directed edge by itself, images and an atom's images of itself among them; (receiver, sender)."""
    pack = jax.tree.map(jnp.asarray, toys.make_pack([toys.draw_crystal(n, 0) for n in (3, 1)], Capacity(5, 6, 2)))
    graph = jax.tree.map(jnp.asarray, toys.make_graph(pack, 4.0, 400))
    r_vec = jnp.where(graph.mask[:, None] > 0, edge_vectors(pack, graph), jnp.array([[4.0, 0, 0]]))
    r = jnp.linalg.norm(r_vec, axis=-1)
    half = Graph(*(x[:200] for x in graph[:4]), graph.overflow)
    found = jax.jit(module._density, static_argnums=(3, 4, 5, 6))(r[:200], r_vec[:200], half, 5, 3, 4.0, 6.0)

    terms = spherical_harmonics(r_vec, 2)[:, :, None] * bessel(r, 3, 4.0, 6.0)[:, None, :] * graph.mask[:, None, None]
    expected = np.zeros((5, 5, 27))
    np.add.at(expected, (np.asarray(graph.receiver), np.asarray(graph.sender)), terms.reshape(400, -1))
    assert np.abs(expected[3, 3]).max() > 0.1  # the single atom sees its own images
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("a", "b", "out"), [(1, 2, 1), (1, 1, 2), (2, 2, 2), (0, 1, 1), (1, 1, 0)])
def test_products_of_channels_are_those_of_e3nn(a, b, out):
    rng = np.random.default_rng(a + 3 * b)
    x, y = (jnp.asarray(rng.normal(size=(4, 2 * l + 1, 3)), jnp.float32) for l in (a, b))
    # sums of an atom carry the parity (-1)^l, as does what is kept of their products
    left, right = (
        e3nn.IrrepsArray(f"3x{l}{'eo'[l % 2]}", v.swapaxes(1, 2).reshape(4, -1)) for l, v in ((a, x), (b, y))
    )
    product = e3nn.elementwise_tensor_product(left, right).filter(f"{out}{'eo'[(a + b) % 2]}").array
    np.testing.assert_allclose(module._couple(x, y, out), product.reshape(4, 3, -1).swapaxes(1, 2), atol=1e-6)


def pair_energy(z: tuple[int, int], r: float, reach: float) -> float:
    """Ziegler, Biersack and Littmark's universal potential (eV) to the digits of their book, faded out at `reach`."""
    length = 0.8854 * ase.units.Bohr / (z[0] ** 0.23 + z[1] ** 0.23)
    terms = ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4028), (0.02817, 0.2016))
    screen = sum(c * np.exp(-d * r / length) for c, d in terms)
    coulomb = ase.units._e / (4 * np.pi * ase.units._eps0) * 1e10
    return coulomb * z[0] * z[1] / r * screen * max(1 - r / reach, 0) ** 3


def test_repulsion_is_that_of_ziegler_biersack_and_littmark(toys):
    """All that is left of the energy without parameters, beside the reference energies of the elements."""
    potential, params = toys.potentials["cluster"]
    params = jax.tree.map(jnp.zeros_like, params) | {"reference": jnp.array([-1.0, -2.0, -4.0, -8.0])}
    energy = jax.jit(potential.energy, compiler_options=toys.fast)
    for z, r in [((14, 14), 0.3), ((1, 26), 0.9), ((8, 14), 1.3), ((1, 1), 1.7)]:
        frac = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + r / 9]])
        pack = toys.make_pack([Crystal(np.asarray(one_hot(np.array(z)), float), frac, 9 * np.eye(3))])
        found = energy(params, pack, toys.make_graph(pack, potential.cutoff_angstrom, 8))[0]
        reference = {1: -1.0, 8: -2.0, 14: -4.0, 26: -8.0}
        expected = pair_energy(z, r, 1.6) + reference[z[0]] + reference[z[1]]
        np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_atoms_never_fall_into_each_other(toys):
    """Below 0.6 Å the force is repulsive with random parameters, for every pair of elements but hydrogen's own."""
    potential, params = toys.potentials["cluster"]
    evaluate = jax.jit(potential.energy_forces_stress, compiler_options=toys.fast)
    for z in [(a, b) for a in toys.elements for b in toys.elements if 1 < a <= b]:
        for r in (0.15, 0.3, 0.6):
            frac = np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5 + r / 9]])
            pack = toys.make_pack([Crystal(np.asarray(one_hot(np.array(z)), float), frac, 9 * np.eye(3))])
            forces = evaluate(params, pack, toys.make_graph(pack, potential.cutoff_angstrom, 8))[1]
            assert forces[1, 2] > 0 > forces[0, 2], (z, r)
