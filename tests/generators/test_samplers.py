"""Samplers on Gaussian mixtures with known velocity and score: orders of convergence, and the laws they end at."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from crysjax.base import Pack, numbers, one_hot
from crysjax.data import batching
from crysjax.generators import processes
from crysjax.generators.processes import diffusions, flows, interpolants, samplers, transport
from crysjax.geometry import torus

PATH = Path(__file__).parents[2] / "benchmarks" / "samplers.py"
spec = importlib.util.spec_from_file_location("samplers_benchmark", PATH)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
CASES = bench.cases()


@pytest.mark.parametrize("name", list(CASES))
def test_orders_of_convergence_of_the_ode(name):
    """Same start, fewer steps: the error halves (order 1) or quarters (order 2) from 32 to 64 steps."""
    case, key = CASES[name], jax.random.key(3)
    with jax.enable_x64(True):
        made = {s: bench.drawer(case, s, 12, jnp.float64) for s in ("euler", "heun", "multistep")}
        draw = {(s, n): made[s](key, n) for s, n in [("heun", 256), *((s, n) for s in made for n in (8, 32, 64))]}

    def gap(sampler: str, steps: int) -> float:
        difference = np.asarray(draw[sampler, steps] - draw["heun", 256])
        return np.abs(torus.log(difference) if case.process.head == "frac" else difference).mean()

    for sampler, order in (("euler", 1), ("heun", 2), ("multistep", 2)):
        slope = np.log2(gap(sampler, 32) / gap(sampler, 64))
        # away from the limit by the next order; the reference adds (64 / 256)^2 of an error to Heun's, 0.1 of a slope
        assert order - 0.3 < slope < order + 0.5, (sampler, slope)
    if name in ("positions, edm", "lattice, edm", "lattice, flow"):  # at 8 network calls the second order is ahead
        assert gap("multistep", 8) < 0.6 * gap("euler", 8)


def moment(case, x: np.ndarray) -> tuple[float, float, float]:
    """A smooth functional of the samples, its standard error, and its exact value."""
    if case.process.head == "frac":
        value = np.cos(2 * np.pi * (x - bench.MEANS[0])).ravel()
        away = np.cos(2 * np.pi * (np.asarray(bench.MEANS) - bench.MEANS[0]))
        truth = np.exp(-2 * (np.pi * bench.WIDTH) ** 2) * np.dot(bench.SHARES, away)
    else:
        value = np.square(x).ravel()
        truth = bench.LATTICE_MEANS[1] ** 2 + bench.LATTICE_WIDTH**2
    return value.mean(), value.std() / np.sqrt(value.size), truth


STOCHASTIC = {
    "sde": [
        "positions, interpolant",
        "positions, diffusion",
        "lattice, interpolant",
        "lattice, diffusion",
        "lattice, edm",
    ],
    "predictor_corrector": ["positions, interpolant", "positions, edm", "lattice, flow"],
}


@pytest.mark.parametrize(("sampler", "name"), [(s, n) for s, names in STOCHASTIC.items() for n in names])
def test_stochastic_samplers_end_at_the_law_with_weak_order_one(sampler, name):
    """Moments after 64 steps are within Monte Carlo error and half of the bias of 32, which has to be small too."""
    case = CASES[name]
    draw = bench.drawer(case, sampler, 500 if case.sites == 2 else 5000)
    found = {}
    for steps in (32, 64):
        value, error, truth = moment(case, np.asarray(draw(jax.random.key(1), steps)))
        found[steps] = abs(value - truth), error
    assert found[64][0] < 0.6 * found[32][0] + 5 * np.hypot(found[64][1], found[32][1]), found
    assert found[64][0] < 0.02 + 4 * found[64][1], found


@pytest.mark.parametrize("name", ["lattice, flow", "positions, edm"])
def test_the_bias_of_the_sde_halves_with_the_step(name):
    """Weak order 1, where the bias is far above the Monte Carlo error."""
    case = CASES[name]
    draw = bench.drawer(case, "sde", 40000)
    found = [moment(case, np.asarray(draw(jax.random.key(2), n))) for n in (8, 16)]
    bias, error = np.array([value - truth for value, _, truth in found]), max(e for _, e, _ in found)
    slope, uncertain = np.log2(abs(bias[0] / bias[1])), 2 * error / abs(bias[1]) / np.log(2)
    assert abs(bias[1]) > 5 * error, (bias, error)
    assert abs(slope - 1) < 0.4 + 2 * uncertain, (bias, error)


@pytest.mark.parametrize("rho", [1.0, 2.0, 7.0])
def test_time_grids_start_at_one_and_end_at_zero(rho):
    t, dt = samplers.grid(7, rho, jnp.float32)
    np.testing.assert_allclose(t, (1 - np.arange(7) / 7) ** rho, rtol=1e-5)  # 7 roundings of 1 - 6 / 7
    np.testing.assert_allclose(t - dt, [*t[1:], 0], atol=1e-7)
    if rho != 1:
        assert float(t[-1] - dt[-1]) == 0


def test_what_a_sampler_cannot_do_is_said():
    flow, lattice = flows.torus_flow(), flows.euclidean_flow()
    with pytest.raises(ValueError, match="sampler: 'rk4'; expected one of euler, heun"):
        samplers.sampler("rk4", (flow, lattice))
    with pytest.raises(ValueError, match="'sde' needs a score, and the process of frac has none"):
        samplers.sampler("sde", (flow, lattice, processes.discrete_flow()))
    with pytest.raises(ValueError, match="coupling: 'sinkhorn'; expected one of none, permutation"):
        flows.torus_flow(coupling="sinkhorn")


def mixed_pack(sizes: list[int], kinds: int, seed: int) -> Pack:
    rng, spare = np.random.default_rng(seed), 4
    shape = batching.Capacity(sum(sizes) + spare, sum(n * (n - 1) // 2 for n in sizes) + spare, len(sizes) + 1)
    topology = map(jnp.asarray, batching.topology(np.array(sizes), shape))
    z = np.concatenate([*(rng.integers(1, kinds + 1, n) for n in sizes), np.zeros(spare, int)])
    frac = jnp.asarray(rng.random((shape.sites, 3)), jnp.float32)
    return Pack(one_hot(jnp.asarray(z)), frac, jnp.tile(jnp.eye(3)[None], (shape.crystals, 1, 1)), *topology)


@pytest.mark.parametrize("kinds", [1, 3])
def test_noise_is_assigned_as_the_hungarian_method_does(kinds):
    sizes = [1, 2, 5, 5, 8, 12, 20, 3]
    assign = jax.jit(transport.assign_noise)
    for seed in range(5):
        pack = mixed_pack(sizes, kinds, seed)
        noise = jnp.asarray(np.random.default_rng(100 + seed).random(pack.frac.shape), jnp.float32)
        order = np.asarray(assign(pack.frac, noise, pack))
        z = np.asarray(numbers(pack.occupancy))
        np.testing.assert_array_equal(z[order], z)
        np.testing.assert_array_equal(np.sort(order), np.arange(len(order)))
        cost = np.square(np.asarray(torus.log(pack.frac[:, None] - noise[None]), np.float64)).sum(-1)
        for start, n in zip(np.cumsum([0, *sizes]), sizes):
            part = slice(start, start + n)
            allowed = cost[part, part] + 1e3 * (z[part, None] != z[None, part])
            best = allowed[linear_sum_assignment(allowed)].sum()
            mine = allowed[np.arange(n), order[part] - start].sum()  # within the crystal, or this fails
            assert best - 1e-5 < mine < best + n * transport.SLACKS[-1] + 1e-5
            assert mine < np.trace(allowed) + 1e-6


def test_coupled_noise_is_nearer_and_as_uniform():
    pack = mixed_pack([8] * 40, 1, 0)
    far, near = (flows.coupled_prior(c)(jax.random.key(0), pack.frac, pack) for c in ("none", "permutation"))
    np.testing.assert_array_equal(np.sort(np.asarray(far), 0), np.sort(np.asarray(near), 0))  # the same points
    length = [float(jnp.square(torus.log(x - pack.frac)).sum(-1).mean()) for x in (far, near)]
    assert length[1] < 0.6 * length[0]
    x, velocity = flows.torus_flow(coupling="permutation").corrupt(
        jax.random.key(0), pack.frac, jnp.ones((324, 1)), pack
    )
    np.testing.assert_allclose(torus.log(x - pack.frac - velocity), 0, atol=1e-6)


@pytest.mark.parametrize("make", [diffusions.torus_edm, diffusions.euclidean_edm])
def test_edm_weights_make_even_times_log_normal(make):
    """The weighted mean of ln sigma over even times is the mean of the log-normal (cut at its bounds)."""
    process, t = make(), (jnp.arange(4000.0)[:, None] + 0.5) / 4000
    x0 = jnp.zeros((4000, 3))
    _, (_, weight) = process.corrupt(jax.random.key(0), x0, t, None)
    spread = process.dynamics.spread(t)
    sigma = spread if make is diffusions.torus_edm else spread / jnp.sqrt(1 - jnp.square(spread))
    mean, std, top = (-3.0, 1.0, 0.5) if make is diffusions.torus_edm else (-1.2, 1.2, 80.0)
    draws = np.random.default_rng(0).normal(mean, std, 400000)
    draws = draws[(draws < np.log(top)) & (draws > np.log(0.002))]
    np.testing.assert_allclose(weight.mean(), len(draws) / 400000, atol=3e-3)
    found = float((weight * jnp.log(sigma)).sum() / weight.sum())
    assert abs(found - draws.mean()) < 4 * draws.std() / np.sqrt(len(draws)) + 1e-3


def test_edm_predicts_a_target_of_unit_variance_and_steps_back_to_the_data():
    """Table 1 of Karras et al.: the denoiser is c_skip x + c_out F, and F has the data's variance at every sigma."""
    process, key = diffusions.euclidean_edm(), jax.random.key(0)
    x0 = jax.random.normal(jax.random.key(1), (20000, 6))
    for time in (0.05, 0.4, 0.8):
        t = jnp.full((20000, 1), time)
        y, (f, _) = process.corrupt(key, x0, t, None)
        assert abs(float(f.std()) - 1) < 5 / np.sqrt(2 * f.size)
        sigma = jnp.tan(process.dynamics.clock(t))
        x = y * jnp.sqrt(1 + jnp.square(sigma))
        denoised = x / (1 + jnp.square(sigma)) + sigma / jnp.sqrt(1 + jnp.square(sigma)) * f
        np.testing.assert_allclose(denoised, x0, atol=2e-4)
        np.testing.assert_allclose(process.step(key, y, f, t, t[0, 0], None), x0, atol=1e-5)


def test_the_answers_of_an_interpolant_are_the_slope_of_its_path():
    """dx/dt by finite differences along one path: the velocity of a network that knows x_0, x_1 and z."""
    pack, key = mixed_pack([3, 4], 2, 1), jax.random.key(4)
    process = interpolants.torus_interpolant(gamma=0.2)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, pack)
        t, h = jnp.full((len(pack.frac), 1), 0.3, jnp.float64), 1e-5
        (x, answer), *ends = (process.corrupt(key, wide.frac, s, wide) for s in (t, t - h, t + h))
        slope = torus.log(ends[1][0] - ends[0][0]) / (2 * h)
        found = process.dynamics.velocity(x, answer, t, wide)
        np.testing.assert_allclose(found, slope, atol=1e-8)
        np.testing.assert_allclose(torus.log(process.step(key, x, answer, t, t, wide) - wide.frac), 0, atol=1e-12)
