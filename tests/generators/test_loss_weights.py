"""Every weight of a loss counts as what it says: the loss is a sum of its parts, each times its own weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.generators.continuous_flow import continuous_flow
from crysjax.generators.iterative import iterative
from crysjax.generators.vae import Noise, vae
from crysjax.generators.vq_vae import vq_vae

SMALL = dict(latent=2, hidden=8)


def made(family: str, prototypes, **weights):
    if family == "continuous_flow":
        return continuous_flow(prototypes.NETWORK, steps=2, probes=1, width=8, max_sites=2, **weights)
    maker = {"iterative": iterative, "vae": vae, "vq_vae": vq_vae}[family]
    settings = SMALL if family == "vae" else {}
    return maker(prototypes.NETWORK, **prototypes.SETTINGS | {"known_fraction": 0.5}, **settings, **weights)


@pytest.mark.parametrize("family", ["iterative", "vae", "vq_vae", "continuous_flow"])
@pytest.mark.parametrize("field", ["frac", "lattice", "species"])
def test_a_weight_counts_the_error_of_its_own_field(family, field, prototypes):
    """Raising one weight by 4 adds 4 of that error and nothing else; metrics name it (continuous flows: weighted)."""
    pack, key = prototypes.draw(jax.random.key(0))[0], jax.random.key(1)
    base = {"frac_weight": 2.0, "lattice_weight": 3.0, "species_weight": 0.5}
    name = f"{field}_weight"
    one, other = (made(family, prototypes, **w) for w in (base, base | {name: base[name] + 4}))
    params = prototypes.jit(one.init)(jax.random.key(2), pack, prototypes.nothing())

    def both(params):
        return one.loss(params, key, pack, prototypes.nothing()), other.loss(params, key, pack, prototypes.nothing())

    (low, metrics), (high, _) = prototypes.jit(both)(params)
    error = metrics[field] / (base[name] if family == "continuous_flow" else 1)
    assert float(error) > 1e-3
    np.testing.assert_allclose(high - low, 4 * error, rtol=1e-3, atol=1e-4)


def test_a_vae_decodes_a_draw_of_its_prior_with_the_priors_mean_and_deviation(prototypes):
    """A prior of N(1, 2^2), set by hand, and noise w decode as N(0, 1) and noise 1 + 2 w do."""
    generator = vae(prototypes.NETWORK, **prototypes.SETTINGS | {"steps": 2}, **SMALL)
    pack, asked = prototypes.draw(jax.random.key(0))[0], prototypes.nothing()
    params = prototypes.jit(generator.init)(jax.random.key(1), pack, asked)
    rng = np.random.default_rng(2)  # read-outs start at zero, where no latent is heard
    params = jax.tree.map(lambda v: jnp.asarray(v + 0.3 * rng.normal(size=v.shape), v.dtype), jax.device_get(params))
    raw = 6 * np.arctanh(np.log(2) / 6)  # what `LOG_STD_REACH tanh(raw / LOG_STD_REACH)` makes log 2 of

    def decoded(mean: float, raw: float, latent):
        last = {"second": params["prior"]["second"] * 0, "second_bias": jnp.array([mean, mean, raw, raw], jnp.float32)}
        changed = params | {"prior": params["prior"] | last}
        return decode(changed, jax.random.key(3), noise._replace(latent=latent), pack, asked).lattice

    decode, noise = prototypes.jit(generator.decode), generator.noise(jax.random.key(4), pack)
    assert isinstance(noise, Noise)
    w = noise.latent
    wide, plain = decoded(1.0, float(raw), w), decoded(0.0, 0.0, 1 + 2 * w)
    np.testing.assert_allclose(wide, plain, rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(wide - decoded(0.0, 0.0, w)).max()) > 1e-3  # the latent is heard
