"""A page of polymorphs: energy against volume, each crystal a dot, and a table."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from crysjax.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Scale, axis, svg
from crysjax.reports.page import filled, table


def chart(volumes: np.ndarray, energies: np.ndarray, said: Sequence[str]) -> str:
    """Energies above the lowest (eV/atom) against volumes (Å³/atom), (m,) each; `said` is what a dot says."""
    title = "energy above the lowest (eV/atom) against volume (Å³/atom)"
    up, along = Scale.over(energies.tolist()), Scale.over(volumes.tolist())
    share = (volumes - along.low) / (along.high - along.low)
    across = LEFT + share * (WIDTH - LEFT - RIGHT)
    parts = [axis(up)]
    for tick in along.ticks():
        x = LEFT + (tick - along.low) / (along.high - along.low) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    for x, energy, words in zip(across, energies, said, strict=True):
        at = f'cx="{x:.1f}" cy="{up(float(energy)):.1f}" r="4.5"'
        parts.append(f'<circle class="validated" {at}><title>{html.escape(words)}</title></circle>')
    picture = svg("".join(parts), HEIGHT, title)
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{picture}</figure>"


def page(title: str, words: Sequence[str], drawing: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The page as text."""
    return plain_page(title, words, drawing + table(head, rows, left=(1, 2), sortable=True, label="Polymorphs"))


def plain_page(title: str, words: Sequence[str], body: str) -> str:
    """A page of a title, paragraphs and a body in HTML, in the style of the reports."""
    said = "".join(f"<p>{html.escape(line)}</p>" for line in words)
    return filled("plain.html", {"title": html.escape(title), "body": said + body})
