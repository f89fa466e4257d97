"""Flow matching: positions on the torus, lattices on the line, species on the simplex, each along its shortest path.

Time is 0 at the data and 1 at the noise. Every factory returns a `Process`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Dynamics, Pack, Process, mean_by_crystal, site_mask
from crysjax.generators.processes.transport import assign_noise
from crysjax.geometry import torus

COUPLINGS = ("none", "permutation")


def centered(x: Array, pack: Pack) -> Array:
    """Without the mean over each crystal: a translation of all sites carries no information."""
    return x - mean_by_crystal(x, pack)[pack.owner]


def squared(prediction: Array, target: Array, x: Array, pack: Pack) -> Array:
    """Mean over the components of the squared error: (..., k) -> (...)."""
    return jnp.mean(jnp.square(prediction - target), -1)


def uniform_prior(key: Array, like: Array, pack: Pack) -> Array:
    """Positions anywhere in the cell."""
    return jax.random.uniform(key, like.shape, like.dtype)


def normal_prior(key: Array, like: Array, pack: Pack) -> Array:
    """Standard normal coordinates."""
    return jax.random.normal(key, like.shape, like.dtype)


def coupled_prior(coupling: str):
    """`uniform_prior`, with "permutation" handed to the sites of each crystal so that it lies near them.

    Sites that share a species are exchangeable, so the noise of a crystal stays uniform (minibatch optimal
    transport, Tong et al. 2024 and Pooladian et al. 2023, here within each crystal as in EquivariantFM, Klein et al.
    2023, but for translations, which the mean takes care of, and rotations, which a cell does not have).
    """
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling: {coupling!r}; expected one of {', '.join(COUPLINGS)}")

    def prior(key: Array, x0: Array, pack: Pack) -> Array:
        noise = uniform_prior(key, x0, pack)
        return noise if coupling == "none" else noise[assign_noise(x0, noise, pack)]

    return prior


def torus_flow(*, anneal: float = 0.0, coupling: str = "none") -> Process:
    """Geodesic flow matching of positions from the uniform distribution (FlowMM, Miller et al. 2024, eq. 13-15).

    The target is the velocity of the shortest path with the mean over the crystal removed.

    Args:
        anneal: while sampling, velocities are multiplied by `1 + anneal (1 - t)`, which speeds the flow up towards the
            data (FlowMM, 2024; OMatG, 2025): it trades diversity for accuracy. 0 leaves them as learned.
        coupling: "none", or "permutation": in training, noise is assigned to sites of the same species by optimal
            transport, which makes paths shorter and straighter; sampling does not change.
    """
    noise_for = coupled_prior(coupling)

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        velocity = centered(torus.log(noise_for(key, x0, pack) - x0), pack)
        return torus.wrap(x0 + t * velocity), velocity

    def step(key: Array, x: Array, prediction: Array, t: Array, dt: Array, pack: Pack) -> Array:
        return torus.wrap(x - dt * (1 + anneal * (1 - t)) * centered(prediction, pack))

    def clock(t: Array) -> Array:
        return t + anneal * (t - 0.5 * jnp.square(t))

    def velocity(x: Array, prediction: Array, t: Array, pack: Pack) -> Array:
        return centered(prediction, pack)

    return Process(uniform_prior, corrupt, step, squared, "frac", Dynamics(clock, velocity))


def euclidean_flow() -> Process:
    """Straight-line flow matching from the standard normal (Lipman et al. 2023), for standardized lattice coordinates.

    The network predicts the clean end and the velocity follows, `(x_t - x_0) / t`: a lattice that the composition
    fixes is then learned at once, where a predicted velocity would have to repeat the noise to full precision.
    """

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        return (1 - t) * x0 + t * jax.random.normal(key, x0.shape, x0.dtype), x0

    def step(key: Array, x: Array, clean: Array, t: Array, dt: Array, pack: Pack) -> Array:
        return x + dt / t * (clean - x)

    def velocity(x: Array, clean: Array, t: Array, pack: Pack) -> Array:
        return (x - clean) / t

    def noise(x: Array, clean: Array, t: Array, pack: Pack) -> Array:
        return (x - (1 - t) * clean) / t

    dynamics = Dynamics(lambda t: t, velocity, noise, lambda t: t)
    return Process(normal_prior, corrupt, step, squared, "lattice", dynamics)


def cross_entropy(logits: Array, target: Array) -> Array:
    """In nats per site, of one-hot rows: (n, s), (n, s) -> (n,)."""
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
        moved = x + dt / t * (jax.nn.softmax(logits) - x)
        return moved * site_mask(pack.occupancy)[:, None]  # empty slots stay empty

    def velocity(x: Array, logits: Array, t: Array, pack: Pack) -> Array:
        return (x - jax.nn.softmax(logits) * site_mask(pack.occupancy)[:, None]) / t

    def error(logits: Array, target: Array, x: Array, pack: Pack) -> Array:
        return cross_entropy(logits, target)

    return Process(prior, corrupt, step, error, "species", Dynamics(lambda t: t, velocity))
