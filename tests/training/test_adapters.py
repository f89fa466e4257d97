"""Fine-tuning on parameter pytrees: it starts as the base bit for bit, and only the chosen part ever changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.training import adapters, loop
from crysjax.training.adapters import Columns


def base() -> dict:
    """A network by hand: 5 inputs (the last two a category), a stack of two layers, a read-out."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 3, jnp.float32)  # noqa: E731
    return {
        "context": {"kernel": draw(5, 16), "bias": draw(16)},
        "layers": {"kernel": draw(2, 16, 16), "bias": draw(2, 16)},
        "out": {"kernel": draw(16, 2)},
    }


def apply(params: dict, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ params["context"]["kernel"] + params["context"]["bias"][None])
    for kernel, bias in zip(params["layers"]["kernel"], params["layers"]["bias"]):
        h = h + jnp.tanh(h @ kernel + bias[None])
    return h @ params["out"]["kernel"]


WIDENED = {(5, 7): (2, 3)}


def wide() -> dict:
    """The same network, drawn anew with two more inputs before the category."""
    fresh = jax.tree.map(jnp.ones_like, base())
    return fresh | {"context": {"kernel": jnp.ones((7, 16)), "bias": jnp.ones(16)}}


def inputs(old: np.ndarray, new: np.ndarray) -> jax.Array:
    return jnp.asarray(np.concatenate([old[:, :2], new, old[:, 2:]], 1))


OLD, NEW = (np.random.default_rng(k).normal(size=(64, n)).astype(np.float32) for k, n in ((1, 5), (2, 2)))


def test_weights_are_copied_and_new_inputs_are_zero():
    start = adapters.warm_start(wide(), base(), WIDENED)
    assert start.new == {"context.kernel": Columns(0, (2, 3))} and start.fresh == ()
    kernel, old = np.asarray(start.params["context"]["kernel"]), np.asarray(base()["context"]["kernel"])
    np.testing.assert_array_equal(kernel[[0, 1, 4, 5, 6]], old)
    np.testing.assert_array_equal(kernel[[2, 3]], 0)


def test_before_the_first_step_it_is_the_base_bit_for_bit():
    """In dyadic fractions, whose sums are exact; else the order of a longer sum may change its last bit."""
    exact = dict(base())
    exact["context"] = jax.tree.map(lambda leaf: jnp.round(leaf * 64) / 64, exact["context"])
    old, new = (np.round(values * 16) / 16 for values in (OLD, NEW))
    start = adapters.warm_start(wide(), exact, WIDENED)
    np.testing.assert_array_equal(apply(start.params, inputs(old, new)), apply(exact, jnp.asarray(old)))
    start = adapters.warm_start(wide(), base(), WIDENED)
    blank = apply(start.params, inputs(OLD, np.zeros_like(NEW)))
    np.testing.assert_array_equal(apply(start.params, inputs(OLD, NEW)), blank)  # whatever the new inputs say
    np.testing.assert_allclose(blank, apply(base(), jnp.asarray(OLD)), atol=4e-6)  # 16 roundings of numbers up to 4


def test_what_does_not_agree_stays_as_it_was_drawn_and_is_named():
    fresh = wide() | {"extra": jnp.full(3, 7.0), "out": {"kernel": jnp.ones((16, 4))}}
    start = adapters.warm_start(fresh, base(), {(5, 8): (0, 1, 2)})  # not the change that is there
    assert start.fresh == ("context.kernel", "extra", "out.kernel") and start.new == {}
    np.testing.assert_array_equal(start.params["extra"], 7)
    np.testing.assert_array_equal(start.params["out"]["kernel"], 1)
    np.testing.assert_array_equal(start.params["layers"]["kernel"], base()["layers"]["kernel"])


def started() -> adapters.AdapterStart:
    return adapters.warm_start(wide(), base(), WIDENED)


