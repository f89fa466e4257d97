"""Heads on a backbone of a few lines: loss by hand, missing labels, training to a known law, ensembles."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.base import NUM_SPECIES, Network, Pack, Prediction, mean_by_crystal, one_hot
from crysjax.predictors import ensembles
from crysjax.predictors.ensembles import ensemble
from crysjax.predictors.heads import aware, heads, huber, mean_absolute_errors

NAMES, CENTER, SCALE = ("gap_ev", "bulk_gpa"), (1.0, 100.0), (0.5, 40.0)
WIDTH = 8


def tiny_network() -> Network:
    """A table of site features, averaged."""

    def init(key, pack, context):
        return {"table": jax.random.normal(key, (NUM_SPECIES + context.shape[1], WIDTH))}

    def apply(params, pack, context):
        sites = jnp.concatenate([pack.occupancy, context[pack.owner]], -1) @ params["table"]
        zeros = jnp.zeros((pack.lattice.shape[0], 6))
        return Prediction(pack.frac, zeros, pack.occupancy, sites, mean_by_crystal(sites, pack))

    return Network(init, apply)


def make_pack(seed: int, crystals: int = 12, used: int = 10) -> Pack:
    """Crystals of two sites; the last slots are unused and the last two sites are padding."""
    rng = np.random.default_rng(seed)
    numbers = np.where(np.arange(2 * used + 2) < 2 * used, rng.integers(1, 6, 2 * used + 2), 0)
    owner = np.minimum(np.arange(2 * used + 2) // 2, crystals - 1)
    owner[2 * used :] = crystals - 1
    pairs = jnp.zeros((1, 2), jnp.int32)
    return Pack(one_hot(jnp.asarray(numbers)), jnp.zeros((len(owner), 3)),
                jnp.tile(jnp.eye(3), (crystals, 1, 1)), jnp.asarray(owner, jnp.int32), pairs, jnp.zeros(1))  # fmt: skip


def make_targets(pack: Pack, noise: float, seed: int = 0) -> jax.Array:
    """The mean atomic number, in the units of each property, with noise of `noise` times `scale`."""
    number = mean_by_crystal((pack.occupancy * jnp.arange(1.0, NUM_SPECIES + 1)[None]).sum(-1), pack)
    draws = noise * np.random.default_rng(seed).normal(size=(number.shape[0], 2))
    clean = jnp.stack([(number - 3) / 1.2, -(number - 3) / 1.2], -1)
    return jnp.asarray(CENTER)[None] + jnp.asarray(SCALE)[None] * (clean + jnp.asarray(draws, jnp.float32))


HEADS = heads(tiny_network(), names=NAMES, center=CENTER, scale=SCALE, hidden=16)


def test_loss_and_metrics_by_hand():
    pack, key = make_pack(0), jax.random.key(0)
    params = HEADS.init(key, pack)
    targets = make_targets(pack, 1.0).at[3, 0].set(jnp.nan).at[4].set(jnp.nan)
    value, metrics = jax.jit(HEADS.loss)(params, key, pack, targets)
    predicted = np.asarray(HEADS.predict(params, pack).value, np.float64)
    kept = np.isfinite(targets) & (np.arange(12) < 10)[:, None]  # unused slots have no label, whatever is written there
    error = (np.asarray(targets, np.float64) - predicted) / SCALE
    exact = np.where(abs(error) < 1, error**2 / 2, abs(error) - 0.5)[kept].mean()
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    mae = [abs(error * SCALE)[:, k][kept[:, k]].mean() for k in range(2)]
    found = mean_absolute_errors({k: float(v) for k, v in metrics.items()})
    np.testing.assert_allclose([found[n] for n in NAMES], mae, rtol=1e-5)
    assert metrics["count/gap_ev"] == 8 and metrics["count/bulk_gpa"] == 9


def test_missing_labels_do_not_touch_the_gradient():
    pack, key = make_pack(1), jax.random.key(1)
    params, targets = HEADS.init(key, pack), make_targets(pack, 1.0)
    gradient = jax.jit(jax.grad(lambda p, t, w: HEADS.loss(p, key, pack, t, w)[0]))
    ones = jnp.ones(12)
    holed = gradient(params, targets.at[2].set(jnp.nan), ones)
    weighed = gradient(params, targets, ones.at[2].set(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), holed, weighed)
    none = gradient(params, jnp.full_like(targets, jnp.nan), ones)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(none))
    assert np.isnan(mean_absolute_errors({"error_sum/a": 0.0, "count/a": 0.0})["a"])


def test_huber_is_smooth_where_it_turns():
    np.testing.assert_allclose(huber(jnp.array([-3.0, -1.0, 0.5, 1.0, 2.0]), 1.0), [2.5, 0.5, 0.125, 0.5, 1.5])
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda e: huber(e, 2.0)))(jnp.array([-5.0, -1.0, 1.9, 2.1])),
                               [-2.0, -1.0, 1.9, 2.0], rtol=1e-6)  # fmt: skip


def test_predictions_are_flagged_where_there_is_no_crystal():
    pack = make_pack(2)
    estimate = HEADS.predict(HEADS.init(jax.random.key(0), pack), pack)
    assert estimate.value.shape == (12, 2)
    assert estimate.valid[:10].all() and not estimate.valid[10:].any()
    np.testing.assert_allclose(estimate.std, np.tile(SCALE, (12, 1)))


def refusing_network() -> Network:
    """The tiny network, which refuses crystals whose mean atomic number is above 3."""
    whole = tiny_network()

    def apply(params, pack, context):
        number = mean_by_crystal((pack.occupancy * jnp.arange(1.0, NUM_SPECIES + 1)[None]).sum(-1), pack)
        said = whole.apply(params, pack, context)
        return said._replace(crystal=jnp.where(number[:, None] > 3, jnp.nan, said.crystal))

    return Network(whole.init, apply)


def test_what_the_network_refuses_is_not_valid_and_teaches_nothing():
    model, pack, key = (
        heads(refusing_network(), names=NAMES, center=CENTER, scale=SCALE),
        make_pack(0),
        jax.random.key(0),
    )
    params, targets = model.init(key, pack), make_targets(pack, 1.0)
    said = model.predict(params, pack)
    refused = np.isnan(np.asarray(refusing_network().apply(params["network"], pack, jnp.ones((12, 1))).crystal)).any(-1)
    assert 0 < refused[:10].sum() < 10
    np.testing.assert_array_equal(said.valid[:10].all(-1), ~refused[:10])
    assert np.isfinite(np.asarray(said.value)).all()
    gradient = jax.grad(lambda p: model.loss(p, key, pack, targets)[0])(params)
    without = jax.grad(lambda p: model.loss(p, key, pack, jnp.where(refused[:, None], jnp.nan, targets))[0])(params)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(without)):
        assert np.isfinite(np.asarray(a)).all()
        np.testing.assert_array_equal(a, b)


def test_predictions_stay_in_their_physical_range_and_keep_a_slope():
    """Whatever the weights say, the bounded property lies above its least value; the other is as it was without."""
    pack = make_pack(0)
    bounded = heads(tiny_network(), names=NAMES, center=CENTER, scale=SCALE, hidden=16, least=(0.0, None))
    params = jax.tree.map(lambda leaf: 3 * leaf, HEADS.init(jax.random.key(1), pack))
    said, plain = (np.asarray(model.predict(params, pack).value)[:10] for model in (bounded, HEADS))
    assert plain[:, 0].min() < 0 <= said[:, 0].min()
    np.testing.assert_array_equal(said[:, 1], plain[:, 1])
    far = plain[:, 0] > CENTER[0] + 3 * SCALE[0]
    np.testing.assert_allclose(said[far, 0], plain[far, 0], rtol=1e-3)
    slope = jax.grad(lambda p: bounded.predict(p, pack).value[:, 0].sum())(params)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope)) > 0


def test_settings_are_checked():
    with pytest.raises(ValueError, match="scale has 1 entries"):
        heads(tiny_network(), names=NAMES, center=CENTER, scale=(1.0,))
    with pytest.raises(ValueError, match="numbers above 0"):
        heads(tiny_network(), names=NAMES, center=CENTER, scale=(1.0, 0.0))
    with pytest.raises(ValueError, match="at least 2"):
        ensemble(HEADS, members=1)
    with pytest.raises(ValueError, match="floor is"):
        ensemble(HEADS, floor=(1.0,))


def test_ensemble_gradient_is_that_of_its_members():
    """Against a plain loop over members, differentiated from outside; `together` changes nothing."""
    pack, key = make_pack(3), jax.random.key(2)
    targets = make_targets(pack, 1.0)
    model = ensemble(HEADS, members=3)
    params = model.init(key, pack)

    def by_hand(params):
        total = 0.0
        for m in range(3):
            weights = ensembles.bootstrap_weights(jnp.uint32(m), pack, targets)
            total += HEADS.loss(jax.tree.map(lambda leaf, m=m: leaf[m], params), key, pack, targets, weights)[0]
        return total / 3

    value, gradient = jax.jit(jax.value_and_grad(by_hand))(params)
    for together in (1, 2):
        other = ensemble(HEADS, members=3, together=together)
        (got, _), got_gradient = jax.jit(jax.value_and_grad(other.loss, has_aux=True))(params, key, pack, targets)
        np.testing.assert_allclose(got, value, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got_gradient, gradient)
    np.testing.assert_allclose(model.loss(params, key, pack, targets)[0], value, rtol=1e-6)


def test_ensemble_prediction_by_hand():
    pack, key = make_pack(4), jax.random.key(3)
    plain = ensemble(HEADS, members=3)
    params = plain.init(key, pack)
    values = np.stack([HEADS.predict(jax.tree.map(lambda leaf, m=m: leaf[m], params), pack).value for m in range(3)])
    got = jax.jit(ensemble(HEADS, members=3, spread_factor=(2.0, 3.0), floor=(0.1, 5.0)).predict)(params, pack)
    np.testing.assert_allclose(got.value, values.mean(0), rtol=1e-5)
    std = np.sqrt((np.array([2.0, 3.0]) * values.std(0, ddof=1)) ** 2 + np.array([0.1, 5.0]) ** 2)
    np.testing.assert_allclose(got.std, std, rtol=1e-4)
    assert got.valid[:10].all() and not got.valid[10:].any()


def test_all_at_once_is_what_the_single_functions_say():
    """Of one member, of several, and where the std grows with the novelty, which is that of all members."""
    pack, rng = make_pack(0), np.random.default_rng(0)
    one = aware(HEADS, slope=(0.5, 1.0), usual=-1.0, limit=2.0)
    many = aware(ensemble(HEADS, members=3), slope=(0.5, 1.0), usual=-1.0, limit=2.0)
    for model, members in ((one, ()), (many, (3,))):
        stats = {"center": (WIDTH,), "root": (WIDTH, WIDTH), "rarity": (NUM_SPECIES,)}
        known = {name: jnp.asarray(rng.random((*members, *shape)), jnp.float32) for name, shape in stats.items()}
        params = model.init(jax.random.key(1), pack) | {"known": known}
        found = jax.jit(model.together)(params, pack)
        apart = [jax.jit(f)(params, pack) for f in (model.predict, model.novelty, model.features)]
        for a, b in zip(jax.tree.leaves(tuple(found)), jax.tree.leaves(apart)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        without = (HEADS if model is one else ensemble(HEADS, members=3)).predict(params, pack)
        far = jnp.maximum(found.novelty + 1, 0)[:, None] * jnp.asarray([[0.5, 1.0]])
        np.testing.assert_allclose(found.estimate.std, without.std * jnp.exp(far), rtol=1e-5)
    each = [HEADS.novelty(jax.tree.map(lambda leaf, k=k: leaf[k], params), pack) for k in range(3)]
    np.testing.assert_allclose(found.novelty, jnp.stack(each).mean(0), rtol=1e-5, atol=1e-6)


def test_bootstrap_weights_are_exponential_and_belong_to_the_crystal():
    pack = make_pack(5, crystals=2000, used=2000)
    targets = jax.random.normal(jax.random.key(0), (2000, 2))
    first, second = (np.asarray(ensembles.bootstrap_weights(jnp.uint32(m), pack, targets)) for m in (0, 1))
    for weights in (first, second):  # Exponential(1): mean 1, variance 1, fourth central moment 9
        assert abs(weights.mean() - 1) < 4 / np.sqrt(2000) and abs(weights.var() - 1) < 4 * np.sqrt(8 / 2000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(2000)
    order = np.random.default_rng(0).permutation(2000)
    shuffled = ensembles.bootstrap_weights(jnp.uint32(0), pack, targets[order])
    np.testing.assert_array_equal(shuffled, first[order])


def train(model, pack, targets, steps):
    optimizer = optax.adam(1e-2)
    params = model.init(jax.random.key(0), pack)

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda p: model.loss(p, jax.random.key(1), pack, targets)[0])(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, length=steps)[0][0])(params)


def test_training_reaches_the_noise_and_calibration_makes_std_true():
    """Labels with noise 0.3 `scale` and a third missing; on fresh crystals the error approaches the noise."""
    from crysjax.predictors import calibration

    noise, model = 0.3, ensemble(HEADS, members=4)
    pack = make_pack(6, crystals=200, used=200)
    holes = jnp.asarray(np.random.default_rng(1).random((200, 2)) < 1 / 3)
    params = train(model, pack, jnp.where(holes, jnp.nan, make_targets(pack, noise)), 300)
    fits, tests = (make_pack(seed, crystals=400, used=400) for seed in (7, 8))
    raw = model.predict(params, fits)
    error = np.asarray(make_targets(fits, noise, seed=1) - raw.value)
    pairs = [calibration.fit_spread(error[:, k], raw.std[:, k]) for k in range(2)]
    factors, floors, _ = zip(*pairs)
    estimate = ensemble(HEADS, members=4, spread_factor=factors, floor=floors).predict(params, tests)
    for k in range(2):
        found = calibration.summarize(np.asarray(make_targets(tests, noise, seed=2) - estimate.value)[:, k],
                                      np.asarray(estimate.std)[:, k])  # fmt: skip
        # 133 labels, 5 elements: error variance noise² (1 + about 15 parameters / 133), 5 % of Monte Carlo error
        assert found.rmse < noise * SCALE[k] * 1.25
        # scale is fitted on 400 and tested on 400 errors: relative error 1/sqrt(2 * 400) each, 4 of them
        assert abs(found.scale - 1) < 4 / np.sqrt(400)
        assert abs(found.coverage_1 - 0.683) < 4 * np.sqrt(0.683 * 0.317 / 400) + 0.05
