"""Crystals as space group and orbits, written by a transformer (CrystalFormer, Cao et al. 2024; WyFormer, Kazeev 2025).

What differs from CrystalFormer: an orbit is one token and its parts are read off it one after another; masks are exact
(`generators.wyckoff.wyckoff_rules`), so that every crystal has the size, the composition and the group it was asked
for; the group may be drawn too. The training crystals are described by `Condition.orbits` (made by
`crystallography.wyckoff_view`). Cells are primitive, sites lie on their positions to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import UNKNOWN, Condition, Generator, Orbits, Pack, Params, site_mask
from crysjax.generators import coordinates
from crysjax.generators.coordinates import SPACE_GROUPS, Numbers, Scales
from crysjax.generators.wyckoff import wyckoff_rules
from crysjax.generators.wyckoff.wyckoff_network import orbit_network
from crysjax.generators.wyckoff.wyckoff_orbits import CHOICES, Given, Law, OrbitNoise, Parts, law
from crysjax.generators.wyckoff.wyckoff_sites import fill, kinds
from crysjax.generators.wyckoff.wyckoff_variants import Variants, varied


class OrbitModel(NamedTuple):
    """The functions beneath the generator, over packs; `Orbits` have leaves (b, ...)."""

    init: Callable  # (key, pack, condition) -> params
    noise: Callable  # (key, template) -> OrbitNoise
    draw: Callable  # (params, key, noise, template, condition) -> Orbits, the kind that each fills (b, l)
    fill: Callable  # (orbits, kind, template) -> pack
    log_prob: Callable  # (params, orbits, kind | None, template, condition) -> (b,); None: the first that fits
    bound: Callable  # (params, orbits, template, condition) -> Parts (b,), with the cheap masks


class Room(NamedTuple):
    """How large a crystal may be, and the scales of what is known of it, see `wyckoff`."""

    sites: int
    kinds: int
    states: int
    scales: Scales


def orbit_model(
    *, width: int, layers: int, heads: int, components: int, max_sites: int, max_kinds: int, max_states: int,
    temperature: float = 1.0, property_center: Numbers = (), property_scale: Numbers = (),
) -> OrbitModel:  # fmt: skip
    """The model of orbits; for the arguments see `wyckoff`."""
    room = Room(
        max_sites, max_kinds, max_states, Scales(property_center=property_center, property_scale=property_scale)
    )
    known = 102 + 2 * len(property_center)
    network = orbit_network(width=width, layers=layers, heads=heads, components=components, context=known)
    of_one: Law = law(network, orbits=max_sites, temperature=temperature)
    learned: Law = law(network, orbits=max_sites)
    return OrbitModel(
        init=lambda key, pack, condition: network.init(key),
        noise=partial(_noise, room),
        draw=partial(_draw, room, of_one),
        fill=lambda orbits, kind, template: fill(orbits, kind, kinds(template, max_sites, max_kinds), template),
        log_prob=partial(_log_prob, room, of_one),
        bound=partial(_bound, room, learned),
    )


def _noise(room: Room, key: Array, template: Pack) -> OrbitNoise:
    b, keys = len(template.lattice), jax.random.split(key, 4)
    shapes = (b,), (b, room.sites + 1, CHOICES), (b,), (b, 6)
    return OrbitNoise(*(jax.random.normal(k, shape, template.frac.dtype) for k, shape in zip(keys, shapes)))


def _known(room: Room, template: Pack, condition: Condition) -> Given:
    """What the template and the condition say; the groups that may be drawn are all."""
    this, dtype = kinds(template, room.sites, room.kinds), template.frac.dtype
    values = room.scales.given(condition, dtype)[:, :-SPACE_GROUPS]
    rows = this.rows.astype(dtype)
    weight = this.count.astype(dtype) / jnp.maximum(rows.sum(-1), 1)
    total = this.count.sum(-1, keepdims=True).astype(dtype)
    sites = jnp.einsum("bk,bks->bs", weight, rows)
    context = jnp.concatenate([sites / 10, total / 10, jnp.log(jnp.maximum(total, 1)), values], -1)
    states = jax.vmap(lambda count: wyckoff_rules.states(count, room.states))(this.count)
    any_group = jnp.broadcast_to(wyckoff_rules.integers(SPACE_GROUPS)[None] > 0, (len(total), SPACE_GROUPS))
    return Given(context, states, this.rows, condition.space_group, any_group)


def _within_reach(room: Room, given: Given) -> Given:
    """A group that the composition cannot have counts as not given, and only the others may be drawn."""
    can = jax.vmap(lambda g, s: wyckoff_rules.feasible(g, s, room.sites))(given.group, given.states)
    group = jnp.where(can, given.group, 0)

    def look() -> Array:
        return jax.lax.map(lambda s: wyckoff_rules.feasible_groups(s, room.sites), given.states)

    asked = (group == 0) & (given.states.count.sum(-1) > 0)
    groups = jax.lax.cond(asked.any(), look, lambda: given.groups)
    return given._replace(group=group, groups=groups)


def _draw(
    room: Room, of_one: Law, params: Params, key: Array, noise: OrbitNoise, template: Pack, condition: Condition
) -> tuple[Orbits, Array]:
    given = _within_reach(room, _known(room, template, condition))
    keys = jax.random.split(key, len(template.lattice))
    return jax.vmap(of_one.draw, (None, 0, 0, 0))(params, keys, noise, given)


def _log_prob(
    room: Room, of_one: Law, params: Params, orbits: Orbits, kind: Array | None, template: Pack, condition: Condition
) -> Array:
    given = _within_reach(room, _known(room, template, condition))
    kind = jax.vmap(of_one.kinds)(orbits, given) if kind is None else kind
    return sum(jax.vmap(of_one.score, (None, 0, 0, 0))(params, orbits, kind, given))


def _bound(room: Room, learned: Law, params: Params, orbits: Orbits, template: Pack, condition: Condition) -> Parts:
    given = _known(room, template, condition)
    given = given._replace(group=jnp.zeros_like(given.group))
    kind = jax.vmap(learned.kinds)(orbits, given)
    return jax.vmap(lambda *of: learned.score(params, *of, exact=False))(orbits, kind, given)


def wyckoff(
    *,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    components: int = 8,
    max_sites: int = 20,
    max_kinds: int = 7,
    max_states: int = 2048,
    known_fraction: float = 0.5,
    drop_condition: float = 0.15,
    exchange: float = 0.0,
    sharpness: float = 4.0,
    jitter: float = 0.0,
    temperature: float = 1.0,
    property_center: Numbers = (),
    property_scale: Numbers = (),
) -> Generator:
    """A generator that writes crystals orbit by orbit, in a requested space group or in one it draws.

    The number of sites always holds, and the composition where the template names it. An orbit takes sites with one
    species row, so a template that mixes known and free sites rules out orbits over both. A group that the template's
    sites cannot have (say 227 with one atom) counts as not given; then the group is drawn from the model's own
    distribution among those possible. A crystal with more than `max_sites` sites or `max_kinds` different species rows
    comes back as NaN; one whose composition has more than `max_states` states (the product over kinds of sites + 1)
    gets P1.

    `noise` is standard normal numbers that pick letters, elements, components and the lattice; coordinates are von
    Mises draws of the key that `decode` takes. `log_prob(params, pack, condition, template=pack)` scores the orbits
    of `condition.orbits` exactly as drawn for this template: masses of the choices, densities of the free fractions
    and of `wyckoff_sites.lattice_coordinates`; the group counts where `condition.space_group` does not give it.

    Args:
        width: features per token of the transformer.
        layers: blocks of the transformer.
        heads: attention heads of the transformer.
        components: components of the mixture distributions of each coordinate and of the lattice.
        max_sites: number of sites of the largest crystal, in the primitive cell.
        max_kinds: largest number of different species rows in a template (different elements, where all are known).
        max_states: largest number of partial compositions of a crystal: the product of (sites + 1) over its kinds of
            sites.
        known_fraction, drop_condition, property_center, property_scale: as in `iterative`.
        exchange: share of the training crystals that are shown with similar elements and no properties
            (`wyckoff_variants`).
        sharpness: how similar these are: a probability falls as exp(-sharpness distance), where distances are in
            standard deviations of Mendeleev number, electronegativity and radius.
        jitter: standard deviation of the shifts of free coordinates (cell lengths), lengths (of themselves) and angles
            (radians) in training.
        temperature: temperature of sampling and of `log_prob` (`wyckoff_orbits.law`); below 1 likely structures become
            likelier.
    """
    model = orbit_model(
        width=width, layers=layers, heads=heads, components=components, max_sites=max_sites, max_kinds=max_kinds,
        max_states=max_states, temperature=temperature, property_center=property_center, property_scale=property_scale,
    )  # fmt: skip

    def loss(params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
        first, second, third = jax.random.split(key, 3)
        orbits = _described(condition, max_sites)
        orbits = orbits._replace(u=orbits.u.astype(pack.frac.dtype))
        if exchange or jitter:
            pack, orbits, other = varied(third, pack, orbits, Variants(exchange, sharpness, jitter))
            unknown = jnp.where(other[:, None], jnp.nan, condition.properties)
            condition = condition._replace(properties=unknown, orbits=orbits)
        all_known = jax.random.uniform(first, pack.lattice.shape[:1]) < known_fraction
        free = UNKNOWN * site_mask(pack.occupancy)[:, None]
        template = pack._replace(occupancy=jnp.where(all_known[pack.owner][:, None], pack.occupancy, free))
        condition = coordinates.drop_condition(second, condition, drop_condition)
        parts = model.bound(params, orbits, template, condition)
        described = (orbits.group > 0) & kinds(template, max_sites, max_kinds).fits
        weight = described.astype(pack.frac.dtype)
        weight = weight / jnp.maximum(weight.sum(), 1)
        nats = Parts(*(-jnp.sum(jnp.where(described, part, 0) * weight) for part in parts))
        return sum(nats), nats._asdict()

    def decode(params, key: Array, noise: OrbitNoise, template: Pack, condition: Condition) -> Pack:
        return model.fill(*model.draw(params, key, noise, template, condition), template)

    def sample(params, key: Array, template: Pack, condition: Condition) -> Pack:
        first, rest = jax.random.split(key)
        return decode(params, rest, model.noise(first, template), template, condition)

    def log_prob(params, pack: Pack, condition: Condition, template: Pack | None = None) -> Array:
        orbits = _described(condition, max_sites)
        return model.log_prob(params, orbits, None, pack if template is None else template, condition)

    return Generator(model.init, loss, model.noise, decode, sample, log_prob)


def _described(condition: Condition, most: int) -> Orbits:
    """The orbits of the crystals, as many as a model has room for."""
    if condition.orbits is None:
        raise ValueError("condition.orbits: missing; expected orbits (crystallography.wyckoff_view)")
    return shortened(condition.orbits, most)


def shortened(orbits: Orbits, most: int) -> Orbits:
    """The first `most` orbits of every crystal, as many as a model has room for; larger crystals do not count."""
    return orbits._replace(**{name: getattr(orbits, name)[:, :most] for name in ("letter", "number", "u")})
