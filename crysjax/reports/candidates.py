"""Candidates in the report of a campaign: their pictures, the facts beside the drawing, and the ranking."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crysjax.reports import page, structures
from crysjax.reports.page import table, titled
from crysjax.reports.structures import Structure

NOTHING = (math.nan, math.nan)  # value and std of what nobody said


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
    body = [
        [html.escape(titled(k)), html.escape(want), page.value(shown.predicted.get(k, NOTHING)),
         page.value(shown.validated.get(k, NOTHING))]
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
    """What was asked of a property, with or without a weight: a window, or as low or as high as possible."""
    asked = asked.get("goal") if isinstance(asked, Mapping) else asked
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
    body = [
        [_opener(i, s), page.formula(s.formula), page.space_group(s.space_group), f"{s.objective:.3f}",
         page.share(s.p_hit), "yes" if s.meets else "no",
         *(page.value(of.get(n, NOTHING)) for n in names for of in (s.predicted, s.validated)),
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


def poscar(shown: Shown) -> str:
    """The file of the cell as it was relaxed, beside the CIF."""
    return str(Path(shown.file).with_suffix(".vasp"))


def _link(file: str) -> str:
    return f'<a href="{html.escape(file, quote=True)}">{html.escape(Path(file).name)}</a>'
