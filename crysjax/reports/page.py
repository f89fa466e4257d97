"""What all pages share: templates, tables, formulas and numbers as text. Everything from data is escaped here."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from crysjax.chemistry.elements import SYMBOLS, counts
from crysjax.evaluation.failures.detectors import Finding

HERE = Path(__file__).parent
UNITS = {"_ev_per_atom": "eV/atom", "_ev": "eV", "_gpa": "GPa", "_per_cm": "cm⁻¹", "_k": "K"}
SHARED = {
    "style": "report.css", "shared": "page.js", "viewer": "viewer.js", "painter": "painter.js", "stage": "stage.html",
}  # fmt: skip


def filled(page: str, values: dict[str, str]) -> str:
    """A page of this folder with its `[[name]]`s filled in; what is in `SHARED` goes in by itself."""
    values = values | {name: (HERE / file).read_text(encoding="utf-8") for name, file in SHARED.items()}
    before, *pieces = (HERE / page).read_text(encoding="utf-8").split("[[")
    named = [piece.split("]]", 1) for piece in pieces]
    return before + "".join(values[name] + rest for name, rest in named)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int | Sequence[int] = 0, escaped: bool = False,
    wrap: Sequence[int] = (), sortable: bool = False, label: str = "",
) -> str:  # fmt: skip
    """A table in a box of its own that scrolls sideways where it is wider than the page.

    The columns in `left` (or the first `left` ones) are text, the others numbers; those in `wrap` break lines. A
    `sortable` table is sorted by a click on its head. `label` names it for readers who do not see it.
    """
    columns = set(range(left)) if isinstance(left, int) else set(left)

    def line(cells: Sequence[str], tag: str) -> str:
        parts = [
            f"<{tag}{' scope=col' if tag == 'th' else ''}"
            f"{' class=said' if i in wrap else ' class=l' if i in columns else ''}>"
            f"{c if escaped else html.escape(c)}</{tag}>"
            for i, c in enumerate(cells)
        ]
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    header = f"<thead>{line(head, 'th')}</thead>" if any(head) else ""
    kind = ' class="sortable"' if sortable else ""
    box = f' role="region" tabindex="0" aria-label="{html.escape(label)}"' if label else ""
    return f'<div class="scroll"{box}><table{kind}>{header}<tbody>{body}</tbody></table></div>'


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
    if not rows:
        return "<p>Nothing was checked.</p>"
    return table(head, rows, left=(*range(last - 2), last), escaped=True, wrap=(last,), label="Warnings")


def funnel(stages: Mapping[str, int], told: Mapping[str, str]) -> str:
    """How many passed each stage, as bars in a table, with a sentence on what each stage asks."""
    most, first, rows = max([*stages.values(), 1]), next(iter(stages.values()), 0), []
    for place, (name, count) in enumerate(stages.items()):
        share = f" ({100 * count / first:.3g} %)" if first and place else ""
        rows.append(
            f'<tr><th scope="row">{html.escape(name)}</th><td class="bars"><i style="width:{100 * count / most:.1f}%">'
            f"</i></td><td>{count}{share}</td><td class=said>{html.escape(told.get(name, ''))}</td></tr>"
        )
    label = 'aria-label="Candidates that passed each stage"'
    return f'<table class="funnel" {label}><tbody>{"".join(rows)}</tbody></table>'


def quantity(name: str) -> tuple[str, str]:
    """A property's name in words and its unit: "band_gap_ev" -> ("band gap", "eV")."""
    for suffix, unit in UNITS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("_", " "), unit
    return name.replace("_", " "), ""


def titled(name: str) -> str:
    """Name and unit of a property: "band gap (eV)"."""
    words, unit = quantity(name)
    return f"{words} ({unit})" if unit else words


def usual_formula(numbers: np.ndarray) -> str:
    """The reduced formula in the usual order, cations first."""
    from pymatgen.core import Composition

    return Composition({SYMBOLS[z - 1]: n for z, n in counts(numbers).items()}).reduced_formula


def formula(text: str) -> str:
    """A formula with its digits as subscripts, escaped."""
    return re.sub(r"(\d+)", r"<sub>\1</sub>", re.sub(r"&[^;]*;", lambda m: m[0], html.escape(text, quote=False)))


def space_group(text: str) -> str:
    """A Hermann-Mauguin symbol with screw axes as subscripts and bars over the numbers, escaped."""
    text = re.sub(r"-(\d)", r'<span class="bar-over">\1</span>', html.escape(text))
    return re.sub(r"_(\d)", r"<sub>\1</sub>", text)


def value(pair: tuple[float, float], digits: int = 3) -> str:
    """Value and standard deviation: "1.500 ± 0.100", or a dash."""
    found, std = pair
    if not math.isfinite(found):
        return "–"
    return f"{found:.{digits}f} ± {std:.{digits}f}" if math.isfinite(std) and std > 0 else f"{found:.{digits}f}"


def share(p: float) -> str:
    """A probability, or a dash."""
    return f"{p:.2f}" if math.isfinite(p) else "–"
