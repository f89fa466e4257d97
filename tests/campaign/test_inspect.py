"""Gates on relaxed crystals: what a relaxation broke is named and is no hit, through a whole campaign."""

import numpy as np
import pytest

from crysjax.campaign.inspect import inspector
from crysjax.data import batching, datasets
from crysjax.data.datasets import Entry
from crysjax.evaluation.chemistry import oxidation_flag
from crysjax.evaluation.gates import gates

SHAPE = batching.Capacity(sites=12, pairs=24, crystals=3)
ROCK_SALT = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])


def rock_salt(name: str, numbers, a: float, shift: float = 0.0) -> Entry:
    """`shift` moves the second site towards the first, in cell lengths."""
    frac = ROCK_SALT - np.array([[0, 0, 0], [shift] * 3])
    return Entry(name, np.array(numbers), frac, a * (1 - np.eye(3)), {})


@pytest.fixture(scope="module")
def inspect():
    return inspector(gates(max_atoms=4), SHAPE)


def test_fused_and_blown_up_crystals_are_named(inspect):
    crystals = datasets.from_entries([
        rock_salt("MgO", [12, 8], 2.1), rock_salt("fused", [3, 22], 2.4, 0.35),
        rock_salt("gas", [12, 8], 6.0), rock_salt("CaO", [20, 8], 2.4),
    ])  # fmt: skip
    found = inspect(crystals)
    assert found.reason[0] == found.reason[3] == ""
    assert found.reason[1] == "sites too close: Li-Ti 1.25 Å; expected at least 1.93 Å (after relaxation)"
    assert found.reason[2] == "volume per atom out of range (after relaxation)"
    distance = found.notes["shortest_distance_angstrom"]
    assert distance[0] == pytest.approx(2.1, abs=1e-4)
    assert distance[1] == pytest.approx(0.3 * 2.4 * 3**0.5, abs=1e-4)  # farther than the 0.5 Å asked for elsewhere
    assert found.notes["closeness"][1] == pytest.approx(distance[1] / (1.28 + 1.60), rel=1e-3)


def test_what_is_unusual_is_noted_and_passes():
    flags = {"oxidation": lambda entry: oxidation_flag(entry.numbers)}  # as `cli/design.py` gives it
    found = inspector(gates(max_atoms=4), SHAPE, flags)(
        datasets.from_entries([rock_salt("MgO", [12, 8], 2.1), rock_salt("TiCl", [22, 17], 2.6)])
    )
    assert found.reason.tolist() == ["", ""] and found.notes["oxidation_flag"].tolist() == ["", "Ti(I)"], found.notes


def test_no_crystal_no_answer(inspect):
    empty = datasets.take(datasets.from_entries([rock_salt("MgO", [12, 8], 2.1)]), np.zeros(0, int))
    assert inspect(empty).reason.tolist() == []
