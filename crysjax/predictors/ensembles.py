"""Deep ensembles of property heads: the spread of independently trained members measures what the data leave open.

Lakshminarayanan et al. 2017, with the Bayesian bootstrap (Rubin 1981) for diversity: each member weighs every crystal
by its own exponential draw, and that draw is a hash of the crystal's labels, so it is the same in every epoch, in any
order, on any number of devices, and needs no bookkeeping.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Estimate, Pack, Params, num_sites
from crysjax.predictors.heads import Heads, Whole


def ensemble(
    head: Heads,
    *,
    members: int = 4,
    bootstrap: bool = True,
    together: int = 1,
    spread_factor: tuple[float, ...] = (),
    floor: tuple[float, ...] = (),
    power: tuple[float, ...] = (),
) -> Heads:
    """`members` independent copies of `head` as one `Heads`; every parameter gets a leading axis of members.

    Args:
        head: one member.
        members: number of networks, at least 2; their mean is the prediction, their spread its uncertainty.
        bootstrap: whether members weigh the crystals differently (otherwise they differ by initialization alone).
        together: members computed at once; 1 keeps the working set in a CPU's cache, `members` fills an accelerator.
        spread_factor, floor, power: calibration, one number per property, fitted on held-out data
            (`predictors.calibration.fit_spread`): `std² = (spread_factor * spread ** power)² + floor²`, spread the
            standard deviation over members. Empty: 1, 0 and 1, the plain ensemble.

    Features are the first member's; the novelty is the mean over members.
    `loss` is the mean over members of each one's loss, so that each follows its own gradient divided by `members`
    (which Adam does not see). It has gradients with respect to `params` alone.
    """
    if members < 2:
        raise ValueError(f"ensemble: members is {members}; a spread needs at least 2")
    factor = _row("spread_factor", spread_factor, 1.0, head.names)
    least = _row("floor", floor, 0.0, head.names)
    exponent = _row("power", power, 1.0, head.names)
    each, at_once = jnp.arange(members, dtype=jnp.uint32), together if together > 1 else None

    def init(key: Array, pack: Pack) -> Params:
        return jax.vmap(head.init, (0, None))(jax.random.split(key, members), pack)

    def loss(params: Params, key: Array, pack: Pack, targets: Array, weights: Array | None = None):
        given = jnp.ones(targets.shape[:1]) if weights is None else weights
        values, metrics = members_loss(params, jax.random.split(key, members), pack, targets, given)
        return values.mean(), jax.tree.map(lambda m: m.mean(0), metrics)

    def of_member(params: Params, member: Array, key: Array, pack: Pack, targets: Array, given: Array):
        drawn = bootstrap_weights(member, pack, targets) if bootstrap else 1
        return head.loss(params, key, pack, targets, given * drawn)

    def run(one, params: Params, keys: Array, *shared):
        return jax.lax.map(lambda item: one(*item, *shared), (params, each, keys), batch_size=at_once)

    @jax.custom_vjp
    def members_loss(params, keys, *shared):
        return run(of_member, params, keys, *shared)

    def forward(params, keys, *shared):
        # each member's gradient is made inside the map: a map differentiated from outside stores every activation
        return run(jax.value_and_grad(of_member, has_aux=True), params, keys, *shared)

    def backward(gradients, cotangents):
        scale = lambda g, c: g * c.reshape((-1,) + (1,) * (g.ndim - 1))  # noqa: E731
        return jax.tree.map(lambda g: scale(g, cotangents[0]), gradients), None, None, None, None

    members_loss.defvjp(forward, backward)

    def joined(estimates: Estimate) -> Estimate:
        value, variance = moments(estimates.value)
        # no slope where members agree exactly, instead of an infinite one
        std = jnp.sqrt(jnp.maximum(factor**2 * jnp.maximum(variance, 1e-16) ** exponent + least**2, 1e-12))
        return Estimate(value, std, estimates.valid.all(0))

    def whole(params: Params, pack: Pack) -> Whole:
        said = jax.lax.map(lambda p: head.together(p, pack), params, batch_size=at_once)
        return Whole(joined(said.estimate), said.novelty.mean(0), said.features[0])

    def predict(params: Params, pack: Pack) -> Estimate:
        return joined(jax.lax.map(lambda p: head.predict(p, pack), params, batch_size=at_once))

    def features(params: Params, pack: Pack) -> Array:
        return head.features(jax.tree.map(lambda leaf: leaf[0], params), pack)

    def novelty(params: Params, pack: Pack) -> Array:
        return jax.lax.map(lambda p: head.novelty(p, pack), params, batch_size=at_once).mean(0)

    return Heads(head.names, init, loss, predict, features, novelty, whole=whole)


def moments(values: Array) -> tuple[Array, Array]:
    """Mean and unbiased variance over members (the first axis)."""
    return values.mean(0), values.var(0, ddof=1)


def bootstrap_weights(member: Array, pack: Pack, targets: Array) -> Array:
    """One Exponential(1) draw per crystal, a pure function of (member, labels, size): (b,)."""
    bits = jax.lax.bitcast_convert_type(jnp.nan_to_num(targets, nan=-1.0).astype(jnp.float32), jnp.uint32)
    words = jnp.concatenate([num_sites(pack).astype(jnp.uint32)[:, None], bits], -1)

    def draw(row: Array) -> Array:
        key, _ = jax.lax.scan(lambda k, word: (jax.random.fold_in(k, word), None), jax.random.key(0), row)
        return jax.random.exponential(jax.random.fold_in(key, member))

    return jax.vmap(draw)(words).astype(targets.dtype)


def _row(setting: str, values: tuple[float, ...], default: float, names: tuple[str, ...]) -> Array:
    values = values or (default,) * len(names)
    if len(values) != len(names) or min(values) < 0:
        raise ValueError(
            f"ensemble: {setting} is {list(values)}; expected a number from 0 on for each of {list(names)}"
        )
    return jnp.asarray(values, jnp.float32)[None]
