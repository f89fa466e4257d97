"""The models that a plan names, behind the plain functions that a round calls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from crysjax.campaign.plan import Plan
from crysjax.campaign.round import Tools
from crysjax.campaign.validate import read_reference
from crysjax.data.readers.part import read_part, with_split
from crysjax.models import registry
from crysjax.sampling import defaults

BESIDE = {"generator": ("sampling.json",), "potential": ("references.json", "{}.references.json")}
"""Files beside a model's own that a campaign reads as well."""


def assemble(plan: Plan) -> tuple[Tools, dict[str, Any]]:
    """The plan's models behind plain functions, and how the report names them."""
    from crysjax.campaign import goals as targets
    from crysjax.campaign.guide import draws, guide
    from crysjax.campaign.hull_distance import with_hull
    from crysjax.campaign.inspect import inspector
    from crysjax.campaign.propose import proposer
    from crysjax.campaign.round import Tools, pack_shape
    from crysjax.campaign.validate import judge, judge_error, relaxer
    from crysjax.chemistry.elements import formula
    from crysjax.data.datasets import entries
    from crysjax.evaluation.chemistry import coordination_flag, oxidation_flag
    from crysjax.evaluation.gates import gates
    from crysjax.potentials.label import label
    from crysjax.surrogates.gp import gp

    with _naming("generator"):
        model = defaults.load(plan.generator, False, {"generator.steps": plan.sample_steps})
    with _naming("heads"):
        predictor, heads = registry.load_predictor(plan.heads)
    if plan.hull:
        with _naming("hull"):
            predictor = with_hull(predictor, read_table(plan))
    with _naming("potential"):
        potential, params, path = registry.load_potential(plan.potential)
    _check_elements(plan, {"generator": model.config["elements"], "heads": heads["elements"],
                           "potential": potential.numbers})  # fmt: skip
    sizes = {int(n): c for n, c in model.config["sizes"].items() if plan.min_atoms <= int(n) <= plan.max_atoms}
    if not sizes:
        known = sorted(map(int, model.config["sizes"]))
        raise ValueError(f"max_atoms: {plan.max_atoms}; the generator knows {known[0]} to {known[-1]} atoms")
    goals = targets.goals(plan.target, predictor.names, predictor.scale)
    settings = model.config["settings"]
    center, scale = (settings[f"generator.property_{key}"] for key in ("center", "scale"))
    surrogate = gp(ard=False, capacity=plan.validations, unit_prior=True, observed=True)  # see campaign/predictive.py
    with _naming("novel_to"):
        known = read_part(plan.novel_to) if plan.novel_to else None
    reference, gate = read_reference(path), gates(max_atoms=plan.max_atoms)
    shape = pack_shape(sizes, -(-plan.validations // plan.rounds))
    flags = {"oxidation": lambda entry: oxidation_flag(entry.numbers), "coordination": coordination_flag}
    tools = Tools(
        goals=goals,
        propose=proposer(guide(model.build, plan), predictor, goals, gate, surrogate, exploration=plan.exploration,
                         judge_error=judge_error(goals, reference)),
        generator=model.params, predictor=predictor, surrogate=surrogate, sizes=sizes,
        condition=targets.wanted(goals, model.config["properties"], center, scale),
        relax=relaxer(potential, params, steps=plan.relax_steps), inspect=inspector(gate, shape, flags),
        judge=judge(goals, predictor, shape, reference),
        known=frozenset(formula(entry.numbers) for entry in entries(known)) if known is not None else frozenset(),
        draws=draws(plan), files=digests_of(plan),
    )  # fmt: skip
    names = {"generator": plan.generator, "heads": plan.heads, "potential": plan.potential}
    steered = "" if plan.guidance == "none" else ", which also steered the sampling"
    judges = f"the property heads {plan.heads}{steered}"
    if reference is not None:
        judges += ", except the formation energy, which is that of the potential"
    return tools, {
        "novelty_limit": predictor.limit,
        "models": names,
        "judges": judges,
        "opinions": opinions(plan, goals.names, reference is not None),
        "label": partial(label, potential=potential, params=params),
        "level": level_of(plan, tools.files[f"{path.name} of the potential"]),
        "known": known,
        "above_hull": hull_judge(plan, predictor, shape, reference),
    }


def level_of(plan: Plan, digest: str) -> str:
    """The level of theory of energies and forces that come with the candidates."""
    return f"{plan.potential}, a machine-learned potential, no DFT (SHA-256 {digest})"


def hull_judge(plan: Plan, predictor: Any, shape: Any, reference: Any) -> Any:
    """What judges the distance to the plan's hull, where the target does not speak of it."""
    from crysjax.campaign import goals as targets
    from crysjax.campaign.hull_distance import ABOVE_HULL
    from crysjax.campaign.plan import Goal
    from crysjax.campaign.validate import judge

    if not plan.hull or ABOVE_HULL in plan.target:
        return None
    goals = targets.goals({ABOVE_HULL: Goal("minimise")}, predictor.names, predictor.scale)
    return judge(goals, predictor, shape, reference)


def digests_of(plan: Plan) -> dict[str, str]:
    """SHA-256 of the files that the plan names: models, what is read beside them, known compositions and the hull."""
    from crysjax.data.readers import reading

    found = {}
    for role in ("generator", "heads", "potential"):
        path = registry.model_path(getattr(plan, role))
        beside = (path.with_name(name.format(path.stem)) for name in BESIDE.get(role, ()))
        found |= {f"{file.name} of the {role}": reading.digest(file) for file in (path, *beside) if file.is_file()}
    named = {"novel_to": [plan.novel_to] if plan.novel_to else [], "hull": plan.hull}
    return found | {f"{text} of {key}": digest_of(text) for key, texts in named.items() for text in texts}


def digest_of(text: str) -> str:
    """SHA-256 of a file (`PATH` or `PATH:SPLIT`), or of all files of a folder and their names."""
    from crysjax.data.readers import reading

    path = Path(text) if Path(text).exists() else Path(with_split(text)[0])
    if not path.is_dir():
        return reading.digest(path)
    listed = [f"{file.name} {reading.digest(file)}" for file in sorted(path.iterdir()) if file.is_file()]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def opinions(plan: Plan, names: tuple[str, ...], by_potential: bool) -> dict[str, str]:
    """Of each target property, who judged it and who else could be asked."""
    from importlib.util import find_spec

    from crysjax.campaign.hull_distance import ABOVE_HULL
    from crysjax.physics.hull.hull import FORMATION_ENERGY

    pulled = [n for n in registry.installed() if n.startswith("nequix")]
    by = "chgnet" if find_spec("chgnet") else pulled[0] if pulled else ""
    more = f"ask {by}, which is installed, by `crysjax judge`" if by else (
        "none is installed: `pip install chgnet` or `crysjax models pull nequix-mp-1`, then `crysjax judge`"
    )  # fmt: skip
    heads = f"the heads {plan.heads}" + (", which also chose" if plan.guidance == "none" else ", which also steered")
    judge = f"the potential {plan.potential}, which did not steer" if by_potential else heads
    energies = (FORMATION_ENERGY, ABOVE_HULL)
    return {n: f"{judge}. Another: {more}" if n in energies else f"{heads}. No other judge but DFT" for n in names}


def read_table(plan: Plan) -> Any:
    """The hull of the plan's entries, of its elements alone, for use inside the round."""
    from crysjax.chemistry.elements import SYMBOLS
    from crysjax.physics.hull import hull
    from crysjax.physics.hull.read_hull import read_hull

    known = read_hull(list(plan.hull))
    symbols = tuple(SYMBOLS[z - 1] for z in plan.elements)
    # the heads' and the potential's formation energies are fitted to MP-20's
    return hull.traced(known, level=hull.MATERIALS_PROJECT_2021, elements=symbols)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Errors name the key of the plan that they come from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _check_elements(plan: Plan, known: dict[str, Any]) -> None:
    from crysjax.chemistry.elements import SYMBOLS

    for model, numbers in known.items():
        strange = [SYMBOLS[z - 1] for z in plan.elements if z not in set(numbers)]
        if strange:
            raise ValueError(f"elements: {strange[0]}; the {model} {getattr(plan, model)} does not know it")
