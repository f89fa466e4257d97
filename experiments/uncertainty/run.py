"""Are the property heads' uncertainties true where design uses them, and do they find more hits for the same budget?

    python experiments/uncertainty/run.py --data data/mp_20_full.npz

The heads have not seen the rows reported. Calibration over all of them, by kind of compound, by distance to the
training set and among the selected; calibration under shift as foreseen from the validation split by density-ratio
weights; hits against budget with and without the uncertainty; and what the detectors say. Prints Markdown. Errors are
prediction - truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
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


HEADER = ["rows", "MAE", "bias", "RMS error/std (1)", "in 1 std (.683)", "in 2 std (.954)", "ENCE", "of perfect", "NLL",
          "sharpness", "rank corr."]  # fmt: skip


def cells(found: calibration.Calibration) -> list[str]:
    """One row of a calibration table."""
    numbers = [f"{v:.3f}" for v in (found.mae, found.bias)] + [f"{found.scale:.2f}"]
    numbers += [f"{v:.3f}" for v in (found.coverage_1, found.coverage_2)]
    numbers += [f"{v:.2f}" for v in (found.ence, calibration.ence_of_perfect(found.count), found.nll)]
    return [f"{found.count:,}", *numbers, f"{found.sharpness:.3f}", f"{found.rank_correlation:.2f}"]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


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


def calibrated(pool: Pool, distance: np.ndarray, groups: dict[str, np.ndarray]) -> str:
    """The table of one property: all, groups, bands, selected."""
    error, std = pool.error, pool.std
    rows = [["all", *cells(calibration.summarize(error, std))]]
    for labels in groups.values():
        rows += [[name, *cells(c)] for name, c in calibration.by_group(error, std, labels).items()]
    for i, band in enumerate(calibration.by_distance(error, std, distance)):
        rows.append([f"distance fifth {i + 1}: {band.low:.2f} to {band.high:.2f}", *cells(band.calibration)])
    for name, score in rankings(pool).items():
        if name != "random":
            found = calibration.under_selection(error, std, score, (TOP,))[TOP]
            rows.append([f"top {TOP} by {name}", *cells(found)])
    return table([pool.name, *HEADER], rows)


def curve_of(pool: Pool) -> str:
    """Reliability curve over all rows."""
    curve = calibration.reliability(pool.error, pool.std)
    rows = [[f"{s:.3f}", f"{r:.3f}", f"{s / r:.2f}"] for s, r in zip(curve.std, curve.rmse)]
    return table([f"{pool.name}: predicted std of a tenth of the rows", "RMS error", "std / RMS error"], rows)


def foreseen(pool: Pool, held_out: Pool, features: tuple[np.ndarray, np.ndarray], parts: dict[str, np.ndarray]) -> str:
    """RMS error/std foreseen from labeled held-out crystals with weights, beside what it is."""
    plain = calibration.summarize(held_out.error, held_out.std)
    rows = []
    for name, chosen in parts.items():
        weights = calibration.density_ratio(features[1], features[0][chosen])
        weighted = calibration.summarize(held_out.error, held_out.std, weights)
        found = calibration.summarize(pool.error[chosen], pool.std[chosen])
        numbers = [f"{c.scale:.2f} ({c.coverage_2:.3f}; {c.bias:+.3f})" for c in (plain, weighted, found)]
        off = np.abs(calibration.imbalance(features[1], features[0][chosen], weights)).max()
        rows.append([name, *numbers, f"{weighted.effective_count:.0f} of {weighted.count}", f"{off:.2f}"])
    return table([pool.name, "validation as it is", "reweighted", "true", "effective count", "imbalance, std"], rows)


def hit_table(pool: Pool) -> str:
    """Hits at each budget, with 95 % bands."""
    rows = []
    for name, score in rankings(pool).items():
        curve = selection.curve(score, pool.hit, BUDGETS)
        rows.append([name, *(f"{h:.0f} ({a:.0f} to {b:.0f})" for h, a, b in zip(curve.hits, curve.low, curve.high))])
    likely = rankings(pool)["probability"]
    promised = selection.hits(likely, np.exp(likely), BUDGETS)
    rows.insert(2, ["promised by probability", *(f"{h:.0f}" for h in promised)])
    exact, spread = selection.random_hits(len(pool.hit), int(pool.hit.sum()), BUDGETS)
    rows[-1] = ["random, exact mean ± std", *(f"{m:.1f} ± {s:.1f}" for m, s in zip(exact, spread))]
    rows.append(["most there can be", *(f"{min(b, int(pool.hit.sum()))}" for b in BUDGETS)])
    return table([f"{pool.name}: ranked by", *(f"{b} validations" for b in BUDGETS)], rows)


def gain_table(pool: Pool, parts: dict[str, np.ndarray]) -> str:
    """Area under the hit curve against that without uncertainty."""
    rows = []
    for part, chosen in parts.items():
        own = pool._replace(**{f: getattr(pool, f)[chosen] for f in ("truth", "mean", "std", "hit")})
        scores = rankings(own)
        for name in (n for n in scores if n not in ("mean", "random")):
            d = selection.compare(scores[name], scores["mean"], own.hit, AREA_BUDGET)
            line = [f"{d.area:.3f}", f"{d.other_area:.3f}", f"{d.difference:+.3f} ({d.low:+.3f} to {d.high:+.3f})"]
            rows.append([part, name, f"{own.hit.sum():,} of {len(own.hit):,}", *line])
    return table([f"{pool.name}: rows", "ranked by", "hits there", "area", "area by mean", "difference"], rows)


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


def main(out: Callable[[str], None] = print) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mp_20_heads")
    parser.add_argument("--data", default="data/mp_20_16k.npz")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    predictor, _ = registry.load_predictor(arguments.model)
    dataset = datasets.load(arguments.data)
    train, held, test = (datasets.where_split(dataset, s) for s in ("train", "val", arguments.split))
    of = {name: ask(predictor, part) for name, part in (("train", train), ("val", held), ("test", test))}
    distance, held_distance = (distance_to(of["train"].features, of[n].features) for n in ("test", "val"))
    limit = float(np.quantile(train.properties[ENERGY], LOWEST))
    found, held_out = pools(predictor, test, of["test"], limit), pools(predictor, held, of["val"], limit)
    seen = detector_inputs.seen_compositions(test, train)
    groups = {"kind": kinds(test), "seen": np.where(seen, "composition in training", "composition not in training")}
    far = distance >= np.quantile(distance, 0.8)
    for name, pool in found.items():
        top = np.argsort(-selection.nearness(pool.mean, *pool.window), kind="stable")[:TOP]
        chosen = {
            "all rows": np.ones(len(far), bool),
            "farthest fifth": far,
            f"top {TOP} by mean": _mask(top, len(far)),
        }
        features = shift_features(pool, distance, held_out[name], held_distance)
        out(calibrated(pool, distance, groups))
        out(curve_of(pool))
        out(foreseen(pool, held_out[name], features, chosen))
        out(hit_table(pool))
        out(gain_table(pool, {"all": chosen["all rows"], "farthest fifth": far, "composition not in training": ~seen}))
        out(detectors.text([detectors.miscalibration(pool.error, pool.std)]))
    shift = detectors.hidden_shift(of["test"].features, of["train"].features)
    out(detectors.text([shift]))
    out("compositions: " + detectors.text([detectors.leakage(seen)]))
    out("structures: " + detectors.text([detectors.leakage(detector_inputs.seen_structures(test, train))]))


def _mask(index: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[index] = True
    return mask


if __name__ == "__main__":
    main()
