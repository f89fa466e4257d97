"""The parts of NequIP against e3nn, closed forms and sums edge by edge; the whole is checked in test_mlip."""

from functools import partial

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.geometry.neighbors import Graph
from crysjax.potentials import nequip as module

RNG = np.random.default_rng(0)


def draw_vectors(count: int) -> jax.Array:
    v = RNG.normal(size=(count, 3))
    return jnp.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True) * RNG.uniform(0.8, 4.5, (count, 1)), jnp.float32)


def random_graph(sites: int, half: int, real: int, seed: int = 0) -> Graph:
    """Both directions of `real` random pairs, and padding up to `half`."""
    rng = np.random.default_rng(seed)
    ends = np.where(np.arange(half)[:, None] < real, rng.integers(0, sites, (half, 2)), sites - 1)
    mask = (np.arange(half) < real).astype(np.float32)
    i, j = (jnp.asarray(ends[:, k], jnp.int32) for k in (0, 1))
    both = jnp.concatenate([j, i]), jnp.concatenate([i, j])
    return Graph(*both, jnp.zeros((2 * half, 3), jnp.int32), jnp.asarray(np.tile(mask, 2)), jnp.zeros(1, bool))


def test_radial_functions_are_those_of_e3nn():
    """Bessel functions times the envelope of Gasteiger et al.; Nequix's normalization is 2 / cutoff."""
    r = jnp.linspace(0.3, 5.5, 60)
    ours = module.bessel(r, 8, 5.0, 6.0)
    envelope = e3nn.poly_envelope(5, 2)(r / 5.0)
    waves = jax.vmap(lambda r: e3nn.bessel(r, 8, 5.0))(r)
    expected = waves * np.float32((2 / 5.0) ** 0.5) * envelope[:, None]
    np.testing.assert_allclose(ours, jnp.where(r[:, None] < 5, expected, 0), atol=2e-6)


def test_envelope_of_any_power_ends_with_two_zero_derivatives():
    """u(1) = u'(1) = u''(1) = 0, and u - 1 starts with x^p: by differences of order 3 and p."""
    with jax.enable_x64(True):
        for p in (3.0, 5.0, 6.0):

            def envelope(x: np.ndarray, p: float = p) -> np.ndarray:
                wave = (2 / 4.0) * np.sin(np.pi * x) / (4 * x)
                return np.asarray(module.bessel(jnp.asarray(4 * x), 1, 4.0, p)[:, 0]) / wave

            h = np.array([0.02, 0.01])
            end, start = envelope(1 - h), 1 - envelope(h * 4)
            assert abs(np.log2(end[0] / end[1]) - 3) < 0.1
            assert abs(np.log2(start[0] / start[1]) - p) < 0.3


def test_reversed_edges_have_the_parity_of_their_degree():
    v = draw_vectors(12)
    here, there = (module.spherical_harmonics(s * v, 3) for s in (1, -1))
    np.testing.assert_allclose(there, here * module._parity(3, here.dtype)[None], atol=1e-6)
    for l in range(4):  # component normalization: each degree has the square norm 2 l + 1
        np.testing.assert_allclose((here[:, l * l : (l + 1) ** 2] ** 2).sum(-1), 2 * l + 1, rtol=1e-5)


def test_edges_in_blocks_are_every_real_edge_once():
    compiled = jax.jit(module.edge_blocks, static_argnames=("sites", "size"))
    for seed, real in enumerate([60, 53, 8, 1, 0]):
        graph = random_graph(7, 60, real, seed)
        blocks = compiled(graph, sites=7, size=8)
        filled = np.asarray(blocks.filled) > 0
        assert sorted(np.asarray(blocks.edge)[filled]) == np.flatnonzero(np.asarray(graph.mask)).tolist()
        receiver = np.broadcast_to(np.asarray(blocks.receiver)[:, None], filled.shape)
        np.testing.assert_array_equal(np.asarray(graph.receiver)[blocks.edge][filled], receiver[filled])
        np.testing.assert_array_equal(blocks.sender, np.asarray(graph.sender)[blocks.edge])
        assert (np.diff(blocks.receiver) >= 0).all()


