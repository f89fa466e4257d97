"""The ways of steering that a plan can name, each a function from an energy to a steered generator."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from crysjax.base import Condition, Generator, Pack, Params, PyTree, Search
from crysjax.campaign.plan import Plan
from crysjax.campaign.propose import Guide, Steered
from crysjax.guidance.gradient import gradient_guidance
from crysjax.guidance.resample import resample, weighed
from crysjax.search.gradient import gradient
from crysjax.search.langevin import psgld, sgld
from crysjax.search.run import run


def guide(generator: Generator, plan: Plan) -> Guide:
    """Steering as the plan says, towards p(x) exp(-strength * objective).

    "resample" picks one of `guidance_steps` samples (the reference: exact as their number grows); "sgld" and "psgld"
    go towards that law by Langevin steps in the noise of positions and lattice, through the whole sampler, for the
    species that were drawn: few small steps hardly move, and species are not steered (`guidance/gradient` says what
    holds); "gradient" descends instead and keeps each crystal's best point, which narrows the law to its modes.
    """

    def steered(energy: Callable[[Pack], Array]) -> Steered:
        def scaled(pack: Pack) -> Array:
            return plan.guidance_strength * energy(pack)

        if plan.guidance == "none":
            return _unweighed(generator)
        if plan.guidance == "resample":
            settings = {"particles": plan.guidance_steps}
            return Steered(resample(generator, scaled, **settings).sample, weighed(generator, scaled, **settings))
        return _unweighed(gradient_guidance(generator, scaled, minimize=_minimize(plan)))

    return steered


def _unweighed(generator: Generator) -> Steered:
    """A generator that draws each crystal once: it has no effective number of particles."""

    def drawn(params: Params, key: Array, template: Pack, condition: Condition) -> tuple[Pack, Array]:
        pack = generator.sample(params, key, template, condition)
        return pack, jnp.full(pack.lattice.shape[0], jnp.nan, pack.lattice.dtype)

    return Steered(generator.sample, drawn)


def draws(plan: Plan) -> int:
    """Samples that the generator makes for one candidate."""
    return {"none": 1, "resample": plan.guidance_steps}.get(plan.guidance, plan.guidance_steps + 1)


def _minimize(plan: Plan) -> Callable:
    """The search over the noise: the best point of a descent, or the last one of a chain."""
    settings = {"project": _on_torus}
    makers: dict[str, Callable[[], Search]] = {
        "gradient": lambda: gradient(optax.adam(plan.guidance_rate), **settings),
        "sgld": lambda: sgld(step_size=plan.guidance_rate, **settings),
        "psgld": lambda: psgld(step_size=plan.guidance_rate, **settings),
    }
    search = makers[plan.guidance]()

    def minimize(objective: Callable[[PyTree], Array], choose: Callable, key: Array, x0: PyTree) -> PyTree:
        best, trace = run(search, objective, key, x0, plan.guidance_steps, choose=choose)
        return best.x if plan.guidance == "gradient" else trace.last

    return minimize


def _on_torus(x: dict[str, Array]) -> dict[str, Array]:
    """Fractions back to [0, 1), with the slope of the identity."""
    return x | {"frac": x["frac"] - jax.lax.stop_gradient(jax.numpy.floor(x["frac"]))}
