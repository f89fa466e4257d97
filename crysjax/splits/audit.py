"""What leaks between the splits of a data set, found without being told where to look.

For every pair of splits (train -> test: what does a model that saw train already know of test?):

* the same id, the same or nearly the same structure (`audit_repeats`), the same reduced formula;
* of the rows whose formula is known, a sample is compared with StructureMatcher to the most similar known structure:
  *near duplicates* match it as it is, *twins* match it after a permutation of equally frequent species (the two
  cations of a perovskite exchanged, say), and the rest are other structures of that composition;
* the shares of rows whose chemical system, prototype, or space group with Wyckoff sequence is known;
* rows of train that are later than the first row of test.

And of the whole: repeats within a split, repeated ids, columns that were scaled on more than train, columns that are
one another (`audit_columns`). `audit_findings` says what each means for a result.

A random split of a data set of twins rewards memory: on Perov-5 the look-up of the twin beats learned models.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import NamedTuple

import numpy as np

from crysjax.chemistry.elements import SYMBOLS, counts, formula
from crysjax.crystallography import grouping
from crysjax.crystallography.equivalence import CDVAE, reduced, rms
from crysjax.crystallography.fingerprints import fingerprint
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.splits import audit_columns as columns
from crysjax.splits import audit_repeats as repeats
from crysjax.splits.audit_findings import findings
from crysjax.splits.audit_repeats import SAME, KnownRows

SYMPREC_ANGSTROM = 0.1  # of the space groups, as in `splits`
_PROPOSALS = 3
_ORDER = ("train", "val", "test")


class Conclusion(NamedTuple):
    """What the most similar known structure is to a row."""

    kind: str  # "duplicate", "twin" or "other"
    exchanged: tuple[int, ...]  # atomic numbers that a twin exchanges
    id: str
    known: str  # id of the known structure
    rms: float  # of the match, in free lengths; NaN for "other"


def audit(
    dataset: Dataset, *, limit: int = 300, seed: int = 0, time: str | None = None, symmetry_rows: int = 2000,
    processes: int = 2,
) -> dict:  # fmt: skip
    """The report: counts a split, for each pair of splits what of the second is known from the first, and findings.

    At most `limit` rows per pair (drawn with `seed`) go through StructureMatcher, and the symmetry of at most
    `symmetry_rows` rows a split is looked for: what is known of those is then a lower bound. The rest is exact. `time`
    names the property that says when (by default what is called so). More than 2,000 symmetries are spread over
    `processes`, which are started with "spawn".
    """
    rows, when = entries(dataset), columns.time_columns(dataset, time)
    splits = np.where(dataset.split == "", "(none)", dataset.split)
    names = sorted(set(splits.tolist()), key=lambda s: (_ORDER.index(s) if s in _ORDER else len(_ORDER), s))
    by_split = {name: [rows[i] for i in np.flatnonzero(splits == name)] for name in names}
    report = {"crystals": len(dataset), "splits": {name: len(by_split[name]) for name in names}}
    inside = {name: _within(by_split[name], limit, seed) for name in names}
    report |= {"within": inside, "repeated_within": {name: found["exact_duplicates"] for name, found in inside.items()}}
    labels = _families(rows, _drawn(splits, symmetry_rows, seed), processes)
    report["pairs"] = {}
    for a, b in itertools.combinations(names, 2):
        found = compare(by_split[a], by_split[b], limit=limit, seed=seed)
        found["families"] = {kind: _overlap(label[splits == a], label[splits == b]) for kind, label in labels.items()}
        found["time"] = columns.time_leakage(dataset, a, b, when)
        report["pairs"][f"{a} -> {b}"] = found
    report |= {"ids": columns.repeated_ids(dataset), "preprocessing": columns.preprocessing(dataset),
               "declared": columns.declared(dataset.provenance), "labels": columns.label_leakage(dataset),
               "placeholders": columns.placeholder_values(dataset),
               "properties": sorted(dataset.properties), "time_columns": when, "symmetry_rows": symmetry_rows,
               "limit": limit, "seed": seed, "provenance": dataset.provenance}  # fmt: skip
    return report | {"findings": findings(report)}


def _within(rows: list[Entry], limit: int, seed: int) -> dict:
    index = {name: repeats.known(same) for name, same in repeats.by_formula(rows).items() if len(same) > 1}
    return repeats.within(index, limit=max(limit // 3, 1), seed=seed)


def _drawn(splits: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Rows whose symmetry is looked for: all of a split, or `most` of it."""
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(np.flatnonzero(splits == name))[:most] for name in np.unique(splits)]
    return np.sort(np.concatenate(parts))


def _families(rows: list[Entry], drawn: np.ndarray, processes: int) -> dict[str, np.ndarray]:
    """Labels of every row: None where it was not looked for, "" where it belongs to no family."""
    labels = {"chemical_system": np.array([grouping.chemical_system(row.numbers) for row in rows], object)}
    if len(drawn):
        some = [rows[i] for i in drawn]
        found = grouping.symmetries(some, symprec_angstrom=SYMPREC_ANGSTROM, processes=processes)
        for kind, name in (("prototype", "prototype"), ("wyckoff_sequence", "wyckoff")):
            labels[kind] = np.full(len(rows), None, object)
            labels[kind][drawn] = [getattr(s, name) if s.number else "" for s in found]
    return labels


