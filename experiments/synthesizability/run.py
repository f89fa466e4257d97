"""Positive-unlabeled learning where the hidden truth is known: make the data set, then score models and floors on it.

    python experiments/synthesizability/run.py prepare --out data/synthesizability.npz
    crysjax train configs/synthesizability.yaml --out runs/synthesizability
    python experiments/synthesizability/run.py evaluate --data data/synthesizability.npz \
        --model runs/synthesizability/model.npz --out experiments/synthesizability/result.json

Made: MP-20 crystals. Labeled so: some of them (`observed` = 1). Unlabeled: the other made ones and three kinds of
crystals that have not been made. `made` (1 or 0) and `kind` (an index into KINDS) are the truth, never trained on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from crysjax.base import Crystal, Estimate, Oracle, numbers
from crysjax.chemistry.elements import anonymous_formula, formula
from crysjax.crystallography import matching
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.evaluation import validity
from crysjax.models import registry
from crysjax.predictors import synthesizability as pu
from crysjax.retrieval import floors
from crysjax.splits import grouped

KINDS = ("observed", "hidden", "composition", "structure", "perovskite")
COUNTS = {"observed": 5000, "hidden": 2100, "composition": 1640, "structure": 1630, "perovskite": 1630}


def prepare(arguments: argparse.Namespace) -> None:
    """The mixture, split by composition."""
    rng = np.random.default_rng(arguments.seed)
    whole = datasets.load(arguments.mp_20)
    real = datasets.take(whole, whole.split != "test")
    known = known_formulas(whole, Path(arguments.raw))
    order = rng.permutation(len(real))
    cut = np.cumsum([COUNTS["observed"], COUNTS["hidden"], 3 * COUNTS["structure"], 2 * COUNTS["composition"]])
    observed, hidden, bases, patterns = (datasets.take(real, order[a:b]) for a, b in zip([0, *cut[:-1]], cut))
    wrong = floors.random_template(real, recomposed(patterns, real, known, rng), seed=arguments.seed)
    other = floors.random_template(real, bases, seed=arguments.seed + 1)
    other = datasets.take(other, matching.novel(other, real, processes=1) & (other.properties["found"] == 1))
    perov = datasets.load(arguments.perov_5)
    perov = datasets.take(perov, np.array([formula(e.numbers) not in known for e in datasets.entries(perov)]))
    perov = datasets.take(perov, rng.permutation(len(perov)))
    parts = dict(zip(KINDS, (observed, hidden, wrong, other, perov)))
    data = datasets.concatenate([labeled(part, kind) for kind, part in parts.items()])
    if arguments.volume == "same":
        data = replace(data, lattice=same_volume(data))
    data = grouped.by_composition(data, seed=arguments.seed, fractions={"train": 0.7, "val": 0.1, "test": 0.2})
    datasets.save(data, arguments.out)
    truth = data.properties["made"][data.properties["observed"] != 1]
    print(f"{arguments.out}: {len(data)} crystals; of {len(truth)} unlabeled {truth.mean():.4f} are made")


def known_formulas(whole: Dataset, raw: Path) -> set[str]:
    """Reduced formulas of all of MP-20, its training crystals without positions included."""
    found = {formula(e.numbers) for e in datasets.entries(whole)}
    sizes, sites = (np.load(raw / "train" / f"{name}.npy") for name in ("num_atoms", "atomic_numbers"))
    return found | {formula(part) for part in np.split(sites, np.cumsum(sizes)[:-1])}


def recomposed(patterns: Dataset, real: Dataset, known: set[str], rng: np.random.Generator) -> Dataset:
    """Rows of the same stoichiometry with elements drawn as often as MP-20 has them, of no known formula."""
    present = [np.unique(e.numbers) for e in datasets.entries(real)]
    elements, often = np.unique(np.concatenate(present), return_counts=True)
    rows = []
    for row in datasets.entries(patterns):
        present = np.unique(row.numbers)
        drawn = rng.choice(elements, len(present), replace=False, p=often / often.sum())
        changed = drawn[np.searchsorted(present, row.numbers)]
        if len(present) > 1 and formula(changed) not in known:
            rows.append(row._replace(numbers=changed))
    return datasets.from_entries(rows)


def labeled(part: Dataset, kind: str) -> Dataset:
    """The first so many crystals with what is known of them, and the truth."""
    part = datasets.take(part, np.arange(COUNTS[kind]))
    of_all = lambda value: np.full(len(part), value, np.float32)  # noqa: E731
    columns = {"observed": of_all(1 if kind == "observed" else 0), "made": of_all(kind in ("observed", "hidden"))}
    ids = np.array([f"{kind}-{name}" for name in part.ids])
    return replace(part, ids=ids, properties=columns | {"kind": of_all(KINDS.index(kind))}, site_properties={})


def same_volume(data: Dataset) -> np.ndarray:
    """Every cell at 20 Å^3 per atom: the volume then tells nothing, such as that a cell was scaled and not relaxed."""
    volume = np.abs(np.linalg.det(data.lattice.astype(np.float64)))
    return (data.lattice * (20 * data.num_atoms / volume)[:, None, None] ** (1 / 3)).astype(np.float32)


def hosted(name: str, of: Callable[[Entry], float]) -> Oracle:
    """An oracle of any function of one crystal on the host."""

    def batch(crystals: Crystal) -> Estimate:
        rows = zip(np.asarray(numbers(crystals.occupancy)), np.asarray(crystals.frac), np.asarray(crystals.lattice))
        value = np.array([of(Entry("", z[z > 0], x[z > 0], cell, {})) for z, x, cell in rows], np.float32)
        return Estimate(value, np.zeros_like(value), np.isfinite(value))

    return Oracle(name, "score", 1e-3, batch)


def composition_floor(train: Dataset) -> Oracle:
    """Mean logarithm of how often the observed crystals have each element: what a look at the formula alone knows."""
    count = np.ones(101)
    for row in datasets.entries(train):
        count[np.unique(row.numbers)] += 1
    logarithm = np.log(count)
    return hosted("floor: frequency of the elements", lambda e: float(logarithm[np.unique(e.numbers)].mean()))


def of_heads(path: str, name: str, column: int, sign: float) -> Oracle:
    """One column of property heads as a score."""
    model = registry.load_model(path, "heads")

    def batch(crystals: Crystal) -> Estimate:
        said = model.build.predict(model.params, batching.pack_stacked(crystals))
        return Estimate(sign * said.value[:, column], said.std[:, column], said.valid[:, column])

    return Oracle(name, "score", 1e-3, batch)


def area(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a made crystal scores higher than one that is not; ties count half."""
    order = np.searchsorted(np.sort(negative), positive, side="left")
    ties = np.searchsorted(np.sort(negative), positive, side="right")
    return float((order + ties).mean() / 2 / len(negative))


