"""Constraints of `crysjax sample`: options in, what the sampler needs out, and a last look at what came of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from crysjax.data.readers.part import read_part
from crysjax.models import families
from crysjax.sampling import space_groups
from crysjax.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.constraints.constraints import Constraints
    from crysjax.data.datasets import Dataset


class Options(NamedTuple):
    """What was said on the command line; the defaults ask for nothing."""

    formula: str = ""
    elements: str = ""
    forbid: str = ""
    num_elements: str = ""
    neutral: bool = False
    fix: str = ""
    fix_cell: bool = False
    min_distance: float = 0.0
    space_group: int = 0
    require: str = ""

    def asked(self) -> list[str]:
        """The options that were given, as they are written."""
        return [f"--{k.replace('_', '-')}" for k, v in self._asdict().items() if v]


def wanted(options: Options, known: list[int]) -> Constraints:
    """The constraints that the options mean; elements have to be among those that the model knows."""
    from crysjax.chemistry.oxidation import common_states
    from crysjax.constraints.constraints import Constraints

    check(options)
    return Constraints(
        formula=formula_counts(options.formula, known),
        allowed=symbols("--elements", options.elements, known),
        forbidden=symbols("--forbid", options.forbid, None),
        num_elements=_range(options.num_elements),
        states=common_states() if options.neutral else None,
        fixed=_fixed(options.fix, options.fix_cell),
        min_distance_angstrom=options.min_distance,
        required=symbols("--require", options.require, known),
        space_group=options.space_group,
    )


def check(options: Options) -> None:
    """An error for options that cannot hold together, whatever the model."""
    if options.fix_cell and not options.fix:
        raise ValueError("--fix-cell: expected --fix FILE beside it")
    if options.space_group:
        _beside_group(options)


def _beside_group(options: Options) -> None:
    """An error for what cannot be kept together with a space group."""
    if options.fix:
        raise ValueError(
            "--space-group: expected no --fix beside it, for the operations would move the fixed atoms; leave out "
            "--fix, or draw with --fix alone and keep those of the group (`crysjax data space-groups`)"
        )
    if options.require and not options.formula:
        raise ValueError("--space-group: expected no --require beside it, unless a --formula says the composition")


def by_rejection(limits: Constraints) -> Constraints:
    """What is kept of a space group's samples by drawing those again that break it: nothing else is built in.

    Distances would be kept by moving atoms, which breaks the group; the number of elements and neutrality belong to
    compositions, which orbits decide where no formula does.
    """
    from crysjax.constraints.constraints import Constraints

    if not limits.space_group:
        return Constraints()
    composition = {} if limits.formula else {"num_elements": limits.num_elements, "states": limits.states}
    return Constraints(min_distance_angstrom=limits.min_distance_angstrom, **composition)


def drawn_by(limits: Constraints) -> Constraints:
    """The constraints without those that are kept by rejection."""
    rejected = by_rejection(limits)
    gone = {name: getattr(type(limits)(), name) for name in ("min_distance_angstrom", "num_elements", "states")
            if getattr(rejected, name)}  # fmt: skip
    return limits._replace(**gone)


def beside_like(options: Options) -> None:
    """An error for what would contradict `--like`."""
    others = [name for name in options.asked() if name != "--min-distance"]
    if others:
        raise ValueError(f"--like: gives the composition; expected no {', '.join(others)} beside it")


def sizes(limits: Constraints, of_model: dict[int, int], known: list[int]) -> dict[int, int]:
    """The sizes that the model knows and the constraints leave: whole units of a formula, room for what is asked.

    Where none can meet the constraints all are left, so that their refusal says why.
    """
    from crysjax.constraints.constraints import possible_sizes

    unit = sum(limits.formula.values()) or 1
    if limits.space_group:
        return _sizes_of_group(limits, of_model)
    fixed = 0 if limits.fixed is None else len(limits.fixed.numbers)
    elements = max((limits.num_elements or (0,))[0], len(limits.required))
    fit = {n: count for n, count in of_model.items() if n % unit == 0 and n >= max(fixed, elements)}
    if not fit:
        what = f"units of {unit} atoms" if limits.formula else f"at least {max(fixed, elements)} atoms"
        raise ValueError(f"expected {what}; the model knows {min(of_model)} to {max(of_model)} atoms per crystal")
    if limits.formula or (limits.num_elements is None and limits.states is None and not limits.required):
        return fit
    possible = possible_sizes(limits, list(fit), known=known)
    return {n: fit[n] for n in possible} or fit


def _sizes_of_group(limits: Constraints, of_model: dict[int, int]) -> dict[int, int]:
    """The sizes that positions of the group add up to; the refusal of the smallest if none does."""
    from crysjax.constraints import space_group

    fit = {n: space_group.composition(limits.formula, n) for n in sorted(of_model)}
    fit = {n: made for n, made in fit.items() if made}
    if not fit:
        unit = sum(limits.formula.values())
        raise ValueError(
            f"expected units of {unit} atoms; the model knows {min(of_model)} to {max(of_model)} atoms per crystal"
        )
    found = {n: of_model[n] for n, made in fit.items() if space_group.possible(limits.space_group, made)}
    if not found:
        space_group.draw_orbits(limits.space_group, list(fit.values()))
    return found


class Ready(NamedTuple):
    """What samples are drawn with."""

    generator: Any
    params: Any
    start: Callable[[np.ndarray, int], tuple[Dataset, Any]]  # (rows, how often before) -> their templates and view
    elements: tuple[int, ...] | None = None  # that free sites may take, where the generator does not know it


def ready(model: str, changed: dict[str, Any], limits: Constraints, templates: Dataset, *, seed: int = 0) -> Ready:
    """The generator that keeps the constraints in crystals of the templates' sizes.

    Families that have a `constraint` of their own are built with it; a group that is not theirs by construction is
    kept by orbits that are drawn for every template.
    """
    from crysjax.constraints.constraints import Constraints, compiled, constrain
    from crysjax.data import datasets
    from crysjax.models import registry

    config = registry.read_config(registry.model_path(model), "generator")
    of_family = families.named(config["settings"])
    constraint, native = None, False
    if limits._replace(min_distance_angstrom=0.0) != Constraints():
        constraint = compiled(limits, templates.num_atoms.tolist(), known=config["elements"])
        native = "constraint" in inspect.signature(families.factory(of_family)).parameters
    if limits.space_group and not space_groups.by_construction(config):
        return Ready(
            *space_groups.kept_by_orbits(
                registry.load_model(model, "generator", changed), native, limits, templates, seed
            )
        )
    changed = changed | ({"generator.constraint": constraint} if native else {})
    loaded, build = registry.load_model(model, "generator", changed), None
    if constraint is not None or limits.min_distance_angstrom > 0:
        distance = limits.min_distance_angstrom
        build = constrain(loaded.build, constraint, min_distance_angstrom=distance, native=native)
    return Ready(build or loaded.build, loaded.params, lambda rows, again: (datasets.take(templates, rows), None))


def broken(limits: Constraints, drawn: Dataset) -> np.ndarray:
    """Which samples break the constraints: (m,) bool."""
    import numpy as np

    from crysjax.constraints.constraints import Constraints, violations

    return np.zeros(len(drawn), bool) if limits == Constraints() else np.any([*violations(limits, drawn).values()], 0)


def kept(limits: Constraints, drawn: Dataset) -> Dataset:
    """The samples that keep the constraints; how many did not, and why, is said on standard error."""
    import numpy as np

    from crysjax.constraints.constraints import violations
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


def symbols(option: str, text: str, known: list[int] | None) -> tuple[int, ...]:
    """Atomic numbers of a list of symbols, all of which the model has to know (`None`: need not)."""
    from crysjax.chemistry import elements

    found = []
    for symbol in (part.strip() for part in text.split(",") if text):
        number = elements.NUMBERS.get(symbol)
        if number is None:
            raise ValueError(f"{option} {text}: {symbol!r} is not a chemical element from H to Fm")
        if known is not None and number not in known:
            raise ValueError(f"{option} {text}: the model was not trained on {symbol}")
        found.append(number)
    return tuple(sorted(set(found)))


def formula_counts(text: str, known: list[int] | None) -> dict[int, int]:
    """Atomic number -> how many, of a formula such as LiFePO4; elements have to be among those that are known."""
    if not re.fullmatch(r"([A-Z][a-z]?[0-9]*)*", text):
        raise ValueError(f"--formula {text}: expected symbols and whole numbers, such as LiFePO4")
    counts: dict[int, int] = {}
    for symbol, count in re.findall(r"([A-Z][a-z]?)([0-9]*)", text):
        (number,) = symbols("--formula", symbol, known)
        counts[number] = counts.get(number, 0) + int(count or 1)
    if 0 in counts.values():
        raise ValueError(f"--formula {text}: expected numbers from 1")
    return counts


def _range(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    low, _, high = text.partition(":")
    if not (low.isdecimal() and (high or low).isdecimal()) or text.endswith(":"):
        raise ValueError(f"--num-elements {text}: expected NUMBER or LOW:HIGH")
    return int(low), int(high or low)


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
