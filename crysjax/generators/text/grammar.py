"""Which token may come next in the text of a crystal: a finite-state grammar, as pure functions of one position.

A crystal is written digit by digit (CrystaLLM, Antunes et al. 2024), without the words that a CIF repeats:

    a b c alpha beta gamma   then for every site   ELEMENT x y z

Every number has a fixed count of digits, so a position says what stands there, and only a little state is needed:
* a number stays within its range, digit by digit, as a digit is allowed if some completion lies in the range;
* gamma's range follows from alpha and beta, `|alpha - beta| < gamma < min(alpha + beta, 360° - alpha - beta)` with
  `MARGIN` to spare: exactly then three vectors span a cell of positive volume;
* a site takes an element that its template row allows; there are as many sites as the template has;
* neighboring sites with the same template row come in ascending order of their strings, so that a crystal, whose
  sites have no order, is written in one way only.
No state is a dead end, so masked sampling never has to be repeated, and probabilities of all texts sum to one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES

ELEMENT = 10
"""Tokens 0..9 are digits, `ELEMENT + z - 1` is the element of atomic number z."""
END = ELEMENT + NUM_SPECIES
"""The token of every position behind the last site."""
VOCABULARY = END + 1
MARGIN = 5.0  # degrees
_NO_CELL = 6  # where numbers go that are no cell parameter


class Form(NamedTuple):
    """How numbers are written: decimals, and ranges in Å and degrees."""

    length_decimals: int = 3
    angle_decimals: int = 2
    frac_decimals: int = 4
    length_range: tuple[float, float] = (1.0, 99.0)
    angle_range: tuple[float, float] = (20.0, 160.0)


class Slot(NamedTuple):
    """What stands at a position; leaves are scalars, or (length,) for the whole text."""

    role: Array  # the place within the cell, or within its site counted on from there
    site: Array  # which site; 0 in the cell
    number: Array  # which cell parameter, 0..5; 6 elsewhere
    place: Array  # what a digit here is worth, in units of the number's last digit
    in_site: Array  # whether it belongs to a site
    is_element: Array


class Sites(NamedTuple):
    """What a template says of one crystal's sites, in canonical order."""

    rows: Array  # (m, NUM_SPECIES) bool: the elements that a site may take
    alike: Array  # (m,) bool: whether the row equals the one before
    count: Array  # () how many sites there are


class State(NamedTuple):
    """What of the text so far decides what may follow."""

    cell: Array  # (7,) int32: the cell parameters as far as they are written, in units of their last digit
    before: Array  # the tokens of the last site, those of the present one as far as they are written
    tied: Array  # bool: the present site's tokens have to be, and so far are, those of the site before


class Grammar(NamedTuple):
    """Pure functions of one crystal."""

    slots: Slot  # leaves (length,), NumPy
    places: tuple[np.ndarray, np.ndarray, np.ndarray]  # digit weights of a length, an angle, a fraction
    start: State
    allowed: Callable  # (state, slot, sites) -> (VOCABULARY,) bool
    advance: Callable  # (state, slot, sites, token) -> state
    masks: Callable  # (tokens (length,), sites) -> (length, VOCABULARY) bool
    clamp: Callable  # cell parameters (6,) int32 -> the same, moved into their ranges


