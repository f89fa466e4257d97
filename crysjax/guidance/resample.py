"""The reference guidance: importance resampling of a generator's samples by exp(-E).

For each crystal asked for, `particles` are drawn from the generator and one of them is picked with probability
proportional to exp(-E): sampling importance resampling (Rubin 1988; Smith & Gelfand 1992). As the number of particles
grows the law of the result tends to the exact tilt p(x) exp(-E(x)) / Z, with an error of the order 1 / particles. It
needs nothing of the energy but its value, so every cheaper guidance is measured against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Generator, Pack, Params, PyTree


class Resampled(NamedTuple):
    """The picked crystals and how much choice there was."""

    pack: Pack
    effective: Array  # (b,) effective number of particles of each crystal, from 1 to the number drawn


def resample(
    generator: Generator, energy: Callable[[Pack], Array], *, particles: int = 8, together: int = 1
) -> Generator:
    """`generator` tilted by exp(-energy); `decode` and `sample` are those of `weighed` without the effective numbers.

    Args:
        energy: pack -> (b,), dimensionless (multiply by the inverse temperature); every crystal is picked by its own.
            NaN and +inf are never picked, unless all particles of a crystal are so: then one of them at random.
        particles: samples per crystal. The tilt is spent when `effective_particles` comes near 1.
        together: decodes computed at once; 1 keeps the working set in a CPU's cache.

    The noise is that of all particles, stacked on a leading axis, so `sample` is still `decode` of `noise`. A gradient
    through `decode` follows the picked particle. `log_prob` is None: the normalization Z is not known.
    """
    drawn, picked = _noise_and_decode(generator, energy, particles, together)

    def decode(params: Params, key: Array, noise: PyTree, template: Pack, condition: Condition) -> Pack:
        return picked(params, key, noise, template, condition).pack

    def sample(params: Params, key: Array, template: Pack, condition: Condition) -> Pack:
        return _sampled(drawn, picked, params, key, template, condition).pack

    return generator._replace(noise=drawn, decode=decode, sample=sample, log_prob=None)


def weighed(
    generator: Generator, energy: Callable[[Pack], Array], *, particles: int = 8, together: int = 1
) -> Callable[[Params, Array, Pack, Condition], Resampled]:
    """`(params, key, template, condition) -> Resampled`: the crystals of `resample(...).sample`, and how they came."""
    drawn, picked = _noise_and_decode(generator, energy, particles, together)
    return lambda params, key, template, condition: _sampled(drawn, picked, params, key, template, condition)


def _sampled(noise, decode, params: Params, key: Array, template: Pack, condition: Condition) -> Resampled:
    key_noise, key_decode = jax.random.split(key)
    return decode(params, key_decode, noise(key_noise, template), template, condition)


def _noise_and_decode(generator: Generator, energy: Callable[[Pack], Array], particles: int, together: int):
    """The noise of all particles, and the pick among what is decoded of it."""
    if particles < 1:
        raise ValueError(f"resample: particles is {particles}; expected at least 1")

    def noise(key: Array, template: Pack) -> PyTree:
        return jax.vmap(generator.noise, (0, None))(jax.random.split(key, particles), template)

    def decode(params: Params, key: Array, noise: PyTree, template: Pack, condition: Condition) -> Resampled:
        def one(item):
            pack = generator.decode(params, item[0], item[1], template, condition)
            return (pack.occupancy, pack.frac, pack.lattice), energy(pack)

        key_pick, key_decode = jax.random.split(key)
        keys = jax.random.split(key_decode, particles)
        fields, energies = jax.lax.map(one, (keys, noise), batch_size=together if together > 1 else None)
        return Resampled(_choose(fields, pick(key_pick, energies), template), effective_particles(energies))

    return noise, decode


def pick(key: Array, energies: Array) -> Array:
    """Draw one of the particles of each crystal with probability ∝ exp(-E): (particles, b) -> (b,) int."""
    return jax.random.categorical(key, _log_weights(energies), axis=0)


def effective_particles(energies: Array) -> Array:
    """1 / Σ w² of the normalized weights, from 1 to the number of particles: (particles, b) -> (b,)."""
    return 1 / (jax.nn.softmax(_log_weights(energies), axis=0) ** 2).sum(0)


def _log_weights(energies: Array) -> Array:
    """-E, counted from the best particle of each crystal, so that large energies do not round off the draw's noise.

    What must not be picked has -inf; where nothing else is left, all particles are alike.
    """
    bad = jnp.isnan(energies) | (energies == jnp.inf)
    best = jnp.where(bad, jnp.inf, energies).min(0, keepdims=True)
    relative = jnp.where(energies == best, 0.0, best - energies)  # also where both are -inf
    return jnp.where(best == jnp.inf, 0.0, jnp.where(bad, -jnp.inf, relative))


def _choose(fields: tuple, chosen: Array, template: Pack) -> Pack:
    """Each crystal's fields from its own particle; owner and pairs are the template's."""
    occupancy, frac, lattice = fields
    of_site = chosen[template.owner]
    sites, crystals = jnp.arange(of_site.shape[0]), jnp.arange(chosen.shape[0])
    return template._replace(
        occupancy=occupancy[of_site, sites], frac=frac[of_site, sites], lattice=lattice[chosen, crystals]
    )
