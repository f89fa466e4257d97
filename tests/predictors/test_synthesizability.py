"""Positive-unlabeled risk against closed forms on Gaussians, a known posterior recovered, bagging, shares, oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, Crystal, Network, Oracle, Pack, Prediction, mean_by_crystal, one_hot
from crysjax.data import datasets
from crysjax.predictors import ensembles
from crysjax.predictors import synthesizability as pu

PRIOR, MADE, NOT = 0.3, 1.0, -1.0  # two unit Gaussians in one dimension, at the two means
SLOPE, OFFSET = 0.7, -0.4  # a classifier that is not the best one
EXACT = (MADE - NOT, float(np.log(PRIOR / (1 - PRIOR))))  # slope and offset of the posterior's logit


pytestmark = pytest.mark.usefixtures("light_compiles")


def gaussian_mean(function, center: float) -> float:
    """Expectation over a unit Gaussian by Gauss-Hermite quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(80)
    return float((function(x + center) * w).sum() / w.sum())


def softplus(x):
    return np.logaddexp(0, x)


def samples(rng, batches: int, n: int, share: float = PRIOR):
    """`batches` of n labeled and 2 n unlabeled draws: x and observed, (batches, 3 n)."""
    made = rng.random((batches, 2 * n)) < share
    unlabeled = rng.normal(np.where(made, MADE, NOT))
    x = np.concatenate([rng.normal(MADE, 1, (batches, n)), unlabeled], 1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(np.arange(3 * n)[None] < n).repeat(batches, 0)


def risks(x, observed, risk: str, slope=SLOPE, offset=OFFSET, weight=None):
    """The risk of the linear classifier on every batch."""
    weight = jnp.ones_like(x) if weight is None else weight
    one = lambda x, o, w: pu.pu_risk(slope * x + offset, o, w, prior=PRIOR, risk=risk)  # noqa: E731
    return jax.jit(jax.vmap(one))(x, observed, weight)


def test_risk_is_that_of_data_with_both_labels():
    """The mean over batches against the integral, within four standard errors; and the plain classifier is not."""
    logit = lambda x: SLOPE * x + OFFSET  # noqa: E731
    positive = PRIOR * gaussian_mean(lambda x: softplus(-logit(x)), MADE)
    negative = (1 - PRIOR) * gaussian_mean(lambda x: softplus(logit(x)), NOT)
    x, observed = samples(np.random.default_rng(0), 4000, 10)
    value, metrics = risks(x, observed, "unbiased")
    parts = metrics["risk_positive"], metrics["risk_negative"]
    for found, exact in zip((value, *parts), (positive + negative, positive, negative)):
        error = float(found.std()) / np.sqrt(len(x))
        assert abs(float(found.mean()) - exact) < 4 * error and error < 0.01 * exact
    # the fault this guards against: unlabeled taken as negative counts the hidden ones as well
    assert PRIOR * gaussian_mean(lambda x: softplus(logit(x)), MADE) > 20 * error


def test_risk_does_not_mind_weights_but_reads_them():
    """Weights drawn independently leave the expectation; a weight of 0 is a crystal that is not there."""
    x, observed = samples(np.random.default_rng(1), 4000, 10)
    drawn = jax.random.exponential(jax.random.key(0), x.shape)
    plain, weighed = (risks(x, observed, "unbiased", weight=w)[0] for w in (jnp.ones_like(x), drawn))
    assert abs(float((plain - weighed).mean())) < 4 * float((plain - weighed).std()) / np.sqrt(len(x))
    holed = drawn.at[:, ::3].set(0)
    rest = np.arange(x.shape[1]) % 3 > 0
    np.testing.assert_allclose(
        risks(x, observed, "non_negative", weight=holed)[0],
        risks(x[:, rest], observed[:, rest], "non_negative", weight=drawn[:, rest])[0],
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_negative_part_is_kept_at_zero_and_pushed_back():
    """Where the negative part is below zero: the value leaves it out, and the gradient is its opposite's alone."""
    x, observed = samples(np.random.default_rng(2), 2000, 2)
    steep = {"slope": 4.0, "offset": -1.0}
    value, metrics = risks(x, observed, "non_negative", **steep)
    below = np.asarray(metrics["risk_negative"]) < 0
    assert 0.05 < below.mean() < 0.95
    np.testing.assert_array_equal(metrics["pushed_back"], below)
    np.testing.assert_allclose(value, metrics["risk_positive"] + np.maximum(metrics["risk_negative"], 0), atol=1e-6)

    def slope_of(index: int, name: str | None) -> float:
        def of(slope):
            value, parts = pu.pu_risk(
                slope * x[index] - 1.0, observed[index], jnp.ones_like(x[index]), prior=PRIOR,
                risk="unbiased" if name else "non_negative",
            )  # fmt: skip
            return parts[name] if name else value

        return float(jax.grad(of)(4.0))

    bad, good = int(np.flatnonzero(below)[0]), int(np.flatnonzero(~below)[0])
    np.testing.assert_allclose(slope_of(bad, None), -slope_of(bad, "risk_negative"), rtol=1e-5)
    both = slope_of(good, "risk_positive") + slope_of(good, "risk_negative")
    np.testing.assert_allclose(slope_of(good, None), both, rtol=1e-5)
    assert abs(slope_of(bad, "risk_positive")) > 1e-3


def test_a_pack_without_both_kinds_counts_nothing():
    logit = jnp.array([0.3, -2.0, 1.0])
    of = jax.jit(jax.value_and_grad(lambda g, o: pu.pu_risk(g, o, jnp.ones(3), prior=PRIOR)[0]))
    assert of(logit, jnp.arange(3) > 0)[0] > 0.1
    for observed in (jnp.ones(3, bool), jnp.zeros(3, bool)):
        value, gradient = of(logit, observed)
        assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("risk", ["non_negative", "unbiased"])
def test_the_posterior_is_recovered(risk):
    """The minimizer over linear logits is the posterior: Newton's method on 24 data sets, mean within 4 errors."""
    x, observed = samples(np.random.default_rng(3), 24, 4000)

    def fit(x, observed):
        def of(w):
            return pu.pu_risk(w[0] * x + w[1], observed, jnp.ones_like(x), prior=PRIOR, risk=risk)[0]

        def step(w, _):
            (a, b), (_, d) = jax.hessian(of)(w)
            g = jax.grad(of)(w)
            return w - jnp.stack([d * g[0] - b * g[1], a * g[1] - b * g[0]]) / (a * d - b * b), None

        return jax.lax.scan(step, jnp.zeros(2), None, length=12)[0]

    found = np.asarray(jax.jit(jax.vmap(fit))(x, observed), np.float64)
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    assert (abs(found.mean(0) - EXACT) < 4 * error).all(), (found.mean(0), error)
    assert (error < 0.05).all()


def test_the_ratio_of_densities_is_the_minimizer():
    """Two kinds of crystals in exact proportion: 4 of 5 made ones and 19 of 50 unlabeled ones are of kind 1."""
    kind = jnp.asarray(np.repeat([1, 0, 1, 0], [40, 10, 19, 31]))
    observed = jnp.arange(100) < 50
    at = jnp.log(jnp.array([0.2 / 0.62, 0.8 / 0.38]))  # densities of made over unlabeled, which are 0.3 made
    of = jax.value_and_grad(lambda g: pu.pu_risk(g[kind], observed, jnp.ones(100), prior=PRIOR, risk="ratio")[0])
    np.testing.assert_allclose(of(at)[1], 0, atol=1e-6)
    assert abs(of(jnp.zeros(2))[1]).min() > 0.05


def test_the_ratio_becomes_a_posterior():
    """The prior times the odds, at most 1: for those two kinds 0.06 / 0.62 and 0.24 / 0.38, the shares of the made."""
    pack = make_pack(3)
    ratio = pu.classifier(table_network(), prior=PRIOR, hidden=8, risk="ratio")
    params = INIT(jax.random.key(0), pack)
    for logit, exact in ((np.log(0.2 / 0.62), 0.06 / 0.62), (np.log(0.8 / 0.38), 0.24 / 0.38), (9.0, 1.0)):
        head = {k: jnp.zeros_like(v) for k, v in params["head"].items()}
        head |= {"second_bias": jnp.full((1,), logit, jnp.float32)}
        np.testing.assert_allclose(ratio.predict(params | {"head": head}, pack).value[:10], exact, rtol=1e-5)


def table_network() -> Network:
    """A table of features of the elements, averaged."""

    def init(key, pack, context):
        return {"table": 0.5 * jax.random.normal(key, (NUM_SPECIES, 8))}

    def apply(params, pack, context):
        sites = pack.occupancy @ params["table"]
        zeros = jnp.zeros((pack.lattice.shape[0], 6))
        return Prediction(pack.frac, zeros, pack.occupancy, sites, mean_by_crystal(sites, pack))

    return Network(init, apply)


def make_pack(seed: int, crystals: int = 12, used: int = 10) -> Pack:
    """Crystals of two sites, each with its own lattice; the last slots are unused."""
    rng = np.random.default_rng(seed)
    real = np.arange(2 * crystals) < 2 * used
    lattice = np.where(np.arange(crystals)[:, None, None] < used, np.eye(3) + rng.random((crystals, 3, 3)), np.eye(3))
    return Pack(
        one_hot(jnp.asarray(np.where(real, rng.integers(1, 6, 2 * crystals), 0))), jnp.zeros((2 * crystals, 3)),
        jnp.asarray(lattice, jnp.float32), jnp.arange(2 * crystals, dtype=jnp.int32) // 2,
        jnp.zeros((1, 2), jnp.int32), jnp.zeros(1),
    )  # fmt: skip


ONE = pu.classifier(table_network(), prior=PRIOR, hidden=8)
INIT, LOSS, PREDICT = (jax.jit(f) for f in (ONE.init, ONE.loss, ONE.predict))


def test_loss_by_hand_and_what_a_label_may_be():
    """0 and missing are the same; slots without a crystal count nothing, whatever is written there."""
    pack, key = make_pack(0), jax.random.key(0)
    params, ones = INIT(key, pack), jnp.ones(12)
    targets = jnp.where(jnp.arange(12)[:, None] % 3 == 0, 1.0, jnp.nan)
    value, _ = LOSS(params, key, pack, targets, ones)
    score = np.asarray(PREDICT(params, pack).value, np.float64)[:10, 0]
    observed = np.arange(10) % 3 == 0
    attract = -PRIOR * np.log(score[observed]).mean()
    repel = -np.log(1 - score[~observed]).mean() + PRIOR * np.log(1 - score[observed]).mean()
    np.testing.assert_allclose(value, attract + max(repel, 0), rtol=1e-5)
    for other in (jnp.nan_to_num(targets), targets.at[10:].set(1.0)):
        assert LOSS(params, key, pack, other, ones)[0] == value


def test_members_bootstrap_crystals_and_not_labels():
    """Each member's loss by hand with its own weights; without the lattice all made crystals would weigh the same."""
    pack, key = make_pack(1), jax.random.key(1)
    targets = jnp.asarray(np.arange(12)[:, None] % 2, jnp.float32)
    many, draw = pu.bagged(ONE, members=2), jax.jit(ensembles.bootstrap_weights)
    params = jax.jit(many.init)(key, pack)
    by_hand, each = [], []
    for m in range(2):
        weights = draw(jnp.uint32(m), pack, pu.identified(pack, targets))
        assert len(np.unique(weights[:10])) == 10
        assert len(np.unique(draw(jnp.uint32(m), pack, targets)[:10])) == 2
        member = jax.tree.map(lambda leaf, m=m: leaf[m], params)
        by_hand.append(LOSS(member, key, pack, targets, weights)[0])
        each.append(PREDICT(member, pack).value)
    np.testing.assert_allclose(jax.jit(many.loss)(params, key, pack, targets)[0], np.mean(by_hand), rtol=1e-5)
    said, each = jax.jit(many.predict)(params, pack), np.stack(each)
    np.testing.assert_allclose(said.value[:10], each.mean(0)[:10], rtol=1e-5)
    np.testing.assert_allclose(said.std[:10], each.std(0, ddof=1)[:10], rtol=1e-4)


def test_share_of_a_mixture():
    """Made scores are uniform on [0, 1], others on [-1, 1/2]: above 1/2 all are made, and the ratio is the share."""
    rng, shares = np.random.default_rng(4), []
    for _ in range(200):
        made = rng.random(2000) < PRIOR
        unlabeled = np.where(made, rng.random(2000), rng.uniform(-1, 0.5, 2000))
        shares.append(pu.estimate_share(rng.random(1000), unlabeled))
    # the ratio of two counts above 1/2, whose expectation is 150 of 1000 and 500 of 1000 draws a half
    spread = PRIOR * np.sqrt(1 / 300 + 1 / 500)
    assert abs(np.mean(shares) - PRIOR) < 0.5 * spread and np.std(shares) < 1.5 * spread
    assert pu.estimate_share(np.arange(100.0), np.arange(100.0)) > 0.95  # nothing tells them apart
    assert pu.estimate_share(np.arange(100.0), np.arange(100.0) - 1000) == 0
    with pytest.raises(ValueError, match="0 observed, 5 unlabeled"):
        pu.estimate_share(np.zeros(0), np.zeros(5))


def crystals(count: int) -> datasets.Dataset:
    rng = np.random.default_rng(5)
    atoms = [(rng.integers(1, 6, 1 + i % 3), rng.random((1 + i % 3, 3))) for i in range(count)]
    return datasets.from_entries(datasets.Entry(f"c{i}", *a, 3 * np.eye(3), {"a": i % 2}) for i, a in enumerate(atoms))


def test_the_oracle_says_what_the_classifier_says_and_what_it_means():
    """Stacked with empty slots against packed; any other oracle is asked in the same way."""
    from crysjax.data import batching
    from crysjax.predictors.predictor import estimate

    data, many = crystals(11), pu.bagged(ONE, members=2)
    params = jax.jit(many.init)(jax.random.key(0), make_pack(0))
    oracle = pu.oracle(many, params, prior=PRIOR)
    found = pu.ask(oracle, data, together=4)
    packed = estimate(many.predict, params, data, batching.capacity(data.num_atoms))
    np.testing.assert_allclose(found.value, packed.value[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.std, packed.std[:, 0], rtol=1e-3, atol=1e-5)
    assert found.valid.all()
    assert oracle.unit == (
        "probability-like score of resembling crystals that have been made, given prior 0.3; "
        "not a probability of synthesis, and not the distance to the convex hull"
    )
    empty = Crystal(jnp.zeros((1, 2, NUM_SPECIES)), jnp.zeros((1, 2, 3)), jnp.eye(3)[None])
    assert not oracle.batch(empty).valid.any()
    sites = Oracle("sites", "", 0.0, lambda c: pu.Estimate(c.occupancy.sum((1, 2)), jnp.zeros(4), jnp.ones(4, bool)))
    np.testing.assert_array_equal(pu.ask(sites, data, together=4).value, data.num_atoms)


def test_bad_settings_and_labels_are_one_line():
    for settings, message in (
        ({"prior": 0.0}, "prior: 0.0; expected a number above 0 and below 1"),
        ({"prior": 0.3, "risk": "pn"}, "risk: 'pn'; expected one of non_negative, unbiased, ratio"),
        ({"prior": 0.3, "slack": -1.0}, "slack: -1.0; expected"),
        ({"prior": 0.3, "hidden": 0}, "hidden: 0; expected"),
    ):
        with pytest.raises(ValueError, match=message):
            pu.classifier(table_network(), **settings)
    data = crystals(6)
    np.testing.assert_array_equal(pu.labeled(data, "a"), [False, True] * 3)
    for column, message in (
        (np.full(6, np.nan), "all 6 crystals are unlabeled"),
        (np.ones(6), "all 6 crystals are observed"),
        (np.array([1, 0, 0.5, 0, 0, 0]), "property 'a': 0.5; expected 1"),
    ):
        data.properties["a"] = column.astype(np.float32)
        with pytest.raises(ValueError, match=message):
            pu.labeled(data, "a")
    with pytest.raises(ValueError, match=r"'b' is not in the data set, which has \['a'\]"):
        pu.labeled(data, "b")
    with pytest.raises(ValueError, match=r"a pack holds 20\.0 crystals and of these 0\.20 of the rarer kind"):
        pu.check_packs(np.arange(100) == 0, 20.0)
    pu.check_packs(np.arange(100) < 10, 20.0)


def test_report_counts():
    found = pu.report(np.array([0.9, 0.6, 0.2, 0.7, 0.1, 0.1, 0.1]), np.arange(7) < 3, PRIOR)
    assert found["recall_of_observed"] == 0.6667 and found["unlabelled_above_half"] == 0.25
    assert (found["mean_score_of_unlabelled"], found["observed"], found["unlabelled"]) == (0.25, 3, 4)
