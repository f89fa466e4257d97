"""How the heads' uncertainty behaves away from their training data.

    python experiments/uncertainty/shift.py split --data data/mp_20_16k.npz --mpts ../shared/data/mpts_52
    crysjax train configs/mp_20_heads.yaml --out runs/shift --set data=data/shift.npz --set steps=5000
    python experiments/uncertainty/shift.py measure --model runs/shift/model.npz --data data/shift.npz --out shift.json
    python experiments/uncertainty/shift.py judge --model mp_20_heads --known data/mp_20_16k.npz:train \
        --inside data/mp_20_test.npz --others data/mpts_new.npz data/aflow.npz --out judge.json

README.md has the commands that make the two other sources; MPTS-52 loses every material that MP-20's parts have.

One training set without three kinds of crystals: those that contain a held-out element, those of held-out prototypes,
and those that were published late. Beside them `val` holds compositions that training has not seen, which are in
distribution otherwise. One model trained on the rest answers for all four.

`measure` compares three standard deviations of the same predictions: a constant, the calibrated spread of the members,
and the same growing with the novelty. The growth rates are fitted by likelihood to `val` and all shifts but one and
judged on the one left out, where each held-out element is a shift of its own; those fitted to all are what
`configs/mp_20_heads.yaml` takes for the shipped model. The rates of `val` itself are those of all parts: `val` is in
every fit, of the spread as well, so its row says how good a fit is and not how good a forecast.

`judge` splits every source into crystals whose composition (reduced formula) is one of the training part and the rest.
Errors are prediction - truth.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import mannwhitneyu, norm, spearmanr

from crysjax.base import Estimate
from crysjax.chemistry.elements import NUMBERS, formula
from crysjax.data import batching, datasets
from crysjax.data.readers.part import read_part
from crysjax.models import registry
from crysjax.reports import record
from crysjax.splits import grouped


def years(folder: Path) -> dict[str, int]:
    """Year of publication by material id, from MPTS-52's validation and test part."""
    csv.field_size_limit(10**9)
    found = {}
    for part in ("val", "test"):
        with gzip.open(folder / f"{part}.csv.gz") as file:
            for row in csv.DictReader(io.TextIOWrapper(file)):
                found[row["material_id"]] = int(row["year"])
    return found


def split(data: Path, mpts: Path, out: Path, first_year: int) -> None:
    """Write the data set with splits train, val, element, prototype and year; counts are printed."""
    whole = datasets.load(data)
    element = grouped.by_element(whole, seed=0, fractions={"train": 0.9, "test": 0.1})
    prototype = grouped.by_prototype(whole, seed=1, fractions={"train": 0.9, "test": 0.1})
    composition = grouped.by_composition(whole, seed=2, fractions={"train": 0.95, "test": 0.05})
    known = years(mpts)
    name = np.full(len(whole), "train", dtype="<U16")
    name[composition.split == "test"] = "val"
    name[np.array([known.get(i, 0) for i in whole.ids.tolist()]) >= first_year] = "year"
    name[prototype.split == "test"] = "prototype"
    name[element.split == "test"] = "element"
    how = {"kind": "joint", "held_out": element.provenance["split"]["held_out"], "first_year": first_year}
    datasets.save(replace(whole, split=name, provenance=whole.provenance | {"split": how}), out)
    print(json.dumps(how | {k: int(n) for k, n in zip(*np.unique(name, return_counts=True))}))


class Said(NamedTuple):
    """What a model says of one split."""

    error: np.ndarray  # (m, k) prediction - truth, NaN without a label
    spread: np.ndarray  # (m, k) calibrated on `val`, without the novelty
    novelty: np.ndarray  # (m,)
    refused: int  # crystals without an answer, which are left out