def area_with_error(positive: np.ndarray, negative: np.ndarray, repeats: int = 200) -> list[float]:
    """The area and its standard error over resampled crystals."""
    rng = np.random.default_rng(0)
    again = [area(rng.choice(positive, len(positive)), rng.choice(negative, len(negative))) for _ in range(repeats)]
    return [round(area(positive, negative), 4), round(float(np.std(again)), 4)]


def row(name: str, score: np.ndarray, test: Dataset) -> dict:
    """One line of the table: areas between the hidden made crystals and each kind of others."""
    kind = test.properties["kind"].astype(int)
    of = {k: score[kind == i] for i, k in enumerate(KINDS)}
    others = np.concatenate([of[k] for k in KINDS[2:]])
    found = {"name": name, "auc": area_with_error(of["hidden"], others)}
    found |= {f"auc_{k}": area_with_error(of["hidden"], of[k]) for k in KINDS[2:]}
    return found | {"auc_among_abc3": area_with_error(score[abc3(test)], of["perovskite"])}


def abc3(test: Dataset) -> np.ndarray:
    """Made crystals, observed or hidden, with the five atoms ABC3 of the hypothetical perovskites."""
    pattern = np.array([anonymous_formula(e.numbers, reduce=False) == "ABC3" for e in datasets.entries(test)])
    return pattern & (test.properties["made"] == 1)


