"""A page that answers "did I get it?": what samples were asked for beside what heads predict of them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

from crysjax.evaluation.requests import AskedProperty, told
from crysjax.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Scale, axis, svg
from crysjax.reports.energy_volume import plain_page

MOST_MARKS = 500


def chart(said: AskedProperty, ids: Sequence[str]) -> str:
    """Crystals in the order of what was asked: asked values hollow, predictions full with their std, the window shaded.

    Of more than `MOST_MARKS` crystals every k-th is drawn.
    """
    rows = np.flatnonzero(np.isfinite(said.asked) & np.isfinite(said.value))
    if not len(rows):
        return ""
    rows = rows[np.argsort(said.asked[rows], kind="stable")][:: -(-len(rows) // MOST_MARKS)]
    bars = np.where(np.isfinite(said.std), said.std, 0.0)
    ends = [*(said.value[rows] - bars[rows]), *(said.value[rows] + bars[rows]), *said.asked[rows]]
    scale = Scale.over([*map(float, ends), *filter(math.isfinite, said.window)])
    low, high = (min(max(side, scale.low), scale.high) for side in said.window)
    size = f'width="{WIDTH - LEFT - RIGHT}" height="{scale(low) - scale(high):.1f}"'
    parts = [axis(scale), f'<rect class="window" x="{LEFT}" y="{scale(high):.1f}" {size}/>']
    step = (WIDTH - LEFT - RIGHT) / len(rows)
    for place, row in enumerate(rows.tolist()):
        x, value, asked, bar = LEFT + (place + 0.5) * step, said.value[row], said.asked[row], bars[row]
        words = html.escape(f"{ids[row]}: asked {asked:.4g}, predicted {value:.4g} ± {said.std[row]:.2g}")
        parts.append(
            f'<line class="validated" x1="{x:.1f}" x2="{x:.1f}" y1="{scale(value - bar):.1f}" '
            f'y2="{scale(value + bar):.1f}"/><circle class="predicted" cx="{x:.1f}" cy="{scale(asked):.1f}" r="3"/>'
            f'<circle class="validated" cx="{x:.1f}" cy="{scale(value):.1f}" r="3"><title>{words}</title></circle>'
        )
    label = "crystals, by what was asked; hollow: asked, full: predicted with its std, shaded: the window"
    parts.append(f'<text x="{(WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - BOTTOM + 24}" text-anchor="middle">{label}</text>')
    picture = svg("".join(parts), HEIGHT, said.name)
    return f"<figure><figcaption>{html.escape(said.name)}</figcaption>{picture}</figure>"


def page(name: str, requests: Sequence[AskedProperty], ids: Sequence[str], heads: str) -> str:
    """The page of one set of samples."""
    words = [f"Predicted by the heads {heads}, with their own uncertainty; nothing was measured or computed by DFT."]
    body = "".join(f"<p>{html.escape(told(said))}</p>{chart(said, ids)}" for said in requests)
    return plain_page(f"{name}: what was asked and what came", words, body)
