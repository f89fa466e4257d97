"""A generator in closed form: one site and a log-volume, both Gaussian, so that quadratic energies tilt it exactly."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Condition, Generator, Pack, one_hot

FRAC_STD = 0.08  # of each fraction about 0.5: so narrow that wrapping never matters
VOLUME_MEAN, VOLUME_STD = 4.0, 0.3  # of log(volume / Å³)


class Noise(NamedTuple):
    frac: jax.Array  # (n, 3) standard normal
    lattice: jax.Array  # (b, 1) standard normal


def generator() -> Generator:
    """Cubic cells with one site; decoding is a fixed affine map followed by a wrap and an exponential."""

    def noise(key, template):
        key_frac, key_lattice = jax.random.split(key)
        crystals = template.lattice.shape[0]
        return Noise(jax.random.normal(key_frac, template.frac.shape), jax.random.normal(key_lattice, (crystals, 1)))

    def decode(params, key, noise, template, condition):
        edge = jnp.exp((VOLUME_MEAN + VOLUME_STD * noise.lattice[:, 0]) / 3)
        frac = (0.5 + FRAC_STD * noise.frac) % 1
        return template._replace(frac=frac, lattice=edge[:, None, None] * jnp.eye(3)[None])

    def sample(params, key, template, condition):
        return decode(params, key, noise(key, template), template, condition)

    return Generator(lambda *_: {}, lambda *_: (jnp.zeros(()), {}), noise, decode, sample)


def template(crystals: int) -> tuple[Pack, Condition]:
    """`crystals` slots of one site each."""
    owner = jnp.arange(crystals, dtype=jnp.int32)
    lattice = jnp.tile(jnp.eye(3), (crystals, 1, 1))
    pairs = jnp.zeros((1, 2), jnp.int32)
    pack = Pack(one_hot(jnp.full(crystals, 6)), jnp.zeros((crystals, 3)), lattice, owner, pairs, jnp.zeros(1))
    return pack, Condition(jnp.zeros((crystals, 0)), jnp.zeros(crystals, jnp.int32))


def log_volume(pack: Pack) -> jax.Array:
    return 3 * jnp.log(pack.lattice[:, 0, 0])


def energy(pack: Pack) -> jax.Array:
    """Volumes near exp(4.5) and x near 0.6 (an energy of the two at once, with an interaction)."""
    volume, x = log_volume(pack), pack.frac[:, 0]
    return 6 * (volume - 4.5) ** 2 + 60 * (x - 0.6) ** 2 + 20 * (volume - 4.5) * (x - 0.6)


def exact_moments() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (log-volume, x) under the tilt: a product of Gaussians is a Gaussian."""
    prior = np.diag([VOLUME_STD**-2, FRAC_STD**-2])
    tilt = np.array([[12.0, 20.0], [20.0, 120.0]])
    covariance = np.linalg.inv(prior + tilt)
    return covariance @ (prior @ [VOLUME_MEAN, 0.5] + tilt @ [4.5, 0.6]), covariance


def coordinates(pack: Pack) -> np.ndarray:
    return np.stack([log_volume(pack), pack.frac[:, 0]], -1).astype(np.float64)


@pytest.fixture(scope="session")
def toys() -> SimpleNamespace:
    """Everything above, for the tests of this folder."""
    return SimpleNamespace(**{k: v for k, v in globals().items() if not k.startswith("_")})
