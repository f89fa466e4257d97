"""Structure types and Pearson symbols of textbook structures, whatever cell they come in."""

import numpy as np
import pytest

from crysjax.chemistry.elements import NUMBERS
from crysjax.crystallography.standard_cells import conventional
from crysjax.crystallography.structure_types import TYPES, pearson, type_name
from crysjax.data.datasets import Entry

CUBE, FCC = np.eye(3), 0.5 * (1 - np.eye(3))
HEX = np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, 1.6]])
BODY, QUARTER, FACES = [0.5] * 3, [0.25] * 3, [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
CUPRITE = [[0, 0, 0], BODY, QUARTER, [0.75, 0.75, 0.25], [0.75, 0.25, 0.75], [0.25, 0.75, 0.75]]
KNOWN = {
    "Cu": (FCC, [[0, 0, 0]], "copper (fcc)", "cF4"),
    "Fe Fe": (CUBE, [[0, 0, 0], BODY], "tungsten (bcc)", "cI2"),
    "Mg Mg": (HEX, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], "magnesium (hcp, by its symmetry)", "hP2"),
    "C C": (FCC, [[0, 0, 0], QUARTER], "diamond", "cF8"),
    "Na Cl": (FCC, [[0, 0, 0], BODY], "rock salt", "cF8"),
    "Cs Cl": (CUBE, [[0, 0, 0], BODY], "cesium chloride", "cP2"),
    "Zn S": (FCC, [[0, 0, 0], QUARTER], "zinc blende", "cF8"),
    "Ca F F": (FCC, [[0, 0, 0], QUARTER, [0.75] * 3], "fluorite", "cF12"),
    "Sr Ti O O O": (CUBE, [[0, 0, 0], BODY, *FACES], "cubic perovskite", "cP5"),
    "Re O O O": (CUBE, [[0, 0, 0], *(1 - np.array(FACES) - 0.5)], "rhenium trioxide", "cP4"),
    "Au Cu Cu Cu": (CUBE, [[0, 0, 0], *FACES], "Cu3Au", "cP4"),
    "O O Cu Cu Cu Cu": (CUBE, CUPRITE, "cuprite", "cP6"),
    "Al Mn Cu Cu": (FCC, [[0, 0, 0], BODY, QUARTER, [0.75] * 3], "Heusler (full)", "cF16"),
    "Mg Ag As": (FCC, [[0, 0, 0], BODY, QUARTER], "Heusler (half)", "cF12"),
}


@pytest.mark.parametrize("elements", KNOWN)
@pytest.mark.parametrize("origin", [0.0, 0.37])
def test_known_types(elements, origin):
    lattice, frac, name, symbol = KNOWN[elements]
    numbers = np.array([NUMBERS[s] for s in elements.split()])
    cell = conventional(
        Entry("", numbers, np.array(frac, float) + origin, 4.5 * np.array(lattice), {}), tolerance_angstrom=0.01
    )
    assert (type_name(cell), pearson(cell)) == (name, symbol)


def test_what_has_a_free_coordinate_has_no_name():
    rutile = np.array([[0, 0, 0], [0.5] * 3, [0.3, 0.3, 0], [0.7, 0.7, 0], [0.2, 0.8, 0.5], [0.8, 0.2, 0.5]])
    cell = conventional(
        Entry("", np.array([22, 22, 8, 8, 8, 8]), rutile, np.diag([4.6, 4.6, 2.95]), {}), tolerance_angstrom=0.01
    )
    assert (type_name(cell), pearson(cell), cell.number) == ("", "tP6", 136)


def test_every_type_is_written_once():
    assert all(letters == " ".join(sorted(letters.split())) for _, letters in TYPES)
