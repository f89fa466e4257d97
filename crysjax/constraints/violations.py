"""What crystals break of their constraints, counted on the host: by other means than those that keep them."""

from __future__ import annotations

import numpy as np

from crysjax.chemistry.element_properties import G_CM3_PER_AMU_ANGSTROM3, masses_amu
from crysjax.constraints.constraint import Fixed
from crysjax.constraints.constraints import Constraints, counts, in_range, permitted_elements, too_close
from crysjax.constraints.feasible import neutral
from crysjax.crystallography.operations import has_group
from crysjax.data.datasets import Dataset, Entry, entries


def violations(
    wanted: Constraints, crystals: Dataset, *, group_tolerance_angstrom: float = 0.01
) -> dict[str, np.ndarray]:
    """Which crystals break which part of the constraints, counted on the host: name -> (m,) bool."""
    rows = entries(crystals)
    permitted = set(permitted_elements(wanted._replace(states=None), None))
    tests = {
        "elements": lambda e: not set(e.numbers.tolist()) <= permitted,
        "formula": lambda e: bool(wanted.formula) and not _of_formula(wanted.formula, e.numbers),
        "required": lambda e: not set(wanted.required) <= set(e.numbers.tolist()),
        "num_elements": lambda e: not in_range(len(set(e.numbers.tolist())), wanted.num_elements),
        "neutral": lambda e: wanted.states is not None and not neutral(
            counts(e.numbers), wanted.states, mixed_valence=bool(wanted.formula)
        ),
        "fixed": lambda e: wanted.fixed is not None and not _holds(wanted.fixed, e),
        "min_distance": lambda e: too_close(e.frac, e.lattice, wanted.min_distance_angstrom),
        "space_group": lambda e: not in_groups(e, wanted.space_groups, group_tolerance_angstrom),
        "density": lambda e: not in_range(_density(e), wanted.density_g_cm3),
    }  # fmt: skip
    return {name: np.array([test(row) for row in rows], bool) for name, test in tests.items()}


def in_groups(entry: Entry, groups: tuple[int, ...], tolerance_angstrom: float = 0.01) -> bool:
    """Whether a crystal has the operations of one of the groups; () are all."""
    return not groups or any(has_group(entry, g, tolerance_angstrom=tolerance_angstrom) for g in groups)


def _density(entry: Entry) -> float:
    """g/cm³; NaN, which is in no range, for what is not finite."""
    mass, volume = masses_amu()[entry.numbers.astype(int) - 1].sum(), abs(np.linalg.det(entry.lattice.astype(float)))
    return float(G_CM3_PER_AMU_ANGSTROM3 * mass / volume) if volume else np.nan


def _of_formula(formula: dict[int, int], numbers: np.ndarray) -> bool:
    units, rest = divmod(len(numbers), sum(formula.values()))
    return rest == 0 and counts(numbers) == {z: units * count for z, count in formula.items()}


def _holds(fixed: Fixed, entry: Entry) -> bool:
    k = len(fixed.numbers)
    atoms = np.array_equal(entry.numbers[:k], fixed.numbers) and np.array_equal(entry.frac[:k], fixed.frac)
    return bool(atoms and (fixed.lattice is None or np.array_equal(entry.lattice, fixed.lattice)))
