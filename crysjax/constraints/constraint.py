"""What a sampler has to keep exactly: known species, a fixed part of the crystal, and rules of the species.

A `Constraint` is made by `constraints.constraints` from what a user declares, and is the same for all crystals of a
call: it reads nothing of a template but its sizes. Sites of one crystal lie side by side in a pack, its atoms before
its empty slots; the fixed part takes the first sites and a formula the ones behind it (sites are exchangeable).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, is_known, num_sites, one_hot, site_mask
from crysjax.constraints.species_constraints import SpeciesRules


class Fixed(NamedTuple):
    """A part of the crystal that is given (inpainting). Host arrays; fractions in [0, 1)."""

    numbers: np.ndarray  # (k,) int
    frac: np.ndarray  # (k, 3) float32
    lattice: np.ndarray | None = None  # (3, 3) float32 rows in Å, or free


class Constraint(NamedTuple):
    """What `prepare`, `in_place` and the samplers keep."""

    allowed: np.ndarray  # (s,) bool: elements that free sites may take
    fixed: Fixed | None = None
    formula: tuple[tuple[int, int], ...] = ()  # (atomic number, atoms) of one formula unit
    required: tuple[int, ...] = ()  # an element for each of the first sites behind the fixed part
    species: SpeciesRules | None = None


class GivenFields(NamedTuple):
    """The fixed part laid out for one pack."""

    mask: Array  # (n, 1) bool: this site is fixed
    frac: Array  # (n, 3)
    lattice: Array | None  # (b, 3, 3) or free


def rank_in_crystal(pack: Pack) -> Array:
    """0, 1, ... at the sites of each crystal: (n,) int."""
    place = jnp.arange(len(pack.owner))
    return place - jax.ops.segment_min(place, pack.owner, pack.lattice.shape[0])[pack.owner]


def prepare(constraint: Constraint | None, template: Pack) -> Pack:
    """The template with all that the constraint says of its species; other rows become "one of the allowed"."""
    if constraint is None:
        return template
    rank, occupied = rank_in_crystal(template), site_mask(template.occupancy)[:, None]
    dtype = template.occupancy.dtype
    rows = jnp.asarray(constraint.allowed / constraint.allowed.sum(), dtype)[None]
    if constraint.formula:
        rows = one_hot(_formula_sites(constraint, rank, template), dtype)
    k = 0 if constraint.fixed is None else len(constraint.fixed.numbers)
    if constraint.required:
        place = rank - k
        first = jnp.asarray(constraint.required)[jnp.clip(place, 0, len(constraint.required) - 1)]
        here = (place >= 0) & (place < len(constraint.required))
        rows = jnp.where(here[:, None], one_hot(first, dtype), rows)
    if constraint.fixed is not None:
        known = one_hot(jnp.asarray(constraint.fixed.numbers)[jnp.minimum(rank, k - 1)], dtype)
        rows = jnp.where((rank < k)[:, None], known, rows)
    return template._replace(occupancy=rows * occupied)


def _formula_sites(constraint: Constraint, rank: Array, template: Pack) -> Array:
    """Atomic number of each site: as many formula units as there are atoms for, less what the fixed part holds."""
    numbers = np.array([z for z, _ in constraint.formula])
    unit = np.array([count for _, count in constraint.formula])
    given = np.zeros(0, int) if constraint.fixed is None else constraint.fixed.numbers
    units = num_sites(template).astype(jnp.int32) // int(unit.sum())
    taken = np.array([(given == z).sum() for z in numbers], np.int32)
    left = units[:, None] * jnp.asarray(unit, jnp.int32)[None] - jnp.asarray(taken)[None]
    upto = jnp.cumsum(left, -1)[template.owner]
    which = (rank[:, None] - len(given) >= upto).sum(-1)
    return jnp.asarray(numbers)[jnp.minimum(which, len(numbers) - 1)]


def given(constraint: Constraint | None, template: Pack) -> GivenFields | None:
    """The fixed part for this pack, or `None` where nothing is fixed."""
    if constraint is None or constraint.fixed is None:
        return None
    numbers, frac, lattice = constraint.fixed
    rank, dtype = rank_in_crystal(template), template.frac.dtype
    mask = ((rank < len(numbers)) & (site_mask(template.occupancy) > 0))[:, None]
    cell = None if lattice is None else jnp.broadcast_to(jnp.asarray(lattice, dtype)[None], template.lattice.shape)
    return GivenFields(mask, jnp.asarray(frac, dtype)[jnp.minimum(rank, len(numbers) - 1)], cell)


def in_place(part: GivenFields | None, pack: Pack) -> Pack:
    """The pack with the fixed part put back bit for bit: positions, and the lattice where it is given."""
    if part is None:
        return pack
    real = (num_sites(pack) > 0)[:, None, None]
    lattice = pack.lattice if part.lattice is None else jnp.where(real, part.lattice, pack.lattice)
    return pack._replace(frac=jnp.where(part.mask, part.frac, pack.frac), lattice=lattice)


def anything() -> np.ndarray:
    """All elements allowed: (s,) bool."""
    return np.ones(NUM_SPECIES, bool)


def conditioned(
    rules: SpeciesRules | None, key: Array, logits: Array, noise: Array, rows: Array, plan, template: Pack
) -> tuple[Array, object]:
    """Logits that leave no choice: one joint draw of all sites under the rules; and the plan behind it.

    A site is settled if the template says so, or if its noise was the absorbing row and it has been revealed since:
    other processes revise it until the end. `noise` and `rows` (n, s) are the species at time 1 and now.
    """
    if rules is None:
        return logits, plan
    absorbing = noise.max(-1) < 2 / noise.shape[-1]
    settled = (is_known(template.occupancy) > 0) | ((is_known(rows) > 0) & absorbing)
    settled_rows = jax.lax.stop_gradient(jnp.where(is_known(template.occupancy)[:, None] > 0, template.occupancy, rows))
    drawn, plan = rules.draw(key, logits, jnp.where(settled[:, None], settled_rows, 0.0), plan, template)
    return jnp.where(drawn > 0, 0.0, -1e9).astype(logits.dtype), plan
