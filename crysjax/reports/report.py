"""The report of a campaign: one HTML file that works offline, with charts as SVG and structures to turn around."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crysjax.chemistry.elements import SYMBOLS, counts
from crysjax.evaluation import hits, ledger
from crysjax.evaluation.failures.detectors import Finding
from crysjax.reports import charts

HERE = Path(__file__).parent
MOST_CARDS = 9
UNITS = {"_ev_per_atom": "eV/atom", "_ev": "eV", "_gpa": "GPa", "_per_cm": "cm⁻¹", "_k": "K"}


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


def quantity(name: str) -> tuple[str, str]:
    """A property's name in words and its unit: "band_gap_ev" -> ("band gap", "eV")."""
    for suffix, unit in UNITS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("_", " "), unit
    return name.replace("_", " "), ""


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
) -> str:
    """The report as text.

    Args:
        plan: the configuration, shown as it is.
        windows: the wanted interval of every target property; infinite sides are open.
        rows: the whole ledger.
        candidates: validated ones, best first.
        history: objective of each validation in the order made, NaN where one failed.
        summary: what `summary.json` holds: `seconds`, `oracle_calls`, `seed`, `models`, `versions`, `hits`,
            `resampling`.
        caveat: what "validated" means here and what it does not.
        warnings: what the failure detectors said.
    """
    counts = {stage: n["passed"] for stage, n in ledger.counts(rows).items()}
    best = list(candidates[:MOST_CARDS])
    goals = [goal(name, window, candidates) for name, window in windows.items()] if candidates else []
    values = {
        "title": html.escape(title),
        "subtitle": f"rounds: {summary['rounds']}, seed {summary['seed']}, crysjax {summary['versions']['crysjax']}",
        "tiles": tiles(counts, candidates, summary),
        "caveat": html.escape(caveat),
        "hits": table(["", "number", ""], hits.lines(summary["hits"]), left=(0, 2), wrap=(2,)),
        "funnel": charts.funnel(counts),
        "resampling": resampling(summary["resampling"]),
        "reasons": reasons(rows),
        "charts": "".join(goals) + charts.progress_chart("objective (lower is better), and the best so far", history),
        "warnings": findings_table({"": warnings}),
        "cards": "".join(card(i, shown) for i, shown in enumerate(best)),
        "ranking": ranking(candidates, list(windows)),
        "cost": cost(summary),
        "versions": table(["", ""], [[k, str(v)] for k, v in versions(summary).items()], left=2),
        "plan": html.escape(plan),
        "crystals": json.dumps([drawing(s) for s in best]).replace("</", "<\\/"),
    }
    return filled("report.html", values)


def filled(page: str, values: dict[str, str]) -> str:
    """A page of this folder with its `[[name]]`s filled in; style and viewer go in by themselves."""
    text = {name: (HERE / name).read_text(encoding="utf-8") for name in (page, "report.css", "viewer.js")}
    values = values | {"style": text["report.css"], "viewer": text["viewer.js"]}
    before, *pieces = text[page].split("[[")
    named = [piece.split("]]", 1) for piece in pieces]
    return before + "".join(values[name] + rest for name, rest in named)


def tiles(counts: dict[str, int], candidates: Sequence[Shown], summary: dict[str, Any]) -> str:
    """The few numbers that matter most."""
    best = candidates[0].formula if candidates else "none"
    items = [
        (_formula(best), "best candidate"),
        (hits.told(summary["hits"]["found"]), f"hits expected of {summary['hits']['validations']} validations"),
        (str(counts["sampled"]), "crystals sampled"),
        (str(counts["relaxed"]), "relaxed"),
        (f"{summary['seconds']:.0f} s", "wall time"),
    ]
    return "".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in items)


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
    words, unit = quantity(name)
    nothing = (math.nan, math.nan)
    marks = [
        charts.Mark(f"{s.formula} ({s.id})", s.predicted.get(name, nothing), s.validated.get(name, nothing))
        for s in candidates
    ]
    return charts.goal_chart(f"{words} ({unit})" if unit else words, marks, window)


def reasons(rows: Iterable[ledger.Row]) -> str:
    """Why candidates failed, by stage."""
    found = [[stage, str(n), why] for stage, counted in ledger.reasons(rows).items() for why, n in counted.items()]
    return table(["stage", "failed", "reason"], found, left=(0, 2)) if found else ""


def card(index: int, shown: Shown) -> str:
    """A structure to turn around, with what is known of it."""
    symbols = sorted({(atom["symbol"], atom["color"]) for atom in drawing(shown)["atoms"]})
    legend = "".join(f'<span class="dot" style="background:{color}"></span>{symbol}' for symbol, color in symbols)
    lines = [f"{html.escape(quantity(k)[0])} {_value(v)} {quantity(k)[1]}" for k, v in shown.validated.items()]
    text = "<br>".join([f"{legend}, {html.escape(shown.space_group)}", *lines])
    label = html.escape(f"Structure of {shown.formula}")
    return (
        f'<div class="card"><canvas data-crystal="{index}" tabindex="0" role="img" aria-label="{label}"></canvas>'
        f"<div><h3>{index + 1}. {_formula(shown.formula)}</h3>{text}<br>{_link(shown)}</div></div>"
    )


