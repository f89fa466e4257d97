"""Judging a set of crystals: every stage in turn, each kept on disk as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crysjax import __version__
from crysjax.base import Estimate
from crysjax.crystallography import known_relations, matching
from crysjax.data.datasets import Dataset, concatenate, take
from crysjax.evaluation import chemistry, kept, stages
from crysjax.evaluation.metrics import continuous, coverage
from crysjax.evaluation.metrics.descriptors import SIZE, descriptors
from crysjax.evaluation.metrics.symmetry import space_groups
from crysjax.evaluation.stages import Verdict
from crysjax.evaluation.totals import JudgedSet

ASIDE = ("chemistry", "families", "continuous")  # verdicts that are no stage: nobody fails them
MOST_OF_FAMILIES = 300  # a tenth of a second each

Ask = Callable[[Dataset, np.ndarray], tuple[Verdict, int]]
"""A stage that costs: (crystals, which of them (m,) are worth asking about) -> verdict and number of oracle calls."""


class Questions(NamedTuple):
    """What a set is judged by; everything may be left out but the folder."""

    folder: Path  # where verdicts are kept, one folder per set
    known: Mapping[str, Dataset] = {}  # sets that a new crystal may not be in, by name
    reference: Dataset | None = None  # held-out crystals, of which samples may rediscover some
    stable: Ask | None = None
    target: Ask | None = None
    predict: Callable[[Dataset], Mapping[str, tuple[np.ndarray, np.ndarray]]] | None = None
    synthesizability: Callable[[Dataset], Estimate] | None = None
    settings: Mapping[str, str] = {}  # what the costly stages depend on: models, hull, windows
    processes: int = 2


def judge(
    name: str, samples: Dataset, skipped: list[dict], ask: Questions, say: Callable[[str], None] = lambda text: None
) -> JudgedSet:
    """All stages that `ask` has what it takes for. An interrupted call, made again, gives the same answers."""
    verdicts: dict[str, Verdict] = {}
    cost: dict[str, dict[str, float]] = {}

    def stage(title: str, make: Callable[[], tuple[Verdict, int]], *depends) -> Verdict:
        say(f"{name}: {title}")
        key = kept.digest(__version__, title, samples, *depends)
        verdicts[title], cost[title] = kept.verdict(ask.folder / name / "stages" / f"{title}.npz", key, _timed(make))
        return verdicts[title]

    stage("valid", lambda: (stages.valid(samples), 0))
    worth = verdicts["valid"].columns["sane"].astype(bool)

    def of_sane(make: Callable[[Dataset], Verdict]) -> Callable[[], tuple[Verdict, int]]:
        return lambda: (stages.among(samples, worth, make), 0)

    stage("chemistry", lambda: (chemical(samples, worth), 0))
    known, processes = (*ask.known, *ask.known.values()), ask.processes
    stage("unique", of_sane(lambda sane: stages.unique(sane, processes=processes)))
    if ask.known:
        stage("novel", of_sane(lambda sane: stages.novel(sane, ask.known, processes=processes)), *known)
    for title, oracle in (("stable", ask.stable), ("target", ask.target)):
        if oracle is not None:
            stage(title, lambda oracle=oracle: oracle(samples, worth), dict(ask.settings))
    about = stage("described", of_sane(lambda sane: described(sane, processes))).columns
    stage("continuous", of_sane(lambda sane: continuously(sane, ask.known)), *known)
    if ask.known:
        stage("families", lambda: (families_of(samples, verdicts, ask), 0), *known)
    again = near = None
    if ask.reference is not None and worth.any():
        say(f"{name}: coverage")
        near = covered(samples, worth, ask.reference, ask.folder / name, ask.folder, processes)
        mine = take(samples, worth)
        again = stage("rediscovery", lambda: (_rediscovered(mine, ask), 0), ask.reference).columns["rediscovered"]
    made = None
    if ask.synthesizability is not None and worth.any():
        index, said = np.flatnonzero(worth), ask.synthesizability(take(samples, worth))
        made = Estimate(*(stages.spread(np.asarray(leaf).reshape(-1), index, len(samples)) for leaf in said))
    told = {title: said for title, said in verdicts.items() if title in (*stages.ORDER, *ASIDE)}
    group, features = np.zeros(len(samples), int), np.zeros((len(samples), SIZE), np.float32)
    if worth.any():
        group, features = np.maximum(about["space_group"], 0), about["features"].copy()
        features[~worth] = features[worth].mean(0)  # no place of their own
    return JudgedSet(name, samples, skipped, told, cost, group, features, again, made, near)


def _timed(make: Callable[[], tuple[Verdict, int]]) -> Callable[[], tuple[Verdict, dict]]:
    def run() -> tuple[Verdict, dict]:
        begun = time.perf_counter()
        found, calls = make()
        return found, {"seconds": round(time.perf_counter() - begun, 3), "calls": calls}

    return run


def described(samples: Dataset, processes: int = 2) -> Verdict:
    """Space groups and descriptors: nothing that one could fail."""
    groups = space_groups(samples, processes=processes)
    columns = {"space_group": groups.number[:, 0], "features": descriptors(samples)}
    everyone = np.ones(len(samples), bool)
    return stages.verdict(everyone, [""] * len(samples), f"spglib at {groups.tolerance_angstrom[0]:g} Å", columns)


def chemical(samples: Dataset, worth: np.ndarray) -> Verdict:
    """Oxidation states and coordination: flags, which nobody fails."""
    everyone, nothing = np.ones(len(samples), bool), [""] * len(samples)
    level = "common oxidation states (pymatgen); coordination as in all but 5 % of MP-20's training crystals"
    return stages.verdict(everyone, nothing, level, chemistry.flags(samples, worth))


def families_of(samples: Dataset, verdicts: Mapping[str, Verdict], ask: Questions) -> Verdict:
    """Of the crystals that would count as new, at most `MOST_OF_FAMILIES`: which are relatives of known ones."""
    new = verdicts["valid"].passed & verdicts["unique"].passed & verdicts["novel"].passed
    index = np.flatnonzero(new)[:MOST_OF_FAMILIES]
    kind, reason = np.full(len(samples), "", "<U24"), np.full(len(samples), "", "<U200")
    if len(index):
        known = concatenate(list(ask.known.values()))
        found = known_relations.relations(take(samples, index), known, processes=ask.processes)
        kind[index], reason[index] = [r.kind for r in found], [r.reason for r in found]
    asked = np.isin(np.arange(len(samples)), index)
    return stages.verdict(kind == "new", reason, "crystallographic families", {"family": kind}, asked)


def continuously(samples: Dataset, known: Mapping[str, Dataset]) -> Verdict:
    """Uniqueness and novelty as numbers, by composition (ElMD) and structure (AMD)."""
    columns, weights = {}, continuous.ELMD_AND_AMD
    if len(samples) > 1:
        columns["continuous_uniqueness"] = continuous.uniqueness(samples, distance=weights)
    if known:
        columns["continuous_novelty"] = continuous.novelty(samples, concatenate([*known.values()]), distance=weights)
    level = " + ".join(f"{weight:g} {name}" for name, weight in weights.items())
    return stages.verdict(np.ones(len(samples), bool), [""] * len(samples), level, columns)


def _rediscovered(samples: Dataset, ask: Questions) -> Verdict:
    """Which of the reference the samples hold, one row per crystal of the reference."""
    found = ~matching.novel(ask.reference, samples, processes=ask.processes)
    return stages.verdict(
        found, ["no sample equals it"] * len(found), stages.said(matching.CDVAE), {"rediscovered": found}
    )


def covered(
    samples: Dataset, worth: np.ndarray, reference: Dataset, mine: Path, shared: Path, processes: int
) -> coverage.Coverage:
    """COV-R and COV-P by CDVAE's cutoffs for MP-20; fingerprints are kept in these folders.

    Crystals that are not `worth` it (m,) have no fingerprint and count as imprecise.
    """
    made = [
        coverage.fingerprints(data, processes=processes, cache=folder / "fingerprints.npz")
        for data, folder in ((take(samples, worth), mine), (reference, shared))
    ]
    missing = [np.full(((~worth).sum(), leaf.shape[1]), np.nan) for leaf in made[0]]
    everyone = coverage.Fingerprints(*(np.concatenate(pair) for pair in zip(made[0], missing)))
    return coverage.coverage(everyone, made[1])


def blank(name: str, samples: Dataset, processes: int = 2) -> JudgedSet:
    """A set that is only drawn against, such as the reference: described, not judged."""
    about = described(samples, processes).columns
    return JudgedSet(name, samples, [], {}, {}, about["space_group"], about["features"])


def halves(dataset: Dataset, *, most: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random parts of equal size, at most `most` crystals each: what a perfect generator would reach."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    size = min(most, len(dataset) // 2)
    return np.sort(order[:size]), np.sort(order[size : 2 * size])
