"""Structures as they are drawn: which atoms, which bonds, which polyhedra, and the facts beside them."""

import json
from collections import Counter

import numpy as np
import pytest

from crysjax.chemistry.elements import NUMBERS
from crysjax.reports import structures

CENTERS = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
FCC = 0.5 * (1 - np.eye(3))  # the primitive cell, in units of the cubic edge


def made(symbols, frac, lattice):
    return structures.structure(np.array([NUMBERS[s] for s in symbols.split()]), np.array(frac, float), lattice)


ROCK_SALT = made("Na Cl", [[0, 0, 0], [0.5, 0.5, 0.5]], 5.64 * FCC)
PEROVSKITE = made("Sr Ti O O O", [[0, 0, 0], [0.5, 0.5, 0.5], *np.array(CENTERS[1:])], 3.905 * np.eye(3))
DIAMOND = made("C C", [[0, 0, 0], [0.25, 0.25, 0.25]], 3.57 * FCC)


def drawn(found):
    """Symbols and places in Å of the atoms, and the pairs of the bonds, as the page gets them."""
    packed = json.loads(structures.as_json([structures.scene(found)]))[0]
    atoms = np.array(packed["atoms"]).reshape(-1, 4)
    symbols = [packed["elements"][e][0] for e in atoms[:, 0]]
    return packed, symbols, atoms[:, 1:] / 100, np.array(packed["bonds"]).reshape(-1, 2)


def inside(found):
    packed, symbols, _, _ = drawn(found)
    return dict(Counter(symbols[: packed["inside"]]))


def test_atoms_on_faces_edges_and_corners_are_drawn_on_all_of_them():
    assert inside(ROCK_SALT) == {"Na": 8 + 6, "Cl": 12 + 1}
    assert inside(PEROVSKITE) == {"Sr": 8, "Ti": 1, "O": 6}
    assert inside(DIAMOND) == {"C": 8 + 6 + 4}  # though the second choice of origin puts no atom on a corner
    assert (ROCK_SALT.cell.symbol, PEROVSKITE.cell.number, DIAMOND.cell.number) == ("Fm-3m", 221, 227)


@pytest.mark.parametrize(
    ("found", "of", "count", "length"),
    [
        (ROCK_SALT, "Na", 6, 2.82),
        (ROCK_SALT, "Cl", 6, 2.82),
        (PEROVSKITE, "Ti", 6, 1.9525),
        (PEROVSKITE, "Sr", 12, 2.7613),
        (DIAMOND, "C", 4, 1.5459),
    ],
)
def test_every_atom_of_the_cell_has_all_of_its_bonds(found, of, count, length):
    """Those across the boundary of the cell too: each drawn atom has as many as in the crystal, of the right length."""
    packed, symbols, place, bonds = drawn(found)
    for k in range(packed["inside"]):
        own = bonds[(bonds == k).any(1)]
        if symbols[k] == of and of != "O":
            away = np.linalg.norm(place[own[:, 0]] - place[own[:, 1]], axis=1)
            assert (np.abs(away - length) < 0.02).sum() == count == len(own)
    assert (bonds[:, 0] < packed["inside"]).all() and (bonds[:, 0] < bonds[:, 1]).all()
    assert len(np.unique(bonds, axis=0)) == len(bonds)


def test_bonds_join_cations_to_anions_only():
    _, symbols, _, bonds = drawn(PEROVSKITE)
    assert {"".join(sorted((symbols[i], symbols[j]))) for i, j in bonds} == {"OTi", "OSr"}


def test_polyhedra_are_octahedra_and_cuboctahedra():
    packed, symbols, place, _ = drawn(PEROVSKITE)
    assert packed["kinds"] == {"Sr": "SrO12", "Ti": "TiO6"}
    solids = Counter((symbols[k], *sorted(map(len, rings))) for k, *rings in packed["polyhedra"])
    assert solids == {("Ti", *[3] * 8): 1, ("Sr", *[3] * 8, *[4] * 6): 8}
    for _, *rings in packed["polyhedra"]:
        for ring in rings:  # flat, and going round once: neighbors on the ring are an edge apart
            assert {symbols[c] for c in ring} == {"O"}
            edges = np.linalg.norm(place[ring] - place[np.roll(ring, 1)], axis=1)
            np.testing.assert_allclose(edges, 3.905 / np.sqrt(2), atol=0.02)
    assert [len(rings) for _, *rings in drawn(ROCK_SALT)[0]["polyhedra"]] == [8] * 14
    assert drawn(DIAMOND)[0]["polyhedra"] == [] == list(drawn(DIAMOND)[0]["kinds"])


def test_a_collapsed_cell_is_drawn_without_bonds_and_says_so():
    packed, symbols, *_ = drawn(made("Na Cl", [[0, 0, 0], [0.5, 0.5, 0.4]], 0.5 * np.eye(3)))
    assert packed["bonds"] == [] == packed["polyhedra"] and packed["note"] == structures.NO_BONDS
    assert {"Na", "Cl"} == set(symbols) and drawn(ROCK_SALT)[0]["note"] == ""


def test_facts_beside_the_drawing():
    """Rock salt: 4 NaCl of 58.44 u in 5.64³ Å³."""
    facts = structures.cell_facts(ROCK_SALT)
    assert facts["a, b, c"] == "5.640, 5.640, 5.640 Å" and facts["α, β, γ"] == "90.00, 90.00, 90.00°"
    assert (facts["structure type"], facts["Pearson symbol"]) == ("rock salt", "cF8")
    assert facts["volume"] == "179.41 Å³, 8 atoms"
    assert structures.density_g_cm3(ROCK_SALT) == pytest.approx(4 * 58.44277 * 1.66053907 / 5.64**3, rel=1e-5)
    assert {(s.symbol, s.wyckoff, s.around) for s in structures.sites(PEROVSKITE)} == {
        ("Sr", "1a", "12 O at 2.76 Å"), ("Ti", "1b", "6 O at 1.95 Å"), ("O", "3c", "2 Ti at 1.95 Å; 4 Sr at 2.76 Å"),
    }  # fmt: skip


def test_a_crystal_without_symmetry_is_drawn_in_its_reduced_cell():
    rng = np.random.default_rng(0)
    lattice = 4 * np.eye(3) + rng.random((3, 3))
    found = made("Na Cl O", rng.random((3, 3)), lattice)
    assert (found.cell.symbol, found.cell.number, len(found.cell.numbers)) == ("P1", 1, 3)
    assert np.linalg.det(found.cell.lattice) == pytest.approx(np.linalg.det(lattice), rel=1e-5)
    np.testing.assert_allclose(found.cell.lattice[[0, 0, 1], [1, 2, 2]], 0, atol=1e-9)  # a along x, b in the plane


@pytest.mark.parametrize("broken", ["nan", "flat"])
def test_what_is_no_crystal_is_not_drawn(broken):
    frac, lattice = np.zeros((1, 3)), np.eye(3)
    assert structures.drawable(np.array([1]), frac, lattice)
    if broken == "nan":
        frac[0] = np.nan
    else:
        lattice[2] = lattice[1]
    assert not structures.drawable(np.array([1]), frac, lattice)
