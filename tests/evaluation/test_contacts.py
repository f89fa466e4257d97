"""Atoms that are too close by the radii of their pair: real crystals pass, fused ones are named."""

import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.crystallography import contacts
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.data.readers.io import read
from crysjax.evaluation import gates, stages

ROCK_SALT = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], float)


def perovskite(a_site=3, b_site=22, at=(0.5, 0.5, 0.5)):
    """ABO3 in a cube of 3.9 Å, the A atom at a place of its own."""
    frac = np.array([at, [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]], float)
    return Entry("abo3", np.array([a_site, b_site, 8, 8, 8]), frac, 3.9 * np.eye(3), {})


def fused():
    """Li 1.26 Å from Ti, on a diagonal away from oxygen."""
    return perovskite(at=1.26 / 3.9 / np.sqrt(3) * np.ones(3))


@pytest.mark.parametrize("part", ["val", "test"])
def test_real_crystals_are_apart(data_dir, part):
    found = contacts.contacts(read(data_dir / "mp_20" / part))
    assert contacts.apart(found).mean() >= 0.999  # 99.94 % and 99.98 %


def test_lithium_inside_titanium_is_named():
    crystals = datasets.from_entries([perovskite(), fused()])
    said = stages.valid(crystals)
    assert said.passed.tolist() == [True, False]
    assert said.reason[1] == "sites too close: Li-Ti 1.26 Å; expected at least 1.93 Å"
    assert said.columns["structure_valid"].all()  # CDVAE's 0.5 Å sees nothing
    gated = gates.of_dataset(gates.gates(max_atoms=8), crystals)
    assert gated.passed.tolist() == [True, False]
    assert gates.why(gated, [0, 1]) == ["", said.reason[1]]


def test_what_bonds_really_have_is_allowed():
    """H2, O2, N2, CO, a hydrogen bond's O-H, V=O, U-O of uranyl, Cs metal, Na-Cl: real distances in Å."""
    pairs = {(1, 1): 0.74, (8, 8): 1.21, (7, 7): 1.10, (6, 8): 1.13, (1, 8): 0.95, (8, 23): 1.58, (8, 92): 1.77,
             (55, 55): 5.2, (11, 17): 2.76}  # fmt: skip
    for (a, b), distance in pairs.items():
        pair = Entry("x", np.array([a, b]), np.array([[0, 0, 0], [distance / 12, 0, 0]]), 12.0 * np.eye(3), {})
        found = contacts.contacts(datasets.from_entries([pair]))
        assert contacts.apart(found)[0] and (found.first[0], found.second[0]) == (a, b)


def test_elements_without_a_radius_have_one():
    radii = contacts.radii_angstrom()
    assert (radii > 0.25).all() and radii[90] == pytest.approx(2.00)  # Pa has one
    np.testing.assert_allclose(radii[96:], 1.69)  # from Bk on: curium's


def test_an_atom_too_close_to_its_own_image_is_found():
    thin = Entry("thin", np.array([26]), np.zeros((1, 3)), np.diag([1.2, 6.0, 6.0]), {})
    said = stages.valid(datasets.from_entries([thin]))
    assert said.reason[0].startswith("sites too close: Fe-Fe 1.20 Å")


def test_descriptions_of_a_crystal_do_not_change_its_closest_contact(described_anew):
    for entry in (perovskite(), fused(), Entry("ni", np.full(4, 28), ROCK_SALT, 3.52 * np.eye(3), {})):
        alike = datasets.from_entries(described_anew(entry))
        found = contacts.contacts(alike)
        np.testing.assert_allclose(found.closeness, found.closeness[0], rtol=2e-5)
        assert len(set(contacts.apart(found).tolist())) == 1
        said = stages.valid(alike)
        assert len(set(said.passed.tolist())) == 1 and len(set(said.reason.tolist())) == 1


def test_broken_crystals_do_not_pass():
    contact = contacts.Contact(*(jnp.array([np.nan, 1.0]) for _ in range(5)))
    assert contacts.apart(contact).tolist() == [False, True]
