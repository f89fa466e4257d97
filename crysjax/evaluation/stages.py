"""The stages that generated crystals are judged in, one function per stage, each saying how it measured.

A stage takes a whole set and answers a `Verdict`: who passed, why the others did not, and the numbers behind it. The
ledger of a set is the running "and" of its verdicts in the order of `ORDER` (`passed_so_far`), so its counts can only
fall; each verdict by itself is what published tables call validity, uniqueness, novelty or stability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from crysjax.base import Estimate
from crysjax.chemistry.elements import formula
from crysjax.crystallography import contacts, matching
from crysjax.crystallography.contacts import MIN_CLOSENESS, TOO_CLOSE
from crysjax.crystallography.equivalence import CDVAE, Tolerance
from crysjax.data import reasons
from crysjax.data.datasets import Dataset, entries, take
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.evaluation import stability
from crysjax.evaluation.metrics import distributions
from crysjax.evaluation.validity import validity
from crysjax.geometry.selling import selling
from crysjax.geometry.soundness import LEAST_DISTANCE_ANGSTROM, LEAST_VOLUME_ANGSTROM3
from crysjax.physics.hull import hull

ORDER = ("valid", "unique", "novel", "stable", "target")
VOLUME_A3_PER_ATOM = (2.0, 250.0)  # every crystal of MP-20, Perov-5 and Carbon-24 lies inside
MAX_ASPECT = 60.0  # longest edge over the least distance of lattice planes; real cells and samples stay below 22
MAX_SITES = 500  # beyond, pairs of sites and fingerprints would take the memory and the hours of everything else
MIN_HEIGHT_ANGSTROM = 0.5  # between lattice planes: a flatter cell has a site closer than that to its own image

OUT_OF_RANGE = "volume per atom out of range"
SMACT_FAILS = "composition fails SMACT's charge and electronegativity test"


class Verdict(NamedTuple):
    """What one stage says of `m` crystals."""

    passed: np.ndarray  # (m,) bool
    reason: np.ndarray  # (m,) str, "" where passed
    columns: dict[str, np.ndarray]  # further numbers, (m,) each; names carry units
    level: str  # how it was measured: method, tolerances, data
    asked: np.ndarray  # (m,) bool: which crystals the stage looked at; the others neither passed nor failed

    @property
    def code(self) -> np.ndarray:
        """The codes of the reasons, see `data.reasons`: (m,) str, "" where passed."""
        return reasons.codes(self.reason)


def verdict(
    passed: np.ndarray, reason: Sequence[str], level: str, columns: Mapping[str, np.ndarray] | None = None, asked=None
) -> Verdict:
    """A `Verdict` with the reasons of those that passed left out; everyone was `asked` unless it says otherwise."""
    passed = np.asarray(passed, bool)
    asked = np.ones_like(passed) if asked is None else np.asarray(asked, bool)
    said = np.where(passed | ~asked, "", np.asarray(reason, str))
    return Verdict(passed & asked, said, dict(columns or {}), level, asked)


def valid(samples: Dataset) -> Verdict:
    """Geometry and composition that can be: distances by the radii of each pair, SMACT's test, and sane cells.

    Cells are judged as reduced ones, so that no verdict depends on how a crystal is described. CDVAE's structural
    validity (0.5 Å for all pairs) is a column, for comparison with published tables.
    """
    found, cells = validity(samples), np.asarray(jax.jit(selling)(samples.lattice)[0], np.float64)
    volume = np.abs(np.linalg.det(samples.lattice.astype(np.float64)))
    per_atom, height = volume / samples.num_atoms, volume / _largest_face(cells)
    low, high = VOLUME_A3_PER_ATOM
    cell = {
        "no volume": volume >= LEAST_VOLUME_ANGSTROM3,
        OUT_OF_RANGE: (per_atom >= low) & (per_atom <= high),
        "flat cell": height >= MIN_HEIGHT_ANGSTROM,
        "needle of a cell": np.linalg.norm(cells, axis=-1).max(1) <= MAX_ASPECT * height,
        f"more than {MAX_SITES} sites": samples.num_atoms <= MAX_SITES,
    }
    contact, measured = _contacts(samples, np.all([*cell.values()], 0))
    apart = contacts.apart(contact)
    fused = [f"{TOO_CLOSE}: {contacts.said(contact, i)}" if m else "" for i, m in enumerate(measured & ~apart)]
    tests = cell | {TOO_CLOSE: apart, SMACT_FAILS: found["composition"]}
    reason = np.where(measured & ~apart, fused, _first_failure(tests))
    sizes = [f"{why}: {v:.3g} Å³; expected {low:g} to {high:g} Å³" for why, v in zip(reason, per_atom)]
    reason = np.where(reason == OUT_OF_RANGE, sizes, reason)
    columns = {
        "sane": measured & (contact.shortest_angstrom >= LEAST_DISTANCE_ANGSTROM),
        "apart": apart,
        "structure_valid": found["structure"],
        "composition_valid": found["composition"],
        "closest_angstrom": contact.distance_angstrom,
        "closeness": contact.closeness,
        "volume_a3_per_atom": per_atom,
        "density_g_cm3": distributions.densities(samples),
    }
    level = (
        f"no two atoms closer than {MIN_CLOSENESS:g} of the sum of their covalent radii; SMACT with the oxidation "
        f"states smact14; {low:g} to {high:g} Å³ per atom; lattice planes {MIN_HEIGHT_ANGSTROM} Å apart; edges up to "
        f"{MAX_ASPECT:g} times that distance; {MAX_SITES} sites"
    )
    return verdict(np.all([*tests.values()], 0), reason, level, columns)


def _contacts(samples: Dataset, whole: np.ndarray) -> tuple[contacts.Contact, np.ndarray]:
    """The closest atoms of the crystals whose cell is `whole` (m,), NaN for the others; and who was measured."""
    owner = np.repeat(np.arange(len(samples)), samples.num_atoms)
    strange = np.bincount(owner, ~np.isfinite(samples.frac).all(-1), len(samples))
    whole = whole & (strange == 0)
    index, count = np.flatnonzero(whole), len(samples)
    if not len(index):
        nothing, nobody = np.full(count, np.nan, np.float32), np.zeros(count, np.int32)
        return contacts.Contact(nothing, nothing, nobody, nobody, nothing), whole
    found = contacts.contacts(take(samples, index))
    return contacts.Contact(*(spread(leaf, index, count) for leaf in found)), whole


def _largest_face(lattice: np.ndarray) -> np.ndarray:
    """Area in Å² of the largest face of each cell: (m,)."""
    a, b, c = np.moveaxis(lattice.astype(np.float64), 1, 0)
    return np.max([np.linalg.norm(np.cross(x, y), axis=-1) for x, y in ((a, b), (b, c), (c, a))], 0)


def _first_failure(tests: Mapping[str, np.ndarray]) -> np.ndarray:
    """The name of the first test that each crystal fails: (m,)."""
    names = np.array([*tests])
    return names[np.argmin(np.stack([*tests.values()]), 0)]


def among(samples: Dataset, worth: np.ndarray, stage: Callable[[Dataset], Verdict]) -> Verdict:
    """A stage asked about the crystals that are `worth` it (m,) alone; the others were not asked."""
    index = np.flatnonzero(worth)
    if len(index) == len(samples):
        return stage(samples)
    if not len(index):
        nobody = np.zeros(len(samples), bool)
        return verdict(nobody, [""] * len(samples), "no crystal with a sane cell", {}, nobody)
    said = stage(take(samples, index))
    columns = {name: spread(values, index, len(samples)) for name, values in said.columns.items()}
    everyone = (spread(leaf, index, len(samples)) for leaf in (said.passed, said.reason, said.asked))
    passed, reason, asked = everyone
    return Verdict(passed, reason, columns, said.level, asked)


def spread(values: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Values of the rows `index` in a column of all; elsewhere False, "", NaN or -1."""
    empty = {"b": False, "U": "", "f": np.nan, "i": -1}[values.dtype.kind]
    column = np.full((count, *values.shape[1:]), empty, values.dtype)
    column[index] = values
    return column


