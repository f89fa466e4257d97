"""The training loop: exact resume, devices, accumulation, and a stop that keeps what is good."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.models import checkpoint
from crysjax.training import loop


@pytest.fixture(autouse=True)
def optax_promotes():
    """optax itself multiplies floats by integer step counts, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


WEIGHT = np.array([1.0, -2.0, 0.5], np.float32)


def loss(params, key, x, y):
    noise = 0.01 * jax.random.normal(key, y.shape)
    error = x @ params["w"] + params["b"] - y - noise
    return jnp.mean(jnp.square(error)), {"size": jnp.abs(params["w"]).sum()}


def stream(step: int):
    while True:
        rng = np.random.default_rng(step)
        x = rng.normal(size=(8, 16, 3)).astype(np.float32)
        yield x, x @ WEIGHT + 0.3
        step += 1


def start() -> tuple[loop.TrainingState, optax.GradientTransformation]:
    optimizer = loop.adamw(learning_rate=0.05, steps=40, warmup=4)
    return loop.initial({"w": jnp.zeros(3), "b": jnp.zeros(())}, optimizer, jax.random.key(7)), optimizer


def bits(state) -> list:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_it_learns_a_line_and_logs_it(tmp_path):
    optimizer = loop.adamw(learning_rate=0.1, steps=200)
    state = loop.initial(start()[0].params, optimizer, jax.random.key(7))
    state = loop.fit(state, loop.make_step(loss, optimizer), stream, tmp_path, steps=200, log_every=100)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [100, 200]
    # the injected noise of 0.01 is all that may be left, over 8 x 16 draws per step
    np.testing.assert_allclose(state.params["w"], WEIGHT, atol=0.02)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    state, optimizer = start()
    step = loop.make_step(loss, optimizer)
    whole = loop.fit(state, step, stream, tmp_path / "whole", steps=30, save_every=10)
    state, _ = start()
    loop.fit(state, step, stream, tmp_path / "parts", steps=17, save_every=10)
    state, _ = start()
    resumed = loop.fit(state, step, stream, tmp_path / "parts", steps=30, save_every=10)
    assert int(resumed.step) == 30 and bits(resumed) == bits(whole)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    state, _ = start()
    x, y = next(stream(0))

    def quiet(params, key, x, y):
        return jnp.mean(jnp.square(x @ params["w"] - y)), {}

    step = loop.make_step(quiet, optax.sgd(1.0))
    moved, metrics = step(loop.initial(state.params, optax.sgd(1.0), jax.random.key(0)), (x, y))
    flat_x, flat_y = x.reshape(-1, 3), y.reshape(-1)
    start_point = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    value, gradient = jax.value_and_grad(lambda p: quiet(p, None, flat_x, flat_y)[0])(start_point)
    np.testing.assert_allclose(moved.params["w"], -gradient["w"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch_and_the_last_good_state(tmp_path):
    state, optimizer = start()

    def poisoned(first: int):
        for k, (x, y) in zip(range(first, 1000), stream(first)):
            yield x, np.full_like(y, np.nan) if k == 13 else y

    with pytest.raises(loop.NonFiniteLoss, match="step 14"):
        loop.fit(state, loop.make_step(loss, optimizer), poisoned, tmp_path, steps=30, save_every=5)
    saved = np.load(tmp_path / "bad_batch.npz")
    assert np.isnan(saved["leaf_1"]).all() and saved["leaf_0"].shape == (8, 16, 3)
    state, _ = start()
    good = checkpoint.restore(tmp_path, state)
    assert int(good.step) == 10 and np.isfinite(good.params["w"]).all()


def test_a_bad_step_leaves_the_state_as_it_was():
    state, optimizer = start()
    step = loop.make_step(loss, optimizer)
    x, y = next(stream(0))
    state, _ = step(state, (x, y))
    before = bits(state)
    state, metrics = step(state, (x, np.full_like(y, np.inf)))
    assert not np.isfinite(metrics["loss"]) and bits(state) == before


DEVICES = """
import sys
sys.path.insert(0, {folder!r})
import jax, numpy as np, test_loop as t
from crysjax.training import loop
assert len(jax.devices()) == 8
for devices in (jax.devices()[:1], jax.devices()):
    state, optimizer = t.start()
    step = loop.make_step(t.loss, optimizer, devices=devices)
    for batch, _ in zip(t.stream(0), range(10)):
        state, metrics = step(state, batch)
    print(*np.asarray(state.params["w"]).tolist(), float(metrics["loss"]))
"""


def test_eight_devices_train_as_one_does(request):
    code = DEVICES.format(folder=str(request.path.parent))
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    one, eight = (np.array(line.split(), float) for line in run.stdout.splitlines())
    # the same draws and the same sum in another order: float32 rounding over ten steps
    np.testing.assert_allclose(eight, one, rtol=2e-5)


@pytest.mark.parametrize("warmup", [10, 200])  # no more than a tenth of the steps
def test_the_schedule_warms_up_and_decays(warmup):
    optimizer = loop.adamw(learning_rate=3e-3, steps=100, warmup=warmup, final_fraction=0.1)
    params = {"w": jnp.zeros(())}
    state, rates = optimizer.init(params), []
    for _ in range(121):  # of a constant gradient, Adam's corrected moments are it and its square: a step is the rate
        update, state = optimizer.update({"w": jnp.full((), 0.5)}, state, params)
        rates.append(-float(update["w"]))
    # straight up to the peak, then 0.1 + 0.9 (1 + cos x) / 2 of it, at x of 0, a third, a half and a whole turn of pi
    at, share = [0, 5, 10, 40, 55, 100, 120], [0, 0.5, 1, 0.775, 0.55, 0.1, 0.1]
    # 1 - 0.99^t in float32 is off by up to 6e-8 of 0.01 at first
    np.testing.assert_allclose(np.array(rates)[at], 3e-3 * np.array(share), rtol=2e-5)
