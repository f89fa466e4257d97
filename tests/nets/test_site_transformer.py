"""The site transformer: crystals apart, sites exchangeable, padding inert, a fresh stack the identity, the formula."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Pack
from crysjax.nets.site_transformer import site_transformer

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiling is most of the time here
NET = site_transformer(3, width=8, layers=2, heads=2)
APPLY = jit(NET.apply)
OWNER = np.array([0, 1, 0, 1, 1, 2, 2])  # sites of a crystal need not be neighbors; the last one is padding


def pack(owner: np.ndarray, padding: int, dtype=np.float32) -> Pack:
    real = (np.arange(len(owner)) < len(owner) - padding)[:, None]
    rows = (np.tile(np.eye(1, 100), (len(owner), 1)) * real).astype(dtype)
    frac, unit = np.zeros((len(owner), 3), dtype), np.tile(np.eye(3, dtype=dtype), (3, 1, 1))
    return Pack(rows, frac, unit, owner.astype(np.int32), np.zeros((1, 2), np.int32), np.zeros(1, dtype))


def inputs(dtype=np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Features of the sites and the context of the crystals."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 5)).astype(dtype), rng.normal(size=(3, 4)).astype(dtype)


def fresh(net=NET):
    return jax.device_get(jit(net.init)(jax.random.key(0), *inputs()))


def trained(net=NET):
    """Parameters away from their start, where the gates are shut."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda v: np.asarray(v + 0.3 * rng.normal(size=v.shape), v.dtype), fresh(net))


def test_no_site_sees_another_crystal():
    """Exactly: the same bits whatever stands in the others; within its crystal a site sees every other."""
    params, (x, context) = trained(), inputs()
    first = APPLY(params, x, context, pack(OWNER, 1))
    x = x + np.where(np.arange(7)[:, None] == 3, x, np.float32(0))  # new arrays: jax may still read the old ones
    context = context + np.float32([[0], [0], [1]])
    moved = np.abs(np.asarray(APPLY(params, x, context, pack(OWNER, 1))) - first)[:6].max(-1)
    assert (moved[OWNER[:6] == 0] == 0).all() and (moved[OWNER[:6] > 0] > 1e-3).all()


def test_sites_are_exchangeable():
    params, (x, context) = trained(), inputs()
    order = np.array([5, 3, 0, 4, 2, 1, 6])
    found = APPLY(params, x, context, pack(OWNER, 1))
    moved = APPLY(params, x[order], context, pack(OWNER[order], 1))
    np.testing.assert_allclose(moved, found[order], atol=2e-5)


def test_padding_answers_zero_and_changes_nothing():
    params, (x, context) = trained(), inputs()
    found = APPLY(params, x, context, pack(OWNER, 1))
    loud = APPLY(params, np.concatenate([x[:6], 1e3 + x[6:]]), context, pack(OWNER, 1))
    np.testing.assert_array_equal(found, loud)
    np.testing.assert_array_equal(found[6], 0)
    without = jit(NET.apply)(params, x[:6], context, pack(OWNER[:6], 0))
    np.testing.assert_allclose(found[:6], without, atol=2e-5)


def test_a_fresh_stack_is_the_identity():
    """Whatever the context and the other sites: the embedding, normalized and read out."""
    params, (x, context) = fresh(), inputs()
    embedded = x @ params["embed"]
    centered = embedded - embedded.mean(-1, keepdims=True)
    expected = centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-6) @ params["read"]
    for seen in (context, context + 3):
        np.testing.assert_allclose(APPLY(params, x, seen, pack(OWNER, 1))[:6], expected[:6], atol=2e-6)


def test_a_block_is_the_formula():
    """Written anew in NumPy, crystal by crystal, in float64."""
    net = site_transformer(3, width=8, layers=1, heads=2)
    p = jax.tree.map(lambda v: v.astype(np.float64), trained(net))
    w = {name: leaf[0] for name, leaf in p["blocks"].items()}

    def silu(h):
        return h / (1 + np.exp(-h))

    def gelu(h):
        return h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))

    def norm(h):
        h = h - h.mean(-1, keepdims=True)
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)

    def one(h, known):
        known = silu(silu(known @ p["context"] + p["context_bias"]) @ p["condition"] + p["condition_bias"])
        shift, scale, gate, shift_2, scale_2, gate_2 = np.split(known @ w["modulate"] + w["offset"], 6)
        h = h @ p["embed"] + p["embed_bias"]
        a = norm(h) * (1 + scale) + shift
        total = np.zeros_like(h)
        for k in range(2):
            scores = (a @ w["query"][:, k]) @ (a @ w["key"][:, k]).T / 2  # the root of 4 numbers a head
            weight = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            total += weight @ (a @ w["value"][:, k]) @ w["mix"][k]
        h = h + gate * total
        h = h + gate_2 * (gelu((norm(h) * (1 + scale_2) + shift_2) @ w["up"]) @ w["down"])
        shift, scale = np.split(known @ p["modulate"] + p["offset"], 2)
        return (norm(h) * (1 + scale) + shift) @ p["read"] + p["read_bias"]

    with jax.enable_x64(True):
        x, context = inputs(np.float64)
        found = jit(net.apply)(p, x, context, pack(OWNER, 1, np.float64))
        assert found.dtype == jnp.float64
        for crystal in range(3):
            sites = np.flatnonzero(OWNER[:6] == crystal)
            np.testing.assert_allclose(found[sites], one(x[sites], context[crystal]), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size, millions", [("S", 33), ("B", 130), ("L", 458)])
def test_the_sizes_are_those_of_the_paper(size, millions):
    """Peebles & Xie 2023, table 1 (S/2, B/2, L/2), which counts class labels (1 M) and biases too."""
    x, context = jnp.zeros((1, 8)), jnp.zeros((1, 256))
    params = jax.eval_shape(site_transformer(8, size=size).init, jax.random.key(0), x, context)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, rel=0.03)


def test_what_cannot_be_built_is_an_error():
    with pytest.raises(ValueError, match="size: 'XL'; expected one of S, B, L"):
        site_transformer(1, size="XL")
    with pytest.raises(ValueError, match="width: 10; expected a multiple of heads = 4"):
        site_transformer(1, width=10, heads=4)
