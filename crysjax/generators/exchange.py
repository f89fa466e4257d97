"""Elements of a known structure exchanged for others: how a look-up proposes crystals that nobody asked for by name.

Every element of the template becomes one element, wherever it stands, so symmetry and order are kept. Which one follows
a metric of elements that was learned from pairs of known structures (`retrieval.element_metric`): p(new | old) falls
exponentially with their distance, and elements of one crystal stay different where they can. With data-mined
probabilities in place of a metric this is the ionic substitution of Hautier et al. (2011) and GNoME's first pipeline
(Merchant et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, Start, one_hot, site_mask, sum_by_crystal
from crysjax.chemistry.oxidation import common_states
from crysjax.retrieval.templates import spheres

MAX_KINDS = 8
"""Different elements that a template may have; MP-20 has 7."""

SPAN = 128
"""Largest charge that a part of a crystal may have on the way to zero, in elementary charges."""

IMPOSSIBLE = -1e30  # a log-probability of zero; finite, so that differences are never NaN


class Exchange(NamedTuple):
    """How elements are exchanged; the settings of `retrieval`."""

    proposals: int
    sharpness: float
    stay: float


class OldElements(NamedTuple):
    """The different elements of each crystal's template, in ascending order."""

    number: Array  # (b, k) int32 atomic number; 0 = no more
    count: Array  # (b, k) sites of each
    of_site: Array  # (n,) int32: which kind a site is
    allowed: Array  # (b, k, s) bool: the elements that all sites of a kind may become


def with_species(
    judge: Callable[[Start, Pack], Array], settings: Exchange, points: Array, key: Array, drawn: Array, template: Pack,
    start: Start,
) -> tuple[Pack, Start]:  # fmt: skip
    """The template with species for the crystals that have to be `drawn` (b,), and the candidates in their cells.

    Only the first candidate is left to a crystal whose species are drawn. `judge` gives the logit of a candidate for a
    pack with known species (b,); of several exchanges one is picked by it. `points` are the elements (s, d).
    """
    first = jax.tree.map(lambda leaf: leaf[0], start)

    def exchange() -> tuple[Array, Start]:
        sites = _picked(judge, settings, points.astype(template.frac.dtype), key, template, first)
        now, moved = _carrying(sites, first, template)
        only = (jnp.arange(len(start.found)) == 0)[:, None]
        cells = jnp.where(drawn[None, :, None, None], moved.lattice[None], start.lattice)
        found = jnp.where(drawn[None] & ~only, 0, start.found)
        rows = jnp.where(drawn[template.owner][:, None], now.occupancy, template.occupancy)
        return rows, start._replace(lattice=cells, found=found)

    rows, start = jax.lax.cond(drawn.any(), exchange, lambda: (template.occupancy, start))
    return template._replace(occupancy=rows), start


def _picked(judge: Callable, settings: Exchange, points: Array, key: Array, template: Pack, start: Start) -> Array:
    """Atomic numbers of all sites (n,): one of several exchanges, by what the judge says of each."""
    of = kinds(start.was, template)
    apart = jnp.sqrt(jnp.sum(jnp.square(points[:, None] - points[None]), -1) + 1e-12)
    logits = settings.stay * jnp.eye(NUM_SPECIES, dtype=apart.dtype) - settings.sharpness * apart
    key_draw, key_pick = jax.random.split(key)

    def propose(key: Array) -> tuple[Array, Array]:
        new = exchanged(key, of, logits)
        sites = jnp.where(site_mask(template.occupancy) > 0, new[template.owner, of.of_site], 0)
        now, begun = _carrying(sites, start, template)
        same = (new == of.number).all(-1)  # the template itself, which is known already
        return sites, jnp.where(same, IMPOSSIBLE, judge(begun, now))

    sites, worth = jax.lax.map(propose, jax.random.split(key_draw, settings.proposals))
    best = jax.random.categorical(key_pick, jnp.maximum(worth, IMPOSSIBLE).T)  # by crystal: mates change no draw
    return jnp.take_along_axis(sites, best[template.owner][None], 0)[0]


