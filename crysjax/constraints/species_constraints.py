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
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, num_sites, one_hot, site_mask
from crysjax.constraints import neutrality
from crysjax.constraints.feasible import States, Witness
from crysjax.constraints.neutrality import IMPOSSIBLE, Charges

LEAST = -60.0  # smallest log-probability of an allowed element: exp of it is a float32


class CountPlan(NamedTuple):
    """What the last draw settled for each crystal: its elements, and one oxidation state per element."""

    count: Array  # (b,) int32 number of different elements; unused without such a constraint
    elements: Array  # (b, s) bool
    charge: Array  # (b, s) int32; zeros without neutrality


class SpeciesRules(NamedTuple):
    """`start` makes the first plan, `draw` the rows of one step. Both are pure and jit-able."""

    start: Callable[[Array, Pack], CountPlan]  # (key, template) -> plan
    draw: Callable[..., tuple[Array, CountPlan]]  # (key, logits (n, s), held (n, s), plan, template) -> (rows, plan)


class Rules(NamedTuple):
    """The settings of `species_rules`."""

    allowed: np.ndarray  # (s,) bool
    counted: bool
    charges: Charges | None  # `None`: charges are free
    witness: Witness
    proposals: int
    rounds: int


class CountStep(NamedTuple):
    """What one draw starts from."""

    logits: Array  # (n, s) of the network, `IMPOSSIBLE` for elements that are not allowed
    held: Array  # (n, s) one-hot rows of settled sites, zero rows of free ones
    used: Array  # (b, s) bool: the elements of settled sites
    chance: Array  # (b, s) log of the mean probability over the free sites
    plan: CountPlan
    template: Pack


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
    charges = None if states is None else neutrality.charges(states, len(allowed), len(witness.possible) - 1)
    rules = Rules(allowed, counted, charges, witness, proposals, rounds)
    return SpeciesRules(partial(_start, witness), partial(_draw, rules))


def _start(witness: Witness, key: Array, template: Pack) -> CountPlan:
    n = jnp.minimum(num_sites(template).astype(jnp.int32), len(witness.possible) - 1)
    weight = jnp.where(jnp.asarray(witness.possible)[n], 0.0, IMPOSSIBLE)
    m = jax.random.categorical(key, weight).astype(jnp.int32)
    return CountPlan(m, jnp.asarray(witness.elements)[n, m], jnp.asarray(witness.charge)[n, m])


def _draw(
    rules: Rules, key: Array, logits: Array, held: Array, plan: CountPlan, template: Pack
) -> tuple[Array, CountPlan]:
    logits = jnp.where(jnp.asarray(rules.allowed)[None], jax.lax.stop_gradient(logits), IMPOSSIBLE)
    used = _used(held, template)
    step = CountStep(logits, held, used, _mean_chance(logits, held, template), plan, template)
    if rules.charges is None:
        key, key_rows = jax.random.split(key)
        chosen, charge, rows = _proposal(rules, step, key)
        found = jax.random.categorical(key_rows, rows)
    else:
        key_last, key_rows, key_loop = jax.random.split(key, 3)
        last = plan.elements, plan.charge, _rows_of(rules, step, key_last, plan.elements)
        chosen, charge, rows = _settled(rules, rules.charges, key_loop, last, step)
        found = neutrality.neutral(key_rows, charge, rows, rules.charges, template)
    drawn = one_hot(found + 1, logits.dtype) * site_mask(template.occupancy)[:, None]
    return drawn, CountPlan(plan.count, chosen, charge)


def _proposal(rules: Rules, step: CountStep, key: Array) -> tuple[Array, Array, Array]:
    """(1) and the states of (2): elements (b, s), charges (b, s) and log-rows (n, s)."""
    keys, used = jax.random.split(key, 4), step.used
    if rules.counted:
        chosen = _filled_up(keys[0], step.chance, used, step.plan.count, step.template)
    else:
        chosen = jnp.broadcast_to(jnp.asarray(rules.allowed)[None], used.shape)
    charge = jnp.zeros(used.shape, jnp.int32)
    if rules.charges is not None:
        charge = neutrality.drawn_states(keys[1], rules.charges, used.shape[0])
    keep = used & jax.random.bernoulli(keys[2], 0.5, (used.shape[0], 1))  # half of the crystals: as before
    charge = jnp.where(keep, step.plan.charge, charge)
    return chosen, charge, _rows_of(rules, step, keys[3], chosen)


def _rows_of(rules: Rules, step: CountStep, key: Array, chosen: Array) -> Array:
    """Log-probabilities of the elements at each site, given the chosen ones and those that are held: (n, s)."""
    held, template = step.held, step.template
    free = (held.sum(-1) == 0) & (site_mask(template.occupancy) > 0)
    rows = jnp.where(chosen[template.owner], step.logits, IMPOSSIBLE)
    rows = jnp.maximum(jax.nn.log_softmax(rows), jnp.where(rows > IMPOSSIBLE, LEAST, IMPOSSIBLE))
    if rules.counted:
        missing, most = chosen & ~_used(held, template), rules.witness.possible.shape[1] - 1
        held = held + _given_away(key, rows, missing, free, most, template)
    return jnp.where(held.sum(-1, keepdims=True) > 0, jnp.where(held > 0, 0.0, IMPOSSIBLE), rows)


def _settled(rules: Rules, charges: Charges, key: Array, last: tuple, step: CountStep) -> tuple:
    """The proposal of each crystal, of the first round in which one can be completed; else the last plan."""
    template = step.template

    def more(state: tuple) -> Array:
        return (state[0] < rules.rounds) & ~state[1].all()

    def attempt(state: tuple) -> tuple:
        turn, done, kept = state
        key_pick, *keys = jax.random.split(jax.random.fold_in(key, turn), 1 + rules.proposals)
        tried = jax.vmap(partial(_proposal, rules, step))(jnp.stack(keys))
        picked, works = neutrality.picked(key_pick, tried, charges, template)
        return turn + 1, done | works, _merged(picked, tried, works & ~done, kept, template.owner)

    start = jnp.zeros((), jnp.int32), num_sites(template) == 0, last
    return jax.lax.while_loop(more, attempt, start)[2]


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


def _merged(picked: Array, tried: tuple, use: Array, kept: tuple, owner: Array) -> tuple:
    """Elements, charges and rows: of the picked proposal where `use`, else as `kept`."""
    crystals, sites, of_site = jnp.arange(len(picked)), jnp.arange(len(owner)), picked[owner]
    elements, charge, rows = tried[0][picked, crystals], tried[1][picked, crystals], tried[2][of_site, sites]
    where = use[:, None], use[:, None], use[owner][:, None]
    return tuple(jnp.where(u, new, old) for u, new, old in zip(where, (elements, charge, rows), kept))
