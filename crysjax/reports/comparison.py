"""Models side by side, floors among them: the table and the plot of `crysjax compare`."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from crysjax.evaluation.metrics.distributions import Interval
from crysjax.reports import charts, set_charts
from crysjax.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Scale
from crysjax.reports.page import filled, table
from crysjax.reports.set_report import number


class Line(NamedTuple):
    """A row of the table: a model, or a floor, on one data set."""

    data: str
    task: str
    name: str
    family: str  # "floor" for what learns nothing
    facts: Mapping[str, float]  # parameters, training seconds, milliseconds per sample, ...
    metrics: Mapping[str, Interval]
    spread: Mapping[str, float] = {}  # standard deviation of a metric over seeds, where there was more than one


def over_seeds(found: Sequence[Mapping[str, Interval]]) -> tuple[dict[str, Interval], dict[str, float]]:
    """The mean of each metric over seeds, with the widest interval of a single seed, and the spread between seeds."""
    means, spread = {}, {}
    for name in found[0]:
        values = [one[name] for one in found]
        mean = float(np.mean([v.value for v in values]))
        low, high = (max(abs(v[k] - v.value) for v in values) for k in (1, 2))
        means[name] = values[0]._replace(value=mean, low=mean - low, high=mean + high)
        if len(values) > 1:
            spread[name] = float(np.std([v.value for v in values], ddof=1))
    return means, spread


def markdown(lines: Sequence[Line]) -> str:
    """A table a data set and task; the best of each column is not marked, as the floor beside it is what counts."""
    parts = []
    for place in dict.fromkeys((line.data, line.task) for line in lines):
        rows = [line for line in lines if (line.data, line.task) == place]
        columns = list(dict.fromkeys(name for line in rows for name in (*line.metrics, *line.facts)))
        head = ["model", "family", *columns]
        body = [[line.name, line.family, *(_cell(line, name) for name in columns)] for line in rows]
        parts += [f"**{place[0]}, {place[1]}**", "", *_table(head, body), ""]
    return "\n".join(parts)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]


def _cell(line: Line, name: str) -> str:
    if name in line.facts:
        return f"{line.facts[name]:,.4g}" if line.facts[name] < 1e4 else f"{line.facts[name]:,.0f}"
    if name not in line.metrics:
        return ""
    said = number(name, line.metrics[name]._asdict())
    if name not in line.spread:
        return said
    spread = {"value": line.spread[name], "low": math.nan, "high": math.nan}
    return f"{said}, seeds ± {number(name, spread)}"


def as_json(lines: Sequence[Line], about: Mapping) -> str:
    """Everything in the table, for machines; what is not finite is null."""

    def plain(value):
        if isinstance(value, Mapping):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, Interval):
            return plain(value._asdict())
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({**about, "lines": [plain(line._asdict()) for line in lines]}, indent=1) + "\n"


def render(lines: Sequence[Line], curves: Mapping[str, Mapping], *, command: str) -> str:
    """The page: tables, a plot of the leading metric of every data set, and quality against the number of steps."""
    parts = []
    for data, task in dict.fromkeys((line.data, line.task) for line in lines):
        rows = [line for line in lines if (line.data, line.task) == (data, task)]
        metric = next(iter(rows[0].metrics))
        parts += [f"<h2>{html.escape(data)}, {task}</h2>", bars_chart(metric, rows, metric)]
        parts.append(_html_table(rows))
        curve = curves.get(f"{data}, {task}")
        if curve:
            floors = {r.name: r.metrics[metric].value for r in rows if r.family == "floor"}
            parts.append(steps_chart(f"{metric}, by steps of the sampler", curve, floors, metric))
    values = {"title": "crysjax compare", "body": "".join(parts), "command": html.escape(command)}
    return filled("comparison.html", values)


def _html_table(rows: Sequence[Line]) -> str:
    columns = list(dict.fromkeys(name for line in rows for name in (*line.metrics, *line.facts)))
    body = [[line.name, line.family, *(_cell(line, name) for name in columns)] for line in rows]
    return table(["model", "family", *columns], body, left=2, sortable=True, label="Models")


def steps_chart(
    title: str, curves: Mapping[str, Sequence[tuple[int, float]]], floors: Mapping[str, float], what: str
) -> str:
    """A metric against the number of sampler steps (logarithmic), one curve per model, floors as dashed lines."""
    scale = Scale.over([v for curve in curves.values() for _, v in curve] + list(floors.values()))
    steps = sorted({s for curve in curves.values() for s, _ in curve})
    low, high = math.log(steps[0]), math.log(steps[-1]) if len(steps) > 1 else math.log(steps[0]) + 1

    def across(step: float) -> float:
        return LEFT + 20 + (math.log(step) - low) / (high - low) * (WIDTH - LEFT - RIGHT - 40)

    parts = [charts.axis(scale)]
    parts += [f'<text x="{across(s):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{s}</text>' for s in steps]
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">steps of the sampler; {what}</text>')
    for place, (name, curve) in enumerate(curves.items()):
        points = [(across(s), scale(v)) for s, v in curve]
        kind = set_charts.css_class(place, name)
        parts.append(f'<polyline class="curve {kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        parts += [f'<circle class="spot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points]
    for name, value in floors.items():
        y = scale(value)
        parts.append(f'<line class="floor" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT - 4}" y="{y - 5:.1f}" text-anchor="end">{html.escape(name)}</text>')
    picture = charts.svg("".join(parts), HEIGHT, title)
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{set_charts.legend(list(curves))}{picture}</figure>"


def bars_chart(title: str, lines: Sequence[Line], metric: str) -> str:
    """One metric of every line with its interval, floors hatched."""
    rows = [line for line in lines if metric in line.metrics and math.isfinite(line.metrics[metric].value)]
    most = max([line.metrics[metric].high for line in rows], default=1.0) or 1.0
    tall, parts = 30, []
    for k, line in enumerate(rows):
        value, low, high, *_ = line.metrics[metric]
        y, kind = k * tall, "bar floor-bar" if line.family == "floor" else "bar"
        said = html.escape(number(metric, line.metrics[metric]._asdict()))
        width, ends = 440 * value / most, [240 + 440 * v / most for v in (low, high)]
        parts.append(
            f'<text class="strong" x="228" y="{y + 20}" text-anchor="end">{html.escape(line.name)}</text>'
            f'<rect class="{kind}" x="240" y="{y + 5}" width="{max(width, 1):.1f}" height="20" rx="3"/>'
            f'<line class="whisker" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y + 15}" y2="{y + 15}"/>'
            f'<text x="{ends[1] + 8:.1f}" y="{y + 20}">{said}</text>'
        )
    picture = charts.svg("".join(parts), tall * max(len(rows), 1), title)
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{picture}</figure>"
