"""Splits of a data set: given, random, or by whole groups of chemistry, symmetry, time or distance.

Each returns the data set with a new `split` column, the same for the same seed. Members of one group never straddle
two splits, because a model that saw one member has all but seen the others (see `audit`), and no split misses its
share by the size of the largest group or more. All are called alike: `(dataset, *, seed, fractions, ...)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from crysjax.chemistry.elements import SYMBOLS, atomic_number, formula
from crysjax.crystallography import grouping
from crysjax.data.datasets import Dataset, Entry, entries

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def given(dataset: Dataset, split_of: Mapping[str, str] | None = None) -> Dataset:
    """The split that the data carries, or that `split_of` (id -> split) names; every crystal needs one."""
    split = dataset.split if split_of is None else np.array([split_of.get(i, "") for i in dataset.ids.tolist()])
    if (split == "").any():
        missing = dataset.ids[split == ""]
        raise ValueError(f"split given: {len(missing)} crystals have none, the first is {str(missing[0])!r}")
    return _with(dataset, split, {"kind": "given"})


def random(dataset: Dataset, *, seed: int, fractions: Mapping[str, float] = FRACTIONS) -> Dataset:
    """Every crystal for itself. On most data sets this leaks: see `audit`."""
    return grouped(dataset, np.arange(len(dataset)), seed=seed, fractions=fractions, kind="random")


def by_composition(dataset: Dataset, *, seed: int, fractions: Mapping[str, float] = FRACTIONS) -> Dataset:
    """All crystals of one reduced formula in one split."""
    labels = [formula(row.numbers) for row in entries(dataset)]
    return grouped(dataset, labels, seed=seed, fractions=fractions, kind="composition")


def by_chemical_system(dataset: Dataset, *, seed: int, fractions: Mapping[str, float] = FRACTIONS) -> Dataset:
    """All crystals of one set of elements in one split: Fe2O3 goes with FeO."""
    labels = [grouping.chemical_system(row.numbers) for row in entries(dataset)]
    return grouped(dataset, labels, seed=seed, fractions=fractions, kind="chemical system")


def by_prototype(
    dataset: Dataset, *, seed: int, fractions: Mapping[str, float] = FRACTIONS, symprec_angstrom: float = 0.1
) -> Dataset:
    """All crystals of one prototype in one split: anonymous formula, space group and atoms in the primitive cell."""
    labels = [s.prototype for s in grouping.symmetries(entries(dataset), symprec_angstrom=symprec_angstrom)]
    return grouped(dataset, labels, seed=seed, fractions=fractions, kind="prototype")


def by_space_group(
    dataset: Dataset, *, seed: int, fractions: Mapping[str, float] = FRACTIONS, symprec_angstrom: float = 0.1
) -> Dataset:
    """All crystals of one space group in one split; those without a group that spglib finds stay together too."""
    labels = [s.number for s in grouping.symmetries(entries(dataset), symprec_angstrom=symprec_angstrom)]
    return grouped(dataset, labels, seed=seed, fractions=fractions, kind="space group")


def by_element(
    dataset: Dataset,
    *,
    seed: int,
    fractions: Mapping[str, float] = FRACTIONS,
    elements: Iterable[str] | None = None,
) -> Dataset:
    """Held-out elements: every crystal that contains one of them is in `test`, the others are split by composition.

    Without `elements`, elements are drawn until at least the test fraction is reached.
    """
    rows = entries(dataset)
    contains = np.zeros((len(rows), len(SYMBOLS)), bool)
    for i, row in enumerate(rows):
        contains[i, row.numbers - 1] = True
    rest = _checked(fractions)
    test = rest.pop("test", 0.0)
    held = _drawn(contains, test, seed) if elements is None else [atomic_number(e) for e in elements]
    out = contains[:, np.array(held, int) - 1].any(1)
    labels = np.array([formula(row.numbers) for row in rows])
    names = [SYMBOLS[z - 1] for z in held]
    if out.all() or not out.any():
        raise ValueError(f"split by element: {names} hold out {out.sum()} of {len(rows)} crystals")
    split = np.full(len(rows), "test", dtype="<U16")
    split[~out] = _assign(labels[~out], seed, {k: v / sum(rest.values()) for k, v in rest.items()})
    return _with(dataset, split, {"kind": "element", "seed": seed, "held_out": names})


def by_time(dataset: Dataset, *, column: str, seed: int = 0, fractions: Mapping[str, float] = FRACTIONS) -> Dataset:
    """The earliest crystals first: `fractions` in the order train, val, test; equal times stay together.

    A boundary falls at the change of time that is nearest to its share, so later splits are never earlier. The order
    leaves nothing to draw: `seed` is taken so that all splits are called alike.
    """
    if column not in dataset.properties:
        raise ValueError(f"split by time: no property {column!r}; the data set has {sorted(dataset.properties)}")
    time = dataset.properties[column]
    if np.isnan(time).any():
        raise ValueError(f"split by time: {column!r} is missing for {np.isnan(time).sum()} of {len(time)} crystals")
    fractions = _checked(fractions)
    values, count = np.unique(time, return_counts=True)
    middle = (np.cumsum(count) - count / 2) / len(time)
    edges = np.cumsum(list(fractions.values()))[:-1]
    names = np.array(list(fractions))[np.searchsorted(edges, middle, side="right")]
    split = names[np.searchsorted(values, time)]
    return _with(dataset, split, {"kind": "time", "column": column, "fractions": fractions})


def by_cluster(
    dataset: Dataset, *, seed: int, fractions: Mapping[str, float] = FRACTIONS, space: str = "structure",
    clusters: int = 50, distance: float | None = None, vectors: np.ndarray | None = None,
) -> Dataset:  # fmt: skip
    """All crystals of one cluster in a descriptor space in one split: how well does a model extrapolate?

    k-means with `clusters` (Meredig et al. 2018 leave such clusters out), or, given a `distance`, the components of
    crystals that are connected by shorter steps: then no two splits come closer than `distance`. The space is a name
    of `grouping.SPACES` (of `structure`, distances are in free lengths a neighbor), or your own `vectors` (m, d).
    """
    if space not in grouping.SPACES:
        raise ValueError(f"split by cluster: space {space!r}; expected one of {', '.join(grouping.SPACES)}")
    if vectors is None:
        vectors = grouping.SPACES[space](entries(dataset))
    if np.shape(vectors)[:1] != (len(dataset),) or np.ndim(vectors) != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"split by cluster: expected finite vectors ({len(dataset)}, d), got {np.shape(vectors)}")
    if distance is not None and not distance > 0:
        raise ValueError(f"split by cluster: expected a distance above 0, got {distance}")
    found = grouping.components(vectors, distance) if distance else grouping.k_means(vectors, clusters, seed)
    largest = np.bincount(found).max() / len(found)
    if distance and largest > max(fractions.values()):
        share = f"the largest cluster holds {largest:.1%} of the crystals"
        raise ValueError(f"split by cluster: distance {distance}: {share}, more than any split; take a shorter one")
    made = grouped(dataset, found, seed=seed, fractions=fractions, kind="cluster")
    how = {"space": space} | ({"distance": distance} if distance else {"clusters": clusters})
    return _with(dataset, made.split, made.provenance["split"] | how)


def grouped(dataset: Dataset, labels, *, seed: int, fractions: Mapping[str, float], kind: str = "grouped") -> Dataset:
    """Whole groups (equal labels) go to one split each, so that the fractions of crystals come out as asked."""
    if len(labels) != len(dataset):
        raise ValueError(f"split {kind}: {len(labels)} labels for {len(dataset)} crystals")
    fractions = _checked(fractions)
    split = _assign(np.asarray(labels), seed, fractions)
    return _with(dataset, split, {"kind": kind, "seed": seed, "fractions": fractions})


def space_groups(dataset: Dataset, *, symprec_angstrom: float = 0.1) -> np.ndarray:
    """International number of each crystal's space group by spglib; NaN where none is found: (m,) float32."""
    found = [grouping.symmetry(row, symprec_angstrom=symprec_angstrom).number for row in entries(dataset)]
    return np.array([number or np.nan for number in found], np.float32)


