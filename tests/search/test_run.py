"""The loop itself: bookkeeping, places that are not finite, populations, chains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.base import Search
from crysjax.search.gradient import gradient
from crysjax.search.run import run


def random_walk(size: int | None = None) -> Search:
    """A gradient-free strategy (of one point or a population) written as a user would."""

    def ask(key, x):
        shape = x.shape if size is None else (size, *x.shape)
        return jnp.broadcast_to(x, shape) + 0.5 * jax.random.normal(key, shape)

    return Search(lambda key, x: x, ask, lambda state, x, value, grad: state, needs_grad=False)


def test_best_is_the_minimum_of_the_trace_and_the_trace_is_the_objective():
    def f(x):
        return ((x - 1) ** 2).sum()

    best, trace = jax.jit(lambda k: run(random_walk(), f, k, jnp.zeros(2), 50, record=lambda x: x))(jax.random.key(0))
    np.testing.assert_allclose(trace.value, jax.vmap(f)(trace.record), rtol=1e-6)
    assert best.value == trace.value.min()
    np.testing.assert_array_equal(best.x, trace.record[trace.value.argmin()])
    np.testing.assert_array_equal(trace.last, trace.record[-1])
    assert trace.finite.all()


def test_population_best_is_the_best_member():
    f = jax.vmap(lambda x: ((x - 1) ** 2).sum())
    run_it = jax.jit(lambda k: run(random_walk(8), f, k, jnp.zeros(2), 30, record=lambda x: x))
    best, trace = run_it(jax.random.key(1))
    assert trace.value.shape == (30, 8) and best.x.shape == (2,)
    step, member = np.unravel_index(trace.value.argmin(), (30, 8))
    np.testing.assert_array_equal(best.x, trace.record[step, member])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_is_never_best(bad):
    def f(x):
        return jnp.where(x > 0, bad, (x + 1) ** 2)

    best, trace = jax.jit(lambda k: run(random_walk(), f, k, jnp.zeros(()), 200))(jax.random.key(2))
    assert np.isfinite(best.value) and best.x <= 0
    assert (trace.value[~trace.finite] == np.inf).all()
    share = float(trace.finite.mean())
    assert abs(share - 0.5) < 5 * np.sqrt(0.25 / 200)  # half of the moves go either way; 5 standard errors


def test_a_gradient_that_is_not_finite_is_told_as_zero_but_its_value_counts():
    def f(x):
        return jnp.sqrt(x).sum()  # infinite slope at the minimum

    seen = Search(lambda key, x: x, lambda key, x: x, lambda state, x, value, grad: grad, needs_grad=True)
    best, trace = run(seen, f, jax.random.key(0), jnp.zeros(3), 1)
    assert best.value == 0 and not trace.finite[0]
    best, trace = run(seen, f, jax.random.key(0), jnp.zeros(3), 2, record=lambda x: x)
    np.testing.assert_array_equal(trace.record[1], np.zeros(3))  # the state became the gradient that was told


def test_nothing_finite_leaves_the_start():
    best, trace = run(random_walk(), lambda x: jnp.nan * x, jax.random.key(0), jnp.full((), 3.0), 5)
    assert best.value == np.inf and best.x == 3.0 and not trace.finite.any()


def test_chains_are_independent_of_being_vmapped():
    def f(x):
        return (x["a"] ** 2).sum() + jnp.cos(x["b"])

    def one(k, x):
        return run(gradient(optax.adam(0.1)), f, k, x, 20)[0]

    starts = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.array([0.1, 1.0, 2.0])}
    keys = jax.random.split(jax.random.key(3), 3)
    together = jax.jit(jax.vmap(one))(keys, starts)
    alone = jax.jit(one)(keys[1], jax.tree.map(lambda a: a[1], starts))
    np.testing.assert_allclose(together.value[1], alone.value, rtol=1e-5)
    np.testing.assert_allclose(together.x["a"][1], alone.x["a"], rtol=1e-5)


def test_with_choose_each_part_of_a_point_has_its_own_best():
    """Three parts under one strategy, whose sum is lowest at another step than any of them; the middle one is NaN."""

    def f(x):
        value = (x - jnp.array([1.0, 0.0, -1.0])) ** 2
        return jnp.where(jnp.arange(3) == 1, jnp.nan, value)

    def choose(won, new, old):
        return jnp.where(won, new, old)

    best, trace = run(
        random_walk(), f, jax.random.key(4), jnp.zeros(3), 40, record=lambda x: x, choose=choose
    )  # fmt: skip
    lowest = np.asarray(trace.value).argmin(0)
    assert lowest[0] != lowest[2] and not trace.finite[:, 1].any()
    for part in (0, 2):
        assert best.x[part] == trace.record[lowest[part], part] and best.value[part] == trace.value[:, part].min()
    assert best.x[1] == 0 and best.value[1] == np.inf


def test_with_choose_a_part_that_is_not_finite_stops_no_other():
    f = lambda x: jnp.where(x > 5, jnp.nan, 1.0) * (x - 1) ** 2  # noqa: E731
    start, choose = jnp.array([9.0, 0.0]), lambda won, new, old: jnp.where(won, new, old)
    best, _ = run(gradient(optax.sgd(0.4)), f, jax.random.key(0), start, 40, choose=choose)
    np.testing.assert_allclose(best.x, [9.0, 1.0], atol=1e-5)


@pytest.mark.parametrize("compares", [True, False])
def test_a_strategy_that_compares_is_told_the_value_of_each_part_and_others_their_sum(compares):
    """The state becomes what was told, and is the next point asked for."""
    f = lambda x: jnp.where(x == 2, jnp.nan, x**2)  # noqa: E731
    start, choose = jnp.array([1.0, 2.0, 3.0]), lambda won, new, old: jnp.where(won, new, old)
    ask = lambda key, last: jnp.where(last < 0, start, last)  # noqa: E731
    told = Search(lambda key, x: jnp.full((), -1.0), ask, lambda last, x, value, grad: value, False, compares)
    _, trace = run(told, f, jax.random.key(0), start, 2, record=lambda x: x, choose=choose)
    np.testing.assert_array_equal(trace.record[1], [1, np.inf, 9] if compares else [10, 10, 10])


def test_steps_must_be_positive():
    with pytest.raises(ValueError, match="steps is 0"):
        run(random_walk(), jnp.sum, jax.random.key(0), jnp.zeros(2), 0)
