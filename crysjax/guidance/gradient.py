"""Guidance by searching a generator's noise through its decoder.

The target is the tilt p(x) exp(-E(x)), written for the noise z of x = decode(z), for each crystal by itself:

    U(z) = E(decode(z)) + ½ |z|²  for Gaussian parts of z, and + 0 for parts whose law is flat.

What holds. Let c be all that is random and not searched: fields of the noise that stay as they were drawn, and choices
inside of the decoder (categorical species, the noise of a stochastic sampler). c is held fixed during the search.

* Langevin dynamics at temperature 1 tends, with ever more and ever smaller steps, to p(z) exp(-E(z, c)) / Z(c) for each
  c by itself (as in latent-space Langevin sampling, e.g. Nie et al. 2021). Where nothing else is random this is the
  exact tilt. Otherwise each c keeps the share p(c) that it was drawn with, where the tilt gives it p(c) Z(c) / Z: the
  choice between discrete alternatives is not tilted (`resample` does tilt it).
* It takes a decoder whose derivative is that of what it computes. Straight-through species and minimum images that jump
  make the gradient another one than U's; no law is claimed then.
* After k moves of size h a share (1 - h λ)^k of the distance to the law is left along a direction of curvature λ of U
  (1 where E is flat). A plan's defaults, 8 evaluations and so 7 moves of 0.02, leave 0.98^7 = 87 % along λ = 1: little
  is steered. Steps of size h λ near 1 leave bias instead (`search/langevin`).
* An optimizer yields the lowest U that each crystal met: the most probable noise near its start, with lower energies
  than the tilt has and too narrow a law.

On a lattice generator whose tilt is known (a Gaussian log-volume tilted by a quadratic energy; tests/guidance), in
units of the tilt's std, with the same number of decodes:

    strategy (decodes)         error of the mean   ratio of std
    resample (64)                     0.01             1.00
    SGLD (64)                         0.02             1.02
    gradient descent (64)             0.00             0.00

so optimizers are for the one best crystal, samplers for many different ones.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Generator, Pack, Params, PyTree, sum_by_crystal

Objective = Callable[[dict[str, Array]], Array]  # x -> U (b,), +inf where the energy is not finite
Choose = Callable[[Array, dict[str, Array], dict[str, Array]], dict[str, Array]]  # (won (b,), new, old) -> x
Minimize = Callable[[Objective, Choose, Array, dict[str, Array]], dict[str, Array]]
OF_SITES = ("frac", "species")
"""Fields of a noise with one row per site; all others have one row per crystal."""


def gradient_guidance(
    generator: Generator,
    energy: Callable[[Pack], Array],
    *,
    minimize: Minimize,
    gaussian: tuple[str, ...] = ("lattice",),
    flat: tuple[str, ...] = ("frac",),
) -> Generator:
    """`generator` with its drawn noise improved by a search before it is decoded.

    Args:
        energy: pack -> (b,), dimensionless; not finite: that crystal follows its prior alone and is not best.
        minimize: `(objective, choose, key, x0) -> x`, the search over the free fields, a dict of arrays by name. With
            the search loop of this package: `lambda f, choose, key, x: run(strategy, f, key, x, steps,
            choose=choose)[1].last` for a sampler (at temperature 1) and `[0].x`, each crystal's own best, for an
            optimizer. `project` of the strategy keeps flat fields where they belong (`x % 1` for fractions).
        gaussian: fields of the noise (a NamedTuple) with a standard normal law.
        flat: fields with a constant density. All other fields stay as they were drawn.

    A crystal does not depend on the others of its pack, as long as the strategy works on each entry by itself (descent
    by Adam or SGD, Langevin dynamics; not clipping by a global norm).
    """
    free = (*gaussian, *flat)

    def decode(params: Params, key: Array, noise: PyTree, template: Pack, condition: Condition) -> Pack:
        _require(noise, free)
        key_search, key_decode = jax.random.split(key)

        def unfold(x: dict[str, Array]) -> Pack:
            return generator.decode(params, key_decode, noise._replace(**x), template, condition)

        def objective(x: dict[str, Array]) -> Array:
            values = energy(_shield(unfold(jax.tree.map(_finite_gradient, x))))
            tilt = jnp.where(jnp.isfinite(values), values, jnp.inf)
            return tilt + sum(0.5 * _squared_norm(name, x[name], template) for name in gaussian)

        def choose(won: Array, new: dict[str, Array], old: dict[str, Array]) -> dict[str, Array]:
            def one(name: str) -> Array:
                mask = won[template.owner] if name in OF_SITES else won
                return jnp.where(mask.reshape(-1, *(1,) * (new[name].ndim - 1)), new[name], old[name])

            return {name: one(name) for name in new}

        start = {name: getattr(noise, name) for name in free}
        return unfold(minimize(objective, choose, key_search, start))

    def sample(params: Params, key: Array, template: Pack, condition: Condition) -> Pack:
        key_noise, key_decode = jax.random.split(key)
        return decode(params, key_decode, generator.noise(key_noise, template), template, condition)

    return generator._replace(decode=decode, sample=sample, log_prob=None)


def _squared_norm(name: str, x: Array, pack: Pack) -> Array:
    """|z|² of each crystal's share of a field: (b,)."""
    square = jnp.square(x).reshape(len(x), -1).sum(-1)
    return sum_by_crystal(square, pack) if name in OF_SITES else square


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