def prototype(row: Entry, *, symprec_angstrom: float = 0.1) -> str:
    """Structure type as far as stoichiometry and symmetry tell: such as `ABC3_221_5`; 0 where no group is found."""
    return grouping.symmetry(row, symprec_angstrom=symprec_angstrom).prototype


def _assign(labels: np.ndarray, seed: int, fractions: Mapping[str, float]) -> np.ndarray:
    """A split for each label: groups in random order, each drawn in proportion to what the splits still lack.

    Large groups come first: they could not be fitted in at the end.
    """
    rng = np.random.default_rng(seed)
    names = np.array(list(fractions))
    _, group, size = np.unique(labels, return_inverse=True, return_counts=True)
    lacking = np.array(list(fractions.values())) * len(labels)
    order = rng.permutation(len(size))
    chosen = np.zeros(len(size), int)
    for g, draw in zip(order[np.argsort(-size[order], kind="stable")], rng.random(len(size))):
        room = np.where(lacking >= size[g], lacking, 0)
        weight = room if room.any() else (lacking == lacking.max()).astype(float)
        chosen[g] = np.searchsorted(np.cumsum(weight) / weight.sum(), draw, side="right")
        lacking[chosen[g]] -= size[g]
    return names[chosen[group]]


def _drawn(contains: np.ndarray, fraction: float, seed: int) -> list[int]:
    """Elements drawn at random until the crystals that contain one reach the fraction."""
    held: list[int] = []
    present = np.flatnonzero(contains.any(0))
    for column in np.random.default_rng(seed).permutation(present):
        if contains[:, [z - 1 for z in held]].any(1).mean() >= fraction:
            break
        if contains[:, [z - 1 for z in held] + [column]].any(1).mean() <= 2 * fraction:  # skips an oxygen
            held.append(int(column) + 1)
    return held


def _checked(fractions: Mapping[str, float]) -> dict[str, float]:
    if not fractions or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions: expected shares that are not negative and sum to 1, got {dict(fractions)}")
    return dict(fractions)


def _with(dataset: Dataset, split: np.ndarray, how: dict) -> Dataset:
    return replace(dataset, split=split, provenance=dataset.provenance | {"split": how})


SPLITS = {
    "given": given,
    "random": random,
    "composition": by_composition,
    "chemical-system": by_chemical_system,
    "element": by_element,
    "prototype": by_prototype,
    "space-group": by_space_group,
    "time": by_time,
    "cluster": by_cluster,
}
"""Kind -> function; all but `given` take `seed` and `fractions`."""
