"""The judge of a plan: `judge: NAME`, a calculator that had no part in the choice and has the last word on structures.

Candidates are relaxed by the plan's `potential` first; those that this leaves whole are then relaxed by the judge, or
only evaluated: by an interatomic potential, by name or file (compiled, batched), or by a calculator in a process of its
own (`oracles.calculators`). Its energies become formation energies where reference energies of the elements are known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crysjax.base import Oracle, Params
from crysjax.campaign import kept_answers
from crysjax.campaign.measures import EDGES_OF_AN_ATOM
from crysjax.campaign.validate import Relaxed, relaxer
from crysjax.data import datasets
from crysjax.data.datasets import Dataset, entries
from crysjax.data.readers import reading
from crysjax.models import references, registry
from crysjax.models.references import Reference
from crysjax.oracles import by_potential, calculators, costs, hosted
from crysjax.oracles.traced import traced
from crysjax.potentials.mlip import Potential

DFT = ("espresso", "gpaw")
Relax = Callable[[Dataset, Callable[[str, int, int], None]], Relaxed]


class Judging(NamedTuple):
    """Settings of the judge; see `judging`."""

    name: str
    relax: bool
    steps: int
    fmax: float
    references: str
    timeout_seconds: float
    options: dict[str, Any]


class Judge(NamedTuple):
    """A judge at work."""

    oracle: Oracle  # energy per atom of crystals as they stand; its cost is that of one evaluation
    within: Callable[[Path], Relax]  # a folder that keeps its answers as they come -> what relaxes
    reference: Reference | None  # None: its energies are no formation energies
    potential: Potential | None  # None: a calculator in a process of its own
    params: Params | None
    file: Path | None


def judging(
    name: str, *, relax: bool = True, steps: int = 200, fmax: float = 0.05, references: str = "",
    timeout_seconds: float = 600.0, options: dict[str, Any] = {},  # noqa: B006 (never changed)
) -> Judging:  # fmt: skip
    """What judges relaxed candidates, beside the plan's potential.

    Args:
        relax: whether it relaxes them further; else it is asked about them as the potential left them.
        steps: most steps of its relaxation.
        fmax: largest force that ends its relaxation, eV/Å.
        references: JSON of its energies of the elements (`element_ev` by symbol, `std_ev_per_atom`), which turn its
            energies into formation energies; without it NAME.references.json beside the potential's
            file, or else references.json in the same folder; or none.
        timeout_seconds: time for one crystal by a calculator in a process of its own.
        options: settings of a calculator, by name.
    """
    for key, value in {"steps": steps, "fmax": fmax, "timeout_seconds": timeout_seconds}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{key}: {value}; expected a number above 0")
    if name.partition("+")[0] in DFT:
        raise ValueError(
            f"{name}: takes minutes a crystal, and a campaign would wait for it; expected a potential or one of "
            f"{_calculators()}, and `crysjax judge --by {name}` afterwards"
        )
    if options and not is_calculator(name):
        raise ValueError(f"options: {name or 'no judge'} takes none; expected a calculator: {_calculators()}")
    return Judging(name, relax, steps, fmax, references, timeout_seconds, options)


def _calculators() -> str:
    return ", ".join(name for name in sorted(calculators.FACTORIES) if name not in ("potential", *DFT))


def is_calculator(name: str) -> bool:
    """Whether it names a calculator in a process of its own, and no potential."""
    return ":" in name or name.partition("+")[0] in calculators.FACTORIES


def made(asked: Judging, max_atoms: int) -> Judge | None:
    """The judge, or none; an error names what is missing and what there is."""
    if not asked.name:
        return None
    given = references.read(Path(asked.references)) if asked.references else None
    if is_calculator(asked.name):
        return _calculator(asked, given)
    try:
        potential, params, path = registry.load_potential(asked.name)
    except ValueError as error:
        raise ValueError(f"{error}; or a calculator: {_calculators()}") from None
    relax = relaxer(potential, params, steps=asked.steps if asked.relax else 1, fmax=asked.fmax, what="judge")
    energy = by_potential.energy_ev_per_atom(potential, params, max_edges=EDGES_OF_AN_ATOM * max_atoms)
    oracle = traced(energy, name=asked.name, unit="eV/atom", cost=price(asked.name))
    reference = given or references.read_reference(path)
    last = relax if asked.relax else _in_place(relax)
    return Judge(oracle, lambda folder: last, reference, potential, params, path)


def _in_place(relax: Relax) -> Relax:
    """Energies and forces of crystals as they stand: the first step of a relaxation."""
    return lambda crystals, progress: relax(crystals, progress)._replace(crystals=crystals)


def price(name: str) -> float:
    """Seconds of one evaluation by order of magnitude; what is not on the ladder counts as CHGNet."""
    found = {one.name: one.seconds for one in costs.FIDELITIES}
    return found.get(Path(name).stem.partition("+")[0], found["chgnet"]) / 10


def _calculator(asked: Judging, reference: Reference | None) -> Judge:
    known = calculators.named(asked.name, asked.options)
    hosted.absolute(known.make)  # a file that is not there is said before anything is sampled
    how = hosted.HostedRelax(asked.fmax, asked.steps) if asked.relax else None

    def workplace() -> hosted.Host:
        return hosted.host(known.make, settings=known.settings, relax=how, timeout_seconds=asked.timeout_seconds)

    def within(folder: Path) -> Relax:
        def relax(crystals: Dataset, progress: Callable[[str, int, int], None]) -> Relaxed:
            work, rows = workplace(), entries(crystals)
            ask = kept_answers.keeping(work.ask, folder, [*_question(known), how, asked.timeout_seconds])
            try:
                answers = ask(rows, lambda index, answer: progress("judge", index + 1, len(rows)))
            finally:
                work.close()
            return _as_relaxed(crystals, answers)

        return relax

    def batch(crystals: Any) -> Any:
        work = hosted.host(known.make, settings=known.settings, timeout_seconds=asked.timeout_seconds)
        try:
            return hosted.hosted(work, name=asked.name).batch(crystals)
        finally:
            work.close()

    return Judge(Oracle(asked.name, "eV/atom", price(asked.name), batch), within, reference, None, None, None)


def _question(known: calculators.Known) -> list[Any]:
    """What a calculator is, as its answers depend on it: of a file, what it holds."""
    place = source_file(known.make)
    return [known.make, known.settings, reading.digest(place) if place else ""]


def source_file(name: str) -> Path | None:
    """The file of Python that a calculator `file.py:name` comes from."""
    place = name.rpartition(":")[0]
    return Path(place) if place.endswith(".py") else None


def _as_relaxed(crystals: Dataset, answers: list[hosted.Answer]) -> Relaxed:
    """Answers as rows; a relaxation that ran out of steps counts, as it does for the potential."""
    moved = [row if a.crystal is None else a.crystal._replace(id=row.id) for row, a in zip(entries(crystals), answers)]
    found = datasets.from_entries(moved) if moved else crystals
    energy = [np.nan if a.single is None else a.single.energy / len(row.numbers) for row, a in zip(moved, answers)]
    force = [np.nan if a.single is None or a.single.forces is None else np.linalg.norm(a.single.forces, axis=-1).max()
             for a in answers]  # fmt: skip
    reason = ["" if a.single is not None else a.reason[:80] for a in answers]
    return Relaxed(
        Dataset(**vars(crystals) | {"frac": datasets.wrap(found.frac), "lattice": found.lattice}),
        np.array(energy, np.float32), np.array(force, np.float32), np.array([a.steps for a in answers], int),
        np.array(reason, "<U80"),
    )  # fmt: skip


def after(first: Relax, judge: Judge, folder: Path) -> Relax:
    """Relaxation by the potential, then by the judge of what that left whole; energies and forces are the judge's.

    A calculator's answers are kept in the folder one by one.
    """
    last = judge.within(folder)

    def relax(crystals: Dataset, progress: Callable[[str, int, int], None]) -> Relaxed:
        begun = first(crystals, progress)
        good = np.flatnonzero(begun.reason == "")
        if not len(good):
            return begun._replace(judged=np.zeros(len(crystals), int))
        clock = time.perf_counter()
        said = last(datasets.take(begun.crystals, good), progress)
        seconds = time.perf_counter() - clock
        order = np.arange(len(crystals))
        order[good] = len(crystals) + np.arange(len(good))
        both = datasets.take(datasets.concatenate([begun.crystals, said.crystals]), order)
        columns = {}
        for name in ("energy", "max_force", "reason"):
            columns[name] = getattr(begun, name).copy().astype("<U80" if name == "reason" else np.float32)
            columns[name][good] = getattr(said, name)
        failed = good[said.reason != ""]
        columns["reason"][failed] = [f"{judge.oracle.name}: {why}"[:80] for why in columns["reason"][failed]]
        judged = np.zeros(len(crystals), int)
        judged[good] = said.evaluations
        return Relaxed(both, evaluations=begun.evaluations, judged=judged, judge_seconds=seconds, **columns)

    return relax
