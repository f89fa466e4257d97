"""Stiffness of quadratic energies and of springs, whose answers are known; moduli against pymatgen."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import GPA_PER_EV_A3
from crysjax.physics.elasticity.mechanics import (
    REASONS,
    Moduli,
    debye_temperature,
    elastic_tensor,
    moduli,
    strain_matrix,
)

SITES, PADDED = 3, 5
PLAIN = [[0, 0], [1, 1], [2, 2], [1, 2], [0, 2], [0, 1]]  # Voigt's order


def jitted(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


averages = jitted(moduli)


def positive(size: int, seed: int) -> np.ndarray:
    """A symmetric matrix with eigenvalues from 1 to 3."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return (basis * rng.uniform(1, 3, size)) @ basis.T


def quadratic(sign: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks A, B, C of an energy of three ions that translations leave alone; `sign` turns one mode of A around."""
    rng = np.random.default_rng(5)
    free = np.eye(3 * SITES) - np.kron(np.full((SITES, SITES), 1 / SITES), np.eye(3))
    soft = free @ rng.normal(size=3 * SITES)
    soft /= np.linalg.norm(soft)
    a = free @ positive(3 * SITES, 0) @ free
    rest = np.eye(3 * SITES) - np.outer(soft, soft)
    return rest @ a @ rest + sign * np.outer(soft, soft), free @ rng.normal(size=(3 * SITES, 6)), 30 * positive(6, 1)


def energy_of(a, b, c, dtype):
    a, b, c = (jnp.asarray(x, dtype) for x in (a, b, c))

    def energy(moved, strain):
        u, e = moved[:SITES].reshape(-1), jnp.stack([strain[i, j] * (2.0 if i != j else 1.0) for i, j in PLAIN])
        return u @ a @ u / 2 + u @ b @ e + e @ c @ e / 2 + 0.3 * e[3]

    return energy


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slots", [SITES, PADDED])
def test_ions_follow_the_strain(dtype, slots):
    with jax.enable_x64(dtype == np.float64):
        a, b, c = quadratic()
        mask = jnp.asarray(np.arange(slots) < SITES, dtype)
        energy = energy_of(a, b, c, dtype)
        found = jitted(lambda v: elastic_tensor(energy, slots, v, mask=mask, columns=4))(jnp.asarray(50.0, dtype))
        close = dict(rtol=0, atol=1e3 * np.finfo(dtype).eps * np.abs(c).max() * GPA_PER_EV_A3 / 50)  # of the solve
        np.testing.assert_allclose(found.clamped, c * GPA_PER_EV_A3 / 50, **close)
        np.testing.assert_allclose(found.tensor, (c - b.T @ np.linalg.pinv(a) @ b) * GPA_PER_EV_A3 / 50, **close)
        np.testing.assert_allclose(found.softest, np.linalg.eigvalsh(a)[3], rtol=1e3 * np.finfo(dtype).eps)
        np.testing.assert_allclose(found.stress, np.eye(6)[3] * 0.3 * GPA_PER_EV_A3 / 50, rtol=1e-6)
        assert found.valid and found.reason == 0 and found.tensor.dtype == dtype


def test_soft_and_broken_crystals_are_told():
    a, b, c = quadratic(-0.1)
    soft = jitted(lambda v: elastic_tensor(energy_of(a, b, c, np.float32), SITES, v))(jnp.float32(50))
    np.testing.assert_allclose(soft.softest, -0.1, rtol=1e-4)
    assert not soft.valid and "soft" in REASONS[int(soft.reason)]
    np.testing.assert_array_equal(soft.tensor, soft.clamped)

    def broken(moved, strain):
        return jnp.nan * strain.sum()

    found = jitted(lambda v: elastic_tensor(broken, 1, v))(jnp.float32(50))
    assert not found.valid and "finite" in REASONS[int(found.reason)]
    assert all(np.isfinite(leaf).all() for leaf in found)


def neighbors(lattice, frac, reach: float = 1.3):
    """Vectors between all atoms nearer than `reach`, and which atoms these are."""
    cells = np.stack(np.meshgrid(*3 * [np.arange(-2, 3)], indexing="ij"), -1).reshape(-1, 3)
    i, j, t = (x.reshape(-1) for x in np.meshgrid(range(len(frac)), range(len(frac)), range(len(cells)), indexing="ij"))
    r = (frac[j] - frac[i] + cells[t]) @ lattice
    near = (np.linalg.norm(r, axis=-1) > 0.01) & (np.linalg.norm(r, axis=-1) < reach)
    return r[near], i[near], j[near]


def springs(r, i, j):
    """The energy of a crystal held by springs without tension."""
    length = jnp.sqrt((r**2).sum(-1))

    def energy(moved, strain):
        now = (r + moved[j] - moved[i]) @ (jnp.eye(3) + strain)
        return ((jnp.sqrt((now**2).sum(-1)) - length) ** 2 / length**2).sum()

    return energy


LOW = np.array([[1.0, 0.1, -0.05], [0.2, 1.1, 0.1], [-0.1, 0.15, 0.9]])
BASIS = np.array([[0.0, 0.0, 0.0], [0.4, 0.6, 0.35]])


def test_a_turned_crystal_has_the_turned_tensor():
    from pymatgen.analysis.elasticity import ElasticTensor
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec([0.7, -0.3, 1.1]).as_matrix()
    with jax.enable_x64(True):
        of_cell = jitted(lambda r, i, j: elastic_tensor(springs(r, i, j), 2, jnp.float64(1)))
        found, turned = (of_cell(*neighbors(cell, BASIS)) for cell in (LOW, LOW @ turn.T))
        a, b = (averages(x.tensor) for x in (found, turned))
    assert found.valid and np.abs(found.tensor - found.clamped).max() > 0.005 * np.abs(found.tensor).max()
    np.testing.assert_allclose(found.stress, 0, atol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = [ElasticTensor.from_voigt(np.asarray(x)).rotate(turn).voigt for x in (found.tensor, found.clamped)]
    np.testing.assert_allclose(turned.tensor, known[0], atol=1e-10 * np.abs(known[0]).max())
    np.testing.assert_allclose(turned.clamped, known[1], atol=1e-10 * np.abs(known[1]).max())
    np.testing.assert_allclose(a[:-1], b[:-1], rtol=1e-9)


def test_bulk_modulus_has_a_derivative():
    """By the stiffness of the springs, which is linear, and by the edge of the cell, against central differences."""

    def bulk(edge, stiffness):
        def energy(moved, strain):  # springs of natural length 1 along x, y, z and a pair of ions in between
            x = jnp.asarray(np.eye(3)) * edge @ (jnp.eye(3) + strain)
            length = jnp.sqrt((x**2).sum(-1))
            between = (moved[1] - moved[0]) @ (jnp.eye(3) + strain)
            tilt = jnp.asarray([1.0, 2.0, 4.0]) * (between - 0.3 * (length - 1)) ** 2
            return (stiffness / 2 * (length - 1) ** 2 / length).sum() + tilt.sum() + (length**3).sum()

        return moduli(elastic_tensor(energy, 2, edge**3).tensor + 5 * jnp.eye(6)).bulk

    with jax.enable_x64(True):
        at, h = (jnp.float64(1.2), jnp.float64(7.0)), 1e-4
        both = jitted(jax.value_and_grad(bulk, (0, 1)))
        slope = [float(x) for x in both(*at)[1]]
        steps = np.array([[h, 0], [-h, 0], [0, h], [0, -h]])
        a, b, c, d = (float(both(at[0] + s, at[1] + t)[0]) for s, t in steps)
        known = [(a - b) / (2 * h), (c - d) / (2 * h)]
    assert min(map(abs, known)) > 1e-2
    np.testing.assert_allclose(slope, known, rtol=1e-6)  # h^2 and rounding / h


@pytest.fixture(scope="module")
def pymatgen_tensors():
    from pymatgen.analysis.elasticity import ElasticTensor

    tensors = [100 * positive(6, seed) + 30 * np.pad(np.ones((3, 3)), (0, 3)) for seed in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(c, ElasticTensor.from_voigt(c)) for c in tensors]


def test_moduli_are_pymatgens(pymatgen_tensors):
    with jax.enable_x64(True):
        ours = jitted(jax.vmap(moduli))(jnp.asarray([c for c, _ in pymatgen_tensors]))
    names = dict(bulk_voigt="k_voigt", bulk_reuss="k_reuss", bulk="k_vrh", shear_voigt="g_voigt",
                 shear_reuss="g_reuss", shear="g_vrh", anisotropy="universal_anisotropy",
                 poisson="homogeneous_poisson")  # fmt: skip
    for name, theirs in names.items():
        np.testing.assert_allclose(getattr(ours, name), [getattr(t, theirs) for _, t in pymatgen_tensors], rtol=1e-9)
    np.testing.assert_allclose(ours.young, [t.y_mod / 1e9 for _, t in pymatgen_tensors], rtol=1e-9)
    assert ours.stable.all()


def test_debye_temperature_is_pymatgens(pymatgen_tensors):
    from pymatgen.core import Lattice, Structure

    cell = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for c, theirs in pymatgen_tensors:
        with jax.enable_x64(True):
            said = averages(jnp.asarray(c))
            ours = debye_temperature(said.bulk, said.shear, float(cell.composition.weight), 2.0, cell.volume)
        np.testing.assert_allclose(ours, theirs.debye_temperature(cell), rtol=1e-5)  # of the constants


def cubic(c11: float, c12: float, c44: float) -> np.ndarray:
    out = np.diag([c11 - c12] * 3 + [c44] * 3)
    out[:3, :3] += c12
    return out


@pytest.mark.parametrize(
    ("c11", "c12", "c44", "stable"),
    [(100, 60, 30, True), (100, 110, 30, False), (100, 60, -1, False), (100, -51, 30, False), (100, -49, 30, True)],
)
def test_borns_criterion_of_cubic_crystals(c11, c12, c44, stable):
    """C11 > C12, C11 + 2 C12 > 0, C44 > 0; the eigenvalues in Kelvin's notation are these, with 2 C44."""
    found = averages(jnp.asarray(cubic(c11, c12, c44), jnp.float32))
    assert bool(found.stable) == stable
    np.testing.assert_allclose(found.softest, min(c11 - c12, c11 + 2 * c12, 2 * c44), rtol=1e-4)
    np.testing.assert_allclose(found.bulk, (c11 + 2 * c12) / 3, rtol=1e-4)


def test_nothing_is_nan_and_everything_has_a_gradient():
    for tensor in (np.zeros((6, 6)), cubic(100, 60, 30), np.full((6, 6), np.nan)):  # cubic: equal eigenvalues
        c = jnp.asarray(tensor, jnp.float32)
        found = averages(c)
        assert all(np.isfinite(leaf).all() for leaf in found)
        assert np.isfinite(debye_temperature(found.bulk, found.shear, 40.0, 2.0, 70.0))
    slopes = jitted(jax.jacrev(lambda c: jnp.stack(moduli(c)[:-1])))(jnp.asarray(cubic(100, 60, 30), jnp.float32))
    assert slopes.shape == (len(Moduli._fields) - 1, 6, 6) and np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[0], np.pad(np.full((3, 3), 1 / 9), (0, 3)), atol=1e-6)  # of Voigt's bulk modulus


def test_strains_are_engineering_strains():
    with jax.enable_x64(True):
        found = strain_matrix(jnp.asarray([1.0, 2, 3, 4, 5, 6]))
    np.testing.assert_array_equal(found, [[1, 3, 2.5], [3, 2, 2], [2.5, 2, 3]])
