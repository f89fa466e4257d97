"""Are the property heads' uncertainties true where design uses them, and do they find more hits for the same budget?

    python experiments/uncertainty/run.py --data data/mp_20_full.npz --out experiments/uncertainty/results.json

The heads have not seen the rows reported. Calibration over all of them, by kind of compound, by distance to the
training set and among the selected; calibration under shift as foreseen from the validation split by density-ratio
weights; hits against budget with and without the uncertainty; and what the detectors say. Errors are prediction -
truth: a positive bias is a prediction that is too high. Writes the raw result, of which `tables.py` beside this script
makes results.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import selection

from crysjax.base import Estimate
from crysjax.chemistry.elements import NUMBERS
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset
from crysjax.evaluation.failures import detector_inputs, detectors
from crysjax.models import registry
from crysjax.predictors import calibration
from crysjax.predictors.predictor import estimate
from crysjax.reports import record

ENERGY, GAP = "formation_energy_ev_per_atom", "band_gap_ev"
WINDOW_EV = (1.0, 2.0)
LOWEST = 0.05  # share of the pool that counts as a hit for the formation energy
TOP = 100
BUDGETS = (10, 50, 100, 200, 500, 1000)
AREA_BUDGET = 500
NEIGHBORS = 5
ANIONS = {
    "halide": ("F", "Cl", "Br", "I"),
    "oxide": ("O",),
    "chalcogenide": ("S", "Se", "Te"),
    "pnictide": ("N", "P", "As", "Sb"),
}


class Said(NamedTuple):
    """What the heads say of a data set."""

    value: np.ndarray  # (m, k)
    std: np.ndarray  # (m, k)
    features: np.ndarray  # (m, d) of the first member's network


def ask(predictor: Any, dataset: Dataset) -> Said:
    """Predictions and features of every crystal."""
    shape = batching.capacity(dataset.num_atoms)
    said = estimate(predictor.predict, predictor.params, dataset, shape)
    as_estimate = lambda f: Estimate(f, f, f == f)  # noqa: E731
    features = estimate(lambda p, pack: as_estimate(predictor.features(p, pack)), predictor.params, dataset, shape)
    return Said(said.value.astype(float), said.std.astype(float), features.value.astype(float))


def distance_to(train: np.ndarray, rows: np.ndarray, neighbors: int = NEIGHBORS) -> np.ndarray:
    """Mean distance to the nearest training rows, features standardized on them, over √d (after Janet et al. 2019)."""
    train = train[np.isfinite(train).all(1)]  # a network refuses some crystals
    scale = train.std(0) + 1e-9
    train, rows = train / scale, rows / scale
    square = (train**2).sum(1)
    found = []
    for part in np.array_split(rows, max(len(rows) // 500, 1)):
        d2 = np.maximum((part**2).sum(1)[:, None] + square[None] - 2 * part @ train.T, 0)
        found.append(np.sqrt(np.partition(d2, neighbors, axis=1)[:, :neighbors]).mean(1))
    return np.concatenate(found) / np.sqrt(train.shape[1])


def kinds(dataset: Dataset) -> np.ndarray:
    """Kind of compound by its anions: (m,) str."""
    sets = {name: {NUMBERS[s] for s in symbols} for name, symbols in ANIONS.items()}
    found = []
    for row in datasets.entries(dataset):
        held = [name for name, numbers in sets.items() if numbers & set(row.numbers.tolist())]
        found.append(held[0] if len(held) == 1 else "several of these" if held else "none of these")
    return np.array(found)


def cells(found: calibration.Calibration) -> dict[str, float]:
    """One row of a calibration table."""
    return found._asdict() | {"ence_of_perfect": float(calibration.ence_of_perfect(found.count))}


class Pool(NamedTuple):
    """One property of the rows reported."""

    name: str
    truth: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    window: tuple[float, float]  # what the scores aim at
    hit: np.ndarray  # (m,) bool

    @property
    def error(self) -> np.ndarray:
        return self.mean - self.truth


def rankings(pool: Pool) -> dict[str, np.ndarray]:
    """Scores by name; `mean` is the one without uncertainty."""
    found = {"mean": selection.nearness(pool.mean, *pool.window)}
    found["probability"] = selection.window_probability(pool.mean, pool.std, *pool.window)
    if np.isinf(pool.window[0]):
        found |= {"bold, mean - std": selection.bound(pool.mean, pool.std, 1.0)}
        found |= {"cautious, mean + std": selection.bound(pool.mean, pool.std, -1.0)}
    return found | {"random": np.zeros(len(pool.mean))}


def calibrated(pool: Pool, distance: np.ndarray, groups: dict[str, np.ndarray]) -> list[dict]:
    """The table of one property: all, groups, bands, selected."""
    error, std = pool.error, pool.std
    rows = [{"rows": "all"} | cells(calibration.summarize(error, std))]
    for labels in groups.values():
        rows += [{"rows": name} | cells(c) for name, c in calibration.by_group(error, std, labels).items()]
    for i, band in enumerate(calibration.by_distance(error, std, distance)):
        name = f"distance fifth {i + 1}: {band.low:.2f} to {band.high:.2f}"
        rows.append({"rows": name} | cells(band.calibration))
    for name, score in rankings(pool).items():
        if name != "random":
            found = calibration.under_selection(error, std, score, (TOP,))[TOP]
            rows.append({"rows": f"top {TOP} by {name}"} | cells(found))
    return rows


def curve_of(pool: Pool) -> list[dict]:
    """Reliability curve over all rows, a tenth of them for each point."""
    curve = calibration.reliability(pool.error, pool.std)
    return [{"std": float(s), "rmse": float(r), "std_over_rmse": float(s / r)} for s, r in zip(curve.std, curve.rmse)]


def foreseen(pool: Pool, held_out: Pool, features: tuple[np.ndarray, np.ndarray], parts: dict) -> list[dict]:
    """RMS error/std foreseen from labeled held-out crystals with weights, beside what it is."""
    plain, rows = calibration.summarize(held_out.error, held_out.std), []
    for name, chosen in parts.items():
        weights = calibration.density_ratio(features[1], features[0][chosen])
        weighted = calibration.summarize(held_out.error, held_out.std, weights)
        found = calibration.summarize(pool.error[chosen], pool.std[chosen])
        off = np.abs(calibration.imbalance(features[1], features[0][chosen], weights)).max()
        three = {"validation": plain, "reweighted": weighted, "true": found}
        rows.append({"rows": name, "imbalance_std": float(off)} | {k: cells(c) for k, c in three.items()})
    return rows


def hit_table(pool: Pool) -> list[dict]:
    """Hits at each budget, with 95 % bands."""
    rows, likely, total = [], rankings(pool)["probability"], int(pool.hit.sum())
    for name, score in rankings(pool).items():
        if name != "random":
            curve = selection.curve(score, pool.hit, BUDGETS)
            rows += [
                {"by": name, "budget": b, "hits": float(h), "low": float(low), "high": float(high)}
                for b, h, low, high in zip(BUDGETS, curve.hits, curve.low, curve.high)
            ]
    promised = selection.hits(likely, np.exp(likely), BUDGETS)
    exact, spread = selection.random_hits(len(pool.hit), total, BUDGETS)
    for b, p, mean, std in zip(BUDGETS, promised, exact, spread):
        rows.append({"by": "promised by probability", "budget": b, "hits": float(p)})
        rows.append({"by": "random, exact mean ± std", "budget": b, "hits": float(mean), "std": float(std)})
        rows.append({"by": "most there can be", "budget": b, "hits": min(b, total)})
    return rows


def gain_table(pool: Pool, parts: dict[str, np.ndarray]) -> list[dict]:
    """Area under the hit curve against that without uncertainty."""
    rows = []
    for part, chosen in parts.items():
        own = pool._replace(**{f: getattr(pool, f)[chosen] for f in ("truth", "mean", "std", "hit")})
        scores, counts = rankings(own), {"hits": int(own.hit.sum()), "pool": len(own.hit)}
        for name in (n for n in scores if n not in ("mean", "random")):
            found = selection.compare(scores[name], scores["mean"], own.hit, AREA_BUDGET)
            told = {k: float(v) for k, v in found._asdict().items()}
            rows.append({"rows": part, "by": name} | counts | told)
    return rows


def pools(predictor: Any, dataset: Dataset, said: Said, energy_limit: float) -> dict[str, Pool]:
    """Both properties."""
    column = {name: predictor.names.index(name) for name in (ENERGY, GAP)}
    truth = {name: dataset.properties[name].astype(float) for name in (ENERGY, GAP)}
    hit = {
        ENERGY: truth[ENERGY] <= np.quantile(truth[ENERGY], LOWEST),
        GAP: (truth[GAP] > WINDOW_EV[0]) & (truth[GAP] < WINDOW_EV[1]),
    }
    window = {ENERGY: (-np.inf, energy_limit), GAP: WINDOW_EV}
    label = {ENERGY: "formation energy, eV/atom", GAP: "band gap, eV"}
    return {n: Pool(label[n], truth[n], said.value[:, c], said.std[:, c], window[n], hit[n]) for n, c in column.items()}


def shift_features(pool: Pool, distance: np.ndarray, held_out: Pool, held_distance: np.ndarray) -> tuple:
    """What a shift is described by: prediction, std and distance as ranks over both sets, and their squares."""
    here, there = ((p.mean, p.std, d) for p, d in ((pool, distance), (held_out, held_distance)))
    ranks = [np.argsort(np.argsort(np.concatenate(pair), kind="stable")) for pair in zip(here, there)]
    x = np.column_stack(ranks) / len(ranks[0]) - 0.5
    x = np.column_stack([x, x**2])
    return x[: len(distance)], x[len(distance) :]


def measured(predictor: Any, dataset: Dataset, split: str) -> dict[str, list[dict]]:
    """All tables of both properties, by name, and what the detectors say."""
    train, held, test = (datasets.where_split(dataset, s) for s in ("train", "val", split))
    of = {name: ask(predictor, part) for name, part in (("train", train), ("val", held), ("test", test))}
    distance, held_distance = (distance_to(of["train"].features, of[n].features) for n in ("test", "val"))
    limit = float(np.quantile(train.properties[ENERGY], LOWEST))
    found, held_out = pools(predictor, test, of["test"], limit), pools(predictor, held, of["val"], limit)
    seen = detector_inputs.seen_compositions(test, train)
    groups = {"kind": kinds(test), "seen": np.where(seen, "composition in training", "composition not in training")}
    far, every, report = distance >= np.quantile(distance, 0.8), np.ones(len(distance), bool), {}
    for name, pool in found.items():
        top = np.argsort(-selection.nearness(pool.mean, *pool.window), kind="stable")[:TOP]
        chosen = {"all rows": every, "farthest fifth": far, f"top {TOP} by mean": _mask(top, len(far))}
        features = shift_features(pool, distance, held_out[name], held_distance)
        parts = {"all": every, "farthest fifth": far, "composition not in training": ~seen}
        report[f"{name}: calibration"] = calibrated(pool, distance, groups)
        report[f"{name}: reliability"] = curve_of(pool)
        report[f"{name}: foreseen"] = foreseen(pool, held_out[name], features, chosen)
        report[f"{name}: hits"] = hit_table(pool)
        report[f"{name}: gain"] = gain_table(pool, parts)
        report[f"{name}: findings"] = [_plain(detectors.miscalibration(pool.error, pool.std))]
    both = of["test"].features, of["train"].features
    shared = detector_inputs.seen_structures(test, train)
    said = (detectors.hidden_shift(*both), detectors.leakage(seen), detectors.leakage(shared))
    about = ("features", "compositions", "structures")
    return report | {"findings": [{"about": a} | _plain(f) for a, f in zip(about, said)]}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mp_20_heads")
    parser.add_argument("--data", default="data/mp_20_full.npz")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    predictor, _ = registry.load_predictor(options.model)
    found = measured(predictor, datasets.load(options.data), options.split)
    record.write(options.out, record.about(options) | found)


def _plain(finding: detectors.Finding) -> dict:
    return {k: v for k, v in finding._asdict().items() if k != "worst"}


def _mask(index: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[index] = True
    return mask


if __name__ == "__main__":
    main()
