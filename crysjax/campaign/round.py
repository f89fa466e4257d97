"""One design round, read top to bottom, and the campaign that repeats it.

    sample -> guide -> screen -> score with uncertainty -> select under a budget -> relax and validate -> feed back

Every stage writes its rows to the ledger before the next begins. A finished round is written as one state file, and a
round is a function of the plan, that state and its number, so an interrupted campaign goes on exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import Condition, Oracle, Params, Surrogate, Views
from crysjax.campaign import goals as targets
from crysjax.campaign import interrupted, outside, predictive, store
from crysjax.campaign import outcomes as memory
from crysjax.campaign.goals import Goals, hit_probability, in_range
from crysjax.campaign.inspect import Inspected
from crysjax.campaign.judges import Judge
from crysjax.campaign.outcomes import Outcomes
from crysjax.campaign.plan import Plan, as_settings
from crysjax.campaign.predictive import Learned
from crysjax.campaign.propose import Proposal
from crysjax.campaign.rows import of_goals, rows
from crysjax.campaign.spending import Stopwatch, added, share, spent
from crysjax.campaign.validate import Judged, Relaxed
from crysjax.chemistry.elements import formula
from crysjax.crystallography import matching
from crysjax.data import batching, datasets, files
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset, entries
from crysjax.evaluation import gates, ledger
from crysjax.predictors.predictor import Predictor
from crysjax.sampling import draws
from crysjax.sampling.space_groups import DrawStart, Starter
from crysjax.surrogates.acquisition import select_batch

LEAST_OUTCOMES = 4  # validated candidates before the surrogate has a say
ROLES = {"heads", "potential", "judge"}  # of oracles; all others are measures
PAIRS = 2048  # of a pack, about: what fits the cache

Progress = Callable[[str, int, int], None]  # (what, done, total)
RoundProgress = Callable[[int, str, int, int], None]  # the same, after the number of the round
Say = Callable[[str], None]


class Tools(NamedTuple):
    """The models of a campaign behind plain functions; the command line makes them from the names in the plan."""

    goals: Goals
    propose: Callable[..., Proposal]
    generator: Params
    predictor: Predictor
    surrogate: Surrogate
    sizes: dict[int, int]  # number of atoms -> crystals in the generator's data
    condition: np.ndarray  # (k,) what the generator is asked for; NaN = nothing
    relax: Callable[[Dataset, Progress], Relaxed]  # by the potential
    inspect: Callable[[Dataset], Inspected]  # relaxed crystals -> whether they are possible still
    judge: Callable[[Dataset, np.ndarray], Judged]  # (relaxed crystals, eV/atom) -> target properties
    known: frozenset[str]  # reduced formulas that are not asked for
    draws: int  # network samples behind one candidate: a pool, or the steps of a search
    elements: tuple[int, ...] = ()  # that all models know; (): those of the plan
    start: Starter | None = None  # what a draw begins with
    broken: Callable[[Dataset], np.ndarray] | None = None  # crystals -> the constraint that each breaks, ""
    oracles: dict[str, Oracle] = {}  # noqa: RUF012  # role, or what is measured -> oracle; never written to
    measure: Callable[[Dataset], dict[str, np.ndarray]] = lambda crystals: {}  # relaxed crystals -> name -> (m,)
    files: dict[str, str] = {}  # noqa: RUF012  # of the models: name -> SHA-256; never written to
    last: Judge | None = None  # what relaxes after the potential, and whose energies count


class Drawn(NamedTuple):
    """All candidates of a round before validation: host arrays, one row per crystal."""

    crystals: Dataset
    proposal: Proposal  # without its packs


def run(
    plan: Plan, tools: Tools, folder: Path, *, resume: bool, progress: RoundProgress, say: Say = warnings.warn
) -> Outcomes:
    """All rounds; what a former run of the same plan left in `folder` is kept and not computed again.

    `say` is told if the newest state was damaged, so that a round is done again.
    """
    with files.alone(folder):
        if not resume:  # before the ledger: the rounds of a state have to be in it
            store.forget(folder / memory.STATE)
        former = memory.load(folder, as_settings(plan), tools.files, say)
        return _rounds(plan, tools, folder, former, resume=resume, progress=progress)


def _rounds(
    plan: Plan, tools: Tools, folder: Path, former: Outcomes | None, *, resume: bool, progress: RoundProgress
) -> Outcomes:
    book, settings = folder / memory.LEDGER, as_settings(plan)
    outcomes = former or memory.empty(len(tools.goals.names), tools.predictor.width)
    left = [row for row in ledger.read(book) if row.round >= outcomes.rounds]
    interrupted.begin(folder, left, fresh=not resume)
    passed = ledger.passed_stages(ledger.keep_rounds(book, outcomes.rounds))
    asked = settings | {"files": tools.files}
    tools = tools._replace(relax=interrupted.kept(tools.relax, tools.last, folder, asked))
    for number in range(outcomes.rounds, plan.rounds):
        outcomes, passed = design_round(plan, tools, outcomes, passed, book, partial(progress, number))
        memory.save(outcomes, folder, settings, tools.files)
    interrupted.finished(folder)
    return outcomes


def design_round(
    plan: Plan, tools: Tools, outcomes: Outcomes, passed: dict[str, int], book: Path, progress: Progress
) -> tuple[Outcomes, dict[str, int]]:
    """One round: what was learned before in, with this round's outcomes added out."""
    number, goals, clock = outcomes.rounds, tools.goals, Stopwatch()
    key_learn, key_draw = jax.random.split(jax.random.fold_in(jax.random.key(plan.seed), number))

    def record(stage: str, ids: np.ndarray, reason: np.ndarray, **found) -> np.ndarray:
        nonlocal passed
        passed = ledger.append(book, rows(stage, number, plan.seed, ids, reason, **found), passed)
        return np.flatnonzero(reason == "")

    learned = learn(plan, tools, outcomes, key_learn)
    clock("learn")
    drawn = draw(plan, tools, key_draw, number, learned, progress)
    ids, said = drawn.crystals.ids, drawn.proposal
    clock("sample, guide and predict")
    finite = np.where(np.isfinite(said.gated.volume_per_atom), "", "not finite")
    atoms = {"quantity": "atoms", "unit": "", "value": drawn.crystals.num_atoms}
    alive = record("sampled", ids, finite, **atoms, notes={"effective_particles": said.effective})
    why = screen(drawn, alive, outcomes, tools.known, tools.broken)
    alive = alive[record("screened", ids[alive], why, **measured(said.gated, alive))]
    hopeless = np.where(np.isfinite(said.worth[alive]), "", "no prediction")
    estimate = of_goals(goals, said.estimate.value[alive], said.estimate.std[alive])
    by_heads = {"p_hit_by_heads": hit_probability(goals, said.raw.value[alive], said.raw.std[alive])}
    limit = tools.predictor.limit
    by_heads |= outside.notes(None if said.novelty is None else said.novelty[alive], limit)
    alive = alive[record("scored", ids[alive], hopeless, **estimate, notes=by_heads)]
    chosen = select(plan, number, said, alive)
    budget = np.where(np.isin(alive, chosen), "", "outside the budget")
    record("selected", ids[alive], budget, quantity="log-acquisition", unit="", value=said.worth[alive])
    clock("screen and select")
    relaxed = tools.relax(datasets.take(drawn.crystals, np.sort(chosen)), progress)
    clock("relax")
    good = record(
        "relaxed", relaxed.crystals.ids, relaxed.reason, quantity="potential energy", unit="eV/atom",
        value=relaxed.energy, calls=relaxed.evaluations,
        properties={"max_force_ev_per_angstrom": (relaxed.max_force, None)},
    )  # fmt: skip
    kept, source = datasets.take(relaxed.crystals, good), np.sort(chosen)[good]
    judged, inspected = tools.judge(kept, relaxed.energy[good]), tools.inspect(kept)
    why = np.where(judged.valid | (inspected.reason != ""), inspected.reason, "no value")
    said_now = of_goals(goals, judged.value, judged.std)
    said_now["notes"] = inspected.notes | outside.notes(judged.novelty, limit) | tools.measure(kept)
    of_judge = relaxed.judged[good] * tools.oracles["judge"].cost if "judge" in tools.oracles else None
    true = record("validated", kept.ids, why, **said_now, more_cost=of_judge)
    clock("validate")
    source, good = source[true], good[true]
    outcomes = memory.extend(
        outcomes, datasets.take(kept, true), features=said.features[source], raw=said.raw.value[source],
        raw_std=said.raw.std[source], predicted=in_range(goals, said.estimate.value[source]),
        predicted_std=said.estimate.std[source],
        validated=judged.value[true], validated_std=judged.std[true], energy=relaxed.energy[good],
        max_force=relaxed.max_force[good],
    )  # fmt: skip
    calls = {"generator": plan.candidates * tools.draws, "heads": plan.candidates * tools.draws + len(kept)}
    calls["potential"] = int(relaxed.evaluations.sum())
    asked = calls | {"judge": int(np.sum(relaxed.judged))} | dict.fromkeys(tools.oracles.keys() - ROLES, len(kept))
    seconds = {"potential": clock.seconds["relax"] - relaxed.judge_seconds, "judge": relaxed.judge_seconds}
    seconds["heads"] = clock.seconds["sample, guide and predict"]  # of which the generator takes the most
    return outcomes._replace(
        rounds=number + 1, calls=added(outcomes.calls, calls), seconds=added(outcomes.seconds, clock.seconds),
        spent=spent(outcomes.spent, tools.oracles, asked, seconds),
    ), passed  # fmt: skip


