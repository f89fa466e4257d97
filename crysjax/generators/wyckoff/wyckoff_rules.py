"""Which orbit may come next, so that a crystal with the template's composition stays within reach: exact, no dead end.

A crystal is written orbit by orbit, letters in ascending order and, within a letter, kinds in ascending order. A *kind*
is the sites of a template with the same species row: known sites of one element, or all that may be anything. Kinds
fill independently, an orbit takes sites of one kind, and a position without free coordinates is used once at most.

What is left to fill, a count a kind, is a state; with mixed radices it is one whole number. Going through the letters
from the last one back, the states from which a crystal can be completed are a Boolean row, so masks are exact. Which
groups can have the composition at all is the same program in another order, once for each different set of
multiplicities (the 230 groups have fewer).
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.geometry.symmetry import MAX_LETTERS, table

integers = partial(jnp.arange, dtype=jnp.int32)


class States(NamedTuple):
    """The states of one crystal: what is left of each kind, as a number in mixed radices."""

    count: Array  # (k,) int32 sites of each kind
    stride: Array  # (k,) int32 what one site of a kind is worth
    digit: Array  # (k, s) int32 what each state has left of each kind
    exists: Array  # (s,) bool
    small: Array  # () bool: whether all states have a number below s


class RuleState(NamedTuple):
    """What decides the next orbit."""

    left: Array  # (k,) int32 sites to fill
    letter: Array  # () int32 of the last orbit; -1 = none yet
    kind: Array  # () int32 of the last orbit
    number: Array  # () int32 its atomic number


def states(count: Array, size: int) -> States:
    """Numbers of the states of a composition (k,), where `size` of them suffice."""
    small = jnp.prod(count.astype(jnp.float32) + 1) <= size
    radix = jnp.where(small, count + 1, 1)
    ends = jnp.cumprod(radix).astype(jnp.int32)
    stride, number = ends // radix, integers(size)
    digit = (number[None] // stride[:, None]) % radix[:, None]
    return States(count, stride, digit, number < ends[-1], small)


def _moved(row: Array, k: Array, sites: Array, of: States) -> Array:
    """`row` of the states that remain when `sites` more of kind k are filled; False where there are not so many."""
    number = integers(len(row)) - sites * of.stride[k]
    return row[jnp.maximum(number, 0)] & (of.digit[k] >= sites)


def reachable(group: Array, of: States, largest: int) -> Array:
    """From which states a group completes the crystal: (27, k + 1, s) bool.

    Entry [letter, kind] says it of orbits of later letters, or of this letter with this kind or a later one; for a
    position without free coordinates, which is used up then, only the last kind's entry (later letters) is read.
    """
    kinds, doublings = len(of.count), max(largest, 1).bit_length()

    def letter(later: Array, this: tuple[Array, Array]) -> tuple[Array, Array]:
        sites, free = this

        def often(row: Array, k: Array) -> tuple[Array, Array]:
            for power in range(doublings):  # any number of orbits, in steps of 1, 2, 4, ...
                row = row | _moved(row, k, sites << power, of)
            return row, row

        _, many = jax.lax.scan(often, later, integers(kinds)[::-1])
        once = later | jax.vmap(_moved, (None, 0, None, None))(later, integers(kinds), sites, of).any(0)
        now = jnp.where(sites > 0, jnp.where(free, many[-1], once), later)
        return now, jnp.concatenate([many[::-1], later[None]])

    sites, free = jnp.asarray(table().sites)[group], jnp.asarray(table().free.any(-1))[group]
    done = integers(of.digit.shape[1]) == 0
    return jax.lax.scan(letter, done, (sites, free), reverse=True)[1]


def allowed(state: RuleState, group: Array, of: States, reach: Array | None) -> Array:
    """Which letter and kind may come next: (27, k) bool; all False when nothing is left.

    Without `reach` only what costs nothing to know: the position exists, the order is kept, sites enough are left.
    A crystal with more states than numbers is in P1, where kinds have to come one after another.
    """
    sites, free = jnp.asarray(table().sites)[group], jnp.asarray(table().free.any(-1))[group]
    letters, kinds = integers(MAX_LETTERS)[:, None], integers(len(of.count))[None]
    later_kind = (letters == state.letter) & free[:, None] & (kinds >= state.kind)
    fits = (sites > 0)[:, None] & (state.left[None] >= sites[:, None]) & ((letters > state.letter) | later_kind)
    if reach is None:
        return fits
    here = jnp.sum(state.left * of.stride, dtype=jnp.int32)
    then = jnp.maximum(here - sites[:, None] * of.stride[None], 0)
    completes = reach[letters, jnp.where(free[:, None], kinds, len(of.count)), then]
    first = kinds == jnp.argmax(state.left > 0).astype(jnp.int32)
    return fits & jnp.where(of.small, completes, first)


def advance(state: RuleState, letter: Array, kind: Array, number: Array, group: Array) -> RuleState:
    """The state after an orbit."""
    filled = jnp.where(integers(len(state.left)) == kind, jnp.asarray(table().sites)[group, letter], 0)
    return RuleState(state.left - filled, letter, kind, number)


class _Classes(NamedTuple):
    of: np.ndarray  # (231,) the class of a group
    once: np.ndarray  # (c, f) sites of each position without free coordinates, 0 = no more
    often: np.ndarray  # (c, largest + 1) which numbers of sites the other positions can have, used any number of times


@lru_cache(maxsize=8)
def _classes(largest: int) -> _Classes:
    """The groups by what their positions can add up to."""
    names, t = [], table()
    for sites, free in zip(t.sites, t.free.any(-1)):
        often = np.arange(largest + 1) == 0
        for m in set(sites[free & (sites > 0)].tolist()):
            for n in range(m, largest + 1):
                often[n] |= often[n - m]
        names.append((tuple(sorted(m for m in sites[~free] if 0 < m <= largest)), tuple(often)))
    kinds = sorted(set(names))
    once = np.zeros((len(kinds), max(len(a) for a, _ in kinds)), np.int32)
    for row, (fixed, _) in zip(once, kinds):
        row[: len(fixed)] = fixed
    return _Classes(np.array([kinds.index(n) for n in names], np.int32), once, np.array([b for _, b in kinds]))


def feasible(group: Array, of: States, largest: int) -> Array:
    """Whether a group can have the composition: () bool."""
    classes = _classes(largest)
    return _feasible(jnp.asarray(classes.once)[jnp.asarray(classes.of)[group]],
                     jnp.asarray(classes.often)[jnp.asarray(classes.of)[group]], of) | (group == 1)  # fmt: skip


def feasible_groups(of: States, largest: int) -> Array:
    """Which groups can have the composition: (231,) bool; P1 always can, and entry 0 is False."""
    classes = _classes(largest)
    rows = jax.vmap(_feasible, (0, 0, None))(jnp.asarray(classes.once), jnp.asarray(classes.often), of)
    groups = integers(len(classes.of))
    return (rows[jnp.asarray(classes.of)] | (groups == 1)) & (groups > 0)


def _feasible(once: Array, often: Array, of: States) -> Array:
    kinds = integers(len(of.count))

    def use(row: Array, sites: Array) -> tuple[Array, None]:
        return row | ((sites > 0) & jax.vmap(_moved, (None, 0, None, None))(row, kinds, sites, of).any(0)), None

    start = often[of.digit].all(0) & of.exists
    row = jax.lax.scan(use, start, once)[0]
    return row[jnp.where(of.small, jnp.sum(of.count * of.stride, dtype=jnp.int32), 0)] & of.small
