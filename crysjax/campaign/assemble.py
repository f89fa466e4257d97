"""The models that a plan names, behind the plain functions that a round calls."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from crysjax.base import Params
from crysjax.campaign.density_target import DENSITY
from crysjax.campaign.judges import Judge
from crysjax.campaign.plan import Plan
from crysjax.campaign.round import Tools
from crysjax.data.readers.part import needs_no_file, read_part, with_split
from crysjax.models import references, registry
from crysjax.models.references import Reference
from crysjax.potentials.mlip import Potential
from crysjax.predictors.predictor import Predictor


class Models(NamedTuple):
    """The models that a plan names, loaded."""

    config: dict[str, Any]  # of the generator
    predictor: Predictor
    potential: Potential
    params: Params
    path: Path  # of the potential's file
    judge: Judge | None  # what has the last word, if that is not the potential
    reference: Reference | None  # what turns energies of judge or potential into formation energies
    elements: tuple[int, ...]  # that may occur and that all of them know


def models(plan: Plan) -> Models:
    """Load what a plan names; an error says which key named what cannot be had."""
    from crysjax.campaign import constrained, judges
    from crysjax.campaign.density_target import with_density
    from crysjax.campaign.hull_distance import with_hull

    with _naming("generator"):
        config = registry.read_config(registry.model_path(plan.generator, "generator"), "generator")
    with _naming("heads"):
        predictor, heads = registry.load_predictor(plan.heads)
    with _naming("potential"):
        potential, params, path = registry.load_potential(plan.potential)
    with _naming("judge"):
        last = judges.made(plan.made("judge"), plan.max_atoms)
    known_to = {"generator": config["elements"], "heads": heads["elements"], "potential": potential.numbers}
    known_to |= {"judge": last.potential.numbers} if last and last.potential else {}
    allowed = constrained.elements(plan, known_to)
    if plan.hull:
        with _naming("hull"):
            predictor = with_hull(predictor, read_table(plan, allowed))
    if DENSITY in plan.target:
        predictor = with_density(predictor)
    reference = last.reference if last else references.read_reference(path)
    return Models(config, predictor, potential, params, path, last, reference, allowed)


def assemble(plan: Plan) -> tuple[Tools, dict[str, Any]]:
    """The plan's models behind plain functions, and how the report names them."""
    from crysjax.campaign import constrained, measures, screens
    from crysjax.campaign import goals as targets
    from crysjax.campaign.inspect import inspector
    from crysjax.campaign.propose import proposer
    from crysjax.campaign.round import Tools, pack_shape
    from crysjax.campaign.validate import judge, judge_error, relaxer
    from crysjax.chemistry.elements import formula
    from crysjax.data.datasets import entries
    from crysjax.potentials.label import label

    found = models(plan)
    predictor, last, reference = found.predictor, found.judge, found.reference
    drawn = constrained.make(plan, found.elements)
    constrained.check_search(plan, drawn)
    goals = targets.goals(plan.target, predictor.names, predictor.scale)
    center, scale = (found.config["settings"].get(f"generator.property_{key}", ()) for key in ("center", "scale"))
    surrogate, guidance = plan.made("surrogate"), plan.made("guidance")
    _check_novelty(plan, predictor)
    with _naming("novel_to"):
        known = read_part(plan.novel_to) if plan.novel_to else None
    relax = relaxer(found.potential, found.params, steps=plan.relax_steps)
    _tell_of_references(plan, last, goals.names)
    own = measures.Asked(found.potential, found.params, plan.max_atoms)
    asked = own if not (last and last.potential) else own._replace(potential=last.potential, params=last.params)
    more = measures.made(plan.measure, asked)
    with _naming("gates"):
        gate = screens.made(plan.made("gates"), plan.max_atoms, plan.density_g_cm3)
    shape = pack_shape(drawn.sizes, -(-plan.validations // plan.rounds))
    tools = Tools(
        goals=goals,
        propose=proposer(guidance.guide(drawn.generator), predictor, goals, gate, surrogate,
                         acquire=plan.made("acquisition"), novelty_penalty=plan.novelty_penalty,
                         judge_error=judge_error(goals, reference)),
        generator=drawn.params, predictor=predictor, surrogate=surrogate, sizes=drawn.sizes,
        condition=targets.wanted(goals, found.config["properties"], center, scale),
        relax=relax, last=last, inspect=inspector(gate, shape, _flags(drawn.flag)),
        judge=judge(goals, predictor, shape, reference),
        known=frozenset(formula(entry.numbers) for entry in entries(known)) if known is not None else frozenset(),
        draws=guidance.draws, files=digests_of(plan), elements=found.elements, start=drawn.start, broken=drawn.broken,
        oracles=_oracles(plan, predictor, own, last) | more,
        measure=lambda crystals: measures.ask(more, crystals, plan.max_atoms),
    )  # fmt: skip
    return tools, _about(plan, tools, reference is not None) | {
        "label": partial(label, potential=asked.potential, params=asked.params),
        "level": level_of(plan, tools.files, found.path, last.file if last else None),
        "known": known,
        "above_hull": hull_judge(plan, predictor, shape, reference),
    }


def _flags(kept: Callable | None) -> dict[str, Callable]:
    """What is said of a relaxed crystal that is unusual; `kept` says which constraint it lost."""
    from crysjax.evaluation.chemistry import coordination_flag, oxidation_flag

    flags = {"oxidation": lambda entry: oxidation_flag(entry.numbers), "coordination": coordination_flag}
    return flags | ({"constraint": kept} if kept else {})


def _about(plan: Plan, tools: Tools, by_energy: bool) -> dict[str, Any]:
    """How the report names the models; `by_energy`: formation energies are those of the potential or the judge."""
    by = f"{plan.potential}, then {plan.judge}" if plan.judge else plan.potential
    names = {"generator": plan.generator, "heads": plan.heads, "potential": by}
    steered = "" if plan.guidance == "none" else ", which also steered the sampling"
    by_whom = f"the property heads {plan.heads}{steered}"
    if DENSITY in tools.goals.names:
        by_whom += ", except the density, which follows from the relaxed crystal"
    if by_energy:
        whose = f"the judge {plan.judge}" if plan.judge else "the potential"
        by_whom += f", except the formation energy, which is that of {whose}"
    return {
        "novelty_limit": tools.predictor.limit,
        "models": names,
        "judges": by_whom,
        "opinions": opinions(plan, tools.goals.names, by_energy),
    }


def level_of(plan: Plan, digests: dict[str, str], potential: Path, judge: Path | None) -> str:
    """The level of theory of energies and forces that come with the candidates: the judge's if it is a potential."""
    by_judge, by_potential = (plan.judge, judge, "judge"), (plan.potential, potential, "potential")
    name, file, role = by_judge if judge else by_potential
    digest = digests[f"{file.name} of the {role}"]
    return f"{name}, a machine-learned potential, no DFT (SHA-256 {digest})"


def hull_judge(plan: Plan, predictor: Any, shape: Any, reference: Any) -> Any:
    """What judges the distance to the plan's hull, where the target does not speak of it."""
    from crysjax.campaign import goals as targets
    from crysjax.campaign.hull_distance import ABOVE_HULL
    from crysjax.campaign.validate import judge

    if not plan.hull or ABOVE_HULL in plan.target:
        return None
    goals = targets.goals({ABOVE_HULL: targets.Goal("minimise")}, predictor.names, predictor.scale)
    return judge(goals, predictor, shape, reference)


def digests_of(plan: Plan) -> dict[str, str]:
    """SHA-256 of the files that the plan names: models, what is read beside them, known compositions and the hull."""
    from crysjax.campaign import judges
    from crysjax.data.readers import reading

    found = {}
    for role in ("generator", "heads", "potential"):
        path = registry.model_path(getattr(plan, role))
        beside = {"generator": path.with_name("sampling.json"), "potential": references.beside(path)}.get(role)
        files = (path, *([beside] if beside and beside.is_file() else []))
        found |= {f"{file.name} of the {role}": reading.digest(file) for file in files}
    for path in (registry.model_path(gate.model) for gate in plan.made("gates").more if gate.model):
        found[f"{path.name} of the gates"] = reading.digest(path)
    judging = plan.made("judge")
    if judging.name and not judges.is_calculator(judging.name):
        path = registry.model_path(judging.name)
        beside = None if judging.references else references.beside(path)
        found |= {f"{file.name} of the judge": reading.digest(file) for file in (path, beside) if file}
    elif judging.name and (path := judges.source_file(judging.name)):
        found[f"{path.name} of the judge"] = reading.digest(path)
    named = {key: [one for one in texts if one] for key, texts in
             {"novel_to": [plan.novel_to], "templates": [plan.templates], "hull": plan.hull, "fix": [plan.fix],
              "judge.references": [judging.references]}.items()}  # fmt: skip
    return found | {f"{text} of {key}": digest_of(text) for key, texts in named.items() for text in texts}


def _tell_of_references(plan: Plan, judge: Any, names: tuple[str, ...]) -> None:
    """Say so where a judge's energies are no formation energies."""
    from crysjax.campaign.hull_distance import ABOVE_HULL
    from crysjax.data.entry import FORMATION_ENERGY
    from crysjax.terminal import say

    if judge and judge.reference is None and {FORMATION_ENERGY, ABOVE_HULL} & set(names):
        say(f"crysjax: judge {plan.judge} has no reference energies of the elements, so that formation energies are "
            "those of the heads; judge.references gives them", err=True)  # fmt: skip


def _oracles(plan: Plan, predictor: Any, asked: Any, judge: Any) -> dict[str, Any]:
    """Heads, potential and judge with their price a call."""
    from crysjax.base import Oracle
    from crysjax.campaign import measures
    from crysjax.campaign.rows import PRICE
    from crysjax.data import batching

    def of_heads(crystals: Any) -> Any:
        return predictor.predict(predictor.params, batching.pack_stacked(crystals))

    (by_potential,) = measures.made(["energy_ev_per_atom"], asked).values()
    found = {"heads": Oracle(plan.heads, "as each property's name says", PRICE["scored"], of_heads),
             "potential": by_potential._replace(name=plan.potential, cost=PRICE["relaxed"])}  # fmt: skip
    return found | ({"judge": judge.oracle} if judge else {})


def digest_of(text: str) -> str:
    """SHA-256 of a file (`PATH` or `PATH:SPLIT`), of all files of a folder and their names, or of a named set."""
    from crysjax.data import digests
    from crysjax.data.readers import reading

    if needs_no_file(text):
        return digests.of_dataset(read_part(text))

    path = Path(text) if Path(text).exists() else Path(with_split(text)[0])
    if not path.is_dir():
        return reading.digest(path)
    listed = [f"{file.name} {reading.digest(file)}" for file in sorted(path.iterdir()) if file.is_file()]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def opinions(plan: Plan, names: tuple[str, ...], by_potential: bool) -> dict[str, str]:
    """Of each target property, who judged it and who else could be asked."""
    from importlib.util import find_spec

    from crysjax.campaign.hull_distance import ABOVE_HULL
    from crysjax.data.entry import FORMATION_ENERGY

    pulled = [n for n in registry.installed() if n.startswith("nequix")]
    by = "chgnet" if find_spec("chgnet") else pulled[0] if pulled else ""
    more = f"ask {by}, which is installed, by `crysjax judge`" if by else (
        "none is installed: `pip install chgnet` or `crysjax models pull nequix-mp-1`, then `crysjax judge`"
    )  # fmt: skip
    heads = f"the heads {plan.heads}" + (", which also chose" if plan.guidance == "none" else ", which also steered")
    whose = f"the judge {plan.judge}" if plan.judge else f"the potential {plan.potential}"
    judge = f"{whose}, which did not steer" if by_potential else heads
    said = {n: f"{heads}. No other judge but DFT" for n in names}
    said |= {n: f"{judge}. Another: {more}" for n in names if n in (FORMATION_ENERGY, ABOVE_HULL)}
    return said | ({DENSITY: "exact, of the relaxed crystal"} if DENSITY in names else {})


def read_table(plan: Plan, numbers: tuple[int, ...]) -> Any:
    """The hull of the plan's entries, of these elements alone, for use inside the round."""
    from crysjax.chemistry.elements import SYMBOLS
    from crysjax.physics.hull import hull
    from crysjax.physics.hull.read_hull import read_hull

    known = read_hull(list(plan.hull))
    symbols = tuple(SYMBOLS[z - 1] for z in numbers)
    # the heads' and the potential's formation energies are fitted to MP-20's
    return hull.traced(known, level=hull.MATERIALS_PROJECT_2021, elements=symbols)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Errors name the key of the plan that they come from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _check_novelty(plan: Plan, predictor: Any) -> None:
    """An error for a penalty on a novelty that the heads do not know."""
    if plan.novelty_penalty and (predictor.novelty is None or not math.isfinite(predictor.limit)):
        raise ValueError(
            f"novelty_penalty: {plan.novelty_penalty:g}; the heads {plan.heads} know no novelty; expected 0, or heads "
            "trained with novelty, such as mp_20_heads"
        )
