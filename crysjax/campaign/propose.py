"""The proposal of a design round as ONE compiled program of one pack: sample, guide, decode, gate, predict, acquire.

Shapes are fixed for a whole campaign, so it compiles once; a round runs it pack by pack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Estimate, Pack, Params, Surrogate
from crysjax.campaign import goals as targets
from crysjax.campaign.acquire import Acquisition
from crysjax.campaign.goals import Goals
from crysjax.campaign.predictive import Learned, law, prior
from crysjax.evaluation.gates import Gated
from crysjax.predictors.predictor import Predictor


class Proposal(NamedTuple):
    """A pack of candidates with everything known before validation; one row per crystal."""

    pack: Pack
    gated: Gated
    raw: Estimate  # (b, k) target properties as the heads say: the prior of the predictive law
    estimate: Estimate  # (b, k) the predictive law of the validated values
    features: Array  # (b, d)
    worth: Array  # (b,) log-acquisition, -inf where a gate failed
    effective: Array  # (b,) effective number of particles behind each crystal; NaN: it was not resampled
    novelty: Array | None = None  # (b,) how far each crystal lies from the heads' training data; None: not known


class Steered(NamedTuple):
    """A generator steered down an energy; both draw the same crystals from the same key."""

    sample: Callable[..., Pack]  # (params, key, template, condition) -> pack
    weighed: Callable[..., tuple[Pack, Array]]  # the same -> (pack, effective number of particles (b,) or NaN)


Guide = Callable[[Callable[[Pack], Array]], Steered]
"""An energy of packs (b,) -> the generator steered down that energy."""


def energy(predictor: Predictor, heads: Params, goals: Goals, novelty_penalty: float = 0.0) -> Callable[[Pack], Array]:
    """The objective as a function of a pack (b,): what guidance steers down. Finite everywhere.

    `novelty_penalty` is added for each multiple of the heads' limit of novelty that a crystal lies beyond it.
    """

    def value(pack: Pack) -> Array:
        estimate = predictor.predict(heads, pack)
        aim = targets.objective(goals, estimate.value[:, goals.column])
        if novelty_penalty:
            aim += novelty_penalty * beyond(predictor, predictor.novelty(heads, pack))
        return jnp.nan_to_num(aim, nan=1e3, posinf=1e3)

    return value


def beyond(predictor: Predictor, novelty: Array) -> Array:
    """How far crystals lie outside the heads' training data, in multiples of the limit: (b,), 0 inside."""
    return jnp.maximum(novelty / predictor.limit - 1, 0)


def proposer(
    guide: Guide,
    predictor: Predictor,
    goals: Goals,
    gate: Callable[[Pack], Gated],
    surrogate: Surrogate,
    *,
    acquire: Acquisition,
    novelty_penalty: float = 0.0,
    judge_error: tuple[float, ...] = (),
) -> Callable[..., Proposal]:
    """`(generator params, heads params, key, template, condition, learned) -> Proposal`, compiled once.

    `acquire` weighs estimates (`campaign.acquire`), less `novelty_penalty` as in `energy`.
    `judge_error`: see `predictive.prior`, one number a target property; empty: the heads themselves validate.
    """
    error = jnp.asarray(judge_error or (0.0,) * len(goals.names), jnp.float32)

    @jax.jit
    def propose(params, heads, key: Array, template: Pack, condition: Condition, learned: Learned) -> Proposal:
        steered = guide(energy(predictor, heads, goals, novelty_penalty))
        pack, effective = steered.weighed(params, key, template, condition)
        gated = gate(pack)
        said, novelty, features = predictor.together(heads, pack)
        raw = prior(goals, said, error)
        estimate = law(surrogate, learned, raw, features)
        worth = acquire(goals, estimate, learned.best)
        if novelty_penalty:
            worth -= novelty_penalty * beyond(predictor, novelty)
        usable = gated.passed & estimate.valid & jnp.isfinite(worth)
        worth = jnp.where(usable, worth, -jnp.inf)
        return Proposal(pack, gated, raw, estimate, features, worth, effective, novelty)

    return propose