def unique(samples: Dataset, *, tolerance: Tolerance = CDVAE, processes: int = 2) -> Verdict:
    """The first of each kind; every later crystal that equals it is a repetition."""
    first = matching.groups(samples, tolerance=tolerance, processes=processes)
    reason = [f"equals {samples.ids[i]}" for i in first]
    return verdict(first == np.arange(len(samples)), reason, said(tolerance))


def novel(
    samples: Dataset, known: Mapping[str, Dataset], *, tolerance: Tolerance = CDVAE, processes: int = 2
) -> Verdict:
    """Crystals that equal none of the known ones, and whether their composition is new."""
    new = {
        f"not_in_{name}": matching.novel(samples, data, tolerance=tolerance, processes=processes)
        for name, data in known.items()
    }
    formulas = {formula(row.numbers) for data in known.values() for row in entries(data)}
    columns = new | {"new_composition": np.array([formula(row.numbers) not in formulas for row in entries(samples)])}
    where = [
        ", ".join(name.removeprefix("not_in_") for name, ok in new.items() if not ok[i]) for i in range(len(samples))
    ]
    sets = ", ".join(f"{name} ({len(data)} crystals)" for name, data in known.items())
    reason = [f"equals a crystal of {place}" for place in where]
    return verdict(np.all([*new.values()], 0), reason, f"{said(tolerance)}; against {sets}", columns)


