"""What a campaign hands over: ranked structures, a summary and the report, next to the ledger that it kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.campaign import interrupted, outside
from crysjax.campaign.goals import Goals, hit_probability, meets, objective
from crysjax.campaign.outcomes import LEDGER, Outcomes, ranked
from crysjax.campaign.plan import Plan, as_settings
from crysjax.campaign.warnings import warnings
from crysjax.chemistry.elements import formula
from crysjax.crystallography import matching, symmetry_finder
from crysjax.data import datasets, files, names
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.data.readers import io
from crysjax.evaluation import hits, ledger
from crysjax.reports import record, report
from crysjax.reports.report import Shown

CAVEAT = (
    "Validated means: relaxed with {potential}, a machine-learned potential, and judged on the relaxed structure by "
    "{judges}. No density functional theory was done: take these as candidates for it, not as results."
)


def write(
    folder: Path, plan: Plan, goals: Goals, outcomes: Outcomes, *, models: dict[str, str], judges: str,
    opinions: dict[str, str], novelty_limit: float = np.inf,
) -> dict:  # fmt: skip
    """Write all outputs and return the summary. Everything but the ledger is made anew from the outcomes.

    `opinions` says of each target property who judged it and who else could; `novelty_limit` is that of the heads
    (`campaign.outside`), infinite where they know none.
    """
    rows = ledger.read(folder / LEDGER)
    order = best_first(outcomes, goals)
    flags, far = flagged(rows), outside.of_candidates(rows)
    candidates = [shown(outcomes, goals, row, place, len(order), flags, far) for place, row in enumerate(order)]
    structures(folder, outcomes, goals, order)
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
        warnings=wary,
    )  # fmt: skip
    files.write(folder / "report.html", page)
    return summary


def best_first(outcomes: Outcomes, goals: Goals) -> np.ndarray:
    """Rows from best to worst, equal crystals once."""
    if outcomes.crystals is None:
        return np.zeros(0, int)
    return ranked(outcomes, goals, matching.groups(outcomes.crystals, processes=1))


def structures(folder: Path, outcomes: Outcomes, goals: Goals, order: np.ndarray) -> None:
    """`candidates.extxyz` and `candidates/NN_ID_FORMULA.cif`, best first; they take the place of a former run's."""
    with files.whole(folder / "candidates", folder=True) as partial:
        if not len(order):
            files.write(folder / "candidates.extxyz", "")
            return
        named = ranked_crystals(outcomes, goals, order)
        io.write_crystals(named, folder / "candidates.extxyz")
        for place, entry in enumerate(entries(named)):
            io.write_crystals([entry], partial / file_name(entry, place, len(order)))


def ranked_crystals(outcomes: Outcomes, goals: Goals, order: np.ndarray) -> Dataset:
    """Relaxed candidates in this order, with what validation said of them as properties."""
    properties = {name: outcomes.validated[order, k] for k, name in enumerate(goals.names)}
    properties |= {f"{name}_std": outcomes.validated_std[order, k] for k, name in enumerate(goals.names)}
    properties |= {
        "objective": objective(goals, outcomes.validated[order]),
        "potential_ev_per_atom": outcomes.energy[order],
    }
    crystals = datasets.take(outcomes.crystals, order)
    return replace(crystals, properties=properties, provenance={})


def file_name(entry: Entry, place: int, count: int) -> str:
    """`03_1-0042_MgO.cif`: rank, id, formula."""
    return f"{place + 1:0{len(str(count))}d}_{names.of(entry.id)}_{formula(entry.numbers)[:100]}.cif"


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

    file = f"candidates/{file_name(entry, place, count)}"
    return Shown(
        entry.id, report.usual_formula(entry.numbers), space_group(entry), file,
        entry.numbers, entry.frac, entry.lattice,
        float(objective(goals, outcomes.validated[row])), bool(meets(goals, outcomes.validated[row])),
        float(hit_probability(goals, outcomes.validated[row], outcomes.validated_std[row])),
        pairs(outcomes.predicted, outcomes.predicted_std), pairs(outcomes.validated, outcomes.validated_std),
        float(outcomes.energy[row]), flags.get(entry.id, ""), *far.get(entry.id, (np.nan, False)),
    )  # fmt: skip


def space_group(entry: Entry, symprec_angstrom: float = 0.1) -> str:
    """Symbol and number by spglib at 0.1 Å, the tolerance for relaxed structures; "P1 (1)" where it finds none."""
    cell = entry.lattice, entry.frac, entry.numbers
    found, _ = symmetry_finder.ask("get_symmetry_dataset", cell, symprec_angstrom)
    return "P1 (1)" if found is None else f"{found.international} ({found.number})"


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
        "candidates": len(candidates),
        "nothing": "" if candidates else nothing(rows),
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
        "seconds": round(sum(outcomes.seconds.values()), 2),
        "seconds_by_part": {k: round(v, 2) for k, v in outcomes.seconds.items()},
        "models": models,
        "versions": record.installed_versions(),
        "plan": as_settings(plan),
    }


def _plain(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
