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
from crysjax.campaign.constraint_keys import as_keys, options_of
from crysjax.campaign.plan import Plan
from crysjax.chemistry.elements import SYMBOLS
from crysjax.constraints import constraints as rules
from crysjax.constraints import space_group as groups_of
from crysjax.constraints.constraints import Constraints
from crysjax.crystallography.operations import has_group
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.evaluation.metrics.symmetry import crystal_system
from crysjax.models import families, registry
from crysjax.sampling import defaults, draws, options, space_groups
from crysjax.terminal import say

LOOSE_ANGSTROM = 0.1  # by which a relaxed crystal may miss an operation of its space group


class Start(NamedTuple):
    """What a draw begins with; one row per crystal."""

    numbers: np.ndarray | None  # (sites,) atomic numbers of the templates, 0 = free; None: all free
    view: Callable | None  # (rows, shape) -> `Condition.view`
    group: np.ndarray  # (m,) the space group that the generator is told, 0 = none


class Constrained(NamedTuple):
    """A generator that keeps the constraints of a plan, and what belongs to it."""

    generator: Generator
    params: Params
    sizes: dict[int, int]  # number of atoms -> crystals in the generator's data
    start: Callable[[np.ndarray, int], Start] | None = None  # (sizes (m,), seed) -> how to begin; None: with nothing
    broken: Callable[[Dataset], np.ndarray] | None = None  # crystals -> the first constraint that each breaks, or ""
    flag: Callable[[Entry], str] | None = None  # relaxed crystal -> what it lost, in words


def make(plan: Plan, allowed: Sequence[int]) -> Constrained:
    """The plan's generator, keeping its constraints; an error says what it cannot keep and what can be had instead.

    `allowed`: atomic numbers that may occur and that all models know (`elements`).
    """
    path = registry.model_path(plan.generator)
    config = registry.read_config(path, "generator")
    if config["settings"].get("family") == "retrieval":
        raise ValueError(
            f"generator: {plan.generator} looks crystals of given compositions up; expected one that draws freely, "
            "such as mp_20_generator or mp_20_wyckoff"
        )
    sizes = _sizes_of_plan(plan, config)
    of_family = families.factory(families.named(config["settings"]))
    steps = {"generator.steps": plan.sample_steps} if "steps" in inspect.signature(of_family).parameters else {}
    changed = defaults.defaults(path, plan.generator, False) | steps
    groups = _groups(plan)
    known = list(allowed)
    with as_keys():
        limits = options.wanted(options_of(plan, groups[0] if groups else 0), config["elements"])
        limits = limits._replace(allowed=tuple(known))
        if limits == Constraints(allowed=limits.allowed):
            loaded = registry.load_model(plan.generator, "generator", changed)
            return Constrained(loaded.build, loaded.params, sizes)
        sizes = _possible(plan, limits, groups, sizes, known)
        inside = space_groups.by_construction(config)
        if groups and not inside:
            native = "constraint" in inspect.signature(of_family).parameters
            loaded = registry.load_model(plan.generator, "generator", changed)
            generator, params = groups_of.in_group(loaded.build, native=native), loaded.params
        else:
            blank = draws.blank(np.array(sorted(sizes)))
            generator, params, *_ = options.ready(plan.generator, changed, limits, blank, seed=plan.seed)
    told = space_groups.told_group(config)
    start = _starter(limits, groups, told=told, orbits=not inside) if groups else None
    return Constrained(generator, params, sizes, start, _broken(limits, groups), _flag(limits, groups))


def _sizes_of_plan(plan: Plan, config: dict[str, Any]) -> dict[int, int]:
    sizes = {int(n): c for n, c in config["sizes"].items() if plan.min_atoms <= int(n) <= plan.max_atoms}
    if not sizes:
        known = sorted(map(int, config["sizes"]))
        raise ValueError(f"max_atoms: {plan.max_atoms}; the generator knows {known[0]} to {known[-1]} atoms")
    if plan.max_atoms > (largest := max(map(int, config["sizes"]))):
        say(f"crysjax: max_atoms: {plan.max_atoms}; {plan.generator} was trained on at most {largest} atoms and draws "
            "none larger", err=True)  # fmt: skip
    return sizes


