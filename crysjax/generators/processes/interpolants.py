"""Stochastic interpolants: a path from data to noise with a second noise `gamma(t) z` that vanishes at both ends.

`x_t = I(x_0, x_1, t) + gamma(t) z` (Albergo, Boffi & Vanden-Eijnden 2023; for crystals OMatG, Höllmer et al. 2025).
What a network learns of it gives the velocity of an ODE and the score of an SDE with the same laws at every t, so one
model can be sampled either way. Here `gamma(t) = gamma sin(pi t)` in place of the paper's `sqrt(a t (1 - t))`: its
slope is bounded, so the velocity is too. Time is 0 at the data and 1 at the noise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Dynamics, Network, Pack, Prediction, Process
from crysjax.generators.processes.flows import centered, coupled_prior, normal_prior, squared, uniform_prior
from crysjax.geometry import torus


def torus_interpolant(*, gamma: float = 0.1, coupling: str = "none") -> Process:
    """Positions along the shortest path from uniform noise, blurred by a wrapped normal of standard deviation gamma(t).

    Two answers of the network: `E[dI/dt | x]`, as in `torus_flow`, and `E[z | x]`; the velocity is their sum
    `E[dI/dt] + gamma'(t) E[z]`, the score `-E[z] / gamma`, which holds on the torus as well because z is the noise
    before wrapping. The mean of each crystal is taken off the path and off z.

    Args:
        gamma: largest standard deviation of the second noise, at t = 1/2, in fractions of the cell.
        coupling: "none", or "permutation": in training, noise is assigned to sites of the same species by optimal
            transport, as in the process `flow`.
    """
    noise_for = coupled_prior(coupling)

    def size(t: Array) -> Array:
        return gamma * jnp.maximum(jnp.sin(jnp.pi * t), 0)  # rounding makes the sine of pi negative

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        velocity = centered(torus.log(noise_for(first, x0, pack) - x0), pack)
        z = centered(jax.random.normal(second, x0.shape, x0.dtype), pack)
        return torus.wrap(x0 + t * velocity + size(t) * z), jnp.concatenate([velocity, z], -1)

    def step(key: Array, x: Array, prediction: Array, t: Array, dt: Array, pack: Pack) -> Array:
        path, z = prediction[:, :3], prediction[:, 3:]
        return torus.wrap(x - centered(dt * path + (size(t) - size(t - dt)) * z, pack))

    def velocity(x: Array, prediction: Array, t: Array, pack: Pack) -> Array:
        slope = jnp.pi * gamma * jnp.cos(jnp.pi * t)
        return centered(prediction[:, :3] + slope * prediction[:, 3:], pack)

    def noise(x: Array, prediction: Array, t: Array, pack: Pack) -> Array:
        return centered(prediction[:, 3:], pack)

    dynamics = Dynamics(lambda t: t, velocity, noise, size)
    return Process(uniform_prior, corrupt, step, squared, "frac", dynamics, answers=2)


def euclidean_interpolant(*, gamma: float = 0.5) -> Process:
    """Standardized lattice coordinates, `x_t = (1 - t) x_0 + t x_1 + gamma(t) z` with x_1 standard normal.

    `t x_1 + gamma z` is one Gaussian of variance `s^2 = t^2 + gamma^2`, so the predicted clean end says all: E[x_1] and
    E[z] are t/s and gamma/s of `E[n] = (x_t - (1 - t) E[x_0]) / s` (the paper's one-sided interpolant).

    Args:
        gamma: largest amplitude of the second noise, at t = 1/2, in standard deviations of the lattice coordinates.
    """

    def size(t: Array) -> Array:
        return jnp.sqrt(jnp.square(t) + jnp.square(gamma * jnp.sin(jnp.pi * t)))

    def corrupt(key: Array, x0: Array, t: Array, pack: Pack) -> tuple[Array, Array]:
        return (1 - t) * x0 + size(t) * jax.random.normal(key, x0.shape, x0.dtype), x0

    def noise(x: Array, clean: Array, t: Array, pack: Pack) -> Array:
        return (x - (1 - t) * clean) / size(t)

    def step(key: Array, x: Array, clean: Array, t: Array, dt: Array, pack: Pack) -> Array:
        then = jnp.where(t > dt, size(t - dt), 0.0)
        return (1 - t + dt) * clean + then * noise(x, clean, t, pack)

    def velocity(x: Array, clean: Array, t: Array, pack: Pack) -> Array:
        slope = (t + 0.5 * jnp.pi * gamma**2 * jnp.sin(2 * jnp.pi * t)) / size(t)  # ds/dt
        return slope * noise(x, clean, t, pack) - clean

    return Process(normal_prior, corrupt, step, squared, "lattice", Dynamics(lambda t: t, velocity, noise, size))


def asked_twice(network: Network) -> Network:
    """A network that answers two questions of the positions, told apart by one more entry of its context.

    `Prediction.frac` has both answers, (n, 6), at the cost of a second pass; all else is that of the first.
    """

    def with_question(context: Array, which: float) -> Array:
        return jnp.concatenate([context, jnp.full_like(context[:, :1], which)], -1)

    def init(key: Array, pack: Pack, context: Array):
        return network.init(key, pack, with_question(context, 0.0))

    def apply(params, pack: Pack, context: Array) -> Prediction:
        first, second = (network.apply(params, pack, with_question(context, which)) for which in (0.0, 1.0))
        return first._replace(frac=jnp.concatenate([first.frac, second.frac], -1))

    return Network(init, apply)
