"""Totals of judged sets: the ledger, the metrics of the literature with intervals, and what it all cost.

Names follow Box 2 of the review of inverse design of inorganic compounds (stability, uniqueness, novelty, rediscovery,
validity, data augmentation, diversity, verification, synthesizability), MatterGen (S.U.N.; Zeni et al. 2025, with a
margin of 0.1 eV/atom above the hull, which is MSUN here: S.U.N. here has the margin 0) and CDVAE (Xie et al. 2022). A
metric that was not measured is absent from the totals and named in `NOT_MEASURED` with what it would need, so that a
table never shows a zero for a question that nobody asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from crysjax.base import Estimate
from crysjax.crystallography import contacts, known_relations
from crysjax.data.datasets import Dataset
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.data.reasons import code
from crysjax.evaluation import stability, stages
from crysjax.evaluation.metrics import continuous, distributions
from crysjax.evaluation.metrics.coverage import Coverage
from crysjax.evaluation.metrics.distributions import Interval, interval
from crysjax.evaluation.metrics.symmetry import no_group_share, p1_share
from crysjax.evaluation.stages import Verdict

MARGINS_EV_PER_ATOM = {"S.U.N.": 0.0, "MSUN": 0.1}
DISTANCE = "distance of "  # of a distribution to the reference's, such as "distance of num_elements"
FLAGS = ("oxidation", "coordination")
MOST_OF_VENDI = 1000  # the kernel's eigenvalues take m^3
SCALE = 0.5  # of descriptors of order one: the typical distance of two MP-20 crystals is 2, of two relatives 0.3
NOT_MEASURED = {
    "stability": "--hull, and --potential or --dft",
    "novelty": "--train",
    "rediscovery": "--reference, apart from --train",
    "data augmentation": "--train",
    "verification": "--target",
    "synthesizability": "--synthesizability, a model trained by `crysjax train`",
}


class JudgedSet(NamedTuple):
    """A set of crystals with everything that was found out about it."""

    name: str
    samples: Dataset
    skipped: list[dict]  # rows of file, entry, reason: what could not be read
    verdicts: dict[str, Verdict]
    cost: dict[str, dict[str, float]]  # stage -> seconds, calls
    space_group: np.ndarray  # (m,) 0 where spglib finds none
    features: np.ndarray  # (m, d) descriptors, see `descriptors`
    rediscovered: np.ndarray | None = None  # (r,) bool: which of the reference the samples hold
    synthesizability: Estimate | None = None
    coverage: Coverage | None = None


def totals(
    judged: JudgedSet, reference: Dataset | None = None, reference_group: np.ndarray | None = None
) -> dict[str, Any]:
    """Everything about one set that fits in a table; intervals are 95 % (`distributions.interval`)."""
    found: dict[str, Any] = {"crystals": len(judged.samples), "not_read": len(judged.skipped)}
    found["ledger"] = ledger(judged)
    found["flags"] = flagged(judged)
    found["metrics"] = {name: value._asdict() for name, value in metrics(judged).items()}
    found["not_measured"] = {name: need for name, need in NOT_MEASURED.items()
                             if not any(m.startswith(name) for m in found["metrics"])}  # fmt: skip
    found["space_groups"] = {str(n): int(c) for n, c in zip(*np.unique(judged.space_group, return_counts=True))}
    if reference is not None:
        apart = distributions.property_distances(_with_energies(judged), reference)
        if reference_group is not None:
            apart["space group (total variation)"] = _groups_apart(judged.space_group, reference_group)
        found["distances"] = {f"{DISTANCE}{name}": value._asdict() for name, value in apart.items()}
    found["cost"] = cost(judged)
    return found


def _with_energies(judged: JudgedSet) -> Dataset:
    """The samples with the formation energies that their stability was measured by, if it was."""
    if "stable" not in judged.verdicts:
        return judged.samples
    name = FORMATION_ENERGY
    measured = {name: judged.verdicts["stable"].columns[name]}
    return replace(judged.samples, properties=judged.samples.properties | measured)


def _groups_apart(found: np.ndarray, reference: np.ndarray) -> Interval:
    return Interval(distributions.category_distance(found, reference), np.nan, np.nan, len(found), 0)


def ledger(judged: JudgedSet) -> list[dict[str, Any]]:
    """One row per stage: how many entered, how many passed, how it was measured, the commonest reasons of failure."""
    read, asked = len(judged.samples), len(judged.samples) + len(judged.skipped)
    rows = [{"stage": "parsed", "entered": asked, "passed": read, "level": "read as crystals of 1 to 100 elements",
             "reasons": _counted(np.array([row["reason"] for row in judged.skipped], str)),
             "codes": {"not_read": len(judged.skipped)} if judged.skipped else {}}]  # fmt: skip
    before = np.ones(read, bool)
    for name, alive in stages.passed_so_far(judged.verdicts).items():
        said = judged.verdicts[name]
        why = np.where(said.asked | (said.reason != ""), said.reason, "not asked, as it failed before")
        rows.append({"stage": name, "entered": int(before.sum()), "passed": int(alive.sum()), "level": said.level,
                     "reasons": _counted(why[before & ~alive]),
                     "codes": _codes(said, before & ~alive)})  # fmt: skip
        before = alive
    return rows


def _counted(reasons: np.ndarray, most: int = 6) -> dict[str, int]:
    """The commonest reasons; names and numbers inside them are left out so that like counts as like."""
    names, count = np.unique(np.array([*map(_kind, reasons.tolist())], str), return_counts=True)
    order = np.argsort(-count, kind="stable")[:most]
    return {str(names[i]): int(count[i]) for i in order}


KINDS = {
    "repeated": "equals another sample",
    "too_close": contacts.TOO_CLOSE,
    "volume_out_of_range": stages.OUT_OF_RANGE,
    "error_exceeds_margin": "cannot tell: the error of the energy exceeds the margin",
    "above_hull": "above the hull",
    "not_believed": "too far below the hull to be believed",
}
"""Code -> what its sentences count as, without their names and numbers."""


def _kind(reason: str) -> str:
    return KINDS.get(code(reason), reason)


def _codes(said: stages.Verdict, failed: np.ndarray) -> dict[str, int]:
    """How many of those that `failed` did so for which code, the most frequent first."""
    return dict(Counter(name or "not_asked" for name in said.code[failed].tolist()).most_common())


def metrics(judged: JudgedSet) -> dict[str, Interval]:
    """The metrics of the literature that were measured, each over all crystals that could be read."""
    verdicts = judged.verdicts
    found = {"validity": interval(verdicts["valid"].passed), "uniqueness": interval(verdicts["unique"].passed)}
    columns = verdicts["valid"].columns
    found |= {f"{kind} validity (CDVAE)": interval(columns[f"{kind}_valid"]) for kind in ("structure", "composition")}
    found |= _chemistry(verdicts["chemistry"]) if "chemistry" in verdicts else {}
    if "novel" in verdicts:
        found["novelty"] = interval(verdicts["novel"].passed)
        new = verdicts["novel"].columns.get("new_composition", np.zeros(len(judged.samples), bool))
        found["composition novelty"] = interval(new.astype(bool))
        found["data augmentation"] = _product(found, len(judged.samples))
        found |= _families(verdicts["families"])
    if "stable" in verdicts:
        found |= _stability(verdicts)
    found |= _continuous(verdicts)
    if judged.rediscovered is not None:
        found["rediscovery"] = distributions.rediscovery(judged.rediscovered)
    if "target" in verdicts:
        said = verdicts["target"]
        found["verification"] = interval(said.passed[said.asked])
        found[f"verification{EXPECTED}"] = stability.expected(said.columns["probability_on_target"][said.asked])
    if judged.synthesizability is not None:
        found["synthesizability"] = interval(np.asarray(judged.synthesizability.value, np.float64).reshape(-1))
    if judged.coverage is not None:
        found |= {"COV-R (CDVAE)": judged.coverage.recall, "COV-P (CDVAE)": judged.coverage.precision}
    found["P1 share"] = p1_share(judged.space_group)
    found["no space group found"] = no_group_share(judged.space_group)
    if len(judged.samples) > 1:
        found["diversity"] = _one(distributions.diversity(judged.features), len(judged.samples))
    found["Vendi score"] = _one(vendi(judged.features), min(len(judged.samples), MOST_OF_VENDI))
    return found


def _chemistry(said: Verdict) -> dict[str, Interval]:
    """Shares of crystals with nothing that a chemist would stop at; real ones have less than 100 % too."""
    return {f"usual {kind.replace('_', ' ')}": interval(said.columns[f"unusual_{kind}"] == "") for kind in FLAGS}


def flagged(judged: JudgedSet, most: int = 6) -> dict[str, dict[str, int]]:
    """Kind of flag -> what was unusual -> crystals, the commonest first; no kind without a flag."""
    if "chemistry" not in judged.verdicts:
        return {}
    found = {}
    for kind in FLAGS:
        texts = judged.verdicts["chemistry"].columns[f"unusual_{kind}"]
        names, count = np.unique(texts[texts != ""], return_counts=True)
        order = np.argsort(-count, kind="stable")[:most]
        found[kind] = {str(names[i]): int(count[i]) for i in order}
    return {kind: names for kind, names in found.items() if names}


def _families(said: Verdict) -> dict[str, Interval]:
    """What the crystals that count as new are to known ones, of those that were looked at."""
    kinds = said.columns["family"][said.asked]
    named = {kind: f"new, but {kind} of a known one" for kind in known_relations.KINDS[1:-1]} | {
        "new": "new, and no relative"
    }
    return {title: interval(kinds == kind) for kind, title in named.items()} if len(kinds) else {}


def _continuous(verdicts: Mapping[str, Verdict]) -> dict[str, Interval]:
    """Uniqueness, novelty and their product with stability, without a threshold (Negishi et al. 2025)."""
    columns = verdicts["continuous"].columns
    found = {name.replace("_", " "): interval(values) for name, values in columns.items()}
    if "stable" in verdicts and len(columns) == 2:
        said = verdicts["stable"]
        above = np.where(said.asked & said.columns["believed"], said.columns["e_above_hull_ev_per_atom"], np.nan)
        parts = np.nan_to_num([*columns.values()])  # what was not compared has no share in it
        found["continuous S.U.N."] = interval(continuous.stability(above) * np.prod(parts, axis=0))
    return found


def vendi(features: np.ndarray) -> float:
    """The effective number of different crystals among the first 1,000, alike within `SCALE` of the descriptors."""
    kernel = distributions.gaussian_kernel(features[:MOST_OF_VENDI], SCALE)
    return distributions.vendi_score(kernel)


def _product(found: Mapping[str, Interval], count: int) -> Interval:
    """Uniqueness x novelty x validity (Box 2); the ends are the products of the ends, which is wide."""
    parts = [found[name] for name in ("uniqueness", "novelty", "validity")]
    return Interval(*(float(np.prod([part[k] for part in parts])) for k in range(3)), count, 0)


EXPECTED = ", expected"  # of a metric that sums probabilities, as the energies are less accurate than the margin


def _stability(verdicts: Mapping[str, Verdict]) -> dict[str, Interval]:
    """Shares of the crystals that were judged; expected ones where the error of the energies exceeds the margin."""
    said = verdicts["stable"]
    columns, looked_at = said.columns, said.asked | (said.reason != "")
    unknown = looked_at & np.char.startswith(said.reason.astype(str), "cannot tell") & ~said.asked
    error = columns["energy_std_ev_per_atom"]
    std = float(error[0]) if len(error) and np.isfinite(error[0]) else None
    above = columns["e_above_hull_ev_per_atom"]
    off = unknown & np.isnan(columns["probability_stable"])  # the hull cannot judge them
    chance = np.where(looked_at & ~off, np.nan_to_num(columns["probability_stable"]), np.nan)
    vague = stability.VAGUE in said.level
    name = f"stability{EXPECTED}" if vague else "stability"
    found = {name: stability.expected(chance)} if vague else {name: interval(said.passed[said.asked])}
    if "novel" in verdicts:
        new = verdicts["unique"].passed & verdicts["novel"].passed
        for name, margin in MARGINS_EV_PER_ATOM.items():
            share = np.nan_to_num(stability.probability(above, margin, std))
            share = np.where(off, np.nan, np.where(looked_at & columns["believed"], share, 0.0) * new)
            if stability.cannot_tell(margin, std):
                found[f"{name}{EXPECTED}"] = stability.expected(share)
            else:
                found[name] = interval((share >= 0.5)[~off])
    found["stability unknown"] = interval(unknown[looked_at])
    far = {"far below the hull (holes?)": "far_below_hull", "far above the hull": "far_above_hull"}
    return found | {title: interval(columns[column][looked_at]) for title, column in far.items()}


def _one(value: float, count: int) -> Interval:
    return Interval(float(value), np.nan, np.nan, count, 0)


def cost(judged: JudgedSet) -> dict[str, Any]:
    """Seconds and oracle calls by stage, in all, and for each crystal that passed every stage."""
    seconds = sum(spent["seconds"] for spent in judged.cost.values())
    hits = int([*stages.passed_so_far(judged.verdicts).values()][-1].sum())
    per_hit = {"seconds_per_hit": seconds / hits} if hits else {}
    return {"stages": judged.cost, "seconds": seconds, "hits": hits, **per_hit}


def worst(judged: JudgedSet, count: int = 5) -> dict[str, list[dict[str, str]]]:
    """Stage -> the first crystals that failed it, with the reason; those furthest above the hull first."""
    found, before = {}, np.ones(len(judged.samples), bool)
    for name, alive in stages.passed_so_far(judged.verdicts).items():
        said = judged.verdicts[name]
        failed = np.flatnonzero(before & ~alive & said.asked)
        if "e_above_hull_ev_per_atom" in said.columns:
            above = np.nan_to_num(said.columns["e_above_hull_ev_per_atom"][failed], nan=-np.inf)
            failed = failed[np.argsort(-above, kind="stable")]
        found[name] = [
            {"id": str(judged.samples.ids[i]), "index": int(i), "reason": said.reason[i], "code": code(said.reason[i])}
            for i in failed[:count]
        ]
        before = alive
    return found