def test_messages_are_tensor_products_summed_edge_by_edge(toys):
    """Against e3nn's tensor product of each sender's features with its harmonics, path by path."""
    sites, lmax, wide, out = 5, 2, {0: 4, 1: 3, 2: 2}, {0: 1, 1: 1, 2: 1}
    graph, fast = random_graph(sites, 24, 20), partial(jax.jit, compiler_options=toys.fast)
    edges = len(graph.sender)
    features = {l: jnp.asarray(RNG.normal(size=(sites, 2 * l + 1, n)), jnp.float32) for l, n in wide.items()}
    harmonics = module.spherical_harmonics(draw_vectors(edges), lmax)
    path_list = module.paths(wide, lmax, out)
    weights = jnp.asarray(RNG.normal(size=(edges, sum(wide[a] for a, _, _ in path_list))), jnp.float32)

    @fast
    def ours():
        blocks = module.edge_blocks(graph, sites)
        return module._messages(features, weights[blocks.edge], harmonics[blocks.edge], path_list, blocks)

    @fast
    def e3nns():
        parts, start = {c: [] for c in out}, 0
        for a, b, c in path_list:
            sent = e3nn.IrrepsArray(f"{wide[a]}x{e3nn.Irrep(a, (-1) ** a)}", _rows(features[a][graph.sender]))
            edge = e3nn.IrrepsArray(f"1x{e3nn.Irrep(b, (-1) ** b)}", harmonics[:, b * b : (b + 1) ** 2])
            product = e3nn.tensor_product(sent, edge, filter_ir_out=[e3nn.Irrep(c, (-1) ** c)]).array
            product = product.reshape(edges, wide[a], 2 * c + 1).swapaxes(1, 2) * graph.mask[:, None, None]
            product, start = product * weights[:, None, start : start + wide[a]], start + wide[a]
            parts[c].append(jax.ops.segment_sum(product, graph.receiver, sites))
        return {c: jnp.concatenate(part, -1) for c, part in parts.items()}

    found, expected = ours(), e3nns()
    for c in out:
        np.testing.assert_allclose(found[c], expected[c], atol=1e-5)


def _rows(x: jax.Array) -> jax.Array:
    """(e, 2 l + 1, channels) in e3nn's order, channels first."""
    return x.swapaxes(1, 2).reshape(len(x), -1)


def test_paths_are_those_of_e3nn_and_sorted_by_output():
    """Every (l_in, l_edge, l_out) that parity and the triangle allow, in the order in which e3nn lists a product."""
    wide, out = {0: 2, 1: 2, 2: 2, 3: 2}, {0: 1, 1: 1, 2: 1, 3: 1}
    found = module.paths(wide, 3, out)
    irreps = e3nn.Irreps("0e + 1o + 2e + 3o")
    product = e3nn.tensor_product(irreps, e3nn.Irreps.spherical_harmonics(3), filter_ir_out=list(irreps)).regroup()
    counted = {ir.l: mul for mul, ir in product if ir.p == (-1) ** ir.l}
    assert {c: sum(p[2] == c for p in found) for c in out} == {c: counted[c] for c in out}
    assert [c for _, _, c in found] == sorted(c for _, _, c in found) and len(set(found)) == len(found)


def test_layer_norm_makes_the_mean_square_one():
    x = {l: jnp.asarray(RNG.normal(size=(6, 2 * l + 1, n)), jnp.float32) for l, n in {0: 5, 1: 3, 2: 2}.items()}
    normed = module._layer_norm({l: jnp.ones(v.shape[-1]) for l, v in x.items()}, x)
    square = sum((normed[l] ** 2).sum((-2, -1)) / (2 * l + 1) ** 2 for l in x) / 3
    np.testing.assert_allclose(square, 1, rtol=1e-5)


def test_gated_scalars_keep_their_second_moment():
    """silu, scaled, of a unit Gaussian has mean square one (Gauss-Hermite quadrature) as far as e3nn estimates it."""
    x, w = np.polynomial.hermite_e.hermegauss(80)
    gated = np.asarray(module._gate({0: jnp.asarray(x[:, None, None], jnp.float32)}, {0: 1})[0])[:, 0, 0]
    np.testing.assert_allclose((gated**2 * w).sum() / w.sum(), 1, rtol=1e-4)
    np.testing.assert_allclose(gated, e3nn.normalize_function(jax.nn.silu)(jnp.asarray(x, jnp.float32)), rtol=1e-6)


@pytest.mark.parametrize("irreps", ["4x1o", "4x0e + 2x1e", "4x0e + 2x0e", "4x0e + 3x0o"])
def test_irreps_it_cannot_use_are_named(irreps):
    with pytest.raises(ValueError, match="should name each degree once") as error:
        module.degrees(irreps)
    assert repr(irreps) in str(error.value)
