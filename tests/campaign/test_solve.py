"""Structure from a pattern: Rwp by hand, two forms of the misfit, known structures and cells recovered, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal
from crysjax.campaign import solve as module
from crysjax.campaign.solve import RWP, Descent, factor, solve
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.data.scattering import of_species, scattering
from crysjax.evaluation import matching
from crysjax.properties.diffraction import Shape, indices, pattern, reflections_needed

GRID = np.linspace(10, 70, 301)
SHAPE = Shape(w=0.36)
CELL = np.array([[3.2, 0.0, 0.0], [0.3, 3.9, 0.0], [-0.2, 0.4, 4.6]])
PLACES = np.array([[0.1, 0.6, 0.2], [0.55, 0.2, 0.9], [0.6, 0.7, 0.05], [0.05, 0.15, 0.55]])
TRUTH = Entry("truth", np.array([8, 8, 22, 38]), PLACES, CELL, {})
FEW = Descent(blur_degree=(1.0, 0.0), damping_angstrom2=(3.0, 0.0), steps=60)


@pytest.fixture(autouse=True, scope="module")
def light_compiles():
    """These programs run for milliseconds and compile for seconds."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def simulated(entry: Entry, grid=GRID) -> np.ndarray:
    """The profile of a crystal, up to the same angle as `solve` looks at."""
    found, species = np.unique(entry.numbers, return_inverse=True)
    crystal = Crystal(*(jnp.asarray(a, jnp.float32) for a in (np.eye(len(found))[species], entry.frac, entry.lattice)))
    end = {"two_theta_max_degree": float(grid[-1]) + 1}
    limit = reflections_needed(entry.lattice, wavelength_angstrom=1.54184, **end)
    run = jax.jit(
        lambda c: pattern(c, of_species(scattering(), found), indices(limit), jnp.float32(grid), SHAPE, **end)
    )
    return np.asarray(run(crystal).value, float)


@pytest.fixture(scope="module")
def seen() -> np.ndarray:
    return simulated(TRUTH)


@pytest.fixture(scope="module")
def found(seen):
    return solve(GRID, seen, TRUTH.numbers, lattice=CELL, starts=12, shape=SHAPE, descent=FEW)


def test_profile_factor_by_hand():
    """Three points, weights 1 / y but at least 1 % of the strongest: c = 1 for an error that the weights balance."""
    y, calculated = np.array([100.0, 50.0, 0.0]), np.array([[110.0, 40.0, 0.0], [200.0, 100.0, 0.0], [0.0, 0.0, 0.0]])
    weight = np.array([0.01, 0.02, 1.0])
    scale = (weight * y * calculated[0]).sum() / (weight * calculated[0] ** 2).sum()
    expected = np.sqrt((weight * (y - scale * calculated[0]) ** 2).sum() / (weight * y**2).sum())
    np.testing.assert_allclose(factor(y, calculated), [expected, 0, 1], atol=1e-12)


def test_a_known_structure_is_found_with_its_cell_given(found, seen):
    """The pattern fits, the structure is the true one (or its mirror image), and ranks and values belong together."""
    values = found.properties[RWP]
    assert (np.diff(values) >= 0).all() and values[0] < 0.03 and len(found) == 12
    truth = datasets.from_entries([TRUTH])
    result = matching.match_pairs(truth, datasets.take(found, np.arange(1)), processes=1)
    assert result.best[0] < 0.03
    for row, value in zip(datasets.entries(found)[:3], values):
        assert factor(seen, simulated(row)) == pytest.approx(value, abs=1e-3)  # positions are kept in single precision
    rng = np.random.default_rng(0)
    floor = [factor(seen, simulated(TRUTH._replace(frac=rng.random((4, 3))))) for _ in range(3)]
    assert min(floor) > 0.2  # what chance gives


def test_langevin_finds_it_too(seen):
    descent = FEW._replace(method="langevin")
    values = solve(GRID, seen, TRUTH.numbers, lattice=CELL, starts=12, shape=SHAPE, descent=descent).properties[RWP]
    assert values[0] < 0.03


