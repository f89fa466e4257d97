"""Inline SVG for the report: plain text, themed by the page's style sheet, readable without scripts."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000, 300, 64, 16, 14, 42
NAMES = 44  # below the axis of a chart whose marks have names


class Mark(NamedTuple):
    """One candidate in a chart; std may be NaN (no bar)."""

    name: str
    predicted: tuple[float, float]  # value, std
    validated: tuple[float, float]
    label: str = ""  # below the axis


def goal_chart(title: str, marks: Sequence[Mark], window: tuple[float, float]) -> str:
    """Predicted and validated value of each candidate, best ranked first, with the target window shaded.

    `window` may be infinite on either side or on both (a property to minimize or maximize has none).
    """
    lows = [v - _bar(s) for m in marks for v, s in (m.predicted, m.validated)]
    highs = [v + _bar(s) for m in marks for v, s in (m.predicted, m.validated)]
    sides = [side for side in window if math.isfinite(side)]
    scale = Scale.over([*lows, *highs, *sides])
    step = (WIDTH - LEFT - RIGHT) / max(len(marks), 1)
    parts = [axis(scale), _window(scale, window)]
    every, below = math.ceil(len(marks) / 32), HEIGHT - BOTTOM + 14
    for place, mark in enumerate(marks):
        x = LEFT + (place + 0.5) * step
        parts.append(_pair(x, scale, mark))
        if place % every == 0:
            turned = f'transform="translate({x + 4:.1f} {below}) rotate(-40)" text-anchor="end"'
            parts.append(f"<text {turned}>{place + 1} {html.escape(mark.label[:16])}</text>")
    said = f"{title} of each candidate by rank, predicted and validated; as numbers in the ranking"
    picture = svg("".join(parts), HEIGHT + NAMES, said)
    return f"<figure><figcaption>{html.escape(title)}, by rank</figcaption>{picture}</figure>"


def progress_chart(title: str, values: Sequence[float]) -> str:
    """Best value so far over the validations in the order they were made; lower is better."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    best = np.minimum.accumulate([v if math.isfinite(v) else math.inf for v in values])
    scale = Scale.over(finite)
    step = (WIDTH - LEFT - RIGHT) / len(values)
    x = [LEFT + (i + 0.5) * step for i in range(len(values))]
    dots = "".join(
        f'<circle class="dotted" cx="{a:.1f}" cy="{scale(v):.1f}" r="3.5" opacity=".55"/>'
        for a, v in zip(x, values)
        if math.isfinite(v)
    )
    ends = [(at, b) for a, b in zip(x, best) for at in (a - step / 2, a + step / 2) if math.isfinite(b)]
    line = '<polyline class="best" points="' + " ".join(f"{at:.1f},{scale(b):.1f}" for at, b in ends) + '"/>'
    middle, words = (WIDTH + LEFT) / 2, "validation, in the order made"
    label = f'<text x="{middle:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{words}</text>'
    body = axis(scale) + dots + line + label
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{svg(body, HEIGHT, title)}</figure>"


class Scale(NamedTuple):
    """A linear axis that begins and ends at round numbers."""

    low: float
    high: float
    tick: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Scale:
        """The axis that holds all the finite values, with 3 to 8 ticks."""
        known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(known), max(known)
        if high - low < 1e-9 * max(abs(low), abs(high), 1.0):
            low, high = low - 0.5, high + 0.5
        rough = (high - low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        tick = power * min((1, 2, 5, 10), key=lambda m: abs(m * power - rough))
        return cls(math.floor(low / tick) * tick, math.ceil(high / tick) * tick, tick)

    def __call__(self, value: float) -> float:
        """The place of a value, from the top of the chart."""
        share = (value - self.low) / (self.high - self.low)
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    def ticks(self) -> list[float]:
        """Where the grid lines are."""
        return [self.low + i * self.tick for i in range(round((self.high - self.low) / self.tick) + 1)]


def axis(scale: Scale) -> str:
    """Grid lines with their values."""
    digits = max(0, -math.floor(math.log10(scale.tick)))
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale(t):.1f}" y2="{scale(t):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{scale(t) + 4:.1f}" text-anchor="end">{t + 0.0:.{digits}f}</text>'
        for t in scale.ticks()
    )


def _window(scale: Scale, window: tuple[float, float]) -> str:
    if not any(map(math.isfinite, window)):
        return ""
    top, bottom = scale(min(window[1], scale.high)), scale(max(window[0], scale.low))
    edges = "".join(
        f'<line class="edge" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale(v):.1f}" y2="{scale(v):.1f}"/>'
        for v in window
        if math.isfinite(v)
    )
    size = f'width="{WIDTH - LEFT - RIGHT}" height="{bottom - top:.1f}"'
    return f'<rect class="window" x="{LEFT}" y="{top:.1f}" {size}/>{edges}'


def _pair(x: float, scale: Scale, mark: Mark) -> str:
    """A hollow dot for the prediction and a full one for the validation, side by side and joined."""
    parts, gap = [], 5
    ends = [(x - gap, mark.predicted, "predicted"), (x + gap, mark.validated, "validated")]
    ends = [end for end in ends if math.isfinite(end[1][0])]
    if len(ends) == 2:
        (xa, a, _), (xb, b, _) = ends
        parts.append(f'<line class="join" x1="{xa}" x2="{xb}" y1="{scale(a[0]):.1f}" y2="{scale(b[0]):.1f}"/>')
    for at, (value, std), kind in ends:
        y, bar = scale(value), _bar(std)
        if bar:
            parts.append(
                f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" '
                f'y1="{scale(value - bar):.1f}" y2="{scale(value + bar):.1f}"/>'
            )
        said = f"{mark.name}: {kind} {value:.3f}" + (f" ± {std:.3f}" if bar else "")
        dot = f'<circle class="{kind}" cx="{at:.1f}" cy="{y:.1f}" r="4.5" stroke-width="1.6">'
        parts.append(f"{dot}<title>{html.escape(said)}</title></circle>")
    return "".join(parts)


def _bar(std: float) -> float:
    return std if math.isfinite(std) else 0.0


def svg(body: str, height: float, title: str) -> str:
    """A drawing as wide as the page."""
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{html.escape(title)}">{body}</svg>'
