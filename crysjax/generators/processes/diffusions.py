"""Diffusion of positions (variance exploding, on the torus) and lattices (variance preserving), each also as in EDM.

Time is 0 at the data and 1 at the noise. Every factory returns a `Process`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Dynamics, Pack, Process
from crysjax.generators.processes.flows import normal_prior, squared, uniform_prior
from crysjax.geometry import torus


def torus_diffusion(*, sigma_min: float = 0.005, sigma_max: float = 0.5, churn: float = 1.0) -> Process:
    """Variance-exploding diffusion of positions with the wrapped normal (DiffCSP, Jiao et al. 2023, eq. 7-9).

    `sigma(t) = sigma_min^(1-t) sigma_max^t`. The network predicts the score over its root mean square at that sigma. In
    the limit of small steps sampling follows the reverse equation `dx = -(1 + c^2) / 2 score d(sigma^2) + c dW` with c
    = `churn`; a step is the one that is exact, at any length and any c, where the data is a point (Song, Meng and
    Ermon, Denoising Diffusion Implicit Models, 2021, eq. 12), so the last one, on to sigma = 0, ends at the
    denoised point.

    Args:
        sigma_min: standard deviation of the noise at t = 0, in fractions of the cell.
        sigma_max: standard deviation of the noise at t = 1, in fractions of the cell.
        churn: amplitude of the noise that a sampling step draws, in units of the ancestral sampler's: 1 is that
            sampler, 0 the probability-flow ODE, and every value between has the same marginal distributions.
    """
    return _wrapped(sigma_min, sigma_max, churn, lambda t: t, None)


def torus_edm(
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 0.5,
    rho: float = 7.0,
    log_mean: float = -3.0,
    log_std: float = 1.0,
    churn: float = 0.0,
) -> Process:
    """EDM (Karras et al. 2022) as far as it goes on a torus: its schedule and its weights, for wrapped positions.

    While sigma is small against the period, the data looks infinitely wide from a site: `sigma_data -> inf` turns
    table 1 into `c_skip = 1`, `c_out = sigma`, and the network's answer F = (x_0 - x) / sigma is sigma times the
    score. There is no `c_in`, since positions are wrapped and not scaled, and where sigma nears the period the denoiser
    has no meaning while the score has: the network predicts the score over its root mean square, which is sigma times
    the score for small sigma. `sigma(t)` is the rho schedule (eq. 5), so even steps in t are Karras' steps. The
    log-normal distribution of training sigmas is a weight of the error, because t is shared with the other fields.

    Args:
        sigma_min: standard deviation of the noise at t = 0, in fractions of the cell.
        sigma_max: standard deviation of the noise at t = 1, in fractions of the cell.
        rho: exponent of the schedule; larger values take more of the steps at small noise.
        log_mean: mean of ln sigma where training weighs errors most (the paper's P_mean), sigma in fractions of the
            cell.
        log_std: standard deviation of ln sigma in that weight (the paper's P_std).
        churn: amplitude of the noise that a sampling step draws, as in the process `diffusion`; it replaces the
            paper's algorithm 2.
    """
    place, weigh = _rho_schedule(sigma_min, sigma_max, rho, log_mean, log_std)
    return _wrapped(sigma_min, sigma_max, churn, place, weigh)


def _wrapped(sigma_min: float, sigma_max: float, churn: float, place: Callable, weigh: Callable | None) -> Process:
    """Wrapped diffusion with `sigma = sigma_min^(1-u) sigma_max^u` at `u = place(t)` and errors times `weigh(t)`."""
    grid = np.geomspace(sigma_min, sigma_max, 64)
    table = jnp.asarray(np.log([rms_score(s) for s in grid]), jnp.float32)

    def sigma(t: Array) -> Array:
        return sigma_min * (sigma_max / sigma_min) ** place(t)

    def rms(t: Array) -> Array:
        return jnp.exp(jnp.interp(place(t), jnp.linspace(0.0, 1.0, 64, dtype=t.dtype), table.astype(t.dtype)))

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack):
        shift = sigma(t) * jax.random.normal(key, x0.shape, x0.dtype)
        target = torus.wrapped_normal_score(shift, jnp.broadcast_to(sigma(t), x0.shape)) / rms(t)
        return torus.wrap(x0 + shift), target if weigh is None else (target, weigh(t))

    def step(key: Array, x: Array, prediction: Array, t: Array, dt: Array, pack: Pack) -> Array:
        now, then = sigma(t), jnp.where(t > dt, sigma(t - dt), 0.0)
        kept, fresh = _split(now, then, churn)
        drawn = fresh * jax.random.normal(key, x.shape, x.dtype)
        return torus.wrap(x + (kept - now) * noise(x, prediction, t, pack) + drawn)

    def noise(x: Array, prediction: Array, t: Array, pack: Pack) -> Array:
        return -sigma(t) * rms(t) * prediction

    # with sigma for a clock dx/dsigma = -sigma score = E[z]: slow, where dx/dt would grow exponentially
    dynamics = Dynamics(sigma, noise, noise, sigma)
    return Process(uniform_prior, corrupt, step, squared if weigh is None else _weighted, "frac", dynamics)


def rms_score(sigma: float) -> float:
    """Root mean square of the wrapped normal's score at `sigma`, by quadrature over one period."""
    x = np.linspace(-0.5, 0.5, 2001)
    lifted = x[:, None] + np.arange(-5, 6)[None]
    weight = np.exp(-0.5 * (lifted / sigma) ** 2)
    density = weight.sum(1)
    score = -(weight * lifted).sum(1) / np.maximum(density, 1e-300) / sigma**2
    return float(np.sqrt((density * score**2).sum() / density.sum()))


def euclidean_diffusion(*, churn: float = 1.0) -> Process:
    """Variance-preserving diffusion with the cosine schedule (Nichol & Dhariwal 2021); the network predicts the noise.

    Args:
        churn: amplitude of the noise that a sampling step draws, in units of the ancestral sampler's: 1 is that sampler
            (Ho et al. 2020), 0 the deterministic one of Song, Meng and Ermon (Denoising Diffusion Implicit Models,
            2021), and every value between has the same marginal distributions.
    """

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        noise = jax.random.normal(key, x0.shape, x0.dtype)
        return jnp.cos(0.5 * jnp.pi * t) * x0 + jnp.sin(0.5 * jnp.pi * t) * noise, noise

    def step(key: Array, x: Array, prediction: Array, t: Array, dt: Array, pack: Pack) -> Array:
        signal, noise = jnp.cos(0.5 * jnp.pi * t), jnp.sin(0.5 * jnp.pi * t)
        signal_next, noise_next = jnp.cos(0.5 * jnp.pi * (t - dt)), jnp.sin(0.5 * jnp.pi * (t - dt))
        clean = (x - noise * prediction) / jnp.maximum(signal, 0.02)  # bounded where the data has vanished
        fresh = churn * noise_next / noise * jnp.sqrt(jnp.maximum(1 - jnp.square(signal / signal_next), 0))
        kept = jnp.sqrt(jnp.maximum(jnp.square(noise_next) - jnp.square(fresh), 0))
        return signal_next * clean + kept * prediction + fresh * jax.random.normal(key, x.shape, x.dtype)

    def velocity(x: Array, prediction: Array, t: Array, pack: Pack) -> Array:
        signal, noise = jnp.cos(0.5 * jnp.pi * t), jnp.sin(0.5 * jnp.pi * t)
        return signal * prediction - noise * (x - noise * prediction) / jnp.maximum(signal, 0.02)

    def spread(t: Array) -> Array:
        return jnp.sin(0.5 * jnp.pi * t)

    dynamics = Dynamics(lambda t: 0.5 * jnp.pi * t, velocity, lambda x, noise, t, pack: noise, spread)
    return Process(normal_prior, corrupt, step, squared, "lattice", dynamics)


def euclidean_edm(
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    log_mean: float = -1.2,
    log_std: float = 1.2,
    churn: float = 0.0,
) -> Process:
    """EDM (Karras et al. 2022) for standardized lattice coordinates, so that `sigma_data` is 1.

    The field itself is kept preconditioned, `y = c_in x`: what the network sees is then a lattice at every sigma. With
    `tan(angle) = sigma` table 1 reads `c_in = cos`, `c_skip = cos^2`, `c_out = sin`, and

        y = cos x_0 + sin z,    F = sin x_0 - cos z,    x_0 = c_skip x + c_out F = cos y + sin F,    dy/dangle = -F,

    F being what the network predicts, of unit variance. `sigma(t)` is the rho schedule (eq. 5), so even steps in t are
    Karras' steps and t stands for `c_noise`. The log-normal distribution of training sigmas is a weight of the error,
    because t is shared with the other fields. A Heun step moves along the angle and not along sigma (algorithm 1).

    Args:
        sigma_min: standard deviation of the noise at t = 0, in standard deviations of the lattice coordinates.
        sigma_max: standard deviation of the noise at t = 1, in standard deviations of the lattice coordinates.
        rho: exponent of the schedule; larger values take more of the steps at small noise.
        log_mean: mean of ln sigma where training weighs errors most (the paper's P_mean).
        log_std: standard deviation of ln sigma in that weight (the paper's P_std).
        churn: amplitude of the noise that a sampling step draws: 0 is the ODE, 1 the ancestral sampler; it replaces
            the paper's algorithm 2.
    """
    place, weigh = _rho_schedule(sigma_min, sigma_max, rho, log_mean, log_std)

    def angle(t: Array) -> Array:
        return jnp.arctan(sigma_min * (sigma_max / sigma_min) ** place(t))

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack):
        cos, sin, z = jnp.cos(angle(t)), jnp.sin(angle(t)), jax.random.normal(key, x0.shape, x0.dtype)
        return cos * x0 + sin * z, (sin * x0 - cos * z, weigh(t))

    def step(key: Array, y: Array, prediction: Array, t: Array, dt: Array, pack: Pack) -> Array:
        now, then = angle(t), jnp.where(t > dt, angle(t - dt), 0.0)
        clean = jnp.cos(now) * y + jnp.sin(now) * prediction
        kept, fresh = _split(jnp.tan(now), jnp.tan(then), churn)  # of sigma(then)
        noisy = clean + kept * noise(y, prediction, t, pack) + fresh * jax.random.normal(key, y.shape, y.dtype)
        return jnp.cos(then) * noisy

    def noise(y: Array, prediction: Array, t: Array, pack: Pack) -> Array:
        return jnp.sin(angle(t)) * y - jnp.cos(angle(t)) * prediction

    dynamics = Dynamics(angle, lambda y, f, t, pack: -f, noise, lambda t: jnp.sin(angle(t)))
    return Process(normal_prior, corrupt, step, _weighted, "lattice", dynamics)


def _split(now: Array, then: Array, churn: float) -> tuple[Array, Array]:
    """The noise of size `then` as what is kept of the present one and what is drawn anew.

    Song, Meng and Ermon, Denoising Diffusion Implicit Models, 2021, eq. 12.
    """
    drop = jnp.maximum(1 - jnp.square(then / now), 0)
    fresh = churn * then * jnp.sqrt(drop)
    return jnp.sqrt(jnp.maximum(jnp.square(then) - jnp.square(fresh), 0)), fresh


def _rho_schedule(sigma_min: float, sigma_max: float, rho: float, log_mean: float, log_std: float):
    """Karras' schedule as the place of ln sigma(t) between its bounds, and the weight of a t that is drawn evenly.

    The weight is the density of the log-normal at sigma(t) over the one that even times give it, so that its mean is 1
    up to the share of the log-normal outside of the bounds.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    def log_sigma(t: Array) -> Array:
        return rho * jnp.log(low + t * (high - low))

    def place(t: Array) -> Array:
        return (log_sigma(t) - np.log(sigma_min).item()) / np.log(sigma_max / sigma_min).item()

    def weigh(t: Array) -> Array:
        slope = rho * (high - low) / (low + t * (high - low))  # d ln sigma / dt
        return slope * jax.scipy.stats.norm.pdf(log_sigma(t), log_mean, log_std)

    return place, weigh


def _weighted(prediction: Array, target: tuple[Array, Array], x: Array, pack: Pack) -> Array:
    return target[1][..., 0] * squared(prediction, target[0], x, pack)
