"""What leaks between the splits of a data set, found without being told where to look.

For every pair of splits (train -> test: what does a model that saw train already know of test?):

* the same id, the same structure (equal fingerprint and density), the same reduced formula;
* of the rows whose formula is known, a sample is compared with StructureMatcher to the most similar known structure:
  *near duplicates* match it as it is, *twins* match it after a permutation of equally frequent species (the two
  cations of a perovskite exchanged, say), and the rest are other structures of that composition.

A random split of a data set of twins rewards memory: on Perov-5 the look-up of the twin beats learned models.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.data.elements import SYMBOLS, counts, formula
from crysjax.data.equivalence import CDVAE, Tolerance, reduced, rms
from crysjax.data.fingerprints import fingerprint

SAME = Tolerance(stol=0.3, angle_degree=5.0, ltol=0.2)  # pymatgen's defaults
_EQUAL = 1e-3  # of the free length, and of the volume: rounding of files, not another structure
_PROPOSALS = 3
_ORDER = ("train", "val", "test")


class Known(NamedTuple):
    """The structures of one formula in the reference split, searchable by fingerprint."""

    rows: list[Entry]
    tree: object  # scipy cKDTree of flattened fingerprints, maximum norm


def audit(dataset: Dataset, *, limit: int = 300, seed: int = 0) -> dict:
    """The report: counts a split, and for each pair of splits what of the second is known from the first.

    At most `limit` rows a pair (drawn with `seed`) go through StructureMatcher; everything else is exact.
    """
    by_split: dict[str, list[Entry]] = defaultdict(list)
    for row, split in zip(entries(dataset), dataset.split.tolist()):
        by_split[split or "(none)"].append(row)
    names = sorted(by_split, key=lambda s: (_ORDER.index(s) if s in _ORDER else len(_ORDER), s))
    index = {name: _by_formula(by_split[name]) for name in names}
    report = {"crystals": len(dataset), "splits": {name: len(by_split[name]) for name in names}}
    report["repeated_within"] = {name: _repeats(index[name]) for name in names}
    pairs = itertools.combinations(names, 2)
    report["pairs"] = {f"{a} -> {b}": compare(by_split[a], by_split[b], limit=limit, seed=seed) for a, b in pairs}
    return report


def compare(reference: list[Entry], target: list[Entry], *, limit: int, seed: int) -> dict:
    """What of `target` is known from `reference`."""
    index, ids = _by_formula(reference), {row.id for row in reference}
    shared = [row for row in target if formula(row.numbers) in index]
    known = {name: _known(index[name]) for name in {formula(row.numbers) for row in shared}}
    chosen = np.random.default_rng(seed).permutation(len(shared))[:limit]
    verdicts = [classify(shared[i], known[formula(shared[i].numbers)]) for i in chosen]
    return {
        "rows": len(target),
        "same_id": sum(row.id in ids for row in target),
        "same_composition": len(shared),
        "exact_duplicates": sum(_is_repeat(row, known[formula(row.numbers)]) for row in shared),
        "checked": len(verdicts),
        **_summary(verdicts),
    }


def classify(row: Entry, known: Known) -> tuple[str, tuple[int, ...]]:
    """`duplicate`, `twin` or `other`, and the atomic numbers that a twin exchanges.

    The fingerprint proposes the known structure and the few likeliest exchanges; StructureMatcher decides.
    """
    blocks = fingerprint(row)
    _, nearest = known.tree.query(blocks.reshape(-1), p=np.inf)
    as_it_is = rms(reduced(known.rows[nearest]), reduced(row), SAME)
    proposals = sorted(_proposals(row, blocks, known), key=lambda proposal: proposal[0])
    two = [proposal for proposal in proposals if sum(a != b for a, b in proposal[2].items()) == 2][:_PROPOSALS]
    proposals = two + [proposal for proposal in proposals if proposal not in two][:1]
    matches = [(rms(reduced(known.rows[i]), reduced(_exchanged(row, m)), CDVAE), m) for _, i, m in proposals]
    matched = [(value, mapping) for value, mapping in matches if not np.isnan(value)]
    value, mapping = min(matched, default=(np.inf, {}), key=lambda match: match[0])
    if value < np.nan_to_num(as_it_is, nan=np.inf):
        return "twin", tuple(sorted(z for z, other in mapping.items() if z != other))
    return ("other", ()) if np.isnan(as_it_is) else ("duplicate", ())


def _proposals(row: Entry, blocks: np.ndarray, known: Known) -> list[tuple[float, int, dict[int, int]]]:
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


def text(report: dict) -> str:
    """The report for people."""
    lines = [f"{report['crystals']} crystals: " + ", ".join(f"{k} {v}" for k, v in report["splits"].items())]
    for name, repeats in report["repeated_within"].items():
        lines += [f"{name}: {repeats} rows repeat an earlier row of the same split"] if repeats else []
    for pair, found in report["pairs"].items():
        lines += [f"{pair}: {found['rows']} rows", *(f"  {line}" for line in _pair_lines(*pair.split(" -> "), found))]
    return "\n".join(lines)


def _pair_lines(reference: str, target: str, found: dict) -> list[str]:
    rows, shared = max(found["rows"], 1), found["same_composition"]
    lines = [
        f"same id in {reference}: {found['same_id']} ({found['same_id'] / rows:.1%})",
        f"same structure in {reference} (exact duplicates): {found['exact_duplicates']}",
        f"composition twins: {shared / rows:.1%} of {target} compositions ({shared} rows) occur in {reference}",
    ]
    if found["checked"]:
        checked = f"of these ({found['checked']} compared)"
        pairs = ", ".join(f"{name} ({n})" for name, n in found["swapped"].items())
        lines += [
            f"  {found['twins']:.1%} {checked} differ by a permutation of species on the same sites",
            f"  {found['duplicates']:.1%} {checked} are near duplicates as they are",
        ]
        if found["twins"]:
            lines += [f"  exchanged in twins: {found['two_cations']:.1%} two cations; most often {pairs}"]
    return lines


def _summary(verdicts: list[tuple[str, tuple[int, ...]]]) -> dict:
    """Shares of the compared rows, and which species twins exchange."""
    if not verdicts:
        return {"duplicates": 0.0, "twins": 0.0, "two_cations": 0.0, "swapped": {}}
    kind, swaps = Counter(v for v, _ in verdicts), [s for v, s in verdicts if v == "twin"]
    named = Counter("-".join(SYMBOLS[z - 1] for z in swap) for swap in swaps)
    return {
        "duplicates": kind["duplicate"] / len(verdicts),
        "twins": kind["twin"] / len(verdicts),
        "two_cations": sum(map(_are_cations, swaps)) / max(len(swaps), 1),
        "swapped": dict(named.most_common(5)),
    }


def _are_cations(swap: tuple[int, ...]) -> bool:
    """Two exchanged species, both less electronegative than carbon (2.55), which counts metals and semimetals."""
    from pymatgen.core import Element

    return len(swap) == 2 and all(Element.from_Z(z).X < 2.55 for z in swap)


def _by_formula(rows: list[Entry]) -> dict[str, list[Entry]]:
    found = defaultdict(list)
    for row in rows:
        found[formula(row.numbers)].append(row)
    return found


def _known(rows: list[Entry]) -> Known:
    from scipy.spatial import cKDTree

    return Known(rows, cKDTree(np.stack([_flat(row) for row in rows])))


def _flat(row: Entry) -> np.ndarray:
    return fingerprint(row).reshape(-1)


def _is_repeat(row: Entry, known: Known) -> bool:
    """Whether one of the known rows is this very structure, up to rounding."""
    near = known.tree.query_ball_point(_flat(row), _EQUAL, p=np.inf)
    return any(abs(_volume(known.rows[i]) / _volume(row) - 1) < 3 * _EQUAL for i in near)


def _repeats(index: dict[str, list[Entry]]) -> int:
    """Rows that repeat an earlier row of their split."""
    total = 0
    for rows in index.values():
        if len(rows) > 1:
            known = _known(rows)
            later = {max(pair) for pair in known.tree.query_pairs(_EQUAL, p=np.inf) if _same_volume(known.rows, *pair)}
            total += len(later)
    return total


def _same_volume(rows: list[Entry], i: int, j: int) -> bool:
    return abs(_volume(rows[i]) / _volume(rows[j]) - 1) < 3 * _EQUAL


def _volume(row: Entry) -> float:
    """Å³ an atom."""
    return abs(np.linalg.det(np.asarray(row.lattice, float))) / len(row.numbers)


def _exchanged(row: Entry, mapping: dict[int, int]) -> Entry:
    return row._replace(numbers=np.array([mapping[z] for z in row.numbers.tolist()], row.numbers.dtype))
