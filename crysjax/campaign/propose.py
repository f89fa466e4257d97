"""The proposal of a design round as ONE compiled program of one pack: sample, guide, decode, gate, predict, acquire.

Shapes are fixed for a whole campaign, so it compiles once; a round runs it pack by pack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Estimate, Generator, Pack, Params, Surrogate
from crysjax.campaign import goals as targets
from crysjax.campaign.goals import Goals
from crysjax.evaluation.gates import Gated


class Predictor(NamedTuple):
    """Property heads with their parameters, and the learned features that surrogates work on."""

    names: tuple[str, ...]
    center: tuple[float, ...]  # mean and spread of each property in the training data
    scale: tuple[float, ...]
    predict: Callable[[Params, Pack], Estimate]  # (params, pack) -> (b, k)
    features: Callable[[Params, Pack], Array]  # (params, pack) -> (b, width)
    width: int
    params: Params


class Learned(NamedTuple):
    """What earlier rounds taught: how validated properties differ from predicted ones, and the best outcome."""

    posterior: Any  # of the surrogate, one a target property, stacked
    trust: Array  # () 0: nothing learned yet, 1: use the posterior
    best: Array  # () lowest sum of what is minimised, in units of the scale


class Proposal(NamedTuple):
    """A pack of candidates with everything known before validation; a row a crystal."""

    pack: Pack
    gated: Gated
    raw: Estimate  # (b, k) target properties as the heads say
    estimate: Estimate  # (b, k) corrected by the surrogate
    features: Array  # (b, d)
    worth: Array  # (b,) log-acquisition, -inf where a gate failed


Guide = Callable[[Callable[[Pack], Array]], Generator]
"""An energy of packs (b,) -> the generator steered down that energy."""


def energy(predictor: Predictor, heads: Params, goals: Goals) -> Callable[[Pack], Array]:
    """The objective as a function of a pack (b,): what guidance steers down. Finite everywhere."""

    def value(pack: Pack) -> Array:
        estimate = predictor.predict(heads, pack)
        return jnp.nan_to_num(targets.objective(goals, estimate.value[:, goals.column]), nan=1e3, posinf=1e3)

    return value


def proposer(
    guide: Guide,
    predictor: Predictor,
    goals: Goals,
    gate: Callable[[Pack], Gated],
    surrogate: Surrogate,
    *,
    exploration: float,
) -> Callable[..., Proposal]:
    """`(generator params, heads params, key, template, condition, learned) -> Proposal`, compiled once."""

    @jax.jit
    def propose(params, heads, key: Array, template: Pack, condition: Condition, learned: Learned) -> Proposal:
        pack = guide(energy(predictor, heads, goals)).sample(params, key, template, condition)
        gated = gate(pack)
        said = predictor.predict(heads, pack)
        raw = Estimate(said.value[:, goals.column], said.std[:, goals.column], said.valid.all(-1))
        features = predictor.features(heads, pack)
        estimate = corrected(surrogate, learned, raw, features)
        worth = targets.worth(goals, estimate, learned.best, jnp.asarray(exploration, features.dtype))
        usable = gated.passed & estimate.valid & jnp.isfinite(worth)
        return Proposal(pack, gated, raw, estimate, features, jnp.where(usable, worth, -jnp.inf))

    return propose


def corrected(surrogate: Surrogate, learned: Learned, estimate: Estimate, features: Array) -> Estimate:
    """The heads' answer plus what the surrogate expects validation to change; the variances add up."""
    change = jax.vmap(surrogate.predict, (0, None), 1)(learned.posterior, features)
    use = (learned.trust > 0) & change.valid
    value = jnp.where(use, change.value, 0.0)
    std = jnp.where(use, change.std, 0.0)
    return Estimate(estimate.value + value, jnp.sqrt(jnp.square(estimate.std) + jnp.square(std)), estimate.valid)


def learn(surrogate: Surrogate, key: Array, features: Array, change: Array, trust: float, best: float) -> Learned:
    """Fit the surrogate to validated minus predicted values (m, k); rows of NaN do not count."""
    keys = jax.random.split(key, change.shape[1])
    fits = [surrogate.fit(k, features, column) for k, column in zip(keys, change.T)]
    posterior = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits)
    return Learned(posterior, jnp.asarray(trust, features.dtype), jnp.asarray(best, features.dtype))
