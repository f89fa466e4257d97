"""How constraints are kept: what users ask for in, what samplers need out, and a last look at what came of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from crysjax.chemistry.element_lists import LISTS
from crysjax.data.readers.part import read_part
from crysjax.models import families
from crysjax.sampling import options, space_groups
from crysjax.sampling.options import Options
from crysjax.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.constraints.constraints import Constraints
    from crysjax.data.datasets import Dataset


def wanted(asked: Options, known: Sequence[int]) -> Constraints:
    """The constraints that the options mean; elements have to be among those that the model knows.

    Of a list of elements, those that the model does not know are left out.
    """
    from crysjax.chemistry.oxidation import common_states
    from crysjax.constraints.constraints import Constraints

    asked = options.unified(asked)
    number, density = asked.num_elements, asked.density_g_cm3
    return Constraints(
        formula=options.formula_counts(asked.formula, known),
        allowed=_numbers("--elements", asked.elements, known),
        forbidden=_numbers("--forbid", asked.forbid, None),
        num_elements=(number, number) if isinstance(number, int) and number else number or None,
        states=common_states() if asked.neutral else None,
        fixed=_fixed(asked.fix, asked.fix_cell),
        min_distance_angstrom=asked.min_distance,
        required=_numbers("--require", asked.require, known),
        space_groups=space_groups.asked(asked),
        density_g_cm3=tuple(e if s is None else s for s, e in zip(density, (-math.inf, math.inf))) or None,
    )


def _numbers(option: str, symbols: Sequence[str], known: Sequence[int] | None) -> tuple[int, ...]:
    """Atomic numbers of symbols, all of which the model has to know, and of lists, of which it may know a part."""
    found = {options.atomic_number(option, one, known) for one in symbols if one not in LISTS}
    listed = {options.atomic_number(option, s, None) for one in symbols for s in LISTS.get(one, ())}
    left = listed if known is None else listed & set(known)
    if len(left) < len(listed):
        say(f"crysjax: {option}: {len(listed - left)} of the {len(listed)} elements of {', '.join(symbols)} are left "
            "out, which the model was not trained on", err=True)  # fmt: skip
    return tuple(sorted(found | left))


def by_rejection(limits: Constraints) -> Constraints:
    """What is kept by drawing those samples again that break it: densities, and more in a space group.

    There distances would be kept by moving atoms, which breaks the group; the number of elements and neutrality belong
    to compositions, which orbits decide where no formula does.
    """
    from crysjax.constraints.constraints import Constraints

    found = Constraints(density_g_cm3=limits.density_g_cm3)
    if not limits.space_groups:
        return found
    composition = {} if limits.formula else {"num_elements": limits.num_elements, "states": limits.states}
    return found._replace(min_distance_angstrom=limits.min_distance_angstrom, **composition)


def drawn_by(limits: Constraints) -> Constraints:
    """The constraints without those that are kept by rejection."""
    rejected = by_rejection(limits)
    names = ("min_distance_angstrom", "num_elements", "states", "density_g_cm3")
    return limits._replace(**{name: getattr(type(limits)(), name) for name in names if getattr(rejected, name)})


def sizes(limits: Constraints, of_model: dict[int, int], known: list[int]) -> dict[int, int]:
    """The sizes that the model knows and the constraints leave: whole units of a formula, room for what is asked.

    Where none can meet the constraints all are left, so that their refusal says why.
    """
    from crysjax.constraints.constraints import counts, possible_sizes

    unit = sum(limits.formula.values()) or 1
    fixed = {} if limits.fixed is None else counts(limits.fixed.numbers)
    units = max((-(-fixed.get(z, 0) // count) for z, count in limits.formula.items()), default=0)
    least = max(sum(fixed.values()), (limits.num_elements or (0,))[0], len(limits.required), units * unit)
    fit = {n: count for n, count in of_model.items() if n % unit == 0 and n >= least}
    if not fit:
        what = f"--formula: a unit has {unit} atoms" if limits.formula else f"needs at least {least} atoms"
        what += f", and at least {least} are needed" * bool(limits.formula and least > unit)
        raise ValueError(f"{what}; the model draws cells of {min(of_model)} to {max(of_model)} atoms here")
    if not (limits.formula or (limits.num_elements is None and limits.states is None and not limits.required)):
        fit = {n: fit[n] for n in possible_sizes(limits, list(fit), known=known)} or fit
    return space_groups.sizes(limits, fit) if limits.space_groups else fit


class Ready(NamedTuple):
    """What samples are drawn with."""

    generator: Any
    params: Any
    start: space_groups.Starter | None = None  # None: with nothing but sizes
    elements: tuple[int, ...] | None = None  # that free sites may take, where the generator does not know it


def ready(model: str, changed: dict[str, Any], limits: Constraints, of_sizes: list[int]) -> Ready:
    """The generator that keeps the constraints in crystals of these sizes.

    Families that have a `constraint` of their own are built with it; a group that is not theirs by construction is
    kept by orbits that are drawn for every crystal.
    """
    from crysjax.constraints.constraints import Constraints, compiled, constrain
    from crysjax.constraints.space_group import in_group
    from crysjax.models import registry

    config = registry.read_config(registry.model_path(model, "generator"), "generator")
    of_family, distance = families.named(config["settings"]), limits.min_distance_angstrom
    constraint, native = None, False
    if limits._replace(min_distance_angstrom=0.0) != Constraints():
        constraint = compiled(limits, of_sizes, known=config["elements"])
        native = "constraint" in inspect.signature(families.factory(of_family)).parameters
    start = space_groups.starter(limits, config) if limits.space_groups else None
    if start is not None and not space_groups.by_construction(config):
        loaded = registry.load_model(model, "generator", changed)
        left = set(limits.allowed or loaded.config["elements"]) - set(limits.forbidden)
        return Ready(in_group(loaded.build, native=native), loaded.params, start, tuple(sorted(left)))
    changed = changed | ({"generator.constraint": constraint} if native else {})
    loaded = registry.load_model(model, "generator", changed)
    build = loaded.build
    if constraint is not None or distance > 0:
        build = constrain(build, constraint, min_distance_angstrom=distance, native=native)
    return Ready(build, loaded.params, start)


def broken(limits: Constraints, drawn: Dataset) -> np.ndarray:
    """Which samples break the constraints: (m,) bool."""
    import numpy as np

    from crysjax.constraints.constraints import Constraints
    from crysjax.constraints.violations import violations

    return np.zeros(len(drawn), bool) if limits == Constraints() else np.any([*violations(limits, drawn).values()], 0)


def kept(limits: Constraints, drawn: Dataset) -> Dataset:
    """The samples that keep the constraints; how many did not, and why, is said on standard error."""
    import numpy as np

    from crysjax.constraints.violations import violations
    from crysjax.data import datasets

    broken = violations(limits, drawn)
    bad = np.any(list(broken.values()), 0)
    if not bad.any():
        return drawn
    why = ", ".join(f"{name} {rows.sum()}" for name, rows in broken.items() if rows.any())
    say(f"crysjax: {bad.sum()} of {len(drawn)} samples are left out, they break: {why}", err=True)
    if bad.all():
        raise ValueError("no sample keeps the constraints")
    return datasets.take(drawn, ~bad)


def _fixed(path: str, cell: bool) -> Any:
    from crysjax.constraints.constraint import Fixed
    from crysjax.crystallography import standard_cells
    from crysjax.data import datasets

    if not path:
        return None
    found = read_part(path)
    if len(found) != 1:
        raise ValueError(f"--fix {path}: {len(found)} crystals; expected one")
    (given,) = datasets.entries(found)
    entry = standard_cells.reduced(given)
    if entry is not given:
        say(f"crysjax: --fix {path}: its cell is not reduced; its atoms are given in the reduced cell of the same "
            "lattice, the kind that generators know", err=True)  # fmt: skip
    return Fixed(entry.numbers.astype(int), entry.frac, entry.lattice if cell else None)
