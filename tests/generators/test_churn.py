"""Diffusions at every amplitude of the noise that a step draws, with exact predictions: points, and normal laws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.generators import processes
from crysjax.geometry import torus

# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
CHURNS = (0.0, 0.25, 0.5, 0.75, 1.0)
MAKERS = {
    "torus_diffusion": partial(processes.torus_diffusion, sigma_max=0.8),  # so wide that the start is uniform to 1e-5
    "torus_edm": partial(processes.torus_edm, sigma_max=0.8),
    "euclidean_diffusion": processes.euclidean_diffusion,
    "euclidean_edm": processes.euclidean_edm,
}
COUNT = 15_000
every = pytest.mark.parametrize("name", MAKERS)
at_every_churn = pytest.mark.parametrize("churn", CHURNS)


def made(name: str, churn: float):
    """The process, and the signal of the data in x_t."""
    process = MAKERS[name](churn=churn)
    if name.startswith("torus"):
        return process, lambda t: jnp.ones_like(t)
    return process, lambda t: jnp.sqrt(1 - jnp.square(process.dynamics.spread(t)))


def at_a_point(name: str, churn: float, point: float = 0.4):
    """x at t of data that is a point, whose corruption knows the exact prediction."""
    process, signal = made(name, churn)
    t, dt = jnp.full((COUNT, 3), 0.5), 0.2
    x, target = process.corrupt(jax.random.key(0), jnp.full((COUNT, 3), point), t, None)
    return process, signal, t, dt, x, target[0] if isinstance(target, tuple) else target


@at_every_churn
@every
def test_a_step_is_exact_for_a_point_however_long(name, churn):
    """x at t - dt is N(signal x_0, spread^2) for every churn: mean and deviation to 4 standard errors."""
    process, signal, t, dt, x, target = at_a_point(name, churn)
    moved = process.step(jax.random.key(1), x, target, t, jnp.asarray(dt), None)
    spread = float(process.dynamics.spread(t - dt)[0, 0])
    away = torus.log(moved - signal(t - dt) * 0.4) if process.head == "frac" else moved - signal(t - dt) * 0.4
    assert abs(float(away.mean())) < 4 * spread / np.sqrt(away.size)
    assert abs(float(away.std()) / spread - 1) < 4 / np.sqrt(2 * away.size)


@at_every_churn
@every
def test_a_step_draws_churn_times_the_noise_of_the_ancestral_one(name, churn):
    """Its deviation given x and x_0 is that of q(x_s | x_t, x_0), times churn (Ho et al. 2020, eq. 7)."""
    process, signal, t, dt, x, target = at_a_point(name, churn)
    same = lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape)  # noqa: E731
    moved = process.step(jax.random.key(1), same(x), same(target), t, jnp.asarray(dt), None)
    now, then = process.dynamics.spread(t)[0, 0], process.dynamics.spread(t - dt)[0, 0]
    ratio = (signal(t) / signal(t - dt))[0, 0]
    expected = float(churn * then / now * jnp.sqrt(jnp.square(now) - jnp.square(ratio * then)))
    assert abs(float(moved.std(0).mean()) - expected) < 4 * expected / np.sqrt(2 * moved.size) + 1e-6


@at_every_churn
@every
def test_the_last_step_ends_at_the_denoised_point(name, churn):
    process, _, t, _, x, target = at_a_point(name, churn)
    ended = process.step(jax.random.key(1), x, target, t, t[0, 0], None)
    np.testing.assert_allclose(ended, 0.4, atol=1e-5)


@at_every_churn
@every
def test_samples_with_the_exact_score_have_the_width_of_the_data(name, churn):
    """Data of a normal law: the bias is of order 1 / steps and leaves with an extrapolation; the rest is sampling."""
    half, full = (width(name, churn, steps) for steps in (60, 120))
    truth, error = (POSITIONS if name.startswith("torus") else LATTICE), np.sqrt(5 / (2 * 3 * COUNT))
    assert abs((2 * full - half) / truth - 1) < 4 * error, (half, full, truth)


POSITIONS, LATTICE = 0.08, 0.5


def width(name: str, churn: float, steps: int) -> float:
    """Of samples of N(center, width^2); on the torus from where sigma is 0.1, so that no law goes all the way round."""
    process, signal = made(name, churn)
    positions = process.head == "frac"
    center, variance = (0.5, POSITIONS**2) if positions else (0.0, LATTICE**2)
    grid = np.linspace(0, 1, 4001)
    spreads = np.asarray(process.dynamics.spread(jnp.asarray(grid, jnp.float32)))
    first = float(np.interp(0.1, spreads, grid)) if positions else 1.0

    def total(t):
        return jnp.square(signal(t)) * variance + jnp.square(process.dynamics.spread(t))

    def predict(x, t):
        z = process.dynamics.spread(t) * (x - center) / total(t)  # E[z | x]
        if positions:
            return z / process.dynamics.noise(x, jnp.ones_like(x), t, None)
        clean = signal(t) * variance * x / total(t)
        return z if name == "euclidean_diffusion" else process.dynamics.spread(t) * clean - signal(t) * z

    def draw(key):
        t0 = jnp.full((COUNT, 3), first)
        x = center + jnp.sqrt(total(t0)) * jax.random.normal(key, (COUNT, 3))

        def body(x, this):
            k, t = this
            return process.step(k, x, predict(x, t * jnp.ones_like(x)), t * jnp.ones_like(x), dt, None), None

        times, dt = first * (1 - jnp.arange(steps) / steps), jnp.asarray(first / steps)
        return jax.lax.scan(body, x, (jax.random.split(key, steps), times))[0]

    return float(jax.jit(draw)(jax.random.key(2)).std())
