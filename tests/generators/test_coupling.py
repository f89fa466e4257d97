"""Splines, coupling layers, compositions: inverses invert, log-dets are those of the maps, probabilities sum to 1."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, UNKNOWN, Pack, numbers, one_hot
from crysjax.data import batching
from crysjax.generators import coupling, splines
from crysjax.generators.composition import composition
from crysjax.nets.dense import dense

# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
BINS = 5
CIRCLE = (splines.circle, splines.circle_size(BINS))
LINE = (splines.line, splines.line_size(BINS))


@pytest.mark.parametrize(("spline", "size"), [CIRCLE, LINE], ids=["circle", "line"])
def test_splines_invert_and_their_slopes_are_derivatives(spline, size):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, raw = jnp.asarray(rng.random(400)), jnp.asarray(2 * rng.normal(size=(400, size)))
        if spline is splines.line:
            x = 12 * x - 6  # within and beyond the bound of 5
        y, log_slope = jit(spline)(x, raw)
        back, log_back = jit(partial(spline, inverse=True))(y, raw)
        derivative = jit(jax.vmap(jax.grad(lambda x, raw: spline(x, raw)[0])))(x, raw)
        np.testing.assert_allclose(back, x, atol=1e-10)
        np.testing.assert_allclose(log_back, -log_slope, atol=1e-8)
        np.testing.assert_allclose(jnp.exp(log_slope), derivative, rtol=1e-9)
        assert log_slope.std() > 0.5  # far from the identity


def test_zero_is_the_identity_and_the_line_has_identity_tails():
    x = jnp.linspace(0.01, 0.99, 50)
    for spline, size in (CIRCLE, LINE):
        y, log_slope = spline(x, jnp.zeros((50, size)))
        np.testing.assert_allclose(y, x, atol=1e-6)
        np.testing.assert_allclose(log_slope, 0, atol=1e-5)
    far = jnp.array([-7.0, 5.0, 6.0])
    y, log_slope = splines.line(far, jnp.tile(jnp.linspace(-1.0, 1.0, LINE[1])[None], (3, 1)))
    np.testing.assert_array_equal(y, far)
    np.testing.assert_array_equal(log_slope, 0)


def test_the_circle_has_no_seam():
    """Value and slope agree on both sides of 0, up to the step of 1e-9 taken there."""
    with jax.enable_x64(True):
        raw = jnp.asarray(np.random.default_rng(1).normal(size=(2, CIRCLE[1])))[:1].repeat(2, 0)
        y, log_slope = splines.circle(jnp.array([1e-9, 1 - 1e-9]), raw)
        assert abs((y[0] - y[1] + 0.5) % 1 - 0.5) < 1e-7
        np.testing.assert_allclose(log_slope[0], log_slope[1], atol=1e-6)
        assert 0.01 < y[0] < 0.99  # the phase has moved it: 0 is not a fixed point


SHAPE = batching.Capacity(sites=6, pairs=8, crystals=3)


def make_pack(rows: list[list[int]], shape: batching.Capacity = SHAPE, dtype=np.float32) -> Pack:
    """Crystals of these atomic numbers (0 = any element) at random, in cells near 4 Å."""
    rng, sizes = np.random.default_rng(2), [len(r) for r in rows]
    z = np.array([z for row in rows for z in row] + [0] * (shape.sites - sum(sizes)))
    rows = np.eye(NUM_SPECIES + 1, dtype=dtype)[z][:, 1:]
    rows[: sum(sizes)][z[: sum(sizes)] == 0] = UNKNOWN
    lattice = 4 * np.eye(3)[None] + 0.4 * rng.normal(size=(shape.crystals, 3, 3))
    owner, pairs, mask = batching.topology(np.array(sizes), shape)
    frac = rng.random((shape.sites, 3))
    return Pack(rows, frac.astype(dtype), lattice.astype(dtype), owner, pairs, mask.astype(dtype))


def shaken(params, size: float):
    """Parameters away from the identity, in float64."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda v: v.astype(np.float64) + size * rng.normal(size=v.shape), jax.device_get(params))


def log_det_of(jacobian: np.ndarray, chosen: np.ndarray) -> float:
    """log|det| of the block of the Jacobian (size, size) that belongs to the chosen entries of x."""
    inside = jacobian[np.ix_(chosen.ravel(), chosen.ravel())]
    outside = jacobian[np.ix_(chosen.ravel(), ~chosen.ravel())]
    np.testing.assert_array_equal(outside, 0)  # crystals do not see one another
    return np.linalg.slogdet(inside)[1]


