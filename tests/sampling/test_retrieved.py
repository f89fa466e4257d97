"""Known structures as templates: which can be, what is left out and said, and which are likelier."""

import numpy as np
import pytest

from crysjax.chemistry.oxidation import common_states
from crysjax.constraints.constraints import Constraints
from crysjax.data.datasets import Entry, from_entries
from crysjax.sampling import retrieved


def crystals(*numbers: list[int]):
    rows = [(n, np.arange(len(n))[:, None] / len(n) * np.ones(3)) for n in numbers]
    return from_entries([Entry(str(k), np.array(n), frac, 8 * np.eye(3), {}) for k, (n, frac) in enumerate(rows)])


def test_what_is_left_out_is_counted(capsys):
    given = crystals([11, 17], [3, 4, 5, 6, 7, 8, 9, 11, 12], [29, 79])
    assert len(retrieved.templates("templates", given)) == 2
    assert "1 of 3 structures are left out" in capsys.readouterr().err
    assert len(retrieved.templates("templates", given, Constraints(states=common_states()))) == 1
    assert "2 of 3 structures are left out" in capsys.readouterr().err


def test_none_that_can_be_is_refused():
    with pytest.raises(ValueError, match="none of 1 structures"):
        retrieved.templates("templates", crystals([29, 79]), Constraints(states=common_states()))
    with pytest.raises(ValueError, match="expected no formula"):
        retrieved.templates("templates", crystals([11, 17]), Constraints(formula={11: 1, 17: 1}))


def test_a_chance_is_the_share_of_exchanges_that_are_allowed():
    points = np.zeros((100, 1))
    points[[10, 18, 16, 34], 0] = 0.0, 1.0, 3.0, 5.0  # Na, K, Cl, Br
    config = {"elements": [11, 19, 17, 35], "settings": {"generator.elements": points.tolist(),
              "generator.sharpness": 1.0}}  # fmt: skip
    found = retrieved.chances(crystals([11, 17]), config, [11, 17])
    of_sodium = (1 + np.exp(-3)) / (1 + np.exp(-1) + np.exp(-3) + np.exp(-5))
    of_chlorine = (1 + np.exp(-3)) / (1 + np.exp(-3) + np.exp(-2) + np.exp(-2))
    assert found == pytest.approx([of_sodium * of_chlorine])