def stable(
    samples: Dataset, energy: np.ndarray, known: hull.Hull, *, level: hull.Level, measured: str,
    margin_ev_per_atom: float, std_ev_per_atom: float | None = None, failed: Sequence[str] | None = None,
) -> Verdict:  # fmt: skip
    """Crystals within a margin of the convex hull, by formation energies (m,) in eV/atom at a named level of theory.

    `failed` (m,) says why an energy is missing; a crystal that has neither was not asked about. Where the error
    `std_ev_per_atom` of the energies exceeds the margin, only crystals that are stable or not with a probability of
    `stability.SURE` get a verdict; the others are not asked and say "cannot tell", as do those that the hull cannot
    judge: without an entry of one of their elements, or without any compound of them. Far below the hull means that
    the hull has a hole or the energy is wrong: not believed.
    """
    counts = hull.compositions(samples)
    found = hull.stability(counts, energy, known, level=level)
    said = stability.told(found, counts, known, margin=margin_ev_per_atom, std=std_ev_per_atom)
    missing = np.full(len(samples), "") if failed is None else np.asarray(failed, str)
    reason = np.where(missing != "", missing, said.reason)
    columns = {FORMATION_ENERGY: np.asarray(energy, float), "e_above_hull_ev_per_atom": found.above}
    columns |= {"probability_stable": said.probability, "believed": said.believed} | stability.flags(found.above)
    error = np.nan if std_ev_per_atom is None else std_ev_per_atom
    columns["energy_std_ev_per_atom"] = np.full(len(samples), error)
    how = f"{measured}; at most {margin_ev_per_atom:g} eV/atom above the hull of {known.source}"
    if stability.cannot_tell(margin_ev_per_atom, std_ev_per_atom):
        how += f"; {stability.VAGUE}: passed means a probability of at least {stability.SURE:g}"
    answered = np.isfinite(energy) | (missing != "")
    asked = answered & (said.known | (missing != ""))
    given = verdict(said.stable, reason, how, columns, asked)
    return given._replace(reason=np.where(answered & ~asked, reason, given.reason))


def on_target(
    names: Sequence[str], found: Estimate, windows: Mapping[str, tuple[float, float]], *, measured: str
) -> Verdict:
    """Crystals of which every target property lies in its window. `found` holds (m, k) values of the `names`."""
    value, std, ok = (np.asarray(leaf) for leaf in found)
    columns = {f"predicted_{name}": value[:, k] for k, name in enumerate(names)}
    columns |= {f"predicted_{name}_std": std[:, k] for k, name in enumerate(names)}
    tests, chance = {}, np.ones(len(value))
    for name, (low, high) in windows.items():
        k = names.index(name)
        chance = chance * stability.within(value[:, k], std[:, k], low, high) * ok[:, k]
        tests[f"{name} outside {low:g} to {high:g}"] = ok[:, k] & (value[:, k] >= low) & (value[:, k] <= high)
    columns["probability_on_target"] = chance
    return verdict(np.all([*tests.values()], 0), _first_failure(tests), measured, columns)


def said(tolerance: Tolerance) -> str:
    """The tolerances in words."""
    return f"StructureMatcher stol {tolerance.stol}, angle {tolerance.angle_degree}°, ltol {tolerance.ltol}"


def passed_so_far(verdicts: Mapping[str, Verdict]) -> dict[str, np.ndarray]:
    """Stage -> who passed it and every stage before: (m,) bool."""
    alive, found = None, {}
    for name in ORDER:
        if name in verdicts:
            alive = verdicts[name].passed if alive is None else alive & verdicts[name].passed
            found[name] = alive
    return found
