"""The report of judged sets side by side: one HTML file that works offline, and the same table for LaTeX."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crysjax.crystallography.symmetrized import TOLERANCE_ANGSTROM
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.evaluation import totals
from crysjax.evaluation.failures.detectors import Finding
from crysjax.evaluation.metrics import distributions
from crysjax.evaluation.metrics.symmetry import CRYSTAL_SYSTEMS, crystal_system_shares
from crysjax.evaluation.totals import JudgedSet
from crysjax.reports import page, set_charts, structures
from crysjax.reports.page import filled, findings_table, table, usual_formula
from crysjax.reports.record import installed_versions

MOST_OPENED = 120  # structures of a set that open from the map; each is about 3 kB of the page
MOST_DRAWN = 100  # sites of a crystal that is drawn
MOST_DOTS = 1500  # of a set on the map
CAVEAT = (
    "Counts hold at the level that each stage states. A potential's hull distance is not DFT's, a hull distance is not "
    "synthesizability, and novelty means: not in the sets named, by the tolerances named. The set called ceiling is "
    "one half of the real crystals judged against the other: what a perfect generator would reach."
)


STAGES = {
    "parsed": "the file or row could be read as a crystal",
    "valid": "no atoms too close, and a composition that can balance its charges",
    "unique": "no other crystal of the set before it is the same",
    "novel": "not in the sets of known crystals that were named",
    "stable": "near enough to the convex hull, at the level of theory named below",
    "target": "the properties asked for lie in their windows",
}


def render(
    sets: Sequence[JudgedSet],
    found: Mapping[str, dict[str, Any]],
    findings: Mapping[str, Sequence[Finding]],
    *,
    title: str,
    command: str,
    reference: JudgedSet | None = None,
) -> str:
    """The page.

    Args:
        sets: the judged sets, the ones asked for first.
        found: `totals.totals` of each by name.
        findings: what the failure detectors said of each by name.
        reference: what distributions and the map are drawn against.
    """
    names = [judged.name for judged in sets]
    drawn = [*sets, *([] if reference is None else [reference._replace(name=set_charts.REFERENCE)])]
    chart, crystals = place_map(drawn)
    values = {
        "title": html.escape(title),
        "subtitle": f"{', '.join(map(html.escape, names))}; crysjax {installed_versions()['crysjax']}",
        "tiles": tiles(found[names[0]]),
        "caveat": html.escape(CAVEAT),
        "legend": set_charts.legend([judged.name for judged in drawn]),
        "ledger": ledger(names, found),
        "funnels": "".join(funnel(name, found[name]) for name in names),
        "levels": levels(names, found) + flags(names, found),
        "metrics": metric_table(names, found, "metrics") + missing(names, found),
        "distances": metric_table(names, found, "distances"),
        "findings": findings_table({name: findings.get(name, ()) for name in names}),
        "charts": distribution_charts(drawn),
        "map": chart,
        "symprec": f"{TOLERANCE_ANGSTROM:g}",
        "worst": worst(sets),
        "cost": cost(names, found),
        "versions": table(["", ""], [[k, str(v)] for k, v in installed_versions().items()], left=2),
        "command": html.escape(command),
        "crystals": structures.as_json(crystals),
    }
    return filled("set_report.html", values)


TILES = ("validity", "uniqueness", "novelty", "S.U.N.", "S.U.N., expected")


def tiles(found: dict[str, Any]) -> str:
    """The few numbers that matter most, of the first set."""
    metrics, last = found["metrics"], found["ledger"][-1]
    items = [(str(found["crystals"]), "crystals read"), (str(found["not_read"]), "could not be read")]
    items += [(percent(metrics[n]), n) for n in TILES if n in metrics]
    items += [(str(last["passed"]), "passed every stage")]
    return "".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in items)


def percent(interval: Mapping[str, float]) -> str:
    """ "93.1 %", or a dash."""
    return "–" if not math.isfinite(interval["value"]) else f"{100 * interval['value']:.1f} %"


def ledger(names: Sequence[str], found: Mapping[str, dict]) -> str:
    """How many passed each stage, one column per set."""
    stages = list(dict.fromkeys(row["stage"] for name in names for row in found[name]["ledger"]))
    by_name = {name: {row["stage"]: row for row in found[name]["ledger"]} for name in names}

    def cell(name: str, stage: str) -> str:
        row = by_name[name].get(stage)
        if row is None:
            return "not measured"
        share = f" ({row['passed'] / row['entered']:.1%} of {row['entered']})" if row["entered"] else ""
        return f"{row['passed']}{share}"

    return table(["stage", *names], [[stage, *(cell(name, stage) for name in names)] for stage in stages], left=1)


def funnel(name: str, found: dict[str, Any]) -> str:
    """Bars of one set."""
    bars = page.funnel({row["stage"]: row["passed"] for row in found["ledger"]}, STAGES)
    return f"<figure><figcaption>{html.escape(name)}</figcaption>{bars}</figure>"


def levels(names: Sequence[str], found: Mapping[str, dict]) -> str:
    """How each stage measured, and the commonest reasons of failure."""
    rows = []
    for name in names:
        for row in found[name]["ledger"]:
            why = "; ".join(f"{n} × {reason}" for reason, n in row["reasons"].items())
            rows.append([name, row["stage"], row["level"], why])
    return table(["set", "stage", "measured by", "failed because"], rows, left=4, wrap=(2, 3))


def flags(names: Sequence[str], found: Mapping[str, dict]) -> str:
    """What is unusual about the chemistry of each set; flags, which nobody fails."""
    rows = [
        [name, f"unusual {kind}", "; ".join(f"{n} × {what}" for what, n in unusual.items())]
        for name in names
        for kind, unusual in found[name].get("flags", {}).items()
    ]
    return table(["set", "flag", "commonest"], rows, left=3, wrap=(2,)) if rows else ""


def metric_table(names: Sequence[str], found: Mapping[str, dict], part: str) -> str:
    """Metrics with their intervals, one column per set."""
    rows = list(dict.fromkeys(metric for name in names for metric in found[name].get(part, {})))
    if not rows:
        return ""
    body = [[metric, *(number(metric, found[name].get(part, {}).get(metric)) for name in names)] for metric in rows]
    return table(["distance to the reference" if part == "distances" else "metric", *names], body, left=1)


NOT_SHARES = (totals.DISTANCE, "cRMSE", "diversity", "Vendi score", "synthesizability", "continuous")


def number(metric: str, interval: Mapping[str, float] | None) -> str:
    """A metric with its interval; shares as per cent."""
    if interval is None or not math.isfinite(interval["value"]):
        return "not measured"
    share = not (metric.startswith(NOT_SHARES) or "_" in metric or "variation" in metric or metric.startswith("mean"))
    factor, unit, digits = (100, " %", 1) if share else (1, "", 3)
    text = f"{factor * interval['value']:.{digits}f}{unit}"
    if math.isfinite(interval["low"]):
        text += f" ({factor * interval['low']:.{digits}f} to {factor * interval['high']:.{digits}f})"
    return text


def missing(names: Sequence[str], found: Mapping[str, dict]) -> str:
    """What was not measured, and what it needs."""
    needs = {metric: need for name in names for metric, need in found[name]["not_measured"].items()}
    return table(["not measured", "needs"], [[k, v] for k, v in needs.items()], left=2) if needs else ""


def distribution_charts(drawn: Sequence[JudgedSet]) -> str:
    """Density, number of elements, atoms, energies and crystal systems of every set."""
    of = {
        "density (g/cm³)": lambda j: distributions.densities(j.samples),
        "elements": lambda j: distributions.num_elements(j.samples),
        "atoms in the cell": lambda j: j.samples.num_atoms,
        "formation energy (eV/atom)": _energies,
        "energy above the hull (eV/atom)": lambda j: _column(j, "e_above_hull_ev_per_atom"),
    }
    parts = [set_charts.histogram(title, {j.name: np.asarray(f(j), float) for j in drawn}) for title, f in of.items()]
    groups = {j.name: _system_shares(j.space_group) for j in drawn if len(j.space_group)}
    return "".join([*parts, set_charts.shares("crystal system (spglib)", [*CRYSTAL_SYSTEMS, "none"], groups)])


def _system_shares(number: np.ndarray) -> np.ndarray:
    return np.array([share.value for share in crystal_system_shares(number).values()])


def _column(judged: JudgedSet, name: str) -> np.ndarray:
    said = judged.verdicts.get("stable")
    return np.full(1, np.nan) if said is None else said.columns[name]


def _energies(judged: JudgedSet) -> np.ndarray:
    own = judged.samples.properties.get(FORMATION_ENERGY)
    return _column(judged, FORMATION_ENERGY) if own is None else own


def place_map(drawn: Sequence[JudgedSet]) -> tuple[str, list[dict]]:
    """The map, and the drawings that open from it."""
    chosen = {
        j.name: np.unique(np.linspace(0, len(j.samples) - 1, min(MOST_DOTS, len(j.samples))).astype(int)) for j in drawn
    }
    at = principal_axes([j.features[chosen[j.name]] for j in drawn])
    labels, crystals = {}, []
    for judged in drawn:
        small = chosen[judged.name][judged.samples.num_atoms[chosen[judged.name]] <= MOST_DRAWN]
        opens = set(small[:MOST_OPENED].tolist()) if judged.name != set_charts.REFERENCE else set()
        rows = entries(judged.samples)
        opens = {i for i in opens if structures.drawable(rows[i].numbers, rows[i].frac, rows[i].lattice)}
        labels[judged.name] = []
        for i in chosen[judged.name].tolist():
            labels[judged.name].append((f"{judged.name}: {usual_formula(rows[i].numbers)} ({rows[i].id})",
                                        len(crystals) if i in opens else -1))  # fmt: skip
            crystals += [drawing(rows[i])] if i in opens else []
    places = dict(zip([j.name for j in drawn], at))
    return set_charts.scatter("descriptor space", dict(reversed(places.items())), labels), crystals


def drawing(row: Entry) -> dict[str, Any]:
    """What the page paints of one crystal."""
    found = structures.structure(row.numbers, np.asarray(row.frac, float), np.asarray(row.lattice, float))
    return structures.scene(found)


def principal_axes(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first two principal components of rows (m, d) of all parts together, part by part: (m, 2)."""
    both = np.concatenate(parts).astype(np.float64)
    both = (both - both.mean(0)) / np.maximum(both.std(0), 1e-9)
    _, _, axes = np.linalg.svd(both, full_matrices=False)
    return np.split(both @ axes[:2].T, np.cumsum([len(p) for p in parts])[:-1])


