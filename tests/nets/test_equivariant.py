"""What the equivariant backbone does beyond the symmetries that `tests/conformance` checks for every backbone."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, Crystal, Pack
from crysjax.data import batching
from crysjax.nets import equivariant as module
from crysjax.nets.density_graph import cutoffs, density_edges, within_reach
from crysjax.nets.equivariant import equivariant
from tests.support import slope_is_a_finite_difference

SETTINGS = {"hidden_irreps": "6x0e + 3x1o + 2x2e", "layers": 2, "neighbors": 10.0, "radial_width": 8}
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def draw_crystal(n: int, seed: int = 0) -> Crystal:
    rng = np.random.default_rng(seed)
    lattice = np.eye(3) * 2.6 * n ** (1 / 3) + 0.3 * rng.normal(size=(3, 3))
    rows = np.eye(NUM_SPECIES)[rng.integers(0, 90, n)]
    return Crystal(*(jnp.asarray(x, jnp.float32) for x in (rows, rng.random((n, 3)), lattice)))


def random_params(network, pack: Pack, context: jax.Array):
    """Random leaves everywhere; the heads' own start is zero."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), pack, context)
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)


def context_of(pack: Pack) -> jax.Array:
    return jnp.zeros((pack.lattice.shape[0], 2), pack.frac.dtype)


def make_graph(pack: Pack, neighbors: float, largest: float, max_neighbors: float, max_images: int):
    """Each crystal's cutoff, and the graph that it makes."""

    def build(pack: Pack):
        cutoff = within_reach(pack, cutoffs(pack, neighbors, largest), max_images)
        return cutoff, density_edges(pack, cutoff, max_neighbors, max_images).graph

    return jax.jit(build, compiler_options=FAST_COMPILE)(pack)


def test_degree_two_basis_is_that_of_e3nn():
    """v v^T in our basis is proportional to the spherical harmonics of v, with the same factor for every component."""
    v = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
    v = v / jnp.linalg.norm(v, axis=-1, keepdims=True)
    ours = module._from_cartesian(v[:, :, None] * v[:, None, :])
    harmonics = e3nn.spherical_harmonics("0e + 2e", v, normalize=False, normalization="norm").array
    factor = np.array([3**-0.5] + [(2 / 3) ** 0.5] * 5)
    np.testing.assert_allclose(ours, harmonics * factor[None], atol=1e-6)
    np.testing.assert_allclose(module._to_cartesian(ours), v[:, :, None] * v[:, None, :], atol=1e-6)


def images_within(lattice: np.ndarray, radius: float) -> np.ndarray:
    """Lengths of all lattice vectors shorter than `radius`, the zero vector among them; by brute force."""
    shifts = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), -1).reshape(-1, 3)
    length = np.linalg.norm(shifts @ lattice, axis=-1)
    return length[length < radius]


def test_cutoff_is_the_sphere_of_the_asked_neighbors():
    """40 random crystals of 12 sites hold as many edges as the spheres of `neighbors` sites, within 3 standard errors.

    A site's own images are where the lattice puts them. Another site is uniform in the cell, so the number of its
    images in the sphere has the mean v = (sphere) / (cell), here 20 / 12, and the mean square is the sum over lattice
    vectors T of (overlap of two spheres T apart) / (cell). Differences of sites are pairwise independent, so the
    variances of the 66 pairs add up; each counts twice, once a direction.
    """
    neighbors, n = 20.0, 12
    expected, variance = 0.0, 0.0
    crystals = [draw_crystal(n, seed) for seed in range(40)]
    pack = batching.pack_stacked(jax.tree.map(lambda *x: jnp.stack(x), *crystals))
    radii, graph = make_graph(pack, neighbors, 99.0, 30, 3)
    assert not graph.overflow.any()
    for crystal, cutoff in zip(crystals, radii):
        lattice = np.asarray(crystal.lattice, np.float64)
        cell = abs(np.linalg.det(lattice))
        radius = np.cbrt(0.75 * neighbors * cell / n / np.pi)
        np.testing.assert_allclose(cutoff, radius, rtol=1e-5)
        of_other, apart = neighbors / n, images_within(lattice, 2 * radius)
        overlap = np.pi / 12 * (4 * radius + apart) * (2 * radius - apart) ** 2
        expected += n * (n - 1) * of_other + n * ((apart < radius).sum() - 1)
        variance += n * (n - 1) / 2 * 4 * (overlap.sum() / cell - of_other**2)
    assert abs(float(graph.mask.sum()) - expected) < 3 * np.sqrt(variance)


