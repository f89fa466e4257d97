"""Does the design do better than chance? The quickstart beside the same without guidance and at random, several seeds.

    python experiments/quickstart/run.py --seeds 10 --out experiments/quickstart/result.json
    python experiments/quickstart/run.py --seeds 1 --arms "guided, chosen" "unguided, at random" --opinion chgnet \
        --references ENTRIES.json.gz --hull data/mp_20_raw.npz --out experiments/quickstart/result.json

Every arm is a whole campaign with the same number of validations, judged by the same law:

    guided, chosen            the plan as it is
    unguided, chosen          sampled without guidance, chosen by the acquisition
    unguided, as many samples the same with as many samples of the generator as guidance takes
    guided, at random         sampled with guidance, validated at random among the screened candidates
    unguided, at random       neither

Hits are probabilities (`campaign/goals.hit_probability`) by the property heads, which also steered: an arm that steers
by the judge pleases the judge. So the candidates are also shown to a potential that had no part, where one is installed
(`crysjax models pull nequix-mp-1`, or --opinion PATH): it relaxes them, and its energies stand beside. `--opinion
chgnet`, or another calculator, asks by `crysjax judge`; its formation energies are over the elements' entries in
--references. Three formation energies stand beside one another: the student's (`formation_ev_per_atom`), the heads' of
the same relaxed crystals, and the opinion's after it has relaxed them further. For band gaps there is no other judge
but DFT. Campaigns are kept in --runs; the same command goes on where it stopped. Rows of --out that are not run again
stay, and so do opinions that are not asked for again; each row says the commit and day of its campaign.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.campaign import outputs, round
from crysjax.campaign.assemble import assemble
from crysjax.campaign.goals import hit_probability, meets
from crysjax.campaign.outcomes import Outcomes, best
from crysjax.campaign.plan import Plan, read_plan
from crysjax.campaign.propose import Proposal
from crysjax.campaign.round import Tools
from crysjax.chemistry.elements import formula
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset, entries
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.models import registry
from crysjax.oracles import calculators
from crysjax.physics.hull import hull
from crysjax.physics.hull.read_hull import read_hull
from crysjax.potentials.relax_dataset import relax_dataset
from crysjax.predictors.predictor import estimate
from crysjax.reports import record
from crysjax.splits import grouped

ARMS = ("guided, chosen", "unguided, chosen", "unguided, as many samples", "guided, at random", "unguided, at random")
CONTRASTS = (
    ("guided, chosen", "unguided, at random"), ("guided, chosen", "unguided, chosen"),
    ("guided, chosen", "unguided, as many samples"), ("guided, at random", "unguided, at random"),
    ("guided, chosen", "guided, at random"), ("unguided, chosen", "unguided, at random"),
)  # fmt: skip
"""Pairs of arms that differ in both guidance and choice (the first), in guidance (three), in choice (the last two)."""
CONTRASTED = ("formation_ev_per_atom", "expected_hits")
COLUMNS = {
    "expected_hits": "hits expected", "means_inside": "values inside", "refused": "impossible after relaxation",
    "base_rate": "base rate of screened", "formation_ev_per_atom": "formation energy, eV/atom",
    "p1": "without symmetry (P1)", "opinion_within_0.1": "within 0.1 eV/atom of known phases by the opinion",
    "heads_ev_per_atom": "the same by the heads", "opinion_ev_per_atom": "the same by the opinion",
    "opinion_relaxes_ev_per_atom": "it still relaxes by", "seconds": "seconds",
}  # fmt: skip


def plan_of(arm: str, plan: Plan) -> Plan:
    """The plan of an arm; the generator's samples behind one candidate are `guidance_steps` where it resamples."""
    if arm.startswith("guided"):
        return plan
    many = plan.settings["guidance.steps"] if arm.endswith("as many samples") else 1
    return replace(plan, guidance="none", candidates=plan.candidates * many)


def at_random(propose: Callable[..., Proposal]) -> Callable[..., Proposal]:
    """A proposer whose acquisition is a random number, so large that unlikeness hardly counts beside it."""

    def proposed(params: Any, heads: Any, key: jax.Array, template: Any, condition: Any, learned: Any) -> Proposal:
        found = propose(params, heads, key, template, condition, learned)
        drawn = 1e3 * jax.random.uniform(jax.random.fold_in(key, 1), found.worth.shape)
        return found._replace(worth=jnp.where(jnp.isfinite(found.worth), drawn, -jnp.inf))

    return proposed


def assembled(arm: str, tools: dict[str, tuple[Tools, dict[str, Any]]], plan: Plan) -> tuple[Tools, dict[str, Any]]:
    """The tools of an arm; those of one guidance serve all arms and seeds, so that each is compiled once."""
    own = plan_of(arm, plan)
    if own.guidance not in tools:
        tools[own.guidance] = assemble(own)
    found, about = tools[own.guidance]
    return (found._replace(propose=at_random(found.propose)) if arm.endswith("random") else found), about


