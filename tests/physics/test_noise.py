"""The profile factor that noise gives: variances that are known, and a true and a wrong structure told apart."""

import numpy as np
import pytest

from crysjax.chemistry.scattering import scattering
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.physics.diffraction.noise import expected, variance
from crysjax.physics.diffraction.pattern import Reflections, Shape, profile
from crysjax.physics.diffraction.peaks import peaks
from crysjax.physics.diffraction.solve import RWP, solve

U = 0.305
OXYGEN = [[U, U, 0], [1 - U, 1 - U, 0], [0.5 + U, 0.5 - U, 0.5], [0.5 - U, 0.5 + U, 0.5]]
PLACES = np.array([[0, 0, 0], [0.5, 0.5, 0.5], *OXYGEN])
RUTILE = Entry("rutile", np.array([22, 22, 8, 8, 8, 8]), PLACES, np.diag([4.594, 4.594, 2.959]), {})
GRID, WIDTH = np.arange(15, 90, 0.02), 0.2
FLOOR = 355 + 1285 * np.exp(-(GRID - 15) / 25)

pytestmark = pytest.mark.usefixtures("light_compiles")


@pytest.fixture(scope="module")
def smooth() -> np.ndarray:
    """Rutile with 3,400 counts at the top on a background that falls from 1,640 to 419, shifted by 0.06 degrees."""
    found = peaks(datasets.from_entries([RUTILE]), scattering(dtype=np.float64), two_theta_degree=(10, 95))[0]
    lines = Reflections(found.two_theta, found.intensity, np.array(True))
    y = np.asarray(profile(lines, GRID - 0.06, Shape(w=WIDTH**2)), float)
    return 3400 * y / y.max() + FLOOR


def test_the_variance_is_that_of_counts_of_scaled_counts_and_of_none(smooth):
    """The median of 3,750 overlapping squares scatters by about 4 %; 15 % is beyond three such deviations."""
    counts = np.random.default_rng(0).poisson(smooth).astype(float)
    np.testing.assert_array_equal(variance(GRID, counts, WIDTH), counts)
    assert np.median(variance(GRID, 0.37 * counts, WIDTH) / (0.37**2 * smooth)) == pytest.approx(1, abs=0.15)
    assert (variance(GRID, smooth, WIDTH) < 0.01 * smooth).all()
    assert (variance(GRID, np.round(100 * smooth), WIDTH) < 0.5 * 100 * smooth).all()  # whole numbers, not counted
    assert (variance(GRID, smooth * np.pi, 0.05) == 0).all()  # peaks of two points are not told from noise


def test_expected_factor_by_hand():
    """4, 5 and 6 counts in turn, no background: Σ w σ² = N, Σ w y² = Σ y."""
    y = np.random.default_rng(1).permutation(np.tile([400.0, 500.0, 600.0], 40))
    found = expected(np.arange(1.0, 121), y, 5.0)
    assert found.rwp == pytest.approx(np.sqrt(119 / y.sum()), rel=1e-12)
    assert found.limit == pytest.approx(found.rwp * (1 + 3 / np.sqrt(240)), rel=1e-12)


def test_the_true_structure_is_accepted_under_noise_and_a_wrong_one_is_not(smooth):
    """Noise gives 24 % alone: rutile stays within it, rock salt's atoms in its cell do not, wherever they go."""
    y = np.random.default_rng(2).poisson(smooth).astype(float)
    given = {"lattice": RUTILE.lattice, "shape": Shape(w=WIDTH**2), "background": 6, "zero_degree": None}
    true = solve(GRID, y, RUTILE.numbers, starts=datasets.from_entries([RUTILE] * 4), **given)
    wrong = solve(GRID, y, np.repeat([11, 17], 4), starts=4, **given)
    limit = true.provenance["rwp_noise_limit"]
    assert limit == wrong.provenance["rwp_noise_limit"] and 0.2 < true.provenance["rwp_expected"] < limit
    assert true.properties[RWP][0] <= limit < wrong.properties[RWP][0]
