"""Structure from a pattern: Rwp by hand, two forms of the misfit, known structures and cells recovered, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal
from crysjax.chemistry.scattering import of_species, scattering
from crysjax.crystallography import matching
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.physics.diffraction import misfit as module
from crysjax.physics.diffraction import solve as search
from crysjax.physics.diffraction.misfit import factor
from crysjax.physics.diffraction.pattern import Shape, indices, pattern, reflections_needed, within
from crysjax.physics.diffraction.solve import COPIES, RWP, Descent, distinct, solve

GRID = np.linspace(10, 70, 301)
SHAPE = Shape(w=0.36)
CELL = np.array([[3.2, 0.0, 0.0], [0.3, 3.9, 0.0], [-0.2, 0.4, 4.6]])
PLACES = np.array([[0.1, 0.6, 0.2], [0.55, 0.2, 0.9], [0.6, 0.7, 0.05], [0.05, 0.15, 0.55]])
TRUTH = Entry("truth", np.array([8, 8, 22, 38]), PLACES, CELL, {})
FEW = Descent(blur_degree=(1.0, 0.0), damping_angstrom2=(3.0, 0.0), steps=60)


pytestmark = pytest.mark.usefixtures("light_compiles")


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
    x, y, numbers = search._checked(GRID, seen, TRUTH.numbers, FEW)
    begin = search._starts(2, numbers, CELL, 16.0, 0)
    make = {"closest": 1e-3, "reach": 71.0}
    made = [module.problem(numbers, begin.lattice, scattering(), SHAPE, fixed=f, **make) for f in (True, False)]
    cell = module.lattices.encode(begin.lattice[:1], jnp.ones(1))[0] / module.CELL
    points = {"frac": begin.frac[0]}, {"frac": begin.frac[0], "cell": cell}  # four atoms fill the slots
    blurs = FEW.blur_degree, FEW.damping_angstrom2
    last = [module.stages(problem, x, y, *blurs, fixed=f)[-1] for problem, f in zip(made, (True, False))]
    assert last[0].gram.size and not last[1].gram.size
    misfits = [jax.jit(lambda q, d, p: module.misfit(q, d, p, 71.0, 0.0))(*three) for three in zip(made, last, points)]
    direct = factor(seen, simulated(TRUTH._replace(frac=np.asarray(begin.frac[0]))))
    # the box lists corners beyond 71 degrees whose tails reach into the data: 1e-3 of it
    np.testing.assert_allclose(np.sqrt(misfits), direct, atol=5e-3)


def measured(y: np.ndarray) -> np.ndarray:
    """A pattern on a falling background with a hump, as high as a third of the strongest peak."""
    place = (GRID - 40) / 30
    return y + y.max() * (0.2 - 0.1 * place + 0.05 * place**2 - 0.04 * place**3)


def test_a_background_of_its_own_form_leaves_no_misfit(seen):
    """A cubic is within four terms: the true structure explains the sum, which without a background it does not."""
    y = measured(seen)
    assert factor(y, seen, GRID, 4) < 1e-6 < 0.2 < factor(y, seen)
    weight = module.weights(y)
    found = module.background.basis(GRID, weight, 4)
    np.testing.assert_allclose(found.T @ (weight[:, None] * found), np.eye(4), atol=1e-9)
    flat = module.background.without(np.polynomial.chebyshev.chebval((GRID - 40) / 30, [3, 1, 4, 1]), weight, found)
    assert np.abs(flat).max() < 1e-9


@pytest.mark.parametrize("fixed", [True, False])
def test_the_misfit_without_the_background_is_the_factor(seen, fixed):
    """Over reflections and over points, at a wrong structure."""
    y, wrong = measured(seen), TRUTH._replace(frac=np.random.default_rng(3).random((4, 3)))
    made = module.problem(TRUTH.numbers, CELL[None], scattering(), SHAPE, fixed=fixed, closest=1e-3, reach=71.0)
    (stage,) = module.stages(made, GRID, y, (0.0,), (0.0,), fixed=fixed, terms=4)
    point = {"frac": jnp.asarray(wrong.frac, jnp.float32)}
    if not fixed:
        point["cell"] = module.lattices.encode(jnp.asarray(CELL[None], jnp.float32), jnp.ones(1))[0] / module.CELL
    found = jax.jit(lambda q, d, p: module.misfit(q, d, p, 71.0, 0.0))(made, stage, point)
    np.testing.assert_allclose(np.sqrt(found), factor(y, simulated(wrong), GRID, 4), atol=5e-3)


def test_background_and_zero_shift_of_a_measured_pattern_are_found():
    """A shift of 0.13 degrees, a fifth of a width, to a hundredth; the structure is found where it was lost before."""
    y = measured(simulated(TRUTH, GRID - 0.13))
    answer = solve(GRID, y, TRUTH.numbers, lattice=CELL, starts=12, shape=SHAPE, descent=FEW, background=4,
                   zero_degree=None)  # fmt: skip
    assert answer.provenance["zero_degree"] == pytest.approx(0.13, abs=0.01)
    assert answer.properties[RWP][0] < 0.06
    match = matching.match_pairs(datasets.from_entries([TRUTH]), datasets.take(answer, np.arange(1)), processes=1)
    assert match.best[0] < 0.03
    plain = solve(GRID, y, TRUTH.numbers, lattice=CELL, starts=12, shape=SHAPE, descent=FEW)
    assert plain.properties[RWP][0] > 0.2


def test_overlap_of_two_atoms_across_a_face():
    crystal = Crystal(jnp.eye(3), jnp.array([[0.05, 0, 0], [0.95, 0, 0], [0.5, 0.5, 0.5]]), 5 * jnp.eye(3))
    cost = jax.jit(module.overlap)
    assert float(cost(crystal, jnp.array(2.0))) == pytest.approx((1 - 0.5 / 2) ** 2, rel=1e-4)
    assert float(cost(crystal, jnp.array(0.4))) == 0
    alone = crystal._replace(occupancy=jnp.diag(jnp.array([1.0, 0.0, 1.0])))  # an empty slot does not push
    assert float(cost(alone, jnp.array(2.0))) == 0


def test_a_fine_pattern_is_rebinned_and_solved_alike(seen, found):
    """Forty times as many points, as a diffractometer gives them: the same structure, and arrays no larger."""
    fine = np.linspace(10, 70, 12_001)
    descent, y = FEW._replace(steps=60), simulated(TRUTH, fine)
    narrow, points, step = module.binned(fine, y, SHAPE.w**0.5 / 4)
    assert step == pytest.approx(0.15) and len(narrow) == 401  # thirty points each, and the last one alone
    np.testing.assert_allclose(points[:-1].sum() * 30, y[:-1].sum(), rtol=1e-9)
    answer = solve(fine, y, TRUTH.numbers, lattice=CELL, starts=12, shape=SHAPE, descent=descent)
    assert answer.properties[RWP][0] < 0.03
    match = matching.match_pairs(datasets.from_entries([TRUTH]), datasets.take(answer, np.arange(1)), processes=1)
    assert match.best[0] < 0.03
    assert module.binned(GRID, seen, SHAPE.w**0.5 / 4)[0] is GRID  # a coarse one stays as it is


def test_memory_does_not_grow_with_the_points():
    """A free cell, 9,001 points and 64 starts, as measured patterns are: what a stage takes is that of a tile."""
    x = np.linspace(10, 100, 9_001)
    numbers = np.array([8, 8, 22])
    begin = search._starts(64, numbers, None, 16.0, 0)
    made = module.problem(numbers, begin.lattice, scattering(), Shape(), fixed=False, closest=None, reach=101.0)
    stages = module.stages(made, x, np.ones(9_001), (2.0, 0.0), (0.0, 0.0), fixed=False)
    assert len(stages[0].grid) < 200 and len(stages[1].grid) < 3_700
    point = {"frac": jnp.zeros((8, len(made.occupancy), 3)), "cell": jnp.zeros((8, 6))}
    run = search._stage.lower(made, stages[1], jax.random.split(jax.random.key(0), 8), point, 1.0, FEW, 101.0, False)
    assert run.compile().memory_analysis().temp_size_in_bytes < 100e6


def test_no_reflection_is_missing_from_a_cell_that_moves():
    """Any cell that a start becomes by strains of up to 20 % in any direction: all that it has within the angles."""
    rng, numbers = np.random.default_rng(0), np.array([8, 22])
    begin = search._starts(4, numbers, None, 16.0, 0)
    made = module.problem(numbers, begin.lattice, scattering(), Shape(), fixed=False, closest=None, reach=80.0)
    listed = {tuple(h) for h in np.asarray(made.given.hkl).tolist()}
    assert len(listed) < 0.7 * len(made.every.hkl)
    angle = {"wavelength_angstrom": 1.54184, "two_theta_max_degree": 80.0}
    for k in range(20):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        cell = np.asarray(begin.lattice[k % 4], float) @ turn @ np.diag(rng.uniform(0.7, 1.2, 3)) @ turn.T
        wide = indices(reflections_needed(cell, **angle))
        needed = {tuple(h) for h in within(wide, cell, **angle).hkl.tolist()}
        assert len(needed) > 10 and all(h in listed or tuple(-n for n in h) in listed for h in needed)


def test_copies_are_removed_and_counted(seen):
    """One structure in other cells, origins and handedness is one candidate; another volume or structure is not."""
    mirrored = TRUTH._replace(frac=-PLACES + 0.3)
    basis = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    other_cell = TRUTH._replace(lattice=basis @ CELL, frac=PLACES @ np.linalg.inv(basis))
    apart = TRUTH._replace(frac=PLACES + np.array([[0.3, 0, 0], [0, 0, 0], [0, 0.2, 0], [0, 0, 0]]))
    rows = [TRUTH, mirrored, other_cell, TRUTH._replace(lattice=1.1 * CELL), apart, TRUTH]
    entries = [row._replace(id=str(k), properties={RWP: 0.85}) for k, row in enumerate(rows)]
    entries[-1] = entries[-1]._replace(properties={RWP: 0.95})  # as far from the pattern as nothing else
    best = distinct(datasets.from_entries(entries), 10)
    assert best.ids.tolist() == ["0", "3", "4", "5"] and best.properties[COPIES].tolist() == [3, 1, 1, 1]
    assert distinct(datasets.from_entries(entries), 2).ids.tolist() == ["0", "3"]


def test_progress_is_told_from_the_start(seen):
    told = []
    descent = FEW._replace(steps=1)
    solve(
        GRID,
        seen,
        TRUTH.numbers,
        lattice=CELL,
        starts=3,
        shape=SHAPE,
        descent=descent,
        progress=lambda *a: told.append(a),
    )
    assert told[0] == (0, 3) and [t[:2] for t in told[1:]] == [(0, 3), (3, 3)] and "Rwp" in told[-1][2]


def test_starts_that_break_are_left_out_and_counted(seen, monkeypatch):
    """One cell that collapsed does not take the others with it."""
    cells = np.stack([CELL, np.zeros((3, 3)), np.full((3, 3), np.nan)]).astype(np.float32)
    final = Crystal(None, np.tile(PLACES, (3, 1, 1)).astype(np.float32), cells)
    found = search._ranked(final, np.array([0.3, 0.1, np.nan]), np.sort(TRUTH.numbers))
    assert len(found) == 1 and found.provenance["broken"] == 2 and found.properties[RWP][0] == np.float32(0.3)
    with pytest.raises(ValueError, match="none of 3 starts"):
        search._ranked(final, np.full(3, np.nan), np.sort(TRUTH.numbers))


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
