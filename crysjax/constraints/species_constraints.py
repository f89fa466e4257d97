"""Exact samplers of species under constraints: allowed elements, number of elements, charge neutrality.

At every step of a sampler the network answers a distribution of elements for each site, all sites independent. Here
the sites that are still free are drawn *together*, from the product of these distributions conditioned on the
constraint, so that no step ever leaves the feasible set. How, given the logits and the sites already revealed:

1. Elements. The elements in use are kept and filled up to the wanted number by Gumbel top-k of the mean probability
   over the free sites (Plackett-Luce: one after another without replacement). Each new one is given one free site,
   drawn in proportion to the sites' probabilities of it; all other free sites choose among the chosen elements alone.
2. Charges. Every element gets one of its declared oxidation states at random, and the sites are drawn given that the
   charges of the crystal add up to zero: forward filtering, backward sampling over the sites with the total charge as
   the state (a hidden Markov model; Rabiner 1989, section III). Given elements and states this is an exact draw.
3. Several proposals of (1) and (2) are made and one is picked in proportion to its probability of being neutral
   (sampling importance resampling): the law tends to that of "elements, then states, then sites" conditioned on
   neutrality as `proposals` grows. If none of them can be neutral there is another round.

Why it never fails: after the last round the elements and states of the last draw are taken again. Sites revealed
since then took their species from that draw, so it can be completed. The first draw falls back on a composition that
the host found (`feasible`); where there is none the constraint is refused before anything is sampled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, num_sites, one_hot, site_mask
from crysjax.constraints.feasible import States, Witness

IMPOSSIBLE = -1e30  # log-probability zero; finite, so that differences are never NaN
LEAST = -60.0  # smallest log-probability of an allowed element: exp of it is a float32


class Plan(NamedTuple):
    """What the last draw settled for each crystal: its elements, and one oxidation state per element."""

    count: Array  # (b,) int32 number of different elements; unused without such a constraint
    elements: Array  # (b, s) bool
    charge: Array  # (b, s) int32; zeros without neutrality


class SpeciesRules(NamedTuple):
    """`start` makes the first plan, `draw` the rows of one step. Both are pure and jit-able."""

    start: Callable[[Array, Pack], Plan]  # (key, template) -> plan
    draw: Callable[..., tuple[Array, Plan]]  # (key, logits (n, s), held (n, s), plan, template) -> (rows, plan)


def species_rules(
    *,
    allowed: np.ndarray,
    counted: bool,
    states: States | None,
    witness: Witness,
    proposals: int = 8,
    rounds: int = 8,
) -> SpeciesRules:
    """The samplers of one constraint.

    Args:
        allowed: (s,) bool, the elements that may appear at all; with `states` only those that have one.
        counted: whether the number of elements is constrained: to one that `witness` says is possible, drawn evenly.
        states: atomic number -> oxidation states. Every crystal is neutral with one state per element.
        witness: from `feasible`, with the same settings.
        proposals: (1) and (2) above are tried so often together; only with `states`.
        rounds: of proposals a step at most, until every crystal has one that can be completed.

    `draw` takes one-hot rows in `held` for sites that are settled and zero rows for free ones, and answers one-hot
    rows of all; sites of a crystal have to lie side by side in the pack.
    """
    s = len(allowed)
    most = witness.possible.shape[1] - 1
    table, known = _table(states or {}, s)
    kinds = np.unique(np.append(table, 0))  # 0 is the charge of an empty slot
    span = _span(kinds, len(witness.possible) - 1)

    def start(key: Array, template: Pack) -> Plan:
        n = jnp.minimum(num_sites(template).astype(jnp.int32), len(witness.possible) - 1)
        weight = jnp.where(jnp.asarray(witness.possible)[n], 0.0, IMPOSSIBLE)
        m = jax.random.categorical(key, weight).astype(jnp.int32)
        return Plan(m, jnp.asarray(witness.elements)[n, m], jnp.asarray(witness.charge)[n, m])

    def elements(key: Array, chance: Array, used: Array, plan: Plan, template: Pack) -> Array:
        if not counted:
            return jnp.broadcast_to(jnp.asarray(allowed)[None], used.shape)
        return _filled_up(key, chance, used, plan.count, template)

    def rows_of(key: Array, chosen: Array, logits: Array, held: Array, template: Pack) -> Array:
        free = (held.sum(-1) == 0) & (site_mask(template.occupancy) > 0)
        rows = jnp.where(chosen[template.owner], logits, IMPOSSIBLE)
        rows = jnp.maximum(jax.nn.log_softmax(rows), jnp.where(rows > IMPOSSIBLE, LEAST, IMPOSSIBLE))
        if counted:
            missing = chosen & ~_used(held, template)
            held = held + _given_away(key, rows, missing, free, most, template)
        return jnp.where(held.sum(-1, keepdims=True) > 0, jnp.where(held > 0, 0.0, IMPOSSIBLE), rows)

    def draw(key: Array, logits: Array, held: Array, plan: Plan, template: Pack) -> tuple[Array, Plan]:
        logits = jnp.where(jnp.asarray(allowed)[None], jax.lax.stop_gradient(logits), IMPOSSIBLE)
        used = _used(held, template)
        chance = _mean_chance(logits, held, template)

        def propose(key: Array) -> tuple[Array, Array, Array]:
            keys = jax.random.split(key, 4)
            chosen = elements(keys[0], chance, used, plan, template)
            charge = _states(keys[1], table, known, used.shape[0])
            keep = used & jax.random.bernoulli(keys[2], 0.5, (used.shape[0], 1))  # half of the crystals: as before
            charge = jnp.where(keep, plan.charge, charge)
            return chosen, charge, rows_of(keys[3], chosen, logits, held, template)

        if states is None:
            key, key_rows = jax.random.split(key)
            chosen, charge, rows = propose(key)
            found = jax.random.categorical(key_rows, rows)
        else:
            key_last, key_rows, key_loop = jax.random.split(key, 3)
            last = plan.elements, plan.charge, rows_of(key_last, plan.elements, logits, held, template)
            chosen, charge, rows = settle(key_loop, last, propose, template)
            found = _neutral(key_rows, charge, rows, kinds, span, template)
        drawn = one_hot(found + 1, logits.dtype) * site_mask(template.occupancy)[:, None]
        return drawn, Plan(plan.count, chosen, charge)

    def settle(key: Array, last: tuple, propose: Callable, template: Pack) -> tuple:
        """The proposal of each crystal, of the first round in which one can be completed; else the last plan."""

        def more(state: tuple) -> Array:
            return (state[0] < rounds) & ~state[1].all()

        def attempt(state: tuple) -> tuple:
            turn, done, kept = state
            key_pick, *keys = jax.random.split(jax.random.fold_in(key, turn), 1 + proposals)
            tried = jax.vmap(propose)(jnp.stack(keys))
            picked, works = _picked(key_pick, tried, kinds, span, template)
            return turn + 1, done | works, _merged(picked, tried, works & ~done, kept, template.owner)

        start = jnp.zeros((), jnp.int32), num_sites(template) == 0, last
        return jax.lax.while_loop(more, attempt, start)[2]

    return SpeciesRules(start, draw)


def _table(states: States, s: int) -> tuple[np.ndarray, np.ndarray]:
    """Oxidation states (s, k) and which entries are real, (s, k)."""
    width = max((len(q) for q in states.values()), default=1)
    table, known = np.zeros((s, width), np.int32), np.zeros((s, width), bool)
    for z, q in states.items():
        table[z - 1, : len(q)], known[z - 1, : len(q)] = q, True
    return table, known


def _used(held: Array, template: Pack) -> Array:
    """The elements of the settled sites of each crystal: (n, s) -> (b, s) bool."""
    return jax.ops.segment_sum(held, template.owner, template.lattice.shape[0]) > 0


def _mean_chance(logits: Array, held: Array, template: Pack) -> Array:
    """Log of the mean probability of each element over the free sites of each crystal: (b, s)."""
    free = (held.sum(-1) == 0) & (site_mask(template.occupancy) > 0)
    chance = jnp.where(free[:, None], jax.nn.softmax(logits), 0.0)
    total = jax.ops.segment_sum(chance, template.owner, template.lattice.shape[0])
    return jnp.where((logits > IMPOSSIBLE).any(0)[None], jnp.log(jnp.maximum(total, 1e-26)), IMPOSSIBLE)


def _filled_up(key: Array, chance: Array, used: Array, count: Array, template: Pack) -> Array:
    """The used elements, and as many others as are wanted, by Gumbel top-k of `chance`: (b, s) bool."""
    score = chance + jax.random.gumbel(key, chance.shape, chance.dtype)
    score = jnp.where(used, 1e6, score)
    rank = jnp.argsort(jnp.argsort(-score, -1), -1)
    return rank < count[:, None]


def _given_away(key: Array, rows: Array, missing: Array, free: Array, most: int, template: Pack) -> Array:
    """One-hot rows at free sites, one site of a crystal for each of its missing elements, zero rows elsewhere."""
    order = jnp.where(missing, jnp.cumsum(missing, -1), 0)  # (b, s): 1, 2, ... at the missing elements

    def give(state: tuple[Array, Array], item: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (taken, given), (turn, key) = state, item
        element = jnp.argmax(order == turn, -1)[template.owner]
        open_ = free & ~taken & (order == turn).any(-1)[template.owner]
        score = jnp.take_along_axis(rows, element[:, None], 1)[:, 0]
        score = jnp.where(open_, score + jax.random.gumbel(key, score.shape, score.dtype), IMPOSSIBLE)
        best = jax.ops.segment_max(score, template.owner, missing.shape[0])[template.owner]
        here = open_ & (score == best) & _first_of(open_ & (score == best), template.owner)
        return (taken | here, given + jnp.where(here[:, None], one_hot(element + 1, rows.dtype), 0.0)), None

    nothing = jnp.zeros(len(rows), bool), jnp.zeros_like(rows)
    return jax.lax.scan(give, nothing, (jnp.arange(1, most + 1), jax.random.split(key, most)))[0][1]


def _first_of(flag: Array, owner: Array) -> Array:
    """True at the first site of each crystal that has the flag (two equal scores must not both win)."""
    place = jnp.where(flag, jnp.arange(len(flag)), len(flag))
    return place == jax.ops.segment_min(place, owner, len(flag))[owner]


def _states(key: Array, table: np.ndarray, known: np.ndarray, crystals: int) -> Array:
    """One of the declared states of each element, evenly, for each crystal: (b, s) int32."""
    weight = jnp.broadcast_to(jnp.where(jnp.asarray(known), 0.0, IMPOSSIBLE)[None], (crystals, *known.shape))
    which = jax.random.categorical(key, weight)
    return jnp.take_along_axis(jnp.asarray(table)[None], which[..., None], -1)[..., 0].astype(jnp.int32)


def _picked(key: Array, tried: tuple, kinds: np.ndarray, span: int, template: Pack) -> tuple[Array, Array]:
    """One proposal of each crystal by its probability of being neutral, and whether there is one: (b,), (b,) bool.

    `tried` holds elements (k, b, s), charges (k, b, s) and log-rows (k, n, s).
    """
    _, charge, rows = tried
    weight = jax.vmap(lambda c, r: _by_charge(c[template.owner], r, kinds, template))(charge, rows)  # (k, n, q)
    total = jax.vmap(lambda w: _filter(w, kinds, span, template)[1])(weight)
    works = total > 0.5 * IMPOSSIBLE
    return jax.random.categorical(key, jnp.where(works, total, IMPOSSIBLE), axis=0), works.any(0)


def _merged(picked: Array, tried: tuple, use: Array, kept: tuple, owner: Array) -> tuple:
    """Elements, charges and rows: of the picked proposal where `use`, else as `kept`."""
    crystals, sites, of_site = jnp.arange(len(picked)), jnp.arange(len(owner)), picked[owner]
    elements, charge, rows = tried[0][picked, crystals], tried[1][picked, crystals], tried[2][of_site, sites]
    where = use[:, None], use[:, None], use[owner][:, None]
    return tuple(jnp.where(u, new, old) for u, new, old in zip(where, (elements, charge, rows), kept))


def _neutral(key: Array, charge: Array, rows: Array, kinds: np.ndarray, span: int, template: Pack) -> Array:
    """Elements of all sites, from their rows given neutrality: (b, s), (n, s) -> (n,) index of the species axis."""
    key_charge, key_element = jax.random.split(key)
    of_site = charge[template.owner]
    weight = _by_charge(of_site, rows, kinds, template)
    which = _draw_charges(key_charge, weight, _filter(weight, kinds, span, template)[0], kinds, span, template)
    fits = of_site == jnp.asarray(kinds, charge.dtype)[which][:, None]
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


def _filter(weight: Array, kinds: np.ndarray, span: int, template: Pack) -> tuple[Array, Array]:
    """Forward filtering: log-probability of each running charge before each site, and of a total of zero.

    (n, q) -> (n, 2 span + 1), (b,). A crystal starts anew at its first site.
    """
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


def _draw_charges(key: Array, weight: Array, before: Array, kinds: np.ndarray, span: int, template: Pack) -> Array:
    """Backward sampling: which of `kinds` each site has, given a total of zero: (n, q), (n, c) -> (n,) int."""
    last = jnp.concatenate([template.owner[1:] != template.owner[:-1], jnp.ones(1, bool)])
    charges = jnp.asarray(kinds, jnp.int32)

    def step(total: Array, item: tuple[Array, ...]) -> tuple[Array, Array]:
        chance, running, end, noise = item
        source = jnp.where(end, span, total) - charges
        inside = (source >= 0) & (source <= 2 * span)
        reached = jnp.where(inside, running[jnp.clip(source, 0, 2 * span)], IMPOSSIBLE)
        which = jnp.argmax(jnp.maximum(chance + reached, IMPOSSIBLE) + noise)
        return source[which], which

    noise = jax.random.gumbel(key, weight.shape, weight.dtype)
    return jax.lax.scan(step, jnp.asarray(span, jnp.int32), (weight, before, last, noise), reverse=True)[1]
