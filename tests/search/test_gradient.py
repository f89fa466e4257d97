"""The gradient strategy is the optimizer's own iteration, and steps back from where nothing is defined."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.search.gradient import gradient
from crysjax.search.run import run


@pytest.mark.parametrize("optimizer", [optax.sgd(0.005, momentum=0.9), optax.adam(0.1), optax.adamw(0.1)])
def test_equals_the_optimizer_run_by_hand(optimizer):
    def f(x):
        return 10 * (x["a"][1] - x["a"][0] ** 2) ** 2 + (1 - x["a"][0]) ** 2

    x = {"a": jnp.array([-0.5, 0.8])}
    _, trace = jax.jit(lambda x: run(gradient(optimizer), f, jax.random.key(0), x, 15, record=lambda x: x["a"]))(x)
    state, by_hand = optimizer.init(x), []
    step = jax.jit(lambda x, s: optimizer.update(jax.grad(f)(x), s, x))
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(15):
            by_hand.append(x["a"])
            updates, state = step(x, state)
            x = optax.apply_updates(x, updates)
    np.testing.assert_allclose(trace.record, np.stack(by_hand), rtol=1e-4, atol=1e-5)


def test_plain_descent_on_a_quadratic_has_the_known_rate():
    """x_k = (1 - hλ)^k x_0, each axis by itself."""
    eigenvalues, h = jnp.array([1.0, 10.0]), 0.05

    def f(x):
        return 0.5 * (eigenvalues * x**2).sum()

    x0 = jnp.array([1.0, -2.0])
    _, trace = run(gradient(optax.sgd(h)), f, jax.random.key(0), x0, 30, record=lambda x: x)
    exact = (1 - h * np.asarray(eigenvalues)) ** np.arange(30)[:, None] * np.asarray(x0)
    np.testing.assert_allclose(trace.record, exact, rtol=2e-5, atol=1e-7)


def test_a_move_out_of_the_domain_is_halved():
    def f(x):
        return x - jnp.log(x)  # minimum 1 at x = 1, undefined for x ≤ 0

    best, trace = jax.jit(lambda x: run(gradient(optax.sgd(0.6)), f, jax.random.key(0), x, 60))(jnp.array(3.0))
    assert best.value < 1 + 1e-6
    _, trace = jax.jit(lambda x: run(gradient(optax.sgd(4.5)), f, jax.random.key(0), x, 3, lambda x: x))(jnp.array(2.0))
    # 2 → 2 - 4.5/2 = -0.25 is undefined → half the move: 2 - 1.125
    np.testing.assert_allclose(trace.record, [2.0, -0.25, 0.875])
    assert list(np.asarray(trace.finite)) == [True, False, True]


def test_project_keeps_points_on_the_torus():
    def f(x):
        return -jnp.cos(2 * jnp.pi * (x - 0.95)).sum()

    x0 = jnp.array([0.1, 0.7])
    search = gradient(optax.sgd(0.01), project=lambda x: x % 1)
    best, trace = jax.jit(lambda x: run(search, f, jax.random.key(0), x, 100, record=lambda x: x))(x0)
    assert ((trace.record >= 0) & (trace.record < 1)).all()
    np.testing.assert_allclose(best.x, [0.95, 0.95], atol=1e-3)
