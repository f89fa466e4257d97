"""Charge balance against brute force over all assignments, and against chemistry that everyone agrees on."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from crysjax.base import NUM_SPECIES, Crystal, one_hot
from crysjax.chemistry import element_properties as tables
from crysjax.physics import charge

STATES = (-2, -1, 0, 1, 3)
SLOTS = 6


jitted = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def crystal_of(numbers) -> Crystal:
    filled = jnp.asarray(np.pad(np.asarray(numbers), (0, SLOTS - len(numbers))))
    return Crystal(one_hot(filled), jnp.zeros((SLOTS, 3)), 5 * jnp.eye(3))


def enumerated(numbers, table: np.ndarray, states: tuple[int, ...]) -> np.ndarray:
    """Log-likelihoods of all neutral assignments of a state to each atom."""
    found = []
    for chosen in product(range(len(states)), repeat=len(numbers)):
        if sum(states[k] for k in chosen) == 0:
            found.append(sum(table[z - 1, k] for z, k in zip(numbers, chosen)))
    return np.array(found)


@pytest.mark.parametrize("all_together", [False, True])
def test_equal_to_brute_force(all_together):
    """Made probabilities of five states; float32 sums of up to six logarithms of size 3: a few 1e-6."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 50, (NUM_SPECIES, len(STATES)))
    table = charge.log_probabilities(counts)
    np.testing.assert_allclose(np.exp(table).sum(1), 1, atol=1e-12)
    head = jitted(charge.charge_balance_log_likelihood(counts, STATES, all_together=all_together))
    for size in (1, 2, 3, 4, 5, 6) * 3:
        numbers = rng.integers(1, 100, size)
        every = enumerated(numbers, table, STATES)
        expected = (logsumexp(every) if all_together else every.max()) / size
        found = head(crystal_of(numbers))
        assert found.valid and float(found.value) == pytest.approx(expected, abs=5e-6)


def test_compositions_that_cannot_be_neutral():
    """Without the state 0 an element alone never is, and three atoms of odd charge never are."""
    counts = np.full((NUM_SPECIES, 2), 7)
    for together in (False, True):
        head = jitted(charge.charge_balance_log_likelihood(counts, (-1, 1), all_together=together))
        found = head(crystal_of([11, 11, 17]))
        assert not found.valid and found.value == 0
        assert head(crystal_of([11, 17])).valid


def test_chemistry():
    """Iron is 3+ in Fe2O3 and mixed in Fe3O4; peroxide is rarer than oxide."""
    counts = tables.oxidation_counts()
    log, column = charge.log_probabilities(counts), {q: i for i, q in enumerate(tables.STATES)}
    head = jitted(charge.charge_balance_log_likelihood(counts, tables.STATES))
    value = lambda *numbers: float(head(crystal_of(numbers)).value)  # noqa: E731
    oxide = (2 * log[25, column[3]] + 3 * log[7, column[-2]]) / 5
    assert value(26, 26, 8, 8, 8) == pytest.approx(oxide, abs=1e-5)
    mixed = (log[25, column[2]] + log[25, column[3]] + 2 * log[7, column[-2]] + log[16, column[-1]]) / 5
    assert value(26, 26, 8, 8, 17) == pytest.approx(mixed, abs=1e-5)
    assert value(11, 17) > value(12, 17) and value(12, 8) > value(11, 8)
    never = int(np.flatnonzero(counts.sum(1) == 0)[0]) + 1
    assert not head(crystal_of([never, 8])).valid


def test_electronegativity_difference():
    scale = tables.electronegativities()
    head = jitted(charge.electronegativity_difference(scale))
    assert float(head(crystal_of([11, 17])).value) == pytest.approx(3.16 - 0.93, abs=1e-6)
    assert float(head(crystal_of([26, 26])).value) == 0
    assert float(head(crystal_of([55, 8, 26])).value) == pytest.approx(3.44 - 0.79, abs=1e-6)
    assert not head(crystal_of([2, 8])).valid


def test_bad_tables_are_errors():
    with pytest.raises(ValueError, match=r"counts: shape \(3, 2\)"):
        charge.charge_balance_log_likelihood(np.ones((3, 2)), (-1, 1))
    with pytest.raises(ValueError, match="states: 2 of them, all different, for 3 columns"):
        charge.charge_balance_log_likelihood(np.ones((NUM_SPECIES, 3)), (-1, 1))
