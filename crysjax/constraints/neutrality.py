"""Sites of a crystal drawn so that their charges add up to zero, given one oxidation state per element.

Forward filtering, backward sampling over the sites with the running charge as the state (a hidden Markov model; Rabiner
1989, section III): an exact draw. Sites of a crystal lie side by side in the pack.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, site_mask
from crysjax.constraints.feasible import States

IMPOSSIBLE = -1e30  # log-probability zero; finite, so that differences are never NaN


class Charges(NamedTuple):
    """The oxidation states that are declared, and what a running total of them can be."""

    table: np.ndarray  # (s, k) int32
    known: np.ndarray  # (s, k) bool: which entries are real
    kinds: np.ndarray  # (q,) every charge that a site can have, 0 for an empty slot included
    span: int  # the largest running charge of a neutral crystal


def charges(states: States, s: int, sites: int) -> Charges:
    """Of declared states, for `s` elements and crystals of up to `sites` sites."""
    table, known = _table(states, s)
    kinds = np.unique(np.append(table, 0))
    return Charges(table, known, kinds, _span(kinds, sites))


def _table(states: States, s: int) -> tuple[np.ndarray, np.ndarray]:
    """Oxidation states (s, k) and which entries are real, (s, k)."""
    width = max((len(q) for q in states.values()), default=1)
    table, known = np.zeros((s, width), np.int32), np.zeros((s, width), bool)
    for z, q in states.items():
        table[z - 1, : len(q)], known[z - 1, : len(q)] = q, True
    return table, known


def drawn_states(key: Array, of: Charges, crystals: int) -> Array:
    """One of the declared states of each element, evenly, for each crystal: (b, s) int32."""
    weight = jnp.broadcast_to(jnp.where(jnp.asarray(of.known), 0.0, IMPOSSIBLE)[None], (crystals, *of.known.shape))
    which = jax.random.categorical(key, weight)
    return jnp.take_along_axis(jnp.asarray(of.table)[None], which[..., None], -1)[..., 0].astype(jnp.int32)


def picked(key: Array, tried: tuple, of: Charges, template: Pack) -> tuple[Array, Array]:
    """One proposal of each crystal by its probability of being neutral, and whether there is one: (b,), (b,) bool.

    `tried` holds elements (k, b, s), charges (k, b, s) and log-rows (k, n, s).
    """
    _, charge, rows = tried
    weight = jax.vmap(lambda c, r: _by_charge(c[template.owner], r, of.kinds, template))(charge, rows)  # (k, n, q)
    total = jax.vmap(lambda w: _filter(w, of, template)[1])(weight)
    works = total > 0.5 * IMPOSSIBLE
    return jax.random.categorical(key, jnp.where(works, total, IMPOSSIBLE), axis=0), works.any(0)


def neutral(key: Array, charge: Array, rows: Array, of: Charges, template: Pack) -> Array:
    """Elements of all sites, from their rows given neutrality: (b, s), (n, s) -> (n,) index of the species axis."""
    key_charge, key_element = jax.random.split(key)
    of_site = charge[template.owner]
    weight = _by_charge(of_site, rows, of.kinds, template)
    which = _draw_charges(key_charge, weight, _filter(weight, of, template)[0], of, template)
    fits = of_site == jnp.asarray(of.kinds, charge.dtype)[which][:, None]
    return jax.random.categorical(key_element, jnp.where(fits, rows, IMPOSSIBLE))


def _span(kinds: np.ndarray, sites: int) -> int:
    """The largest running charge of a neutral crystal: as much as the remaining sites can still undo."""
    up, down = int(kinds.max()), -int(kinds.min())
    return int(np.ceil(sites * up * down / max(up + down, 1))) + 1


def _by_charge(charge: Array, rows: Array, kinds: np.ndarray, template: Pack) -> Array:
    """Log-probability that a site has each of the charges; an empty slot has charge 0: (n, s) twice -> (n, q)."""
    chance = jnp.where(rows > 0.5 * IMPOSSIBLE, jnp.exp(rows), 0.0)
    total = jnp.stack([jnp.sum(jnp.where(charge == q, chance, 0.0), -1) for q in kinds.tolist()], -1)
    log = jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)), IMPOSSIBLE)
    nothing = jnp.where(jnp.asarray(kinds == 0), 0.0, IMPOSSIBLE).astype(rows.dtype)
    return jnp.where(site_mask(template.occupancy)[:, None] > 0, log, nothing[None])


def _filter(weight: Array, of: Charges, template: Pack) -> tuple[Array, Array]:
    """Forward filtering: log-probability of each running charge before each site, and of a total of zero.

    (n, q) -> (n, 2 span + 1), (b,). A crystal starts anew at its first site.
    """
    kinds, span = of.kinds, of.span
    width, reach = 2 * span + 1, int(np.abs(kinds).max())
    start = jnp.where(jnp.arange(width) == span, 0.0, IMPOSSIBLE).astype(weight.dtype)
    new = jnp.concatenate([jnp.ones(1, bool), template.owner[1:] != template.owner[:-1]])

    def step(running: Array, item: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        chance, first = item
        running = jnp.where(first, start, running)
        padded = jnp.pad(running, reach, constant_values=IMPOSSIBLE)
        moved = jnp.stack([padded[reach - q : reach - q + width] for q in kinds.tolist()]) + chance[:, None]
        total = jnp.maximum(jax.nn.logsumexp(moved, 0), IMPOSSIBLE)
        return total, (running, total[span])

    _, (before, at_zero) = jax.lax.scan(step, start, (weight, new))
    last = jax.ops.segment_max(jnp.arange(len(weight)), template.owner, template.lattice.shape[0])
    return before, at_zero[jnp.clip(last, 0, len(weight) - 1)]


def _draw_charges(key: Array, weight: Array, before: Array, of: Charges, template: Pack) -> Array:
    """Backward sampling: which of `kinds` each site has, given a total of zero: (n, q), (n, c) -> (n,) int."""
    last = jnp.concatenate([template.owner[1:] != template.owner[:-1], jnp.ones(1, bool)])
    charges, span = jnp.asarray(of.kinds, jnp.int32), of.span

    def step(total: Array, item: tuple[Array, ...]) -> tuple[Array, Array]:
        chance, running, end, noise = item
        source = jnp.where(end, span, total) - charges
        inside = (source >= 0) & (source <= 2 * span)
        reached = jnp.where(inside, running[jnp.clip(source, 0, 2 * span)], IMPOSSIBLE)
        which = jnp.argmax(jnp.maximum(chance + reached, IMPOSSIBLE) + noise)
        return source[which], which

    noise = jax.random.gumbel(key, weight.shape, weight.dtype)
    return jax.lax.scan(step, jnp.asarray(span, jnp.int32), (weight, before, last, noise), reverse=True)[1]
