"""One process a field: how positions, lattices and species are noised and denoised.

Diffusion and flow matching differ in these few lines only. Time is 0 at the data and 1 at the noise. Every factory
returns a `Process`; the network's answer is read from the `Prediction` field that `head` names.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import UNKNOWN, Pack, Process, mean_by_crystal, site_mask
from crysjax.geometry import torus


def _centred(x: Array, pack: Pack) -> Array:
    """Without the mean over each crystal: a translation of all sites carries no information."""
    return x - mean_by_crystal(x, pack)[pack.owner]


def _squared(prediction: Array, target: Array, x: Array, pack: Pack) -> Array:
    return jnp.mean(jnp.square(prediction - target), -1)


def torus_flow(*, anneal: float = 0.0) -> Process:
    """Geodesic flow matching of positions from the uniform distribution (FlowMM, Miller et al. 2024, eq. 13-15).

    The target is the velocity of the shortest path with the mean over the crystal removed. `anneal` speeds the
    flow up towards the data by `1 + anneal (1 - t)` while sampling (FlowMM, section 4; OMatG, 2025): it trades
    diversity for accuracy.
    """

    def prior(key: Array, like: Array, pack: Pack) -> Array:
        return jax.random.uniform(key, like.shape, like.dtype)

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        velocity = _centred(torus.log(prior(key, x0, pack) - x0), pack)
        return torus.wrap(x0 + t * velocity), velocity

    def step(key: Array, x: Array, prediction: Array, t: Array, dt: Array, pack: Pack) -> Array:
        return torus.wrap(x - dt * (1 + anneal * (1 - t)) * _centred(prediction, pack))

    return Process(prior, corrupt, step, _squared, "frac")


def torus_diffusion(*, sigma_min: float = 0.005, sigma_max: float = 0.5, churn: float = 1.0) -> Process:
    """Variance-exploding diffusion of positions with the wrapped normal (DiffCSP, Jiao et al. 2023, eq. 7-9).

    `sigma(t) = sigma_min^(1-t) sigma_max^t`. The network predicts the score over its root mean square at that sigma.
    `churn=1` is the ancestral sampler, `churn=0` the probability-flow ODE.
    """
    grid = np.geomspace(sigma_min, sigma_max, 64)
    table = jnp.asarray(np.log([_rms_score(s) for s in grid]), jnp.float32)

    def sigma(t: Array) -> Array:
        return sigma_min * (sigma_max / sigma_min) ** t

    def rms(t: Array) -> Array:
        return jnp.exp(jnp.interp(t, jnp.linspace(0.0, 1.0, 64, dtype=t.dtype), table.astype(t.dtype)))

    def prior(key: Array, like: Array, pack: Pack) -> Array:
        return jax.random.uniform(key, like.shape, like.dtype)

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        shift = sigma(t) * jax.random.normal(key, x0.shape, x0.dtype)
        score = torus.wrapped_normal_score(shift, jnp.broadcast_to(sigma(t), x0.shape))
        return torus.wrap(x0 + shift), score / rms(t)

    def step(key: Array, x: Array, prediction: Array, t: Array, dt: Array, pack: Pack) -> Array:
        now, then = sigma(t), jnp.where(t > dt, sigma(t - dt), 0.0)
        score = prediction * rms(t)
        drop = jnp.square(now) - jnp.square(then)
        noise = jax.random.normal(key, x.shape, x.dtype) * then / now * jnp.sqrt(drop)
        return torus.wrap(x + (0.5 + 0.5 * churn) * drop * score + churn * noise)

    return Process(prior, corrupt, step, _squared, "frac")


def _rms_score(sigma: float) -> float:
    """Root mean square of the wrapped normal's score at `sigma`, by quadrature over one period."""
    x = np.linspace(-0.5, 0.5, 2001)
    lifted = x[:, None] + np.arange(-5, 6)[None]
    weight = np.exp(-0.5 * (lifted / sigma) ** 2)
    density = weight.sum(1)
    score = -(weight * lifted).sum(1) / np.maximum(density, 1e-300) / sigma**2
    return float(np.sqrt((density * score**2).sum() / density.sum()))


def _normal_prior(key: Array, like: Array, pack: Pack) -> Array:
    return jax.random.normal(key, like.shape, like.dtype)