def test_starts_that_are_handed_in_are_used(seen):
    """A start near the truth stays there and one far off is worse; atoms may come in any order."""
    rng, turned = np.random.default_rng(1), np.array([3, 0, 2, 1])
    near = TRUTH._replace(numbers=TRUTH.numbers[turned], frac=TRUTH.frac[turned] + rng.normal(0, 0.01, (4, 3)))
    begin = datasets.from_entries([near._replace(frac=rng.random((4, 3))), near])
    quick = Descent(blur_degree=(0.0,), damping_angstrom2=(0.0,), steps=40, rate=0.005)
    answer = solve(GRID, seen, TRUTH.numbers, lattice=CELL, starts=begin, shape=SHAPE, descent=quick)
    assert answer.properties["start"][0] == 1 and answer.properties[RWP][0] < 0.03
    moved = answer.frac[:4] - TRUTH.frac
    moved = (moved - moved[3] + 0.5) % 1 - 0.5  # the origin is free
    assert np.abs(moved).max() < 0.01


def test_a_cell_is_found_from_near_it():
    """Simple cubic, 2 % too large at the start and sheared: back to a = 3.35 Å within a fifth of a width."""
    truth = Entry("po", np.array([84]), np.zeros((1, 3)), 3.35 * np.eye(3), {})
    begin = truth._replace(lattice=3.42 * np.eye(3) + np.array([[0, 0.04, 0], [0, 0, 0], [0.03, 0, 0]]))
    descent = Descent(blur_degree=(4.0, 0.0), damping_angstrom2=(0.0, 0.0), steps=60, rate=0.01)
    answer = solve(
        GRID, simulated(truth), truth.numbers, starts=datasets.from_entries([begin]), shape=SHAPE, descent=descent
    )
    assert answer.properties[RWP][0] < 0.05
    cell = answer.lattice[0].astype(float)
    np.testing.assert_allclose(cell @ cell.T, 3.35**2 * np.eye(3), atol=0.06)


def test_the_misfit_over_reflections_is_the_one_over_points(seen):
    """Sums over reflections where the cell is given, over the grid where it is free: one number, by `factor` too."""
    x, y, numbers = module._checked(GRID, seen, TRUTH.numbers, FEW)
    begin = module._starts(2, numbers, CELL, 16.0, 0)
    made = [
        module._problem(x, y, numbers, begin, fixed, scattering(), SHAPE, FEW, 1e-3, 71.0) for fixed in (True, False)
    ]
    cell = module.lattices.encode(begin.lattice[:1], jnp.ones(1))[0] / module._CELL
    points = {"frac": begin.frac[0]}, {"frac": begin.frac[0], "cell": cell}  # four atoms fill the slots
    last = [jax.tree.map(lambda leaf: leaf[-1], problem.data) for problem in made]
    misfits = [jax.jit(lambda q, d, p: module._misfit(q, d, p, 71.0, 0.0))(*three) for three in zip(made, last, points)]
    direct = factor(seen, simulated(TRUTH._replace(frac=np.asarray(begin.frac[0]))))
    # the box lists corners beyond 71 degrees whose tails reach into the data: 1e-3 of it
    np.testing.assert_allclose(np.sqrt(misfits), direct, atol=5e-3)


def test_overlap_of_two_atoms_across_a_face():
    crystal = Crystal(jnp.eye(3), jnp.array([[0.05, 0, 0], [0.95, 0, 0], [0.5, 0.5, 0.5]]), 5 * jnp.eye(3))
    cost = jax.jit(module._overlap)
    assert float(cost(crystal, jnp.array(2.0))) == pytest.approx((1 - 0.5 / 2) ** 2, rel=1e-4)
    assert float(cost(crystal, jnp.array(0.4))) == 0
    alone = crystal._replace(occupancy=jnp.diag(jnp.array([1.0, 0.0, 1.0])))  # an empty slot does not push
    assert float(cost(alone, jnp.array(2.0))) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"two_theta": GRID[::-1]}, "rising angles"),
        ({"intensity": np.zeros(301)}, "intensities above 0"),
        ({"intensity": np.zeros(3)}, "two equal rows"),
        ({"numbers": np.zeros(0)}, "atomic numbers"),
        ({"descent": Descent(method="luck")}, "method 'luck'"),
        ({"descent": Descent(blur_degree=(1.0,))}, "an entry a stage"),
        ({"starts": 0}, "0 starts"),
        ({"starts": datasets.from_entries([TRUTH._replace(numbers=np.array([8, 8, 8, 8]))])}, "other atoms"),
    ],
)
def test_mistakes_are_told(changed, message):
    given = {"two_theta": GRID, "intensity": np.ones(301), "numbers": TRUTH.numbers, "lattice": CELL} | changed
    with pytest.raises(ValueError, match=message):
        solve(given.pop("two_theta"), given.pop("intensity"), given.pop("numbers"), **given)
