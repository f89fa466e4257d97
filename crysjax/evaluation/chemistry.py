"""Signs that a chemist would stop at: oxidation states that are not common, and atoms with too few neighbors.

Both are flags, not verdicts: some real crystals have them, and how many is measured on real crystals beside.

Oxidation states: every atom takes one of the common states of its element (pymatgen's table), atoms of one element
need not take the same, and charges add up to zero with no cation at or above an anion in electronegativity. Where that
cannot be, the elements whose less common state would do are named. Only compounds with nitrogen or one of the anions
below are asked: elsewhere electrons are shared, and states mean little.

Coordination: neighbors of a cation are the anions (O, F, S, Cl, Se, Br, I) within `REACH` of the sum of the covalent
radii. Too few is fewer than all but `RARE` of the crystals of MP-20's training part have around that element, among
light or among heavy anions (`experiments/soundness` makes the table).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from crysjax.chemistry.elements import NUMBERS, SYMBOLS, counts
from crysjax.chemistry.oxidation import common_states
from crysjax.crystallography.contacts import radii_angstrom
from crysjax.data.datasets import Dataset, Entry, entries
from crysjax.evaluation.validity import oxidation_table
from crysjax.geometry.neighbors import crystal_edges

REACH = 1.25  # of the sum of the covalent radii: between the first and the second shell of oxides and halides
RARE = 0.05  # share of known crystals
FEWEST = 20  # known crystals with an element, below which nothing is said of it
LIGHT, HEAVY = frozenset({8, 9}), frozenset({16, 17, 34, 35, 53})  # O F; S Cl Se Br I
ANIONS = LIGHT | HEAVY
METALLOIDS = (5, 14, 32)  # B, Si, Ge: cations beside these anions
FOLD = {1: "onefold", 2: "twofold", 3: "threefold", 4: "fourfold", 5: "fivefold", 6: "sixfold"}

_ROMAN = ("0", "I", "II", "III", "IV", "V", "VI", "VII", "VIII")


def oxidation_flag(numbers: np.ndarray) -> str:
    """What is unusual about the charges of a composition: "Zr(II)", "no neutral assignment", or ""."""
    return _oxidation_flag(tuple(sorted(counts(numbers).items())))


@lru_cache(maxsize=1 << 16)
def _oxidation_flag(composition: tuple[tuple[int, int], ...]) -> str:
    table = oxidation_table()
    rows = [z - 1 for z, _ in composition]
    if len(rows) == 1 or not (ANIONS | {7}) & {z for z, _ in composition}:
        return ""
    common = {z: frozenset(common_states().get(z, ())) for z, _ in composition}
    if _balanced(composition, common):
        return ""
    found = []
    for z, _ in composition:
        states = set(table.states[z - 1][table.known[z - 1]].tolist()) - common[z]
        for state in sorted(states, key=lambda q: min((abs(q - c) for c in common[z]), default=0)):
            if _balanced(composition, common | {z: frozenset({state})}):
                found.append(_named(z, state))
                break
    return " or ".join(found) if found else "no neutral assignment"


def _named(z: int, state: int) -> str:
    return f"{SYMBOLS[z - 1]}({'-' if state < 0 else ''}{_ROMAN[abs(state)]})"


def _balanced(composition: Iterable[tuple[int, int]], states: dict[int, frozenset[int]]) -> bool:
    """Whether some choice of states, atom by atom, is neutral with anions above all cations in electronegativity."""
    scale = {z: float(oxidation_table().electronegativity[z - 1]) for z in states}
    if any(np.isnan(value) for value in scale.values()):
        return False
    return any(_neutral(composition, states, scale, cut) for cut in set(scale.values()))


def _neutral(composition, states: dict[int, frozenset[int]], scale: dict[int, float], cut: float) -> bool:
    reach = {0}
    for z, count in composition:
        allowed = [q for q in states[z] if (q >= 0 if scale[z] <= cut else q <= 0)]
        reach = {total + more for total in reach for more in _sums(tuple(sorted(allowed)), count)}
    return 0 in reach


@lru_cache(maxsize=1 << 16)
def _sums(states: tuple[int, ...], count: int) -> frozenset[int]:
    """Total charges of `count` atoms that each take one of these states."""
    found = {0}
    for _ in range(count):
        found = {total + q for total in found for q in states}
    return frozenset(found)


Place = tuple[int, str]
"""A cation's atomic number, and whether most of its neighbors are "light" anions (O, F) or "heavy" ones."""


