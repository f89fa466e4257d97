"""Which orbits a crystal of a given space group has: drawn on the host, for any generator, before anything is sampled.

A set of orbits has to add up to the atoms of a primitive cell and, where a formula is given, to those of each element;
positions without free coordinates are used once at most. All sets that do are drawn with weights `exp(-1.5 - f / 2)` an
orbit of f free coordinates: real crystals have few orbits, and many of those are special. Drawing is exact, letter by
letter with what is left to fill as the state, so a group that cannot have the atoms is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Condition, Generator, Pack, Params, PyTree, SymmetricSites, Views, is_known
from crysjax.chemistry.elements import SYMBOLS
from crysjax.constraints import orbit_layouts, symmetric_sites
from crysjax.data.batching import Capacity
from crysjax.geometry import symmetry

LOG_WEIGHT = -1.5, -0.5
"""Of an orbit, and of each of its free coordinates."""


class SymmetryOrbits(NamedTuple):
    """The orbits of one crystal, in the order of its sites."""

    group: int
    letters: tuple[int, ...]  # a = 0
    numbers: tuple[int, ...]  # atomic number of each orbit; 0 = free


def composition(formula: dict[int, int], num_atoms: int) -> dict[int, int]:
    """The sites of each element in whole units of a formula, or `num_atoms` free ones; {} if units do not add up."""
    if not formula:
        return {0: num_atoms}
    units, rest = divmod(num_atoms, sum(formula.values()))
    return {} if rest else {z: units * count for z, count in formula.items()}


def draw_orbits(group: int, compositions: Sequence[dict[int, int]], *, seed: int = 0) -> list[SymmetryOrbits]:
    """Orbits for each composition, `{atomic number: sites}`, or `{0: sites}` where the species are free.

    Raises:
        ValueError: if the group cannot have one of the compositions, with the reason.
    """
    rng = np.random.default_rng((seed, group))
    return [_draw(group, tuple(sorted(c.items())), rng) for c in compositions]


def possible(group: int, composition: dict[int, int]) -> bool:
    """Whether the group has orbits that add up to the composition."""
    return _total(group, _slots(group), 0, tuple(count for _, count in sorted(composition.items()))) > 0


def sites_of(orbits: SymmetryOrbits) -> np.ndarray:
    """The atomic number of every site, 0 = free."""
    return np.repeat(orbits.numbers, symmetry.table().sites[orbits.group, list(orbits.letters)]).astype(np.uint8)


def orbits_view(drawn: Sequence[SymmetryOrbits]) -> Callable[[np.ndarray, Capacity], Views]:
    """The `sites` of crystals with these orbits: `rows(members, shape)`, as `sampling.draws.sample` takes it."""

    def rows(members: np.ndarray, shape: Capacity) -> Views:
        group, first = np.ones(shape.crystals, np.int32), np.arange(shape.sites, dtype=np.int32)
        linear, offset = (
            np.tile(np.eye(3, dtype=np.float32), (shape.sites, 1, 1)),
            np.zeros((shape.sites, 3), np.float32),
        )
        done = 0
        for slot, k in enumerate(members):
            m, c, lead = orbit_layouts.maps(drawn[k].group, drawn[k].letters)
            here = slice(done, done + len(m))
            group[slot], linear[here], offset[here], first[here] = drawn[k].group, m, c, lead + done
            done += len(m)
        solve = np.linalg.pinv(linear).astype(np.float32)
        return Views(sites=SymmetricSites(group, first, linear, offset, solve))

    return rows


def in_group(generator: Generator, *, native: bool = False) -> Generator:
    """`generator` with every sample in the group that `Condition.sites` says (`orbits_view`).

    Args:
        native: the generator keeps `Condition.sites` at every step by itself (`iterative`). Any other draws a draft,
            gives every orbit the species of its first site, and draws again for these; then the sites are put in place.
    """

    def decode(params: Params, key: Array, noise: PyTree, template: Pack, condition: Condition) -> Pack:
        sites, keys = condition.sites, jax.random.split(key)
        if native:
            return symmetric_sites.settle(sites, generator.decode(params, keys[1], noise, template, condition))
        plain = condition._replace(sites=None)
        draft = generator.decode(params, keys[0], noise, template, plain)
        known = is_known(template.occupancy)[:, None] > 0
        rows = symmetric_sites.of_first(sites, jnp.where(known, template.occupancy, draft.occupancy))
        again = generator.decode(params, keys[1], noise, template._replace(occupancy=rows), plain)
        return symmetric_sites.settle(sites, again)

    def sample(params: Params, key: Array, template: Pack, condition: Condition) -> Pack:
        key_noise, key_decode = jax.random.split(key)
        return decode(params, key_decode, generator.noise(key_noise, template), template, condition)

    return generator._replace(decode=decode, sample=sample, log_prob=None)


class _Slot(NamedTuple):
    """A letter of a group that a primitive cell may have room for."""

    letter: int
    sites: int
    often: bool  # it has free coordinates, so orbits of it may be many
    weight: float


@lru_cache(maxsize=256)
def _slots(group: int) -> tuple[_Slot, ...]:
    table = symmetry.table()
    free = table.free[group].sum(-1)
    return tuple(
        _Slot(int(k), int(table.sites[group, k]), bool(free[k]), float(np.exp(LOG_WEIGHT[0] + LOG_WEIGHT[1] * free[k])))
        for k in np.flatnonzero(table.sites[group])
    )


@lru_cache(maxsize=1_000_000)
def _total(group: int, slots: tuple[_Slot, ...], place: int, left: tuple[int, ...]) -> float:
    """Summed weights of all ways to fill what is left from this place on; a place is a letter and a kind."""
    which, kind = divmod(place, len(left))
    if which == len(slots):
        return float(not any(left))
    return sum(weight * _total(group, slots, *then) for weight, _, then in _ways(slots, place, left, kind, which))


def _ways(
    slots: tuple[_Slot, ...], place: int, left: tuple[int, ...], kind: int, which: int
) -> list[tuple[float, bool, tuple]]:
    """(weight, whether an orbit is added, place and what is left then): go on, or add an orbit of this letter."""
    slot = slots[which]
    ways = [(1.0, False, (place + 1, left))]
    if left[kind] >= slot.sites:
        less = (*left[:kind], left[kind] - slot.sites, *left[kind + 1 :])
        ways.append((slot.weight, True, (place if slot.often else (which + 1) * len(left), less)))
    return ways


def _draw(group: int, composition: tuple[tuple[int, int], ...], rng: np.random.Generator) -> SymmetryOrbits:
    numbers, left = zip(*composition)
    slots, place, found = _slots(group), 0, []
    if _total(group, slots, 0, left) == 0:
        raise ValueError(_refusal(group, dict(composition)))
    while place < len(slots) * len(left):
        which, kind = divmod(place, len(left))
        ways = _ways(slots, place, left, kind, which)
        odds = np.array([weight * _total(group, slots, *then) for weight, _, then in ways])
        _, added, (place, left) = ways[rng.choice(len(ways), p=odds / odds.sum())]
        if added:
            found.append((slots[which].letter, numbers[kind]))
    return SymmetryOrbits(group, *zip(*found))


def _refusal(group: int, composition: dict[int, int]) -> str:
    """Why the group cannot have the composition."""
    slots = _slots(group)
    many = sorted({s.sites for s in slots if s.often})
    once = ", ".join(
        f"{sum(s.sites == n for s in slots if not s.often)} of {n}"
        for n in sorted({s.sites for s in slots if not s.often})
    )
    has = f"any number of orbits of {', '.join(map(str, many))} sites" + (f", and {once} once each" if once else "")
    said = " + ".join(f"{count} {SYMBOLS[z - 1] if z else 'atoms'}" for z, count in composition.items())
    return f"space group {group}: no positions add up to {said} in a primitive cell; it has {has}"
