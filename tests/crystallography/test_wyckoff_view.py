"""The Wyckoff view: real structure types as orbits and back again, judged by spglib and StructureMatcher."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spglib
from pymatgen.core import Lattice, Structure

from crysjax.crystallography.equivalence import Tolerance, rms
from crysjax.crystallography.wyckoff_view import wyckoff_view
from crysjax.data import batching, datasets
from crysjax.data.datasets import Entry
from crysjax.data.readers.convert import to_structure
from crysjax.generators.wyckoff.wyckoff_sites import fill, kinds
from crysjax.geometry import symmetry

TIGHT = Tolerance(stol=0.05, angle_degree=0.5, ltol=0.01)
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# name: group, number of primitive sites, lattice (a, b, c, alpha, beta, gamma), elements, sites of the asymmetric unit
TYPES = {
    "CsCl": (221, 2, (4.12, 4.12, 4.12, 90, 90, 90), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "rock salt": (225, 2, (5.64, 5.64, 5.64, 90, 90, 90), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "perovskite": (221, 5, (3.9, 3.9, 3.9, 90, 90, 90), ["Sr", "Ti", "O"],
                   [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
    "wurtzite": (186, 4, (3.82, 3.82, 6.26, 90, 90, 120), ["Zn", "S"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.375]]),
    "rutile": (136, 6, (4.59, 4.59, 2.96, 90, 90, 90), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    "diamond": (227, 2, (5.43, 5.43, 5.43, 90, 90, 90), ["Si"], [[1 / 8, 1 / 8, 1 / 8]]),  # origin choice 2
    "zinc blende": (216, 2, (5.65, 5.65, 5.65, 90, 90, 90), ["Ga", "As"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "Bi2Te3": (166, 5, (4.38, 4.38, 30.5, 90, 90, 120), ["Bi", "Te", "Te"],
               [[0, 0, 0.4], [0, 0, 0], [0, 0, 0.212]]),
    "chalcopyrite": (122, 8, (5.29, 5.29, 10.42, 90, 90, 90), ["Cu", "Fe", "S"],
                     [[0, 0, 0], [0, 0, 0.5], [0.257, 0.25, 0.125]]),
    "GdFeO3": (62, 20, (5.6, 7.67, 5.35, 90, 90, 90), ["Gd", "Fe", "O", "O"],
               [[0.06, 0.25, 0.985], [0, 0, 0.5], [0.467, 0.25, 0.1], [0.3, 0.05, 0.7]]),
    "baddeleyite": (14, 12, (5.15, 5.21, 5.32, 90, 99.2, 90), ["Zr", "O", "O"],
                    [[0.275, 0.04, 0.208], [0.07, 0.33, 0.345], [0.45, 0.757, 0.479]]),
    "AlCl3": (12, 8, (5.91, 10.23, 6.15, 90, 108.2, 90), ["Al", "Cl", "Cl"],
              [[0, 0.167, 0], [0.226, 0, 0.219], [0.25, 0.179, 0.223]]),
    "P-1": (2, 5, (4.1, 5.3, 6.2, 81, 95, 103), ["Cu", "O", "F"], [[0, 0, 0], [0.21, 0.33, 0.14], [0.4, 0.77, 0.3]]),
    "P1": (1, 3, (4.3, 5.1, 6.2, 77, 84, 98), ["Li", "Ni", "O"], [[0, 0, 0], [0.21, 0.33, 0.44], [0.6, 0.77, 0.3]]),
    "quartz": (152, 9, (4.91, 4.91, 5.4, 90, 90, 120), ["Si", "O"], [[0.47, 0, 1 / 3], [0.415, 0.267, 0.785 + 1 / 3]]),
    # the one description of it has its axes in another order, by a threefold turn of them
    "layers": (47, 5, (3.1, 4.2, 5.3, 90, 90, 90), ["Li", "Mn", "O"], [[0.5, 0, 0.5], [0, 0, 0.21], [0.5, 0.5, 0.33]]),
    "pyrite": (205, 12, (5.42, 5.42, 5.42, 90, 90, 90), ["Fe", "S"], [[0, 0, 0], [0.385, 0.385, 0.385]]),
}  # fmt: skip


@lru_cache
def crystals() -> datasets.Dataset:
    """The types in primitive cells that nothing is aligned with: turned, shifted, another basis, sites shuffled."""
    rng, rows = np.random.default_rng(0), []
    for name, (group, sites, lattice, elements, asymmetric) in TYPES.items():
        if group == 227:  # pymatgen has this group in origin choice 1
            asymmetric = [[0, 0, 0]]
        whole = Structure.from_spacegroup(group, Lattice.from_parameters(*lattice), elements, asymmetric)
        one = whole.get_primitive_structure(tolerance=0.01)
        assert len(one) == sites, (name, len(one))
        order, turn = rng.permutation(sites), np.linalg.qr(rng.normal(size=(3, 3)))[0]
        basis = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
        frac = one.frac_coords @ np.linalg.inv(basis) + rng.random(3)
        numbers = np.array(one.atomic_numbers)
        rows.append(
            Entry(name, numbers[order], frac[order], basis @ one.lattice.matrix @ turn * np.linalg.det(turn), {})
        )
    return datasets.from_entries(rows)


@lru_cache
def filled():
    """The view of the crystals, and what `fill` makes of it."""
    data = crystals()
    shape = batching.capacity(data.num_atoms, 10_000)
    batch = batching.pack_dataset(data, shape)
    assert len(batch.index) == 1
    used = np.where(batch.index[0] >= 0)[0]
    orbits = wyckoff_view(data)(batch.index[0][used], shape).orbits
    pack = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batch.pack)
    of_orbit = np.zeros_like(orbits.letter)
    for k, row in enumerate(datasets.entries(data)):  # kinds ascend with the atomic number
        of_orbit[k] = np.searchsorted(np.unique(row.numbers), orbits.number[k])
    make = jit(lambda orbits, kind, pack: fill(orbits, kind, kinds(pack, 20, 4), pack))
    out = make(jax.tree.map(jnp.asarray, orbits), jnp.asarray(of_orbit), pack)
    back = batching.scatter_rows(data, batch.index, jax.tree.map(lambda leaf: np.asarray(leaf)[None], out))
    return orbits, datasets.entries(back)


@pytest.mark.parametrize("name", TYPES)
def test_a_structure_comes_back_from_its_orbits(name):
    k = list(TYPES).index(name)
    orbits, back = filled()
    before, after = datasets.entries(crystals())[k], back[k]
    assert orbits.group[k] == TYPES[name][0]
    t = symmetry.table()
    assert t.sites[orbits.group[k], orbits.letter[k]][orbits.number[k] > 0].sum() == TYPES[name][1]
    np.testing.assert_array_equal(after.numbers, before.numbers)
    assert abs(np.linalg.det(after.lattice)) == pytest.approx(abs(np.linalg.det(before.lattice)), rel=1e-4)
    assert rms(to_structure(before), to_structure(after), TIGHT) < 1e-3
    found = spglib.get_symmetry_dataset((after.lattice.astype(float), after.frac, after.numbers), 1e-3)
    assert found.number == TYPES[name][0]


def test_the_view_does_not_depend_on_basis_origin_or_order():
    orbits, back = filled()
    again = wyckoff_view(datasets.from_entries(back))(
        np.arange(len(back)), batching.Capacity(1, 1, len(back) + 1)
    ).orbits
    np.testing.assert_array_equal(again.group[:-1], orbits.group[: len(back)])
    assert again.group[-1] == 0 and not again.number[-1].any()  # an unused slot
    np.testing.assert_allclose(again.lattice[:-1], orbits.lattice[: len(back)], atol=2e-2)
    np.testing.assert_array_equal(again.letter[:-1], orbits.letter[: len(back)])
    np.testing.assert_array_equal(again.number[:-1], orbits.number[: len(back)])
    off = again.u[:-1] - orbits.u[: len(back)]
    assert np.abs(off - np.round(off)).max() < 2e-3


def test_what_cannot_be_described_is_left_out():
    """A cell that is not primitive, and a crystal with more orbits than there is room for."""
    double = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    numbers = np.array(double.atomic_numbers)
    data = datasets.from_entries([Entry("conventional", numbers, double.frac_coords, double.lattice.matrix, {})])
    assert wyckoff_view(data)(np.arange(1), batching.Capacity(8, 28, 1)).orbits.group[0] == 0
    row = np.array([list(TYPES).index("P1")])
    assert wyckoff_view(crystals(), max_orbits=2)(row, batching.Capacity(3, 3, 1)).orbits.group[0] == 0


def test_a_strained_crystal_gets_the_group_within_the_tolerance():
    """Sites 0.03 Å off a perovskite's: the view is the perovskite, with nothing of the noise left in it."""
    row = datasets.entries(crystals())[list(TYPES).index("perovskite")]
    noise = np.random.default_rng(1).uniform(-0.03, 0.03, (5, 3)) @ np.linalg.inv(row.lattice)
    noisy = datasets.from_entries([row._replace(frac=row.frac + noise)])
    loose, strict = (
        wyckoff_view(noisy, tolerance_angstrom=t)(np.arange(1), batching.Capacity(5, 10, 1)).orbits for t in (0.1, 1e-3)
    )
    assert loose.group[0] == 221 and strict.group[0] == 1
    assert not loose.u[0].any()