def campaign(arm: str, plan: Plan, tools: Tools, about: dict[str, Any], folder: Path, ask: Callable | None) -> dict:
    """One campaign as a row of the result."""
    own = plan_of(arm, plan)
    outcomes = round.run(own, tools, folder, resume=True, progress=lambda *_: None)
    summary = outputs.write(folder, own, tools.goals, outcomes, **about)
    order, goals, hits = outputs.best_first(outcomes, tools.goals), tools.goals, summary["hits"]
    value, std = outcomes.validated[order], outcomes.validated_std[order]
    relaxed, validated = (summary["stages"][stage] for stage in ("relaxed", "validated"))
    row = {
        "arm": arm, "seed": plan.seed, "sampled": summary["stages"]["sampled"]["entered"],
        "network_samples": summary["oracle_calls"]["generator"]["calls"], "screened": hits["screened"],
        "validations": relaxed["entered"], "refused": validated["entered"] - validated["passed"],
        "expected_hits": hits["found"]["expected"], "means_inside": int(meets(goals, value).sum()),
        "base_rate": hits["base_rate_among_screened"], "seconds": summary["seconds"],
        "p_hit": hit_probability(goals, value, std).round(4).tolist(),
        "formula": [formula(entry.numbers) for entry in entries(best(outcomes, order))] if len(order) else [],
        "space_groups": grouped.space_groups(best(outcomes, order)).tolist() if len(order) else [],
        "values": {name: value[:, k].astype(float).round(4).tolist() for k, name in enumerate(goals.names)},
        "std": {name: std[:, k].astype(float).round(4).tolist() for k, name in enumerate(goals.names)},
    }  # fmt: skip
    row["p1"] = sum(group == 1 for group in row["space_groups"])
    if FORMATION_ENERGY not in goals.names or not len(order):
        return row
    row["formation_ev_per_atom"] = float(np.mean(row["values"][FORMATION_ENERGY]))
    row["heads_ev_per_atom"] = float(np.mean(by_heads(tools, best(outcomes, order))))
    return row | ({} if ask is None else ask(outcomes, order, row["values"][FORMATION_ENERGY], folder))


def by_heads(tools: Tools, crystals: Dataset) -> np.ndarray:
    """Formation energies (m,) of the relaxed crystals by the heads, eV/atom."""
    heads, shape = tools.predictor, batching.capacity(crystals.num_atoms)
    said = estimate(heads.predict, heads.params, crystals, shape)
    return said.value[:, heads.names.index(FORMATION_ENERGY)]


def of_potential(outcomes: Outcomes, order: np.ndarray, formation: list[float], ask: Callable) -> dict:
    """What another potential says: its energy, and how far from its minimum they were."""
    before, after = ask(best(outcomes, order))
    # the potentials have energies of one level of theory, so their difference is one of formation energies too
    apart = after - outcomes.energy[order]
    return {
        "opinion_relaxes_ev_per_atom": float(np.nanmean(before - after)),
        "opinion_less_potential": apart.astype(float).round(4).tolist(),
        "opinion_ev_per_atom": float(np.nanmean(np.array(formation) + apart)),
    }


def of_calculator(name: str, references: Path, known: str, outcomes: Outcomes, order: np.ndarray, folder: Path) -> dict:
    """Formation energies by `crysjax judge`, which relaxes first; those that did not converge are counted.

    With entries of `known` phases, the distances from their hull, and how many are within 0.1 eV/atom.
    """
    crystals, judged = folder / "validated.npz", folder / f"judged by {name}"
    datasets.save(best(outcomes, order), crystals)
    command = [sys.executable, "-m", "crysjax", "judge", str(crystals), "--by", name, "--out", str(judged)]
    subprocess.run([*command, "--references", str(references)], check=True)
    rows = {row["id"]: row for row in csv.DictReader((judged / "answers.csv").open())}
    if len(rows) != len(order):
        raise ValueError(f"{judged}: {len(rows)} answers for {len(order)} crystals")
    energy = [float(row["formation_energy_ev_per_atom"] or "nan") for row in rows.values()]
    more = {}
    if known:
        counts = hull.compositions(best(outcomes, order))
        above = hull.energy_above_hull(counts, np.array(energy), read_hull([known]), level=hull.MATERIALS_PROJECT_2021)
        more = {"opinion_above_hull": np.round(np.asarray(above, float), 4).tolist(),
                "opinion_within_0.1": int((np.asarray(above) <= 0.1).sum())}  # fmt: skip
    return more | {
        "opinion": name, "opinion_not_converged": sum(row["reason"] != "" for row in rows.values()),
        "opinion_values": [None if np.isnan(value) else float(f"{value:.4f}") for value in energy],
        "opinion_ev_per_atom": float(np.nanmean(energy)),
    }  # fmt: skip


