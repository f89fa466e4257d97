"""What each guidance that a plan can name does, on a generator whose steered law is known in closed form.

The lattice coordinates z of a crystal are its noise, with a standard normal law, and the energy is |z - 3|² / 2. The
law p(z) exp(-s E(z)) is then normal with mean 3 s / (1 + s) and variance 1 / (1 + s), and its mode is its mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crysjax.base import Condition, Generator, Pack
from crysjax.campaign.guide import GUIDANCES

CRYSTALS, STRENGTH = 400, 2.0
MEAN, STD = 3 * STRENGTH / (1 + STRENGTH), 1 / np.sqrt(1 + STRENGTH)


class Noise(NamedTuple):
    frac: Array  # (n, 3)
    lattice: Array  # (b, 6)


def toy() -> tuple[Generator, list[int]]:
    """A generator that hands its noise on (as the lattice's diagonal), and a list of its decodes."""
    decoded: list[int] = []

    def noise(key, template):
        keys = jax.random.split(key)
        return Noise(jax.random.uniform(keys[0], template.frac.shape), jax.random.normal(keys[1], (CRYSTALS, 6)))

    def decode(params, key, noise, template, condition):
        jax.debug.callback(lambda: decoded.append(1))
        lattice = noise.lattice[:, :3, None] * jnp.eye(3)[None]
        return template._replace(frac=noise.frac, lattice=lattice)

    def sample(params, key, template, condition):
        first, rest = jax.random.split(key)
        return decode(params, rest, noise(first, template), template, condition)

    return Generator(None, None, noise, decode, sample), decoded


def energy(pack: Pack) -> Array:
    return 0.5 * jnp.square(jnp.diagonal(pack.lattice, axis1=1, axis2=2) - 3).sum(-1)


def steered(guidance: str, *, weighed: bool = False, **settings) -> tuple[np.ndarray, Pack, int]:
    """The diagonal of each crystal's lattice, the pack (with `weighed` also effective numbers), and the decodes."""
    made = GUIDANCES[guidance](**({} if guidance == "none" else {"strength": STRENGTH} | settings))
    generator, decoded = toy()
    template = Pack(
        jnp.ones((CRYSTALS, 1)), jnp.zeros((CRYSTALS, 3)), jnp.zeros((CRYSTALS, 3, 3)),
        jnp.arange(CRYSTALS, dtype=jnp.int32), jnp.zeros((1, 2), jnp.int32), jnp.zeros(1),
    )  # fmt: skip
    nothing = Condition(jnp.zeros((CRYSTALS, 0)), jnp.zeros(CRYSTALS, jnp.int32))
    way = made.guide(generator)(energy)
    drawn = jax.jit(way.weighed if weighed else way.sample)(None, jax.random.key(0), template, nothing)
    jax.effects_barrier()
    assert len(decoded) == made.draws  # what the ledger counts as samples of the generator
    return np.diagonal((drawn[0] if weighed else drawn).lattice, axis1=1, axis2=2), drawn, len(decoded)


@pytest.mark.parametrize("guidance", ["none", "resample", "sgld"])
def test_effective_numbers_come_with_the_same_crystals(guidance):
    settings = {"steps": 4} | ({"rate": 0.05} if guidance == "sgld" else {})
    plain, _, _ = steered(guidance, **settings)
    again, (_, effective), _ = steered(guidance, weighed=True, **settings)
    np.testing.assert_array_equal(plain, again)
    if guidance != "resample":
        assert np.isnan(effective).all()
        return
    particles = np.random.default_rng(0).normal(size=(20_000, 4, 3))
    weight = np.exp(-STRENGTH * 0.5 * np.square(particles - 3).sum(-1))
    expected = np.square(weight.sum(1)) / np.square(weight).sum(1)
    assert abs(effective.mean() - expected.mean()) < 5 * expected.std() / np.sqrt(CRYSTALS)
    assert (effective >= 1).all() and (effective <= 4).all()


def test_none_is_the_generator_itself():
    z, _, decodes = steered("none")
    error = 1 / np.sqrt(z.size)
    assert decodes == 1 and abs(z.mean()) < 4 * error and abs(z.std() - 1) < 4 * error


@pytest.mark.parametrize("pool", [2, 50])
def test_resampling_picks_from_its_pool_as_numpy_does(pool):
    z, _, decodes = steered("resample", steps=pool)
    rng = np.random.default_rng(0)
    particles = rng.normal(size=(20_000, pool, 3))
    score = -STRENGTH * 0.5 * np.square(particles - 3).sum(-1) + rng.gumbel(size=(20_000, pool))
    picked = particles[np.arange(20_000), score.argmax(-1)].mean(-1)  # one of each pool, by exp(-s E)
    assert decodes == pool
    error = picked.std() * np.sqrt(1 / len(z) + 1 / len(picked))
    assert abs(z.mean() - picked.mean()) < 4 * error


def test_descent_ends_at_the_mode():
    z, pack, decodes = steered("gradient", steps=300, rate=0.05)
    assert decodes == 301
    np.testing.assert_allclose(z, MEAN, atol=0.01)
    assert ((pack.frac >= 0) & (pack.frac < 1)).all()


@pytest.mark.parametrize("guidance", ["sgld", "psgld"])
def test_langevin_samples_the_tilted_law(guidance):
    rate, steps = (0.05, 200) if guidance == "sgld" else (0.02, 800)  # psgld begins slowly where the slope is large
    z, pack, decodes = steered(guidance, steps=steps, rate=rate)
    assert decodes == steps + 1
    error = STD / np.sqrt(z.size)
    assert abs(z.mean() - MEAN) < 5 * error + 0.02
    # at a finite step h the variance is 1 / (λ (1 - h λ / 2)) with λ = 1 + s; psgld's metric adds a bias of its own
    expected = STD / np.sqrt(1 - rate * (1 + STRENGTH) / 2) if guidance == "sgld" else STD
    assert z.std() == pytest.approx(expected, rel=0.06 if guidance == "sgld" else 0.25)
    frac = np.asarray(pack.frac)
    assert ((frac >= 0) & (frac < 1)).all()
    assert abs(frac.mean() - 0.5) < 5 / np.sqrt(12 * frac.size)  # no energy speaks of it: uniform on the torus still


def test_no_strength_leaves_the_law_of_the_generator():
    z, _, _ = steered("gradient", strength=0.0, steps=200, rate=0.05)
    np.testing.assert_allclose(z, 0, atol=0.01)  # the mode of the noise
    z, _, _ = steered("resample", strength=0.0, steps=3)
    assert abs(z.mean()) < 4 / np.sqrt(z.size) and abs(z.std() - 1) < 4 / np.sqrt(z.size)
