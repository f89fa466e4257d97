"""Charges against Madelung's constants and Ewald's sum; Buckingham's crystals against their minimum in closed form."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import erfc

from crysjax.base import Crystal, one_hot
from crysjax.data.batching import Capacity
from crysjax.potentials.cluster import COULOMB_EV_ANGSTROM
from crysjax.potentials.coulomb import wolf_energies
from crysjax.potentials.mlip import mlip

FACES = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
LATTICES = {  # place of the anion, cell for a nearest distance of 1, Madelung's constant (Kittel, Introduction, ch. 3)
    "rock salt": (0.5, 2 * FACES, 1.747565),
    "caesium chloride": (0.5, 2 / 3**0.5 * np.eye(3), 1.762675),
    "zinc blende": (0.25, 4 / 3**0.5 * FACES, 1.638055),
}
LEWIS_CATLOW = dict(  # J. Phys. C 18, 1149 (1985), formal charges, rigid ions
    charges=(-2.0, 2.0), pairs=((12, 8, 821.6, 0.3242, 0.0), (8, 8, 22764.0, 0.149, 27.88))
)


@pytest.fixture(scope="module")
def said(toys):
    """Energies, forces and stresses in float64 by settings of a network."""

    def say(z: list[int], frac: np.ndarray, lattice: np.ndarray, **settings) -> tuple:
        potential, n = mlip(**settings), len(z)
        pack = toys.make_pack(
            [Crystal(np.asarray(one_hot(np.array(z)), float), frac, lattice)], Capacity(n, n * n, 1), float
        )
        with jax.enable_x64(True):
            graph = toys.make_graph(pack, potential.cutoff_angstrom, None)
            params = potential.init(jax.random.key(0))
            run = jax.jit(potential.energy_forces_stress, compiler_options=toys.fast)
            energy, forces, stress = run(params, pack, graph)
            return float(energy[0]), np.asarray(forces), np.asarray(stress[0])

    return say


REACH = 5.2  # exp(-5.2^2) = 2e-12 is left out


def ewald(charge: np.ndarray, frac: np.ndarray, lattice: np.ndarray, alpha: float = 0.6) -> float:
    """Ewald's sum in units of e^2/Å: the damped sum over neighbors, the waves, and what each ion is to itself."""
    r = np.linalg.norm((frac[:, None, None] - frac[None, :, None] + grid(lattice, REACH / alpha)) @ lattice, axis=-1)
    r = np.where(r < 1e-9, np.inf, r)
    real = 0.5 * np.einsum("i,j,ijc->", charge, charge, erfc(alpha * r) / r)
    return real + waves(charge, frac, lattice, alpha) - alpha / np.pi**0.5 * (charge**2).sum()


def waves(charge: np.ndarray, frac: np.ndarray, lattice: np.ndarray, alpha: float) -> float:
    """The part of Ewald's sum in reciprocal space."""
    reciprocal = np.linalg.inv(lattice).T * 2 * np.pi
    k = grid(reciprocal, 2 * alpha * REACH)
    k = k[np.abs(k).sum(1) > 0] @ reciprocal
    square, structure = (k**2).sum(1), np.exp(1j * k @ (frac @ lattice).T) @ charge
    volume = abs(np.linalg.det(lattice))
    return 2 * np.pi / volume * (np.exp(-square / (4 * alpha**2)) / square * np.abs(structure) ** 2).sum()


def grid(lattice: np.ndarray, reach: float) -> np.ndarray:
    """Whole multiples of the lattice vectors, those within `reach` of any place in the home cell among them."""
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    axes = (np.arange(-k, k + 1) for k in np.ceil(reach / spacing + 1))
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


