"""What pair potentials share: how an edge ends, and how much of it belongs to which elements."""

import jax
import numpy as np
import pytest

from crysjax.base import Crystal
from crysjax.data.batching import Capacity
from crysjax.potentials.pair import halved, listed_pairs, pair_fade, pair_weights


def test_the_fade_is_flat_to_third_order_at_both_ends():
    h = np.array([0.004, 0.002])
    with jax.enable_x64(True):
        start, end = 1 - np.asarray(pair_fade(0.9 + h)), np.asarray(pair_fade(1 - h))
        np.testing.assert_allclose(pair_fade(np.array([0.0, 0.9, 1.0, 2.0])), [1, 1, 0, 0], rtol=1e-15)
    assert abs(np.log2(start[0] / start[1]) - 3) < 0.1 and abs(np.log2(end[0] / end[1]) - 3) < 0.1


def test_an_edge_is_shared_among_the_pairs_of_elements_at_its_ends(toys):
    """Weights of all pairs of three elements add up to one; those of the four draws of a mixed pair are products."""
    rng, numbers = np.random.default_rng(0), (3, 8, 26)
    every = tuple((b, a, 0.0) for a in numbers for b in numbers if a <= b)
    ends, values = listed_pairs(every, numbers, ("energy_ev",))
    rows = np.zeros((3, 100))
    rows[:, np.array(numbers) - 1] = rng.dirichlet(np.ones(3), 3)
    pack = toys.make_pack([Crystal(rows, rng.random((3, 3)), 4 * np.eye(3))], Capacity(3, 6, 1), float)
    graph = toys.make_graph(pack, 4.5, None)
    with jax.enable_x64(True):
        weights = np.asarray(pair_weights(pack.occupancy, graph, ends))
        energy = np.asarray(halved(weights[:, 4], graph, 3)).sum()
    assert values == {"energy_ev": [0.0] * 6} and list(map(tuple, ends + 1)) == [tuple(sorted(p[:2])) for p in every]
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-12)
    a, b = rows[graph.receiver], rows[graph.sender]
    of_26_8 = a[:, 25] * b[:, 7] + a[:, 7] * b[:, 25]
    np.testing.assert_allclose(weights[:, 4], of_26_8, rtol=1e-12)
    np.testing.assert_allclose(weights[:, 0], a[:, 2] * b[:, 2], rtol=1e-12)
    np.testing.assert_allclose(energy, (of_26_8 * graph.mask).sum() / 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ((), r"pairs: \[\]; expected different pairs of elements, one at least"),
        (((3, 8, 1.0), (8, 3, 2.0)), r"pairs: \[\(3, 8\), \(3, 8\)\]; expected different pairs"),
        (((3, 9, 1.0),), r"pairs: \[3, 9, 1.0\]; expected two of the elements \[3, 8\], energy_ev"),
        (((3, 8),), r"pairs: \[3, 8\]; expected two of the elements \[3, 8\], energy_ev"),
    ],
)
def test_rows_that_are_no_pairs_are_named(pairs, says):
    with pytest.raises(ValueError, match=says):
        listed_pairs(pairs, (3, 8), ("energy_ev",))
