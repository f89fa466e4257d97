"""The process against numpy in float64 at given hyper-parameters; calibration on the prior; compile count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.surrogates import acquisition
from crysjax.surrogates import gp as module
from crysjax.surrogates.chains import sound, trouble
from crysjax.surrogates.gp import Hyper, Observations, condition, gp, predict
from crysjax.surrogates.observations import observe, pad

KERNELS = {
    "rbf": (module.rbf, lambda r: np.exp(-(r**2) / 2)),
    "matern52": (module.matern52, lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r)),
}


def closed_form(kernel, length, amplitude, noise, jitter, x, y, q):
    """Rasmussen & Williams eqs. 2.25 and 2.26 with an explicit inverse."""
    distance = lambda a, b: np.sqrt((((a[:, None] - b[None]) / length) ** 2).sum(-1))  # noqa: E731
    inverse = np.linalg.inv(amplitude**2 * kernel(distance(x, x)) + (noise**2 + jitter * amplitude**2) * np.eye(len(x)))
    cross = amplitude**2 * kernel(distance(q, x))
    variance = amplitude**2 - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    return cross @ inverse @ y, np.sqrt(variance)


def problem(seed=0, m=15, q=7, d=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, d)), rng.normal(size=m), rng.normal(size=(q, d))


@pytest.mark.parametrize("name", KERNELS)
def test_posterior_is_the_closed_form(name):
    traced, exact = KERNELS[name]
    x, y, q = problem()
    length, amplitude, noise, jitter = np.array([0.8, 1.5, 3.0]), 1.3, 0.3, 1e-5
    hyper = Hyper(*(jnp.asarray(a, jnp.float32)[None] for a in (length, amplitude, noise)))
    data = observe(*pad(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), 20), standardize=False)
    got = predict(traced, condition(traced, hyper, data, jitter), jnp.asarray(q, jnp.float32))
    mean, std = closed_form(exact, length, amplitude, noise, jitter, x, y, q)
    np.testing.assert_allclose(got.value, mean, atol=1e-5)
    np.testing.assert_allclose(got.std, std, atol=1e-5)


def test_mixture_of_samples_follows_the_law_of_total_variance():
    traced, exact = KERNELS["rbf"]
    x, y, q = problem(1)
    settings = [(np.full(3, 1.0), 1.0, 0.2), (np.full(3, 2.0), 1.5, 0.5)]
    parts = [closed_form(exact, *s, 1e-5, x, y, q) for s in settings]
    hyper = Hyper(*(jnp.asarray(np.stack(a), jnp.float32) for a in zip(*settings)))
    data = observe(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), standardize=False)
    got = predict(traced, condition(traced, hyper, data, 1e-5), jnp.asarray(q, jnp.float32), observed=True)
    means, stds = (np.stack(a) for a in zip(*parts))
    noise2 = np.array([s[2] ** 2 for s in settings])[:, None]
    np.testing.assert_allclose(got.value, means.mean(0), atol=1e-5)
    np.testing.assert_allclose(got.std, np.sqrt((stds**2 + noise2).mean(0) + means.var(0)), atol=1e-5)


def test_standardizing_and_padding_change_nothing_but_the_units():
    """Affine changes of x and y carry over exactly; rows of NaN are as if absent."""
    x, y, q = (jnp.asarray(a, jnp.float32) for a in problem(2))
    hyper = Hyper(jnp.ones((1, 3)), jnp.ones(1), jnp.full(1, 0.1))
    run = lambda x, y, q, size: predict(  # noqa: E731
        module.rbf, condition(module.rbf, hyper, observe(*pad(x, y, size)), 1e-5), q
    )
    base = run(x, y, q, None)
    moved = run(x * 7 + 3, y * 1e3 - 50, q * 7 + 3, 40)
    np.testing.assert_allclose(moved.value, base.value * 1e3 - 50, rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(moved.std, base.std * 1e3, rtol=1e-3)
    holes = run(jnp.concatenate([x, x[:2] * 0 + 9]), jnp.concatenate([y, jnp.full(2, jnp.nan)]), q, None)
    np.testing.assert_allclose(holes.value, base.value, atol=1e-5)


def test_bad_rows_are_invalid_not_nan_and_bad_shapes_are_errors():
    x, y, q = (jnp.asarray(a, jnp.float32) for a in problem(3))
    data = observe(x, y)
    posterior = condition(module.rbf, Hyper(jnp.ones((1, 1)), jnp.ones(1), jnp.ones(1)), data, 1e-5)
    got = predict(module.rbf, posterior, q.at[2, 1].set(jnp.nan))
    assert list(np.asarray(got.valid)) == [True, True, False, True, True, True, True]
    assert np.isfinite(got.value).all() and np.isfinite(got.std).all()
    with pytest.raises(ValueError, match="15 rows do not fit into capacity=4"):
        pad(x, y, 4)
    with pytest.raises(ValueError, match=r"expected \(m, d\) and \(m,\)"):
        pad(x, y[:3], None)


def draw(key, m, hyper, features=2):
    """Inputs and a noisy draw of the RBF prior."""
    key_x, key_f, key_n = jax.random.split(key, 3)
    x = jax.random.uniform(key_x, (m, features), minval=-2, maxval=2)
    cov = module.gram(module.rbf, hyper, x, x) + 1e-5 * jnp.eye(m)
    f = jnp.linalg.cholesky(cov) @ jax.random.normal(key_f, (m,))
    return x, f, f + hyper.noise * jax.random.normal(key_n, (m,))


def test_at_the_true_hyper_parameters_coverage_is_nominal():
    """z = (f - mean) / std is exactly N(0, 1): share inside one std and variance, over independent draws."""
    hyper = Hyper(jnp.array([1.0, 0.7]), jnp.array(1.2), jnp.array(0.3))

    def z(key):
        x, f, y = draw(key, 21, hyper)
        data = observe(x[:20], y[:20], standardize=False)
        posterior = condition(module.rbf, jax.tree.map(lambda a: a[None], hyper), data, 0.0)
        estimate = predict(module.rbf, posterior, x[20:])
        return (f[20] - estimate.value[0]) / estimate.std[0]

    draws = 4000
    # one after another: on two threads a batch of thousands of factorizations can wait for itself for ever
    found = jax.jit(lambda keys: jax.lax.map(z, keys))(jax.random.split(jax.random.key(0), draws))
    found = np.asarray(found)
    inside = 0.6827
    assert abs((abs(found) < 1).mean() - inside) < 4 * np.sqrt(inside * (1 - inside) / draws)
    assert abs(found.mean()) < 4 / np.sqrt(draws)
    assert abs(found.var() - 1) < 4 * np.sqrt(2 / draws)


@pytest.fixture(scope="module")
def fitted():
    """One surrogate by MAP, on a draw whose hyper-parameters are known, and how often its fit was traced."""
    hyper = Hyper(jnp.array([0.5, 3.0]), jnp.array(1.0), jnp.array(0.1))
    x, f, y = draw(jax.random.key(1), 70, hyper)
    surrogate = gp(kernel="rbf", capacity=48, steps=200)
    return surrogate, x, f, y, surrogate.fit(jax.random.key(2), x[:40], y[:40])


def test_map_finds_the_scales_of_the_data(fitted):
    surrogate, x, f, _y, posterior = fitted
    length = np.asarray(posterior.hyper.length[0] * posterior.data.x_std)
    noise = float(posterior.hyper.noise[0] * posterior.data.y_std)
    assert 0.35 < length[0] < 0.75 and length[1] > 2 * length[0]  # truth .5 and 3
    assert 0.05 < noise < 0.2  # truth .1; chi² of about 20 degrees of freedom leaves ± 35 %
    estimate = surrogate.predict(posterior, x[40:])
    z = (f[40:] - estimate.value) / estimate.std
    assert 0.5 < float(jnp.sqrt((z**2).mean())) < 2  # 30 correlated points
    assert float(jnp.abs(f[40:] - estimate.value).mean()) < 0.5 * float(jnp.abs(f[40:] - f.mean()).mean())


def test_growing_data_compile_once(fitted):
    surrogate, x, _f, y, _ = fitted
    from crysjax.surrogates import gp as source

    before = source.condition
    count = []
    source.condition = lambda *args: (count.append(1), before(*args))[1]  # runs only while tracing
    try:
        for m in (10, 25, 48):
            posterior = surrogate.fit(jax.random.key(3), x[:m], y[:m])
            assert posterior.data.mask.sum() == m
    finally:
        source.condition = before
    assert not count


def test_acquisition_gradient_through_the_posterior(fitted):
    surrogate, _x, _f, y, posterior = fitted
    best = float(y.min())

    def score(point):
        estimate = surrogate.predict(posterior, point[None, :])
        return acquisition.log_expected_improvement(estimate.value, estimate.std, best)[0]

    with jax.enable_x64(True):
        posterior = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), posterior)
        point, h = jnp.array([0.3, -0.4], jnp.float64), 1e-5
        slope = jax.jit(jax.grad(score))(point)
        steps = h * jnp.eye(2, dtype=jnp.float64)
        differences = [(score(point + e) - score(point - e)) / (2 * h) for e in steps]
        np.testing.assert_allclose(slope, differences, rtol=1e-6)


def test_gradient_at_a_data_point_is_finite():
    x, y, _ = (jnp.asarray(a, jnp.float32) for a in problem(4))
    hyper = Hyper(jnp.ones((1, 1)), jnp.ones(1), jnp.full(1, 1e-4))
    for kernel in (module.rbf, module.matern52):
        posterior = condition(kernel, hyper, observe(x, y), 1e-5)
        slope = jax.grad(lambda p, k=kernel, post=posterior: sum(a.sum() for a in predict(k, post, p)[:2]))(x[:1])
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("inference", ["normal", "nuts"])
def test_sampled_hyper_parameters_agree_with_quadrature(inference):
    """One free feature; E[log length] and E[log noise] by importance weighting 20,000 draws from the prior."""
    truth = Hyper(jnp.array([0.8]), jnp.array(1.0), jnp.array(0.3))
    x, _, y = draw(jax.random.key(5), 12, truth, features=1)
    data = observe(x, y)
    key = jax.random.split(jax.random.key(6), 3)
    raw = [jax.random.normal(k, (20000,)) for k in key]
    prior = Hyper(jnp.exp(raw[0])[:, None], jnp.exp(0.5 * raw[1]), 0.1 * jnp.exp(raw[2]))
    weight = np.asarray(jax.jit(lambda: jax.lax.map(lambda h: evidence(h, data), prior, batch_size=500))())
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    logs = np.stack([np.log(prior.length[:, 0]), np.log(prior.noise)])
    mean = logs @ weight
    deviation = np.sqrt(((logs - mean[:, None]) ** 2) @ weight)
    surrogate = gp(kernel="rbf", inference=inference, samples=300, warmup=200, steps=500)
    posterior = surrogate.fit(jax.random.key(7), x, y)
    assert trouble(posterior.diagnostics) == "" and bool(surrogate.predict(posterior, x).valid.all())
    got = np.stack([np.log(posterior.hyper.length[:, 0]), np.log(posterior.hyper.noise)])
    # NUTS: effective sample size at least 60 of 300, and the same for the weights: 5 standard errors
    # AutoNormal is an approximation by itself: half a posterior std
    tolerance = 0.65 if inference == "nuts" else 0.75
    assert (abs(got.mean(1) - mean) < tolerance * deviation).all(), (got.mean(1), mean, deviation)
    assert (got.std(1) > 0.4 * deviation).all() and (got.std(1) < 1.6 * deviation).all()


def evidence(hyper: Hyper, data: Observations):
    """log N(y; 0, K + noise²), up to a constant, through numpy-like calls of its own."""
    k = module.gram(module.rbf, hyper, data.x, data.x)
    k = k + (hyper.noise**2 + 1e-5 * hyper.amplitude**2) * jnp.eye(len(data.y))
    return -0.5 * data.y @ jnp.linalg.solve(k, data.y) - 0.5 * jnp.linalg.slogdet(k)[1]


def test_chains_that_have_not_converged_make_no_valid_prediction():
    """One step of warm-up leaves steps of the first guess: the posterior says so, and its predictions are not valid."""
    x, y, q = (jnp.asarray(a, jnp.float32) for a in problem(8))
    surrogate = gp(kernel="rbf", inference="nuts", warmup=1, samples=8)
    posterior = surrogate.fit(jax.random.key(0), x, y)
    estimate = surrogate.predict(posterior, q)
    assert posterior.hyper.noise.shape == (8,)
    assert not bool(sound(posterior.diagnostics)) and not bool(estimate.valid.any())
    assert np.isfinite(estimate.value).all() and np.isfinite(estimate.std).all()
    assert "have not converged" in trouble(posterior.diagnostics)


def test_one_chain_is_refused():
    with pytest.raises(ValueError, match="chains is 1; expected at least 2"):
        gp(inference="nuts", chains=1)
