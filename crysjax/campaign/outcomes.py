"""What a campaign has learned so far: every validated candidate, with what was predicted and what came out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crysjax.campaign import store
from crysjax.campaign.goals import Goals, meets, objective
from crysjax.campaign.plan import as_known_now
from crysjax.data.datasets import Dataset, concatenate, take
from crysjax.evaluation import ledger
from crysjax.oracles import costs

STATE, LEDGER = "state.npz", "ledger.jsonl"
CRYSTALS = ("ids", "num_atoms", "numbers", "frac", "lattice")


class Outcomes(NamedTuple):
    """Validated candidates in the order they were made; host arrays with one row per crystal."""

    rounds: int  # that are finished
    calls: dict[str, int]  # oracle -> calls
    seconds: dict[str, float]  # part -> wall time
    crystals: Dataset | None  # relaxed; None: not one yet
    features: np.ndarray  # (m, d) before relaxation
    raw: np.ndarray  # (m, k) what the heads said: the prior of the predictive law
    raw_std: np.ndarray  # (m, k)
    predicted: np.ndarray  # (m, k) the predictive law of `validated`, at the time of the choice
    predicted_std: np.ndarray  # (m, k)
    validated: np.ndarray  # (m, k)
    validated_std: np.ndarray  # (m, k)
    energy: np.ndarray  # (m,) eV/atom
    max_force: np.ndarray  # (m,) eV/Å
    spent: costs.SpentByRole = ()  # on each oracle


COLUMNS = (
    "features", "raw", "raw_std", "predicted", "predicted_std", "validated", "validated_std", "energy", "max_force",
)  # fmt: skip


def empty(targets: int, features: int) -> Outcomes:
    """Before the first round."""
    table, none = np.zeros((0, targets), np.float32), np.zeros(0, np.float32)
    return Outcomes(0, {}, {}, None, np.zeros((0, features), np.float32), *[table] * 6, none, none)


def extend(outcomes: Outcomes, crystals: Dataset, **columns: np.ndarray) -> Outcomes:
    """With further rows at the end."""
    if not len(crystals):
        return outcomes
    joined = {name: np.concatenate([getattr(outcomes, name), columns[name]]) for name in COLUMNS}
    crystals = crystals if outcomes.crystals is None else concatenate([outcomes.crystals, crystals])
    return outcomes._replace(crystals=crystals, **joined)


def save(outcomes: Outcomes, folder: Path, plan: dict, models: dict[str, str]) -> None:
    """One state file, whole or not at all; it knows the ledger as it is now, and the digests of the models' files."""
    arrays = {name: getattr(outcomes, name) for name in COLUMNS}
    if outcomes.crystals is not None:
        arrays |= {name: getattr(outcomes.crystals, name) for name in CRYSTALS}
    meta = {"plan": plan, "rounds": outcomes.rounds, "calls": outcomes.calls, "seconds": outcomes.seconds}
    meta |= {"spent": costs.as_dict(outcomes.spent)}
    meta |= {"ledger": ledger.seal(folder / LEDGER), "models": models}
    store.save_state(folder / STATE, arrays, meta)


def load(folder: Path, plan: dict, models: dict[str, str], say: Callable[[str], None]) -> Outcomes | None:
    """The state in a folder if there is one; a damaged one gives way to the round before, which is told to `say`.

    An error if another plan or other model files made it, or if it and the ledger disagree.
    """
    if not ((folder / STATE).exists() or store.previous(folder / STATE).exists()):
        return None
    store.recover(folder / STATE, say)
    arrays, meta = store.load_state(folder / STATE)
    store.check_same_plan(folder, _known_now(folder, meta["plan"], plan), plan)
    store.check_same_files(folder, meta.get("models", models), models)  # an older version recorded none
    ledger.check(folder / LEDGER, meta["rounds"], meta.get("ledger"))
    crystals = None
    if "ids" in arrays:
        blank = np.full(len(arrays["ids"]), "")
        crystals = Dataset(*(arrays[name] for name in CRYSTALS), {}, blank, {})
    columns = (arrays[name] for name in COLUMNS)
    spent = costs.from_json(json.dumps(meta.get("spent", {})))  # an older version kept none
    return Outcomes(meta["rounds"], meta["calls"], meta["seconds"], crystals, *columns, spent)


def _known_now(folder: Path, stored: dict, now: dict) -> dict:
    """The plan of a state, which an older version may have written in other names."""
    if stored.keys() == now.keys():
        return stored
    try:
        return as_known_now(stored)
    except ValueError as error:
        said = f"this campaign began with a plan that this version does not read ({error})"
        raise ValueError(f"{folder}: {said}{store.AGAIN}") from None


def ranked(outcomes: Outcomes, goals: Goals, group: np.ndarray) -> np.ndarray:
    """Rows from best to worst: inside all windows first, then by objective; of equal crystals only the best.

    `group` (m,) names the cluster of equal crystals that a row belongs to.
    """
    value = objective(goals, outcomes.validated)
    order = np.lexsort((value, ~meets(goals, outcomes.validated)))
    _, first = np.unique(group[order], return_index=True)
    return order[np.sort(first)]


def best(outcomes: Outcomes, rows: np.ndarray) -> Dataset:
    """The crystals of these rows."""
    return take(outcomes.crystals, rows)