@pytest.mark.parametrize("field", ["positions", "lattice"])
def test_couplings_invert_and_their_log_det_is_that_of_the_jacobian(field):
    pack, rng = make_pack([[22, 8, 8], [31, 7]]), np.random.default_rng(3)
    context = np.asarray(rng.normal(size=(3, 4)), np.float32)
    network = dense(width=8, layers=1, frequencies=3, geometry=0, scan_layers=True, dtype="float64")
    flow = {
        "positions": coupling.position_couplings(network, rounds=3, bins=BINS, width=8),
        "lattice": coupling.lattice_couplings(layers=6, bins=BINS, width=8),
    }[field]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # flax promotes inside LayerNorm
        pack = jax.tree.map(lambda v: v.astype(np.float64) if v.dtype.kind == "f" else v, pack)
        context = context.astype(np.float64)
        x = pack.frac if field == "positions" else rng.normal(size=(3, 6))
        params = shaken(jit(flow.init)(jax.random.key(0), x, pack, context), 0.15)

        def there_and_back(x):
            z, log_det = flow.forward(params, x, pack, context)
            return log_det, *flow.inverse(params, z, pack, context)

        log_det, back, log_back = jit(there_and_back)(x)
        np.testing.assert_allclose((back - x + 0.5) % 1 if field == "positions" else back - x + 0.5, 0.5, atol=1e-8)
        np.testing.assert_allclose(log_back, -log_det, atol=1e-6)
        jacobian = np.asarray(jit(jax.jacfwd(lambda x: flow.forward(params, x, pack, context)[0]))(x))
        for crystal, sites in enumerate([slice(0, 3), slice(3, 5)]):
            chosen = np.zeros(x.shape, bool)
            chosen[sites if field == "positions" else crystal] = True
            expected = log_det_of(jacobian.reshape(x.size, x.size), chosen)
            np.testing.assert_allclose(log_det[crystal], expected, rtol=1e-7, atol=1e-7)
            assert abs(expected) > 0.05


def test_elements_are_ranked_within_their_crystal():
    rank = coupling.element_rank(make_pack([[22, 8, 8], [31, 7]]))
    np.testing.assert_array_equal(rank[:5], [1, 0, 0, 1, 0])


def test_any_two_of_eight_elements_take_turns():
    layers = coupling.schedule(len(coupling.GROUPS))
    moves = (np.arange(8)[:, None] >> np.maximum(layers.digit, 0)[None]) % 2 == layers.value[None]
    for one, other in itertools.combinations(range(8), 2):
        for axis in range(3):
            here = layers.axis[:, axis] > 0
            assert (moves[one] & ~moves[other] & here & (layers.digit >= 0)).any()


ALLOWED = ((3, 8, 9), (3, 8, 9), (8, 26))  # of three free sites: two groups


def template() -> Pack:
    """A crystal with one known site and three free ones, and one with a free site of any element."""
    pack = make_pack([[22, 0, 0, 0], [0]])
    rows = pack.occupancy.copy()
    for site, allowed in enumerate(ALLOWED, 1):
        rows[site] = 0
        rows[site, np.array(allowed) - 1] = 1 / len(allowed)
    return jax.tree.map(jnp.asarray, pack._replace(occupancy=rows))


@pytest.fixture(scope="module")
def compositions():
    """The model, its parameters, all 18 ways to fill the template, and the probabilities of these."""
    model, context = composition(width=8), jnp.asarray(np.random.default_rng(4).normal(size=(3, 4)), jnp.float32)
    params = jax.tree.map(lambda v: v.astype(np.float32), shaken(jit(model.init)(jax.random.key(0), context), 0.5))
    ways = list(itertools.product(*ALLOWED))
    rows = jnp.stack([one_hot(jnp.array([22, *way, 13, 0])) for way in ways])
    score = jit(jax.vmap(lambda rows: model.log_prob(params, rows, template(), context)))
    return model, params, context, ways, np.exp(score(rows)[:, 0].astype(np.float64))


def test_probabilities_of_all_compositions_sum_to_one(compositions):
    p = compositions[-1]
    np.testing.assert_allclose(p.sum(), 1, rtol=2e-5)  # eighteen sums of float32 logarithms
    assert p.std() > 0.01


def test_compositions_know_no_order_of_equal_sites(compositions):
    _, _, _, ways, p = compositions
    swapped = [ways.index((b, a, c)) for a, b, c in ways]
    np.testing.assert_allclose(p[swapped], p, rtol=1e-5)


def test_compositions_are_drawn_with_their_probabilities(compositions):
    """Pearson's chi-square of 20,000 draws, 17 degrees of freedom: above 45 with probability 2e-4."""
    model, params, context, ways, p = compositions
    keys = jax.random.split(jax.random.key(1), 20_000)
    draw = jit(jax.vmap(lambda key: numbers(model.draw(params, key, template(), context))))
    drawn = np.asarray(draw(keys))
    assert (drawn[:, 0] == 22).all() and (drawn[:, 5] == 0).all()
    codes, where = [hash(way) for way in ways], [hash(tuple(row)) for row in drawn[:, 1:4].tolist()]
    found = np.array([where.count(code) for code in codes])
    assert found.sum() == len(keys)
    assert ((found - len(keys) * p) ** 2 / (len(keys) * p)).sum() < 45


def test_an_untrained_composition_of_one_free_site_is_uniform():
    model, context = composition(width=8), jnp.zeros((3, 4))
    params = jit(model.init)(jax.random.key(0), context)
    rows = one_hot(jnp.array([22, 3, 8, 8, 13, 0]))
    log_p = jit(model.log_prob)(params, rows, template(), context)
    np.testing.assert_allclose(log_p[1], -np.log(NUM_SPECIES), rtol=1e-5)
