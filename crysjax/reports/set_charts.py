"""Inline SVG that compares sets of crystals: distributions against the reference, shares of classes, a map.

A set has the class `set0`, `set1`, ... and the reference `ref`, so that one style sheet themes all of it; a set's line
style differs as well as its color, for paper without color.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from crysjax.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Scale, axis, svg

REFERENCE = "reference"
BINS = 40


def css_class(place: int, name: str) -> str:
    """The class of a set in the drawings."""
    return "ref" if name == REFERENCE else f"set{place}"


def histogram(title: str, values: Mapping[str, np.ndarray], *, bins: int = BINS) -> str:
    """Outlines of the distributions of one quantity, each of area one; the outer 0.5 % are left out of the picture."""
    known = {name: v[np.isfinite(v)] for name, v in values.items()}
    known = {name: v for name, v in known.items() if len(v)}
    if not known:
        return ""
    low, high = np.percentile(np.concatenate([*known.values()]), [0.5, 99.5])
    edges = _edges(float(low), float(high), known, bins)
    heights = {name: np.histogram(np.clip(v, edges[0], edges[-1]), edges, density=True)[0] for name, v in known.items()}
    scale = Scale.over([0.0, *(float(h.max()) for h in heights.values())])
    across = _across(edges[0], edges[-1])
    places = list(values)
    parts = [axis(scale), _below(edges[0], edges[-1])]
    for name, h in heights.items():
        at = np.repeat(edges, 2)[1:-1]
        line = " ".join(f"{across(x):.1f},{scale(y):.1f}" for x, y in zip(at, np.repeat(h, 2)))
        parts.append(f'<polyline class="outline {css_class(places.index(name), name)}" points="{line}"/>')
    return _figure(title, "".join(parts))


def _edges(low: float, high: float, known: Mapping[str, np.ndarray], bins: int) -> np.ndarray:
    whole = all(np.array_equal(v, np.round(v)) for v in known.values())
    if whole and high - low < bins:
        return np.arange(math.floor(low), math.ceil(high) + 2) - 0.5
    return np.linspace(low, high if high > low else low + 1, bins + 1)


def _across(low: float, high: float):
    return lambda x: LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _below(low: float, high: float) -> str:
    """Ticks along the bottom."""
    scale, across = Scale.over([low, high]), _across(low, high)
    digits = max(0, -math.floor(math.log10(scale.tick)))
    marks = [t for t in scale.ticks() if low <= t <= high]
    y = HEIGHT - BOTTOM + 18
    return "".join(f'<text x="{across(t):.1f}" y="{y}" text-anchor="middle">{t + 0.0:.{digits}f}</text>' for t in marks)


def shares(title: str, classes: Sequence[str], values: Mapping[str, np.ndarray]) -> str:
    """Bars of the share of each class, the sets side by side: values hold (classes,) shares."""
    scale = Scale.over([0.0, *(float(v.max()) for v in values.values() if len(v))])
    wide = (WIDTH - LEFT - RIGHT) / len(classes)
    bar = 0.8 * wide / max(len(values), 1)
    parts = [axis(scale)]
    for place, (name, found) in enumerate(values.items()):
        for k, share in enumerate(found):
            x, y = LEFT + k * wide + 0.1 * wide + place * bar, scale(float(share))
            said = html.escape(f"{name}, {classes[k]}: {share:.1%}")
            size = f'width="{bar * 0.92:.1f}" height="{HEIGHT - BOTTOM - y:.1f}"'
            kind = css_class(place, name)
            parts.append(f'<rect class="column {kind}" x="{x:.1f}" y="{y:.1f}" {size}><title>{said}</title></rect>')
    y = HEIGHT - BOTTOM + 18
    parts += [
        f'<text x="{LEFT + (k + 0.5) * wide:.1f}" y="{y}" text-anchor="middle">{html.escape(label)}</text>'
        for k, label in enumerate(classes)
    ]
    return _figure(title, "".join(parts))


def scatter(title: str, places: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[tuple[str, int]]]) -> str:
    """A map: dots at (m, 2) places; a label is what a dot says and the number of its structure, -1 for none.

    Sets are drawn in the order of `places` and colored in that of `labels`.
    """
    known = np.concatenate([*places.values()])
    low, high = known.min(0), known.max(0)
    span = np.where(high > low, high - low, 1.0)
    tall = 460
    parts, order = [], list(labels)
    for name, found in places.items():  # the last one on top
        place = order.index(name)
        at = (found - low[None]) / span[None]
        for (x, y), (said, number) in zip(at, labels[name]):
            opens = f' data-open="{number}" tabindex="0"' if number >= 0 else ""
            where = f'cx="{12 + x * (WIDTH - 24):.1f}" cy="{12 + (1 - y) * (tall - 24):.1f}"'
            dot = f'class="spot {css_class(place, name)}" {where}'
            parts.append(
                f'<circle {dot} r="{4 if number >= 0 else 2.5}"{opens}><title>{html.escape(said)}</title></circle>'
            )
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{svg(''.join(parts), tall, title)}</figure>"


def legend(names: Sequence[str]) -> str:
    """Which color is which set."""
    keys = (f'<span><i class="key {css_class(k, name)}"></i>{html.escape(name)}</span>' for k, name in enumerate(names))
    return f'<p class="legend">{"".join(keys)}</p>'


def _figure(title: str, body: str) -> str:
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{svg(body, HEIGHT, title)}</figure>"
