"""The report of a campaign: one HTML file that works offline, with charts as SVG and structures to turn around."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from crysjax.crystallography.symmetrized import TOLERANCE_ANGSTROM
from crysjax.evaluation import hits, ledger
from crysjax.evaluation.failures.detectors import Finding
from crysjax.reports import charts, confidence, page, structures
from crysjax.reports.candidates import Shown, facts, known_crystals, picture, ranking, want
from crysjax.reports.page import quantity, table, titled, usual_formula  # noqa: F401 (callers know it by this name)

MOST_LOST = 60  # candidates listed that failed after they were chosen; the ledger has all

STAGES = {
    "sampled": "drawn from the generator, steered towards the target as the plan says",
    "screened": "passed the gates of the plan, such as atoms not too close and charges that can balance; no twin of "
    "another candidate, no composition that the plan excludes",
    "scored": "the property heads predicted every target property, with an uncertainty",
    "selected": "chosen for relaxation within the budget, by what it promises to gain",
    "relaxed": "positions and cell were relaxed with the potential named above",
    "validated": "passed the gates again, and was judged on the relaxed structure, as said above",
}


def render(
    *,
    title: str,
    plan: str,
    windows: dict[str, tuple[float, float]],
    rows: Sequence[ledger.Row],
    candidates: Sequence[Shown],
    history: Sequence[float],
    summary: dict[str, Any],
    caveat: str,
    warnings: Sequence[Finding] = (),
    further: Mapping[str, Sequence[Any]] = {},
) -> str:
    """The report as text.

    Args:
        plan: the configuration, shown as it is.
        windows: the wanted interval of every target property; infinite sides are open.
        rows: the whole ledger.
        candidates: validated ones, best first.
        history: objective of each validation in the order made, NaN where one failed.
        summary: what `summary.json` holds: `seconds`, `oracle_calls`, `seed`, `models`, `versions`, `hits`,
            `resampling`, `plan`.
        caveat: what "validated" means here and what it does not.
        warnings: what the failure detectors said.
        further: columns of `ranking.csv` that not every plan asks for, one value per candidate: the nearest known
            crystal (`known_as`, `nearest_known`, ...) and the distance to the hull.
    """
    known = known_crystals(further, len(candidates))
    counts = {stage: n["passed"] for stage, n in ledger.counts(rows).items()}
    drawn = [structures.structure(s.numbers, s.frac, s.lattice) for s in candidates]
    wanted = {name: want(window, summary["plan"]["target"].get(name)) for name, window in windows.items()}
    goals = [goal(name, window, candidates) for name, window in windows.items()] if candidates else []
    values = {
        "title": html.escape(title),
        "subtitle": f"rounds: {summary['rounds']}, seed {summary['seed']}, crysjax {summary['versions']['crysjax']}",
        "tiles": tiles(counts, candidates, summary),
        "caveat": html.escape(caveat),
        "none": "" if candidates else " hidden",
        "symprec": f"{TOLERANCE_ANGSTROM:g}",
        "facts": "".join(facts(i, s, d, wanted, known[i]) for i, (s, d) in enumerate(zip(candidates, drawn))),
        "pictures": "".join(picture(i, shown) for i, shown in enumerate(candidates)),
        "ranking": ranking(candidates, drawn, list(windows), known),
        "hits": hit_table(summary["hits"]),
        "funnel": page.funnel(counts, STAGES),
        "resampling": resampling(summary["resampling"]),
        "reasons": reasons(rows),
        "lost": lost(rows),
        "charts": "".join(goals) + charts.progress_chart("objective (lower is better), and the best so far", history),
        "confidence": calibration(candidates, list(windows)),
        "warnings": page.findings_table({"": warnings}),
        "cost": cost(summary),
        "versions": table(["", ""], [[k, str(v)] for k, v in versions(summary).items()], left=2, label="Versions"),
        "plan": html.escape(plan),
        "crystals": structures.as_json(map(structures.scene, drawn)),
    }
    return page.filled("report.html", values)


def tiles(counts: dict[str, int], candidates: Sequence[Shown], summary: dict[str, Any]) -> str:
    """The few numbers that matter most."""
    best = page.formula(candidates[0].formula) if candidates else "none"
    flags = html.escape(candidates[0].flags) if candidates else ""
    items = [
        (best, f"best candidate, flagged: {flags}" if flags else "best candidate"),
        (hits.told(summary["hits"]["found"]), f"hits expected in {summary['hits']['validations']} validations"),
        (str(counts["sampled"]), "crystals sampled"),
        (str(counts["relaxed"]), "relaxed"),
        (f"{summary['seconds']:.0f} s", "wall time"),
    ]
    return "".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in items)


def hit_table(said: dict[str, Any]) -> str:
    """Hits beside what chance gives, and who judged each property."""
    rows = [[what.replace(f"judge of {name}", f"judge of the {quantity(name)[0]}"), *rest]
            for what, *rest in hits.lines(said)
            for name in [what.removeprefix("judge of ")]]  # fmt: skip
    return table(["", "number", ""], rows, left=(0, 2), wrap=(2,), label="Hits")


def resampling(said: dict[str, float] | None) -> str:
    """How much choice the guidance had."""
    if said is None:
        return ""
    return (
        f"Effective number of particles that a sample was picked from: {said['effective_particles']:.2f} in the mean, "
        f"{said['lowest_tenth']:.2f} or less for a tenth of them. Where it is small, the samples are still far from "
        "the tilted distribution that the guidance aims at."
    )


def goal(name: str, window: tuple[float, float], candidates: Sequence[Shown]) -> str:
    """The chart of one target property."""
    nothing = (math.nan, math.nan)
    marks = [
        charts.Mark(f"{s.formula} ({s.id})", s.predicted.get(name, nothing), s.validated.get(name, nothing), s.formula)
        for s in candidates
    ]
    return charts.goal_chart(titled(name), marks, window)


def reasons(rows: Iterable[ledger.Row]) -> str:
    """Why candidates failed, by stage."""
    found = [[stage, str(n), why] for stage, counted in ledger.reasons(rows).items() for why, n in counted.items()]
    head = ["stage", "failed", "reason"]
    return table(head, found, left=(0, 2), label="Reasons of failures") if found else ""


def lost(rows: Sequence[ledger.Row]) -> str:
    """The candidates that were chosen and then failed, one by one."""
    failed = [row for row in rows if row.stage in ("relaxed", "validated") and not row.valid]
    if not failed:
        return "<p>Every candidate that was chosen for relaxation came through.</p>"
    scored = {row.candidate: row for row in rows if row.stage == "scored"}
    body = [
        [row.candidate, str(row.round + 1), row.stage, row.reason, _chance(scored.get(row.candidate))]
        for row in failed[:MOST_LOST]
    ]
    more = f"<p>{len(failed) - MOST_LOST} more are in the ledger.</p>" if len(failed) > MOST_LOST else ""
    head = ["id", "round", "failed at", "reason", "P(hit) before"]
    return table(head, body, left=(0, 2, 3), sortable=True, label="Candidates that were chosen and failed") + more


def _chance(row: ledger.Row | None) -> str:
    known = row is not None and row.p_hit is not None
    return page.share(row.p_hit) if known else "–"


def calibration(candidates: Sequence[Shown], names: Sequence[str]) -> str:
    """Whether the error bars of the predictions were right, property by property."""
    nothing, found = (math.nan, math.nan), {}
    for name in names:
        pairs = np.array([[s.predicted.get(name, nothing), s.validated.get(name, nothing)] for s in candidates])
        pairs = pairs.reshape(-1, 2, 2)
        found[titled(name)] = confidence.confidence(pairs[:, 1, 0] - pairs[:, 0, 0], pairs[:, 0, 1])
    head = ["property", "inside one error bar", "expected", "the error bars are"]
    return table(head, confidence.rows(found), left=(0, 3), label="Calibration")


def cost(summary: dict[str, Any]) -> str:
    """Oracle calls and seconds."""
    calls = [[name, str(call["calls"]), f"{call['seconds']:.1f}"] for name, call in summary["oracle_calls"].items()]
    calls += [[f"{name} (wall time)", "", f"{s:.1f}"] for name, s in summary.get("seconds_by_part", {}).items()]
    calls.append(["all, wall time", "", f"{summary['seconds']:.1f}"])
    return table(["oracle", "calls", "seconds"], calls, left=1, label="Cost")


def versions(summary: dict[str, Any]) -> dict[str, Any]:
    """Seed, models and versions: what is needed to get the same again."""
    return {"seed": summary["seed"], **summary["models"], **summary["versions"]}
