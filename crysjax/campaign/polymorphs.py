"""Polymorphs of one composition: sample, relax, leave out duplicates, rank by energy.

Batches are kept one by one as they are relaxed, so that a search that is stopped goes on with the same command and
loses at most one batch. How much is asked is fixed beforehand: `count` samples of at most `steps` evaluations each.
Energies are those of the potential: what is ranked is its opinion, not DFT's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crysjax.campaign.validate import element_energy
from crysjax.config import typed
from crysjax.crystallography import matching, symmetrized
from crysjax.crystallography.equivalence import Tolerance
from crysjax.data import datasets, digests, files, names
from crysjax.data.datasets import Dataset
from crysjax.data.readers import io, reading
from crysjax.data.readers.part import read_part
from crysjax.models import registry
from crysjax.models.references import read_reference
from crysjax.potentials.relax_dataset import relax_dataset
from crysjax.reports import energy_volume
from crysjax.reports.page import usual_formula
from crysjax.sampling import draws
from crysjax.sampling import sample as sampling
from crysjax.sampling.options import Options, as_keys, formula_counts

SETTINGS, BATCHES = "search.json", "batches"
MOST, MOST_UNITS = 100_000, 64
SAME = Tolerance(stol=0.3, angle_degree=5.0, ltol=0.2)
"""StructureMatcher's own defaults: CDVAE's, which are wider, merge polymorphs."""
SAME_EV_PER_ATOM = 0.01  # structures that match and differ by more are two polymorphs
ENERGY, ABOVE = "energy_ev_per_atom", "energy_above_lowest_ev_per_atom"

Progress = Callable[[int, int], None]  # (samples done, of how many)


class PolymorphSearch(NamedTuple):
    """What is asked; every field is bounded beforehand."""

    formula: str
    generator: str = "mp_20_wyckoff"
    potential: str = "student"
    count: int = 64  # samples
    units: int = 4  # formula units in a cell, at most
    space_groups: tuple[int, ...] = ()  # () leaves them to the generator
    templates: str = ""  # PATH[:SPLIT] that a retrieval-based generator looks up from
    hull: tuple[str, ...] = ()
    steps: int = 200  # evaluations of a relaxation, at most
    batch: int = 32  # samples that are kept together
    seed: int = 0


class Polymorphs(NamedTuple):
    """Distinct crystals, lowest energy first, and what became of all samples."""

    crystals: Dataset  # with energy, energy above the lowest, volume, times found and, with a hull, the distance to it
    counts: dict[str, Any]  # sampled, relaxed, converged, distinct; `failed`: reason -> number
    level: str


def find(asked: PolymorphSearch, out: Path, *, progress: Progress = lambda done, total: None) -> Polymorphs:
    """Search, and write `polymorphs.csv`, `.extxyz`, `crystals/*.cif`, `report.html` and `summary.json` into `out`.

    The same search in the same folder goes on; another one is an error.
    """
    reference, counts = checked(asked)
    with files.alone(out):
        _same_search(asked, out)
        parts, lost, sampled = [], Counter(), 0
        potential = cache(lambda: registry.load_potential(asked.potential))  # one, so that it is compiled once
        for number in range(-(-asked.count // asked.batch)):
            crystals, said = _batch(asked, counts, number, out / BATCHES, potential)
            parts += [crystals] if crystals is not None else []
            sampled += said["sampled"]
            lost.update(said["failed"])
            progress(min((number + 1) * asked.batch, asked.count), asked.count)
        found = _ranked(asked, parts, reference)
        tally = {"sampled": sampled, "relaxed": sum(map(len, parts)), "failed": dict(lost)}
        tally |= {"converged": int(sum(part.properties["converged"].sum() for part in parts)), "distinct": 0}
        if found is None:
            said = "; ".join(f"{n} for {reason!r}" for reason, n in lost.items())
            raise ValueError(f"{asked.formula}: none of {sampled} samples could be relaxed: {said}")
        digest = reading.digest(registry.model_path(asked.potential))
        level = f"{asked.potential}, a machine-learned potential, no DFT (SHA-256 {digest})"
        answer = Polymorphs(found, tally | {"distinct": len(found)}, level)
        write(answer, asked, out)
    return answer


def checked(asked: PolymorphSearch) -> tuple[Any, dict[int, int]]:
    """The element references (None without a hull) and the atoms of one formula unit; errors name the setting."""
    config = registry.read_config(registry.model_path(asked.generator, "generator"), "generator")
    with as_keys():
        counts = formula_counts(asked.formula, config["elements"])
    if not counts:
        raise ValueError("formula: empty; expected one such as SrTiO3")
    largest, unit = max(map(int, config["sizes"])), sum(counts.values())
    for name, most in (("count", MOST), ("batch", MOST), ("steps", MOST), ("units", MOST_UNITS)):
        if not 1 <= typed(name, getattr(asked, name), int) <= most:
            raise ValueError(f"{name}: {getattr(asked, name)}; expected 1 to {most}")
    if asked.units * unit > largest:
        fit = largest // unit
        hint = f"expected at most {fit}" if fit else "one unit is too large, take another generator"
        raise ValueError(f"units: {asked.units} of {unit} atoms; {asked.generator} knows up to {largest} atoms, {hint}")
    for group in asked.space_groups:
        if typed("space groups", group, int) not in range(1, 231):
            raise ValueError(f"space groups: {group}; expected numbers from 1 to 230")
    if not asked.hull:
        return None, counts
    reference = read_reference(registry.model_path(asked.potential))
    if reference is None:
        raise ValueError(
            f"hull: {asked.potential} has no energies of the elements; make them by `crysjax models references`"
        )
    return reference, counts


def _same_search(asked: PolymorphSearch, out: Path) -> None:
    """Write down what is searched, or an error if the folder holds another search."""
    now = json.loads(json.dumps(asked._asdict() | {"digests": _contents(asked)}))
    path = out / SETTINGS
    if path.exists():
        before = digests.read_json(path)
        known = before.get("digests") or {}  # an older version wrote fewer
        for role in known:
            if known[role] != now["digests"].get(role):
                raise ValueError(f"{out}: holds a search with another content of {role}; choose another --out")
        for key in asked._fields:
            if key != "hull" and before.get(key) != now[key]:  # the hull is asked after the search
                raise ValueError(
                    f"{out}: holds a search with another {key} ({before.get(key)!r}); choose another --out"
                )
    files.write(path, digests.sealed_json(json.dumps(now, indent=1)))


def _contents(asked: PolymorphSearch) -> dict[str, str]:
    """The digests of all files that decide what is found; "" for one that there is not."""
    generator, potential = (registry.model_path(name) for name in (asked.generator, asked.potential))
    defaults = generator.with_name("sampling.json")
    return {
        "generator": reading.digest(generator),
        "potential": reading.digest(potential),
        "sampling.json": reading.digest(defaults) if defaults.exists() else "",
        "templates": digests.of_dataset(read_part(asked.templates)) if asked.templates else "",
    }


def _batch(
    asked: PolymorphSearch, counts: dict[int, int], number: int, folder: Path, potential: Callable
) -> tuple[Dataset | None, dict]:
    """The relaxed crystals of one batch (None: not one) and its counts, from disk where they are kept."""
    path, about = folder / f"{number:04d}.npz", folder / f"{number:04d}.json"
    if about.exists():
        said = digests.read_json(about)
        return (datasets.load(path) if said["relaxed"] else None), said
    size = min(asked.batch, asked.count - number * asked.batch)
    try:
        drawn = sampling.sample(asked.generator, _request(asked, counts, number, size), seed=asked.seed + number)
    except ValueError as error:
        if not asked.space_groups:
            raise
        said = {"sampled": 0, "relaxed": 0, "failed": {str(error): size}}  # a group that the formula does not fill
        files.write(about, digests.sealed_json(json.dumps(said)))
        return None, said
    drawn = replace(drawn, ids=np.array([f"{number}-{k:04d}" for k in range(len(drawn))]), properties={})
    engine, params, _ = potential()
    done = relax_dataset(
        engine.energy_forces_stress, params, drawn, cutoff_angstrom=engine.cutoff_angstrom, known=engine.numbers,
        max_steps=asked.steps,
    )  # fmt: skip
    good = np.flatnonzero(done.valid & np.isfinite(done.energy))
    lost = np.delete(done.reason, good)
    why = Counter(np.where(lost == "", "no finite energy", lost).tolist())
    said = {"sampled": len(drawn), "relaxed": len(good), "failed": why}
    crystals = None
    if len(good):
        moved = replace(done.crystals, frac=datasets.wrap(done.crystals.frac), properties={
            ENERGY: done.energy / drawn.num_atoms, "max_force_ev_per_angstrom": done.fmax,
            "converged": done.converged.astype(np.float32),
        })  # fmt: skip
        crystals = datasets.take(moved, good)
        datasets.save(crystals, path)
    files.write(about, digests.sealed_json(json.dumps(said)))  # last: what it counts is there
    return crystals, said


def _request(asked: PolymorphSearch, counts: dict[int, int], number: int, size: int) -> sampling.Request:
    """A batch of `size` samples: every number of formula units equally often, or one of the space groups in turn."""
    if asked.space_groups:
        group = asked.space_groups[number % len(asked.space_groups)]
        most = asked.units * sum(counts.values())
        return sampling.Request(size, max_atoms=most, constraints=Options(asked.formula, space_group=group))
    units = (number * asked.batch + np.arange(size)) % asked.units + 1
    cell = np.repeat(list(counts), list(counts.values()))
    like = draws.blank(units * len(cell), np.concatenate([np.tile(cell, z) for z in units]))
    templates = read_part(asked.templates) if asked.templates else None
    return sampling.Request(size, like=like, templates=templates)


def _ranked(asked: PolymorphSearch, parts: Sequence[Dataset], reference: Any) -> Dataset | None:
    """Distinct crystals of all batches, lowest energy first."""
    if not parts:
        return None
    every = datasets.concatenate(list(parts))
    every = datasets.take(every, np.argsort(every.properties[ENERGY], kind="stable"))
    first = distinct(matching.groups(every, tolerance=SAME, processes=1), every.properties[ENERGY])
    kept, times = np.unique(first, return_counts=True)
    found = datasets.take(every, kept)
    energy = found.properties[ENERGY].astype(float)
    volume = np.abs(np.linalg.det(found.lattice.astype(float))) / found.num_atoms
    more = {ABOVE: energy - energy[0], "volume_angstrom3_per_atom": volume, "times_found": times}
    if asked.hull:
        more["energy_above_hull_ev_per_atom"] = above_hull(found, energy, asked.hull, reference)
    properties = found.properties | {name: np.asarray(values, np.float32) for name, values in more.items()}
    return replace(found, properties=properties, provenance={})


def distinct(group: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """The first row of the polymorph that each row is: (m,). Rows come by energy, `group` are clusters of matches.

    Within a cluster a row begins another polymorph where it is more than `SAME_EV_PER_ATOM` above the one before.
    """
    first = np.arange(len(group))
    latest: dict[int, int] = {}
    for row, label in enumerate(group.tolist()):
        begun = latest.get(label)
        if begun is not None and energy[row] - energy[begun] <= SAME_EV_PER_ATOM:
            first[row] = begun
        else:
            latest[label] = row
    return first


def above_hull(crystals: Dataset, energy: np.ndarray, paths: Sequence[str], reference: Any) -> np.ndarray:
    """Energy above the hull in eV/atom (m,); the references bring energies to the level of MP-20."""
    from crysjax.physics.hull import hull
    from crysjax.physics.hull.read_hull import read_hull

    formation = energy - element_energy(crystals, reference)
    counts = hull.compositions(crystals)
    return hull.energy_above_hull(counts, formation, read_hull(list(paths)), level=hull.MATERIALS_PROJECT_2021)


def write(found: Polymorphs, asked: PolymorphSearch, out: Path) -> None:
    """All files, made anew from the batches."""
    rows = datasets.entries(found.crystals)
    formula, digits = usual_formula(rows[0].numbers), len(str(len(rows)))
    unit = sum(formula_counts(asked.formula, list(range(1, 119))).values())
    table, said = [], []
    with files.whole(out / "crystals", folder=True) as partial:
        for rank, entry in enumerate(rows, start=1):
            group, why = symmetrized.symmetrized(entry)
            symbol, number = (group.short, group.number) if group else ("P1", 1)
            place = f"{rank:0{digits}d}_{names.of(entry.id)}_{formula}.cif"
            items = {"rank": rank, "level_of_theory": found.level} | entry.properties
            files.write(partial / place, symmetrized.cif_of(entry, group, formula=formula, items=items, why=why))
            values = [f"{v:.7g}" if np.isfinite(v) else "" for v in entry.properties.values()]
            table.append([rank, entry.id, formula, symbol, number, len(entry.numbers) // unit, *values,
                          f"crystals/{place}"])  # fmt: skip
            above, times = entry.properties[ABOVE], int(entry.properties["times_found"])
            said.append(f"{rank}. {symbol}, Z = {len(entry.numbers) // unit}, {above:.3f} eV/atom, found {times} times")
    head = ["rank", "id", "formula", "space_group", "space_group_number", "formula_units", *rows[0].properties, "file"]
    files.write(out / "polymorphs.csv", files.csv_text(head, table))
    notes = [{"rank": k, "level_of_theory": found.level} for k in range(1, len(rows) + 1)]
    io.write_crystals(found.crystals, out / "polymorphs.extxyz", notes=notes)
    properties = found.crystals.properties
    drawing = energy_volume.chart(properties["volume_angstrom3_per_atom"], properties[ABOVE], said)
    words = [f"Energies by {found.level}.", told(found.counts)]
    cells = [[str(cell) for cell in line] for line in table]
    files.write(out / "report.html", energy_volume.page(f"Polymorphs of {formula}", words, drawing, head, cells))
    files.write(out / "summary.json", json.dumps(found.counts | {"level_of_theory": found.level}, indent=1) + "\n")


def told(counts: dict[str, Any]) -> str:
    """What became of the samples, in a line."""
    lost = ", ".join(f"{n} failed: {reason}" for reason, n in counts["failed"].items())
    said = f"{counts['sampled']} sampled, {counts['relaxed']} relaxed ({counts['converged']} converged)"
    return f"{said}, {counts['distinct']} distinct{'; ' + lost if lost else ''}"
