"""Constraints that every sample keeps, for any generator: composition, elements, neutrality, fixed atoms, distances.

A `Constraints` says what is wanted. `compiled` refuses, with one line, what contradicts itself for the sizes asked
for, and answers what samplers need. `constrain` wraps any generator. How each is kept:

* a formula, or one allowed element, fixes the template before anything is drawn (structure prediction);
* allowed and forbidden elements restrict the rows of the template;
* the number of elements and neutrality are drawn jointly (`constraints/species_constraints`): inside the sampler, at
  each of its steps, if the generator was built with the constraint (`native`: `iterative(constraint=...)`); for any
  other family by draft and repair: a free draft is drawn, its species are replaced by feasible ones near them (a
  joint draw with odds of e^-20 against a change of a site), and the crystal is drawn again for these species;
* elements that must be there take the first free sites, which are exchangeable: within a size a crystal counts
  n_A times (n_A n_B with two elements), n_A its atoms of the element, and sizes keep their unconditional law;
* fixed atoms, and a fixed cell, follow the noise inside of a native sampler and are put back bit for bit at the end;
* distances are projected (`constraints/projection`), fixed atoms standing still, with the cell as the last resort;
* a space group is a choice of orbits, made before anything is drawn (`constraints/space_group`);
* a density is not built in: samples outside the window are drawn again or left out (`sampling/keeping`), which
  changes the law of sizes (docs/howto/exact-counts.md).

`violations.violations` counts on the host, by other means, what is broken: with a fixed cell distances can be, and
crystals that are not finite break them too. All else cannot be.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Condition, Generator, Pack, Params, PyTree, is_known
from crysjax.chemistry.elements import SYMBOLS
from crysjax.constraints import constraint as constraints
from crysjax.constraints.constraint import Constraint, Fixed
from crysjax.constraints.feasible import States, Witness, feasible, neutral
from crysjax.constraints.projection import separate
from crysjax.constraints.species_constraints import species_rules
from crysjax.geometry.neighbors import crystal_edges
from crysjax.geometry.soundness import why_not

SURE = 20.0  # logit of a drafted species over any other


class Constraints(NamedTuple):
    """What every crystal has to be. Elements are atomic numbers; the defaults ask for nothing."""

    formula: dict[int, int] = {}  # noqa: RUF012 (never changed)  # atoms of one unit; a crystal holds a whole number of units
    allowed: tuple[int, ...] = ()  # only these; () = all
    forbidden: tuple[int, ...] = ()
    num_elements: tuple[int, int] | None = None  # smallest and largest number of different elements
    states: States | None = None  # oxidation states under which the crystal has to be neutral
    fixed: Fixed | None = None  # atoms, and perhaps the cell, that are given
    min_distance_angstrom: float = 0.0  # of all atoms, periodic images included
    required: tuple[int, ...] = ()  # elements that have to be there
    space_groups: tuple[int, ...] = ()  # the operations of one of them, in the primitive cell of the standard setting
    density_g_cm3: tuple[float, float] | None = None  # smallest and largest; looked at, not built in


def compiled(
    wanted: Constraints, sizes: list[int], *, known: list[int] | None = None, proposals: int = 8
) -> Constraint:
    """What samplers need to keep `wanted` in crystals of these numbers of atoms.

    Args:
        known: elements that the generator knows; others are never drawn. `None` = all.
        proposals: of each joint draw, see `species_constraints`.

    Raises:
        ValueError: with the reason, if no crystal of one of the sizes can meet the constraints.
    """
    permitted = permitted_elements(wanted, known)
    _check_fixed(wanted, permitted, min(sizes))
    _check_required(wanted, permitted, min(sizes))
    allowed = np.isin(np.arange(1, NUM_SPECIES + 1), permitted)
    if wanted.formula:
        _check_formula(wanted, permitted, sizes)
        return Constraint(allowed, wanted.fixed, tuple(sorted(wanted.formula.items())))
    missing = _missing(wanted)
    if wanted.num_elements is None and wanted.states is None and not missing:
        return Constraint(allowed, wanted.fixed)
    _check_number(wanted, permitted, min(sizes))
    witness = _witness(wanted, permitted, sizes)
    for n in sorted(set(sizes)):
        if not witness.possible[n].any():
            raise ValueError(f"{_asked(wanted)}: no composition of {n} atoms meets it; {_among(permitted)}")
    states = None if wanted.states is None else {z: wanted.states[z] for z in permitted}
    rules = species_rules(
        allowed=allowed, counted=wanted.num_elements is not None, states=states, witness=witness, proposals=proposals
    )
    return Constraint(allowed, wanted.fixed, required=missing, species=rules)


def possible_sizes(wanted: Constraints, sizes: list[int], *, known: list[int] | None = None) -> list[int]:
    """Those of the sizes in which a crystal can meet the constraints; a formula is not looked at."""
    witness = _witness(wanted, permitted_elements(wanted, known), sizes)
    return [n for n in sizes if witness.possible[n].any()]


def _witness(wanted: Constraints, permitted: list[int], sizes: list[int]) -> Witness:
    states, given = wanted.states, _fixed_counts(wanted) | dict.fromkeys(_missing(wanted), 1)
    return feasible(sizes, permitted, num_elements=wanted.num_elements, states=states, at_least=given)


def constrain(
    generator: Generator, constraint: Constraint | None, *, min_distance_angstrom: float = 0.0, native: bool = False
) -> Generator:
    """`generator` with every sample keeping the constraint.

    Args:
        constraint: from `compiled`; `None` leaves the species to the templates.
        min_distance_angstrom: as in `Constraints`; 0 = none.
        native: the generator was built with the constraint and draws species under its rules by itself.

    With a constraint, whatever a template says of its species is replaced.
    """

    def repaired(params: Params, key: Array, template: Pack, condition: Condition) -> Pack:
        if native or constraint is None or constraint.species is None:
            return template
        key_draft, key_plan, key_draw = jax.random.split(key, 3)
        draft = generator.sample(params, key_draft, template, condition)
        held = template.occupancy * is_known(template.occupancy)[:, None]
        plan = constraint.species.start(key_plan, template)
        rows, _ = constraint.species.draw(key_draw, SURE * draft.occupancy, held, plan, template)
        return template._replace(occupancy=rows)

    def decode(params: Params, key: Array, noise: PyTree, template: Pack, condition: Condition) -> Pack:
        key_repair, key_decode = jax.random.split(key)
        template = repaired(params, key_repair, constraints.prepare(constraint, template), condition)
        pack = generator.decode(params, key_decode, noise, template, condition)
        known = is_known(template.occupancy)[:, None] > 0
        pack = pack._replace(occupancy=jnp.where(known, template.occupancy, pack.occupancy))
        part = constraints.given(constraint, template)
        pack = constraints.in_place(part, pack)
        if min_distance_angstrom <= 0:
            return pack
        still = None if part is None else part.mask[:, 0]
        cell = part is not None and part.lattice is not None
        return separate(pack, min_distance_angstrom, fixed=still, fixed_cell=cell)[0]

    def sample(params: Params, key: Array, template: Pack, condition: Condition) -> Pack:
        key_noise, key_decode = jax.random.split(key)
        template = constraints.prepare(constraint, template)
        return decode(params, key_decode, generator.noise(key_noise, template), template, condition)

    def noise(key: Array, template: Pack) -> PyTree:
        return generator.noise(key, constraints.prepare(constraint, template))

    return generator._replace(noise=noise, decode=decode, sample=sample, log_prob=None)


def in_range(count: float, range_: tuple[float, float] | None) -> bool:
    """Whether a number lies in a range, ends included; None is any."""
    return range_ is None or range_[0] <= count <= range_[1]


def too_close(frac: np.ndarray, lattice: np.ndarray, distance: float) -> bool:
    """Whether two atoms, periodic images included, are closer than a distance in Å; what is no crystal counts."""
    if distance <= 0:
        return False
    frac, lattice = np.asarray(frac, float), np.asarray(lattice, float)
    if why_not(frac, lattice):
        return True
    return len(crystal_edges(frac, lattice, distance)[0]) > 0


def permitted_elements(wanted: Constraints, known: list[int] | None) -> list[int]:
    """Elements that may appear; an error if none is left."""
    everything = range(1, NUM_SPECIES + 1) if known is None else known
    left = sorted((set(wanted.allowed) or set(everything)) & set(everything) - set(wanted.forbidden))
    if not left:
        raise ValueError("allowed and forbidden elements leave no element")
    if wanted.states is None or wanted.formula:
        return left
    left = [z for z in left if wanted.states.get(z)]
    if not left:
        raise ValueError("neutrality: none of the elements that may appear has an oxidation state")
    return left


def _check_formula(wanted: Constraints, permitted: list[int], sizes: list[int]) -> None:
    unit, name = sum(wanted.formula.values()), formula_name(wanted.formula)
    for z in wanted.formula:
        if z not in permitted:
            raise ValueError(f"formula {name}: {SYMBOLS[z - 1]} is not among the elements that may appear")
    for n in sorted(set(sizes)):
        if n % unit:
            raise ValueError(f"formula {name}: {n} atoms are not a whole number of its units of {unit} atoms")
        for z, count in _fixed_counts(wanted).items():
            if count > wanted.formula.get(z, 0) * n // unit:
                raise ValueError(f"formula {name}: the fixed part has {count} {SYMBOLS[z - 1]}, too many for {n} atoms")
    if not in_range(len(wanted.formula), wanted.num_elements):
        low, high = wanted.num_elements
        raise ValueError(f"formula {name}: has {len(wanted.formula)} elements; {low} to {high} were asked for")
    if wanted.states is not None and not neutral(wanted.formula, wanted.states, mixed_valence=True):
        raise ValueError(f"formula {name}: no choice of the declared oxidation states is neutral")


def _check_fixed(wanted: Constraints, permitted: list[int], smallest: int) -> None:
    if wanted.fixed is None:
        return
    numbers, frac, lattice = wanted.fixed
    if len(numbers) > smallest:
        raise ValueError(f"fixed part: has {len(numbers)} atoms, more than the {smallest} of the smallest crystal")
    for z in numbers.tolist():
        if z not in permitted:
            raise ValueError(f"fixed part: {SYMBOLS[z - 1]} is not among the elements that may appear")
    if not (np.isfinite(frac).all() and (frac >= 0).all() and (frac < 1).all()):
        raise ValueError("fixed part: fractional coordinates have to lie in [0, 1)")
    if lattice is not None and too_close(frac, lattice, wanted.min_distance_angstrom):
        raise ValueError(f"fixed part: has atoms closer than the {wanted.min_distance_angstrom:g} Å asked for")
    if lattice is None and wanted.min_distance_angstrom > 0 and len(np.unique(frac, axis=0)) < len(frac):
        raise ValueError("fixed part: has two atoms in one place")


def _missing(wanted: Constraints) -> tuple[int, ...]:
    """Required elements that the fixed part does not have."""
    return tuple(z for z in wanted.required if z not in _fixed_counts(wanted))


def _check_required(wanted: Constraints, permitted: list[int], smallest: int) -> None:
    for z in wanted.required:
        if z not in permitted or (wanted.formula and z not in wanted.formula):
            where = "in the formula" if wanted.formula else "among the elements that may appear"
            raise ValueError(f"required element {SYMBOLS[z - 1]}: is not {where}")
    least = sum(_fixed_counts(wanted).values()) + len(_missing(wanted))
    if not wanted.formula and least > smallest:
        raise ValueError(f"required elements: take {least} atoms, more than the {smallest} of the smallest crystal")


def _check_number(wanted: Constraints, permitted: list[int], smallest: int) -> None:
    if wanted.num_elements is None:
        return
    low, high = wanted.num_elements
    if not 1 <= low <= high:
        raise ValueError(f"number of elements: {low} to {high}; expected 1 or more, the smaller number first")
    if low > smallest:
        raise ValueError(f"number of elements: {low} in a crystal of {smallest} atoms")
    if low > len(permitted):
        raise ValueError(f"number of elements: {low}, but only {len(permitted)} may appear")
    needed = len(_fixed_counts(wanted)) + len(_missing(wanted))
    if needed > high and _missing(wanted):
        raise ValueError(f"number of elements: at most {high}, but {needed} have to be there")
    if len(_fixed_counts(wanted)) > high:
        raise ValueError(f"number of elements: at most {high}, but the fixed part has {len(_fixed_counts(wanted))}")


def counts(numbers: np.ndarray) -> dict[int, int]:
    """Atomic number -> how many."""
    found, count = np.unique(np.asarray(numbers), return_counts=True)
    return dict(zip(found.tolist(), count.tolist()))


def _fixed_counts(wanted: Constraints) -> dict[int, int]:
    return {} if wanted.fixed is None else counts(wanted.fixed.numbers)


def formula_name(formula: dict[int, int]) -> str:
    """The formula as users write it, in their order."""
    return "".join(SYMBOLS[z - 1] + (str(count) if count > 1 else "") for z, count in formula.items())


def _asked(wanted: Constraints) -> str:
    low, high = wanted.num_elements or (0, 0)
    number = [] if wanted.num_elements is None else [f"{low} elements" if low == high else f"{low} to {high} elements"]
    needed = ["required " + ", ".join(SYMBOLS[z - 1] for z in wanted.required)] if wanted.required else []
    return " and ".join(number + ["neutrality"] * (wanted.states is not None) + needed)


def _among(permitted: list[int]) -> str:
    few = ", ".join(SYMBOLS[z - 1] for z in permitted[:6])
    return f"of {few}" + (f" and {len(permitted) - 6} others" if len(permitted) > 6 else "")