def ask(model: registry.Model, part: datasets.Dataset) -> Said:
    """Errors and what is said of them, for every crystal that the model takes."""
    names, shape = model.build.names, batching.capacity(part.num_atoms, 512)
    settings = {k: v for k, v in model.config["settings"].items() if not k.startswith("novelty.")}
    plain = jax.jit(registry.build_heads(settings).predict)
    far = jax.jit(model.build.novelty)
    said = batching.each_crystal(lambda pack: plain(model.params, pack), part, shape)
    novelty = batching.each_crystal(lambda pack: far(model.params, pack), part, shape)
    truth = np.stack([part.properties.get(name, np.full(len(part), np.nan)) for name in names], -1)
    valid = said.valid.all(-1)
    return Said((said.value - truth)[valid], said.std[valid], novelty[valid], int((~valid).sum()))


def fitted_slope(parts: list[Said], k: int, usual: float) -> float:
    """The growth rate of the std of property `k` with the highest Gaussian likelihood, each part weighing the same."""

    def loss(slope: float) -> float:
        total = 0.0
        for part in parts:
            known = np.isfinite(part.error[:, k])
            std = part.spread[known, k] * np.exp(slope * np.maximum(part.novelty[known] - usual, 0))
            total += np.mean(0.5 * np.square(part.error[known, k] / std) + np.log(std))
        return total

    return float(minimize_scalar(loss, bounds=(0, 5), method="bounded").x)


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that a crystal of the second kind scores higher; 1/2 is chance."""
    return float(mannwhitneyu(outside, inside).statistic / (len(inside) * len(outside)))


def row(error: np.ndarray, std: np.ndarray) -> dict[str, float]:
    """Coverage of the 50 and 90 % intervals, root mean square of error over std, rank correlation of std and error."""
    known = np.isfinite(error)
    error, std = error[known], std[known]
    inside = {
        f"within_{level}": float((np.abs(error) < norm.ppf(0.5 + level / 200) * std).mean()) for level in (50, 90)
    }
    constant = np.ptp(std) < 1e-9
    return {
        "rows": int(known.sum()), "mae": float(np.abs(error).mean()), **inside,
        "rms_of_error_over_std": float(np.sqrt(np.mean(np.square(error / std)))),
        "rank_correlation": 0.0 if constant else float(spearmanr(std, np.abs(error)).statistic),
    }  # fmt: skip


def shifts(whole: datasets.Dataset) -> dict[str, datasets.Dataset]:
    """`val` and every shift; a crystal with several held-out elements counts for the first."""
    found = {name: datasets.where_split(whole, name) for name in ("val", "prototype", "year")}
    left = datasets.where_split(whole, "element")
    for symbol in whole.provenance["split"]["held_out"]:
        has = np.array([NUMBERS[symbol] in row.numbers for row in datasets.entries(left)])
        found[symbol], left = datasets.take(left, np.flatnonzero(has)), datasets.take(left, np.flatnonzero(~has))
    return found


def measured(said: dict[str, Said], names: tuple[str, ...], usual: float) -> dict:
    """The tables of every property and split."""
    inside, found = (
        said["val"],
        {"novelty_auroc": {s: auroc(said["val"].novelty, said[s].novelty) for s in said if s != "val"}},
    )
    found["refused"] = {name: part.refused for name, part in said.items()}
    for k, name in enumerate(names):
        shifts = [s for s in said if s != "val"]
        constant = np.sqrt(np.nanmean(np.square(inside.error[:, k])))
        of_all = fitted_slope([said[s] for s in ("val", *shifts)], k, usual)
        table = {"slope_of_all": of_all}
        for part in said:
            others = [said[s] for s in ("val", *shifts) if s != part or s == "val"]
            slope = of_all if part == "val" else fitted_slope(others, k, usual)
            error, spread = said[part].error[:, k], said[part].spread[:, k]
            grown = spread * np.exp(slope * np.maximum(said[part].novelty - usual, 0))
            table[part] = {
                "constant": row(error, np.full_like(spread, constant)), "spread": row(error, spread),
                "grown": row(error, grown) | {"slope": slope},
            }  # fmt: skip
            if part != "val":
                grown_inside = inside.spread[:, k] * np.exp(slope * np.maximum(inside.novelty - usual, 0))
                table[part]["auroc"] = {
                    "spread": auroc(inside.spread[:, k], spread),
                    "grown": auroc(grown_inside, grown),
                }
        found[name] = table
    return found


def measure(model: str, data: Path, out: Path) -> None:
    """Write and print how true the uncertainty is on every split."""
    loaded, whole = registry.load_model(model, "heads"), datasets.load(data)
    said = {name: ask(loaded, part) for name, part in shifts(whole).items()}
    found = measured(said, loaded.build.names, float(np.median(said["val"].novelty)))
    options = argparse.Namespace(command="measure", model=model, data=data, out=out)
    record.write(out, record.about(options) | found)
    print(json.dumps(found, indent=1))


def told(truth: np.ndarray, said: Estimate, k: int, inside: np.ndarray, seen: np.ndarray) -> dict:
    """One property of one source: how far off, how surely, beside a constant and beside the std of the own source.

    `seen` (m,): whether training has the composition; both kinds are told apart. Crystals without an answer do not
    count.
    """
    valid = said.valid.all(-1)
    error, std = (said.value[:, k] - truth)[valid], said.std[valid, k]
    kinds = {"composition_in_training": seen[valid], "composition_not_in_training": ~seen[valid]}
    return row(error, std) | {
        "bias": float(np.nanmean(error)),
        "mae_of_a_constant": float(np.nanmean(np.abs(truth[valid] - np.nanmedian(truth[valid])))),
        "std_auroc": auroc(inside[:, k], std),
    } | {kind: row(error[chosen], std[chosen]) for kind, chosen in kinds.items()}  # fmt: skip


def compositions(part: datasets.Dataset) -> np.ndarray:
    """Reduced formulas: (m,) str."""
    return np.array([formula(entry.numbers) for entry in datasets.entries(part)])


def judge(model: str, known: str, inside: str, others: list[str], out: Path) -> None:
    """Write and print how true a model's own std is on its own source and on others, which took no part in it."""
    loaded, training = registry.load_model(model, "heads"), compositions(read_part(known))
    names, limit = loaded.build.names, loaded.config["settings"]["novelty.limit"]
    predict, far, found, first = jax.jit(loaded.build.predict), jax.jit(loaded.build.novelty), {}, None
    for path in (inside, *others):
        part = read_part(path)
        shape, seen = batching.capacity(part.num_atoms, 512), np.isin(compositions(part), training)
        said = batching.each_crystal(lambda pack: predict(loaded.params, pack), part, shape)
        novelty = batching.each_crystal(lambda pack: far(loaded.params, pack), part, shape)
        valid = said.valid.all(-1)
        first = first or (said.std[valid], novelty[valid])
        labels = {name: part.properties[name] for name in names if name in part.properties}
        found[Path(path).name] = {
            "crystals": len(part), "refused": int((~valid).sum()), "outside": float((novelty[valid] > limit).mean()),
            "composition_in_training": int(seen.sum()), "novelty_auroc": auroc(first[1], novelty[valid]),
            **{name: told(labels[name], said, names.index(name), first[0], seen) for name in labels},
        }  # fmt: skip
    options = argparse.Namespace(command="judge", model=model, known=known, inside=inside, others=others, out=out)
    record.write(out, record.about(options) | found)
    print(json.dumps(found, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("split")
    one.add_argument("--data", type=Path, default=Path("data/mp_20_16k.npz"))
    one.add_argument("--mpts", type=Path, default=Path("../shared/data/mpts_52"))
    one.add_argument("--out", type=Path, default=Path("data/shift.npz"))
    one.add_argument("--first-year", type=int, default=2008)
    two = commands.add_parser("measure")
    two.add_argument("--model", required=True)
    two.add_argument("--data", type=Path, default=Path("data/shift.npz"))
    two.add_argument("--out", type=Path, required=True)
    three = commands.add_parser("judge")
    three.add_argument("--model", default="mp_20_heads")
    three.add_argument("--known", default="data/mp_20_16k.npz:train", help="what the model was trained on")
    three.add_argument("--inside", default="data/mp_20_test.npz")
    three.add_argument("--others", nargs="*", default=[])
    three.add_argument("--out", type=Path, required=True)
    given = vars(parser.parse_args())
    {"split": split, "measure": measure, "judge": judge}[given.pop("command")](**given)


if __name__ == "__main__":
    main()
