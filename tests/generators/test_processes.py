"""Every process against closed forms: scores, exact reversal of a known end, stationary shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Pack, one_hot
from crysjax.data import batching
from crysjax.generators import processes
from crysjax.generators.processes import diffusions
from crysjax.geometry import torus

SITES = 4


def pack_of(crystals: int) -> Pack:
    owner, pairs, mask = batching.topology(
        np.full(crystals, SITES), batching.Capacity(crystals * SITES, crystals * 6, crystals)
    )
    occupancy = one_hot(jnp.tile(jnp.array([6, 8, 14, 22]), crystals))
    frac = jax.random.uniform(jax.random.key(9), (crystals * SITES, 3))
    return Pack(occupancy, frac, jnp.tile(jnp.eye(3)[None], (crystals, 1, 1)), owner, jnp.asarray(pairs), mask)


@pytest.mark.parametrize("sigma", [0.02, 0.15, 0.6])
def test_wrapped_score_is_the_derivative_of_the_explicit_sum(sigma):
    x = jnp.linspace(-0.49, 0.49, 41)

    def explicit(value):
        images = jnp.arange(-8, 9).astype(value.dtype)
        return jax.nn.logsumexp(-0.5 * jnp.square((value + images) / sigma))

    expected = jax.vmap(jax.grad(explicit))(x)
    found = torus.wrapped_normal_score(x, jnp.full_like(x, sigma))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 / sigma)


@pytest.mark.parametrize("sigma", [0.02, 0.15, 0.6])
def test_wrapped_log_prob_integrates_to_one(sigma):
    x = (jnp.arange(20000.0) + 0.5) / 20000
    density = jnp.exp(torus.wrapped_normal_log_prob(x, jnp.full_like(x, sigma)))
    assert abs(float(density.mean()) - 1) < 1e-4


def test_score_scale_is_the_root_mean_square_of_drawn_scores():
    process = processes.torus_diffusion(sigma_min=0.01, sigma_max=0.6)
    pack = pack_of(2000)
    for t in (0.1, 0.5, 0.9):
        _, target = process.corrupt(jax.random.key(1), pack.frac, jnp.full((len(pack.frac), 1), t), pack)
        square = np.square(np.asarray(target))
        assert abs(square.mean() - 1) < 5 * square.std() / np.sqrt(square.size) + 0.01


@pytest.mark.parametrize("steps", [1, 20])
def test_torus_flow_with_the_exact_velocity_lands_on_the_data(steps):
    process, pack = processes.torus_flow(), pack_of(3)
    ones = jnp.ones((len(pack.frac), 1))
    x, velocity = process.corrupt(jax.random.key(0), pack.frac, ones, pack)
    for k in range(steps):
        t = 1 - k / steps
        x = process.step(jax.random.key(k), x, velocity, t * ones, jnp.asarray(1 / steps), pack)
    np.testing.assert_allclose(torus.log(x - pack.frac), 0, atol=1e-5)


def test_torus_flow_targets_do_not_translate_the_crystal():
    process, pack = processes.torus_flow(), pack_of(5)
    _, velocity = process.corrupt(jax.random.key(0), pack.frac, jnp.full((len(pack.frac), 1), 0.3), pack)
    np.testing.assert_allclose(velocity.reshape(5, SITES, 3).mean(1), 0, atol=1e-6)


def test_torus_diffusion_with_the_exact_score_returns_to_a_point():
    steps, process, pack = 200, processes.torus_diffusion(sigma_min=0.005), pack_of(200)
    x = process.prior(jax.random.key(0), pack.frac, pack)
    grid = np.geomspace(0.005, 0.5, 64)
    rms = np.array([diffusions.rms_score(s) for s in grid])

    @jax.jit
    def step(key, x, t):
        sigma = 0.005 * 100**t
        score = torus.wrapped_normal_score(x - pack.frac, jnp.full_like(x, sigma))
        scale = jnp.exp(jnp.interp(t, jnp.linspace(0.0, 1.0, 64), jnp.log(jnp.asarray(rms, x.dtype))))
        times = jnp.full((len(x), 1), t)
        return process.step(key, x, score / scale, times, jnp.asarray(1 / steps, x.dtype), pack)

    for k in range(steps):
        x = step(jax.random.key(k + 1), x, jnp.asarray(1 - k / steps, x.dtype))
    # the last step removes what noise is left, down to the sigma of one step before it
    assert float(jnp.sqrt(jnp.mean(torus.log(x - pack.frac) ** 2))) < 0.006


def test_euclidean_flow_with_the_exact_end_lands_on_it():
    process, pack = processes.euclidean_flow(), pack_of(7)
    clean = jax.random.normal(jax.random.key(2), (7, 6))
    x = process.prior(jax.random.key(3), clean, pack)
    for k in range(10):
        t = jnp.full((7, 1), 1 - k / 10)
        x = process.step(jax.random.key(k), x, clean, t, jnp.asarray(0.1), pack)
    np.testing.assert_allclose(x, clean, atol=1e-5)


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_euclidean_diffusion_with_the_exact_noise_keeps_a_gaussian(churn):
    """Data N(0, 0.5^2): E[noise | x] = sin x / (0.25 cos^2 + sin^2), and the sampler must end at that variance."""
    steps, process, pack = 400, processes.euclidean_diffusion(churn=churn), pack_of(1)
    x = jax.random.normal(jax.random.key(0), (20000, 6))

    def body(x, this):
        key, t = this
        cos, sin = jnp.cos(0.5 * jnp.pi * t), jnp.sin(0.5 * jnp.pi * t)
        noise = sin * x / (0.25 * cos**2 + sin**2)
        return process.step(key, x, noise, t, jnp.asarray(1 / steps), pack), None

    keys, times = jax.random.split(jax.random.key(1), steps), 1 - jnp.arange(steps) / steps
    x, _ = jax.lax.scan(body, x, (keys, times))
    standard_error = 0.5 * np.sqrt(1 / (2 * x.size))
    assert abs(float(x.std()) - 0.5) < 4 * standard_error + 1 / steps


def test_absorbing_corruption_hides_a_share_t_and_asks_for_those_alone():
    process, pack = processes.discrete_flow(), pack_of(5000)
    hidden_rows, target = process.corrupt(jax.random.key(0), pack.occupancy, jnp.full((len(pack.frac), 1), 0.3), pack)
    hidden = np.asarray(hidden_rows.max(-1) < 0.5)
    assert abs(hidden.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(hidden))
    error = process.error(jnp.zeros_like(target), target, hidden_rows, pack)
    np.testing.assert_allclose(error, np.where(hidden, np.log(100), 0), rtol=1e-5)


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_discrete_sampling_ends_with_the_shares_the_network_names(noise):
    process, pack, steps = processes.discrete_flow(noise=noise), pack_of(3000), 25
    share = jnp.array([0.7, 0.2, 0.1])
    logits = jnp.full((len(pack.frac), 100), -1e9).at[:, 10:13].set(jnp.log(share)[None])
    x = process.prior(jax.random.key(0), pack.occupancy, pack)
    for k in range(steps):
        t = jnp.full((len(x), 1), 1 - k / steps)
        x = process.step(jax.random.key(k + 1), x, logits, t, jnp.asarray(1 / steps), pack)
    found = np.asarray(x.mean(0))[10:13]
    np.testing.assert_allclose(found, share, atol=4 * np.sqrt(0.25 / len(x)))
    assert float(x.sum()) == len(x)


def test_simplex_flow_ends_at_the_named_distribution():
    process, pack = processes.simplex_flow(), pack_of(2)
    logits = jax.random.normal(jax.random.key(5), (8, 100))
    x = process.prior(jax.random.key(0), pack.occupancy, pack)
    np.testing.assert_allclose(x.sum(-1), 1, rtol=1e-5)
    for k in range(5):
        x = process.step(jax.random.key(1), x, logits, jnp.full((8, 1), 1 - k / 5), jnp.asarray(0.2), pack)
    np.testing.assert_allclose(x, jax.nn.softmax(logits), atol=1e-6)


def test_simplex_flow_leaves_empty_slots_empty():
    process, pack = processes.simplex_flow(), pack_of(2)
    pack = pack._replace(occupancy=pack.occupancy.at[-2:].set(0))
    x = process.prior(jax.random.key(0), pack.occupancy, pack)
    x = process.step(jax.random.key(1), x, jnp.zeros((8, 100)), jnp.ones((8, 1)), jnp.asarray(0.2), pack)
    assert float(jnp.abs(x[-2:]).max()) == 0 and float(x[:-2].min()) > 0


def test_an_unknown_kind_of_noise_is_refused():
    with pytest.raises(ValueError, match="absorbing"):
        processes.discrete_flow(noise="gaussian")


@pytest.mark.parametrize("make", [processes.torus_edm, processes.euclidean_edm])
def test_the_error_of_edm_carries_the_weight_of_its_time(make):
    """The error is weight times the mean square, row by row (Karras et al. 2022, section 5)."""
    process, times = make(), jnp.linspace(0.05, 0.95, 10)[:, None]
    x0 = jax.random.uniform(jax.random.key(0), (10, 3))
    x, (target, weight) = process.corrupt(jax.random.key(1), x0, times, None)
    off = jax.random.normal(jax.random.key(2), target.shape)
    found = process.error(target + off, (target, weight), x, None)
    np.testing.assert_allclose(found, weight[:, 0] * jnp.square(off).mean(-1), rtol=1e-3)
    assert float(weight.max() / weight.min()) > 3
