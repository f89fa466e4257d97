"""Bonds of crystals whose coordination is in every textbook."""

from collections import Counter

import numpy as np
import pytest

from crysjax.chemistry.elements import NUMBERS, SYMBOLS
from crysjax.crystallography import bonds as bonding

HEX = np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, 1]])


def around(symbols, frac, lattice, shuffle=0):
    """Element -> its neighbors, of every site of it: "Na": {"Cl6"}."""
    numbers = np.array([NUMBERS[s] for s in symbols.split()])
    found = bonding.bonds(numbers, np.array(frac, float) + 7 * shuffle, np.array(lattice, float))
    out = {}
    for site, near in enumerate(bonding.neighbors(found)):
        held = Counter(SYMBOLS[numbers[j] - 1] for j, _, _ in near)
        out.setdefault(SYMBOLS[numbers[site] - 1], set()).add("".join(f"{s}{n}" for s, n in sorted(held.items())))
    return out


CUBE, FCC = np.eye(3), 0.5 * (1 - np.eye(3))
BODY = [[0, 0, 0], [0.5, 0.5, 0.5]]
QUARTER = [[0, 0, 0], [0.25, 0.25, 0.25]]
KNOWN = {
    "rock salt": ("Na Cl", BODY, 5.64 * FCC, {"Na": "Cl6", "Cl": "Na6"}),
    "lithium hydride": ("Li H", BODY, 4.08 * FCC, {"Li": "H6", "H": "Li6"}),
    "cesium chloride": ("Cs Cl", BODY, 4.12 * CUBE, {"Cs": "Cl8", "Cl": "Cs8"}),
    "zinc blende": ("Zn S", QUARTER, 5.41 * FCC, {"Zn": "S4", "S": "Zn4"}),
    "fluorite": ("Ca F F", [*QUARTER, [0.75] * 3], 5.46 * FCC, {"Ca": "F8", "F": "Ca4"}),
    "perovskite": ("Na Nb O O O", [*BODY, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], 3.94 * CUBE,
                   {"Na": "O12", "Nb": "O6", "O": "Na4Nb2"}),
    "barium peroxide": ("Ba O O", [[0, 0, 0], [0, 0, 0.3911], [0, 0, -0.3911]],
                        [[-1.905, 1.905, 3.425], [1.905, -1.905, 3.425], [1.905, 1.905, -3.425]], None),
    "lanthanum oxysulfide": ("La La O O S", [[1 / 3, 2 / 3, 0.2787], [2 / 3, 1 / 3, 0.7213], [1 / 3, 2 / 3, 0.63],
                                             [2 / 3, 1 / 3, 0.37], [0, 0, 0]], HEX * np.array([[4.05], [4.05], [6.94]]),
                             {"La": "O4S3", "O": "La4", "S": "La6"}),
    "magnesium diboride": ("Mg B B", [[0, 0, 0], [1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]],
                           HEX * np.array([[3.085], [3.085], [3.523]]), {"Mg": "B12", "B": "B3Mg6"}),
    "diamond": ("C C", QUARTER, 3.57 * FCC, {"C": "C4"}),
    "copper": ("Cu", [[0, 0, 0]], 3.61 * FCC, {"Cu": "Cu12"}),
    "iron": ("Fe Fe", BODY, 2.87 * CUBE, {"Fe": "Fe8"}),
    "argon": ("Ar", [[0, 0, 0]], 5.31 * FCC, {"Ar": ""}),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, case in KNOWN.items() if case[3]])
@pytest.mark.parametrize("shuffle", [0, 1])
def test_coordination(name, shuffle):
    symbols, frac, lattice, expected = KNOWN[name]
    assert around(symbols, frac, lattice, shuffle) == {k: {v} for k, v in expected.items()}


def test_a_peroxide_keeps_its_bond_between_oxygens():
    """In its body-centered cell the fractions of (0, 0, z) are (z, z, 0)."""
    symbols, frac, lattice, _ = KNOWN["barium peroxide"]
    z = np.array(frac)[:, 2]
    assert around(symbols, np.stack([z, z, 0 * z], 1), lattice) == {"Ba": {"O10"}, "O": {"Ba5O1"}}


def test_sulfur_is_a_cation_in_a_sulfate():
    """A sulfate ion beside calcium: sulfur has its four oxygens and no bond to the metal."""
    corners = 1.47 / np.sqrt(3) * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    frac = np.concatenate([[[0.5, 0.5, 0.5]], [[0, 0, 0]], corners / 5.2])
    found = around("Ca S O O O O", frac, 5.2 * CUBE)
    assert found["S"] == {"O4"} and all(near.endswith("S1") for near in found["O"])
    assert all(set(near) <= set("O0123456789") for near in found["Ca"])


def test_a_collapsed_cell_is_not_searched():
    found = bonding.bonds(np.array([11, 17]), np.array(BODY), np.diag([0.05, 0.05, 0.05]))
    assert not found.complete and not len(found.first)


def test_faces_of_solids():
    cube = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3) * 2.0
    assert sorted(map(len, bonding.faces(cube))) == [4] * 6
    assert [sorted(ring) for ring in bonding.faces(cube[:4] + 0)] == [[0, 1, 2, 3]]  # a square plane has one face
    ring = bonding.faces(cube[:4])[0]
    edges = np.linalg.norm(cube[ring] - cube[np.roll(ring, 1)], axis=1)
    np.testing.assert_allclose(edges, 2)  # around, not across
    assert bonding.faces(cube[:2]) == [] == bonding.faces(np.arange(9.0).reshape(3, 3))
