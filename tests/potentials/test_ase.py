"""ASE both ways: derivatives and optimisers see the potential through a calculator, and any calculator is an oracle."""

import ase.optimize
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones
from ase.stress import full_3x3_to_voigt_6_stress

from crysjax.base import Crystal
from crysjax.data.io import to_atoms
from crysjax.potentials.ase import calculator, oracle
from crysjax.potentials.mlip import mlip


@pytest.fixture(scope="module")
def network(toys):
    return calculator(*toys.potentials["cluster"])


def test_a_calculator_answers_what_the_potential_says(toys, network):
    potential, params = toys.potentials["cluster"]
    evaluate = jax.jit(potential.energy_forces_stress, compiler_options=toys.fast)
    for n in (1, 3, 4):
        crystal = toys.draw_crystal(n, 0)
        pack = toys.make_pack([crystal])
        said = toys.answers(evaluate(params, pack, toys.make_graph(pack, potential.cutoff_angstrom)), [crystal])[0]
        atoms = to_atoms(crystal)
        atoms.calc = network
        # another padding, another compilation: rounding
        np.testing.assert_allclose(atoms.get_potential_energy(), said.energy, rtol=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), said.forces, atol=1e-5)
        np.testing.assert_allclose(atoms.get_stress(), full_3x3_to_voigt_6_stress(said.stress), atol=1e-6)
        assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_signs_and_units_are_those_that_ase_expects(toys, network):
    """By ASE's own differences of the energy: its rounding, 1e-6 eV over steps of 0.02 Å or 2 %, leaves 1 %."""
    atoms = to_atoms(toys.draw_crystal(3, 0))
    atoms.calc = network
    forces, stress = atoms.get_forces(), atoms.get_stress()
    numeric = calculate_numerical_forces(atoms, eps=0.01)
    np.testing.assert_allclose(forces, numeric, atol=0.01 * np.abs(forces).max())
    numeric = calculate_numerical_stress(atoms, eps=0.01)
    np.testing.assert_allclose(stress, numeric, atol=0.01 * np.abs(stress).max())


def test_an_optimiser_of_ase_finds_a_known_minimum():
    """A pair of argon atoms in a box: 2^(1/6) sigma apart, at minus epsilon."""
    argon = mlip(network="lennard_jones", numbers=(18,), cutoff_angstrom=8.5)
    atoms = ase.Atoms(
        "Ar2", [[0.2, 0, 0], [3.4, 1.5, 0.4]], cell=[17, 18, 19], pbc=True, calculator=calculator(argon, ())
    )
    assert ase.optimize.BFGS(atoms, logfile=None).run(fmax=1e-5, steps=60)
    np.testing.assert_allclose(atoms.get_distance(0, 1), 2 ** (1 / 6) * 3.4, rtol=1e-4)  # 1e-5 / (57 epsilon / sigma^2)
    np.testing.assert_allclose(atoms.get_potential_energy(), -0.0104, rtol=1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda atoms: atoms.set_pbc([True, True, False]),
        lambda atoms: atoms.set_atomic_numbers([1, 8, 84]),  # unknown to the potential
        lambda atoms: atoms.set_positions(atoms.positions[[0, 0, 1]]),
        lambda atoms: atoms.set_positions(atoms.positions * np.nan),
        lambda atoms: atoms.set_cell(atoms.cell * [[1], [1], [0]], scale_atoms=True),
        lambda atoms: atoms.set_cell(atoms.cell * [[1], [1], [1e-3]], scale_atoms=True),
    ],
    ids=["a slab", "unknown element", "touching atoms", "no numbers", "no cell", "needs too many images"],
)
def test_what_cannot_be_computed_raises_as_ase_expects(toys, network, spoil):
    atoms = to_atoms(toys.draw_crystal(3, 0))
    atoms.calc = network
    before = atoms.get_potential_energy()
    good = atoms.copy()
    spoil(atoms)
    with pytest.raises(CalculationFailed):
        atoms.get_potential_energy()
    good.calc = network  # and nothing of it is left behind
    assert good.get_potential_energy() == before


# Any calculator as an oracle


def stacked(crystals: list[Crystal], slots: int) -> Crystal:
    """Crystals of different size with empty slots at the end, every leaf (m, ...)."""

    def pad(x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, slots - len(x)), (0, 0)))

    leaves = zip(*((pad(c.occupancy), pad(c.frac), c.lattice) for c in crystals))
    return Crystal(*(jnp.asarray(np.stack(leaf), jnp.float32) for leaf in leaves))


def test_an_oracle_gives_the_energy_an_atom_of_any_calculator(toys):
    """Argon by ASE's own Lennard-Jones, in cells of 1, 2 and 4 atoms."""
    crystals = [toys.draw_argon(n, n) for n in (1, 2, 4)]
    found = oracle(lambda: LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0)).batch(stacked(crystals, 5))
    expected = []
    for crystal in crystals:
        atoms = to_atoms(crystal)
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0)
        expected.append(atoms.get_potential_energy() / len(atoms))
    np.testing.assert_allclose(found.value, expected, rtol=1e-5)
    assert found.valid.all() and not found.std.any()
    assert found.value.dtype == found.std.dtype == jnp.float32 and found.valid.dtype == bool


def test_our_own_calculator_is_an_oracle_with_invalid_rows(toys, network):
    """What cannot be computed is invalid, with a number in place of NaN, and the rows around it are not touched."""
    crystals = [toys.draw_crystal(3, k) for k in range(6)]
    good = oracle(lambda: network).batch(stacked(crystals, 4))
    bad = list(crystals)
    bad[1] = bad[1]._replace(lattice=np.zeros((3, 3)))
    bad[2] = bad[2]._replace(frac=bad[2].frac * np.nan)
    bad[3] = bad[3]._replace(occupancy=np.roll(bad[3].occupancy, 50, axis=-1))  # elements it does not know
    bad[4] = bad[4]._replace(occupancy=0 * bad[4].occupancy)  # no atoms at all
    found = oracle(lambda: network).batch(stacked(bad, 4))
    assert found.valid.tolist() == [True, False, False, False, False, True]
    np.testing.assert_array_equal(found.value[jnp.array([0, 5])], good.value[jnp.array([0, 5])])
    assert good.valid.all() and not found.value[1:5].any() and np.isfinite(found.std).all()


class Fragile(Calculator):
    """Somebody else's program: it raises what it likes, or answers what is no number."""

    implemented_properties = ["energy"]  # noqa: RUF012 (ASE's own convention)
    made = 0

    def __init__(self):
        super().__init__()
        Fragile.made += 1

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        kind = len(self.atoms)
        if kind == 1:
            raise ZeroDivisionError
        if kind == 2:
            raise SystemError("segmentation fault")
        self.results = {"energy": {3: np.nan, 4: np.inf}.get(kind, 10.0)}


def test_a_calculator_that_raises_gives_invalid_rows_and_is_made_once_when_needed(toys):
    ask = oracle(Fragile, name="e", cost=3.0)
    assert (ask.name, ask.unit, ask.cost, Fragile.made) == ("e", "eV/atom", 3.0, 0)
    for _ in range(2):
        found = ask.batch(stacked([toys.draw_crystal(n, 0) for n in (1, 2, 3, 4, 5)], 5))
        assert found.valid.tolist() == [False] * 4 + [True]
        np.testing.assert_array_equal(found.value, np.float32([0, 0, 0, 0, 2]))
    assert Fragile.made == 1