def opinion(name: str, steps: int, references: Path | None, known: str) -> Callable | None:
    """`(outcomes, order, formation energies, folder) -> fields of a row`; none where no potential is installed."""
    if name in calculators.FACTORIES:
        if references is None:
            raise SystemExit(f"--opinion {name}: expected --references, the elements' entries")
        return lambda outcomes, order, _, folder: of_calculator(name, references, known, outcomes, order, folder)
    if not name:
        pulled = [model for model in registry.installed() if model.startswith("nequix")]
        if not pulled:
            return None
        name = pulled[0]
    potential, params, _ = registry.load_potential(name)

    def ask(crystals: Any) -> tuple[np.ndarray, np.ndarray]:
        found = [
            relax_dataset(potential.energy_forces_stress, params, crystals, max_steps=most,
                          cutoff_angstrom=potential.cutoff_angstrom) for most in (1, steps)
        ]  # fmt: skip
        return tuple(np.where(one.valid, one.energy / crystals.num_atoms, np.nan) for one in found)

    return lambda outcomes, order, formation, _: of_potential(outcomes, order, formation, ask)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean over seeds and half of its 95 % interval (Student's t); NaN for one seed."""
    from scipy.stats import t

    known = np.array(values, float)
    half = t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
    return float(known.mean()), float(half)


def markdown(rows: list[dict]) -> str:
    """A row an arm, and the contrasts of two arms, seed by seed."""
    known = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    lines = [["mean over seeds ± 95 %", *(COLUMNS[name] for name in known)]]
    lines.append(["---"] * len(lines[0]))
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm]
        cells = [[row[name] for row in own if row.get(name) is not None] for name in known]
        lines += [[arm, *("{:.2f} ± {:.2f}".format(*interval(cell)) if cell else "" for cell in cells)]] if own else []
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([text, *contrasts(rows)])


def contrasts(rows: list[dict]) -> list[str]:
    """Differences of two arms in energy and hits over the seeds that both have, as a Markdown table; [] without any."""
    by = {(row["arm"], row["seed"]): row for row in rows}
    lines = []
    for one, other in CONTRASTS:
        seeds = sorted(seed for arm, seed in by if arm == one and (other, seed) in by)
        pairs = [(by[one, seed], by[other, seed]) for seed in seeds]
        cells = [[a[name] - b[name] for a, b in pairs if name in a and name in b] for name in CONTRASTED]
        if pairs:
            said = ("{:+.2f} ± {:.2f}".format(*interval(cell)) if cell else "" for cell in cells)
            lines += [f"| {one} − {other} | {len(seeds)} | " + " | ".join(said) + " |"]
    head = "| seed by seed | seeds | " + " | ".join(COLUMNS[name] for name in CONTRASTED) + " |"
    return ["\n".join([head, "| --- " * (2 + len(CONTRASTED)) + "|", *lines])] if lines else []


def main() -> None:
    """Run what is missing, write the raw result after each campaign, print Markdown."""
    say = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    say.add_argument("--plan", default="configs/quickstart.yaml")
    say.add_argument("--seeds", type=int, default=10)
    say.add_argument("--runs", type=Path, default=Path("runs/experiments/quickstart"))
    say.add_argument("--out", type=Path, default=Path("experiments/quickstart/result.json"))
    say.add_argument(
        "--opinion",
        default="",
        help="a potential by name or path, or chgnet; left out, a pulled Nequix if there is one",
    )
    say.add_argument(
        "--references", type=Path, help="the elements' entries for --opinion chgnet, as `judge` takes them"
    )
    say.add_argument(
        "--hull", default="", help="known phases with formation energies, for the opinion's distances from their hull"
    )
    say.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    for name in ("candidates", "validations", "rounds"):
        say.add_argument(f"--{name}", type=int, help="another number than the plan's")
    a = say.parse_args()
    plan = read_plan(a.plan, candidates=a.candidates, validations=a.validations, rounds=a.rounds)
    ask, made, about_run = opinion(a.opinion, plan.relax_steps, a.references, a.hull), {}, record.about(a)
    known = {(row["arm"], row["seed"]): row for row in (record.read(a.out)["rows"] if a.out.exists() else [])}
    for arm in a.arms:
        tools, about = assembled(arm, made, plan)
        for seed in range(a.seeds):
            folder = a.runs / arm.replace(", ", "_").replace(" ", "_") / str(seed)
            kept = known.get((arm, seed), {}) if (folder / "summary.json").exists() else {}  # of a finished campaign
            kept = {name: kept[name] for name in kept if name in ("commit", "day") or name.startswith("opinion")}
            row = campaign(arm, replace(plan, seed=seed), tools, about, folder, ask)
            known[arm, seed] = {"commit": about_run["commit"], "day": about_run["day"]} | kept | row
            rows = sorted(known.values(), key=lambda row: (ARMS.index(row["arm"]), row["seed"]))
            record.write(a.out, about_run | {"plan": a.plan, "models": about["models"], "rows": rows})
            print(f"{arm}, seed {seed}: {row['expected_hits']:.2f} hits expected", flush=True)
    print(markdown([*known.values()]))


if __name__ == "__main__":
    main()