def coordination(row: Entry) -> list[tuple[Place, int]]:
    """The place of each cation that touches an anion, and how many anions it touches."""
    numbers = np.asarray(row.numbers, int)
    if not ANIONS & set(numbers.tolist()):
        return []
    frac, lattice, radius = np.asarray(row.frac, float), np.asarray(row.lattice, float), radii_angstrom()[numbers - 1]
    pairs, shift = crystal_edges(frac, lattice, float(REACH * 2 * radius.max()))
    i, j = pairs.T
    away = np.linalg.norm((frac[j] - frac[i] + shift) @ lattice, axis=-1)
    bonded = away < REACH * (radius[i] + radius[j])
    light, heavy = (np.zeros(len(numbers), int) for _ in range(2))
    for count, kind in ((light, LIGHT), (heavy, HEAVY)):
        for site, other in ((i, j), (j, i)):
            np.add.at(count, site[bonded & np.isin(numbers[other], list(kind))], 1)
    cation = oxidation_table().metal[numbers - 1] | np.isin(numbers, METALLOIDS)
    rows = zip(numbers[cation].tolist(), light[cation].tolist(), heavy[cation].tolist())
    return [((z, "light" if a >= b else "heavy"), a + b) for z, a, b in rows if a + b]


@lru_cache(maxsize=1)
def least_neighbors() -> dict[Place, int]:
    """The smallest usual number of anions around a cation; places that are too rare to tell are left out."""
    table = json.loads(Path(__file__).with_name("coordination.json").read_text())["least_neighbors"]
    return {(NUMBERS[symbol], kind): least for kind, of in table.items() for symbol, least in of.items()}


def coordination_flag(row: Entry) -> str:
    """The cations with unusually few anions around them, such as "threefold Si", or ""."""
    least = least_neighbors()
    few = sorted({(place[0], n) for place, n in coordination(row) if n < least.get(place, 0)})
    return ", ".join(f"{FOLD.get(n, f'{n}-fold')} {SYMBOLS[z - 1]}" for z, n in few)


def table(rows: Iterable[Entry], *, rare: float = RARE, fewest: int = FEWEST) -> dict[str, dict[str, int]]:
    """`least_neighbors` of known crystals; each crystal counts once a place, shared among its sites."""
    weight: dict[Place, dict[int, float]] = {}
    for row in rows:
        found = coordination(row) if not oxidation_flag(row.numbers) else []  # ionic: all bonds are counted
        sites = Counter(place for place, _ in found)
        for place, n in found:
            of = weight.setdefault(place, {})
            of[n] = of.get(n, 0.0) + 1 / sites[place]
    enough = {place: of for place, of in sorted(weight.items()) if sum(of.values()) >= fewest - 1e-9}
    return {kind: {SYMBOLS[z - 1]: _least(of, rare) for (z, name), of in enough.items() if name == kind}
            for kind in ("light", "heavy")}  # fmt: skip


def _least(weight: dict[int, float], rare: float) -> int:
    """The smallest number of neighbors such that fewer occur in at most a share `rare`."""
    numbers = sorted(weight)
    below = np.cumsum([weight[n] for n in numbers])
    return numbers[int(np.argmax(below > rare * below[-1]))]


def flags(samples: Dataset, worth: np.ndarray) -> dict[str, np.ndarray]:
    """Both flags of each crystal (m,) str, "" where nothing is unusual; coordination of those `worth` it (m,)."""
    rows = entries(samples)
    few = [coordination_flag(row) if ok else "" for row, ok in zip(rows, worth)]
    return {
        "unusual_oxidation": np.array([oxidation_flag(row.numbers) for row in rows], str),
        "unusual_coordination": np.array(few, str),
    }