def learn(plan: Plan, tools: Tools, outcomes: Outcomes, key: jax.Array) -> Learned:
    """The surrogate fitted to validated values in units of the heads' law, and the best value reached so far."""
    goals, room = tools.goals, plan.validations - len(outcomes.energy)
    features = np.pad(outcomes.features, ((0, room), (0, 0)))
    z = np.pad((outcomes.validated - outcomes.raw) / outcomes.raw_std, ((0, room), (0, 0)), constant_values=np.nan)
    slope = goals.sign / goals.unit
    inside = targets.meets(goals, outcomes.validated)
    reached = (outcomes.validated @ slope)[inside]
    center = np.asarray(tools.predictor.center, np.float32)[goals.column]
    best = float(reached.min()) if len(reached) else float(center @ slope)
    trust = float(len(outcomes.energy) >= LEAST_OUTCOMES)
    return predictive.learn(tools.surrogate, key, jnp.asarray(features), jnp.asarray(z), trust, best)


def draw(plan: Plan, tools: Tools, key: jax.Array, number: int, learned: Learned, progress: Progress) -> Drawn:
    """Candidates of sizes that the generator knows: sampled, steered, gated, predicted and weighed, pack by pack."""
    sizes = {n: c for n, c in tools.sizes.items() if plan.min_atoms <= n <= plan.max_atoms}
    drawn_sizes = np.sort(draws.draw_sizes(plan.seed + 7919 * number, sizes, plan.candidates))
    start = DrawStart(None, None, np.zeros(len(drawn_sizes), int))
    if tools.start is not None:
        start = tools.start(drawn_sizes, plan.seed + 7919 * number)
    ids = np.array([f"{number}-{i:04d}" for i in range(plan.candidates)])
    templates = replace(draws.blank(drawn_sizes, start.numbers), ids=ids)
    shape = pack_shape(sizes, plan.candidates)
    batch = batching.pack_dataset(templates, shape)
    packs, (tiles, slots) = draws.restrict(batch.pack, tools.elements or plan.numbers), batch.index.shape
    asked, found = jnp.tile(jnp.asarray(tools.condition, jnp.float32)[None], (slots, 1)), []
    for k, one in enumerate(jax.random.split(key, tiles)):
        progress("sample", k, tiles)
        template = jax.tree.map(lambda leaf, k=k: jnp.asarray(leaf[k]), packs)
        rows = batch.index[k]
        group = jnp.asarray(np.where(rows >= 0, start.group[rows], 0), jnp.int32)
        views = start.view(rows[rows >= 0], shape) if start.view else Views()
        condition = Condition(asked, group, *jax.tree.map(jnp.asarray, views))
        proposal = tools.propose(tools.generator, tools.predictor.params, one, template, condition, learned)
        found.append(jax.tree.map(np.asarray, proposal))
    progress("sample", tiles, tiles)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    used = batch.index >= 0
    order = np.argsort(batch.index[used])
    table = jax.tree.map(lambda leaf: leaf[used][order], stacked._replace(pack=None))
    return Drawn(batching.scatter_rows(templates, batch.index, stacked.pack), table)