def grammar(form: Form, max_sites: int) -> Grammar:
    """The grammar of texts with up to `max_sites` sites.

    Raises:
        ValueError: where the ranges leave no cell.
    """
    low, high = _ranges(form)
    places = tuple(10 ** np.arange(n)[::-1] for n in (len(str(high[0])), len(str(high[3])), form.frac_decimals))
    slots = _slots(places, max_sites)
    string, cell_length = 1 + 3 * form.frac_decimals, int(slots.in_site.argmax())
    margin = round(MARGIN * 10**form.angle_decimals)
    half_turn = 180 * 10**form.angle_decimals

    def gamma_range(cell: Array) -> tuple[Array, Array]:
        alpha, beta = cell[3], cell[4]
        least = jnp.maximum(low[5], jnp.abs(alpha - beta) + margin)
        most = jnp.minimum(alpha + beta, 2 * half_turn - alpha - beta) - margin
        return least, jnp.minimum(high[5], most)

    def clamp(cell: Array) -> Array:
        cell = jnp.clip(cell, jnp.asarray(low[:6]), jnp.asarray(high[:6]))
        return cell.at[5].set(jnp.clip(cell[5], *gamma_range(cell)))

    def digits(state: State, slot: Slot) -> Array:
        least, most = gamma_range(state.cell)
        least = jnp.where(slot.number == 5, least, jnp.asarray(low)[slot.number])
        most = jnp.where(slot.number == 5, most, jnp.asarray(high)[slot.number])
        smallest = state.cell[slot.number] + jnp.arange(10, dtype=jnp.int32) * slot.place
        return (smallest <= most) & (smallest + slot.place - 1 >= least)

    def tied(state: State, slot: Slot, sites: Sites) -> tuple[Array, Array]:
        now = jnp.where(slot.is_element, sites.alike[slot.site], state.tied) & slot.in_site
        return now, jnp.maximum(slot.role - cell_length, 0)

    def allowed(state: State, slot: Slot, sites: Sites) -> Array:
        none, tokens = jnp.zeros(VOCABULARY, bool), jnp.arange(VOCABULARY, dtype=jnp.int32)
        element = none.at[ELEMENT:END].set(sites.rows[slot.site])
        fitting = jnp.where(slot.is_element, element, none.at[:10].set(digits(state, slot)))
        must_ascend, here = tied(state, slot, sites)
        fitting &= (tokens >= state.before[here]) | ~must_ascend
        written = (slot.site < sites.count) & (sites.count > 0)
        return jnp.where(written, fitting, tokens == END)

    def advance(state: State, slot: Slot, sites: Sites, token: Array) -> State:
        must_ascend, here = tied(state, slot, sites)
        cell = state.cell.at[slot.number].add(jnp.where(token < 10, token, 0) * slot.place)
        before = state.before.at[here].set(jnp.where(slot.in_site, token, state.before[here]))
        return State(cell, before, must_ascend & (token == state.before[here]))

    def masks(tokens: Array, sites: Sites) -> Array:
        def step(state: State, this: tuple[Slot, Array]) -> tuple[State, Array]:
            slot, token = this
            return advance(state, slot, sites, token), allowed(state, slot, sites)

        return jax.lax.scan(step, start, (jax.tree.map(jnp.asarray, slots), tokens))[1]

    start = State(np.zeros(7, np.int32), np.zeros(string, np.int32), np.zeros((), bool))
    return Grammar(slots, places, start, allowed, advance, masks, clamp)


def _ranges(form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Least and most of the six cell parameters, in units of the last digit; the seventh entry allows everything."""
    if not 0 < form.length_range[0] <= form.length_range[1]:
        raise ValueError(f"length_range: {form.length_range}; expected two lengths in Å, 0 < shortest <= longest")
    low, high = form.angle_range
    if not (MARGIN <= low <= high and 2 * high + low <= 360 - MARGIN):
        raise ValueError(
            f"angle_range: {form.angle_range}; expected degrees with {MARGIN:g} <= smallest <= largest and "
            f"2 largest + smallest <= {360 - MARGIN:g}, so that any alpha and beta leave a gamma"
        )
    units = (10**form.length_decimals, 10**form.angle_decimals)
    ends = [[round(r[k] * u) for r, u in zip((form.length_range, form.angle_range), units)] for k in (0, 1)]
    return tuple(np.repeat([*end, wide], [3, 3, 1]).astype(np.int32) for end, wide in zip(ends, (0, 2**30)))


def _slots(places: tuple[np.ndarray, ...], max_sites: int) -> Slot:
    """The positions of a text: six numbers, then `max_sites` times an element and three fractions."""
    length, angle, frac = (list(p) for p in places)
    number = np.repeat(np.arange(6), [len(length)] * 3 + [len(angle)] * 3)
    cell, string = len(number), 1 + 3 * len(frac)
    ones = np.ones(string * max_sites, int)
    of_site = np.tile(np.arange(string), max_sites)
    slot = Slot(
        role=np.concatenate([np.arange(cell), cell + of_site]),
        site=np.concatenate([0 * number, np.repeat(np.arange(max_sites), string)]),
        number=np.concatenate([number, _NO_CELL * ones]),
        place=np.concatenate([length * 3 + angle * 3, np.tile([0] + frac * 3, max_sites)]),
        in_site=np.arange(cell + len(ones)) >= cell,
        is_element=np.concatenate([0 * number > 0, of_site == 0]),
    )
    return Slot(*(leaf if leaf.dtype == bool else leaf.astype(np.int32) for leaf in slot))
