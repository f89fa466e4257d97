"""Guidance over several conditions against closed forms: Gaussians, and the sampler of a model that is exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Condition, Network, Pack, Prediction, num_sites, one_hot
from crysjax.generators import processes
from crysjax.generators.classifier_free import guided
from crysjax.generators.iterative import iterative
from crysjax.geometry import lattice as lattices

# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
NAN = float("nan")


def condition(rows: list[list[float]], groups: list[int] | None = None) -> Condition:
    values = jnp.asarray(rows, jnp.float32)
    return Condition(values, jnp.asarray(groups or [0] * len(rows), jnp.int32))


# x ~ N(0, 4); reading k of it, c_k = x + noise of variance S[k]; the space group is a third reading, of variance 3
PRIOR, SPREAD, GROUP_SPREAD = 0.25, (0.5, 2.0), 3.0


def score(x: jax.Array, asked: Condition) -> jax.Array:
    """d/dx log p(x | what is given), in closed form: (b,)."""
    given = jnp.isfinite(asked.properties)
    spread = jnp.asarray(SPREAD)[None]
    pulls = jnp.where(given, (jnp.where(given, asked.properties, 0) - x[:, None]) / spread, 0).sum(-1)
    group = jnp.where(asked.space_group > 0, (asked.space_group.astype(x.dtype) - x) / GROUP_SPREAD, 0)
    return -PRIOR * x + pulls + group


X = jnp.asarray(np.random.default_rng(0).normal(size=4) * 2, jnp.float32)
ASKED = condition([[1.0, -2.0], [0.5, NAN], [NAN, 3.0], [NAN, NAN]], [2, 0, 7, 0])


def compose(weights, asked=ASKED) -> jax.Array:
    return jit(lambda x: guided(lambda c: score(x, c), asked, weights))(X)


def test_weights_of_one_give_the_score_under_all_conditions():
    """Conditions are independent given x here, so the composed score is the joint one exactly (Liu et al. 2022)."""
    np.testing.assert_allclose(compose((1.0, 1.0, 1.0)), score(X, ASKED), rtol=1e-5, atol=1e-6)


def test_any_weights_give_the_tilted_gaussian():
    """p(x) prod_k p(c_k | x)^w_k is a Gaussian; its score by hand, in float64, for the first crystal."""
    weights, x = (1.5, 0.5, 2.0), float(X[0])
    expected = -PRIOR * x + 1.5 * (1 - x) / 0.5 + 0.5 * (-2 - x) / 2.0 + 2.0 * (2 - x) / 3.0
    np.testing.assert_allclose(compose(weights)[0], expected, rtol=1e-5)


def test_no_weight_is_unconditional_and_a_single_one_is_that_condition():
    nothing = condition([[NAN, NAN]] * 4)
    np.testing.assert_allclose(compose((0.0, 0.0, 0.0)), score(X, nothing), rtol=1e-6)
    first = condition([[1.0, NAN], [0.5, NAN], [NAN, NAN], [NAN, NAN]])
    np.testing.assert_allclose(compose((1.0, 0.0, 0.0)), score(X, first), rtol=1e-5, atol=1e-6)
    group = condition([[NAN, NAN]] * 4, [2, 0, 7, 0])
    np.testing.assert_allclose(compose((0.0, 0.0, 1.0)), score(X, group), rtol=1e-5, atol=1e-6)


def test_what_is_not_given_contributes_nothing():
    """Weights of conditions that a crystal lacks do not matter to it, however large."""
    loud, quiet = compose((1.0, 50.0, 50.0)), compose((1.0, 0.0, 0.0))
    np.testing.assert_allclose(loud[1], quiet[1], rtol=1e-6)
    np.testing.assert_allclose(compose((9.0, 9.0, 9.0))[3], score(X, condition([[NAN, NAN]] * 4))[3], rtol=1e-6)


def test_a_single_number_weighs_all_conditions_together():
    free, given = score(X, condition([[NAN, NAN]] * 4)), score(X, ASKED)
    np.testing.assert_allclose(compose(1.5), 2.5 * given - 1.5 * free, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(compose(0.0), jit(score)(X, ASKED))


@pytest.mark.parametrize(("weights", "passes"), [(0.0, 1), (2.0, 2), ((1.0, 0.0, 2.0), 3), ((0.0, 0.0, 0.0), 1)])
def test_weights_of_zero_cost_no_pass(weights, passes):
    """One call of the network, over a new axis as long as there are answers needed."""
    seen = []

    def network(c: Condition) -> jax.Array:
        seen.append(c)
        return X

    text = str(jax.make_jaxpr(lambda p: guided(network, ASKED._replace(properties=p), weights))(ASKED.properties))
    assert len(seen) == 1
    assert (f"[{passes},4,2]" in text) == (weights != 0.0)


# The lattice coordinates of crystals under conditions (a, b): N(MEAN + a U + b V, STD^2), equal spreads. Under equal
# spreads guided flow matching is exact at every time, and its law is N(MEAN + w_a a U + w_b b V, STD^2).
MEAN, U, V, STD = 0.3, 0.8, -0.5, 0.4
WEIGHTS, ASK = (1.5, 0.6, 0.0), (1.0, 2.0)


def exact(shift=lambda values: values[:, 0] * U + values[:, 1] * V) -> Network:
    """E[x_0 | x_t] of the flow x_t = (1 - t) x_0 + t z, for the lattice; everything else is left alone."""

    def apply(params, pack: Pack, context: jax.Array) -> Prediction:
        t, values = context[:, 32:33], context[:, 33:35]
        x = params["coordinates"](pack)
        mean = jnp.broadcast_to(MEAN + shift(values)[:, None], x.shape)
        gain = STD**2 * (1 - t) / ((1 - t) ** 2 * STD**2 + t**2)
        clean = mean + gain * (x - (1 - t) * mean)
        return Prediction(jnp.zeros_like(pack.frac), clean, pack.occupancy, pack.frac, clean)

    return Network(lambda *_: {}, apply)


CRYSTALS = 1000


def template() -> Pack:
    """As many slots of one carbon each."""
    owner, lattice = jnp.arange(CRYSTALS, dtype=jnp.int32), jnp.tile(jnp.eye(3), (CRYSTALS, 1, 1))
    pairs, species = jnp.zeros((1, 2), jnp.int32), one_hot(jnp.full(CRYSTALS, 6))
    return Pack(species, jnp.zeros((CRYSTALS, 3)), lattice, owner, pairs, jnp.zeros(1))


def drawn(network: Network, guidance, asked: tuple[float, float]) -> np.ndarray:
    """Standardized lattice coordinates (crystals, 6) of samples."""
    center, scale = (0.0,) * 5 + (1.6,), (0.1,) * 6
    generator = iterative(
        network, frac=processes.torus_flow(), lattice=processes.euclidean_flow(), species=processes.simplex_flow(),
        steps=25, guidance=guidance, lattice_center=center, lattice_scale=scale, property_center=(0.0, 0.0),
        property_scale=(1.0, 1.0),
    )  # fmt: skip

    def coordinates(pack: Pack) -> jax.Array:
        return (lattices.encode(pack.lattice, num_sites(pack)) - jnp.asarray([center])) / jnp.asarray([scale])

    def sampled(key):
        out = generator.sample({"coordinates": coordinates}, key, template(), condition([list(asked)] * CRYSTALS))
        return coordinates(out)

    return np.asarray(jit(sampled)(jax.random.key(0)), np.float64)


def test_the_guided_sampler_draws_the_guided_law():
    found = drawn(exact(), WEIGHTS, ASK)
    mean = MEAN + WEIGHTS[0] * ASK[0] * U + WEIGHTS[1] * ASK[1] * V
    # an Euler step carries the mean exactly: only sampling error is left
    np.testing.assert_allclose(found.mean(), mean, atol=4 * found.std() / np.sqrt(found.size))
    # the same noise through a model whose conditional law is that one: equal up to rounding, sample by sample
    same = exact(lambda values: WEIGHTS[0] * values[:, 0] * U + WEIGHTS[1] * values[:, 1] * V)
    np.testing.assert_allclose(found, drawn(same, 0.0, ASK), atol=2e-3)


@pytest.mark.parametrize("guidance", [(1.0,), (1.0, 1.0), (1.0, 1.0, 1.0, 1.0)])
def test_another_number_of_weights_is_an_error(guidance):
    with pytest.raises(ValueError, match=r"guidance: \d weights; expected one number .* or 3: one per property"):
        drawn(exact(), guidance, ASK)