def _carrying(sites: Array, start: Start, template: Pack) -> tuple[Pack, Start]:
    """The pack with these species, and the candidate with its cell scaled by the volume of their spheres."""
    size = jnp.asarray(spheres(), template.frac.dtype)
    new, old = (sum_by_crystal(size[jnp.maximum(z - 1, 0)], template) for z in (sites, start.was))
    scale = jnp.where(old > 0, jnp.cbrt(new / jnp.where(old > 0, old, 1)), 1)
    occupancy = one_hot(sites, template.occupancy.dtype)
    return template._replace(occupancy=occupancy), start._replace(lattice=start.lattice * scale[:, None, None])


def kinds(was: Array, template: Pack) -> OldElements:
    """The kinds of a template whose sites carry the atomic numbers `was` (n,)."""
    b, real = len(template.lattice), site_mask(template.occupancy) > 0
    rows = one_hot(was, template.frac.dtype) * real[:, None].astype(template.frac.dtype)
    counted = jax.ops.segment_sum(rows, template.owner, b)
    held, index = jax.lax.top_k((counted > 0).astype(jnp.int32), MAX_KINDS)  # ties: the lower index first
    number = jnp.where(held > 0, index + 1, 0).astype(jnp.int32)
    of_site = jnp.argmax(number[template.owner] == was[:, None], -1).astype(jnp.int32)
    may = jnp.where(real[:, None], template.occupancy > 0, True).astype(jnp.int32)
    allowed = jax.ops.segment_min(may, template.owner * MAX_KINDS + of_site, b * MAX_KINDS) > 0
    count = jnp.where(number > 0, jnp.take_along_axis(counted, index, 1), 0)
    return OldElements(number, count, of_site, allowed.reshape(b, MAX_KINDS, NUM_SPECIES))


def exchanged(key: Array, of: OldElements, logits: Array) -> Array:
    """What each kind becomes, (b, k) int32, 0 where there is no kind.

    A template whose charges add up to zero, with one common oxidation state per element, becomes a crystal whose
    charges do: charges are drawn by the law of free exchanges under this condition (forward filtering, backward
    sampling, as in `constraints/neutrality`, over kinds), then elements that have them. Kinds choose one after another
    among the elements that are left; one for which none is left takes an element that another kind has too. Where no
    elements balance, they are drawn freely.

    Args:
        logits: (s, s) log-weight of every new element (second axis) in the place of an old one.
    """
    key_charge, key_element = jax.random.split(key)
    rows = jnp.where(of.allowed, jax.nn.log_softmax(logits)[jnp.maximum(of.number - 1, 0)], IMPOSSIBLE)
    weight = _by_charge(rows, of)
    before, chance = _forward(weight, of.count)
    balanced = neutral(of, of.number) & (chance > 0.5 * IMPOSSIBLE)
    charge = _backward(key_charge, weight, before, of.count)  # (b, k) index of the charge
    fits = jnp.moveaxis(jnp.asarray(_states()), 0, 1)[charge] | ~balanced[:, None, None]
    return _elements(key_element, rows, of.allowed & fits, of.number)


def neutral(of: OldElements, number: Array) -> Array:
    """Whether one common oxidation state for each of the elements `number` (b, k) adds up to zero: (b,) bool."""
    own = jnp.where(one_hot(number, bool), 0.0, IMPOSSIBLE).astype(of.count.dtype)
    return _forward(_by_charge(own, of), of.count)[1] > 0.5 * IMPOSSIBLE


@lru_cache(maxsize=1)
def _charges() -> tuple[int, ...]:
    """Every common oxidation state, and 0."""
    return tuple(sorted({0}.union(*common_states().values())))


@lru_cache(maxsize=1)
def _states() -> np.ndarray:
    """Which elements have which of the charges, (s, q) bool."""
    found = common_states()
    return np.array([[q in found.get(z, ()) for q in _charges()] for z in range(1, NUM_SPECIES + 1)])