def ranking(candidates: Sequence[Shown], names: Sequence[str]) -> str:
    """All validated candidates."""
    labels = [f"{quantity(n)[0]} ({quantity(n)[1]})" if quantity(n)[1] else quantity(n)[0] for n in names]
    head = ["", "formula", "id", "space group", "p(hit)", "value inside", "objective"]
    head += [f"{x}, predicted" for x in labels] + [f"{x}, validated" for x in labels]
    head += ["potential energy (eV/atom)", "novelty", "unusual", "file"]
    nothing = (math.nan, math.nan)
    body = [
        [str(i), _formula(s.formula), html.escape(s.id), html.escape(s.space_group), _share(s.p_hit),
         "yes" if s.meets else "no", f"{s.objective:.3f}", *(_value(s.predicted.get(n, nothing)) for n in names),
         *(_value(s.validated.get(n, nothing)) for n in names), f"{s.energy_ev_per_atom:.3f}",
         _share(s.novelty) + ", outside" * s.outside, html.escape(s.flags), _link(s)]
        for i, s in enumerate(candidates, start=1)
    ]  # fmt: skip
    return table(head, body, left=(1, 2, 3, 4), escaped=True)


def cost(summary: dict[str, Any]) -> str:
    """Oracle calls and seconds."""
    calls = [[name, str(call["calls"]), f"{call['seconds']:.1f}"] for name, call in summary["oracle_calls"].items()]
    calls += [[f"{name} (wall time)", "", f"{s:.1f}"] for name, s in summary.get("seconds_by_part", {}).items()]
    return table(["oracle", "calls", "seconds"], [*calls, ["all, wall time", "", f"{summary['seconds']:.1f}"]], left=1)


def versions(summary: dict[str, Any]) -> dict[str, Any]:
    """Seed, models and versions: what is needed to get the same again."""
    return {"seed": summary["seed"], **summary["models"], **summary["versions"]}


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int | Sequence[int] = 0, escaped: bool = False,
    wrap: Sequence[int] = (),
) -> str:  # fmt: skip
    """A table; the columns in `left` (or the first `left` ones) are text, the others numbers; those in `wrap` break."""
    columns = set(range(left)) if isinstance(left, int) else set(left)

    def line(cells: Sequence[str], tag: str) -> str:
        parts = [
            f"<{tag}{' class=said' if i in wrap else ' class=l' if i in columns else ''}>"
            f"{c if escaped else html.escape(c)}</{tag}>"
            for i, c in enumerate(cells)
        ]
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    header = line(head, "th") if any(head) else ""
    return f"<table>{header}{body}</table>"


def findings_table(findings: Mapping[str, Sequence[Finding]]) -> str:
    """What the failure detectors found, set by set."""
    many = len(findings) > 1
    rows = [
        [*([html.escape(name)] if many else []), html.escape(f.name), '<span class="found">found</span>' if f.detected
         else '<span class="fine">not found</span>', f"{f.value:.3g} {html.escape(f.unit)}", f"{f.threshold:.3g}",
         html.escape(f.explanation)]
        for name, said in findings.items() for f in said
    ]  # fmt: skip
    head = [*(["set"] if many else []), "failure", "", "value", "threshold", "what it means"]
    last = len(head) - 1
    return (
        table(head, rows, left=(*range(last - 2), last), escaped=True, wrap=(last,))
        if rows
        else "<p>Nothing was checked.</p>"
    )


def drawing(shown: Shown) -> dict[str, Any]:
    """What the viewer draws of a candidate."""
    return atoms_drawing(shown.numbers, np.asarray(shown.frac, float), np.asarray(shown.lattice, float))


def atoms_drawing(numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray) -> dict[str, Any]:
    """Atoms, bonds and cell edges in Å about the cell's center; atoms on a face are drawn on all of its images."""
    from ase.data import chemical_symbols, covalent_radii
    from ase.data.colors import jmol_colors

    frac = frac % 1.0
    frac = np.where(frac > 0.97, frac - 1, frac)
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
    images = (frac[:, None, :] + corners[None]).reshape(-1, 3)
    number = np.repeat(numbers, len(corners))
    inside = (images < 1.03).all(-1)
    place, number = (images[inside] - 0.5) @ lattice, number[inside]
    radius = covalent_radii[number]
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    i, j = np.nonzero(np.triu(distance < 1.2 * (radius[:, None] + radius[None]), 1))
    edges = [(a, b) for a in corners for b in corners if (b - a).sum() == 1 and np.abs(b - a).sum() == 1]
    atoms = [
        {"p": p.round(3).tolist(), "symbol": chemical_symbols[z], "radius": round(0.42 * float(r), 3),
         "color": "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[z])}
        for p, z, r in zip(place, number.tolist(), radius)
    ]  # fmt: skip
    ends = [[((c - 0.5) @ lattice).round(3).tolist() for c in edge] for edge in edges]
    return {"atoms": atoms, "bonds": np.stack([i, j], -1).tolist(), "edges": ends}


def usual_formula(numbers: np.ndarray) -> str:
    """The reduced formula in the usual order, cations first."""
    from pymatgen.core import Composition

    return Composition({SYMBOLS[z - 1]: n for z, n in counts(numbers).items()}).reduced_formula


def _formula(text: str) -> str:
    """Digits as subscripts."""
    return "".join(f"<sub>{html.escape(c)}</sub>" if c.isdigit() else html.escape(c) for c in text)


def _value(pair: tuple[float, float]) -> str:
    value, std = pair
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f} ± {std:.3f}" if math.isfinite(std) and std > 0 else f"{value:.3f}"


def _share(p: float) -> str:
    return f"{p:.2f}" if math.isfinite(p) else "–"


def _link(shown: Shown) -> str:
    name = html.escape(shown.file, quote=True)
    return f'<a href="{name}">{html.escape(Path(shown.file).name)}</a>'