@pytest.mark.parametrize("name", LATTICES)
def test_madelung_constants(said, name):
    """With alpha 0.25/Å and 16 Å at a nearest distance of 2.5 Å: erfc(4) is 2e-8, the first wave (G = 1.9/Å) 7e-7.

    The stress of that wave is G^2 / 2 alpha^2 = 28 times as much.
    """
    place, cell, madelung = LATTICES[name]
    frac = np.array([[0.0, 0, 0], [place] * 3])
    energy, forces, stress = said(
        [11, 17], frac, 2.5 * cell, network="coulomb", numbers=(11, 17), charges=(1.0, -1.0), alpha_per_angstrom=0.25,
        cutoff_angstrom=16.0,
    )  # fmt: skip
    np.testing.assert_allclose(-energy * 2.5 / COULOMB_EV_ANGSTROM, madelung, rtol=2e-6)
    assert abs(ewald(np.array([1, -1]), frac, 2.5 * cell) * 2.5 + madelung) < 1e-6
    np.testing.assert_allclose(forces, 0, atol=1e-10)
    virial = energy / 3 / abs(np.linalg.det(2.5 * cell))  # an energy like 1/length
    np.testing.assert_allclose(stress, -virial * np.eye(3), atol=3e-5 * abs(virial))


def test_any_neutral_crystal_agrees_with_ewald(said, toys):
    """With a small alpha and a large sphere, erfc(4.5) = 2e-10, nothing is left of the difference.

    With the default damping and cutoff it is the waves that are left out, 6e-4 here, and of erfc(3) = 2e-5.
    """
    c, charge = toys.draw_crystal(5, 3), np.array([1.0, -2.0, 2.5, 1.0, -2.5])
    z = [3, 8, 22, 3, 9]
    kinds = dict(network="coulomb", numbers=(3, 8, 22, 9), charges=(1.0, -2.0, 2.5, -2.5))
    expected, other = (ewald(charge, c.frac, c.lattice, alpha) for alpha in (0.6, 0.5))
    np.testing.assert_allclose(other, expected, rtol=1e-10)
    fine = said(z, c.frac, c.lattice, **kinds, alpha_per_angstrom=0.15, cutoff_angstrom=30.0)[0]
    np.testing.assert_allclose(fine / COULOMB_EV_ANGSTROM, expected, rtol=1e-8)
    usual, missing = said(z, c.frac, c.lattice, **kinds)[0], waves(charge, c.frac, c.lattice, 0.25)
    assert 3e-4 < missing / abs(expected) < 1e-3
    np.testing.assert_allclose(usual / COULOMB_EV_ANGSTROM, expected - missing, rtol=1e-4)


def test_magnesia_has_the_lattice_constant_of_its_published_parameters(said):
    """The cube edge of least energy, 4.2 Å, is that of a sum over shells with Madelung's constant.

    There the stress vanishes up to the missing waves: exp(-G^2 / 4 alpha^2) of G = 2.6/Å is 3e-12 of a bulk modulus.
    """
    cells = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 3, indexing="ij"), -1).reshape(-1, 3)
    length = np.linalg.norm(cells, axis=1) / 2
    odd = cells.sum(1) % 2 == 1
    even = ~odd & (length > 0)

    def energy(edge: float) -> float:
        """Of Mg and O together, eV."""
        a, rho = LEWIS_CATLOW["pairs"][0][2:4]
        b, sigma, c = LEWIS_CATLOW["pairs"][1][2:]
        near, far = edge * length[odd], edge * length[even]
        t = np.clip((1 - far / 15) / 0.1, 0, 1)  # as faded by the potential
        fade = t**3 * (10 - 15 * t + 6 * t**2)
        short = (a * np.exp(-near / rho)).sum() + 0.5 * (fade * (b * np.exp(-far / sigma) - c / far**6)).sum()
        return short - 4 * 1.7475646 * COULOMB_EV_ANGSTROM / (edge / 2)

    least = minimize_scalar(energy, (4.0, 4.4), tol=1e-12).x
    assert abs(least - 4.21) < 0.06  # magnesia as measured
    settings = dict(network="buckingham", numbers=(8, 12), alpha_per_angstrom=0.25, cutoff_angstrom=15.0)
    frac = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    found = [said([12, 8], frac, e * FACES, **settings, **LEWIS_CATLOW) for e in (least, 1.01 * least)]
    np.testing.assert_allclose(found[0][0], energy(least), rtol=1e-6)
    np.testing.assert_allclose(found[1][0] - found[0][0], energy(1.01 * least) - energy(least), rtol=2e-3)
    stiffness = found[1][2][0, 0] / 0.01
    assert np.abs(found[0][2]).max() / stiffness < 3e-5  # the strain that is left