def shares(score: np.ndarray, test: Dataset) -> dict:
    """What the score claims of the unlabeled beside the truth."""
    made, observed = test.properties["made"] == 1, test.properties["observed"] == 1
    hidden, rest = score[made & ~observed], score[~observed]
    return {
        "recall_of_hidden": round(float((hidden > 0.5).mean()), 4),
        "precision_at_half": round(float((hidden > 0.5).sum() / max((rest > 0.5).sum(), 1)), 4),
        "mean_score_of_unlabelled": round(float(rest.mean()), 4),
        "share_by_best_bin": round(pu.estimate_share(score[observed], rest), 4),
        "true_share": round(float(made[~observed].mean()), 4),
        "reliability": reliability(rest, made[~observed]),
    }


def reliability(score: np.ndarray, made: np.ndarray, bins: int = 5) -> list[list[float]]:
    """Mean score and true share in fifths of the score's range, with counts."""
    place = np.minimum((score * bins).astype(int), bins - 1)
    used = [place == k for k in range(bins) if (place == k).any()]
    return [[round(float(score[m].mean()), 3), round(float(made[m].mean()), 3), int(m.sum())] for m in used]


def evaluate(arguments: argparse.Namespace) -> None:
    """Print and store the table."""
    data = datasets.load(arguments.data)
    train, test = (datasets.where_split(data, s) for s in ("train", "test"))
    rows, claims = [], {}
    for path in arguments.model:
        score = pu.ask(registry.load_synthesizability(path), test).value
        settings = registry.load_model(path, "synthesizability").config["settings"]
        name = f"{Path(path).parent.name}, prior {settings['pu.prior']:g}"
        rows.append(row(name, score, test))
        claims[name] = {"prior": settings["pu.prior"]} | shares(score, test)
    plain = [of_heads(path, f"regression: {Path(path).parent.name}", 0, 1.0) for path in arguments.heads]
    known = datasets.take(train, train.properties["observed"] == 1)
    smact = hosted("floor: SMACT validity", lambda e: float(validity.smact_valid(e.numbers)))
    energy = of_heads("mp_20_heads", "floor: formation energy by mp_20_heads", 0, -1.0)
    for oracle in [*plain, smact, composition_floor(known), energy]:
        rows.append(row(oracle.name, pu.ask(oracle, test).value, test))
    counts = {k: int((test.properties["kind"] == i).sum()) for i, k in enumerate(KINDS)}
    counts |= {"made_abc3": int(abc3(test).sum())}
    print(json.dumps(counts))
    for line in rows:
        areas = {k.removeprefix("auc").lstrip("_") or "all": v for k, v in line.items() if k != "name"}
        print(f"{line['name']:44s}" + "  ".join(f"{k} {v[0]:.3f}±{v[1]:.3f}" for k, v in areas.items()))
    for name, claim in claims.items():
        print(f"{name} ({pu.meaning(claim['prior'])}):", json.dumps(claim))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps({"test": counts, "rows": rows, "claims": claims}, indent=1) + "\n")


def main() -> None:
    """Two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("prepare")
    one.add_argument("--mp-20", default="data/mp_20_16k.npz")
    one.add_argument("--perov-5", default="data/perov_5.npz")
    one.add_argument("--raw", default="../shared/data/mp_20", help="MP-20 in MatterGen's layout: for its formulas")
    one.add_argument("--volume", choices=("own", "same"), default="own")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--out", default="data/synthesizability.npz")
    one.set_defaults(run=prepare)
    two = commands.add_parser("evaluate")
    two.add_argument("--data", default="data/synthesizability.npz")
    two.add_argument("--model", nargs="*", default=[], help="models of kind synthesizability")
    two.add_argument("--heads", nargs="*", default=[], help="models of kind heads on a label, for comparison")
    two.add_argument("--out")
    two.set_defaults(run=evaluate)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
