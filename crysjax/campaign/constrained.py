"""Constraints of a plan: the same code as `crysjax sample`, kept by every crystal that a campaign draws.

A relaxation moves atoms: composition stays, while distances, a fixed part and rarely the space group may be lost. That
is flagged (`flag`), since a relaxed crystal is judged by what it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from crysjax.base import Generator, Params
from crysjax.campaign.constraint_keys import options_of
from crysjax.campaign.plan import Plan
from crysjax.chemistry.elements import SYMBOLS
from crysjax.constraints.constraints import Constraints
from crysjax.constraints.violations import violations
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.data.readers.part import read_part
from crysjax.models import families, registry
from crysjax.sampling import defaults, draws, keeping, retrieved, space_groups
from crysjax.sampling.options import as_keys
from crysjax.terminal import say

LOOSE_ANGSTROM = 0.1  # by which a relaxed crystal may miss an operation of its space group


class Constrained(NamedTuple):
    """A generator that keeps the constraints of a plan, and what belongs to it."""

    generator: Generator
    params: Params
    sizes: dict[int, int]  # number of atoms -> crystals in the generator's data
    start: space_groups.Starter | None = None  # None: a draw begins with nothing but sizes
    broken: Callable[[Dataset], np.ndarray] | None = None  # crystals -> the first constraint that each breaks, or ""
    flag: Callable[[Entry], str] | None = None  # relaxed crystal -> what it lost, in words


def make(plan: Plan, allowed: Sequence[int]) -> Constrained:
    """The plan's generator, keeping its constraints; an error says what it cannot keep and what can be had instead.

    `allowed`: atomic numbers that may occur and that all models know (`elements`).
    """
    path = registry.model_path(plan.generator, "generator")
    config = registry.read_config(path, "generator")
    if retrieved.looks_up(config):
        return _retrieved(plan, config, tuple(allowed))
    if plan.templates:
        raise ValueError(f"templates: {plan.generator} does not look anything up; expected a retrieval-based generator")
    sizes = _sizes_of_plan(plan, config["sizes"])
    of_family = families.factory(families.named(config["settings"]))
    steps = {"generator.steps": plan.sample_steps} if "steps" in inspect.signature(of_family).parameters else {}
    changed = defaults.defaults(path, plan.generator, False) | steps
    with as_keys():
        limits = keeping.wanted(options_of(plan)._replace(elements=(), forbid=()), config["elements"])
        limits = limits._replace(allowed=tuple(allowed))
        if limits == Constraints(allowed=limits.allowed):
            loaded = registry.load_model(plan.generator, "generator", changed)
            return Constrained(loaded.build, loaded.params, sizes)
        sizes = _possible(plan, limits, sizes)
        ready = keeping.ready(plan.generator, changed, limits, sorted(sizes))
    return Constrained(ready.generator, ready.params, sizes, ready.start, _broken(limits), _flag(limits))


def _retrieved(plan: Plan, config: dict[str, Any], allowed: tuple[int, ...]) -> Constrained:
    """A retrieval-based generator, which sets out from the plan's templates."""
    if not plan.templates:
        raise ValueError(
            f"generator: {plan.generator} exchanges elements in known structures; expected templates: PATH[:SPLIT] "
            "beside it, or one that draws from nothing, such as mp_20_wyckoff"
        )
    with as_keys():
        limits = keeping.wanted(options_of(plan)._replace(elements=(), forbid=()), config["elements"])
        limits = limits._replace(allowed=allowed)
        structures = retrieved.templates("templates", read_part(plan.templates), limits)
        sizes = _sizes_of_plan(plan, retrieved.sizes(structures))
        ready = retrieved.ready(plan.generator, {}, structures, limits)
    return Constrained(ready.generator, ready.params, sizes, ready.start, _broken(limits), _flag(limits))


