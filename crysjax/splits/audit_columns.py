"""What the numbers of a data set show: ids, times, preprocessing, labels that are one another, placeholders.

No structure is looked at here; every test is exact or says its tolerance.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from crysjax.data import placeholders
from crysjax.data.datasets import Dataset

TIME = re.compile(r"(^|_)(year|date|time|timestamp|published|created|discovered)($|_(?!.*(s|ps|fs|ns)$))", re.I)
MOMENT = 1e-4  # of a mean from 0 and a standard deviation from 1: rounding; sampling alone gives about m^(-1/2)
RANK = 0.999  # Spearman's correlation above which one column is a function of the other
FEWEST = 20  # known values, below which a column is not judged
_DISTINCT = 10  # different values that a column needs, so that labels and counts are not taken for scales


def repeated_ids(dataset: Dataset) -> dict:
    """Ids that come more than once: rows in excess a split, ids in several splits, and some of them."""
    pairs = Counter(zip(dataset.split.tolist(), dataset.ids.tolist()))
    excess: Counter = Counter()
    for (split, _), count in pairs.items():
        excess[split or "(none)"] += count - 1
    several = [name for name, count in Counter(name for _, name in pairs).items() if count > 1]
    twice = [name for (_, name), count in pairs.items() if count > 1]
    return {"within": dict(excess), "in_several_splits": len(several), "examples": (several + twice)[:5]}


def time_columns(dataset: Dataset, named: str | None = None) -> list[str]:
    """Properties that say when: the one that is named, or all whose name says so (`year`, `date_...`)."""
    if named is not None and named not in dataset.properties:
        raise ValueError(f"audit: no property {named!r} for the time; the data set has {sorted(dataset.properties)}")
    return [named] if named else [name for name in dataset.properties if TIME.search(name)]


def time_leakage(dataset: Dataset, reference: str, target: str, columns: list[str]) -> list[dict]:
    """For each time column: how many rows of the reference split are later than the earliest row of the target."""
    found = []
    for column in columns:
        values = dataset.properties[column].astype(float)
        before, after = (values[(dataset.split == name) & np.isfinite(values)] for name in (reference, target))
        if len(before) and len(after):
            later = int((before > after.min()).sum())
            found.append({"column": column, "later": later, "known": len(before), "earliest": float(after.min()),
                          "latest": float(before.max())})  # fmt: skip
    return found


def preprocessing(dataset: Dataset) -> list[dict]:
    """Columns whose numbers show on which rows they were scaled: all of them, or one split.

    Standardized: mean 0 and standard deviation 1 (either divisor) to within MOMENT. Min-max scaled: the smallest value
    is exactly 0 (or -1) and the largest exactly 1. `leaks` says that rows outside train went into the scaling; it is
    None where train alone has the same extremes, so that the numbers cannot tell.
    """
    parts = {"all rows": np.ones(len(dataset), bool)}
    names = [name for name in np.unique(dataset.split).tolist() if name]
    parts |= {name: dataset.split == name for name in names if (dataset.split != name).any()}
    parts |= {f"all but {name}": dataset.split != name for name in names if len(names) > 2}
    found = []
    for column, values in dataset.properties.items():
        values = values.astype(float)
        moments, extremes = _standardized(values, parts), _min_max(values, parts)
        found += [{"column": column, "scaling": "standardized", "on": on, "leaks": on != "train" and len(parts) > 1,
                   "deviation": off} for on, off in moments]  # fmt: skip
        if extremes:
            leaks = None if "train" in extremes else len(parts) > 1
            found.append({"column": column, "scaling": "min-max", "on": extremes[0], "leaks": leaks, "deviation": 0.0})
    return found


def _judgeable(values: np.ndarray) -> bool:
    return len(values) >= FEWEST and len(np.unique(values)) > _DISTINCT


def _standardized(values: np.ndarray, parts: dict[str, np.ndarray]) -> list[tuple[str, float]]:
    """The part (none or one) on which a column has mean 0 and deviation 1, and how far it is from that."""
    off = {}
    for name, rows in parts.items():
        known = values[rows & np.isfinite(values)]
        if _judgeable(known):
            off[name] = float(max(abs(known.mean()), min(abs(known.std(ddof=k) - 1) for k in (0, 1))))
    best = min(off, key=off.get, default=None)
    return [(best, off[best])] if best is not None and off[best] < MOMENT else []


def _min_max(values: np.ndarray, parts: dict[str, np.ndarray]) -> list[str]:
    """The parts on which a column runs exactly from 0 or -1 to 1, if all rows do."""
    if not _judgeable(values[np.isfinite(values)]):
        return []
    ranges = {name: (np.nanmin(values[rows]), np.nanmax(values[rows])) for name, rows in parts.items()
              if np.isfinite(values[rows]).any()}  # fmt: skip
    whole = ranges["all rows"]
    return [name for name, ends in ranges.items() if ends == whole] if whole in ((0, 1), (-1, 1)) else []


def declared(provenance: object) -> list[dict]:
    """What the provenance says was fitted, from every part: `{"fitted": [{"what", "columns", "on": [splits]}]}`."""
    return [
        {"what": str(fit.get("what", "?")), "columns": list(fit.get("columns", [])), "on": on,
         "leaks": set(on) != {"train"}}
        for fit in _fits(provenance)
        for on in [[fit["on"]] if isinstance(fit.get("on"), str) else list(fit.get("on", []))]
    ]  # fmt: skip


def _fits(node: object) -> Iterator[dict]:
    if isinstance(node, dict):
        yield from (fit for fit in node.get("fitted", []) if isinstance(fit, dict))
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _fits(child)


def label_leakage(dataset: Dataset) -> list[dict]:
    """Pairs of columns of which one is a monotone function of the other to within ties and noise: |rho| > RANK.

    Rows where both have their most frequent value do not count: two gaps that are mostly 0 agree there for nothing.
    """
    found = []
    for (a, x), (b, y) in itertools.combinations(dataset.properties.items(), 2):
        known = np.isfinite(x) & np.isfinite(y)
        known[known] = (x[known] != _most_frequent(x[known])) | (y[known] != _most_frequent(y[known]))
        if _judgeable(x[known]) and _judgeable(y[known]):
            rho = _rank_correlation(x[known], y[known])
            found += [{"columns": [a, b], "rho": rho, "known": int(known.sum())}] if abs(rho) > RANK else []
    return found


def placeholder_values(dataset: Dataset) -> list[dict]:
    """Values that look like placeholders or slips, see `placeholders`: column, value, count, and of how many."""
    return [
        {
            "column": name,
            "value": one.value,
            "count": one.count,
            "known": one.known,
            "others": None if np.isnan(one.low) else [one.low, one.high],
        }
        for name, values in sorted(dataset.properties.items())
        for one in placeholders.suspicious(values)
    ]


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's."""
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _most_frequent(values: np.ndarray) -> float:
    found, count = np.unique(values, return_counts=True)
    return found[count.argmax()] if len(found) else np.nan
