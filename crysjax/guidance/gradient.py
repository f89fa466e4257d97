"""Guidance by searching a generator's noise through its decoder.

The target is the tilt p(x) exp(-E(x)), written for the noise z of x = decode(z):

    U(z) = E(decode(z)) + ½ |z|²  for Gaussian parts of z, and + 0 for parts whose law is flat.

A sampler of exp(-U) (Langevin dynamics at temperature 1, after many steps) yields the exact tilt, whatever the decoder
(as in latent-space Langevin sampling, e.g. Nie et al. 2021); an optimiser yields the most probable noise near its
start: lower energies than the tilt has, and too narrow a law. On a lattice generator whose tilt is known (a Gaussian
log-volume tilted by a quadratic energy; tests/guidance), in units of the tilt's std, with the same number of decodes:

    strategy (decodes)         error of the mean   ratio of std
    resample (64)                     0.01             1.00
    SGLD (64)                         0.02             1.02
    gradient descent (64)             0.00             0.00

so optimisers are for the one best crystal, samplers for many different ones.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Generator, Pack, Params, PyTree

Minimise = Callable[[Callable[[PyTree], Array], Array, PyTree], PyTree]


def gradient_guidance(
    generator: Generator,
    energy: Callable[[Pack], Array],
    *,
    minimise: Minimise,
    gaussian: tuple[str, ...] = ("lattice",),
    flat: tuple[str, ...] = ("frac",),
) -> Generator:
    """`generator` with its drawn noise improved by a search before it is decoded.

    Args:
        energy: pack -> (b,), dimensionless; crystals where it is not finite do not count at that step.
        minimise: `(objective, key, x0) -> x`, the search over the free fields, a dict of arrays by name. With the
            search loop of this package: `lambda f, key, x: run(strategy, f, key, x, steps)[1].last` for a sampler
            (at temperature 1) and `[0].x`, the best, for an optimiser. `project` of the strategy keeps flat fields
            where they belong (`x % 1` for fractions).
        gaussian: fields of the noise (a NamedTuple) with a standard normal law.
        flat: fields with a constant density. All other fields stay as they were drawn.

    The random choices inside of the decoder are held fixed during the search. With a decoder that has such choices
    the tilt is that of each choice by itself.
    """
    free = (*gaussian, *flat)

    def decode(params: Params, key: Array, noise: PyTree, template: Pack, condition: Condition) -> Pack:
        _require(noise, free)
        key_search, key_decode = jax.random.split(key)

        def unfold(x: dict[str, Array]) -> Pack:
            return generator.decode(params, key_decode, noise._replace(**x), template, condition)

        def objective(x: dict[str, Array]) -> Array:
            values = energy(_shield(unfold(jax.tree.map(_finite_gradient, x))))
            tilt = jnp.where(jnp.isfinite(values), values, 0).sum()
            return tilt + sum(0.5 * (x[name] ** 2).sum() for name in gaussian)

        start = {name: getattr(noise, name) for name in free}
        return unfold(minimise(objective, key_search, start))

    def sample(params: Params, key: Array, template: Pack, condition: Condition) -> Pack:
        key_noise, key_decode = jax.random.split(key)
        return decode(params, key_decode, generator.noise(key_noise, template), template, condition)

    return generator._replace(decode=decode, sample=sample, log_prob=None)


def _shield(pack: Pack) -> Pack:
    """The pack; what is not finite of an energy's gradient stays out of the decoder, whose products could spread it."""
    return pack._replace(**{name: _finite_gradient(getattr(pack, name)) for name in ("occupancy", "frac", "lattice")})


def _require(noise: PyTree, names: tuple[str, ...]) -> None:
    fields = getattr(noise, "_fields", ())
    missing = [name for name in names if name not in fields]
    if missing:
        raise ValueError(f"gradient_guidance: the generator's noise has no field {missing}; it has {list(fields)}")


@jax.custom_vjp
def _finite_gradient(x: Array) -> Array:
    """The identity; a gradient entry that is not finite becomes 0, so that one crystal cannot stop the others."""
    return x


_finite_gradient.defvjp(
    lambda x: (x, None), lambda _, gradient: (jnp.where(jnp.isfinite(gradient), gradient, jnp.zeros_like(gradient)),)
)
