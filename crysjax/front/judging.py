"""The verb that judges sets of crystals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from crysjax.campaign import questions, set_evaluation
from crysjax.campaign.asked import did_they_get_it
from crysjax.campaign.set_evaluation import RESERVED
from crysjax.data.datasets import Dataset
from crysjax.data.readers.source import read
from crysjax.evaluation import kept


class Evaluation(NamedTuple):
    """What was found out about each set, by its name."""

    totals: dict[str, dict[str, Any]]  # crystals, ledger, metrics with intervals, flags, what was not measured
    findings: dict[str, list]  # what the failure detectors say
    match: dict[str, dict[str, float]]  # structure prediction: rate, rmse, and those of the floors
    asked: dict[str, list]  # what samples were asked for, beside what `heads` predict


def evaluate(
    samples: Any = None, *, match: Any = None, train: Any = None, reference: Any = None, known: Sequence[str] = (),
    hull: Sequence[str] = (), potential: str = "", dft: str = "", level: str = "", margin: float = 0.1,
    target: str | PathLike | None = None, synthesizability: str = "", floors: bool = True, match_only: bool = False,
    ceiling: bool = True, heads: str = "", within: float | None = None, seed: int = 0, processes: int = 2,
    out: str | PathLike | None = None,
    progress: Callable[[str], None] = lambda text: None, command: str = "crysjax.evaluate",
) -> Evaluation:  # fmt: skip
    """Judge sets of crystals in stages, side by side; with `match`, match rate and RMSE beside the floors.

    Args:
        samples: crystals as `read` takes them, several paths, or a mapping of names to sets; without any, only the
            floors of `match` are computed.
        match: the true structures, row by row: structure prediction.
        train: the training data: for novelty, and for the floors.
        reference: held-out crystals to compare with; `match` if left out.
        known: `PATH[:SPLIT]` of further crystals that a new one may not equal.
        hull: entries of a convex hull: data sets, MatterGen caches, CSV or JSON tables.
        potential, dft: what gives energies above the hull: a potential that relaxes, or a CSV of id and
            formation_energy_ev_per_atom; `level` of theory of the latter, where it is not the hull's.
        margin: of stability, eV/atom above the hull.
        target: a plan of a design: are its windows met, by its heads?
        synthesizability: a model of that kind.
        floors, match_only, ceiling: whether to compute the no-learning floors of `match`, nothing but the match rate,
            and one half of the real crystals judged against the other.
        heads: a model that predicts what samples were asked for; `within`: how far a value may be from the request.
        seed: of the floors that draw, and of the ceiling's halves.
        processes: for structure matching and symmetry.
        out: folder for the report, metrics.json, table.tex and a CSV of each set; an evaluation that was interrupted
            goes on from the stages that are kept there.
        progress: told what is being done.
        command: what the report says made it.
    """
    if samples is None and (match is None or train is None):
        raise ValueError("evaluate: nothing to do; give SAMPLES, or --match and --train for the floors")
    if match_only and match is None:
        raise ValueError("--match-only: expected --match, the true structures")
    given = {k: None if v is None else read(v) for k, v in (("train", train), ("match", match), ("ref", reference))}
    place = None if out is None else Path(out)
    rates: dict[str, dict] = {}
    with TemporaryDirectory() as spare:  # without `out` nothing is kept
        sets = {name: _set(one) for name, one in _named(samples).items()}
        crystals = {name: found for name, (found, _) in sets.items()}
        asked = did_they_get_it(crystals, heads, within, place, progress)
        if given["match"] is not None:
            templates = given["train"] if floors else None
            rates = set_evaluation.structure_prediction(crystals, given["match"], templates, seed, processes, place)
        if not sets or match_only:
            return Evaluation({}, {}, rates, asked)
        questioned = questions.questions(
            given["train"], _held_out(given, progress), {name: read(name) for name in known}, list(hull), potential,
            dft, level, margin, None if target is None else Path(target), synthesizability, processes,
            place or Path(spare),
        )  # fmt: skip
        totals, findings = set_evaluation.judged_sets(
            sets, questioned, given["train"], seed, place, progress, command=command,
            with_ceiling=ceiling and given["match"] is None,
        )  # fmt: skip
    return Evaluation(totals, findings, rates, asked)


def _named(samples: Any) -> dict[str, Any]:
    """Sets by name: as given, or after their files."""
    if samples is None:
        return {}
    if isinstance(samples, Mapping):
        return dict(samples)
    if isinstance(samples, str | PathLike):
        samples = [samples]
    paths = isinstance(samples, Sequence) and all(isinstance(one, str | PathLike) for one in samples)
    return names([Path(one) for one in samples]) if paths else {"samples": samples}


def _set(one: Any) -> tuple[Dataset, list[dict]]:
    """The crystals of a set, and what of a file could not be read."""
    return questions.read_samples(Path(one)) if isinstance(one, str | PathLike) else (read(one), [])


def _held_out(given: dict[str, Dataset | None], progress: Callable[[str], None]) -> Dataset | None:
    """What samples are compared with, apart from the training data: the reference, else the true structures."""
    name = "ref" if given["ref"] is not None else "match"
    if given[name] is None or given["train"] is None or kept.digest(given[name]) != kept.digest(given["train"]):
        return given[name]
    option = {"ref": "reference"}.get(name, name)
    progress(
        f"--{option}: the same crystals as --train, so nothing is held out: no leakage or calibration is looked for"
    )
    return None


def names(paths: list[Path]) -> dict[str, Path]:
    """One name per set: the file's, with its folder's where two would be the same."""
    whole = [path if path.name.strip(".") else path.resolve() for path in paths]  # `.` and `..` name no folder
    stems = Counter(path.name.split(".")[0] for path in whole)
    found = [p.name.split(".")[0] if stems[p.name.split(".")[0]] == 1 else f"{p.parent.name}-{p.name}" for p in whole]
    for name, path in zip(found, paths):
        if name.lower() in RESERVED:
            raise ValueError(f"evaluate: {path}: a set cannot be named {name!r} here; rename the file")
        if [n.lower() for n in found].count(name.lower()) > 1:
            raise ValueError(f"evaluate: {path}: two sets of this name; expected sets that can be told apart")
    return dict(zip(found, paths))
