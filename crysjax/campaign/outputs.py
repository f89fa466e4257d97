"""What a campaign hands over: ranked structures, a summary and the report, next to the ledger that it kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.campaign import interrupted, outside, ranking
from crysjax.campaign import structures as structure_files
from crysjax.campaign.goals import Goals, hit_probability, meets, objective
from crysjax.campaign.hull_distance import ABOVE_HULL
from crysjax.campaign.outcomes import LEDGER, Outcomes, ranked
from crysjax.campaign.plan import Plan, as_settings
from crysjax.campaign.spending import unspent
from crysjax.campaign.validate import Judged
from crysjax.campaign.warnings import warnings
from crysjax.crystallography import matching, symmetrized
from crysjax.data import datasets, files
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.evaluation import hits, ledger
from crysjax.reports import record, report
from crysjax.reports.report import Shown

CAVEAT = (
    "Validated means: relaxed with {potential}, a machine-learned potential, and judged on the relaxed structure by "
    "{judges}. No density functional theory was done: take these as candidates for it, not as results."
)


def write(
    folder: Path, plan: Plan, goals: Goals, outcomes: Outcomes, *, models: dict[str, str], judges: str,
    opinions: dict[str, str], novelty_limit: float = np.inf, label: Callable[[Dataset], Dataset] | None = None,
    level: str = "", known: Dataset | None = None, above_hull: Callable[[Dataset, np.ndarray], Judged] | None = None,
) -> dict:  # fmt: skip
    """Write all outputs and return the summary. Everything but the ledger is made anew from the outcomes.

    `opinions` says of each target property who judged it and who else could; `novelty_limit` is that of the heads
    (`campaign.outside`), infinite where they know none. `label` gives crystals the potential's energy, forces and
    stress, of the level of theory `level`; `known` are the crystals to compare with; `above_hull` judges the distance
    to the hull where the target does not speak of it.
    """
    rows = ledger.read(folder / LEDGER)
    order = best_first(outcomes, goals)
    flags, far = flagged(rows), outside.of_candidates(rows)
    candidates = [shown(outcomes, goals, row, place, len(order), flags, far) for place, row in enumerate(order)]
    crystals = ranked_crystals(outcomes, goals, order, label) if len(order) else None
    structure_files.write(folder, crystals, candidates, level)
    more = further_columns(crystals, outcomes.energy[order], known, above_hull) if len(order) else {}
    ranking.write(folder, candidates, more)
    wary = warnings(outcomes, goals, far, novelty_limit)
    summary = summarize(plan, outcomes, rows, candidates, models)
    summary["hits"] = hit_summary(goals, outcomes, order, rows, opinions, plan.guidance)
    summary["novelty"] = outside.summary(rows, novelty_limit)
    summary["resampling"] = resampling(rows)
    summary["warnings"] = [f._replace(worst=[str(outcomes.crystals.ids[i]) for i in f.worst])._asdict() for f in wary]
    summary["interrupted"] = {k: n for k, n in interrupted.counted(folder).items() if k != "relaxing"}
    files.write(folder / "summary.json", json.dumps(summary, indent=1))
    page = report.render(
        title=f"crysjax design: {folder.name}", plan=json.dumps(as_settings(plan), indent=1),
        windows={name: (float(a), float(b)) for name, a, b in zip(goals.names, goals.low, goals.high)},
        rows=rows, candidates=candidates, history=objective(goals, outcomes.validated).tolist(), summary=summary,
        caveat=summary["nothing"] or CAVEAT.format(potential=models["potential"], judges=judges),
        warnings=wary, further=more,
    )  # fmt: skip
    files.write(folder / "report.html", page)
    return summary


def best_first(outcomes: Outcomes, goals: Goals) -> np.ndarray:
    """Rows from best to worst, equal crystals once."""
    if outcomes.crystals is None:
        return np.zeros(0, int)
    return ranked(outcomes, goals, matching.groups(outcomes.crystals, processes=1))


def ranked_crystals(
    outcomes: Outcomes, goals: Goals, order: np.ndarray, label: Callable[[Dataset], Dataset] | None = None
) -> Dataset:
    """Relaxed candidates in this order, with what was predicted and validated as properties, and labels if asked."""
    properties = {
        f"{stage}{name}{end}": table[order, k]
        for stage, value, std in (
            ("", outcomes.validated, outcomes.validated_std), ("predicted_", outcomes.predicted, outcomes.predicted_std)
        )
        for end, table in (("", value), ("_std", std))
        for k, name in enumerate(goals.names)
    }  # fmt: skip
    properties |= {
        "objective": objective(goals, outcomes.validated[order]),
        "p_hit": hit_probability(goals, outcomes.validated[order], outcomes.validated_std[order]),
        "potential_ev_per_atom": outcomes.energy[order],
    }
    crystals = datasets.take(outcomes.crystals, order)
    crystals = replace(crystals, properties=properties, provenance={})
    return label(crystals) if label is not None else crystals


def further_columns(
    crystals: Dataset, energy: np.ndarray, known: Dataset | None,
    above_hull: Callable[[Dataset, np.ndarray], Judged] | None,
) -> ranking.Columns:  # fmt: skip
    """Columns of `ranking.csv` that need more than the outcomes: the hull, and the known crystals."""
    found = ranking.known_columns(crystals, known) if known is not None else {}
    if above_hull is None:
        return found
    said = above_hull(crystals, energy)
    value, std = (np.where(said.valid, table[:, 0], np.nan) for table in (said.value, said.std))
    return {f"validated_{ABOVE_HULL}": value, f"validated_std_{ABOVE_HULL}": std} | found


def flagged(rows: list[ledger.Row]) -> dict[str, str]:
    """Candidate -> what was unusual about the relaxed crystal, in words."""
    notes = {row.candidate: row.notes for row in rows if row.stage == "validated"}
    return {name: "; ".join(v for k, v in found.items() if k.endswith("_flag") and v) for name, found in notes.items()}


def shown(
    outcomes: Outcomes, goals: Goals, row: int, place: int, count: int, flags: dict[str, str],
    far: dict[str, tuple[float, bool]],
) -> Shown:  # fmt: skip
    """A candidate as the report shows it."""
    (entry,) = entries(datasets.take(outcomes.crystals, np.array([row])))

    def pairs(value: np.ndarray, std: np.ndarray) -> dict[str, tuple[float, float]]:
        return {name: (float(value[row, k]), float(std[row, k])) for k, name in enumerate(goals.names)}

    usual = report.usual_formula(entry.numbers)
    file = f"{structure_files.FOLDER}/{structure_files.stem(entry.id, usual, place, count)}.cif"
    return Shown(
        entry.id, usual, space_group(entry), file,
        entry.numbers, entry.frac, entry.lattice,
        float(objective(goals, outcomes.validated[row])), bool(meets(goals, outcomes.validated[row])),
        float(hit_probability(goals, outcomes.validated[row], outcomes.validated_std[row])),
        pairs(outcomes.predicted, outcomes.predicted_std), pairs(outcomes.validated, outcomes.validated_std),
        float(outcomes.energy[row]), flags.get(entry.id, ""), *far.get(entry.id, (np.nan, False)),
    )  # fmt: skip


def space_group(entry: Entry) -> str:
    """Symbol and number as in the candidate's CIF (`crystallography.symmetrized`); "P1 (1)" where none is found."""
    found, _ = symmetrized.symmetrized(entry)
    return "P1 (1)" if found is None else f"{found.short} ({found.number})"


