"""The ways of steering that a plan can name: `guidance: NAME`, with `guidance.KEY` for the settings of its factory.

All aim at p(x) exp(-strength * objective). A search strategy becomes one by a row in `GUIDANCES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from crysjax.base import Condition, Generator, Pack, Params, PyTree, Search
from crysjax.campaign.propose import Guide, Steered
from crysjax.guidance import gradient as through_noise
from crysjax.guidance import resample as particles
from crysjax.guidance.gradient import Choose
from crysjax.search import gradient as descents
from crysjax.search import langevin
from crysjax.search.run import run

Energy = Callable[[Pack], Array]  # pack -> (b,)


class Guidance(NamedTuple):
    """A way of steering, and what it costs."""

    guide: Callable[[Generator], Guide]
    draws: int  # samples that the generator makes for one candidate
    searches: bool = False  # whether it differentiates through the sampler, in the noise of positions and lattice


def none() -> Guidance:
    """Crystals as the generator draws them."""
    return Guidance(lambda generator: lambda energy: _unweighed(generator), 1)


def resample(*, strength: float = 2.0, steps: int = 8) -> Guidance:
    """One of several samples is picked: the reference, exact as their number grows.

    Args:
        strength: inverse temperature; the sampled law is p(x) exp(-strength * objective).
        steps: number of samples that each crystal is picked from. A pool of 4 has an effective number of 2.3 and goes
            64 % of the way to the target distribution, one of 8 has 3.7 and goes 79 % (measured on the quickstart,
            `experiments/quickstart/particles.py`); each costs a sample of the generator.
    """
    _check(strength, steps)
    settings = {"particles": steps}

    def guide(generator: Generator) -> Guide:
        def steered(energy: Energy) -> Steered:
            scaled = _scaled(energy, strength)
            sample = particles.resample(generator, scaled, **settings).sample
            return Steered(sample, particles.weighed(generator, scaled, **settings))

        return steered

    return Guidance(guide, steps)


def gradient(*, strength: float = 2.0, steps: int = 8, rate: float = 0.02) -> Guidance:
    """Descent by Adam in the noise, keeping each crystal's best point, which narrows the law to its modes.

    Args:
        strength: inverse temperature; the sampled law is p(x) exp(-strength * objective).
        steps: steps of the search; each costs a sample of the generator.
        rate: step size of the search.
    """
    _check(strength, steps, rate)
    return _searched(descents.gradient(optax.adam(rate), project=_on_torus), strength, steps, best=True)


def sgld(*, strength: float = 2.0, steps: int = 8, rate: float = 0.02) -> Guidance:
    """Langevin steps in the noise, for the species that were drawn: few small steps hardly move (`guidance/gradient`).

    Args:
        strength: inverse temperature; the sampled law is p(x) exp(-strength * objective).
        steps: steps of the search; each costs a sample of the generator.
        rate: step size of the search.
    """
    _check(strength, steps, rate)
    return _searched(langevin.sgld(step_size=rate, project=_on_torus), strength, steps)


def psgld(*, strength: float = 2.0, steps: int = 8, rate: float = 0.02, alpha: float = 0.99) -> Guidance:
    """Langevin steps preconditioned by RMSprop.

    Args:
        strength: inverse temperature; the sampled law is p(x) exp(-strength * objective).
        steps: steps of the search; each costs a sample of the generator.
        rate: step size of the search.
        alpha: weight of the past in the running mean of squared gradients.
    """
    _check(strength, steps, rate)
    return _searched(langevin.psgld(step_size=rate, alpha=alpha, project=_on_torus), strength, steps)


GUIDANCES: Mapping[str, Callable[..., Guidance]] = {
    "none": none, "resample": resample, "gradient": gradient, "sgld": sgld, "psgld": psgld,
}  # fmt: skip
"""What `guidance` may be."""


def _check(strength: float, steps: int, rate: float = 1.0) -> None:
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength: {strength}; expected a finite number from 0 on")
    if not 1 <= steps <= 1_000_000:
        raise ValueError(f"steps: {steps}; expected a whole number from 1 to 1000000")
    if not 0 < rate < math.inf:
        raise ValueError(f"rate: {rate}; expected a finite number above 0")


def _scaled(energy: Energy, strength: float) -> Energy:
    return lambda pack: strength * energy(pack)


def _unweighed(generator: Generator) -> Steered:
    """A generator that draws each crystal once: it has no effective number of particles."""

    def drawn(params: Params, key: Array, template: Pack, condition: Condition) -> tuple[Pack, Array]:
        pack = generator.sample(params, key, template, condition)
        return pack, jnp.full(pack.lattice.shape[0], jnp.nan, pack.lattice.dtype)

    return Steered(generator.sample, drawn)


def _searched(
    search: Search | Callable[[Choose], Search], strength: float, steps: int, *, best: bool = False
) -> Guidance:
    """A search over the noise, through the whole sampler: the best point met, or the last one of a chain.

    A strategy that `compares` is made of the `choose` of the crystals of a pack.
    """

    def minimize(objective: Callable[[PyTree], Array], choose: Choose, key: Array, x0: PyTree) -> PyTree:
        strategy = search if isinstance(search, Search) else search(choose)
        lowest, trace = run(strategy, objective, key, x0, steps, choose=choose)
        return lowest.x if best else trace.last

    def guide(generator: Generator) -> Guide:
        return lambda energy: _unweighed(
            through_noise.gradient_guidance(generator, _scaled(energy, strength), minimize=minimize)
        )

    return Guidance(guide, steps + 1, searches=True)


def _on_torus(x: dict[str, Array]) -> dict[str, Array]:
    """Fractions back to [0, 1), with the slope of the identity."""
    return x | {"frac": x["frac"] - jax.lax.stop_gradient(jax.numpy.floor(x["frac"]))}
