"""What the graph backbone does beyond the symmetries that `tests/conformance` checks for every backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal
from crysjax.data import batching
from crysjax.nets import density_graph
from crysjax.nets.graph import _directions, graph
from tests.support import crystal, slope_is_a_finite_difference

SETTINGS = {"width": 8, "layers": 2, "angular": 3, "radial_basis": 6}
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def draw_crystal(n: int, seed: int = 0) -> Crystal:
    rng = np.random.default_rng(seed)
    lattice = np.eye(3) * 2.6 * n ** (1 / 3) + 0.3 * rng.normal(size=(3, 3))
    return jax.tree.map(jnp.asarray, crystal(rng.integers(1, 90, n), rng.random((n, 3)), lattice))


def random_params(network, pack, context):
    shapes = jax.eval_shape(network.init, jax.random.key(0), pack, context)
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


def context_of(pack) -> jax.Array:
    return jnp.zeros((pack.lattice.shape[0], 2), pack.frac.dtype)


def test_reduced_cells_hold_the_same_points():
    """A cell sheared by (7, -5): the sites of the reduced one lie on the lattice of the others, and none is longer."""
    one = draw_crystal(4)
    u = jnp.asarray([[1.0, 7.0, 0.0], [0.0, 1.0, -5.0], [0.0, 0.0, 1.0]])
    sheared = batching.pack_one(one._replace(lattice=u @ one.lattice, frac=one.frac @ jnp.linalg.inv(u)))
    cell = jax.jit(density_graph.reduced)(sheared)
    back = (cell.frac @ cell.lattice[0] - one.frac @ one.lattice) @ jnp.linalg.inv(one.lattice)
    np.testing.assert_allclose(back, np.round(back), atol=1e-4)
    assert jnp.linalg.norm(cell.lattice, axis=-1).max() <= jnp.linalg.norm(one.lattice, axis=-1).max() + 1e-4


def test_directions_are_orthonormal_on_the_sphere():
    """Products average to 1 / (2 l + 1) over the sphere, so that each degree has the length 1 (addition theorem)."""
    v = np.random.default_rng(0).normal(size=(200_000, 3)).astype(np.float32)
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    y = np.asarray(
        _directions(density_graph.DensityEdges(None, jnp.asarray(v), jnp.asarray(length), None, None)), np.float64
    )
    np.testing.assert_allclose(np.square(y[:, :3]).sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(np.square(y[:, 3:]).sum(-1), 1, atol=1e-5)
    expected = np.diag([1 / 3] * 3 + [1 / 5] * 5)
    np.testing.assert_allclose(y.T @ y / len(v), expected, atol=5 / len(v) ** 0.5)


def test_a_crystal_beyond_its_edges_is_refused_whatever_its_pack():
    """Room for as many edges per site as lies between what two crystals need: one is refused, first or last."""
    two = [draw_crystal(8, seed) for seed in (0, 3)]
    orders = [jax.tree.map(lambda *x: jnp.stack(x), *(two if k == 0 else two[::-1])) for k in range(2)]
    packs = [batching.pack_stacked(order) for order in orders]
    cell = density_graph.reduced(packs[0])
    edges = density_graph.density_edges(cell, density_graph.cutoffs(cell, 16.0, 5.5), 60, 2).graph
    few, many = sorted(np.bincount(packs[0].owner[edges.receiver], weights=edges.mask, minlength=2) / 8)
    assert many - few > 0.5
    network = graph(**SETTINGS, max_neighbors=int(np.ceil(few)))
    assert few <= int(np.ceil(few)) < many
    params = random_params(network, packs[0], context_of(packs[0]))
    apply = jax.jit(network.apply, compiler_options=FAST_COMPILE)
    first, second = (np.asarray(apply(params, p, context_of(p)).crystal) for p in packs)
    refused = np.isnan(first).all(-1)
    assert refused.sum() == 1
    np.testing.assert_array_equal(np.isnan(second).all(-1), refused[::-1])
    np.testing.assert_allclose(first[~refused], second[::-1][~refused], atol=1e-5)


def test_angles_are_seen():
    """Bent or straight: the same distances within the cutoff, other features."""

    def features(second: list[float]) -> np.ndarray:
        frac = np.array([[0, 0, 0], [1.45, 0, 0], second]) / 12
        pack = batching.pack_one(jax.tree.map(jnp.asarray, crystal([8, 1, 1], frac, 12 * np.eye(3))))
        network = graph(**SETTINGS, cutoff_angstrom=2.0)
        return np.asarray(network.apply(random_params(network, pack, context_of(pack)), pack, context_of(pack)).crystal)

    assert np.abs(features([0, 1.45, 0]) - features([-1.45, 0, 0])).max() > 1e-3
    np.testing.assert_allclose(features([0, 1.45, 0]), features([0, 0, 1.45]), atol=1e-5)


def test_derivatives_are_finite_differences():
    """By positions and cell, through the cutoff and the reduced cell, in float64."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # flax promotes inside LayerNorm and Dense
        network = graph(**SETTINGS, max_neighbors=40)
        one = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), draw_crystal(4))
        pack = batching.pack_one(one)
        params, context = random_params(network, pack, context_of(pack)), context_of(pack)
        slope_is_a_finite_difference(lambda moved: network.apply(params, batching.pack_one(moved), context), one)


def test_no_jump_where_a_neighbor_enters():
    """A site that crosses the cutoff changes nothing: features just before and just behind differ by what moved."""
    network = graph(**SETTINGS, neighbors=3.0, cutoff_angstrom=4.0)
    apply = jax.jit(network.apply, compiler_options=FAST_COMPILE)

    def at(distance: float) -> np.ndarray:
        cell = np.diag([12.0, 12.0, 12.0])
        one = jax.tree.map(jnp.asarray, crystal([14, 8], [[0, 0, 0], [distance / 12, 0, 0]], cell))
        pack = batching.pack_one(one)
        return np.asarray(apply(random_params(network, pack, context_of(pack)), pack, context_of(pack)).crystal)

    inside, edge, outside = at(3.5), at(3.999), at(4.001)
    assert np.abs(inside - outside).max() > 1e-3
    np.testing.assert_allclose(edge, outside, atol=1e-5)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="angular: 9; expected a whole number from 1 to width, 8"):
        graph(width=8, angular=9)