def worst(sets: Sequence[JudgedSet]) -> str:
    """The first crystals that each stage turned away, those furthest off first where there is a measure."""
    rows = [
        [judged.name, stage, row["id"], _formula(judged.samples, row["index"]), row["reason"]]
        for judged in sets
        for stage, bad in totals.worst(judged).items()
        for row in bad
    ]
    return table(["set", "stage", "crystal", "formula", "reason"], rows, left=5, wrap=(4,)) if rows else "<p>None.</p>"


def _formula(samples: Dataset, index: int) -> str:
    start = int(samples.num_atoms[:index].sum())
    return usual_formula(samples.numbers[start : start + samples.num_atoms[index]])


def cost(names: Sequence[str], found: Mapping[str, dict]) -> str:
    """Seconds and oracle calls by stage."""
    rows = [
        [name, stage, f"{spent['seconds']:.1f}", f"{spent['calls']:.0f}"]
        for name in names for stage, spent in found[name]["cost"]["stages"].items()
    ]  # fmt: skip
    rows += [
        [name, f"all; {found[name]['cost']['hits']} hits", f"{found[name]['cost']['seconds']:.1f}", ""]
        for name in names
    ]
    return table(["set", "stage", "seconds", "oracle calls"], rows, left=2)


def latex(found: Mapping[str, dict[str, Any]]) -> str:
    """The metrics as a LaTeX table (booktabs), one column per set."""
    names = list(found)
    rows = list(
        dict.fromkeys(
            metric for name in names for part in ("metrics", "distances") for metric in found[name].get(part, {})
        )
    )
    lines = [
        r"\begin{tabular}{l" + "r" * len(names) + "}",
        r"\toprule",
        " & ".join(["", *map(_tex, names)]) + r" \\",
        r"\midrule",
    ]
    for metric in rows:
        cells = [number(metric, (found[n]["metrics"] | found[n].get("distances", {})).get(metric)) for n in names]
        lines.append(" & ".join(_tex(c) for c in [metric.replace("_", " "), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    for mark in "&%#_$":
        text = text.replace(mark, "\\" + mark)
    return text
