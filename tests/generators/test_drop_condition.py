"""How often training sees each part of the conditions, and that every family's loss asks for it."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Condition, Network, Prediction
from crysjax.generators import coordinates, processes
from crysjax.generators.iterative import iterative

PATH = Path(__file__).parents[1] / "conformance" / "test_generators.py"
spec = importlib.util.spec_from_file_location("conformance_generators", PATH)
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)

CRYSTALS, KEYS = 64, 400
RATE = 0.15


def kept(k: int, rate: float = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Which of k properties, and whether the group, is left in fully given conditions: (draws, k), (draws,)."""
    whole = Condition(jnp.ones((CRYSTALS, k)), jnp.full(CRYSTALS, 225))
    keys = jax.random.split(jax.random.key(0), KEYS)
    left = jax.jit(jax.vmap(lambda key: coordinates.drop_condition(key, whole, rate)))(keys)
    return np.isfinite(left.properties).reshape(CRYSTALS * KEYS, k), np.asarray(left.space_group).reshape(-1) == 225


def error(share: float) -> float:
    return np.sqrt(share * (1 - share) / (CRYSTALS * KEYS))


@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_the_share_without_any_condition_is_the_rate_whatever_their_number(k):
    """Everything leaves together in 10 to 20 % of the cases, and exactly at the rate: 4 standard errors."""
    properties, group = kept(k)
    share = float((~properties.any(-1) & ~group).mean())
    assert 0.10 < share < 0.20
    assert abs(share - RATE) < 4 * error(RATE)


def test_conditions_also_leave_on_their_own():
    """Of three conditions, each by itself with probability r among crystals that keep any; all pairs are seen."""
    properties, group = kept(2)
    parts = np.concatenate([properties, group[:, None]], -1)
    some = parts[parts.any(-1)]
    alone = RATE - RATE**3  # lost, where losing all three means losing none
    assert np.abs((~some).mean(0) - alone).max() < 5 * error(alone)
    patterns = {tuple(row) for row in some.tolist()}
    assert len(patterns) == 7


def test_at_a_rate_of_zero_nothing_is_left_out():
    properties, group = kept(3, 0.0)
    assert properties.all() and group.all()


def test_what_was_never_given_does_not_count():
    """One property of two is known: its crystal is unconditional at the rate, not more often."""
    some = Condition(jnp.tile(jnp.array([[1.0, jnp.nan]]), (CRYSTALS * KEYS, 1)), jnp.zeros(CRYSTALS * KEYS, jnp.int32))
    left = coordinates.drop_condition(jax.random.key(1), some, RATE)
    share = float((~jnp.isfinite(left.properties)).all(-1).mean())
    assert abs(share - RATE) < 4 * error(RATE)


def test_the_network_of_a_loss_sees_unconditional_crystals_at_the_rate():
    """Through a whole loss: a network whose squared lattice error is 1 where it is told anything, else 0."""

    def apply(params, pack, context):
        groups = context[:, -coordinates.SPACE_GROUPS :]
        told = jnp.maximum(context[:, -coordinates.SPACE_GROUPS - 1], 1 - groups[:, 0])
        lattice = jnp.tile(told[:, None], (1, 6))
        return Prediction(jnp.zeros_like(pack.frac), lattice, pack.occupancy, pack.frac, lattice)

    generator = iterative(
        Network(lambda *_: {}, apply), frac=processes.torus_flow(), lattice=processes.euclidean_flow(),
        species=processes.simplex_flow(), property_center=(0.0,), property_scale=(1.0,), lattice_scale=(1e6,) * 6,
    )  # fmt: skip
    pack = table.make_pack(table.numbers_of(free=False))  # three crystals, in such units all at the origin
    asked = Condition(jnp.ones((4, 1)), jnp.full(4, 225))
    found = jax.jit(jax.vmap(lambda key: generator.loss({}, key, pack, asked)[1]["lattice"]))
    share = 1 - float(found(jax.random.split(jax.random.key(2), 4000)).mean())
    assert abs(share - RATE) < 4 * np.sqrt(RATE * (1 - RATE) / (3 * 4000))


@pytest.mark.parametrize("name", list(table.FAMILIES))
def test_every_family_drops_conditions_at_its_rate(name, monkeypatch):
    """Traced, not run: the one function is asked by the loss, with the default rate."""
    rates = []

    def spy(key, condition, rate, real=coordinates.drop_condition):
        rates.append(rate)
        return real(key, condition, rate)

    monkeypatch.setattr(coordinates, "drop_condition", spy)
    row, pack = table.FAMILIES[name], table.make_pack(table.numbers_of(free=False))
    condition = table.asked(pack, row.view(pack))
    params = jax.eval_shape(row.generator.init, jax.random.key(0), pack, condition)
    jax.eval_shape(row.generator.loss, params, jax.random.key(1), pack, condition)
    assert RATE in rates
