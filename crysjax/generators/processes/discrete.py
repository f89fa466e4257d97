"""Discrete diffusion of species: sites that are hidden, or that hold a random element, with probability t."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import UNKNOWN, Pack, Process, site_mask
from crysjax.generators.processes.flows import cross_entropy


def discrete_flow(*, noise: str = "absorbing", temperature: float = 1.0) -> Process:
    """Discrete diffusion of species in continuous time (Campbell et al. 2024; D3PM, Austin et al. 2021).

    Between t and t - dt a site takes a species drawn from the network's prediction with probability dt / t.

    Args:
        noise: "absorbing": a site is unknown with probability t, and once revealed it stays; or "uniform": it is a
            random element with probability t, and every site may be revised until the end.
        temperature: logits are divided by it when species are drawn; below 1 likely species become likelier.
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
        return jnp.where(asked, cross_entropy(logits, target), 0.0)

    return Process(prior, corrupt, step, error, "species")
