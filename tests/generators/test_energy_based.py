"""The energy-based generator: its moves have the laws they promise, its score is learned, it tells good from bad."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.base import Condition, Pack, one_hot
from crysjax.data import batching
from crysjax.generators import coordinates, torus_langevin
from crysjax.generators.energy_based import energy_based, energy_model
from crysjax.generators.torus_langevin import ChainState, Point
from crysjax.geometry import torus
from crysjax.nets.dense import dense
from crysjax.training.loop import adamw

# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
CRYSTALS = 32
SPREAD = 0.05  # standard deviation of the second site about the center of the cell
SIZE = 0.5  # standard deviation of the cell's volume, in standardized coordinates
SETTINGS = dict(hidden=32, frac_sigma_min=0.02)


def rock_salt(key: jax.Array, crystals: int = CRYSTALS) -> Pack:
    """Two sites about half a cell apart; the volume is normal about 1, the cell is cubic."""
    keys = jax.random.split(key, 3)
    owner, pairs, mask = batching.topology([2] * crystals, batching.Capacity(2 * crystals, crystals, crystals))
    first = jax.random.uniform(keys[0], (crystals, 1, 3))
    second = first + 0.5 + SPREAD * jax.random.normal(keys[1], (crystals, 1, 3))
    frac = torus.wrap(jnp.concatenate([first, second], 1).reshape(-1, 3))
    lattice = jnp.zeros((crystals, 6)).at[:, 5].set(1 + SIZE * jax.random.normal(keys[2], (crystals,)))
    occupancy = jnp.tile(one_hot(jnp.array([11, 17])), (crystals, 1))
    unit = jnp.tile(jnp.eye(3)[None], (crystals, 1, 1))
    pack = Pack(occupancy, frac, unit, *(jnp.asarray(x) for x in (owner, pairs, mask)))
    return assemble(Point(frac, lattice), pack)


def assemble(point: Point, pack: Pack) -> Pack:
    fields = coordinates.Fields(*point, pack.occupancy)
    return coordinates.assemble(fields, pack, coordinates.LATTICE_CENTER, coordinates.LATTICE_SCALE)


def point_of(pack: Pack) -> Point:
    return Point(*coordinates.encode(pack, coordinates.LATTICE_CENTER, coordinates.LATTICE_SCALE)[:2])


def nothing(crystals: int) -> Condition:
    return Condition(jnp.zeros((crystals, 0)), jnp.zeros(crystals, jnp.int32))


def test_moves_have_the_laws_that_they_promise():
    """E = -3 cos(2 pi f) + z^2 / (2 s^2): adjusted, <cos> = I1(3) / I0(3) and <z^2> = s^2; unadjusted, the known bias.

    400 chains; the mean over 300 moves has the error of the mean over independent chains, taken from their spread.
    """
    chains, kappa, s = 400, 3.0, 0.7
    pack = Pack(jnp.ones((chains, 1)), *[None] * 2, jnp.arange(chains), *[None] * 2)._replace(
        frac=jnp.zeros((chains, 3)), lattice=jnp.zeros((chains, 3, 3))
    )
    step = Point(jnp.array(0.012), jnp.array(0.3))

    def evaluate(x: Point) -> tuple[jax.Array, Point]:
        energy = -kappa * jnp.cos(2 * jnp.pi * x.frac).sum(-1) + jnp.square(x.lattice).sum(-1) / (2 * s**2)
        return energy, Point(2 * jnp.pi * kappa * jnp.sin(2 * jnp.pi * x.frac), x.lattice / s**2)

    def seen(x: Point) -> jax.Array:
        return jnp.stack([jnp.cos(2 * jnp.pi * x.frac).mean(-1), jnp.square(x.lattice).mean(-1)])

    def adjusted(state: ChainState, key: jax.Array):
        state, accepted = torus_langevin.metropolis(key, state, evaluate, step, pack)
        return state, (seen(state.point), accepted)

    def unadjusted(x: Point, key: jax.Array):
        x = torus_langevin.propose(key, x, evaluate(x)[1], step)
        return x, seen(x)

    keys = jax.random.split(jax.random.key(0), 400)
    start = Point(jnp.full((chains, 3), 0.3), jnp.full((chains, 6), 2.0))
    _, (exact, accepted) = jit(partial(jax.lax.scan, adjusted))(ChainState(start, *evaluate(start)), keys)
    _, plain = jit(partial(jax.lax.scan, unadjusted))(start, keys)
    assert 0.3 < accepted.mean() < 0.95  # neither test would see a fault otherwise
    want = np.array([0.8099853, s**2])  # I1(3) / I0(3)
    for values, expected in ((exact, want), (plain, np.array([np.nan, s**2 / (1 - 0.3 / (2 * s**2))]))):
        of_chain = np.asarray(values)[100:].mean(0)  # (2, chains)
        error = 4 * of_chain.std(-1) / np.sqrt(chains)
        good = np.abs(of_chain.mean(-1) - expected) < error
        assert good[1] and (good[0] or np.isnan(expected[0])), (of_chain.mean(-1), expected, error)
    assert abs(np.asarray(plain)[100:, 1].mean() - s**2) > 0.1  # the accept step matters here


@pytest.fixture(scope="module")
def trained():
    """600 steps on fresh draws of the rock salts above."""
    network = dense(width=32, layers=1, frequencies=3, geometry=4, scan_layers=True)
    generator = energy_based(network, known_fraction=1.0, steps=60, corrections=20, **SETTINGS)
    optimizer = adamw(learning_rate=5e-3, steps=600, warmup=20, clip_norm=10.0)

    def step(carry, key):
        draw, noise = jax.random.split(key)
        pack = rock_salt(draw)
        gradient, metrics = jax.grad(generator.loss, has_aux=True)(carry[0], noise, pack, nothing(CRYSTALS))
        updates, state = optimizer.update(gradient, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), metrics

    params = jit(generator.init)(jax.random.key(0), rock_salt(jax.random.key(1)), nothing(CRYSTALS))
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by integer step counts
        train = jit(partial(jax.lax.scan, step))
        (params, _), _ = train((params, optimizer.init(params)), jax.random.split(jax.random.key(2), 600))
    return generator, energy_model(network, **SETTINGS), params


def test_the_score_of_a_known_law_is_learned(trained):
    """The noisy law is known: a wrapped normal in the difference of the two sites, a normal in the lattice."""
    _, model, params = trained
    pack = rock_salt(jax.random.key(99))
    clean, gradient = point_of(pack), jit(model.gradient)
    for time in (0.0, 0.3, 0.6):
        sigma = model.sigma(jnp.array(time))
        noisy = Point(*(x + s * jax.random.normal(jax.random.key(3), x.shape) for x, s in zip(clean, sigma)))
        found, _, _ = gradient(params, noisy, jnp.full(CRYSTALS, time), pack, nothing(CRYSTALS))
        apart = noisy.frac[1::2] - noisy.frac[::2] - 0.5
        score = torus.wrapped_normal_score(apart, jnp.sqrt(SPREAD**2 + 2 * sigma.frac**2))
        variance = jnp.square(sigma.lattice) + jnp.zeros((1, 6)).at[0, 5].set(SIZE**2)
        of_lattice = -(noisy.lattice - jnp.zeros((1, 6)).at[0, 5].set(1)) / variance
        np.testing.assert_allclose(found.frac[::2] + found.frac[1::2], 0, atol=1e-2 * np.abs(found.frac).max())
        for name, learned, exact in (("frac", -found.frac[1::2], score), ("lattice", -found.lattice, of_lattice)):
            error = float(jnp.sqrt(jnp.square(learned - exact).mean() / jnp.square(exact).mean()))
            assert error < 0.5, (name, time, error)  # 1 = nothing learned


def test_samples_follow_the_law_of_the_data(trained):
    generator, _, params = trained
    template = rock_salt(jax.random.key(7))
    sample = jit(generator.sample)
    drawn = [sample(params, key, template, nothing(CRYSTALS)) for key in jax.random.split(jax.random.key(8), 8)]
    apart = np.concatenate([torus.log(x.frac[1::2] - x.frac[::2] - 0.5) for x in drawn])
    volume = np.concatenate([point_of(x).lattice[:, 5] for x in drawn])
    count = len(volume)
    # three sampling errors, and a quarter of the width for 600 steps of training
    assert np.abs(apart.mean(0)).max() < SPREAD * (3 / np.sqrt(count) + 0.25)
    assert 0.6 * SPREAD < apart.std() < 1.4 * SPREAD
    assert abs(volume.mean() - 1) < SIZE * (3 / np.sqrt(count) + 0.25)
    assert 0.6 * SIZE < volume.std() < 1.4 * SIZE
    again = sample(params, jax.random.split(jax.random.key(8), 8)[-1], template, nothing(CRYSTALS))
    jax.tree.map(np.testing.assert_array_equal, again, drawn[-1])


def test_the_score_tells_real_crystals_from_shaken_ones(trained):
    """AUROC: the share of pairs in which the shaken crystal has the higher score; 0.5 would be no signal."""
    _, model, params = trained
    pack = rock_salt(jax.random.key(99))
    score = jit(model.score)
    real = score(params, pack, nothing(CRYSTALS))
    shaken = pack._replace(frac=pack.frac + 0.15 * jax.random.normal(jax.random.key(9), pack.frac.shape))
    strained = pack._replace(lattice=pack.lattice * jnp.array([1.3, 1.0, 1 / 1.3])[None, :, None])
    for bad in (shaken, strained):
        assert jnp.mean(score(params, bad, nothing(CRYSTALS))[:, None] > real[None]) > 0.85


def double(tree):
    """Every float leaf in float64, on the host."""
    return jax.tree.map(lambda x: x.astype(np.float64) if x.dtype.kind == "f" else x, jax.device_get(tree))


def small_pack(shape: batching.Capacity) -> Pack:
    """A crystal of three sites, of which one may be anything."""
    owner, pairs, mask = batching.topology([3], shape)
    numbers = jnp.zeros(shape.sites, jnp.int32).at[:3].set(jnp.array([22, 8, 8], jnp.int32))
    rows = one_hot(numbers).at[2].set(0.01)
    unit = jnp.tile(jnp.eye(3)[None], (shape.crystals, 1, 1))
    frac = jnp.zeros((shape.sites, 3)).at[:3].set(jnp.asarray(np.random.default_rng(0).random((3, 3)), jnp.float32))
    return double(Pack(rows, frac, unit.at[0].multiply(3.5), owner, pairs, mask))


@pytest.fixture
def exact():
    """Everything in float64: an energy with random parameters."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # flax promotes inside LayerNorm
        network = dense(width=8, layers=1, frequencies=3, geometry=3, scan_layers=True, dtype="float64")
        model, rng = energy_model(network, **SETTINGS), np.random.default_rng(5)
        pack = small_pack(batching.Capacity(3, 3, 1))
        params = double(jit(model.init)(jax.random.key(0), pack, nothing(1)))
        yield model, jax.tree.map(lambda v: v + 0.2 * rng.normal(size=v.shape), params)


