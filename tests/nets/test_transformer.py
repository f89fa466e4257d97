"""The transformer: position by position equals all at once, nothing looks ahead, attention is the formula."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.nets.transformer import transformer

NET = transformer(width=16, layers=3, heads=2, expansion=2)
LENGTH = 12


def inputs(dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(LENGTH, 16)).astype(dtype)


def decoded(params, x):
    def step(cache, this):
        hidden, cache = NET.extend(params, cache, *this)
        return cache, hidden

    return jax.lax.scan(step, NET.start(len(x), x.dtype), (jnp.arange(len(x)), x))[1]


def test_the_cache_gives_what_the_whole_forward_gives():
    params, x = NET.init(jax.random.key(1)), jnp.asarray(inputs())
    whole, one_by_one = jax.jit(NET.apply)(params, x), jax.jit(decoded)(params, x)
    np.testing.assert_allclose(one_by_one, whole, atol=1e-5)
    with jax.enable_x64(True):
        x = jnp.asarray(inputs(np.float64))
        whole, one_by_one = jax.jit(NET.apply)(params, x), jax.jit(decoded)(params, x)
        assert whole.dtype == one_by_one.dtype == jnp.float64
        np.testing.assert_allclose(one_by_one, whole, atol=1e-13)


def test_room_left_in_the_cache_changes_nothing():
    params, x = NET.init(jax.random.key(1)), jnp.asarray(inputs())
    cache = NET.start(LENGTH + 5)
    for k in range(3):
        hidden, cache = NET.extend(params, cache, k, x[k])
    np.testing.assert_allclose(hidden, NET.apply(params, x[:3])[2], atol=1e-5)


def test_no_output_depends_on_a_later_input():
    params, x = NET.init(jax.random.key(1)), jnp.asarray(inputs())
    slope = jnp.abs(jax.jit(jax.jacrev(lambda x: NET.apply(params, x).sum(-1)))(x)).sum(-1)
    assert (np.triu(slope, 1) == 0).all()
    assert (np.asarray(slope)[np.tril_indices(LENGTH)] > 0).all(), "every earlier input is seen"


def test_one_layer_is_the_formula():
    """Softmax attention with rotations as complex numbers, then SwiGLU, written anew in NumPy."""
    net = transformer(width=8, layers=1, heads=2, expansion=2)
    params = net.init(jax.random.key(2))
    x = np.random.default_rng(3).normal(size=(5, 8)).astype(np.float32)
    w = {name: np.asarray(leaf[0], np.float64) for name, leaf in params["blocks"].items()}

    def norm(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    def turned(h, matrix):
        flat = np.einsum("ld,dhs->lhs", h, matrix)
        as_complex = flat[..., :2] + 1j * flat[..., 2:]
        return as_complex * np.exp(1j * np.arange(5)[:, None] * 10_000.0 ** (-np.arange(2) / 2))[:, None]

    h = norm(x)
    q, k, v = turned(h, w["query"]), turned(h, w["key"]), np.einsum("ld,dhs->lhs", h, w["value"])
    weight = np.exp(np.einsum("lhs,mhs->hlm", q, k.conj()).real / 2) * np.tril(np.ones((5, 5)))
    weight /= weight.sum(-1, keepdims=True)
    y = x + np.einsum("hlm,mhs,hsd->ld", weight, v, w["mix"])
    gate = norm(y) @ w["gate"]
    y = y + (gate / (1 + np.exp(-gate)) * (norm(y) @ w["up"])) @ w["down"]
    np.testing.assert_allclose(net.apply(params, jnp.asarray(x)), norm(y), atol=2e-6)


def test_one_compilation_serves_every_position():
    params, x = NET.init(jax.random.key(1)), jnp.asarray(inputs())
    extend = jax.jit(chex.assert_max_traces(NET.extend, n=1))
    cache = NET.start(LENGTH)
    for k in range(LENGTH):
        hidden, cache = extend(params, cache, jnp.asarray(k), x[k])
    np.testing.assert_allclose(hidden, NET.apply(params, x)[-1], atol=1e-5)


def test_a_width_that_heads_cannot_share_is_an_error():
    with pytest.raises(ValueError, match="width: 10; expected a multiple of 2 heads = 8"):
        transformer(width=10, heads=4)
