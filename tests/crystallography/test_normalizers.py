"""The normalizers: every motion maps its group onto itself, and the view of a crystal does not change under any."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crysjax.crystallography.normalizers import normalizer
from crysjax.crystallography.wyckoff_view import wyckoff_view
from crysjax.data import batching, datasets
from crysjax.data.readers.convert import entry_of_structure
from crysjax.geometry.symmetry import table

# International Tables A, table 3.5.2.3 to 3.5.2.5: index of the group in the part of its normalizer that consists of
# rotations and discrete translations. Fm-3m and Pm-3m: a shift of half a cell; F-43m: a quarter, and the fourfold axis;
# Pnma: half a cell along each axis; Pmmm: the same, and every order of the axes; R-3m: half a cell along c
INDEX = {225: 2, 221: 2, 227: 2, 216: 8, 62: 8, 47: 48, 166: 2, 2: 8, 14: 8, 123: 4}


@pytest.mark.parametrize("group", INDEX)
def test_the_index_is_that_of_the_international_tables(group):
    assert len(normalizer(group).rotations) == INDEX[group]


def test_the_origin_is_free_along_the_polar_axes():
    polar = {1: "111", 3: "010", 6: "101", 8: "101", 25: "001", 43: "001", 99: "001", 160: "001", 186: "001", 16: "000"}
    assert {g: "".join(str(int(p)) for p in normalizer(g).polar) for g in polar} == polar


@pytest.mark.parametrize("group", [1, 3, 16, 19, 36, 43, 62, 72, 92, 122, 152, 160, 166, 186, 198, 205, 216, 227])
def test_every_motion_maps_the_group_onto_itself(group):
    """By the sites of an orbit: those of the moved site are the moved sites."""
    t, normal, rng = table(), normalizer(group), np.random.default_rng(group)
    order, lattice = t.operations[group], t.centerings[group][: t.centering[group]]

    def orbit(x):
        sites = t.rotations[group][:order] @ x + t.translations[group][:order]
        return (sites[:, None] + lattice).reshape(-1, 3)

    for p, shift, letters in zip(normal.rotations, normal.translations, normal.letters):
        assert np.linalg.det(p) == pytest.approx(1)
        x = rng.random(3)
        off = (orbit(p @ x + shift)[:, None] - (orbit(x) @ p.T + shift)[None]) % 1.0
        assert (np.minimum(off, 1 - off).max(-1).min(0) < 1e-9).all()
        has = t.sites[group] > 0
        assert sorted(letters[has]) == np.flatnonzero(has).tolist()
        np.testing.assert_array_equal(t.sites[group][letters[has]], t.sites[group][has])


CRYSTALS = {
    "rock salt": (225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "perovskite": (221, Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
    "wurtzite": (186, Lattice.hexagonal(3.82, 6.26), ["Zn", "S"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.375]]),
    "zinc blende": (216, Lattice.cubic(5.65), ["Ga", "As"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "GdFeO3": (62, Lattice.orthorhombic(5.6, 7.67, 5.35), ["Gd", "Fe", "O", "O"],
               [[0.06, 0.25, 0.985], [0, 0, 0.5], [0.467, 0.25, 0.1], [0.3, 0.05, 0.7]]),
    "layers": (47, Lattice.orthorhombic(3.1, 4.2, 5.3), ["Li", "Mn", "O"],
               [[0.5, 0, 0.5], [0, 0, 0.21], [0.5, 0.5, 0.33]]),
    "chain": (4, Lattice.monoclinic(4.1, 5.2, 6.3, 101), ["Cu", "O"], [[0.1, 0.2, 0.3], [0.4, 0.55, 0.62]]),
}  # fmt: skip


@pytest.mark.parametrize("name", CRYSTALS)
def test_the_view_is_the_same_wherever_the_origin_is(name):
    group, lattice, elements, sites = CRYSTALS[name]
    structure, normal, rng = Structure.from_spacegroup(group, lattice, elements, sites), normalizer(group), np.random
    moved = []
    for p, shift in zip(normal.rotations, normal.translations):
        free = rng.default_rng(len(moved)).random(3) * normal.polar
        frac = structure.frac_coords @ p.T + shift + free
        turned = Structure(np.linalg.inv(p).T @ structure.lattice.matrix, structure.species, frac)
        moved.append(entry_of_structure(turned.get_primitive_structure(), name, {}))
    found = wyckoff_view(datasets.from_entries(moved))(np.arange(len(moved)), batching.Capacity(1, 1, len(moved)))
    assert (found.orbits.group == group).all()
    for leaf in (found.orbits.letter, found.orbits.number):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    np.testing.assert_allclose(found.orbits.lattice, found.orbits.lattice[:1].repeat(len(moved), 0), atol=1e-3)
    off = found.orbits.u - found.orbits.u[:1]
    assert np.abs(off - np.round(off)).max() < 1e-4