def test_energy_is_linear_in_occupancy_and_in_the_strengths(toys):
    """Half Mg, half Zn: the short range is the mean of both crystals, and slopes by the parameters are those energies.

    Charges are equal, so the Coulomb part does not see the difference.
    """
    potential = mlip(
        network="buckingham", numbers=(8, 12, 30), charges=(-2.0, 2.0, 2.0), cutoff_angstrom=6.0,
        pairs=((12, 8, 821.6, 0.3242, 0.0), (30, 8, 499.6, 0.3595, 0.0)),
    )  # fmt: skip
    with jax.enable_x64(True):
        params = potential.init(jax.random.key(0))
        total = jax.value_and_grad(lambda p, pack, graph: potential.energy(p, pack, graph)[0])
        total = jax.jit(total, compiler_options=toys.fast)
        crystal = Crystal(np.zeros((2, 100)), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 4.2 * FACES)

        def filled(magnesium: float):
            rows = np.zeros((2, 100))
            rows[0, 11], rows[0, 29], rows[1, 7] = magnesium, 1 - magnesium, 1
            return toys.make_pack([crystal._replace(occupancy=rows)], Capacity(2, 4, 1), float)

        graph = toys.make_graph(filled(1.0), 6.0, 512)
        several = [(0.0, params), (1.0, params), (0.3, params), (1.0, params | {"repulsion_ev": jnp.zeros(2)})]
        said = [jax.tree.map(np.asarray, total(p, filled(x), graph)) for x, p in several]
    (zinc, _), (magnesium, slope), (mixed, _), (charged, of_charges) = said
    assert abs(zinc - magnesium) > 0.1
    np.testing.assert_allclose(mixed, 0.7 * zinc + 0.3 * magnesium, rtol=1e-12)
    np.testing.assert_allclose(slope["repulsion_ev"], [(magnesium - charged) / 821.6, 0], rtol=1e-10)
    np.testing.assert_allclose(
        of_charges["charges"] @ np.array([-2.0, 2, 2]), 2 * charged, rtol=1e-10
    )  # quadratic in them


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(charges=(1.0,)), r"charges: \[1.0\]; expected one for each of the elements \[8, 12\]"),
        (dict(pairs=()), r"pairs: \[\]; expected different pairs of elements"),
        (dict(pairs=((12, 8, 1, 1, 1), (8, 12, 2, 2, 2))), r"pairs: .*; expected different pairs"),
        (dict(pairs=((12, 9, 1, 1, 1),)), r"pairs: \[12, 9, 1, 1, 1\]; expected two of the elements \[8, 12\]"),
        (dict(pairs=((12, 8, 1, 1),)), r"pairs: .*repulsion_ev, decay_angstrom, dispersion_ev_angstrom6"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        mlip(**dict(network="buckingham", numbers=(8, 12)) | LEWIS_CATLOW | settings)


def test_two_ions_feel_no_force_and_no_energy_where_the_sphere_ends():
    """The shifted force of Fennell and Gezelter (2006): both vanish at the cutoff, at any damping."""
    one, other = jnp.array([0, 1]), jnp.array([1, 0])

    def total(r, mask):
        graph = SimpleNamespace(receiver=one, sender=other, mask=jnp.full(2, mask, jnp.float64))
        charge = jnp.array([1.0, -1.0], jnp.float64)
        return wolf_energies(charge, jnp.broadcast_to(r, 2), graph, 0.1, 5.0).sum()

    def pair(r):
        return total(r, 1.0) - total(r, 0.0)

    with jax.enable_x64(True):
        value, slope = jax.value_and_grad(pair)(jnp.asarray(5.0, jnp.float64))
        inside = jax.grad(pair)(jnp.asarray(3.0, jnp.float64))
    assert abs(float(value)) < 1e-9 and abs(float(slope)) < 1e-9
    assert float(inside) > 0.1  # opposite charges attract
