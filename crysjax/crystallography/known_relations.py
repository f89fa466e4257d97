"""How a crystal is related to known ones where StructureMatcher calls it new: so that novelty can be claimed or not.

From the closest relation to the most distant, the first that holds (`KINDS`):

* `equal`: StructureMatcher matches the two;
* `supercell`: it does, but only because it reduced a cell that holds the known crystal's several times;
* `distortion`: one composition and one parent. Symmetrized at a looser tolerance both are the same crystal, or one is
  a displaced supercell of the other whose symmetry is contained in the other's (group and subgroup);
* `order-disorder variant`: on the same parent lattice when two species count as one: another ordering of the same
  composition, or one in which similar species share the sites of one;
* `substitution`: the known crystal with other elements (`fit_anonymous`);
* `new`: none of these.

Candidates are found by formula and ranked by mean neighbor distances, which neither depend on species nor on scale;
StructureMatcher decides on the few nearest. A relation is therefore never claimed without a match, but one to a
crystal that is not among the nearest `proposals` can be missed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from crysjax.chemistry.elements import SYMBOLS, anonymous_formula, formula
from crysjax.crystallography.equivalence import CDVAE, Tolerance, reduced, rms
from crysjax.crystallography.grouping import mean_distances
from crysjax.crystallography.parents import (
    PARENT,
    SYMPREC_ANGSTROM,
    anonymous_match,
    merge,
    parent_match,
    similar,
    sites_as_given,
    supercell_match,
)  # fmt: skip
from crysjax.data import parallel
from crysjax.data.datasets import Dataset, Entry, entries

KINDS = ("equal", "supercell", "distortion", "order-disorder variant", "substitution", "new")
_REACH = 0.3  # of the free length between mean neighbor distances, beyond which nothing is proposed
_INLINE = 16  # fewer rows are done before a second process has started


class Relation(NamedTuple):
    """What a crystal is to a known one."""

    kind: str  # one of KINDS
    index: int  # of the known crystal, -1 if new
    value: float  # RMS of the match in free lengths, NaN if new
    reason: str  # one line


class RelationOptions(NamedTuple):
    """Tolerances: of equality, of parents, and of spglib when it looks for a parent."""

    tolerance: Tolerance = CDVAE
    parent: Tolerance = PARENT
    symprec_angstrom: tuple[float, ...] = SYMPREC_ANGSTROM
    proposals: int = 5


class Catalog(NamedTuple):
    """Known crystals, searchable."""

    rows: list[Entry]
    vectors: np.ndarray  # (m, k) mean neighbor distances in free lengths
    same: dict[str, list[int]]  # reduced formula -> rows
    merged: dict[tuple, list[int]]  # formula with one or two species as the placeholder, and these -> rows
    anonymous: dict[str, list[int]]  # anonymous formula -> rows


class RelationTask(NamedTuple):
    """One crystal and the known ones that it may be related to, nearest first, with their indices."""

    row: Entry
    same: list[tuple[int, Entry]]
    near: list[tuple[int, Entry]]  # of the same formula, and near
    merged: list[tuple[int, Entry, tuple[int, int]]]  # with the two species that count as one
    anonymous: list[tuple[int, Entry]]


def relation(
    row: Entry, known: Sequence[Entry] | Catalog, *, tolerance: Tolerance = CDVAE, parent: Tolerance = PARENT,
    symprec_angstrom: Sequence[float] = SYMPREC_ANGSTROM, proposals: int = 5,
) -> Relation:  # fmt: skip
    """The closest relation of a crystal to any of the known ones.

    `tolerance` is that of equality (CDVAE's), `parent` that of every other match (pymatgen's defaults),
    `symprec_angstrom` the tolerances at which a parent is looked for, ascending.
    """
    options = RelationOptions(tolerance, parent, tuple(symprec_angstrom), proposals)
    known = known if isinstance(known, Catalog) else catalog(known)
    return _judge(_task(row, mean_distances([row])[0], known, proposals), options)


def relations(
    dataset: Dataset, reference: Dataset, *, tolerance: Tolerance = CDVAE, parent: Tolerance = PARENT,
    symprec_angstrom: Sequence[float] = SYMPREC_ANGSTROM, proposals: int = 5, processes: int = 2,
) -> list[Relation]:  # fmt: skip
    """`relation` of each crystal to the reference set; indices are rows of that.

    `processes` as `data.parallel` has them.
    """
    known, rows = catalog(entries(reference)), entries(dataset)
    tasks = [_task(row, vector, known, proposals) for row, vector in zip(rows, mean_distances(rows))]
    work = partial(_judge, options=RelationOptions(tolerance, parent, tuple(symprec_angstrom), proposals))
    return parallel.each(work, tasks, processes, inline=_INLINE)


def tally(found: Iterable[Relation]) -> dict[str, int]:
    """How many crystals are of each kind."""
    count = Counter(r.kind for r in found)
    return {kind: count[kind] for kind in KINDS}


def catalog(known: Sequence[Entry]) -> Catalog:
    """The known crystals by formula, by formula with one or two species counted as one, and by anonymous formula."""
    if not len(known):
        raise ValueError("families: expected at least one known crystal, got none")
    same, merged, anonymous = defaultdict(list), defaultdict(list), defaultdict(list)
    for i, row in enumerate(known):
        same[formula(row.numbers)].append(i)
        anonymous[anonymous_formula(row.numbers)].append(i)
        for key in _merged_keys(row.numbers):
            merged[key].append(i)
    rows = [row._replace(properties={}, site_properties={}) for row in known]
    return Catalog(rows, mean_distances(rows), same, merged, anonymous)


# Candidates


def _merged_keys(numbers: np.ndarray) -> list[tuple]:
    """(formula with the placeholder, its species): one species, two similar ones, and two of which one is named."""
    species = np.unique(numbers).tolist()
    keys = [(formula(merge(numbers, (z,))), z) for z in species]
    for pair in filter(similar, combinations(species, 2)):
        name = formula(merge(numbers, pair))
        keys += [(name, *pair), (name, "with", pair[0]), (name, "with", pair[1])]
    return keys


def _task(row: Entry, vector: np.ndarray, known: Catalog, proposals: int) -> RelationTask:
    """The crystals that can be related to this one, and are near."""
    row = row._replace(properties={}, site_properties={})
    distance = partial(_distance, vector, known.vectors)
    name = formula(row.numbers)
    same = distance(known.same.get(name, []))
    near = [i for i, off in same if off < _REACH][:proposals]
    pairs = _partners(row.numbers, known)
    merged = distance([i for i in pairs if formula(known.rows[i].numbers) != name])
    alike = distance(known.anonymous.get(anonymous_formula(row.numbers), []))
    alike = [i for i, off in alike if off < _REACH and formula(known.rows[i].numbers) != name][:proposals]
    return RelationTask(
        row,
        [(i, known.rows[i]) for i, _ in same],
        [(i, known.rows[i]) for i in near],
        [(i, known.rows[i], pairs[i]) for i, off in merged if off < _REACH][:proposals],
        [(i, known.rows[i]) for i in alike],
    )


def _distance(vector: np.ndarray, vectors: np.ndarray, index: list[int]) -> list[tuple[int, float]]:
    """The candidates and how far they are, nearest first; equally far ones (to rounding) in their order."""
    off = np.abs(vectors[index] - vector).max(-1).round(5) if index else np.zeros(0)
    return [(index[k], float(off[k])) for k in np.argsort(off, kind="stable")]


def _partners(numbers: np.ndarray, known: Catalog) -> dict[int, tuple[int, int]]:
    """Known crystals that have this composition once two similar species count as one: index -> the two species."""
    found: dict[int, tuple[int, int]] = {}
    species = np.unique(numbers).tolist()
    for pair in filter(similar, combinations(species, 2)):
        name = formula(merge(numbers, pair))
        for key in ((name, *pair), (name, pair[0]), (name, pair[1])):
            found |= {i: pair for i in known.merged.get(key, []) if i not in found}
    for z in species:
        for i in known.merged.get((formula(merge(numbers, (z,))), "with", z), []):
            others = set(np.unique(known.rows[i].numbers).tolist()) - set(species)
            if i not in found and len(others) == 1:
                found[i] = tuple(sorted((z, others.pop())))
    return found


# Verdicts


def _judge(task: RelationTask, options: RelationOptions) -> Relation:
    """The first relation that holds."""
    for look in (_equal, _distortion, _ordering, _substitution):
        found = look(task, options)
        if found is not None:
            return found
    return Relation("new", -1, float("nan"), "no known crystal is equal, of the same parent, or of the same prototype")


def _equal(task: RelationTask, options: RelationOptions) -> Relation | None:
    matches = [(rms(reduced(other), reduced(task.row), options.tolerance), i) for i, other in task.same]
    matches = [match for match in matches if np.isfinite(match[0])]
    if not matches:
        return None
    value, index = min(matches)
    given, primitive, conventional = len(task.row.numbers), *sites_as_given(task.row)
    if given in (primitive, conventional):
        return Relation("equal", index, value, f"StructureMatcher matches it, RMS {value:.3f}")
    reason = f"{given} sites reduce to the {primitive} of the known crystal, RMS {value:.3f}"
    return Relation("supercell", index, value, reason)


def _distortion(task: RelationTask, options: RelationOptions) -> Relation | None:
    for index, other in task.near:
        found = parent_match(other, task.row, options.parent, options.symprec_angstrom)
        if found:
            reason = f"symmetrized to within {found.symprec_angstrom} Å both are the same crystal of group \
{found.group}, RMS {found.value:.3f}"
            return Relation("distortion", index, found.value, reason)
    for index, other in task.near:
        found = supercell_match(other, task.row, options.parent)
        if found:
            return Relation("distortion", index, found.value, found.reason)
    return None


def _ordering(task: RelationTask, options: RelationOptions) -> Relation | None:
    species = np.unique(task.row.numbers).tolist()
    own = [(index, other, pair) for index, other in task.near for pair in combinations(species, 2)]
    for index, other, pair in own + task.merged:
        one, two = (row._replace(numbers=merge(row.numbers, pair)) for row in (other, task.row))
        found = parent_match(one, two, options.parent, (0.0, *options.symprec_angstrom))
        if found:
            names, what = "-".join(SYMBOLS[z - 1] for z in pair), "orders" if (index, other, pair) in own else "shares"
            how = f", symmetrized to within {found.symprec_angstrom} Å" if found.symprec_angstrom else ""
            return Relation("order-disorder variant", index, found.value, f"{what} {names} on one lattice{how}")
    return None


def _substitution(task: RelationTask, options: RelationOptions) -> Relation | None:
    for index, other in task.anonymous:
        found = anonymous_match(other, task.row, options.parent)
        if found:
            value, mapping = found
            names = ", ".join(f"{SYMBOLS[a - 1]} to {SYMBOLS[b - 1]}" for a, b in sorted(mapping.items()) if a != b)
            return Relation("substitution", index, value, f"the known crystal with {names}, RMS {value:.3f}")
    return None
