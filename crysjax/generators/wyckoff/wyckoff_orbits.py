"""The law of a crystal's orbits: drawn one after another, and scored exactly, for one crystal.

space group -> (letter, element, free coordinates) for every orbit -> free lattice parameters. Every choice is a
softmax over what the rules allow (`wyckoff_rules`), so nothing drawn has to be repaired or rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm

from crysjax.base import NUM_SPECIES, Orbits, Params
from crysjax.generators.wyckoff import von_mises, wyckoff_rules
from crysjax.generators.wyckoff.wyckoff_network import Mixture, OrbitNetwork, Places
from crysjax.generators.wyckoff.wyckoff_rules import RuleState, States, integers
from crysjax.generators.wyckoff.wyckoff_sites import lattice_coordinates, lattice_parameters
from crysjax.geometry import torus
from crysjax.geometry.symmetry import table

_NEVER = -1e30  # a logit whose probability is exactly zero, with a finite derivative
CHOICES = 5  # an orbit: letter, element, a component of each coordinate


class Given(NamedTuple):
    """What is known of one crystal before anything is drawn."""

    context: Array  # (c,)
    states: States
    rows: Array  # (k, s) bool: the elements that a kind may take
    group: Array  # () int32; 0 = drawn
    groups: Array  # (231,) bool: the groups that may be drawn


class OrbitNoise(NamedTuple):
    """What one crystal is drawn from, all standard normal; the coordinates take a key besides."""

    group: Array  # ()
    choice: Array  # (l + 1, 5)
    component: Array  # ()
    lattice: Array  # (6,)


class Parts(NamedTuple):
    """The logarithm of the probability, part by part: masses, and densities of fractions and lattice coordinates."""

    group: Array
    letter: Array
    species: Array
    coordinates: Array
    lattice: Array


class Law(NamedTuple):
    """Pure functions of one crystal."""

    draw: Callable  # (params, key, noise, given) -> Orbits, the kind that each fills (l,)
    kinds: Callable  # (orbits, given) -> the first kind that each orbit can fill (l,)
    score: Callable  # (params, orbits, kind, given, exact) -> Parts


class Chooser(NamedTuple):
    """A network whose choices and mixtures are made sharper by a temperature, see `law`."""

    network: OrbitNetwork
    orbits: int
    temperature: float


def law(network: OrbitNetwork, *, orbits: int, temperature: float = 1.0) -> Law:
    """The law of up to `orbits` orbits, which is also the most sites that a crystal may have.

    At a `temperature` below 1 all choices and mixtures are sharper, each by itself: masses p^(1/T) and concentrations
    over T, made to sum to one again. Draws and scores agree at every temperature.
    """
    chooser = Chooser(network, orbits, temperature)
    return Law(partial(_draw, chooser), _kinds, partial(_score, chooser))


def _species_logits(
    chooser: Chooser,
    params: Params,
    h: Array,
    given: Given,
    places: Places,
    state: RuleState,
    allowed: Array,
    letter: Array,
) -> Array:
    """Over kinds and elements, flat (k s,); within a letter and kind elements ascend."""
    numbers = integers(1, NUM_SPECIES + 1)[None]
    same = (letter == state.letter) & (integers(len(given.rows))[:, None] == state.kind)
    may = given.rows & allowed[letter][:, None] & (~same | (numbers >= state.number))
    logits = jnp.broadcast_to(chooser.network.species(params, h, places, letter)[None], may.shape)
    return jnp.where(may, logits / chooser.temperature, _NEVER).reshape(-1)


def _letter_logits(chooser: Chooser, params: Params, h: Array, places: Places, allowed: Array) -> Array:
    return jnp.where(allowed.any(-1), chooser.network.letters(params, h, places) / chooser.temperature, _NEVER)


def _group_logits(chooser: Chooser, params: Params, given: Given) -> Array:
    return jnp.where(given.groups, chooser.network.group(params, given.context) / chooser.temperature, _NEVER)


def _coordinate(chooser: Chooser, params: Params, h: Array, *of) -> Mixture:
    said = chooser.network.coordinate(params, h, *of)
    return Mixture(said.logits / chooser.temperature, said.center, said.spread / chooser.temperature)


def _cell(chooser: Chooser, params: Params, h: Array) -> Mixture:
    said = chooser.network.lattice(params, h)
    return Mixture(said.logits / chooser.temperature, said.center, said.spread * chooser.temperature**0.5)


def _token(chooser: Chooser, params: Params, given: Given, places: Places, state: RuleState, u: Array) -> Array:
    return chooser.network.token(params, places, state.letter, state.number, u, _left(given, state.left, u))


class _Orbit(NamedTuple):
    """One orbit as it is drawn."""

    letter: Array
    number: Array
    u: Array  # (3,)
    kind: Array


def _draw_orbit(
    chooser: Chooser, params: Params, key: Array, choice: Array, h: Array, given: Given, group: Array,
    places: Places, state: RuleState, reach: Array,
) -> _Orbit:  # fmt: skip
    allowed = wyckoff_rules.allowed(state, group, given.states, reach)
    letter = _choose(_letter_logits(chooser, params, h, places, allowed), choice[0])
    pair = _choose(_species_logits(chooser, params, h, given, places, state, allowed, letter), choice[1])
    kind, number = pair // NUM_SPECIES, pair % NUM_SPECIES + 1
    free, u = places.free[letter], jnp.zeros(3, h.dtype)
    for axis, k in enumerate(jax.random.split(key, 3)):
        mixture = _coordinate(chooser, params, h, places, letter, number, u, axis)
        m = _choose(mixture.logits, choice[2 + axis])
        value = torus.wrap(mixture.center[m] + von_mises.draw(k, mixture.spread[m]))
        u = u.at[axis].set(jnp.where(free[axis], value, 0))
    return _Orbit(letter, number, u, kind)


def _draw(chooser: Chooser, params: Params, key: Array, noise: OrbitNoise, given: Given) -> tuple[Orbits, Array]:
    network, orbits = chooser.network, chooser.orbits
    params = network.cast(params, noise.lattice.dtype)
    drawn = _choose(_group_logits(chooser, params, given), noise.group)
    group = jnp.where(given.group > 0, given.group, drawn).astype(jnp.int32)
    places, reach = network.places(params, group), wyckoff_rules.reachable(group, given.states, orbits)

    def orbit(carry: tuple, this: tuple) -> tuple:
        (state, cache, x, end, finished), (t, key, choice) = carry, this
        h, cache = network.stack.extend(params["stack"], cache, t, x)
        end, finished = jnp.where(finished, end, h), (state.left == 0).all()
        letter, number, u, kind = _draw_orbit(chooser, params, key, choice, h, given, group, places, state, reach)
        after = wyckoff_rules.advance(state, letter, kind, number, group)
        state = jax.tree.map(lambda new, old: jnp.where(finished, old, new), after, state)
        number, u = jnp.where(finished, 0, number), jnp.where(finished, 0, u)
        out = jnp.where(finished, 0, letter), number, u, kind
        return (state, cache, _token(chooser, params, given, places, state, u), end, finished), out

    x = network.prefix(params, group, given.context)
    carry = (_start(given), network.stack.start(orbits + 1, x.dtype), x, x, jnp.array(False))
    steps = jnp.arange(orbits + 1), jax.random.split(key, orbits + 1), noise.choice
    (_, _, _, end, _), (letter, number, u, kind) = jax.lax.scan(orbit, carry, steps)
    mixture = _cell(chooser, params, end)
    m = _choose(mixture.logits, noise.component)
    coordinates = mixture.center[m] + mixture.spread[m] * noise.lattice
    lattice = lattice_parameters(group, coordinates, given.states.count.sum())
    return Orbits(group, letter[:-1], number[:-1], u[:-1], lattice), kind[:-1]


def _kinds(of: Orbits, given: Given) -> Array:
    sites = jnp.asarray(table().sites)[of.group, of.letter]

    def step(left: Array, this: tuple) -> tuple[Array, Array]:
        number, sites = this
        fits = given.rows[:, jnp.maximum(number - 1, 0)] & (left >= sites)
        kind = jnp.argmax(fits).astype(jnp.int32)
        return left.at[kind].add(jnp.where(number > 0, -sites, 0)), kind

    return jax.lax.scan(step, given.states.count, (of.number, sites))[1]


def _follow(of: Orbits, kind: Array, given: Given) -> tuple[RuleState, RuleState]:
    """The states before and after each orbit."""

    def step(state: RuleState, this: tuple) -> tuple:
        letter, kind, number = this
        after = wyckoff_rules.advance(state, letter, kind, number, of.group)
        after = jax.tree.map(lambda new, old: jnp.where(number > 0, new, old), after, state)
        return after, (state, after)

    return jax.lax.scan(step, _start(given), (of.letter, kind, of.number))[1]


def _score(chooser: Chooser, params: Params, of: Orbits, kind: Array, given: Given, exact: bool = True) -> Parts:
    network = chooser.network
    params = network.cast(params, of.u.dtype)
    before, after = _follow(of, kind, given)
    places = network.places(params, of.group)
    later = jax.vmap(lambda s, u: _token(chooser, params, given, places, s, u))(after, of.u)
    x = jnp.concatenate([network.prefix(params, of.group, given.context)[None], later])
    h = network.stack.apply(params["stack"], x)
    reach = wyckoff_rules.reachable(of.group, given.states, chooser.orbits) if exact else None

    def orbit(h: Array, state: RuleState, letter: Array, kind: Array, number: Array, u: Array) -> tuple:
        allowed = wyckoff_rules.allowed(state, of.group, given.states, reach)
        of_letter = jax.nn.log_softmax(_letter_logits(chooser, params, h, places, allowed))[letter]
        pairs = _species_logits(chooser, params, h, given, places, state, allowed, letter)
        of_species = jax.nn.log_softmax(pairs)[kind * NUM_SPECIES + jnp.maximum(number - 1, 0)]
        axes = [_coordinate(chooser, params, h, places, letter, number, u, axis) for axis in range(3)]
        each = jnp.stack([von_mises.log_prob(u[axis], *m) for axis, m in enumerate(axes)])
        free = places.free[letter]
        return of_letter, of_species, jnp.where(free, each, 0).sum()

    real = of.number > 0
    parts = jax.vmap(orbit)(h[:-1], before, of.letter, kind, of.number, of.u)
    parts = [jnp.where(real, part, 0).sum() for part in parts]
    of_lattice = _score_cell(_cell(chooser, params, h[real.sum()]), of, given)
    of_group = jnp.where(given.group > 0, 0, jax.nn.log_softmax(_group_logits(chooser, params, given))[of.group])
    return Parts(of_group, *parts, of_lattice)


def _score_cell(mixture: Mixture, of: Orbits, given: Given) -> Array:
    """Log-density of the free lattice coordinates: ()."""
    lattice = lattice_coordinates(of, given.states.count.sum())
    each = norm.logpdf(lattice[None], mixture.center, mixture.spread)
    each = jnp.where(jnp.asarray(table().lattice_free)[of.group][None], each, 0).sum(-1)
    return jax.nn.logsumexp(jax.nn.log_softmax(mixture.logits) + each)


def _start(given: Given) -> RuleState:
    before = jnp.full((), -1, jnp.int32)
    return RuleState(given.states.count, before, before, jnp.zeros((), jnp.int32))


def _left(given: Given, left: Array, like: Array) -> Array:
    """How many sites of each element are left to fill, shared out evenly where a kind allows several: (s,)."""
    rows = given.rows.astype(like.dtype)
    return (left.astype(like.dtype) / jnp.maximum(rows.sum(-1), 1)) @ rows


def _choose(logits: Array, noise: Array) -> Array:
    """The choice that a standard normal number picks, each with its softmax probability: () int32."""
    total = jnp.cumsum(jax.nn.softmax(jax.lax.stop_gradient(logits)))
    share = jnp.minimum(norm.cdf(noise), 1 - 1e-6)  # below the last step, so that what is chosen has a probability
    return jnp.argmax(total > share * total[-1]).astype(jnp.int32)
