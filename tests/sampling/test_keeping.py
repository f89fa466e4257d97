"""What samplers are asked to keep: which sizes are drawn, and what is kept by drawing again."""

import numpy as np
import pytest

from crysjax.constraints.constraint import Fixed
from crysjax.constraints.constraints import Constraints, compiled
from crysjax.sampling import keeping

SIZES = {n: 1 for n in range(1, 9)}
STATES = {3: (1,), 8: (-2,)}


def fixed(*numbers: int) -> Fixed:
    places = np.arange(3 * len(numbers)).reshape(-1, 3) / 100
    return Fixed(np.array(numbers), places.astype(np.float32))


@pytest.mark.parametrize(
    ("formula", "numbers", "possible"),
    [
        ({11: 1, 17: 1}, (11, 11, 11), [6, 8]),
        ({11: 1, 17: 1}, (11, 17), [2, 4, 6, 8]),
        ({22: 1, 8: 2}, (8, 8, 8), [6]),
        ({22: 1, 8: 2}, (22,), [3, 6]),
    ],
)
def test_sizes_of_a_formula_hold_the_fixed_part(formula, numbers, possible):
    """Three Na of NaCl need three units, three O of TiO2 two: sizes by hand."""
    wanted = Constraints(formula=formula, fixed=fixed(*numbers))
    assert list(keeping.sizes(wanted, SIZES, [8, 11, 17, 22])) == possible
    compiled(wanted, possible)


def test_a_fixed_part_that_no_size_holds_says_how_many_atoms_it_needs():
    wanted = Constraints(formula={11: 1, 17: 1}, fixed=fixed(*[11] * 5))
    with pytest.raises(
        ValueError, match=r"^--formula: a unit has 2 atoms, and at least 10 are needed; the model draws cells of 1 to 8"
    ):
        keeping.sizes(wanted, SIZES, [11, 17])


def test_what_orbits_cannot_keep_is_kept_by_drawing_again():
    asked = Constraints(
        space_groups=(225,), min_distance_angstrom=1.5, num_elements=(2, 3), states=STATES, density_g_cm3=(3.0, 5.0)
    )
    rejected = Constraints(
        min_distance_angstrom=1.5, num_elements=(2, 3), states=STATES, density_g_cm3=(3.0, 5.0)
    )  # fmt: skip
    assert keeping.by_rejection(asked) == rejected
    assert keeping.drawn_by(asked) == Constraints(space_groups=(225,))
    of_formula = asked._replace(formula={3: 2, 8: 1})
    assert keeping.by_rejection(of_formula) == Constraints(min_distance_angstrom=1.5, density_g_cm3=(3.0, 5.0))
    free = asked._replace(space_groups=())
    assert keeping.by_rejection(free) == Constraints(density_g_cm3=(3.0, 5.0))
    assert keeping.drawn_by(free) == free._replace(density_g_cm3=None)