def hit_summary(
    goals: Goals, outcomes: Outcomes, order: np.ndarray, rows: list[ledger.Row], opinions: dict[str, str],
    guidance: str,
) -> dict[str, Any]:  # fmt: skip
    """Hits as probabilities, beside what the same number of validations at random among the screened would give."""
    validated = hit_probability(goals, outcomes.validated[order], outcomes.validated_std[order])
    scored = [row.notes.get("p_hit_by_heads") for row in rows if row.stage == "scored" and row.valid]
    screened = np.array([p for p in scored if p is not None], float)
    return hits.summary(
        validated,
        screened,
        windowed=bool((goals.sign == 0).any()),
        validations=ledger.counts(rows)["relaxed"]["entered"],
        means_inside=int(meets(goals, outcomes.validated[order]).sum()),
        opinions=opinions,
        guidance=guidance,
    )


def resampling(rows: list[ledger.Row]) -> dict[str, float] | None:
    """Effective number of particles over all candidates: mean and lowest tenth. None where nothing was resampled."""
    found = [row.notes.get("effective_particles") for row in rows if row.stage == "sampled"]
    known = np.array([n for n in found if n is not None])
    if not len(known):
        return None
    tenth = float(np.quantile(known, 0.1))
    return {"effective_particles": round(float(known.mean()), 2), "lowest_tenth": round(tenth, 2)}


def nothing(rows: list[ledger.Row]) -> str:
    """Why there is no candidate to show."""
    counts, lost = ledger.counts(rows), ledger.reasons(rows)
    stage = next((name for name, n in counts.items() if n["entered"] and not n["passed"]), "sampled")
    entered = counts[stage]["entered"]
    why = ", ".join(f"{n} for {reason!r}" for reason, n in sorted(lost[stage].items(), key=lambda pair: -pair[1]))
    before = "" if stage == "sampled" else f", {entered} reached the stage {stage!r} and none passed it"
    return f"No candidate was validated: {counts['sampled']['entered']} were sampled{before}: {why}."


def summarize(
    plan: Plan, outcomes: Outcomes, rows: list[ledger.Row], candidates: list[Shown], models: dict[str, str]
) -> dict[str, Any]:
    """What `summary.json` holds."""
    price = {}
    for row in rows:
        price[row.stage] = price.get(row.stage, 0.0) + row.cost
    parts = {"generator": "sampled", "heads": "scored", "potential": "relaxed"}
    calls = {k: {"calls": n, "seconds": round(price.get(parts[k], 0.0), 3)} for k, n in outcomes.calls.items()}
    return {
        "rounds": outcomes.rounds,
        "seed": plan.seed,
        "stages": ledger.counts(rows),
        "reasons": ledger.reasons(rows),
        "codes": ledger.codes(rows),
        "candidates": len(candidates),
        "nothing": "" if candidates else nothing(rows),
        "unspent": unspent(plan.validations, plan.rounds, rows),
        "best": [
            {
                "id": c.id,
                "formula": c.formula,
                "objective": c.objective,
                "p_hit": _plain(c.p_hit),
                "novelty": _plain(c.novelty),
                "outside": c.outside,
                "flags": c.flags,
                "file": c.file,
            }
            for c in candidates[:5]
        ],
        "oracle_calls": calls,
        "oracles": {name: spent._asdict() for name, spent in outcomes.spent},
        "seconds": round(sum(outcomes.seconds.values()), 2),
        "seconds_by_part": {k: round(v, 2) for k, v in outcomes.seconds.items()},
        "models": models,
        "versions": record.installed_versions(),
        "plan": as_settings(plan),
    }


def _plain(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