def _by_charge(rows: Array, of: OldElements) -> Array:
    """Log-weight that each kind has each charge, of the log-weights of its elements: (b, k, s) -> (b, k, q)."""
    chance = jnp.where(rows > 0.5 * IMPOSSIBLE, jnp.exp(rows), 0) @ jnp.asarray(_states(), rows.dtype)
    log = jnp.where(chance > 0, jnp.log(jnp.where(chance > 0, chance, 1)), IMPOSSIBLE)
    nothing = jnp.where(jnp.asarray(_charges()) == 0, 0.0, IMPOSSIBLE).astype(rows.dtype)
    return jnp.where((of.number > 0)[..., None], log, nothing)


def _source(count: Array) -> Array:
    """Where a running charge came from, for each charge of a kind of `count` (b,) sites: (b, q, places) int32."""
    step = jnp.asarray(_charges())[None] * count.astype(jnp.int32)[:, None]
    return jnp.arange(2 * SPAN + 1)[None, None] - step[..., None]


def _forward(weight: Array, count: Array) -> tuple[Array, Array]:
    """Log-weight of each running charge before each kind (k, b, places), and of a total of zero (b,)."""
    start = jnp.where(jnp.arange(2 * SPAN + 1) == SPAN, 0.0, IMPOSSIBLE).astype(weight.dtype)

    def step(running: Array, this: tuple[Array, Array]) -> tuple[Array, Array]:
        chance, sites = this
        source = _source(sites)
        inside = (source >= 0) & (source <= 2 * SPAN)
        moved = jnp.take_along_axis(running[:, None], jnp.clip(source, 0, 2 * SPAN), -1)
        total = jax.nn.logsumexp(jnp.where(inside, moved, IMPOSSIBLE) + chance[..., None], 1)
        return jnp.maximum(total, IMPOSSIBLE), running

    first = jnp.broadcast_to(start, (len(count), len(start)))
    last, before = jax.lax.scan(step, first, (jnp.moveaxis(weight, 1, 0), count.T))
    return before, last[:, SPAN]


def _backward(key: Array, weight: Array, before: Array, count: Array) -> Array:
    """The charge of each kind, given a total of zero: (b, k) int index of `_charges`."""

    def step(total: Array, this: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        key, chance, running, sites = this
        source = total[:, None] - jnp.asarray(_charges())[None] * sites.astype(jnp.int32)[:, None]
        inside = (source >= 0) & (source <= 2 * SPAN)
        reached = jnp.take_along_axis(running, jnp.clip(source, 0, 2 * SPAN), -1)
        which = jax.random.categorical(key, jnp.where(inside, jnp.maximum(chance + reached, IMPOSSIBLE), IMPOSSIBLE))
        return jnp.take_along_axis(source, which[:, None], -1)[:, 0], which

    each = jax.random.split(key, len(before)), jnp.moveaxis(weight, 1, 0), before, count.T
    return jax.lax.scan(step, jnp.full(len(count), SPAN), each, reverse=True)[1].T


def _elements(key: Array, rows: Array, fits: Array, number: Array) -> Array:
    """An element for each kind by its log-weights, of those that fit, without repeats where it can be: (b, k) int32."""

    def choose(taken: Array, this: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        key, row, fit, old = this
        free = fit & ~taken
        free = jnp.where(free.any(-1, keepdims=True), free, fit)
        new = jnp.where(old > 0, jax.random.categorical(key, jnp.where(free, row, IMPOSSIBLE)) + 1, 0).astype(jnp.int32)
        return taken | one_hot(new, bool), new

    each = jax.random.split(key, MAX_KINDS), jnp.moveaxis(rows, 1, 0), jnp.moveaxis(fits, 1, 0), number.T
    return jax.lax.scan(choose, jnp.zeros((len(number), NUM_SPECIES), bool), each)[1].T