def test_the_gradient_is_that_of_finite_differences(exact):
    """Central differences in float64: relative error of the order h^2 f''' / f', and 1e-16 / h."""
    model, params = exact
    pack, rng, h = small_pack(batching.Capacity(3, 3, 1)), np.random.default_rng(1), 1e-5
    point, t = Point(pack.frac, rng.normal(size=(1, 6))), jnp.array([0.4])
    energy = jit(lambda x: model.energy(params, x, t, pack, nothing(1))[0][0])
    found, value, _ = jit(model.gradient)(params, point, t, pack, nothing(1))
    np.testing.assert_allclose(value[0], energy(point), rtol=1e-12)
    for k in range(2):
        way = Point(*(rng.normal(size=x.shape) * (i == k) for i, x in enumerate(point)))
        ahead, behind = (energy(Point(*(x + s * d for x, d in zip(point, way)))) for s in (h, -h))
        slope = sum(np.sum(a * b) for a, b in zip(found, way))
        assert abs(slope) > 1e-3
        np.testing.assert_allclose((ahead - behind) / (2 * h), slope, rtol=1e-6)


def test_scores_do_not_depend_on_padding(exact):
    model, params = exact
    packs = (small_pack(batching.Capacity(*s)) for s in ((3, 3, 1), (8, 10, 3)))
    scores = [jit(model.score)(params, x, nothing(len(x.lattice)))[0] for x in packs]
    np.testing.assert_allclose(*scores, rtol=1e-9)