def test_a_needle_gets_a_smaller_cutoff_and_not_missing_neighbors():
    needle = Crystal(draw_crystal(1).occupancy, jnp.zeros((1, 3)), jnp.diag(jnp.array([0.5, 9.0, 9.0])))
    pack = batching.pack_one(needle)
    cutoff, graph = make_graph(pack, 30.0, 99.0, 20, 2)
    np.testing.assert_allclose(cutoff, 2.499 * 0.5, rtol=1e-6)
    assert not graph.overflow.any() and graph.mask.sum() == 4  # two cells to each side


def test_a_crystal_that_does_not_fit_predicts_nan_and_no_other_does():
    network = equivariant(**SETTINGS, max_neighbors=7)  # room for 28 edges of 4 sites each
    crystals = [draw_crystal(4, seed) for seed in range(2)]
    pack = batching.pack_stacked(jax.tree.map(lambda *x: jnp.stack(x), *crystals))
    params = random_params(network, pack, context_of(pack))
    _, graph = make_graph(pack, 10.0, 6.0, 7, 3)
    assert graph.overflow.any() and not graph.overflow.all()
    out = jax.jit(network.apply, compiler_options=FAST_COMPILE)(params, pack, context_of(pack))
    for name, value in out._asdict().items():
        spoilt = graph.overflow if name in ("lattice", "crystal") else graph.overflow[pack.owner]
        np.testing.assert_array_equal(jnp.isnan(value).all(-1), spoilt, err_msg=name)
        np.testing.assert_array_equal(jnp.isnan(value).any(-1), spoilt, err_msg=name)


def test_a_supercell_is_the_same_crystal():
    network = equivariant(**SETTINGS, max_neighbors=30)
    one = draw_crystal(3)
    shift = jnp.array([[0.5, 0, 0]], jnp.float32)
    half = one.frac * jnp.array([[0.5, 1, 1]], jnp.float32)
    twice = Crystal(
        jnp.concatenate([one.occupancy] * 2),
        jnp.concatenate([half, half + shift]),
        one.lattice * jnp.array([[2.0], [1.0], [1.0]]),
    )
    pack, double = batching.pack_one(one), batching.pack_one(twice)
    params = random_params(network, pack, context_of(pack))
    apply = jax.jit(network.apply, compiler_options=FAST_COMPILE)
    a, b = (apply(params, p, context_of(p)) for p in (pack, double))
    scale = float(jnp.abs(a.crystal).max())
    np.testing.assert_allclose(a.crystal, b.crystal, atol=1e-4 * scale)
    np.testing.assert_allclose(a.site, b.site[3:], atol=1e-4 * scale)
    cartesian = np.abs(np.asarray(a.frac @ one.lattice)).max()
    np.testing.assert_allclose(a.frac @ one.lattice, b.frac[:3] @ twice.lattice, atol=1e-4 * cartesian)


def test_derivatives_are_finite_differences_and_exist_for_a_cubic_cell():
    """Through the graph, the density's cutoff and the polar factors, in float64."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # flax promotes inside LayerNorm and Dense
        network = equivariant(**SETTINGS, max_neighbors=30, sees_cell=True)
        crystal = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), draw_crystal(3))
        crystal = crystal._replace(lattice=4.1 * jnp.eye(3))
        pack = batching.pack_one(crystal)
        params, context = random_params(network, pack, context_of(pack)), context_of(pack)
        slope_is_a_finite_difference(lambda moved: network.apply(params, batching.pack_one(moved), context), crystal)


def test_irreps_it_cannot_use_are_named():
    with pytest.raises(ValueError, match="hidden_irreps: '8x0e \\+ 4x3o' should hold 0e and further only 1o and 2e"):
        equivariant(hidden_irreps="8x0e + 4x3o")