MAKERS = {
    "condition": lambda s: adapters.condition(s.params, s.new),
    "lora": lambda s: adapters.lora(s.params, s.new, rank=2, scale=0.5),
    "lora of layers": lambda s: adapters.lora(s.params, {}, rank=2, kernels=["layers.*"]),
}
CHANGES = {
    "condition": {"context.kernel"}, "lora": {"context.kernel", "layers.kernel"}, "lora of layers": {"layers.kernel"},
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_merged_at_once_it_is_the_base_bit_for_bit(name):
    start = started()
    adapter = MAKERS[name](start)
    merged = adapter.merge(adapter.init(jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, merged, start.params)


def trained(adapter: adapters.Adapter, steps: int = 60) -> tuple[dict, float, float]:
    """The part after some steps of the one loop on a target that depends on the new inputs; loss before and after."""
    x = inputs(OLD, NEW)
    target = jnp.asarray(np.stack([NEW[:, 0] * OLD[:, 0], NEW[:, 1]], -1))

    def loss(params, key, x, y):
        return jnp.mean(jnp.square(apply(params, x) - y)), {}

    adapted = adapters.adapted(loss, adapter)
    optimizer = loop.adamw(learning_rate=0.02, steps=steps, weight_decay=0.0)
    part = adapter.init(jax.random.key(1))
    state = loop.initial(part, optimizer, jax.random.key(2))
    step = loop.make_step(adapted, optimizer, devices=jax.devices()[:1])
    before = float(adapted(part, None, x, target)[0])
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by integer step counts
        for _ in range(steps):
            state, _ = step(state, (x[None], target[None]))
    return state, before, float(adapted(state.params, None, x, target)[0])


@pytest.mark.parametrize("name", MAKERS)
def test_training_changes_the_chosen_leaves_alone(name):
    start = started()
    adapter = MAKERS[name](start)
    state, before, after = trained(adapter)
    assert after < 0.95 * before
    merged, names = adapter.merge(state.params), []
    for path, leaf in jax.tree_util.tree_leaves_with_path(merged):
        key = jax.tree_util.keystr(path, simple=True, separator=".")
        old = start.params
        for part in key.split("."):
            old = old[part]
        if not np.array_equal(leaf, old):
            names.append(key)
    assert set(names) == CHANGES[name]


def test_with_new_inputs_left_out_the_condition_adapter_is_the_base_after_training_too():
    start = started()
    adapter = adapters.condition(start.params, start.new)
    state, *_ = trained(adapter)
    merged = adapter.merge(state.params)
    nothing = inputs(OLD, np.zeros_like(NEW))
    np.testing.assert_array_equal(apply(merged, nothing), apply(start.params, nothing))
    assert not np.allclose(apply(merged, inputs(OLD, NEW)), apply(merged, nothing), atol=1e-3)


def test_the_merged_change_is_the_product_of_a_and_b():
    start = started()
    adapter = adapters.lora(start.params, start.new, rank=3, scale=0.7)
    rng = np.random.default_rng(3)  # the first step starts from B = 0
    part = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape), v.dtype), adapter.init(jax.random.key(3)))
    merged, change = adapter.merge(part), part["layers.kernel"]
    for layer in range(2):
        difference = np.asarray(merged["layers"]["kernel"][layer] - start.params["layers"]["kernel"][layer], float)
        expected = 0.7 * np.asarray(change["down"][layer], float) @ np.asarray(change["up"][layer], float)
        np.testing.assert_allclose(difference, expected, atol=2e-6)
        assert np.linalg.matrix_rank(difference, tol=1e-5) == 3
    assert "out.kernel" not in part  # 16 x 2 is smaller than 3 (16 + 2)


def test_gradients_of_the_part_follow_from_the_chain_rule():
    """d loss/dA = scale G B^T and d loss/dB = scale A^T G, with G the gradient of the whole kernel."""
    start = started()
    adapter = adapters.lora(start.params, {}, rank=2, scale=0.5, kernels=["layers.*"])
    part = jax.tree.map(lambda leaf: leaf + 0.1, adapter.init(jax.random.key(4)))
    loss = lambda params: jnp.sum(jnp.sin(apply(params, inputs(OLD, NEW))))  # noqa: E731
    found = jax.grad(lambda p: loss(adapter.merge(p)))(part)["layers.kernel"]
    whole = jax.grad(loss)(adapter.merge(part))["layers"]["kernel"]
    change = part["layers.kernel"]
    np.testing.assert_allclose(found["down"], 0.5 * whole @ change["up"].swapaxes(1, 2), rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(found["up"], 0.5 * change["down"].swapaxes(1, 2) @ whole, rtol=2e-4, atol=1e-5)


def test_the_optimizer_holds_moments_of_the_part_alone():
    start = started()
    adapter = adapters.lora(start.params, start.new, rank=2)
    part = adapter.init(jax.random.key(0))
    # context 2 (7 + 16) and its 2 x 16 new inputs, and two layers of 2 (16 + 16)
    assert adapters.count(part) == 2 * 23 + 32 + 2 * 64
    moments = optax.adam(1e-3).init(part)
    assert adapters.count(moments) == 2 * adapters.count(part) + 1


def test_float64_is_kept():
    with jax.enable_x64(True):
        start = started()
        double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), start.params)
        adapter = adapters.lora(double, start.new, rank=2)
        merged = adapter.merge(adapter.init(jax.random.key(0)))
        assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {np.dtype("float64")}
        jax.tree.map(np.testing.assert_array_equal, merged, double)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: adapters.condition(p, {}), "no new property"),
        (lambda p: adapters.lora(p, {}, rank=0), "rank: 0"),
        (lambda p: adapters.lora(p, {}, scale=0.0), "scale: 0"),
        (lambda p: adapters.lora(p, {}, kernels=["layer"]), r"kernels: \['layer'\]; no kernel"),
        (lambda p: adapters.lora(p, {}, rank=16), "larger than its change of rank 16"),
    ],
)
def test_settings_that_train_nothing_are_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make(base())
