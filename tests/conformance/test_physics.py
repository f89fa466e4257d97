"""What the physics commands answer depends on the material and not on the cell that describes it: one line of a table
for each description, one test for each answer."""

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from crysjax.chemistry.scattering import scattering
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.physics.diffraction.peaks import peaks
from crysjax.physics.elasticity.driver import elasticity
from crysjax.physics.phonons.driver import phonons
from crysjax.physics.phonons.thermodynamics import thermal
from crysjax.potentials.mlip import mlip

TURN = Rotation.from_rotvec([0.7, -0.3, 1.1]).as_matrix()
SHEAR = np.array([[1, 1, 0], [0, 1, 0], [-1, 0, 1]])
EPS = np.finfo(np.float32).eps  # data sets and potentials are in single precision


def doubled(e: Entry) -> Entry:
    frac = np.concatenate([e.frac, e.frac + np.array([1, 0, 0])]) / np.array([2, 1, 1])
    return e._replace(numbers=np.tile(e.numbers, 2), frac=frac, lattice=e.lattice * np.array([[2], [1], [1]]))


DESCRIPTIONS = {
    "turned": lambda e: e._replace(lattice=e.lattice @ TURN.T),
    "moved": lambda e: e._replace(frac=e.frac + np.array([0.21, 0.63, -0.4])),
    "sites in another order": lambda e: e._replace(numbers=e.numbers[::-1], frac=e.frac[::-1]),
    "axes renamed": lambda e: e._replace(frac=e.frac[:, [1, 2, 0]], lattice=e.lattice[[1, 2, 0]]),
    "left-handed": lambda e: e._replace(frac=e.frac[:, [1, 0, 2]], lattice=e.lattice[[1, 0, 2]]),
    "axes flipped": lambda e: e._replace(frac=-e.frac, lattice=-e.lattice),
    "sheared": lambda e: e._replace(frac=e.frac @ np.linalg.inv(SHEAR), lattice=SHEAR @ e.lattice),
    "doubled": doubled,
    "mirror image": lambda e: e._replace(lattice=e.lattice * np.array([-1, 1, 1])),
}


def described(entry: Entry) -> list[Entry]:
    return [entry, *(change(entry)._replace(id=name) for name, change in DESCRIPTIONS.items())]


pytestmark = pytest.mark.usefixtures("light_compiles")


def test_powder_patterns():
    """A triclinic oxide. Cells are stored in single precision, which moves an angle by tan θ times that, twice; the
    positions' part of it, times 2π h for each of up to 8 orders and 5 atoms, is what intensities of 100 see."""
    rng = np.random.default_rng(2)
    cell = np.diag([3.1, 4.2, 5.3]) + rng.normal(0, 0.4, (3, 3))
    given = Entry("oxide", np.array([22, 8, 8, 38, 8]), rng.random((5, 3)), cell, {})
    found = peaks(datasets.from_entries(described(given)), scattering(dtype=np.float64), two_theta_degree=(5, 85))
    shown = [one.intensity > 0.01 for one in found]  # weaker ones come and go by rounding
    for name, one, strong in zip(["", *DESCRIPTIONS], found, shown):
        assert one.reason == "" and strong.sum() == shown[0].sum() > 100, name
        np.testing.assert_allclose(one.two_theta[strong], found[0].two_theta[shown[0]], atol=400 * EPS, err_msg=name)
        limit = 100 * 2 * np.pi * 8 * 5 * EPS
        np.testing.assert_allclose(one.intensity[strong], found[0].intensity[shown[0]], atol=limit, err_msg=name)


def test_elastic_constants():
    """Orthorhombically strained silicon, whose ions relax: the tensor as it is written, and all moduli. Second
    derivatives are sums of some 100 terms in single precision, and the ions' relief is divided by an eigenvalue that is
    a tenth of the largest."""
    silicon = mlip(network="stillinger_weber", numbers=(14,))
    cell = 5.431 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2 * np.array([1.03, 1.0, 0.98])
    given = Entry("si", np.array([14, 14]), np.array([[0, 0, 0], [0.25, 0.25, 0.25]]), cell, {})
    params = silicon.init(jax.random.key(0))
    found = elasticity(silicon, params, datasets.from_entries(described(given)), relax=False)
    assert found.valid.all(), found.reason
    limit = 100 * 10 * EPS
    for k, name in enumerate(["", *DESCRIPTIONS]):
        assert found.system[k] == "orthorhombic", name
        for tensor in (found.tensor_gpa, found.clamped_gpa, found.stress_gpa):
            scale = np.abs(found.clamped_gpa[0]).max()
            np.testing.assert_allclose(tensor[k], tensor[0], atol=limit * scale, err_msg=name)
        for field in ("bulk", "shear", "young", "softest"):
            values = getattr(found.moduli, field)
            np.testing.assert_allclose(values[k], values[0], rtol=10 * limit, err_msg=f"{field}, {name}")
    assert np.ptp(found.tensor_gpa[0][[0, 1, 2], [0, 1, 2]]) > 0.02 * scale, "the axes can be told apart"


def test_phonons_and_thermodynamics():
    """Triclinically strained argon: the same squares of frequencies, to the rounding of some 100 force constants, and
    the same free energy a formula unit."""
    argon = mlip(network="lennard_jones", numbers=(18,), epsilon_ev=0.0104, sigma_angstrom=3.4, cutoff_angstrom=7.0)
    strain = np.eye(3) + np.array([[0.01, 0.02, 0.0], [0.0, -0.01, 0.015], [0.0, 0.0, 0.005]])
    cell = 5.243195 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) @ strain
    given = Entry("ar", np.array([18]), np.zeros((1, 3)), cell, {})
    spectra, energies = [], []
    for entry in described(given):
        found = phonons(argon, (), entry, length_angstrom=6.0, mesh_per_angstrom=0.1)
        assert found.valid and len(found.crystal.numbers) == 1, found.reason
        spectra.append(np.sort((found.frequencies * np.abs(found.frequencies)).ravel()))
        with jax.enable_x64(True):
            arrays = (jax.numpy.asarray(x) for x in (found.frequencies, found.weight, np.array([80.0])))
            energies.append(float(thermal(*arrays).free_energy[0]))
    for name, spectrum, energy in zip(["", *DESCRIPTIONS], spectra, energies):
        np.testing.assert_allclose(spectrum, spectra[0], atol=100 * EPS * spectra[0].max(), err_msg=name)
        assert energy == pytest.approx(energies[0], rel=1e-4), name