def _sizes_of_plan(plan: Plan, of_generator: dict[Any, int]) -> dict[int, int]:
    sizes = {int(n): c for n, c in of_generator.items() if plan.min_atoms <= int(n) <= plan.max_atoms}
    if not sizes:
        known = sorted(map(int, of_generator))
        raise ValueError(f"max_atoms: {plan.max_atoms}; the generator knows {known[0]} to {known[-1]} atoms")
    if plan.max_atoms > (largest := max(map(int, of_generator))):
        say(f"crysjax: max_atoms: {plan.max_atoms}; {plan.generator} was trained on at most {largest} atoms and draws "
            "none larger", err=True)  # fmt: skip
    return sizes


def _possible(plan: Plan, limits: Constraints, sizes: dict[int, int]) -> dict[int, int]:
    """The sizes in which a crystal can keep the constraints; an error with what could be asked for if there is none."""
    unit, known = sum(limits.formula.values()), list(limits.allowed)
    if unit and not any(n % unit == 0 for n in sizes):
        raise ValueError(
            f"formula: {plan.formula} has units of {unit} atoms, and {min(sizes)} to {max(sizes)} atoms hold no whole "
            f"number of them; expected max_atoms of at least {unit}, or a smaller formula"
        )
    return keeping.sizes(limits, sizes, known)


def _broken(limits: Constraints) -> Callable[[Dataset], np.ndarray]:
    """What a candidate breaks; there should be none, and each that there is has been counted by its reason."""

    def broken(crystals: Dataset) -> np.ndarray:
        why = np.full(len(crystals), "", "<U80")
        for name, rows in reversed(violations(limits, crystals).items()):
            why[rows] = f"breaks the constraint {name}"
        return why

    return broken


def _flag(limits: Constraints) -> Callable[[Entry], str]:
    def flag(entry: Entry) -> str:
        one = datasets.from_entries([entry])
        found = violations(limits._replace(fixed=None), one, group_tolerance_angstrom=LOOSE_ANGSTROM)
        lost = [name for name, rows in found.items() if rows[0]]
        lost += ["fix, whose atoms were relaxed too"] if limits.fixed is not None else []
        return f"after relaxation it no longer keeps {', '.join(lost)}" if lost else ""

    return flag


def check_search(plan: Plan, made: Constrained) -> None:
    """An error where guidance searches a noise that has no positions and lattice."""
    if not plan.made("guidance").searches:
        return
    atoms = min(made.sizes)
    shape = batching.Capacity(atoms, max(atoms * (atoms - 1) // 2, 1), 1)
    pack = batching.pack_rows(draws.blank(np.array([atoms])), np.array([0]), shape)
    template = draws.restrict(pack, plan.numbers)
    noise = jax.eval_shape(made.generator.noise, jax.random.key(0), template)
    missing = [name for name in ("frac", "lattice") if name not in getattr(noise, "_fields", ())]
    if missing:
        raise ValueError(
            f"guidance: {plan.guidance}; the noise of the generator {plan.generator} has no {' and no '.join(missing)} "
            "to search; expected guidance: none or resample, or a generator such as mp_20_generator"
        )


def elements(plan: Plan, known: dict[str, Sequence[int]]) -> tuple[int, ...]:
    """Elements of the plan that all models know: those named one by one have to be, those of a list are left out."""
    left = set(plan.numbers)
    for model, numbers in known.items():
        strange = [z for z in plan.numbers if z not in set(numbers)]
        if named := [SYMBOLS[z - 1] for z in strange if SYMBOLS[z - 1] in plan.elements]:
            raise ValueError(f"elements: {named[0]}; the {model} {getattr(plan, model)} does not know it")
        left -= set(strange)
    if not left:
        raise ValueError(f"elements: {', '.join(plan.elements)}; the models know none of them")
    if gone := set(plan.numbers) - left:
        say(f"crysjax: {len(gone)} of the {len(plan.numbers)} elements of the plan are left out, which the models do "
            "not know", err=True)  # fmt: skip
    return tuple(sorted(left))
