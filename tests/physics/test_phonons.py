"""Argon, whose dynamical matrix is a sum over pairs, and its unstable body-centered form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spglib

from crysjax.chemistry.element_properties import masses_amu
from crysjax.data.datasets import Entry
from crysjax.physics.phonons import driver as module
from crysjax.potentials.mlip import mlip
from crysjax.potentials.pair import pair_fade

REACH, EPSILON, SIGMA = 7.0, 0.0104, 3.4
ARGON = mlip(
    network="lennard_jones", numbers=(18,), epsilon_ev=EPSILON, sigma_angstrom=SIGMA, cutoff_angstrom=REACH
)  # that of tests/potentials/conftest.py
EDGE = 5.243195  # Å, of the face-centered cube at its minimum, see tests/potentials/test_relax.py
BCC_EDGE = 4.265652  # Å, of the body-centered one, relaxed with a largest cell force of 1e-3 eV/Å
FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
BCC = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2
ASKED = {"length_angstrom": 7.0, "mesh_per_angstrom": 0.1}


def entry(frac, lattice, number: int = 18) -> Entry:
    return Entry("argon", np.full(len(frac), number), np.array(frac, float), np.array(lattice, float), {})


@pytest.fixture(scope="module")
def params():
    return ARGON.init(jax.random.key(0))


@pytest.fixture(scope="module")
def cubic(params) -> module.Phonons:
    """From the cube of four atoms, turned."""
    corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    turn = np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1]])
    return module.phonons(ARGON, params, entry(corners, EDGE * turn), **ASKED)


def pair_sum(q_cartesian: np.ndarray) -> np.ndarray:
    """Frequencies in THz of the infinite lattice: D = Σ (1 - cos q·R) ∂∂φ(R) / m, by its definition."""

    def phi(r):
        length = jnp.sqrt((r**2).sum())
        sixth = (SIGMA / length) ** 6
        return 4 * EPSILON * (sixth**2 - sixth) * pair_fade(length / REACH)

    cells = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    far = cells @ (EDGE * FCC)
    far = far[(np.linalg.norm(far, axis=-1) < REACH) & (cells != 0).any(-1)]
    with jax.enable_x64(True):
        second = np.asarray(jax.jit(jax.vmap(jax.hessian(phi)))(jnp.asarray(far)))
    wave = 1 - np.cos(2 * np.pi * far @ q_cartesian)
    square = np.linalg.eigvalsh((wave[:, None, None] * second).sum(0) / masses_amu()[17])
    return np.sqrt(np.maximum(square, 0)) * module.vibrations.THZ


def shortest(q: np.ndarray, reciprocal: np.ndarray) -> float:
    """The length of a wave vector in the first zone, 1/Å."""
    same = q + np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1)
    return float(np.linalg.norm(same @ reciprocal, axis=-1).min())


def test_argon_has_the_frequencies_of_the_sum_over_pairs(cubic):
    """At waves that fit into the supercell, where folding changes nothing.

    Single precision leaves 1e-6 of the stiffest force constant in each, some 1e-3 of a frequency near zero.
    """
    assert cubic.valid and cubic.reason == "" and cubic.products == 1
    assert len(cubic.crystal.numbers) == 1 and cubic.cell.repeats == (2, 2, 2)
    reciprocal, standard = (np.linalg.inv(x).T for x in (cubic.crystal.lattice, EDGE * FCC))
    seen = set()
    for q in np.array([[0.5, 0.5, 0.5], [0.5, 0, 0], [0.5, 0.5, 0]]):  # in whatever cell it was reduced to
        known = {"L": pair_sum(np.full(3, 0.5) @ standard), "X": pair_sum(np.array([0, 0.5, 0.5]) @ standard)}
        name = {3: "L", 4: "X"}[round(4 * EDGE**2 * shortest(q, reciprocal) ** 2)]
        np.testing.assert_allclose(module.frequencies_at(cubic, q[None])[0], known[name], atol=1e-3)
        seen.add(name)
    assert seen == {"L", "X"}
    assert cubic.frequencies.min() > module.STABLE_THZ
    np.testing.assert_allclose(module.frequencies_at(cubic, np.zeros((1, 3))), 0, atol=1e-6)


def test_padding_and_the_number_at_once_change_nothing(cubic, params):
    again = module.phonons(ARGON, params, cubic.crystal, together=2, **ASKED)
    np.testing.assert_allclose(again.constants, cubic.constants, atol=1e-6)
    assert again.energy_ev_per_atom == pytest.approx(-0.0790735, abs=1e-6)


def test_what_is_no_minimum_says_so(params):
    off = module.phonons(ARGON, params, entry([[0, 0, 0], [0.4, 0.5, 0.5]], EDGE * np.diag([0.5**0.5, 0.5**0.5, 1])),
                         **ASKED)  # fmt: skip
    assert not off.valid and off.reason.startswith("forces of") and np.isnan(off.frequencies).all()
    unknown = module.phonons(ARGON, params, entry([[0, 0, 0]], EDGE * FCC, 36), **ASKED)
    assert not unknown.valid and unknown.reason == "the potential does not know Kr"
    with pytest.raises(ValueError, match="spglib finds no"):
        module.phonons(ARGON, params, entry([[0, 0, 0], [0, 0, 0]], EDGE * FCC), **ASKED)


def test_a_soft_mode_leads_to_a_lower_polymorph(cubic, params):
    """Body-centered argon is unstable at N, (110)/2 with a (1-10) shuffle: Burgers' path to hexagonal close packing.

    W. G. Burgers, Physica 1, 561 (1934). With this cutoff hexagonal packing lies 1.2 meV above face-centered cubic.
    """
    bcc = module.phonons(ARGON, params, entry([[0, 0, 0]], BCC_EDGE * BCC), **ASKED)
    assert bcc.valid and bcc.frequencies.min() < module.STABLE_THZ
    q, thz, _ = module.softest(bcc)
    np.testing.assert_allclose(shortest(q, np.linalg.inv(bcc.crystal.lattice).T), 0.5**0.5 / BCC_EDGE, rtol=1e-6)
    assert thz[0] < -0.3
    found = module.remedy(ARGON, params, bcc, amplitudes_angstrom=(0.3,), **ASKED)
    new = found.phonons
    assert found.reason == "" and new.valid and new.frequencies.min() > module.STABLE_THZ
    cell = new.crystal.lattice, new.crystal.frac, new.crystal.numbers
    assert spglib.get_spacegroup(cell, symprec=0.02) == "P6_3/mmc (194)"
    assert found.gain_ev_per_atom == pytest.approx(bcc.energy_ev_per_atom - new.energy_ev_per_atom, abs=1e-5)
    assert 0.005 < found.gain_ev_per_atom < bcc.energy_ev_per_atom - cubic.energy_ev_per_atom
    again = module.remedy(ARGON, params, new, **ASKED)
    assert again.gain_ev_per_atom == 0 and again.reason == "no soft mode fits into the supercell"
