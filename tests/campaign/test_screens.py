"""Gates as a plan names them, and the penalty for leaving the heads' training data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Estimate
from crysjax.campaign import assemble, choices, screens
from crysjax.campaign import goals as targets
from crysjax.campaign.acquire import expected_improvement
from crysjax.campaign.goals import Goal
from crysjax.campaign.learners import SURROGATES
from crysjax.campaign.plan import Plan
from crysjax.campaign.propose import Steered, energy, proposer
from crysjax.data import batching, datasets
from crysjax.data.datasets import Entry
from crysjax.evaluation import gates
from crysjax.models import registry
from crysjax.predictors import synthesizability
from crysjax.predictors.predictor import Predictor

CORNERS = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
SALT = Entry("salt", np.array([55, 17]), CORNERS, 4.12 * np.eye(3), {})
PAIR = datasets.from_entries([SALT, Entry("odd", np.array([79, 2]), CORNERS, 6 * np.eye(3), {})])


def test_the_score_of_the_gate_is_that_of_the_shipped_model(light_compiles):
    chosen = Plan(target={"gap": [1, 2]}, elements=["O"], gates=["synthesizable"]).made("gates")
    found = gates.of_dataset(screens.made(chosen, 2), PAIR).more[gates.SYNTHESIZABLE]
    said = synthesizability.ask(registry.load_synthesizability("synthesizability"), PAIR, together=2)
    np.testing.assert_allclose(found.value, said.value, atol=1e-5)
    assert found.within.tolist() == (said.value >= 0.5).tolist() and found.value[0] > found.value[1]


def test_a_gate_that_is_not_named_loads_no_model():
    assert screens.screens(("apart",), scorer="nothing of this name").more == ()


def test_no_two_gates_share_the_name_of_a_setting():
    names = [inner for make in (screens.screens, *screens.GATES.values()) for inner in choices.defaults(make)]
    assert len(names) == len(set(names))


FAR = jnp.array([2.0, 6.0])  # of a limit of 4: inside, and half as far again


def predictor() -> Predictor:
    def said(params, pack):
        return Estimate(jnp.zeros((2, 1)), jnp.ones((2, 1)), jnp.ones((2, 1), bool))

    return Predictor(("energy",), (0.0,), (1.0,), said, lambda params, pack: jnp.zeros((2, 3)), 3, None,
                     novelty=lambda params, pack: FAR, limit=4.0)  # fmt: skip


def test_the_penalty_counts_multiples_of_the_limit_in_steering_and_in_choice():
    goals = targets.goals({"energy": Goal("minimise")}, ("energy",), (1.0,))
    shape = batching.Capacity(4, 2, 2)
    pack = jax.tree.map(jnp.asarray, batching.pack_rows(PAIR, np.arange(2), shape))
    assert energy(predictor(), None, goals)(pack).tolist() == [0, 0]
    assert energy(predictor(), None, goals, 3.0)(pack).tolist() == [0, 1.5]
    surrogate = SURROGATES["none"](2)
    yes = jnp.ones(2, bool)
    gated = gates.Gated(None, jnp.ones(2), yes, yes, yes, yes)

    def worth(penalty: float) -> np.ndarray:
        drawn = lambda *_: (pack, jnp.ones(2))  # noqa: E731
        propose = proposer(
            lambda aim: Steered(None, drawn), predictor(), goals, lambda pack: gated, surrogate,
            acquire=expected_improvement(), novelty_penalty=penalty,
        )  # fmt: skip
        fits = [surrogate.fit(None, jnp.zeros((2, 3)), jnp.zeros(2))]
        learned = targets_learned(fits)
        return np.asarray(propose(None, None, jax.random.key(0), pack, None, learned).worth)

    np.testing.assert_allclose(worth(0.0) - worth(3.0), [0, 1.5], atol=1e-6)


def targets_learned(fits: list):
    from crysjax.campaign.predictive import Learned

    return Learned(jnp.stack(fits), jnp.float32(0), jnp.float32(0))


def test_heads_without_a_limit_cannot_be_asked_for_a_penalty():
    plan = Plan(target={"energy": "minimize"}, elements=["O"], novelty_penalty=1.0)
    assemble._check_novelty(plan, predictor())
    with pytest.raises(
        ValueError, match=r"novelty_penalty: 1; .*expected 0, or heads trained with novelty, such as mp_"
    ):
        assemble._check_novelty(plan, predictor()._replace(novelty=None))