def euclidean_flow() -> Process:
    """Straight-line flow matching from the standard normal (Lipman et al. 2023), for standardised lattice coordinates.

    The network predicts the clean end and the velocity follows, `(x_t - x_0) / t`: a lattice that the composition
    fixes is then learnt at once, where a predicted velocity would have to repeat the noise to full precision.
    """

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        return (1 - t) * x0 + t * jax.random.normal(key, x0.shape, x0.dtype), x0

    def step(key: Array, x: Array, clean: Array, t: Array, dt: Array, pack: Pack) -> Array:
        return x + dt / t * (clean - x)

    return Process(_normal_prior, corrupt, step, _squared, "lattice")


def euclidean_diffusion(*, churn: float = 1.0) -> Process:
    """Variance-preserving diffusion with the cosine schedule (Nichol & Dhariwal 2021); the network predicts the noise.

    `churn=1` is the ancestral sampler of Ho et al. 2020, `churn=0` the deterministic one of Song et al. 2021.
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

    return Process(_normal_prior, corrupt, step, _squared, "lattice")


def _cross_entropy(logits: Array, target: Array) -> Array:
    return -jnp.sum(target * jax.nn.log_softmax(logits), -1)


def simplex_flow() -> Process:
    """Species as points of the simplex, a straight line from Dirichlet(1) noise to the one-hot row.

    The network predicts the clean row, and the velocity follows from it (variational flow matching, Eijkelboom et
    al. 2024). Continuous from noise to species, so a gradient passes.
    """

    def prior(key: Array, like: Array, pack: Pack) -> Array:
        draws = jax.random.exponential(key, like.shape, like.dtype)
        return draws / draws.sum(-1, keepdims=True) * site_mask(pack.occupancy)[:, None]

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        return (1 - t) * x0 + t * prior(key, x0, pack), x0

    def step(key: Array, x: Array, logits: Array, t: Array, dt: Array, pack: Pack) -> Array:
        return x + dt / t * (jax.nn.softmax(logits) - x)

    def error(logits: Array, target: Array, x: Array, pack: Pack) -> Array:
        return _cross_entropy(logits, target)

    return Process(prior, corrupt, step, error, "species")


def discrete_flow(*, noise: str = "absorbing", temperature: float = 1.0) -> Process:
    """Discrete diffusion of species in continuous time (Campbell et al. 2024; D3PM, Austin et al. 2021).

    "absorbing": a site is unknown with probability t, and once revealed it stays. "uniform": it is a random element
    with probability t, and every site may be revised until the end. Between t and t - dt a site takes a species drawn
    from the network's answer with probability dt / t. `temperature` < 1 sharpens that answer.
    """
    if noise not in ("absorbing", "uniform"):
        raise ValueError(f"noise: {noise!r} is neither 'absorbing' nor 'uniform'")

    def prior(key: Array, like: Array, pack: Pack) -> Array:
        if noise == "absorbing":
            rows = jnp.full_like(like, UNKNOWN)
        else:
            draws = jax.random.randint(key, like.shape[:-1], 0, like.shape[-1])
            rows = jax.nn.one_hot(draws, like.shape[-1], dtype=like.dtype)
        return rows * site_mask(pack.occupancy)[:, None]

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        where, what = jax.random.split(key)
        hidden = jax.random.uniform(where, x0.shape[:-1])[:, None] < t
        return jnp.where(hidden, prior(what, x0, pack), x0), x0

    def step(key: Array, x: Array, logits: Array, t: Array, dt: Array, pack: Pack) -> Array:
        where, what = jax.random.split(key)
        drawn = jax.random.categorical(what, logits / temperature)
        fresh = jax.nn.one_hot(drawn, x.shape[-1], dtype=x.dtype) * site_mask(pack.occupancy)[:, None]
        jump = jax.random.uniform(where, x.shape[:-1])[:, None] < dt / t
        if noise == "absorbing":
            jump &= x.max(-1, keepdims=True) < 0.5
        return jnp.where(jump, fresh, x)

    def error(logits: Array, target: Array, x: Array, pack: Pack) -> Array:
        asked = x.max(-1) < 0.5 if noise == "absorbing" else site_mask(x) > 0
        return jnp.where(asked, _cross_entropy(logits, target), 0.0)

    return Process(prior, corrupt, step, error, "species")


POSITIONS = {"flow": torus_flow, "diffusion": torus_diffusion}
LATTICE = {"flow": euclidean_flow, "diffusion": euclidean_diffusion}
SPECIES = {"simplex": simplex_flow, "discrete": discrete_flow}
