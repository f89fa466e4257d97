"""The law of a crystal's orbits: drawn one after another, and scored exactly, for one crystal.

space group -> (letter, element, free coordinates) for every orbit -> free lattice parameters. Every choice is a
softmax over what the rules allow (`wyckoff_rules`), so nothing drawn has to be repaired or rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm

from crysjax.base import NUM_SPECIES
from crysjax.generators.wyckoff import von_mises, wyckoff_rules
from crysjax.generators.wyckoff.wyckoff_network import Mixture, OrbitNetwork
from crysjax.generators.wyckoff.wyckoff_rules import State, States, integers
from crysjax.generators.wyckoff.wyckoff_sites import lattice_coordinates, lattice_parameters
from crysjax.geometry import torus
from crysjax.geometry.symmetry import Orbits, table

_NEVER = -1e30  # a logit whose probability is exactly zero, with a finite derivative
CHOICES = 5  # an orbit: letter, element, a component of each coordinate


class Given(NamedTuple):
    """What is known of one crystal before anything is drawn."""

    context: Array  # (c,)
    states: States
    rows: Array  # (k, s) bool: the elements that a kind may take
    group: Array  # () int32; 0 = drawn
    groups: Array  # (231,) bool: the groups that may be drawn


class Noise(NamedTuple):
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


def law(network: OrbitNetwork, *, orbits: int, temperature: float = 1.0) -> Law:
    """The law of up to `orbits` orbits, which is also the most sites that a crystal may have.

    At a `temperature` below 1 all choices and mixtures are sharper, each by itself: masses p^(1/T) and concentrations
    over T, made to sum to one again. Draws and scores agree at every temperature.
    """

    def species_logits(params, h: Array, given: Given, group: Array, state: State, allowed: Array, letter: Array):
        """Over kinds and elements, flat (k s,); within a letter and kind elements ascend."""
        numbers = integers(1, NUM_SPECIES + 1)[None]
        same = (letter == state.letter) & (integers(len(given.rows))[:, None] == state.kind)
        may = given.rows & allowed[letter][:, None] & (~same | (numbers >= state.number))
        logits = jnp.broadcast_to(network.species(params, h, group, letter)[None], may.shape)
        return jnp.where(may, logits / temperature, _NEVER).reshape(-1)

    def letter_logits(params, h: Array, group: Array, allowed: Array) -> Array:
        return jnp.where(allowed.any(-1), network.letters(params, h, group) / temperature, _NEVER)

    def group_logits(params, given: Given) -> Array:
        return jnp.where(given.groups, network.group(params, given.context) / temperature, _NEVER)

    def coordinate(params, h: Array, *of) -> Mixture:
        said = network.coordinate(params, h, *of)
        return Mixture(said.logits / temperature, said.center, said.spread / temperature)

    def cell(params, h: Array) -> Mixture:
        said = network.lattice(params, h)
        return Mixture(said.logits / temperature, said.center, said.spread * temperature**0.5)

    def token(params, given: Given, group: Array, state: State, u: Array) -> Array:
        return network.token(params, group, state.letter, state.number, u, _left(given, state.left, u))

    def draw(params, key: Array, noise: Noise, given: Given) -> tuple[Orbits, Array]:
        params = network.cast(params, noise.lattice.dtype)
        drawn = _choose(group_logits(params, given), noise.group)
        group = jnp.where(given.group > 0, given.group, drawn).astype(jnp.int32)
        reach = wyckoff_rules.reachable(group, given.states, orbits)

        def orbit(carry: tuple, this: tuple) -> tuple:
            (state, cache, x, end, finished), (t, key, choice) = carry, this
            h, cache = network.stack.extend(params["stack"], cache, t, x)
            end, finished = jnp.where(finished, end, h), (state.left == 0).all()
            allowed = wyckoff_rules.allowed(state, group, given.states, reach)
            letter = _choose(letter_logits(params, h, group, allowed), choice[0])
            pair = _choose(species_logits(params, h, given, group, state, allowed, letter), choice[1])
            kind, number = pair // NUM_SPECIES, pair % NUM_SPECIES + 1
            free, u = jnp.asarray(table().free)[group, letter], jnp.zeros(3, x.dtype)
            for axis, k in enumerate(jax.random.split(key, 3)):
                mixture = coordinate(params, h, group, letter, number, u, axis)
                m = _choose(mixture.logits, choice[2 + axis])
                value = torus.wrap(mixture.center[m] + von_mises.draw(k, mixture.spread[m]))
                u = u.at[axis].set(jnp.where(free[axis], value, 0))
            after = wyckoff_rules.advance(state, letter, kind, number, group)
            state = jax.tree.map(lambda new, old: jnp.where(finished, old, new), after, state)
            number, u = jnp.where(finished, 0, number), jnp.where(finished, 0, u)
            out = jnp.where(finished, 0, letter), number, u, kind
            return (state, cache, token(params, given, group, state, u), end, finished), out

        x = network.prefix(params, group, given.context)
        carry = (_start(given), network.stack.start(orbits + 1, x.dtype), x, x, jnp.array(False))
        steps = jnp.arange(orbits + 1), jax.random.split(key, orbits + 1), noise.choice
        (_, _, _, end, _), (letter, number, u, kind) = jax.lax.scan(orbit, carry, steps)
        mixture = cell(params, end)
        m = _choose(mixture.logits, noise.component)
        coordinates = mixture.center[m] + mixture.spread[m] * noise.lattice
        lattice = lattice_parameters(group, coordinates, given.states.count.sum())
        return Orbits(group, letter[:-1], number[:-1], u[:-1], lattice), kind[:-1]

    def kinds(of: Orbits, given: Given) -> Array:
        sites = jnp.asarray(table().sites)[of.group, of.letter]

        def step(left: Array, this: tuple) -> tuple[Array, Array]:
            number, sites = this
            fits = given.rows[:, jnp.maximum(number - 1, 0)] & (left >= sites)
            kind = jnp.argmax(fits).astype(jnp.int32)
            return left.at[kind].add(jnp.where(number > 0, -sites, 0)), kind

        return jax.lax.scan(step, given.states.count, (of.number, sites))[1]

    def follow(of: Orbits, kind: Array, given: Given) -> tuple[State, State]:
        """The states before and after each orbit."""

        def step(state: State, this: tuple) -> tuple:
            letter, kind, number = this
            after = wyckoff_rules.advance(state, letter, kind, number, of.group)
            after = jax.tree.map(lambda new, old: jnp.where(number > 0, new, old), after, state)
            return after, (state, after)

        return jax.lax.scan(step, _start(given), (of.letter, kind, of.number))[1]

    def score(params, of: Orbits, kind: Array, given: Given, exact: bool = True) -> Parts:
        params = network.cast(params, of.u.dtype)
        before, after = follow(of, kind, given)
        later = jax.vmap(lambda s, u: token(params, given, of.group, s, u))(after, of.u)
        x = jnp.concatenate([network.prefix(params, of.group, given.context)[None], later])
        h = network.stack.apply(params["stack"], x)
        reach = wyckoff_rules.reachable(of.group, given.states, orbits) if exact else None

        def orbit(h: Array, state: State, letter: Array, kind: Array, number: Array, u: Array) -> tuple:
            allowed = wyckoff_rules.allowed(state, of.group, given.states, reach)
            of_letter = jax.nn.log_softmax(letter_logits(params, h, of.group, allowed))[letter]
            pairs = species_logits(params, h, given, of.group, state, allowed, letter)
            of_species = jax.nn.log_softmax(pairs)[kind * NUM_SPECIES + jnp.maximum(number - 1, 0)]
            axes = [coordinate(params, h, of.group, letter, number, u, axis) for axis in range(3)]
            each = jnp.stack([von_mises.log_prob(u[axis], *m) for axis, m in enumerate(axes)])
            free = jnp.asarray(table().free)[of.group, letter]
            return of_letter, of_species, jnp.where(free, each, 0).sum()

        real = of.number > 0
        parts = jax.vmap(orbit)(h[:-1], before, of.letter, kind, of.number, of.u)
        parts = [jnp.where(real, part, 0).sum() for part in parts]
        end = cell(params, h[real.sum()])
        lattice = lattice_coordinates(of, given.states.count.sum())
        each = norm.logpdf(lattice[None], end.center, end.spread)
        each = jnp.where(jnp.asarray(table().lattice_free)[of.group][None], each, 0).sum(-1)
        of_lattice = jax.nn.logsumexp(jax.nn.log_softmax(end.logits) + each)
        of_group = jnp.where(given.group > 0, 0, jax.nn.log_softmax(group_logits(params, given))[of.group])
        return Parts(of_group, *parts, of_lattice)

    return Law(draw, kinds, score)


def _start(given: Given) -> State:
    before = jnp.full((), -1, jnp.int32)
    return State(given.states.count, before, before, jnp.zeros((), jnp.int32))


def _left(given: Given, left: Array, like: Array) -> Array:
    """How many sites of each element are left to fill, shared out evenly where a kind allows several: (s,)."""
    rows = given.rows.astype(like.dtype)
    return (left.astype(like.dtype) / jnp.maximum(rows.sum(-1), 1)) @ rows


def _choose(logits: Array, noise: Array) -> Array:
    """The choice that a standard normal number picks, each with its softmax probability: () int32."""
    total = jnp.cumsum(jax.nn.softmax(jax.lax.stop_gradient(logits)))
    share = jnp.minimum(norm.cdf(noise), 1 - 1e-6)  # below the last step, so that what is chosen has a probability
    return jnp.argmax(total > share * total[-1]).astype(jnp.int32)