def pack_shape(sizes: dict[int, int], candidates: int) -> Capacity:
    """One shape for all packs of a campaign, so that a round's candidates fill a whole number of packs.

    It follows from the histogram of sizes, not from what was drawn, with room for two standard deviations of a round's
    pairs; a round of still larger crystals takes one pack more.
    """
    common = np.repeat(list(sizes), np.maximum(1, np.array(list(sizes.values())) * 64 // sum(sizes.values())))
    of_each = common * (common - 1) / 2
    total = candidates * of_each.mean() + 2 * np.sqrt(candidates) * of_each.std()
    return batching.capacity(common, int(np.ceil(total / max(round(total / PAIRS), 1))))


def screen(
    drawn: Drawn, alive: np.ndarray, outcomes: Outcomes, known: frozenset[str],
    broken: Callable[[Dataset], np.ndarray] | None = None,
) -> np.ndarray:  # fmt: skip
    """Why a candidate of `alive` is not worth a prediction, "" for those that are.

    Gates, constraints that are broken, novelty, uniqueness.
    """
    gated = drawn.proposal.gated
    why = np.full(len(alive), "", dtype="<U80")
    for name, passed in reversed(gates.verdicts(gated).items()):  # the first that fails is the one that is named
        why[~passed[alive]] = gates.said(name)
    crystals = datasets.take(drawn.crystals, alive)
    if broken is not None:
        why = np.where(why == "", broken(crystals), why)
    familiar = np.array([formula(entry.numbers) in known for entry in entries(crystals)], bool)
    why[familiar & (why == "")] = "composition is known already"
    return unique(crystals, why, outcomes)


def unique(crystals: Dataset, why: np.ndarray, outcomes: Outcomes) -> np.ndarray:
    """`why` with candidates that equal an earlier one (of this round, or validated before) named as such."""
    place = np.flatnonzero(why == "")
    if not len(place):
        return why
    before = [] if outcomes.crystals is None else [outcomes.crystals]
    both = datasets.concatenate([*before, datasets.take(crystals, place)])
    first = matching.groups(both, processes=1)
    offset, why = len(both) - len(place), why.copy()
    twins = np.flatnonzero(first[offset:] != np.arange(offset, len(both)))
    why[place[twins]] = [f"equals {both.ids[first[offset + t]]}" for t in twins]
    return why


def select(plan: Plan, number: int, said: Proposal, alive: np.ndarray) -> np.ndarray:
    """Candidates worth their validation, high in acquisition and unlike each other, within this round's share."""
    most = share(plan.validations, plan.rounds, number)
    if not len(alive):
        return alive
    features = said.features[alive]
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    length = 0.1 * np.sqrt(features.shape[1])
    picked = select_batch(jnp.asarray(said.worth[alive]), jnp.asarray(features), min(most, len(alive)), length)
    return alive[np.asarray(picked)]


def measured(gated: gates.Gated, index: np.ndarray) -> dict:
    """What the gates measured, for the ledger."""
    found = {"volume_a3_per_atom": (gated.volume_per_atom[index], None), "closeness": (gated.closeness[index], None)}
    found |= {name: (held.value[index], None) for name, held in gated.more.items()}
    shortest = gated.distance_angstrom[index]
    return {"quantity": "shortest distance", "unit": "Å", "value": shortest, "properties": found}