def _overlap(reference: np.ndarray, target: np.ndarray) -> dict:
    """How many target rows belong to a family of the reference, and the largest such families: (name, rows, rows).

    Where rows were drawn on either side, `rows` is scaled to the whole target and a lower bound (`drawn`).
    """
    before, after = (Counter(label for label in part.tolist() if label is not None) for part in (reference, target))
    shared = {label: count for label, count in after.items() if label and label in before}
    largest = sorted(shared, key=lambda label: (-shared[label], label))[:3]
    looked = [before.total(), after.total()]
    return {
        "rows": round(sum(shared.values()) * len(target) / max(looked[1], 1)),
        "drawn": looked if looked != [len(reference), len(target)] else None,
        "families": len(after),
        "shared_families": len(shared),
        "largest": [[label, before[label], after[label]] for label in largest],
    }


def compare(reference: list[Entry], target: list[Entry], *, limit: int, seed: int) -> dict:
    """What of `target` is known from `reference`."""
    index, ids = repeats.by_formula(reference), {row.id for row in reference}
    shared = [row for row in target if formula(row.numbers) in index]
    known = {name: repeats.known(index[name]) for name in {formula(row.numbers) for row in shared}}
    chosen = np.random.default_rng(seed).permutation(len(shared))[:limit]
    verdicts = [classify(shared[i], known[formula(shared[i].numbers)]) for i in chosen]
    return {
        "rows": len(target),
        "same_id": sum(row.id in ids for row in target),
        "same_composition": len(shared),
        **repeats.across(shared, known, limit=max(limit // 3, 1), seed=seed),
        "checked": len(verdicts),
        **_summary(verdicts),
    }


def classify(row: Entry, known: KnownRows) -> Conclusion:
    """Whether the row repeats the most similar known structure, as it is or after an exchange of species.

    The fingerprint proposes the known structure and the few likeliest exchanges; StructureMatcher decides.
    """
    blocks = fingerprint(row)
    _, nearest = known.tree.query(blocks.reshape(-1), p=np.inf)
    as_it_is = rms(reduced(known.rows[nearest]), reduced(row), SAME)
    proposals = sorted(_proposals(row, blocks, known), key=lambda proposal: proposal[0])
    two = [proposal for proposal in proposals if sum(a != b for a, b in proposal[2].items()) == 2][:_PROPOSALS]
    proposals = two + [proposal for proposal in proposals if proposal not in two][:1]
    matches = [(rms(reduced(known.rows[i]), reduced(_exchanged(row, m)), CDVAE), m, i) for _, i, m in proposals]
    matched = [match for match in matches if not np.isnan(match[0])]
    value, mapping, twin = min(matched, default=(np.inf, {}, nearest), key=lambda match: match[0])
    if value < np.nan_to_num(as_it_is, nan=np.inf):
        exchanged = tuple(sorted(z for z, other in mapping.items() if z != other))
        return Conclusion("twin", exchanged, row.id, known.rows[twin].id, value)
    return Conclusion("other" if np.isnan(as_it_is) else "duplicate", (), row.id, known.rows[nearest].id, as_it_is)


def _proposals(row: Entry, blocks: np.ndarray, known: KnownRows) -> list[tuple[float, int, dict[int, int]]]:
    """(distance, nearest known structure, exchange) of every exchange; exchanging species reorders the blocks."""
    species = np.unique(row.numbers).tolist()
    found = []
    for mapping in permutations(row):
        order = [species.index(mapping[z]) for z in species]
        distance, nearest = known.tree.query(blocks[np.argsort(order)].reshape(-1), p=np.inf)
        found.append((float(distance), int(nearest), mapping))
    return found


def permutations(row: Entry) -> list[dict[int, int]]:
    """Every exchange of species of equal count, except the one that changes nothing."""
    amount = counts(row.numbers)
    classes = [[z for z, c in amount.items() if c == count] for count in sorted(set(amount.values()))]
    products = itertools.product(*(itertools.permutations(members) for members in classes))
    flat = list(itertools.chain(*classes))
    mappings = [dict(zip(flat, itertools.chain(*product))) for product in products]
    return [mapping for mapping in mappings if any(a != b for a, b in mapping.items())]


def _summary(verdicts: list[Conclusion]) -> dict:
    """Shares of the compared rows, which species twins exchange, and the closest twins."""
    kind, twins = Counter(v.kind for v in verdicts), [v for v in verdicts if v.kind == "twin"]
    named = Counter("-".join(SYMBOLS[z - 1] for z in v.exchanged) for v in twins)
    closest = sorted(twins, key=lambda v: v.rms)[:5]
    return {
        "duplicates": kind["duplicate"] / max(len(verdicts), 1),
        "twins": kind["twin"] / max(len(verdicts), 1),
        "two_cations": sum(_are_cations(v.exchanged) for v in twins) / max(len(twins), 1),
        "swapped": dict(named.most_common(5)),
        "closest_twins": [{"id": v.id, "known": v.known, "rms": v.rms,
                           "exchanged": "-".join(SYMBOLS[z - 1] for z in v.exchanged)} for v in closest],
    }  # fmt: skip


def _are_cations(swap: tuple[int, ...]) -> bool:
    """Two exchanged species, both less electronegative than carbon (2.55), which counts metals and semimetals."""
    from pymatgen.core import Element

    return len(swap) == 2 and all(Element.from_Z(z).X < 2.55 for z in swap)


def _exchanged(row: Entry, mapping: dict[int, int]) -> Entry:
    return row._replace(numbers=np.array([mapping[z] for z in row.numbers.tolist()], row.numbers.dtype))
