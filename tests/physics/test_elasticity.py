"""Elastic constants by potentials whose answers are known: lattice sums of Lennard-Jones, silicon of the literature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from crysjax.base import GPA_PER_EV_A3, NUM_SPECIES, Pack
from crysjax.data import batching, datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Entry
from crysjax.geometry.neighbors import radius_graph_host
from crysjax.physics.elasticity import driver
from crysjax.physics.elasticity.driver import elasticity, equations_of_state, stiffness
from crysjax.physics.elasticity.mechanics import moduli
from crysjax.potentials.mlip import mlip

EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 7.0
ARGON = mlip(network="lennard_jones", numbers=(18,), epsilon_ev=EPSILON, sigma_angstrom=SIGMA, cutoff_angstrom=CUTOFF)
SILICON = mlip(network="stillinger_weber", numbers=(14,))
FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
CUBE = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


pytestmark = pytest.mark.usefixtures("light_compiles")


def packed(crystals: list[tuple], shape: Capacity, cutoff: float) -> tuple:
    """A pack of (numbers, frac, lattice) in double precision, and its graph."""
    counts = [len(z) for z, _, _ in crystals]
    occupancy, frac = np.zeros((shape.sites, NUM_SPECIES)), np.zeros((shape.sites, 3))
    occupancy[np.arange(sum(counts)), np.concatenate([z for z, _, _ in crystals]) - 1] = 1
    frac[: sum(counts)] = np.concatenate([f for _, f, _ in crystals])
    lattice = np.tile(np.eye(3), (shape.crystals, 1, 1))
    lattice[: len(crystals)] = [cell for _, _, cell in crystals]
    pack = Pack(occupancy, frac, lattice, *batching.topology(counts, shape))
    return pack, radius_graph_host(pack, cutoff + 1e-3)


def lattice_sum(edge: float, cutoff: float = CUTOFF) -> tuple[float, np.ndarray]:
    """Pressure-like first sum and the stiffness (GPa) of fcc Lennard-Jones, fade included, by derivatives on paper."""
    n = int(2 * cutoff / edge) + 2
    cells = np.stack(np.meshgrid(*3 * [np.arange(-n, n + 1)], indexing="ij"), -1).reshape(-1, 3)
    x = cells @ FCC * edge
    r = np.linalg.norm(x, axis=-1)
    x, r = x[(r > 0.1) & (r < cutoff)], r[(r > 0.1) & (r < cutoff)]

    t, dt = np.clip((1 - r / cutoff) / 0.1, 0, 1), -10 / cutoff
    fade = t**3 * (10 - 15 * t + 6 * t**2), 30 * dt * t**2 * (1 - t) ** 2, 60 * dt**2 * t * (1 - t) * (1 - 2 * t)
    s6 = (SIGMA / r) ** 6
    pair = [4 * EPSILON * x for x in (s6**2 - s6, (6 * s6 - 12 * s6**2) / r, (156 * s6**2 - 42 * s6) / r**2)]
    first = pair[1] * fade[0] + pair[0] * fade[1]
    second = pair[2] * fade[0] + 2 * pair[1] * fade[1] + pair[0] * fade[2]
    stiff = (second - first / r) / r**2
    c = [[(stiff * x[:, i] * x[:, j] * x[:, k] * x[:, m]).sum() for k, m in VOIGT] for i, j in VOIGT]
    return (first * r).sum(), np.array(c) / (2 * edge**3 / 4) * GPA_PER_EV_A3


EDGE = brentq(lambda a: lattice_sum(a)[0], 5.0, 5.5, xtol=1e-13)
KNOWN = lattice_sum(EDGE)[1]


def test_argon_is_its_lattice_sum():
    """In the primitive and in the cubic cell, whose ions stay where they are; Cauchy: C12 = C44 of central forces."""
    cells = [(np.array([18]), np.zeros((1, 3)), FCC * EDGE), (np.full(4, 18), CUBE, np.eye(3) * EDGE)]
    with jax.enable_x64(True):
        pack, graph = packed(cells, Capacity(6, 15, 3), CUTOFF)
        found = jax.jit(lambda p, g: stiffness(ARGON.energy, (), p, g, slots=4))(pack, graph)
    for k in range(2):
        np.testing.assert_allclose(found.tensor[k], KNOWN, atol=1e-9 * KNOWN.max())
        np.testing.assert_allclose(found.stress[k], 0, atol=1e-9)
    np.testing.assert_allclose(found.tensor[0, 0, 1], found.tensor[0, 3, 3], rtol=1e-9)
    assert found.valid.all() and KNOWN[0, 0] > KNOWN[0, 1] > 0


def test_the_lattice_sum_is_the_textbooks():
    """B = 4 epsilon / sigma^3 A12 (A6 / A12)^(5/2) with A12 = 12.13188, A6 = 14.45392 (Kittel; Ashcroft & Mermin).

    A cutoff of 7 nearest neighbors leaves out 5.92 / 7^3 of A6, and B goes with its power of 5/2: 0.3 %.
    """
    edge = 2**0.5 * SIGMA * (2 * 12.13188 / 14.45392) ** (1 / 6)
    tensor = lattice_sum(edge, 7 * edge / 2**0.5)[1]
    bulk = 4 * EPSILON / SIGMA**3 * 12.13188 * (14.45392 / 12.13188) ** 2.5 * GPA_PER_EV_A3
    np.testing.assert_allclose(tensor[:3, :3].sum() / 9, bulk, rtol=5e-3)


DIAMOND = (np.full(2, 14), np.array([[0.0, 0, 0], [0.25, 0.25, 0.25]]))


@pytest.fixture(scope="module")
def silicon():
    """Shear modulus (scale of the cell, parameters) of silicon at 5.431 Å times the scale with its two derivatives and
    the elasticity beside it; its parameters; and its energy (strain). One compiled program each, double precision."""
    with jax.enable_x64(True):
        params = SILICON.init(jax.random.key(0))
        pack, graph = packed([(*DIAMOND, 5.43095 * FCC)], Capacity(2, 1, 1), 1.02 * SILICON.cutoff_angstrom)

    def shear(scale, params):
        moved = pack._replace(lattice=jnp.asarray(pack.lattice) * scale)
        found = jax.tree.map(lambda x: x[0], stiffness(SILICON.energy, params, moved, graph, slots=2))
        return moduli(found.tensor).shear, found

    def energy(strain):
        moved = pack._replace(lattice=jnp.asarray(pack.lattice) @ (jnp.eye(3) + strain))
        return SILICON.energy(params, moved, graph)[0]

    return jax.jit(jax.value_and_grad(shear, (0, 1), has_aux=True)), params, jax.jit(energy)


def test_silicon_is_the_literatures(silicon):
    """Cowley, Phys. Rev. Lett. 60, 2379 (1988); Balamane et al., Phys. Rev. B 46, 2250 (1992); to their last digit.

    The clamped C44 is compared with central differences of the energy; with ions at rest it is twice as large.
    """
    answer, params, energy = silicon
    h = 1e-3
    with jax.enable_x64(True):
        found = answer(jnp.float64(1), params)[0][1]
        shears = [jnp.asarray([[0, 0, 0], [0, 0, g / 2], [0, g / 2, 0]], float) for g in (h, 0, -h)]
        up, rest, down = (float(energy(strain)) for strain in shears)
    c, clamped = np.asarray(found.tensor), np.asarray(found.clamped)
    np.testing.assert_allclose([c[0, 0], c[0, 1], c[3, 3]], [151.4, 76.4, 56.4], atol=0.1)
    known = (up - 2 * rest + down) / h**2 / (5.43095**3 / 4) * GPA_PER_EV_A3
    np.testing.assert_allclose(clamped[3, 3], known, rtol=1e-5)
    assert clamped[3, 3] > 1.9 * c[3, 3]
    np.testing.assert_allclose(clamped[:3, :3], c[:3, :3], atol=1e-9)  # only shears move the two lattices
    np.testing.assert_allclose(found.stress, 0, atol=0.01)


def test_the_shear_modulus_follows_cell_and_parameters(silicon):
    """Exact third derivatives against central differences, h^2 away; the energy scale is exactly linear."""
    answer, params, _ = silicon
    h, name = 1e-4, "angle_strength"
    with jax.enable_x64(True):
        one = jnp.float64(1)
        (here, _), (by_cell, by_params) = answer(one, params)
        by_cell, by_params = float(by_cell), {k: float(x) for k, x in by_params.items()}
        longer, shorter = (float(answer(one + s, params)[0][0]) for s in (h, -h))
        more, less = (float(answer(one, params | {name: params[name] * (1 + s)})[0][0]) for s in (h, -h))
    assert abs(by_cell) > 10 and abs(by_params[name]) > 0.1
    np.testing.assert_allclose(by_cell, (longer - shorter) / (2 * h), rtol=1e-5)
    np.testing.assert_allclose(by_params[name], (more - less) / (2 * h * float(params[name])), rtol=1e-5)
    np.testing.assert_allclose(by_params["epsilon_ev"] * float(params["epsilon_ev"]), here, rtol=1e-9)


def argon(names: str, edge: float = EDGE) -> datasets.Dataset:
    """Crystals by a letter each: primitive, cubic, without volume, unknown element, touching atoms."""
    p = edge * FCC
    made = {
        "p": Entry("p", [18], [[0, 0, 0]], p, {}), "c": Entry("c", [18] * 4, CUBE, edge * np.eye(3), {}),
        "n": Entry("n", [18], [[0, 0, 0]], p, {}), "u": Entry("u", [36], [[0, 0, 0]], p, {}),
        "t": Entry("t", [18] * 2, [[0, 0, 0], [0.001, 0, 0]], p, {}),
    }  # fmt: skip
    found = datasets.from_entries([made[name] for name in names])
    found.lattice[found.ids == "n"] = 1.0
    return found


def test_broken_crystals_have_a_reason_and_no_influence():
    alone, together = (elasticity(ARGON, (), argon(names), relax=False) for names in ("pc", "pnuct"))
    assert together.valid.tolist() == [True, False, False, True, False] and alone.valid.all()
    reasons = together.reason[[1, 2, 4]]
    assert ["volume" in reasons[0], "Kr" in reasons[1], "closer" in reasons[2]] == [True] * 3
    np.testing.assert_array_equal(together.tensor_gpa[[0, 3]], alone.tensor_gpa)
    assert np.isnan(together.tensor_gpa[[1, 2, 4]]).all() and np.isnan(together.moduli.bulk[[1, 2, 4]]).all()
    np.testing.assert_allclose(alone.tensor_gpa, [KNOWN, KNOWN], atol=1e-4 * KNOWN.max())  # of single precision
    np.testing.assert_allclose(alone.density, 4 * 39.948 * 1.66054 / EDGE**3, rtol=1e-3)
    np.testing.assert_allclose(alone.moduli.bulk, (KNOWN[0, 0] + 2 * KNOWN[0, 1]) / 3, rtol=1e-4)
    assert np.isnan(elasticity(ARGON, (), argon("nu"), relax=False).tensor_gpa).all()


def test_crystals_are_relaxed_first():
    tight = driver.TIGHT._replace(fmax_ev_angstrom=1e-4)
    found = elasticity(ARGON, (), argon("pn", 5.3), settings=tight)
    assert found.valid.tolist() == [True, False] and found.reason[1]
    np.testing.assert_allclose(found.tensor_gpa[0], KNOWN, atol=0.02 * KNOWN.max())  # of 1e-4 eV/Å that are left
    late = elasticity(ARGON, (), argon("pn", 5.3), settings=tight, max_steps=1)
    assert not late.valid[0] and "not at rest after 1 steps" in late.reason[0]


def test_the_equation_of_state_agrees_with_the_stiffness():
    """Same bulk modulus, to what single precision and the third order leave."""
    found = equations_of_state(ARGON, (), argon("pun"), relax_ions=False, strain=0.01)
    assert found.valid.tolist() == [True, False, False] and found.reason[1] and found.reason[2]
    np.testing.assert_allclose(found.fit.volume[0], EDGE**3 / 4, rtol=1e-3)
    np.testing.assert_allclose(found.fit.bulk_gpa[0], (KNOWN[0, 0] + 2 * KNOWN[0, 1]) / 3, rtol=0.01)
    assert np.isnan(found.fit.bulk_gpa[1:]).all()
    with pytest.raises(ValueError, match="points 3"):
        equations_of_state(ARGON, (), argon("p"), points=3)
