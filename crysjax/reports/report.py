"""The report of a campaign: one HTML file that works offline, with charts as SVG and structures to turn around."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crysjax.crystallography.symmetrized import TOLERANCE_ANGSTROM
from crysjax.evaluation import hits, ledger
from crysjax.evaluation.failures.detectors import Finding
from crysjax.reports import charts, confidence, page, structures
from crysjax.reports.page import quantity, table, titled, usual_formula  # noqa: F401 (callers know them by this name)
from crysjax.reports.structures import Structure

MOST_LOST = 60  # candidates listed that failed after they were chosen; the ledger has all

STAGES = {
    "sampled": "drawn from the generator, steered towards the target as the plan says",
    "screened": "no atoms too close, a composition that can balance its charges (SMACT), no twin of another "
    "candidate, no composition that the plan excludes",
    "scored": "the property heads predicted every target property, with an uncertainty",
    "selected": "chosen for relaxation within the budget, by what it promises to gain",
    "relaxed": "positions and cell were relaxed by the machine-learned potential",
    "validated": "passed the screen again, and was judged on the relaxed structure; this is not density "
    "functional theory",
}


class Shown(NamedTuple):
    """A candidate in the report, best first; values and standard deviations by property name."""

    id: str
    formula: str
    space_group: str
    file: str  # link, relative to the report
    numbers: np.ndarray  # (n,)
    frac: np.ndarray  # (n, 3)
    lattice: np.ndarray  # (3, 3) Å
    objective: float  # lower is better
    meets: bool  # value inside every window after relaxation
    p_hit: float  # probability of lying in every window after relaxation; NaN where the target has none
    predicted: dict[str, tuple[float, float]]
    validated: dict[str, tuple[float, float]]
    energy_ev_per_atom: float
    flags: str = ""  # what a chemist would stop at
    novelty: float = math.nan  # how far the relaxed crystal lies from the heads' training data; NaN: not known
    outside: bool = False  # whether that is beyond the heads' limit


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
        (hits.told(summary["hits"]["found"]), f"hits expected of {summary['hits']['validations']} validations"),
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


def picture(index: int, shown: Shown) -> str:
    """A small drawing that opens on the stage."""
    name = html.escape(_name(index, shown), quote=True)
    return (
        f'<button type="button" class="picture" data-open="{index}" data-name="{name}">'
        f'<canvas data-picture="{index}"></canvas><b>{index + 1}. {page.formula(shown.formula)}</b>'
        f"<small>{page.space_group(shown.space_group)}</small></button>"
    )


def _name(index: int, shown: Shown) -> str:
    return f"{index + 1}. {shown.formula}, {shown.space_group}"


def known_crystals(further: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, str]]:
    """What is known of each candidate beside the outcomes, label -> words; empty where nobody asked."""

    def column(start: str) -> Sequence[Any] | None:
        return next((values for name, values in further.items() if name.startswith(start)), None)

    same, near, formulas, far = map(column, ("known_as", "nearest_known", "nearest_known_f", "nearest_known_amd"))
    hull, std = column("validated_energy_above_hull"), column("validated_std_energy_above_hull")
    found: list[dict[str, str]] = [{} for _ in range(count)]
    for i, said in enumerate(found):
        if same is not None and near is not None and formulas is not None and far is not None:
            nearest = f"{near[i]} ({formulas[i]}), AMD distance {far[i]:.2f} Å"
            said["nearest known"] = f"equals {same[i]}" if same[i] else nearest
        if hull is not None and std is not None:
            said["energy above hull"] = page.value((hull[i], std[i])) + " eV/atom"
    return found


def facts(index: int, shown: Shown, drawn: Structure, wanted: dict[str, str], known: dict[str, str]) -> str:
    """All that is known of a candidate, beside its drawing; `wanted` says what was asked of each property."""
    nothing = (math.nan, math.nan)
    body = [
        [html.escape(titled(k)), html.escape(want), page.value(shown.predicted.get(k, nothing)),
         page.value(shown.validated.get(k, nothing))]
        for k, want in wanted.items()
    ]  # fmt: skip
    lines = {
        "space group": page.space_group(shown.space_group),
        **{k: html.escape(v) for k, v in (structures.cell_facts(drawn) | known).items()},
        "P(hit)": page.share(shown.p_hit) + (", value inside every window" if shown.meets else ""),
        "objective": f"{shown.objective:.3f} (lower is better)",
        "energy": f"{shown.energy_ev_per_atom:.3f} eV/atom, of the potential",
        "novelty": page.share(shown.novelty) + ", outside the heads' training data" * shown.outside,
        "unusual": html.escape(shown.flags) or "nothing flagged",
        "files": f"{_link(shown.file)}, {_link(poscar(shown))}; id {html.escape(shown.id)}",
    }
    told = "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in lines.items())
    return (
        f'<article data-facts="{index}"{" hidden" if index else ""}><h3>{index + 1}. {page.formula(shown.formula)}</h3>'
        + table(["", "target", "predicted", "validated"], body, left=2, escaped=True, label="Target properties")
        + f"<dl>{told}</dl><details><summary>Sites and bond lengths</summary>{sites(drawn)}</details></article>"
    )


def want(window: tuple[float, float], asked: Any) -> str:
    """What was asked of a property: a window, or as low or as high as possible."""
    low, high = (f"{side:g}" if math.isfinite(side) else "" for side in window)
    if not (low or high):
        return {"minimise": "low", "maximise": "high"}.get(asked, "")
    return f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"


def sites(drawn: Structure) -> str:
    """Orbits of equivalent sites with their neighbors."""
    rows = [
        [html.escape(s.symbol), html.escape(s.wyckoff), *(f"{x:.4f}" for x in s.frac), html.escape(s.around)]
        for s in structures.sites(drawn)
    ]
    return table(["", "Wyckoff", "x", "y", "z", "neighbors"], rows, left=(0, 1, 5), escaped=True, label="Sites")


def ranking(
    candidates: Sequence[Shown], drawn: Sequence[Structure], names: Sequence[str], known: Sequence[dict[str, str]]
) -> str:
    """All validated candidates."""
    more = [*known[0]] if known else []
    head = ["rank", "formula", "space group", "objective", "P(hit)", "inside"]
    head += [f"{titled(n)}, {when}" for n in names for when in ("predicted", "validated")]
    head += ["density (g/cm³)", "atoms", "energy (eV/atom)", "novelty", "unusual", *more, "id", "file"]
    nothing = (math.nan, math.nan)
    body = [
        [_opener(i, s), page.formula(s.formula), page.space_group(s.space_group), f"{s.objective:.3f}",
         page.share(s.p_hit), "yes" if s.meets else "no",
         *(page.value(of.get(n, nothing)) for n in names for of in (s.predicted, s.validated)),
         f"{structures.density_g_cm3(d):.2f}", str(len(s.numbers)), f"{s.energy_ev_per_atom:.3f}",
         page.share(s.novelty) + ", outside" * s.outside, html.escape(s.flags),
         *(html.escape(k[name]) for name in more), html.escape(s.id), _link(s.file)]
        for i, (s, d, k) in enumerate(zip(candidates, drawn, known))
    ]  # fmt: skip
    left = (1, 2, 5, *range(head.index("unusual"), len(head)))
    return table(head, body, left=left, escaped=True, sortable=True, label="Ranking of validated candidates")


def _opener(index: int, shown: Shown) -> str:
    name = html.escape(_name(index, shown), quote=True)
    return f'<button type="button" data-open="{index}" data-name="{name}" aria-label="show {name}">{index + 1}</button>'


def cost(summary: dict[str, Any]) -> str:
    """Oracle calls and seconds."""
    calls = [[name, str(call["calls"]), f"{call['seconds']:.1f}"] for name, call in summary["oracle_calls"].items()]
    calls += [[f"{name} (wall time)", "", f"{s:.1f}"] for name, s in summary.get("seconds_by_part", {}).items()]
    calls.append(["all, wall time", "", f"{summary['seconds']:.1f}"])
    return table(["oracle", "calls", "seconds"], calls, left=1, label="Cost")


def versions(summary: dict[str, Any]) -> dict[str, Any]:
    """Seed, models and versions: what is needed to get the same again."""
    return {"seed": summary["seed"], **summary["models"], **summary["versions"]}


def poscar(shown: Shown) -> str:
    """The file of the cell as it was relaxed, beside the CIF."""
    return str(Path(shown.file).with_suffix(".vasp"))


def _link(file: str) -> str:
    return f'<a href="{html.escape(file, quote=True)}">{html.escape(Path(file).name)}</a>'