def _groups(plan: Plan) -> tuple[int, ...]:
    """The space groups that a crystal may have; () = any."""
    if plan.space_group:
        return (plan.space_group,)
    numbers = np.arange(1, 231)
    return tuple(numbers[crystal_system(numbers) == plan.crystal_system].tolist()) if plan.crystal_system else ()


def _possible(
    plan: Plan, limits: Constraints, groups: tuple[int, ...], sizes: dict[int, int], known: list[int]
) -> dict[int, int]:
    """The sizes in which a crystal can keep the constraints; an error with what could be asked for if there is none."""
    free = limits._replace(space_group=0)
    unit = sum(limits.formula.values())
    if unit and not any(n % unit == 0 for n in sizes):
        raise ValueError(
            f"formula: {plan.formula} has units of {unit} atoms, and {min(sizes)} to {max(sizes)} atoms hold no whole "
            f"number of them; expected max_atoms of at least {unit}, or a smaller formula"
        )
    sizes = options.sizes(free, sizes, known)
    rules.compiled(free, sorted(sizes), known=known)  # for its refusals
    if not groups:
        return sizes
    made = {n: groups_of.composition(limits.formula, n) for n in sizes}
    found = {n: sizes[n] for n, of in made.items() if any(groups_of.possible(g, of) for g in groups)}
    if found:
        return found
    instead = [g for g in range(230, 0, -1) if any(groups_of.possible(g, of) for of in made.values())][:5]
    asked = f"space_group: {plan.space_group}" if plan.space_group else f"crystal_system: {plan.crystal_system}"
    what = plan.formula or "free species"
    raise ValueError(
        f"{asked}; no positions add up to {what} in {min(sizes)} to {max(sizes)} atoms; groups that have them: "
        f"{', '.join(map(str, instead))} and others; or change the formula, min_atoms or max_atoms"
    )


def _starter(
    limits: Constraints, groups: tuple[int, ...], *, told: bool, orbits: bool
) -> Callable[[np.ndarray, int], Start]:
    """A group for every crystal, evenly among those that its composition can have, and orbits where they are needed."""

    def start(sizes: np.ndarray, seed: int) -> Start:
        made = [groups_of.composition(limits.formula, int(n)) for n in sizes]
        rng = np.random.default_rng((seed, 230))
        fit = {n: [g for g in groups if groups_of.possible(g, of)] for n, of in zip(sizes.tolist(), made)}
        group = np.array([rng.choice(fit[n]) for n in sizes.tolist()])
        said = group if told else np.zeros_like(group)
        if not orbits:
            return Start(None, None, said)
        drawn: dict[int, groups_of.Orbits] = {}
        for g in np.unique(group):
            rows = np.flatnonzero(group == g)
            drawn |= dict(zip(rows.tolist(), groups_of.draw_orbits(int(g), [made[k] for k in rows], seed=seed)))
        each = [drawn[k] for k in range(len(sizes))]
        return Start(np.concatenate([groups_of.sites_of(one) for one in each]), groups_of.orbits_view(each), said)

    return start


def _in_group(entry: Entry, groups: tuple[int, ...], tolerance: float) -> bool:
    return not groups or any(has_group(entry, g, tolerance_angstrom=tolerance) for g in groups)


def _broken(limits: Constraints, groups: tuple[int, ...]) -> Callable[[Dataset], np.ndarray]:
    """What a candidate breaks; there should be none, and each that there is has been counted by its reason."""

    def broken(crystals: Dataset) -> np.ndarray:
        why = np.full(len(crystals), "", "<U80")
        found = rules.violations(limits._replace(space_group=0), crystals)
        found["space_group"] = np.array([not _in_group(e, groups, 0.01) for e in entries(crystals)], bool)
        for name, rows in reversed(found.items()):
            why[rows] = f"breaks the constraint {name}"
        return why

    return broken


def _flag(limits: Constraints, groups: tuple[int, ...]) -> Callable[[Entry], str]:
    def flag(entry: Entry) -> str:
        found = rules.violations(limits._replace(space_group=0, fixed=None), datasets.from_entries([entry]))
        lost = [name for name, rows in found.items() if rows[0]]
        lost += [] if _in_group(entry, groups, LOOSE_ANGSTROM) else ["space_group"]
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
